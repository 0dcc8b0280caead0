//! `GET /roles/{account}/{kind}/{id}?graph`: every grant above and below this role, as far as the
//! caller sees the granted role.

use std::collections::{BTreeSet, HashSet};

use conclave_domain::id::RoleId;
use conclave_domain::rbac;
use conclave_domain::state::State;
use serde_json::{Value, json};

use super::describe;
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let role = describe(call, "role", "graph")?;
    let edges = call
        .view(|view, caller| {
            authz::require_visible(view.state, &caller.role, &role)?;
            let mut edges = edges(view.state, &role);
            edges.retain(|(parent, _)| rbac::is_visible(view.state, &caller.role, parent));
            Ok(edges)
        })
        .await?;
    let edges: Vec<Value> = edges
        .into_iter()
        .map(|(parent, child)| json!({"parent": parent.to_string(), "child": child.to_string()}))
        .collect();
    Ok(Answer::json(&edges))
}

/// One grant on the way: parent, child, and which of them to go on from.
type Step = (RoleId, RoleId, RoleId);

/// Grants from a parent (the role held) to a child (who holds it).
fn edges(state: &State, role: &RoleId) -> BTreeSet<(RoleId, RoleId)> {
    let mut edges = BTreeSet::new();
    let mut walk = |next: &dyn Fn(&RoleId) -> Vec<Step>| {
        let mut seen = HashSet::from([role.clone()]);
        let mut pending = vec![role.clone()];
        while let Some(at) = pending.pop() {
            for (parent, child, onward) in next(&at) {
                edges.insert((parent, child));
                if seen.insert(onward.clone()) {
                    pending.push(onward);
                }
            }
        }
    };
    walk(&|at| {
        let rows = state.memberships(at).into_iter();
        rows.map(|(key, _)| (key.role.clone(), key.member, key.role)).collect()
    });
    walk(&|at| {
        let rows = state.members(at).into_iter();
        rows.map(|(key, _)| (key.role, key.member.clone(), key.member)).collect()
    });
    edges
}
