//! `GET /policies/{account}/policy/{id}`: the policy in force, for whoever owns it, as YAML or, when
//! the request's own `Content-Type` asks for it, as JSON.

use conclave_domain::policy::effective::{Bounds, Node, effective, to_yaml};
use conclave_domain::rbac;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value};

use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::query::Query;

/// The media type of policies.
const YAML: HeaderValue = HeaderValue::from_static("application/x-yaml");

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let target = call.id()?;
    let user = call.user();
    let mut parameters = vec![
        ("account".to_owned(), target.account().to_string()),
        ("kind".to_owned(), target.kind().to_string()),
        ("identifier".to_owned(), target.identifier().to_owned()),
    ];
    parameters.extend(
        (call.query.iter())
            .filter(|(name, _)| matches!(*name, "depth" | "limit"))
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let shown: Vec<String> =
        parameters.iter().map(|(name, value)| format!(":{name}=>{value:?}")).collect();
    let shown = shown.join(", ");
    call.deed(
        "policy",
        "read",
        parameters.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        format!("{user} readed {{{shown}}}"),
        format!("{user} failed to read {{{shown}}}"),
    );
    let wants_json = call.header(CONTENT_TYPE.as_str()) == Some("application/json");
    let query = call.query.clone();
    let most = call.door.settings().effective_policy_max;
    let nodes = call
        .view(|view, caller| {
            let state = view.state;
            authz::require_visible(state, &caller.role, &target)?;
            let owner = state.resource(&target).map(|resource| &resource.owner);
            if !owner.is_some_and(|owner| rbac::holds(state, &caller.role, owner)) {
                return Err(Refusal::FORBIDDEN);
            }
            let bounds = bounds(&query, most)?;
            effective(state, &target, bounds)
                .map_err(|exceeded| Refusal::Unprocessable(exceeded.to_string()))
        })
        .await?;
    Ok(if wants_json {
        Answer::json(&Value::Array(nodes.iter().map(json).collect()))
    } else {
        Answer { content_type: Some(YAML), ..Answer::text(to_yaml(&nodes)) }
    })
}

/// `depth` and `limit`, within what is allowed at most.
fn bounds(query: &Query, most: Bounds) -> Result<Bounds, Refusal> {
    let number = |name: &str, most: usize| match query.value(name) {
        None => Ok(most),
        Some(text) => (text.trim().parse::<usize>().ok())
            .filter(|number| *number <= most)
            .ok_or(Refusal::Empty(StatusCode::BAD_REQUEST)),
    };
    Ok(Bounds { depth: number("depth", most.depth)?, rows: number("limit", most.rows)? })
}

fn json(node: &Node) -> Value {
    match node {
        Node::Text(text) => Value::String(text.clone()),
        Node::Flag(flag) => Value::Bool(*flag),
        Node::Words(words) => Value::Array(words.iter().cloned().map(Value::String).collect()),
        Node::List(items) => Value::Array(items.iter().map(json).collect()),
        Node::Fields(fields) => Value::Object(
            fields.iter().map(|(name, field)| (name.to_string(), json(field))).collect(),
        ),
        Node::Tagged(tag, inner) => {
            Value::Object(Map::from_iter([((*tag).to_owned(), json(inner))]))
        }
    }
}
