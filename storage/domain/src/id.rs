//! Names of things: accounts, kinds, full ids and logins, parsed the way Conjur clients write them.
//!
//! A full id is `account:kind:identifier`, split on the first two colons only; the identifier is any
//! UTF-8 text, case sensitive and never normalised. Ids are values that cannot be wrong: the only
//! way to one is through a constructor that checked its parts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest identifier accepted, in bytes. Bounds every key and frame that carries one.
pub const IDENTIFIER_BYTES_MAX: usize = 4096;
/// Longest account name accepted, in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 255;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Fewer than two tokens where `kind:identifier` or more was wanted.
    #[error("Expected at least 2 tokens in {0}")]
    TooFewTokens(String),
    /// The account name is empty, too long, or holds a space, `:` or `/`.
    #[error("account name {0:?} is empty, too long, or contains a space, ':' or '/'")]
    Account(String),
    /// No such kind.
    #[error("unknown kind '{0}'")]
    Kind(String),
    /// Empty, too long, or holding a NUL character.
    #[error("identifier is empty, longer than {IDENTIFIER_BYTES_MAX} bytes, or contains NUL")]
    Identifier,
}

/// The name of an account (tenant): no space, no `:`, no `/`; `!` is the internal one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(Arc<str>);

impl AccountName {
    /// Parses an account name.
    ///
    /// # Errors
    /// [`IdError::Account`] naming the offending text.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let bad = text.is_empty()
            || text.len() > ACCOUNT_BYTES_MAX
            || text.chars().any(|c| c == ':' || c == '/' || c.is_whitespace() || c.is_control());
        if bad { Err(IdError::Account(text.to_owned())) } else { Ok(Self(text.into())) }
    }

    /// The account `!`, which stands above the others: rights over accounts as such are held in it.
    pub fn internal() -> Self {
        Self("!".into())
    }

    /// Whether this is the account `!`.
    pub fn is_internal(&self) -> bool {
        &*self.0 == "!"
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for AccountName {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// What sort of thing an id names. The order is that of the names, so that ids sort as text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the field's own words")]
pub enum Kind {
    Configuration,
    Group,
    Host,
    HostFactory,
    Layer,
    Policy,
    PublicKey,
    User,
    Variable,
    Webservice,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 10] = [
        Self::Configuration,
        Self::Group,
        Self::Host,
        Self::HostFactory,
        Self::Layer,
        Self::Policy,
        Self::PublicKey,
        Self::User,
        Self::Variable,
        Self::Webservice,
    ];

    /// The kind as it stands in ids and URLs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Group => "group",
            Self::Host => "host",
            Self::HostFactory => "host_factory",
            Self::Layer => "layer",
            Self::Policy => "policy",
            Self::PublicKey => "public_key",
            Self::User => "user",
            Self::Variable => "variable",
            Self::Webservice => "webservice",
        }
    }

    /// Whether things of this kind are roles (can hold other roles and be permitted).
    pub const fn is_role(self) -> bool {
        matches!(
            self,
            Self::User | Self::Host | Self::Group | Self::Layer | Self::Policy | Self::HostFactory
        )
    }

    /// Whether things of this kind can hold credentials.
    pub const fn has_credentials(self) -> bool {
        matches!(self, Self::User | Self::Host)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| IdError::Kind(text.to_owned()))
    }
}

/// A full id, `account:kind:identifier`. Names a resource, and a role where the kind has one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id {
    account: AccountName,
    kind: Kind,
    identifier: Arc<str>,
}

/// An id used as a role: somebody who may do things. See [`Kind::is_role`].
pub type RoleId = Id;
/// An id used as a resource: something that things are done to. Every role is one too.
pub type ResourceId = Id;

impl Id {
    /// Builds an id from its parts.
    ///
    /// # Errors
    /// [`IdError::Identifier`] when the identifier is empty, too long or holds NUL.
    pub fn new(account: AccountName, kind: Kind, identifier: &str) -> Result<Self, IdError> {
        if identifier.is_empty()
            || identifier.len() > IDENTIFIER_BYTES_MAX
            || identifier.contains('\0')
        {
            return Err(IdError::Identifier);
        }
        Ok(Self { account, kind, identifier: identifier.into() })
    }

    /// Parses `account:kind:identifier`; with a default account also `kind:identifier`.
    ///
    /// # Errors
    /// What is wrong with the text, as [`IdError`].
    pub fn parse(text: &str, default_account: Option<&AccountName>) -> Result<Self, IdError> {
        let mut tokens = text.splitn(3, ':');
        match (tokens.next(), tokens.next(), tokens.next(), default_account) {
            (Some(account), Some(kind), Some(identifier), _) => {
                Self::new(AccountName::new(account)?, kind.parse()?, identifier)
            }
            (Some(kind), Some(identifier), None, Some(account)) => {
                Self::new(account.clone(), kind.parse()?, identifier)
            }
            _ => Err(IdError::TooFewTokens(text.to_owned())),
        }
    }

    /// Parses a login: `alice` is a user, `host/app/web` a host, `user/alice` equals `alice`.
    ///
    /// # Errors
    /// [`IdError::Kind`] when the text before the first `/` is no kind of role.
    pub fn from_login(account: &AccountName, login: &str) -> Result<Self, IdError> {
        match login.split_once('/') {
            None => Self::new(account.clone(), Kind::User, login),
            Some((kind, identifier)) => {
                let kind: Kind = kind.parse()?;
                if !kind.is_role() {
                    return Err(IdError::Kind(kind.to_string()));
                }
                Self::new(account.clone(), kind, identifier)
            }
        }
    }

    /// The login that [`Id::from_login`] reads back: bare for users, `kind/identifier` otherwise.
    pub fn to_login(&self) -> String {
        if self.kind == Kind::User && !self.identifier.contains('/') {
            self.identifier.to_string()
        } else {
            format!("{}/{}", self.kind, self.identifier)
        }
    }

    /// An id whose identifier is a word of the program, and so within all limits.
    pub(crate) fn well_known(account: AccountName, kind: Kind, identifier: &'static str) -> Self {
        debug_assert!(!identifier.is_empty());
        Self { account, kind, identifier: identifier.into() }
    }

    /// The same id, its account's text shared with `account`, which must be equal to its own.
    pub(crate) fn sharing(&self, account: AccountName) -> Self {
        debug_assert_eq!(self.account, account);
        Self { account, kind: self.kind, identifier: Arc::clone(&self.identifier) }
    }

    /// The identifier, shared.
    pub(crate) fn shared_identifier(&self) -> Arc<str> {
        Arc::clone(&self.identifier)
    }

    /// The account this id belongs to.
    pub fn account(&self) -> &AccountName {
        &self.account
    }

    /// The kind of thing named.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The part after the second colon.
    pub fn identifier(&self) -> &str {
        &self.identifier
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (account, kind) = (self.account.as_str(), self.kind.as_str());
        // Piece by piece: each request writes some, and formatted pieces cost thrice the time.
        for piece in [account, ":", kind, ":", &self.identifier] {
            f.write_str(piece)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text, None)
    }
}

impl TryFrom<String> for Id {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text, None)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        let (account, kind) = (id.account.as_str(), id.kind.as_str());
        [account, kind, &id.identifier].join(":")
    }
}
