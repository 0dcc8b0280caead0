//! A record of the audit chain read back: as an RFC 5424 line for collectors outside.

use std::fmt;

use conclave_domain::audit::{AuditCheckpoint, AuditRecord};
use conclave_domain::time::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::record::Fields;
use crate::wire::time;

/// Facility and severity of lines that the chain itself makes: security, warning and notice.
const LOST: u8 = 84;
const VOUCHED: u8 = 85;

/// What a node wrote of one decision.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Kept {
    pub(crate) at: String,
    pub(crate) request_id: String,
    pub(crate) priority: u8,
    pub(crate) msgid: String,
    pub(crate) operation: String,
    pub(crate) result: String,
    pub(crate) user: Option<String>,
    pub(crate) authenticator: Option<String>,
    pub(crate) service: Option<String>,
    #[serde(deserialize_with = "pairs")]
    pub(crate) subject: Vec<(String, String)>,
    pub(crate) client_ip: String,
    pub(crate) policy: Option<KeptPolicy>,
    pub(crate) message: String,
}

/// The policy that a change belongs to.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct KeptPolicy {
    pub(crate) id: String,
    pub(crate) version: u32,
}

#[derive(Deserialize)]
struct KeptGap {
    gap: Range,
}

#[derive(Deserialize)]
struct Range {
    from: u64,
    to: u64,
}

impl Kept {
    /// Reads a record's text; none for a gap, a checkpoint, or what no node of this version writes.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn fields(&self) -> Fields<'_> {
        let policy = self.policy.as_ref();
        Fields {
            priority: self.priority,
            at: self.at.as_str().into(),
            host: "-",
            request_id: &self.request_id,
            message_id: &self.msgid,
            subject: self.subject.iter().map(|(name, value)| (&**name, &**value)).collect(),
            user: self.user.as_deref(),
            authenticator: self.authenticator.as_deref(),
            service: self.service.as_deref(),
            client_ip: &self.client_ip,
            result: &self.result,
            operation: &self.operation,
            policy: policy.map(|policy| (&*policy.id, policy.version)),
            place: None,
            message: &self.message,
        }
    }
}

/// The RFC 5424 line of a record of the chain, from a host of that name. Its last structured data
/// element says which node made it and where it stands, so that a collector can tell a record that it
/// is sent again.
pub fn syslog_line(host: &str, number: u64, record: &AuditRecord) -> String {
    let place = Some((record.node, record.sequence, number));
    if let Some(kept) = Kept::from_text(&record.text) {
        return Fields { host, place, ..kept.fields() }.to_line();
    }
    let (priority, at, message_id, message) = if let Ok(KeptGap { gap }) =
        serde_json::from_str(&record.text)
    {
        let text =
            format!("Node {} has lost its audit records {} to {}", record.node, gap.from, gap.to);
        (LOST, None, "audit-gap", text)
    } else {
        let at = AuditCheckpoint::from_text(&record.text).map(|checkpoint| checkpoint.at);
        (VOUCHED, at, "audit-checkpoint", record.text.clone())
    };
    Fields { place, ..chain_fields(host, priority, at, message_id, &message) }.to_line()
}

/// The line in place of records that the chain has forgotten before they could be sent.
pub fn syslog_gap_line(host: &str, from: u64, to: u64) -> String {
    let message = format!(
        "Records {from} to {to} of the audit chain were forgotten before they could be sent here"
    );
    chain_fields(host, LOST, None, "audit-gap", &message).to_line()
}

fn chain_fields<'a>(
    host: &'a str,
    priority: u8,
    at: Option<Timestamp>,
    message_id: &'a str,
    message: &'a str,
) -> Fields<'a> {
    Fields {
        priority,
        at: at.map_or_else(|| "-".into(), |at| time::milliseconds(at).into()),
        host,
        request_id: "",
        message_id,
        subject: Vec::new(),
        user: None,
        authenticator: None,
        service: None,
        client_ip: "",
        result: "",
        operation: "",
        policy: None,
        place: None,
        message,
    }
}

/// The members of an object in the order in which they stand.
fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}

#[cfg(test)]
mod tests {
    use conclave_domain::audit::gap_text;
    use conclave_domain::records::Digest;

    use super::super::{Outcome, Record, Severity};
    use super::*;

    fn chained(text: String) -> AuditRecord {
        AuditRecord { node: 7, sequence: 17, text, hash: Digest([0; 32]) }
    }

    #[test]
    fn a_line_of_the_chain_is_the_records_own_with_its_place() {
        let record = Record {
            at: Timestamp(0),
            request_id: "rid".into(),
            message_id: "authn",
            operation: "authenticate".into(),
            outcome: Outcome::Success,
            severity: Severity::Info,
            user: Some("a:user:u".into()),
            authenticator: Some("authn".into()),
            service: None,
            subject: vec![("role".into(), "a:user:\"z\"".into()), ("also".into(), "b".into())],
            client_ip: "::1".into(),
            policy: Some(("a:policy:root".into(), 3)),
            message: "done\n<86>1".into(),
        };
        let text = serde_json::to_string(&record).unwrap();
        let own = record.to_rfc5424();
        let (head, message) = own.split_once(" done").unwrap();
        let head = head.replacen(" - ", " n1 ", 1);
        let place = "[meta@43868 node=\"7\" sequence=\"17\" number=\"42\"]";
        let line = syslog_line("n1", 42, &chained(text));
        assert_eq!(line, format!("{head}{place} done{message}"));
    }

    #[test]
    fn gaps_and_checkpoints_have_lines_of_their_own() {
        assert_eq!(
            syslog_line("n1", 42, &chained(gap_text(7, 3, 17))),
            "<84>1 - n1 conjur - audit-gap [meta@43868 node=\"7\" sequence=\"17\" number=\"42\"] \
             Node 7 has lost its audit records 3 to 17"
        );
        let checkpoint = AuditCheckpoint {
            number: 41,
            hash: Digest([1; 32]),
            at: Timestamp(1),
            key: [2; 32],
            signature: [3; 64],
        };
        let line = syslog_line("n1", 42, &chained(checkpoint.to_text()));
        assert!(line.starts_with("<85>1 1970-01-01T00:00:00.001Z n1 conjur - audit-checkpoint ["));
        assert!(line.ends_with(&format!("] {}", checkpoint.to_text())));
        assert!(syslog_gap_line("n1", 1, 2).starts_with("<84>1 - n1 conjur - audit-gap - Records"));
    }
}
