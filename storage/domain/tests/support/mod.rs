//! One sample of every command, event and reply, and lists of all their names that the compiler keeps
//! complete.

use conclave_domain::audit::{AuditCheckpoint, AuditTexts};
use conclave_domain::certificates::{
    CLUSTER, CLUSTER_CA, Certificate, CertificateKey, Condition, Origin,
};
use conclave_domain::command::{Actor, Command, Envelope, LoadMode, Need, Proof};
use conclave_domain::event::Event;
use conclave_domain::id::{AccountName, Id, Kind};
use conclave_domain::outcome::{Outcome, Rejection, Reply};
use conclave_domain::records::{
    Annotation, Digest, Fingerprint, IssuerKey, JoinToken, Member, MemberRole, MembershipKey,
    NewApiKey, PermissionKey, RequestId, Resealed, Revision, Sealed, SealedAt, SigningKey, Version,
    WrappedKeyring,
};
use conclave_domain::time::Timestamp;

/// Lists the variants of an enum, and names a value's variant. A variant that is missing from the
/// list does not compile.
macro_rules! variants {
    ($names:ident, $name:ident, $type:ident: $($variant:ident),* $(,)?) => {
        pub(crate) const $names: &[&str] = &[$(stringify!($variant)),*];
        pub(crate) fn $name(value: &$type) -> &'static str {
            match value {
                $($type::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants!(COMMANDS, command_name, Command:
    InstallKeyring, CreateAccount, LoadPolicy, SetSecret, ExpireSecret, RotateApiKey,
    ChangePassword, AddMember, RemoveMember, IssueJoinToken, AdmitMember, RemoveMemberNode,
    DeleteAccount,
    CreateHostFactoryTokens, RevokeHostFactoryToken, EnrolHost, SweepHostFactoryTokens,
    ToggleAuthenticator, ChangeAccount, RotateSecret, AppendAudit, CheckpointAudit, TrimAudit,
    InstallCertificates, MarkCertificate, RetireCertificate,
    Reseal, ChainAudit, RefoundCluster, RaiseLevel,
);
variants!(EVENTS, event_name, Event:
    KeyringInstalled, AccountCreated, RoleAdded, RoleRemoved, ResourceAdded, OwnerChanged,
    ResourceRemoved, MembershipAdded, MembershipRemoved, PermissionAdded, PermissionRemoved,
    AnnotationSet, AnnotationRemoved, CredentialCreated, RestrictionChanged, ApiKeyRotated,
    PasswordChanged, PolicyLoaded, SecretVersionAdded, SecretExpired, JoinTokenIssued,
    MemberAdmitted, MemberRemoved, AccountDeleted,
    HostFactoryTokensIssued, HostFactoryTokenUsed, HostFactoryTokenRevoked,
    HostFactoryTokensExpired, AuthenticatorToggled, IssuerSet, IssuerRemoved,
    SecretRotated, AuditAppended, AuditCheckpointed, AuditTrimmed,
    CertificatesInstalled, CertificateMarked, CertificateRetired,
    Resealed, ClusterRefounded, LevelRaised,
);
variants!(OUTCOMES, outcome_name, Outcome:
    Done, SecretSet, PolicyLoaded, MemberAdmitted, HostFactoryTokensIssued, AuditAppended,
);
variants!(REJECTIONS, rejection_name, Rejection:
    NotFound, Forbidden, Unauthenticated, NoCredentials, Stale, Exists, Invalid, JoinTokenRefused,
);

/// The name of a reply's variant, on either side.
pub(crate) fn reply_name(reply: &Reply) -> &'static str {
    match reply {
        Ok(outcome) => outcome_name(outcome),
        Err(rejection) => rejection_name(rejection),
    }
}

pub(crate) fn account(name: &str) -> AccountName {
    AccountName::new(name).unwrap()
}

/// An id, `demo` being the account where none is given.
pub(crate) fn id(text: &str) -> Id {
    let with_account = match text.split(':').next().unwrap().parse::<Kind>() {
        Ok(_) => format!("demo:{text}"),
        Err(_) => text.to_owned(),
    };
    with_account.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub(crate) fn api_key(seed: u8) -> NewApiKey {
    NewApiKey { sealed: Sealed(vec![seed; 5]), digest: Digest([seed; 32]) }
}

pub(crate) fn keyring() -> WrappedKeyring {
    WrappedKeyring { generation: 3, wrapped: Sealed(vec![1, 2, 3]) }
}

pub(crate) fn signing_key(id: &str) -> SigningKey {
    SigningKey { id: id.to_owned(), public: vec![4, 5], private: Sealed(vec![6, 7]) }
}

pub(crate) fn join_token(name: &str) -> JoinToken {
    JoinToken {
        name: name.to_owned(),
        role: MemberRole::Follower,
        expires_at: Timestamp(1_700_000_600_000),
        cidr: Vec::new(),
    }
}

pub(crate) fn create_tokens(uses: Option<u32>) -> Command {
    Command::CreateHostFactoryTokens {
        factory: id("host_factory:app/hf"),
        tokens: vec![api_key(4), api_key(5)],
        cidr: vec!["10.0.0.0/24".parse().unwrap()],
        expires_at: Timestamp(1_700_000_600_000),
        uses,
    }
}

pub(crate) fn tokens_issued(uses: Option<u32>) -> Event {
    Event::HostFactoryTokensIssued {
        factory: id("host_factory:app/hf"),
        tokens: vec![api_key(4), api_key(5)],
        cidr: vec!["10.0.0.0/24".parse().unwrap()],
        expires_at: Timestamp(1_700_000_600_000),
        uses,
    }
}

pub(crate) fn bound_join_token(name: &str) -> JoinToken {
    let cidr = ["10.0.0.0/24", "2001:db8::/32"].map(|range| range.parse().unwrap());
    JoinToken { cidr: cidr.to_vec(), ..join_token(name) }
}

pub(crate) fn member(name: &str, role: MemberRole) -> Member {
    Member {
        name: name.to_owned(),
        role,
        node_key: [name.as_bytes()[0]; 32],
        peer_address: "10.0.0.1:7443".to_owned(),
        api_url: "https://one.example:8443".to_owned(),
    }
}

pub(crate) fn issuer_key() -> IssuerKey {
    IssuerKey { account: account("demo"), issuer: "aws-1".to_owned() }
}

pub(crate) fn checkpoint() -> AuditCheckpoint {
    AuditCheckpoint {
        number: 300,
        hash: Digest([1; 32]),
        at: Timestamp(1_700_000_000_123),
        key: [2; 32],
        signature: [3; 64],
    }
}
pub(crate) fn certificate_key(name: &str, generation: u32) -> CertificateKey {
    CertificateKey { name: name.to_owned(), generation }
}

pub(crate) fn certificate(issuer: Option<CertificateKey>) -> Certificate {
    Certificate {
        origin: Origin::Internal,
        issuer,
        chain_pem: "-----BEGIN CERTIFICATE-----".to_owned(),
        key: Sealed(vec![1, 2, 3]),
        names: vec!["secrets.example.com".to_owned(), "10.0.0.1".to_owned()],
        configured: vec!["secrets.example.com".to_owned()],
        nodes: vec!["f1".to_owned()],
        holders: vec![1, 300],
        not_before: Timestamp(1_700_000_000_000),
        not_after: Timestamp(1_702_592_000_000),
        renew_at: Timestamp(1_701_728_000_000),
    }
}

pub(crate) fn failed() -> Condition {
    Condition::Failed {
        reason: "no".to_owned(),
        attempts: 2,
        next_try: Timestamp(1_700_000_600_000),
    }
}

pub(crate) fn membership_key() -> MembershipKey {
    MembershipKey { role: id("layer:app"), member: id("host:app/web"), ownership: false }
}

pub(crate) fn permission_key() -> PermissionKey {
    PermissionKey {
        resource: id("variable:app/pw"),
        role: id("layer:app"),
        privilege: "execute".to_owned(),
    }
}

pub(crate) fn envelope(body: Command) -> Envelope {
    Envelope {
        request_id: RequestId(*b"request-id-bytes"),
        actor: Actor::Role(id("user:admin")),
        at: Timestamp(1_700_000_000_123),
        client_ip: "192.0.2.7".to_owned(),
        body,
    }
}

/// A load with one change.
pub(crate) fn load_of(change: Event) -> Envelope {
    envelope(Command::LoadPolicy {
        policy: id("policy:root"),
        mode: LoadMode::Update,
        text: String::new(),
        text_sha256: String::new(),
        changes: vec![change],
        based_on: Revision(1),
    })
}

/// One envelope of every command; both kinds of actor and of proof, and every mode, occur.
pub(crate) fn envelopes() -> Vec<Envelope> {
    let root = id("policy:root");
    let bodies = vec![
        Command::InstallKeyring { keyring: keyring() },
        Command::CreateAccount {
            account: account("demo"),
            signing_key: signing_key("k1"),
            admin_key: api_key(9),
        },
        Command::LoadPolicy {
            policy: root,
            mode: LoadMode::Replace,
            text: "- !variable pw\n".to_owned(),
            text_sha256: "ab".repeat(32),
            changes: vec![Event::RoleRemoved { role: id("host:app/web") }],
            based_on: Revision(300),
        },
        Command::SetSecret {
            resource: id("variable:app/pw"),
            value: Sealed(vec![0, 255, 1]),
            fingerprint: Fingerprint([8; 16]),
        },
        Command::ExpireSecret { resource: id("variable:app/pw") },
        Command::RotateApiKey {
            role: id("host:app/web"),
            key: api_key(2),
            proof: Proof::Credentials(Digest([7; 32])),
        },
        Command::ChangePassword {
            role: id("user:alice"),
            password_hash: "$argon2id$v=19$hash".to_owned(),
            proof: Proof::Token,
        },
        Command::AddMember { role: id("group:ops"), member: id("user:alice") },
        Command::RemoveMember { role: id("group:ops"), member: id("user:alice") },
        Command::IssueJoinToken { digest: Digest([3; 32]), token: join_token("two") },
        Command::AdmitMember {
            token: Some(Digest([3; 32])),
            member: member("two", MemberRole::Follower),
        },
        Command::RemoveMemberNode { node: 70_000 },
        Command::DeleteAccount { account: account("demo") },
        create_tokens(None),
        Command::RevokeHostFactoryToken { digest: Digest([4; 32]) },
        Command::EnrolHost {
            token: Digest([4; 32]),
            host: id("host:app/web"),
            key: api_key(2),
            annotations: vec![("os".to_owned(), "linux".to_owned())],
        },
        Command::SweepHostFactoryTokens,
        Command::ToggleAuthenticator {
            webservice: id("webservice:conjur/authn-jwt/ci"),
            enabled: true,
        },
        Command::ChangeAccount {
            account: account("demo"),
            needs: vec![Need { privilege: "create".to_owned(), resource: id("policy:app") }],
            changes: vec![Event::IssuerRemoved { key: issuer_key() }],
            based_on: Revision(300),
        },
        Command::RotateSecret {
            resource: id("variable:app/pw"),
            after: Version(21),
            value: Sealed(vec![0, 255, 1]),
            fingerprint: Fingerprint([8; 16]),
            expires_at: Timestamp(1_767_225_600_000),
        },
        Command::AppendAudit {
            node: 70_000,
            first: 258,
            lost: 2,
            records: vec!["{\"seq\":258}".to_owned(), "{\"seq\":259}".to_owned()],
        },
        Command::CheckpointAudit { checkpoint: checkpoint() },
        Command::TrimAudit { first: 300, base: Digest([6; 32]) },
        Command::InstallCertificates {
            certificates: vec![(
                certificate_key(CLUSTER, 2),
                certificate(Some(certificate_key(CLUSTER_CA, 1))),
            )],
        },
        Command::MarkCertificate { key: certificate_key(CLUSTER, 2), condition: failed() },
        Command::RetireCertificate { key: certificate_key("root", 1) },
        Command::Reseal { values: resealed() },
        Command::ChainAudit {
            node: 70_000,
            first: 258,
            lost: 2,
            texts: AuditTexts::plain(&["{\"seq\":258}", "{\"seq\":259}"]),
        },
        Command::RefoundCluster { node: 70_000, member: member("two", MemberRole::Voter) },
        Command::RaiseLevel { level: 300 },
        Command::IssueJoinToken { digest: Digest([3; 32]), token: bound_join_token("two") },
        create_tokens(Some(300)),
    ];
    let mut envelopes: Vec<Envelope> = bodies.into_iter().map(envelope).collect();
    for (place, one) in envelopes.iter_mut().enumerate() {
        if place % 2 == 1 {
            one.actor = Actor::Node;
            one.client_ip = String::new();
        }
    }
    envelopes
}

/// One of every event.
pub(crate) fn events() -> Vec<Event> {
    let root = Some(id("policy:root"));
    vec![
        Event::KeyringInstalled { keyring: keyring() },
        Event::AccountCreated {
            account: account("demo"),
            signing_key: signing_key("k1"),
            admin_key: api_key(9),
        },
        Event::RoleAdded { role: id("host:app/web"), policy: root.clone() },
        Event::RoleRemoved { role: id("host:app/web") },
        Event::ResourceAdded {
            resource: id("variable:app/pw"),
            owner: id("policy:app"),
            policy: root.clone(),
        },
        Event::OwnerChanged { resource: id("variable:app/pw"), owner: id("group:ops") },
        Event::ResourceRemoved { resource: id("variable:app/pw") },
        Event::MembershipAdded { key: membership_key(), admin_option: true, policy: None },
        Event::MembershipRemoved { key: membership_key() },
        Event::PermissionAdded { key: permission_key(), policy: root.clone() },
        Event::PermissionRemoved { key: permission_key() },
        Event::AnnotationSet {
            resource: id("variable:app/pw"),
            name: "description".to_owned(),
            annotation: Annotation { value: "the password".to_owned(), policy: root },
        },
        Event::AnnotationRemoved {
            resource: id("variable:app/pw"),
            name: "description".to_owned(),
        },
        Event::CredentialCreated {
            role: id("host:app/web"),
            key: api_key(2),
            restricted_to: vec!["10.0.0.0/24".parse().unwrap(), "::1/128".parse().unwrap()],
        },
        Event::RestrictionChanged { role: id("host:app/web"), restricted_to: Vec::new() },
        Event::ApiKeyRotated { role: id("host:app/web"), key: api_key(2) },
        Event::PasswordChanged {
            role: id("user:alice"),
            password_hash: "$argon2id$v=19$hash".to_owned(),
        },
        Event::PolicyLoaded {
            policy: id("policy:app"),
            version: 4,
            role: id("user:admin"),
            client_ip: "192.0.2.7".to_owned(),
            text: "- !variable pw\n".to_owned(),
            text_sha256: "ab".repeat(32),
        },
        Event::SecretVersionAdded {
            resource: id("variable:app/pw"),
            version: Version(21),
            fingerprint: Fingerprint([8; 16]),
            value: Some(Sealed(vec![0, 255, 1])),
        },
        Event::SecretExpired { resource: id("variable:app/pw") },
        Event::JoinTokenIssued { digest: Digest([3; 32]), token: join_token("two") },
        Event::MemberAdmitted {
            node: 5,
            member: member("two", MemberRole::Voter),
            token: Some(Digest([3; 32])),
        },
        Event::MemberRemoved { node: 5 },
        Event::AccountDeleted { account: account("demo") },
        tokens_issued(None),
        Event::HostFactoryTokenRevoked { digest: Digest([4; 32]) },
        Event::HostFactoryTokensExpired { digests: vec![Digest([4; 32]), Digest([5; 32])] },
        Event::AuthenticatorToggled {
            webservice: id("webservice:conjur/authn-jwt/ci"),
            enabled: true,
        },
        Event::IssuerSet {
            key: issuer_key(),
            kind: "aws".to_owned(),
            max_ttl: 3000,
            data: Some(Sealed(vec![0, 255, 1])),
        },
        Event::IssuerRemoved { key: issuer_key() },
        Event::SecretRotated {
            resource: id("variable:app/pw"),
            version: Version(22),
            fingerprint: Fingerprint([8; 16]),
            value: Some(Sealed(vec![0, 255, 1])),
            expires_at: Timestamp(1_767_225_600_000),
        },
        Event::AuditAppended {
            node: 70_000,
            first: 258,
            lost: 2,
            texts: AuditTexts::plain(&["{\"seq\":258}", "{\"seq\":259}"]),
        },
        Event::AuditCheckpointed { checkpoint: checkpoint() },
        Event::AuditTrimmed { first: 300, base: Digest([6; 32]) },
        Event::CertificatesInstalled {
            certificates: vec![(certificate_key("root", 1), certificate(None))],
        },
        Event::CertificateMarked {
            key: certificate_key(CLUSTER, 2),
            condition: Condition::Issuing,
        },
        Event::CertificateRetired { key: certificate_key("root", 1) },
        Event::Resealed { values: resealed() },
        Event::ClusterRefounded { node: 70_000, member: member("two", MemberRole::Voter) },
        Event::LevelRaised { level: 300 },
        Event::JoinTokenIssued { digest: Digest([3; 32]), token: bound_join_token("two") },
        tokens_issued(Some(300)),
        Event::HostFactoryTokenUsed { digest: Digest([4; 32]) },
    ]
}

/// Something sealed anew at every sort of place.
fn resealed() -> Vec<Resealed> {
    let account = id("user:admin").account().clone();
    let key = IssuerKey { account: account.clone(), issuer: "aws-prod".to_owned() };
    let places = [
        SealedAt::SigningKey(account, "kid".to_owned()),
        SealedAt::ApiKey(id("host:app/web"), Digest([7; 32])),
        SealedAt::Secret(id("variable:app/pw"), Version(3), Fingerprint([9; 16])),
        SealedAt::HostFactoryToken(Digest([8; 32])),
        SealedAt::Issuer(key, Sealed(vec![4, 5])),
        SealedAt::Certificate(certificate_key(CLUSTER, 2), Sealed(vec![6])),
    ];
    places.map(|at| Resealed { at, sealed: Sealed(vec![1, 2, 3]) }).to_vec()
}

/// The event as history gives it back: without ciphertext and without a password hash.
pub(crate) fn as_history(event: &Event) -> Event {
    let mut event = event.clone();
    match &mut event {
        Event::KeyringInstalled { keyring } => keyring.wrapped = Sealed(Vec::new()),
        Event::AccountCreated { signing_key, admin_key, .. } => {
            signing_key.private = Sealed(Vec::new());
            admin_key.sealed = Sealed(Vec::new());
        }
        Event::CredentialCreated { key, .. } | Event::ApiKeyRotated { key, .. } => {
            key.sealed = Sealed(Vec::new());
        }
        Event::PasswordChanged { password_hash, .. } => password_hash.clear(),
        Event::SecretVersionAdded { value, .. } | Event::SecretRotated { value, .. } => {
            *value = None;
        }
        Event::HostFactoryTokensIssued { tokens, .. } => {
            for token in tokens {
                token.sealed = Sealed(Vec::new());
            }
        }
        Event::IssuerSet { data, .. } => *data = None,
        Event::CertificatesInstalled { certificates } => {
            for (_, certificate) in certificates {
                certificate.key = Sealed(Vec::new());
            }
        }
        Event::Resealed { values } => {
            for value in values {
                value.sealed = Sealed(Vec::new());
                if let SealedAt::Issuer(_, before) | SealedAt::Certificate(_, before) =
                    &mut value.at
                {
                    *before = Sealed(Vec::new());
                }
            }
        }
        Event::RoleAdded { .. }
        | Event::RoleRemoved { .. }
        | Event::ResourceAdded { .. }
        | Event::OwnerChanged { .. }
        | Event::ResourceRemoved { .. }
        | Event::MembershipAdded { .. }
        | Event::MembershipRemoved { .. }
        | Event::PermissionAdded { .. }
        | Event::PermissionRemoved { .. }
        | Event::AnnotationSet { .. }
        | Event::AnnotationRemoved { .. }
        | Event::RestrictionChanged { .. }
        | Event::PolicyLoaded { .. }
        | Event::SecretExpired { .. }
        | Event::JoinTokenIssued { .. }
        | Event::MemberAdmitted { .. }
        | Event::MemberRemoved { .. }
        | Event::AccountDeleted { .. }
        | Event::HostFactoryTokenUsed { .. }
        | Event::HostFactoryTokenRevoked { .. }
        | Event::HostFactoryTokensExpired { .. }
        | Event::AuthenticatorToggled { .. }
        | Event::IssuerRemoved { .. }
        | Event::AuditAppended { .. }
        | Event::AuditCheckpointed { .. }
        | Event::AuditTrimmed { .. }
        | Event::CertificateMarked { .. }
        | Event::CertificateRetired { .. }
        | Event::ClusterRefounded { .. }
        | Event::LevelRaised { .. } => {}
    }
    event
}

/// One of every reply.
pub(crate) fn replies() -> Vec<Reply> {
    let resource = id("variable:app/pw");
    vec![
        Ok(Outcome::Done),
        Ok(Outcome::SecretSet { version: Version(21), added: true }),
        Ok(Outcome::PolicyLoaded { version: 4 }),
        Ok(Outcome::MemberAdmitted { node: 70_000 }),
        Ok(Outcome::HostFactoryTokensIssued { digests: vec![Digest([4; 32]), Digest([5; 32])] }),
        Ok(Outcome::AuditAppended { last: 70_000 }),
        Err(Rejection::NotFound { resource: resource.clone() }),
        Err(Rejection::Forbidden {
            role: id("user:alice"),
            privilege: "update".to_owned(),
            resource,
        }),
        Err(Rejection::Unauthenticated),
        Err(Rejection::NoCredentials { role: id("group:ops") }),
        Err(Rejection::Stale { planned: Revision(299), current: Revision(300) }),
        Err(Rejection::Exists { what: "account".to_owned(), id: "demo".to_owned() }),
        Err(Rejection::Invalid("why".to_owned())),
        Err(Rejection::JoinTokenRefused("expired".to_owned())),
    ]
}
