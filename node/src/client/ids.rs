//! Ids as people type them: `app/db` where the kind is plain, `variable:app/db`, or the whole
//! `account:variable:app/db`.

use super::api::segment;
use crate::exit::{Exit, Failure};

/// Every kind that stands in an id.
const KINDS: [&str; 10] = [
    "user",
    "host",
    "group",
    "layer",
    "policy",
    "host_factory",
    "variable",
    "webservice",
    "public_key",
    "configuration",
];

/// A whole id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FullId {
    /// The account.
    pub(super) account: String,
    /// The kind.
    pub(super) kind: String,
    /// The rest, which may hold colons.
    pub(super) identifier: String,
}

impl FullId {
    /// Reads an id. Where it has no kind, `kind` is taken; where it has no account, `account` is.
    ///
    /// # Errors
    /// When the kind is neither there nor known.
    pub(super) fn parse(account: &str, kind: Option<&str>, text: &str) -> Result<Self, Failure> {
        let id = |account: &str, kind: &str, identifier: &str| Self {
            account: account.to_owned(),
            kind: kind.to_owned(),
            identifier: identifier.to_owned(),
        };
        if let Some((first, rest)) = text.split_once(':') {
            if let Some((second, last)) = rest.split_once(':')
                && KINDS.contains(&second)
                && !last.is_empty()
            {
                return Ok(id(first, second, last));
            }
            if KINDS.contains(&first) && !rest.is_empty() {
                return Ok(id(account, first, rest));
            }
        }
        match kind {
            Some(kind) if !text.is_empty() => Ok(id(account, kind, text)),
            _ => Err(Failure::new(
                Exit::Usage,
                format!("{text:?} is no id; write KIND:ID, such as variable:app/db/password"),
            )),
        }
    }

    /// `account/kind/identifier`, escaped for a path.
    pub(super) fn path(&self) -> String {
        format!("{}/{}/{}", segment(&self.account), segment(&self.kind), segment(&self.identifier))
    }
}

impl std::fmt::Display for FullId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.account, self.kind, self.identifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(kind: Option<&str>, text: &str) -> String {
        FullId::parse("acct", kind, text).map_or_else(|_| "refused".to_owned(), |id| id.to_string())
    }

    #[test]
    fn ids_take_what_they_lack_from_where_they_stand() {
        assert_eq!(parsed(None, "variable:a/b"), "acct:variable:a/b");
        assert_eq!(parsed(None, "other:variable:a/b"), "other:variable:a/b");
        assert_eq!(parsed(Some("host"), "a/b"), "acct:host:a/b");
        assert_eq!(parsed(Some("variable"), "a:b:c"), "acct:variable:a:b:c");
        assert_eq!(parsed(None, "user:a:b"), "acct:user:a:b");
        assert_eq!(parsed(None, "user:host:x"), "user:host:x");
        assert_eq!(parsed(None, "a/b"), "refused");
        assert_eq!(parsed(None, "variable:"), "refused");
    }
}
