//! Every table of the state database, its key shape and its value encoding. Nothing else in the
//! program knows these bytes.
//!
//! The first byte of a key is its table. Ids hold no NUL, so `id | NUL` sorts and parses; the last
//! part of a key runs to its end. A row's value is a version byte and that version's body.
//!
//! To change a row's encoding: add a `v2` module with its bodies and the version byte 2, write that,
//! keep reading version 1, and add golden bytes. Never edit an old module.

mod v1;
mod v2;

use conclave_domain::certificates::CertificateKey;
use conclave_domain::effect::{Row, RowKey};
use conclave_domain::id::{AccountName, ResourceId};
use conclave_domain::records::{
    Digest, IssuerKey, MembershipKey, PermissionKey, RequestId, SECRET_VERSIONS_KEPT, Sealed,
    Version,
};
use conclave_domain::time::LogIndex;

use crate::error::Fault;

/// The tables, by the first byte of their keys.
///
/// | byte | table | key after the byte | value after the version byte |
/// |---|---|---|---|
/// | 01 | applied mark | | see `state.rs` |
/// | 02 | history | index (u64) | see `state.rs` |
/// | 10 | account | name | `AccountV1` |
/// | 11 | role | id | `RoleV1` |
/// | 12 | resource | id | `ResourceV1` |
/// | 13 | membership | role NUL member NUL ownership (1 byte) | `MembershipV1` |
/// | 14 | permission | resource NUL role NUL privilege | `PermissionV1` |
/// | 15 | annotation | resource NUL name | `AnnotationV1` |
/// | 16 | credential | id | `CredentialV1` |
/// | 17 | secret | id NUL place (1 byte) part (1 byte) | part 0: `SecretVersionV2`; part 1: version (u32), sealed bytes |
/// | 18 | secret value, of before | id NUL version (u32) | sealed bytes |
/// | 19 | policy version | id NUL version (u32) | `PolicyVersionV1` |
/// | 1a | keyring | | `KeyringV1` |
/// | 1b | join token | digest (32) | `JoinTokenV1`, or `BoundJoinTokenV2` |
/// | 1c | member | node id (u64) | `MemberV1` |
/// | 1d | answered | index (u64) request id (16) | reply bytes |
/// | 1e | host factory token | digest (32) | `HostFactoryTokenV1`, or `LimitedHostFactoryTokenV2` |
/// | 1f | authenticator config | id | `AuthenticatorConfigV1` |
/// | 20 | issuer | account NUL name | `IssuerV1` |
/// | 21 | audit block | number of its last record (u64) | `AuditBlockV2`; `AuditRecordV1`: one record |
/// | 22 | audit head | | `AuditHeadV1` |
/// | 23 | audit source | node id (u64) | `AuditSourceV1` |
/// | 30 | certificate | name NUL generation (u32) | `CertificateV1` |
/// | 40 | feature level | | `LevelV1` |
///
/// Integers are big-endian, so that rows sort by them.
///
/// The versions of a secret go round in [`SECRET_VERSIONS_KEPT`] places, so that a new one is written
/// over the oldest, and what belongs together lies together: a write then costs one place to be found
/// and no deletion. In version 1 table 17 held `id NUL version (u32)`, and table 18 the values;
/// [`renewed`] turns those rows into the ones of today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the table above says what they are")]
pub enum Table {
    Mark = 0x01,
    History = 0x02,
    Account = 0x10,
    Role = 0x11,
    Resource = 0x12,
    Membership = 0x13,
    Permission = 0x14,
    Annotation = 0x15,
    Credential = 0x16,
    Secret = 0x17,
    SecretValueV1 = 0x18,
    PolicyVersion = 0x19,
    Keyring = 0x1a,
    JoinToken = 0x1b,
    Member = 0x1c,
    Answered = 0x1d,
    HostFactoryToken = 0x1e,
    AuthenticatorConfig = 0x1f,
    Issuer = 0x20,
    AuditBlock = 0x21,
    AuditHead = 0x22,
    AuditSource = 0x23,
    Certificate = 0x30,
    Level = 0x40,
}

impl Table {
    /// Tables that hold rows of the domain, in order.
    pub const ROWS: [Self; 22] = [
        Self::Account,
        Self::Role,
        Self::Resource,
        Self::Membership,
        Self::Permission,
        Self::Annotation,
        Self::Credential,
        Self::Secret,
        Self::SecretValueV1,
        Self::PolicyVersion,
        Self::Keyring,
        Self::JoinToken,
        Self::Member,
        Self::Answered,
        Self::HostFactoryToken,
        Self::AuthenticatorConfig,
        Self::Issuer,
        Self::AuditBlock,
        Self::AuditHead,
        Self::AuditSource,
        Self::Certificate,
        Self::Level,
    ];

    /// Whether memory holds the table's rows, too; of [`Table::Secret`] it holds the records alone.
    pub fn is_in_memory(self) -> bool {
        !matches!(self, Self::SecretValueV1 | Self::AuditBlock)
    }

    /// Bounds of the table's keys: first, and one past the last.
    pub const fn bounds(self) -> ([u8; 1], [u8; 1]) {
        ([self as u8], [self as u8 + 1])
    }
}

/// Version byte of the rows written by this program, but for those of [`v2`].
const VERSION: u8 = v1::VERSION;

/// Appends the key of a row.
pub fn put_row_key(out: &mut Vec<u8>, row: &Row) {
    match row {
        Row::Account(name, _) => account_key(out, name),
        Row::Role(id, _) => id_key(out, Table::Role, id),
        Row::Resource(id, _) => id_key(out, Table::Resource, id),
        Row::Membership(key, _) => membership_key(out, key),
        Row::Permission(key, _) => permission_key(out, key),
        Row::Annotation(id, name, _) => annotation_key(out, id, name),
        Row::Credential(id, _) => id_key(out, Table::Credential, id),
        Row::SecretVersion(id, version, _) => secret_key(out, id, *version, Part::Record),
        Row::SecretValue(id, version, _) => secret_key(out, id, *version, Part::Value),
        Row::PolicyVersion(id, n, _) => numbered_key(out, Table::PolicyVersion, id, *n),
        Row::Keyring(_) => out.push(Table::Keyring as u8),
        Row::JoinToken(digest, _) => join_token_key(out, digest),
        Row::Member(node, _) => u64_key(out, Table::Member, *node),
        Row::Answered(request, answered) => answered_key(out, request, answered.index),
        Row::HostFactoryToken(digest, _) => host_factory_token_key(out, digest),
        Row::AuthenticatorConfig(id, _) => id_key(out, Table::AuthenticatorConfig, id),
        Row::Issuer(key, _) => issuer_key(out, key),
        Row::AuditBlock(last, _) => out.extend_from_slice(&audit_block_key(*last)),
        Row::AuditHead(_) => out.push(Table::AuditHead as u8),
        Row::AuditSource(node, _) => u64_key(out, Table::AuditSource, *node),
        Row::Certificate(key, _) => certificate_key(out, key),
        Row::Level(_) => out.push(Table::Level as u8),
    }
}

/// Appends the key that names a row.
pub fn put_key(out: &mut Vec<u8>, key: &RowKey) {
    match key {
        RowKey::Account(name) => account_key(out, name),
        RowKey::Role(id) => id_key(out, Table::Role, id),
        RowKey::Resource(id) => id_key(out, Table::Resource, id),
        RowKey::Membership(key) => membership_key(out, key),
        RowKey::Permission(key) => permission_key(out, key),
        RowKey::Annotation(id, name) => annotation_key(out, id, name),
        RowKey::Credential(id) => id_key(out, Table::Credential, id),
        RowKey::SecretVersion(id, version) => secret_key(out, id, *version, Part::Record),
        RowKey::SecretValue(id, version) => secret_key(out, id, *version, Part::Value),
        RowKey::PolicyVersion(id, n) => numbered_key(out, Table::PolicyVersion, id, *n),
        RowKey::Keyring => out.push(Table::Keyring as u8),
        RowKey::JoinToken(digest) => join_token_key(out, digest),
        RowKey::Member(node) => u64_key(out, Table::Member, *node),
        RowKey::Answered(request, index) => answered_key(out, request, *index),
        RowKey::HostFactoryToken(digest) => host_factory_token_key(out, digest),
        RowKey::AuthenticatorConfig(id) => id_key(out, Table::AuthenticatorConfig, id),
        RowKey::Issuer(key) => issuer_key(out, key),
        RowKey::AuditBlock(last) => out.extend_from_slice(&audit_block_key(*last)),
        RowKey::AuditHead => out.push(Table::AuditHead as u8),
        RowKey::AuditSource(node) => u64_key(out, Table::AuditSource, *node),
        RowKey::Certificate(key) => certificate_key(out, key),
        RowKey::Level => out.push(Table::Level as u8),
    }
}

/// Appends the value of a row.
///
/// # Errors
/// [`Fault::Corrupt`] when the record cannot be encoded, which none of the domain's can cause.
pub fn put_row_value(out: &mut Vec<u8>, row: &Row) -> Result<(), Fault> {
    let is_v2 = v2::holds(row);
    out.push(if is_v2 { v2::VERSION } else { VERSION });
    if is_v2 { v2::put_body(out, row) } else { v1::put_body(out, row) }
}

/// Reads a row back.
///
/// # Errors
/// [`Fault::Corrupt`] for bytes that no row has, [`Fault::TooNew`] for a later version's.
pub fn row(key: &[u8], value: &[u8]) -> Result<Row, Fault> {
    let damaged = |detail: &str| Fault::corrupt("a row of the state", detail);
    let (table, rest) = key.split_first().ok_or_else(|| damaged("its key is empty"))?;
    let table = Table::ROWS
        .into_iter()
        .find(|known| *known as u8 == *table)
        .ok_or_else(|| damaged("its table is unknown"))?;
    let (version, body) = value.split_first().ok_or_else(|| damaged("its value is empty"))?;
    match *version {
        VERSION => v1::row(table, rest, body),
        v2::VERSION if v2::has(table) => v2::row(table, rest, body),
        0 => Err(damaged("its version is 0")),
        found => Err(Fault::TooNew {
            what: format!("a row of table {table:?}"),
            found: found.into(),
            known: VERSION.into(),
        }),
    }
}

/// The key of the row that holds the sealed value of one version of a secret, or of another version
/// that has its place.
pub fn secret_value_key(resource: &ResourceId, version: Version) -> Vec<u8> {
    let mut key = Vec::with_capacity(96);
    secret_key(&mut key, resource, version, Part::Value);
    key
}

/// The sealed bytes in a secret value's row; none when they are another version's.
///
/// # Errors
/// As [`row`].
pub fn secret_value(value: &[u8], version: Version) -> Result<Option<Sealed>, Fault> {
    match value.split_first() {
        Some((&v2::VERSION, body)) => {
            let (found, sealed) = v2::secret_value(body)?;
            Ok((found == version).then(|| Sealed(sealed.to_vec())))
        }
        Some((0 | 1, _)) | None => Err(Fault::corrupt("a secret value", "its version is wrong")),
        Some((&found, _)) => Err(Fault::TooNew {
            what: "a secret value".to_owned(),
            found: found.into(),
            known: v2::VERSION.into(),
        }),
    }
}

/// Whether a row is the sealed value of a secret.
pub(crate) fn is_secret_value(key: &[u8]) -> bool {
    key.first() == Some(&(Table::Secret as u8)) && key.last() == Some(&(Part::Value as u8))
}

/// The row of today in place of one of version 1 of the tables 17 and 18; none when it is of today.
///
/// # Errors
/// As [`row`].
pub(crate) fn renewed(key: &[u8], value: &[u8]) -> Result<Option<Row>, Fault> {
    if value.first() == Some(&v1::VERSION) { row(key, value).map(Some) } else { Ok(None) }
}

/// The tables in which [`renewed`] finds rows, in the order in which they are gone through. In the last
/// one nothing else lies.
pub(crate) const RENEWED: [Table; 2] = [Table::Secret, Table::SecretValueV1];

/// The key of one entry's history.
pub(crate) fn history_key(index: u64) -> [u8; 9] {
    let mut key = [Table::History as u8; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The key of the records of the audit chain that end with number `last`.
pub(crate) fn audit_block_key(last: u64) -> [u8; 9] {
    let mut key = [Table::AuditBlock as u8; 9];
    key[1..].copy_from_slice(&last.to_be_bytes());
    key
}

fn put_id(out: &mut Vec<u8>, id: &ResourceId) {
    out.extend_from_slice(id.account().as_str().as_bytes());
    out.push(b':');
    out.extend_from_slice(id.kind().as_str().as_bytes());
    out.push(b':');
    out.extend_from_slice(id.identifier().as_bytes());
}

fn account_key(out: &mut Vec<u8>, name: &AccountName) {
    out.push(Table::Account as u8);
    out.extend_from_slice(name.as_str().as_bytes());
}

fn id_key(out: &mut Vec<u8>, table: Table, id: &ResourceId) {
    out.push(table as u8);
    put_id(out, id);
}

fn membership_key(out: &mut Vec<u8>, key: &MembershipKey) {
    out.push(Table::Membership as u8);
    put_id(out, &key.role);
    out.push(0);
    put_id(out, &key.member);
    out.push(0);
    out.push(key.ownership.into());
}

fn permission_key(out: &mut Vec<u8>, key: &PermissionKey) {
    out.push(Table::Permission as u8);
    put_id(out, &key.resource);
    out.push(0);
    put_id(out, &key.role);
    out.push(0);
    out.extend_from_slice(key.privilege.as_bytes());
}

fn annotation_key(out: &mut Vec<u8>, id: &ResourceId, name: &str) {
    out.push(Table::Annotation as u8);
    put_id(out, id);
    out.push(0);
    out.extend_from_slice(name.as_bytes());
}

fn numbered_key(out: &mut Vec<u8>, table: Table, id: &ResourceId, number: u32) {
    out.push(table as u8);
    put_id(out, id);
    out.push(0);
    out.extend_from_slice(&number.to_be_bytes());
}

/// What a row of a secret's version holds, by the last byte of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Part {
    Record = 0,
    Value = 1,
}

fn secret_key(out: &mut Vec<u8>, id: &ResourceId, version: Version, part: Part) {
    out.push(Table::Secret as u8);
    put_id(out, id);
    out.extend_from_slice(&[0, secret_place(version), part as u8]);
}

/// The place that a version of a secret has among those that are kept.
fn secret_place(version: Version) -> u8 {
    const { assert!(SECRET_VERSIONS_KEPT <= u8::MAX as usize, "a place is one byte") };
    let places = u32::try_from(SECRET_VERSIONS_KEPT).unwrap_or(u32::MAX);
    u8::try_from(version.0 % places).unwrap_or_default()
}

fn join_token_key(out: &mut Vec<u8>, digest: &Digest) {
    out.push(Table::JoinToken as u8);
    out.extend_from_slice(&digest.0);
}

fn host_factory_token_key(out: &mut Vec<u8>, digest: &Digest) {
    out.push(Table::HostFactoryToken as u8);
    out.extend_from_slice(&digest.0);
}

fn issuer_key(out: &mut Vec<u8>, key: &IssuerKey) {
    out.push(Table::Issuer as u8);
    out.extend_from_slice(key.account.as_str().as_bytes());
    out.push(0);
    out.extend_from_slice(key.issuer.as_bytes());
}

fn u64_key(out: &mut Vec<u8>, table: Table, number: u64) {
    out.push(table as u8);
    out.extend_from_slice(&number.to_be_bytes());
}
fn certificate_key(out: &mut Vec<u8>, key: &CertificateKey) {
    out.push(Table::Certificate as u8);
    out.extend_from_slice(key.name.as_bytes());
    out.push(0);
    out.extend_from_slice(&key.generation.to_be_bytes());
}

fn answered_key(out: &mut Vec<u8>, request: &RequestId, index: LogIndex) {
    out.push(Table::Answered as u8);
    out.extend_from_slice(&index.0.to_be_bytes());
    out.extend_from_slice(&request.0);
}
