//! Effects: the writes that an event leads to. A [`Row`] is one record with its key; storage turns
//! rows into bytes, [`crate::state::State`] turns them into memory, and both hold the same.

use crate::audit::{AuditBlock, AuditHead};
use crate::certificates::{CertificateKey, CertificateRecord};
use crate::id::{AccountName, ResourceId, RoleId};
use crate::records::{
    Account, Annotation, Answered, AuthenticatorConfig, Credential, Digest, HostFactoryToken,
    Issuer, IssuerKey, JoinToken, Member, Membership, MembershipKey, Permission, PermissionKey,
    PolicyVersion, RequestId, Resource, Role, Sealed, SecretVersion, Version, WrappedKeyring,
};
use crate::time::LogIndex;

/// One record with its key. The key fields come first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the records of crate::records and their keys")]
pub enum Row {
    Account(AccountName, Account),
    Role(RoleId, Role),
    Resource(ResourceId, Resource),
    Membership(MembershipKey, Membership),
    Permission(PermissionKey, Permission),
    Annotation(ResourceId, String, Annotation),
    Credential(RoleId, Credential),
    SecretVersion(ResourceId, Version, SecretVersion),
    /// Held on disk only: memory keeps [`Row::SecretVersion`] and passes this one by.
    SecretValue(ResourceId, Version, Sealed),
    PolicyVersion(ResourceId, u32, PolicyVersion),
    Keyring(WrappedKeyring),
    JoinToken(Digest, JoinToken),
    Member(u64, Member),
    Answered(RequestId, Answered),
    HostFactoryToken(Digest, HostFactoryToken),
    AuthenticatorConfig(ResourceId, AuthenticatorConfig),
    Issuer(IssuerKey, Issuer),
    /// Held on disk only, like [`Row::SecretValue`]: memory does not grow with the chain.
    AuditBlock(u64, AuditBlock),
    AuditHead(AuditHead),
    /// How far the chain has a node's records.
    AuditSource(u64, u64),
    Certificate(CertificateKey, CertificateRecord),
    /// The cluster's feature level.
    Level(u32),
}

/// Names one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the fields are the keys of the rows of the same name")]
pub enum RowKey {
    Account(AccountName),
    Role(RoleId),
    Resource(ResourceId),
    Membership(MembershipKey),
    Permission(PermissionKey),
    Annotation(ResourceId, String),
    Credential(RoleId),
    SecretVersion(ResourceId, Version),
    SecretValue(ResourceId, Version),
    PolicyVersion(ResourceId, u32),
    Keyring,
    JoinToken(Digest),
    Member(u64),
    /// The index is that of the answered entry: rows are evicted in log order.
    Answered(RequestId, LogIndex),
    HostFactoryToken(Digest),
    AuthenticatorConfig(ResourceId),
    Issuer(IssuerKey),
    AuditBlock(u64),
    AuditHead,
    AuditSource(u64),
    Certificate(CertificateKey),
    Level,
}

impl Row {
    /// The key of this row.
    pub fn key(&self) -> RowKey {
        match self {
            Self::Account(name, _) => RowKey::Account(name.clone()),
            Self::Role(role, _) => RowKey::Role(role.clone()),
            Self::Resource(resource, _) => RowKey::Resource(resource.clone()),
            Self::Membership(key, _) => RowKey::Membership(key.clone()),
            Self::Permission(key, _) => RowKey::Permission(key.clone()),
            Self::Annotation(resource, name, _) => {
                RowKey::Annotation(resource.clone(), name.clone())
            }
            Self::Credential(role, _) => RowKey::Credential(role.clone()),
            Self::SecretVersion(resource, version, _) => {
                RowKey::SecretVersion(resource.clone(), *version)
            }
            Self::SecretValue(resource, version, _) => {
                RowKey::SecretValue(resource.clone(), *version)
            }
            Self::PolicyVersion(policy, version, _) => {
                RowKey::PolicyVersion(policy.clone(), *version)
            }
            Self::Keyring(_) => RowKey::Keyring,
            Self::JoinToken(digest, _) => RowKey::JoinToken(*digest),
            Self::Member(node, _) => RowKey::Member(*node),
            Self::Answered(request, answered) => RowKey::Answered(*request, answered.index),
            Self::HostFactoryToken(digest, _) => RowKey::HostFactoryToken(*digest),
            Self::AuthenticatorConfig(id, _) => RowKey::AuthenticatorConfig(id.clone()),
            Self::Issuer(key, _) => RowKey::Issuer(key.clone()),
            Self::AuditBlock(last, _) => RowKey::AuditBlock(*last),
            Self::AuditHead(_) => RowKey::AuditHead,
            Self::AuditSource(node, _) => RowKey::AuditSource(*node),
            Self::Certificate(key, _) => RowKey::Certificate(key.clone()),
            Self::Level(_) => RowKey::Level,
        }
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Insert or overwrite.
    Put(Box<Row>),
    /// Delete; absent rows are no error.
    Delete(RowKey),
}

impl Effect {
    /// Insert or overwrite this row.
    pub fn put(row: Row) -> Self {
        Self::Put(Box::new(row))
    }
}
