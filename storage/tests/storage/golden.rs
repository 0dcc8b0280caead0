//! Bytes at rest are for ever: each encoding is compared with the bytes in `tests/golden`, and read
//! back from them. A missing file is written and the test fails once, for a person to look at it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use conclave_domain::audit::{AuditBlock, AuditHead, AuditTexts};
use conclave_domain::certificates::{
    Certificate, CertificateKey, CertificateRecord, Condition, Origin,
};
use conclave_domain::effect::{Row, RowKey};
use conclave_domain::id::Kind;
use conclave_domain::records::{
    Account, Annotation, Answered, AuthenticatorConfig, Credential, Digest, Fingerprint,
    HostFactoryToken, Issuer, IssuerKey, JoinToken, Member, MemberRole, Membership, MembershipKey,
    Permission, PermissionKey, PolicyVersion, RequestId, Resource, Revision, Role, Sealed,
    SecretVersion, SigningKey, Version, WrappedKeyring,
};
use conclave_domain::time::{LogIndex, Timestamp};
use conclave_storage::snapshot::ManifestFile;
use conclave_storage::{AppliedMark, Fault, Manifest, keys};

use crate::fixtures::{account, id};

/// Compares lines with a golden file.
fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let Ok(expected) = fs::read_to_string(&path) else {
        fs::write(&path, actual).unwrap();
        panic!("{name} was missing and has been written: look at it and commit it");
    };
    assert_eq!(actual, expected, "{name}: bytes at rest have changed");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A row of each table with its key.
pub(crate) fn rows() -> Vec<(Row, RowKey)> {
    let at = Timestamp(1_700_000_000_123);
    let policy = || Some(id(Kind::Policy, "root"));
    let (user, host, group) =
        (id(Kind::User, "alice"), id(Kind::Host, "app/web:1"), id(Kind::Group, "ops"));
    let variable = id(Kind::Variable, "db/pass wörd");
    let membership = MembershipKey { role: group.clone(), member: user.clone(), ownership: true };
    let permission = PermissionKey {
        resource: variable.clone(),
        role: host.clone(),
        privilege: "execute".to_owned(),
    };
    let request = RequestId([9; 16]);
    let webservice = id(Kind::Webservice, "conjur/authn-jwt/ci");
    let certificate = CertificateKey { name: "cluster".to_owned(), generation: 2 };
    let issuer = IssuerKey { account: account("acme"), issuer: "aws-1".to_owned() };
    vec![
        (
            Row::Account(
                account("acme"),
                Account {
                    created_at: at,
                    revision: Revision(300),
                    signing_key: SigningKey {
                        id: "kid".to_owned(),
                        public: vec![1, 2, 3],
                        private: Sealed(vec![4, 5]),
                    },
                },
            ),
            RowKey::Account(account("acme")),
        ),
        (
            Row::Role(user.clone(), Role { created_at: at, policy: None }),
            RowKey::Role(user.clone()),
        ),
        (
            Row::Resource(
                host.clone(),
                Resource { owner: user.clone(), created_at: at, policy: policy() },
            ),
            RowKey::Resource(host.clone()),
        ),
        (
            Row::Membership(
                membership.clone(),
                Membership { admin_option: true, policy: policy() },
            ),
            RowKey::Membership(membership),
        ),
        (
            Row::Permission(permission.clone(), Permission { policy: None }),
            RowKey::Permission(permission),
        ),
        (
            Row::Annotation(
                variable.clone(),
                "why".to_owned(),
                Annotation { value: "because".to_owned(), policy: policy() },
            ),
            RowKey::Annotation(variable.clone(), "why".to_owned()),
        ),
        (
            Row::Credential(
                user.clone(),
                Credential {
                    api_key: Sealed(vec![6; 3]),
                    api_key_digest: Digest([7; 32]),
                    rotated_at: at,
                    password_hash: Some("$argon2id$x".to_owned()),
                    restricted_to: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
                },
            ),
            RowKey::Credential(user.clone()),
        ),
        (
            Row::SecretVersion(
                variable.clone(),
                Version(2),
                SecretVersion {
                    fingerprint: Fingerprint([8; 16]),
                    expires_at: Some(at),
                    created_at: at,
                },
            ),
            RowKey::SecretVersion(variable.clone(), Version(2)),
        ),
        (
            Row::SecretValue(variable.clone(), Version(2), Sealed(vec![0xaa, 0xbb])),
            RowKey::SecretValue(variable.clone(), Version(2)),
        ),
        (
            Row::PolicyVersion(
                id(Kind::Policy, "root"),
                3,
                PolicyVersion {
                    role: user,
                    created_at: at,
                    finished_at: at,
                    client_ip: "192.0.2.1".to_owned(),
                    policy_text: "- !user alice\n".to_owned(),
                    policy_sha256: "ab".to_owned(),
                },
            ),
            RowKey::PolicyVersion(id(Kind::Policy, "root"), 3),
        ),
        (
            Row::Keyring(WrappedKeyring { generation: 1, wrapped: Sealed(vec![0xcc]) }),
            RowKey::Keyring,
        ),
        (
            Row::JoinToken(
                Digest([5; 32]),
                JoinToken {
                    name: "n2".to_owned(),
                    role: MemberRole::Follower,
                    expires_at: at,
                    cidr: Vec::new(),
                },
            ),
            RowKey::JoinToken(Digest([5; 32])),
        ),
        (
            Row::JoinToken(
                Digest([6; 32]),
                JoinToken {
                    name: "n3".to_owned(),
                    role: MemberRole::Voter,
                    expires_at: at,
                    cidr: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
                },
            ),
            RowKey::JoinToken(Digest([6; 32])),
        ),
        (
            Row::Member(
                7,
                Member {
                    name: "n1".to_owned(),
                    role: MemberRole::Voter,
                    node_key: [3; 32],
                    peer_address: "n1:7443".to_owned(),
                    api_url: "https://n1".to_owned(),
                },
            ),
            RowKey::Member(7),
        ),
        (
            Row::Answered(request, Answered { index: LogIndex(258), reply: vec![1, 0] }),
            RowKey::Answered(request, LogIndex(258)),
        ),
        (
            Row::HostFactoryToken(
                Digest([4; 32]),
                HostFactoryToken {
                    factory: id(Kind::HostFactory, "app/hf"),
                    sealed: Sealed(vec![0xdd; 3]),
                    cidr: vec!["10.0.0.0/8".parse().unwrap()],
                    expires_at: at,
                    uses_left: None,
                },
            ),
            RowKey::HostFactoryToken(Digest([4; 32])),
        ),
        (
            Row::HostFactoryToken(
                Digest([5; 32]),
                HostFactoryToken {
                    factory: id(Kind::HostFactory, "app/hf"),
                    sealed: Sealed(vec![0xdd; 3]),
                    cidr: vec!["10.0.0.0/8".parse().unwrap()],
                    expires_at: at,
                    uses_left: Some(300),
                },
            ),
            RowKey::HostFactoryToken(Digest([5; 32])),
        ),
        (
            Row::AuthenticatorConfig(webservice.clone(), AuthenticatorConfig { enabled: true }),
            RowKey::AuthenticatorConfig(webservice),
        ),
        (
            Row::Issuer(
                issuer.clone(),
                Issuer {
                    kind: "aws".to_owned(),
                    max_ttl: 3000,
                    data: Sealed(vec![0xee]),
                    created_at: at,
                    modified_at: Timestamp(at.0 + 1),
                },
            ),
            RowKey::Issuer(issuer),
        ),
        (
            Row::AuditBlock(
                258,
                AuditBlock {
                    node: 7,
                    sequence: 300,
                    hashes: vec![Digest([1; 32])],
                    texts: AuditTexts::plain(&["{\"seq\":300}"]),
                },
            ),
            RowKey::AuditBlock(258),
        ),
        (
            Row::AuditHead(AuditHead {
                first: 2,
                base: Digest([2; 32]),
                last: 258,
                hash: Digest([1; 32]),
                checkpointed: 250,
            }),
            RowKey::AuditHead,
        ),
        (Row::AuditSource(7, 300), RowKey::AuditSource(7)),
        (
            Row::Certificate(
                certificate.clone(),
                CertificateRecord {
                    certificate: Certificate {
                        origin: Origin::Internal,
                        issuer: Some(CertificateKey {
                            name: "cluster-ca".to_owned(),
                            generation: 1,
                        }),
                        chain_pem: "-----BEGIN CERTIFICATE-----".to_owned(),
                        key: Sealed(vec![0xff, 1]),
                        names: vec!["secrets.example.com".to_owned(), "10.0.0.1".to_owned()],
                        configured: vec!["secrets.example.com".to_owned()],
                        nodes: vec!["f1".to_owned()],
                        holders: vec![1, 300],
                        not_before: at,
                        not_after: Timestamp(at.0 + 2),
                        renew_at: Timestamp(at.0 + 1),
                    },
                    installed_at: at,
                    condition: Condition::Failed {
                        reason: "no".to_owned(),
                        attempts: 2,
                        next_try: at,
                    },
                },
            ),
            RowKey::Certificate(certificate),
        ),
        (Row::Level(1), RowKey::Level),
    ]
}

/// A record of the audit chain as rows of version 1 hold it.
const AUDIT_RECORD_V1: &str = "210000000000000102 \
    0107fb2c0101010101010101010101010101010101010101010101010101010101010101010b7b22736571223a3330307d";

/// A secret's version and its value, as rows of version 1 hold them.
const SECRET_VERSION_V1: &str = "1761636d653a7661726961626c653a64622f706173732077c3b672640000000002 \
    010808080808080808080808080808080801fdf6d0ca9f17030000fdf6d0ca9f17030000";
const SECRET_VALUE_V1: &str =
    "1861636d653a7661726961626c653a64622f706173732077c3b672640000000002 01aabb";

#[test]
fn rows_have_the_bytes_they_always_had() {
    let (mut text, mut text_v2) = (String::new(), String::new());
    for (row, row_key) in rows() {
        let (mut key, mut named, mut value) = (Vec::new(), Vec::new(), Vec::new());
        keys::put_row_key(&mut key, &row);
        keys::put_key(&mut named, &row_key);
        assert_eq!(key, named, "a row's key and the key that names it differ: {row:?}");
        keys::put_row_value(&mut value, &row).unwrap();
        assert_eq!(keys::row(&key, &value).unwrap(), row);
        let line = format!("{} {}", hex(&key), hex(&value));
        let has_version_1 = [
            (matches!(row, Row::AuditBlock(..)), AUDIT_RECORD_V1),
            (matches!(row, Row::SecretVersion(..)), SECRET_VERSION_V1),
            (matches!(row, Row::SecretValue(..)), SECRET_VALUE_V1),
        ];
        if let Some((_, version_1)) = has_version_1.into_iter().find(|(is_it, _)| *is_it) {
            // It is still read.
            let (old_key, old_value) = version_1.split_once(' ').unwrap();
            assert_eq!(keys::row(&unhex(old_key), &unhex(old_value)).unwrap(), row);
            writeln!(text, "{version_1}").unwrap();
            writeln!(text_v2, "{line}").unwrap();
        } else if value[0] == 2 {
            writeln!(text_v2, "{line}").unwrap();
        } else {
            writeln!(text, "{line}").unwrap();
        }
    }
    golden("rows_v1.txt", &text);
    golden("rows_v2.txt", &text_v2);
}

#[test]
fn every_table_of_rows_has_a_golden_row() {
    let mut tables: Vec<u8> = rows()
        .iter()
        .map(|(row, _)| {
            let mut key = Vec::new();
            keys::put_row_key(&mut key, row);
            key[0]
        })
        .collect();
    tables.dedup();
    let is_written = |table: &keys::Table| *table != keys::Table::SecretValueV1;
    let known = keys::Table::ROWS.into_iter().filter(is_written);
    assert_eq!(tables, known.map(|table| table as u8).collect::<Vec<_>>());
}

#[test]
fn rows_of_a_newer_version_are_refused() {
    for (row, _) in rows() {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        keys::put_row_key(&mut key, &row);
        keys::put_row_value(&mut value, &row).unwrap();
        // Of tokens versions 1 and 2 are both written.
        let has_both = matches!(row, Row::JoinToken(..) | Row::HostFactoryToken(..));
        value[0] = if has_both { 3 } else { value[0] + 1 };
        let newer = u32::from(value[0]);
        assert!(
            matches!(keys::row(&key, &value), Err(Fault::TooNew { found, .. }) if found == newer)
        );
    }
}

#[test]
fn a_manifest_has_the_bytes_it_always_had() {
    let manifest = Manifest {
        mark: AppliedMark {
            index: 258,
            log_id: b"id-258".to_vec().into(),
            membership: b"members".to_vec().into(),
        },
        files: vec![
            ManifestFile { name: "000012.sst".to_owned(), len: 4096, sha256: [1; 32] },
            ManifestFile { name: "CURRENT".to_owned(), len: 16, sha256: [2; 32] },
        ],
    };
    let bytes = manifest.encode();
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    golden("manifest_v1.txt", &format!("{}\n", hex(&bytes)));
}

#[test]
fn a_manifest_that_names_other_folders_is_refused() {
    for name in ["../x", "a/b", "", ".", "..", ".hidden", "a\0b"] {
        let file = ManifestFile { name: name.to_owned(), len: 1, sha256: [0; 32] };
        let bytes = Manifest { mark: AppliedMark::default(), files: vec![file] }.encode();
        assert!(matches!(Manifest::decode(&bytes), Err(Fault::Corrupt { .. })), "{name:?}");
    }
}
