//! Version 2 of rows' bodies: audit records, as many in a row as came to the chain at once; versions of
//! secrets, which tell their number, since their key tells only their place; join tokens that are bound to
//! addresses; and host factory tokens that are good for a number of uses.

use std::str::FromStr;

use conclave_domain::audit::{AuditBlock, AuditTexts};
use conclave_domain::effect::Row;
use conclave_domain::records::{
    Digest, Fingerprint, HostFactoryToken, JoinToken, Sealed, SecretVersion, Version,
};
use conclave_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::v1::{Parser, member_role_byte, put};
use super::{Part, Table, secret_place};
use crate::error::Fault;

pub(super) const VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct AuditBlockV2<'a> {
    node: u64,
    sequence: u64,
    /// One after the other, 32 bytes each.
    hashes: &'a [u8],
    /// As [`AuditTexts::as_bytes`].
    texts: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct SecretVersionV2 {
    version: u32,
    fingerprint: [u8; 16],
    expires_at: Option<i64>,
    created_at: i64,
}

#[derive(Serialize, Deserialize)]
struct BoundJoinTokenV2<'a> {
    name: &'a str,
    role: u8,
    expires_at: i64,
    cidr: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct LimitedHostFactoryTokenV2<'a> {
    factory: String,
    sealed: &'a [u8],
    cidr: Vec<String>,
    expires_at: i64,
    uses_left: u32,
}

/// Whether rows of a table have a version 2.
pub(super) const fn has(table: Table) -> bool {
    matches!(table, Table::AuditBlock | Table::Secret | Table::JoinToken | Table::HostFactoryToken)
}

/// Whether a row is written in this version. Of tokens only those that version 1 has no place for are, so that
/// members that do not know them yet can read the others.
pub(super) fn holds(row: &Row) -> bool {
    if let Row::JoinToken(_, token) = row {
        return !token.cidr.is_empty();
    }
    if let Row::HostFactoryToken(_, token) = row {
        return token.uses_left.is_some();
    }
    matches!(row, Row::AuditBlock(..) | Row::SecretVersion(..) | Row::SecretValue(..))
}

/// Appends a row's body.
pub(super) fn put_body(out: &mut Vec<u8>, row: &Row) -> Result<(), Fault> {
    if let Row::SecretValue(_, version, sealed) = row {
        out.extend_from_slice(&version.0.to_be_bytes());
        out.extend_from_slice(&sealed.0);
        Ok(())
    } else if let Row::SecretVersion(_, version, record) = row {
        let body = SecretVersionV2 {
            version: version.0,
            fingerprint: record.fingerprint.0,
            expires_at: record.expires_at.map(|at| at.0),
            created_at: record.created_at.0,
        };
        put(out, &body)
    } else if let Row::AuditBlock(_, AuditBlock { node, sequence, hashes, texts }) = row {
        let hashes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        let (node, sequence) = (*node, *sequence);
        put(out, &AuditBlockV2 { node, sequence, hashes: &hashes, texts: texts.as_bytes() })
    } else if let Row::JoinToken(_, token) = row {
        let body = BoundJoinTokenV2 {
            name: &token.name,
            role: member_role_byte(token.role),
            expires_at: token.expires_at.0,
            cidr: token.cidr.iter().map(ToString::to_string).collect(),
        };
        put(out, &body)
    } else if let Row::HostFactoryToken(_, token) = row
        && let Some(uses_left) = token.uses_left
    {
        let body = LimitedHostFactoryTokenV2 {
            factory: token.factory.to_string(),
            sealed: &token.sealed.0,
            cidr: token.cidr.iter().map(ToString::to_string).collect(),
            expires_at: token.expires_at.0,
            uses_left,
        };
        put(out, &body)
    } else {
        Err(Fault::corrupt("a row to be written", "it has no version 2"))
    }
}

/// Reads a row from its key (after the table byte) and body.
pub(super) fn row(table: Table, key: &[u8], body: &[u8]) -> Result<Row, Fault> {
    let parser = Parser { table };
    if table == Table::Secret {
        secret(&parser, key, body)
    } else if table == Table::JoinToken {
        join_token(&parser, key, body)
    } else if table == Table::HostFactoryToken {
        host_factory_token(&parser, key, body)
    } else {
        audit(&parser, key, body)
    }
}

fn join_token(parser: &Parser, key: &[u8], body: &[u8]) -> Result<Row, Fault> {
    let BoundJoinTokenV2 { name, role, expires_at, cidr } = parser.body(body)?;
    let token = JoinToken {
        name: name.to_owned(),
        role: parser.member_role(role)?,
        expires_at: Timestamp(expires_at),
        cidr: ranges(parser, &cidr)?,
    };
    Ok(Row::JoinToken(Digest(parser.array(key)?), token))
}

fn host_factory_token(parser: &Parser, key: &[u8], body: &[u8]) -> Result<Row, Fault> {
    let body: LimitedHostFactoryTokenV2<'_> = parser.body(body)?;
    let token = HostFactoryToken {
        factory: parser.id(body.factory.as_bytes())?,
        sealed: Sealed(body.sealed.to_vec()),
        cidr: ranges(parser, &body.cidr)?,
        expires_at: Timestamp(body.expires_at),
        uses_left: Some(body.uses_left),
    };
    Ok(Row::HostFactoryToken(Digest(parser.array(key)?), token))
}

fn ranges<T: FromStr>(parser: &Parser, texts: &[String]) -> Result<Vec<T>, Fault> {
    let ranges: Result<_, _> = texts.iter().map(|text| text.parse()).collect();
    ranges.map_err(|_no_range| parser.damaged("its addresses are no ranges"))
}

fn audit(parser: &Parser, key: &[u8], body: &[u8]) -> Result<Row, Fault> {
    let body: AuditBlockV2<'_> = parser.body(body)?;
    let texts = AuditTexts::from_bytes(body.texts.to_vec()).map_err(|bad| parser.damaged(bad))?;
    let (hashes, rest) = body.hashes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() != texts.len() {
        return Err(parser.damaged("it has not as many hashes as records"));
    }
    let block = AuditBlock {
        node: body.node,
        sequence: body.sequence,
        hashes: hashes.iter().copied().map(Digest).collect(),
        texts,
    };
    Ok(Row::AuditBlock(u64::from_be_bytes(parser.array(key)?), block))
}

fn secret(parser: &Parser, key: &[u8], body: &[u8]) -> Result<Row, Fault> {
    let (id, rest) = parser.split(key)?;
    let id = parser.id(id)?;
    let [place, part] = parser.array(rest)?;
    let (version, row) = if part == Part::Value as u8 {
        let (version, sealed) = secret_value(body)?;
        (version, Row::SecretValue(id, version, Sealed(sealed.to_vec())))
    } else if part == Part::Record as u8 {
        let SecretVersionV2 { version, fingerprint, expires_at, created_at } = parser.body(body)?;
        let version = Version(version);
        let record = SecretVersion {
            fingerprint: Fingerprint(fingerprint),
            expires_at: expires_at.map(Timestamp),
            created_at: Timestamp(created_at),
        };
        (version, Row::SecretVersion(id, version, record))
    } else {
        return Err(parser.damaged("its part is unknown"));
    };
    if secret_place(version) != place {
        return Err(parser.damaged("it stands in another version's place"));
    }
    Ok(row)
}

/// The version and the sealed bytes of a secret value.
pub(super) fn secret_value(body: &[u8]) -> Result<(Version, &[u8]), Fault> {
    let (version, sealed) = body
        .split_first_chunk()
        .ok_or_else(|| Fault::corrupt("a secret value", "it is cut off"))?;
    Ok((Version(u32::from_be_bytes(*version)), sealed))
}
