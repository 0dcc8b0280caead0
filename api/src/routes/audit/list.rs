//! `GET /audit[/resources|/roles|/entities/{full id}]`: records of the caller's account, the newest
//! first, as far as one request may search.
//!
//! For whoever may `read` the account's webservice `conjur/audit`, since records tell of everybody.

use conclave_domain::audit::AuditHead;
use conclave_domain::id::{AccountName, Id, Kind};
use conclave_domain::rbac::Permit;
use conclave_storage::{Fault, StateStore};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::audit::Kept;
use crate::authz;
use crate::context::{Answer, Call};
use crate::error::Refusal;
use crate::wire::query::Query;

/// The webservice that stands for an account's records.
const WEBSERVICE: &str = "conjur/audit";
/// Number of the oldest record that was looked at: searching on is asked for with `before`.
const SEARCHED_FROM: HeaderName = HeaderName::from_static("x-conclave-audit-from");

/// Records shown at once at most, and where nothing is said.
const LIMIT_MAX: usize = 1000;
/// Records looked at for one request.
const SEARCHED_MAX: u64 = 20_000;
/// Records read at once.
const PAGE: u64 = 256;
/// What follows the name of a structured data element.
const PEN: &str = "@43868";

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let user = call.user();
    let query = call.query.iter();
    let subject = query.map(|(name, value)| (name.to_owned().into(), value.to_owned())).collect();
    let about = call.params.identifier.clone();
    call.deed(
        "audit",
        "list",
        subject,
        format!("{user} successfully listed audit records"),
        format!("{user} failed to list audit records"),
    );
    let account = call.caller()?.account.clone();
    let search = Search::of(account.clone(), call.route.name, about, &call.query)?;
    let (permit, head) = call
        .view(|view, caller| {
            let webservice = Id::new(account.clone(), Kind::Webservice, WEBSERVICE)
                .map_err(|_too_long| Refusal::UNROUTED)?;
            let permit = authz::require(view.state, &caller.role, "read", &webservice)?;
            Ok((permit, view.state.audit_head()))
        })
        .await?;
    let state = call.door.state.clone();
    let found = tokio::task::spawn_blocking(move || search.run(&state, head, &permit)).await;
    let (from, found) = match found {
        Ok(Ok(found)) => found,
        Ok(Err(fault)) => return Err(Refusal::Fault(format!("the audit chain: {fault}"))),
        Err(error) => return Err(Refusal::Fault(format!("searching the audit chain: {error}"))),
    };
    // "Nothing" is said only of what was searched whole.
    if found.is_empty() && from <= head.first {
        return Err(Refusal::Empty(StatusCode::NOT_FOUND));
    }
    Ok(Answer::json(&found).header(SEARCHED_FROM, HeaderValue::from(from)))
}

/// What is looked for.
struct Search {
    account: AccountName,
    /// Parts that must have a value.
    parts: Vec<(String, String)>,
    facility: Option<u8>,
    severity: Option<u8>,
    about: Option<About>,
    before: Option<u64>,
    limit: usize,
    offset: usize,
}

/// Whom or what records are about.
enum About {
    Resource(String),
    Role(String),
    Entity(String),
}

impl Search {
    fn of(
        account: AccountName,
        route: &str,
        about: Option<String>,
        query: &Query,
    ) -> Result<Self, Refusal> {
        let number = |name: &'static str| match query.filled(name) {
            None => Ok(None),
            Some(text) => text.trim().parse::<u64>().map(Some).map_err(|_no_number| {
                Refusal::Argument(format!(
                    "'{name}' contains an invalid value. '{name}' must be a whole number."
                ))
            }),
        };
        let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let limit = number("limit")?.map_or(LIMIT_MAX, size);
        if limit == 0 || limit > LIMIT_MAX {
            return Err(Refusal::Argument(format!("'limit' must be 1 to {LIMIT_MAX}")));
        }
        let is_part = |name: &str| {
            matches!(name, "hostname" | "appname" | "procid" | "msgid") || name.contains(PEN)
        };
        let parts = query.iter().filter(|(name, _)| is_part(name));
        let about = about.map(|id| match route {
            "audit.resources" => About::Resource(id),
            "audit.roles" => About::Role(id),
            _ => About::Entity(id),
        });
        Ok(Self {
            account,
            parts: parts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            facility: number("facility")?.map(small),
            severity: number("severity")?.map(small),
            about,
            before: number("before")?,
            limit,
            offset: number("offset")?.map_or(0, size),
        })
    }

    /// Searches from the newest record to the oldest; gives the number of the last one looked at, too.
    fn run(
        &self,
        state: &StateStore,
        head: AuditHead,
        _may: &Permit,
    ) -> Result<(u64, Vec<Value>), Fault> {
        let end = self.before.map_or(head.last + 1, |before| before.min(head.last + 1));
        let stop = head.first.max(end.saturating_sub(SEARCHED_MAX));
        let (mut next, mut skip, mut found) = (end.max(stop), self.offset, Vec::new());
        while next > stop {
            let from = stop.max(next.saturating_sub(PAGE));
            let count = usize::try_from(next - from).unwrap_or(0);
            let records = state.audit_records(from, count, usize::MAX)?;
            for (number, record) in records.into_iter().rev() {
                next = number;
                let Some(kept) = Kept::from_text(&record.text) else { continue };
                if !self.is_of_account(&kept) || !self.is_about(&kept) {
                    continue;
                }
                let document = document(&kept, record.node, record.sequence, number);
                if !self.has_parts(&document) {
                    continue;
                }
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                found.push(document);
                if found.len() == self.limit {
                    return Ok((next, found));
                }
            }
            next = from;
        }
        Ok((next, found))
    }

    /// Whether somebody or something of the account has a part in it.
    fn is_of_account(&self, kept: &Kept) -> bool {
        let account = self.account.as_str();
        let is_of = |id: &str| id.strip_prefix(account).is_some_and(|rest| rest.starts_with(':'));
        kept.user.as_deref().is_some_and(is_of)
            || kept
                .subject
                .iter()
                .any(|(name, value)| is_of(value) || name == "account" && value == account)
    }

    fn is_about(&self, kept: &Kept) -> bool {
        let has = |names: &[&str], id: &str| {
            kept.subject.iter().any(|(name, value)| names.contains(&name.as_str()) && value == id)
        };
        let is_about = match &self.about {
            None => true,
            Some(About::Resource(id)) => has(&["resource"], id),
            Some(About::Role(id)) => has(&["role", "member", "owner"], id),
            Some(About::Entity(id)) => {
                kept.user.as_ref() == Some(id) || kept.subject.iter().any(|(_, value)| value == id)
            }
        };
        let is = |wanted: Option<u8>, number: u8| wanted.is_none_or(|wanted| wanted == number);
        is_about && is(self.facility, kept.priority / 8) && is(self.severity, kept.priority % 8)
    }

    fn has_parts(&self, document: &Value) -> bool {
        self.parts.iter().all(|(name, wanted)| {
            let value = match name.split_once('/') {
                Some((element, parameter)) => &document["sdata"][element][parameter],
                None => &document[name],
            };
            value.as_str() == Some(wanted)
        })
    }
}

/// A record as the audit engine of Conjur shows it, and where it stands in the chain.
fn document(kept: &Kept, node: u64, sequence: u64, number: u64) -> Value {
    let mut sdata = Map::new();
    let mut element = |name: &str, pairs: &[(&str, Option<&str>)]| {
        let pairs = pairs.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        let pairs: Map<String, Value> =
            pairs.map(|(name, value)| (name.to_owned(), value.into())).collect();
        sdata.insert(format!("{name}{PEN}"), pairs.into());
    };
    let subject: Vec<_> =
        kept.subject.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))).collect();
    element("subject", &subject);
    element(
        "auth",
        &[
            ("user", kept.user.as_deref()),
            ("authenticator", kept.authenticator.as_deref()),
            ("service", kept.service.as_deref()),
        ],
    );
    element("client", &[("ip", Some(&kept.client_ip))]);
    element("action", &[("result", Some(&kept.result)), ("operation", Some(&kept.operation))]);
    if let Some(policy) = &kept.policy {
        let version = policy.version.to_string();
        element("policy", &[("id", Some(&policy.id)), ("version", Some(&version))]);
    }
    let place = [("node", node), ("sequence", sequence), ("number", number)];
    let place = place.map(|(name, number)| (name, number.to_string()));
    let place: Vec<_> = place.iter().map(|(name, text)| (*name, Some(text.as_str()))).collect();
    element("meta", &place);
    json!({
        "facility": kept.priority / 8,
        "severity": kept.priority % 8,
        "timestamp": kept.at,
        "appname": "conjur",
        "procid": kept.request_id,
        "msgid": kept.msgid,
        "sdata": sdata,
        "message": kept.message,
    })
}
