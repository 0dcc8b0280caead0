//! One audit record and its two texts.

use std::borrow::Cow;
use std::fmt::Write as _;

use conclave_domain::time::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::wire::time;

/// The private enterprise number in structured data element names.
const PEN: &str = "43868";

/// How the decision went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was allowed, and done.
    Success,
    /// It was refused, or failed.
    Failure,
}

impl Outcome {
    /// The word in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// Syslog severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A refusal or failure.
    Warning,
    /// A change of policy.
    Notice,
    /// Anything else that was allowed.
    Info,
}

impl Severity {
    const fn code(self) -> u8 {
        match self {
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
        }
    }
}

/// What was decided, for whom and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, by the clock of the node that decided.
    pub at: Timestamp,
    /// The request's id, or the process id where there was none.
    pub request_id: String,
    /// The kind of record: `authn`, `fetch`, `policy`, …
    pub message_id: &'static str,
    /// What was asked.
    pub operation: Cow<'static, str>,
    /// How it went.
    pub outcome: Outcome,
    /// How much it matters.
    pub severity: Severity,
    /// Full id of the acting role; `not-found` where the attempted one does not exist.
    pub user: Option<String>,
    /// The authenticator, in records of authentication.
    pub authenticator: Option<String>,
    /// Its service, where it has one.
    pub service: Option<String>,
    /// What it was done to.
    pub subject: Vec<(Cow<'static, str>, String)>,
    /// The client's address.
    pub client_ip: String,
    /// Policy id and version, in records of a policy change.
    pub policy: Option<(String, u32)>,
    /// The whole sentence.
    pub message: String,
}

impl Record {
    /// The syslog priority: facility and severity.
    pub fn priority(&self) -> u8 {
        let facility = if self.message_id == "identity-check" { 32 } else { 80 };
        facility + self.severity.code()
    }

    /// The RFC 5424 line, without an end of line. Control characters in values become spaces, so
    /// that no value can start a line of its own.
    pub fn to_rfc5424(&self) -> String {
        let policy = self.policy.as_ref();
        let fields = Fields {
            priority: self.priority(),
            at: time::milliseconds(self.at).into(),
            host: "-",
            request_id: &self.request_id,
            message_id: self.message_id,
            subject: self.subject.iter().map(|(name, value)| (&**name, &**value)).collect(),
            user: self.user.as_deref(),
            authenticator: self.authenticator.as_deref(),
            service: self.service.as_deref(),
            client_ip: &self.client_ip,
            result: self.outcome.as_str(),
            operation: &self.operation,
            policy: policy.map(|(id, version)| (&**id, *version)),
            place: None,
            message: &self.message,
        };
        fields.to_line()
    }
}

/// What stands in an RFC 5424 line.
pub(super) struct Fields<'a> {
    pub(super) priority: u8,
    pub(super) at: Cow<'a, str>,
    pub(super) host: &'a str,
    pub(super) request_id: &'a str,
    pub(super) message_id: &'a str,
    pub(super) subject: Vec<(&'a str, &'a str)>,
    pub(super) user: Option<&'a str>,
    pub(super) authenticator: Option<&'a str>,
    pub(super) service: Option<&'a str>,
    pub(super) client_ip: &'a str,
    /// Empty in lines that tell of no decision; they have no element but their place.
    pub(super) result: &'a str,
    pub(super) operation: &'a str,
    pub(super) policy: Option<(&'a str, u32)>,
    /// The node that made it, its number there, and its number in the chain.
    pub(super) place: Option<(u64, u64, u64)>,
    pub(super) message: &'a str,
}

impl Fields<'_> {
    pub(super) fn to_line(&self) -> String {
        let mut line = String::with_capacity(512);
        let procid = if self.request_id.is_empty() { "-" } else { self.request_id };
        // Writing to a string cannot fail.
        let _infallible = write!(
            line,
            "<{}>1 {} {} conjur {procid} {} ",
            self.priority, self.at, self.host, self.message_id,
        );
        if !self.result.is_empty() {
            self.decision(&mut line);
        } else if self.place.is_none() {
            line.push('-');
        }
        if let Some((node, sequence, number)) = self.place {
            let place = [("node", node), ("sequence", sequence), ("number", number)];
            let place = place.map(|(name, value)| (name, value.to_string()));
            element(&mut line, "meta", place.iter().map(|(name, value)| (*name, value.as_str())));
        }
        line.push(' ');
        line.extend(self.message.chars().map(printable));
        line
    }

    fn decision(&self, line: &mut String) {
        let subject = self.subject.iter().copied();
        let auth =
            [("user", self.user), ("authenticator", self.authenticator), ("service", self.service)];
        let auth = auth.into_iter().filter_map(|(name, value)| Some((name, value?)));
        if self.message_id == "authn" {
            element(line, "subject", subject);
            element(line, "auth", auth);
        } else {
            element(line, "auth", auth);
            element(line, "subject", subject);
        }
        element(line, "client", [("ip", self.client_ip)]);
        element(line, "action", [("result", self.result), ("operation", self.operation)]);
        if let Some((id, version)) = self.policy {
            let version = version.to_string();
            element(line, "policy", [("id", id), ("version", version.as_str())]);
        }
    }
}

fn printable(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

fn element<'a>(
    line: &mut String,
    name: &str,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let _infallible = write!(line, "[{name}@{PEN}");
    for (name, value) in parameters {
        // A parameter's name may come from a client's query: RFC 5424 allows it few characters.
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_graphic() && !matches!(c, '=' | ']' | '"' | ' '))
            .take(32)
            .collect();
        line.push(' ');
        line.push_str(&name);
        line.push_str("=\"");
        for character in value.chars() {
            if matches!(character, '"' | '\\' | ']') {
                line.push('\\');
            }
            line.push(printable(character));
        }
        line.push('"');
    }
    line.push(']');
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("at", &time::milliseconds(self.at))?;
        map.serialize_entry("request_id", &self.request_id)?;
        map.serialize_entry("priority", &self.priority())?;
        map.serialize_entry("msgid", self.message_id)?;
        map.serialize_entry("operation", &self.operation)?;
        map.serialize_entry("result", self.outcome.as_str())?;
        let optional = [
            ("user", &self.user),
            ("authenticator", &self.authenticator),
            ("service", &self.service),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        map.serialize_entry("subject", &Pairs(&self.subject))?;
        map.serialize_entry("client_ip", &self.client_ip)?;
        if let Some((id, version)) = &self.policy {
            map.serialize_entry("policy", &serde_json::json!({"id": id, "version": version}))?;
        }
        map.serialize_entry("message", &self.message)?;
        map.end()
    }
}

struct Pairs<'a>(&'a [(Cow<'static, str>, String)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// What a request sets out to do: becomes a [`Record`] when it is known how it went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deed {
    pub(crate) message_id: &'static str,
    pub(crate) operation: Cow<'static, str>,
    pub(crate) user: Option<String>,
    pub(crate) authenticator: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) subject: Vec<(Cow<'static, str>, String)>,
    pub(crate) policy: Option<(String, u32)>,
    pub(crate) notice: bool,
    /// The sentence when it went well.
    pub(crate) did: String,
    /// The sentence when it did not; the reason follows after a colon.
    pub(crate) tried: String,
}

impl Deed {
    /// The record of how it went: `refused` is the reason, or nothing when it was done.
    pub(crate) fn record(
        self,
        at: Timestamp,
        request_id: &str,
        client_ip: &str,
        refused: Option<&str>,
    ) -> Record {
        let (outcome, severity, message) = match refused {
            None if self.notice => (Outcome::Success, Severity::Notice, self.did),
            None => (Outcome::Success, Severity::Info, self.did),
            Some("") => (Outcome::Failure, Severity::Warning, self.tried),
            Some(reason) => {
                (Outcome::Failure, Severity::Warning, format!("{}: {reason}", self.tried))
            }
        };
        Record {
            at,
            request_id: request_id.to_owned(),
            message_id: self.message_id,
            operation: self.operation,
            outcome,
            severity,
            user: self.user,
            authenticator: self.authenticator,
            service: self.service,
            subject: self.subject,
            client_ip: client_ip.to_owned(),
            policy: self.policy,
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed() -> Deed {
        Deed {
            message_id: "fetch",
            operation: "fetch".into(),
            user: Some("a:user:u".into()),
            subject: vec![("resource".into(), "a:variable:x\"]\\\n<86>1".into())],
            did: "a:user:u fetched a:variable:x".into(),
            tried: "a:user:u tried to fetch a:variable:x".into(),
            ..Deed::default()
        }
    }

    #[test]
    fn lines_have_the_shape_that_collectors_parse() {
        let record = deed().record(Timestamp(0), "rid", "10.0.0.1", None);
        assert_eq!(
            record.to_rfc5424(),
            "<86>1 1970-01-01T00:00:00.000Z - conjur rid fetch [auth@43868 user=\"a:user:u\"]\
             [subject@43868 resource=\"a:variable:x\\\"\\]\\\\ <86>1\"][client@43868 ip=\"10.0.0.1\"]\
             [action@43868 result=\"success\" operation=\"fetch\"] a:user:u fetched a:variable:x"
        );
        let refused = deed().record(Timestamp(0), "rid", "10.0.0.1", Some("Forbidden"));
        assert_eq!(refused.priority(), 84);
        assert!(refused.message.ends_with("tried to fetch a:variable:x: Forbidden"));
    }
}
