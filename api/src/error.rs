//! Every refusal the door can answer with, and the one table from refusals to statuses and bodies.
//!
//! Inner rooms know no statuses. A refusal has one text for the client and, where that would say too
//! much, another for the log ([`Refusal::reason`]).

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use conclave_domain::id::{AccountName, Id, IdError, ResourceId, RoleId};
use conclave_domain::outcome::Rejection;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::ports::{ProposeError, ReadError};
use crate::wire::json;

/// JSON bodies.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// Text bodies.
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// URL of the leader's API, on answers that refuse a write.
pub(crate) const LEADER: HeaderName = HeaderName::from_static("x-conclave-leader");

/// A "no" of the door.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The status says it all.
    Empty(StatusCode),
    /// The token middleware's plain text.
    Text(StatusCode, &'static str),
    /// No such record, or none that the caller may know of.
    RecordMissing {
        /// Kind as text; an unknown one in requests that name any.
        kind: String,
        /// The account asked for.
        account: String,
        /// The identifier asked for.
        identifier: String,
    },
    /// The secret is not there, was never set, or may not be known of.
    SecretMissing {
        /// The full id asked for.
        id: String,
    },
    /// The role whose credentials were asked for is not there, or may not be known of.
    CredentialMissing {
        /// The role asked for.
        target: String,
        /// Who asked.
        role: String,
    },
    /// JSON 401 with a text that clients print.
    Unauthorized(&'static str),
    /// A "no" of the v2 API in its own words.
    V2(StatusCode, String),
    /// Something is wrong with the frame of a request; the text says what.
    BadRequest(String),
    /// No such issuer, or none that the caller may read.
    IssuerMissing {
        /// Its name.
        id: String,
    },
    /// An authenticator is not fit to be used.
    AuthenticatorStatus {
        /// The status.
        status: StatusCode,
        /// What is wrong, in the form that clients know.
        error: String,
    },
    /// Something is wrong with a parameter.
    Argument(String),
    /// A parameter that has to be there is not.
    ParameterMissing {
        /// Which.
        name: &'static str,
    },
    /// There is no such account.
    AccountMissing {
        /// Its name.
        account: String,
    },
    /// A value that the rules refuse.
    Unprocessable(String),
    /// A field of the request fails its check.
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The policy text is refused.
    Policy {
        /// What is wrong with it.
        message: String,
        /// Line and column, counted as the parser does, where the text itself is wrong.
        place: Option<(usize, usize)>,
    },
    /// A dry run of a text that could not be loaded.
    DryRun {
        /// The answer, which clients read like that of one that could.
        document: Value,
        /// What is wrong with the text.
        message: String,
    },
    /// Somebody else changed the account while a policy was being planned, again and again.
    PolicyConflict {
        /// After how many seconds to try again.
        retry_after: u64,
    },
    /// Something of that name is there already.
    Conflict {
        /// What sort of thing.
        what: String,
        /// Its name.
        id: String,
    },
    /// Not for this kind of thing.
    MethodNotAllowed(String),
    /// This node takes no writes.
    ReadOnly {
        /// URL of the leader's API, where known.
        leader: Option<String>,
    },
    /// A batch holds a value that no JSON can carry.
    NotUtf8,
    /// The body is larger than allowed.
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// Too many failed guesses from here.
    TooMany {
        /// When to try again.
        retry_after: Duration,
    },
    /// A directory gave no answer, or too late.
    Directory {
        /// Whether it was too late.
        is_slow: bool,
        /// What was wrong.
        message: String,
    },
    /// What was asked for would remove more than is allowed without being told so.
    Guarded(String),
    /// Not now: sealed, overloaded, without a leader, or the fate of the write is not known.
    Unavailable {
        /// Why, for the log and the header `X-Conclave-Reason`.
        reason: Cow<'static, str>,
    },
    /// A broken invariant or a failed disk. The text goes to the log only.
    Fault(String),
}

impl Refusal {
    /// Visible, but the privilege is lacking.
    pub(crate) const FORBIDDEN: Self = Self::Empty(StatusCode::FORBIDDEN);
    /// Bad or missing credentials.
    pub(crate) const UNAUTHENTICATED: Self = Self::Empty(StatusCode::UNAUTHORIZED);
    /// No such route.
    pub(crate) const UNROUTED: Self = Self::Empty(StatusCode::NOT_FOUND);

    /// A record that is missing or not visible.
    pub(crate) fn missing(id: &Id) -> Self {
        Self::RecordMissing {
            kind: id.kind().as_str().to_owned(),
            account: id.account().as_str().to_owned(),
            identifier: id.identifier().to_owned(),
        }
    }

    /// As [`Refusal::missing`], for an id that is only text.
    pub(crate) fn missing_text(text: &str) -> Self {
        let mut tokens = text.splitn(3, ':');
        let mut next = || tokens.next().unwrap_or_default().to_owned();
        Self::RecordMissing { account: next(), kind: next(), identifier: next() }
    }

    /// A secret without a value to give.
    pub(crate) fn secret_missing(id: &ResourceId) -> Self {
        Self::SecretMissing { id: id.to_string() }
    }

    /// Credentials of a role that is missing or not visible.
    pub(crate) fn credential_missing(target: &str, role: &RoleId) -> Self {
        Self::CredentialMissing { target: target.to_owned(), role: role.to_string() }
    }

    /// Not now; try again.
    pub(crate) fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable { reason: reason.into() }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Empty(status)
            | Self::Text(status, _)
            | Self::V2(status, _)
            | Self::AuthenticatorStatus { status, .. } => *status,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::RecordMissing { .. }
            | Self::IssuerMissing { .. }
            | Self::SecretMissing { .. }
            | Self::CredentialMissing { .. }
            | Self::AccountMissing { .. } => StatusCode::NOT_FOUND,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Argument(_)
            | Self::ParameterMissing { .. }
            | Self::Unprocessable(_)
            | Self::Invalid { .. }
            | Self::Policy { .. }
            | Self::DryRun { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::PolicyConflict { .. } | Self::Conflict { .. } | Self::Guarded(_) => {
                StatusCode::CONFLICT
            }
            Self::Directory { is_slow: true, .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Directory { is_slow: false, .. } => StatusCode::BAD_GATEWAY,
            Self::MethodNotAllowed(_) | Self::ReadOnly { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotUtf8 => StatusCode::NOT_ACCEPTABLE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Fault(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The reason, as it stands in the audit record.
    pub fn reason(&self) -> Cow<'_, str> {
        match self {
            Self::Empty(status) => status.canonical_reason().unwrap_or("refused").into(),
            Self::V2(_, text) | Self::BadRequest(text) => text.into(),
            Self::IssuerMissing { .. } => ISSUER_MISSING.into(),
            Self::AuthenticatorStatus { error, .. } => error.into(),
            Self::Text(_, text) | Self::Unauthorized(text) => (*text).into(),
            Self::RecordMissing { kind, account, identifier } => {
                record_missing(kind, account, identifier).into()
            }
            Self::SecretMissing { id } => secret_missing(id).into(),
            Self::CredentialMissing { target, role } => credential_missing(target, role).into(),
            Self::Argument(text) | Self::Unprocessable(text) | Self::MethodNotAllowed(text) => {
                text.into()
            }
            Self::ParameterMissing { name } => {
                format!("param is missing or the value is empty: {name}").into()
            }
            Self::AccountMissing { account } => format!("Account '{account}' not found").into(),
            Self::Invalid { field, message } => format!("{field} {message}").into(),
            Self::Policy { message, .. }
            | Self::DryRun { message, .. }
            | Self::Directory { message, .. }
            | Self::Guarded(message) => message.into(),
            Self::PolicyConflict { .. } => POLICY_CONFLICT.into(),
            Self::Conflict { what, id } => format!("{what} \"{id}\" already exists").into(),
            Self::ReadOnly { .. } => READ_ONLY.into(),
            Self::NotUtf8 => NOT_UTF8.into(),
            Self::TooLarge { bytes_max } => format!("body is over {bytes_max} bytes").into(),
            Self::TooMany { .. } => "too many failed attempts".into(),
            Self::Unavailable { reason } => reason.as_ref().into(),
            Self::Fault(_) => "internal error".into(),
        }
    }

    fn document(&self) -> Option<Value> {
        let plain = |code: &str| json!({"error": {"code": code, "message": self.reason()}});
        Some(match self {
            Self::Empty(_)
            | Self::Text(..)
            | Self::TooLarge { .. }
            | Self::TooMany { .. }
            | Self::Unavailable { .. }
            | Self::Fault(_) => return None,
            Self::BadRequest(_) => plain("bad_request"),
            Self::IssuerMissing { id } => json!({"error": {
                "code": "not_found",
                "message": ISSUER_MISSING,
                "target": null,
                "details": {"code": "not_found", "target": "id", "message": id},
            }}),
            Self::V2(status, text) => json!({"code": status.as_str(), "message": text}),
            Self::AuthenticatorStatus { error, .. } => json!({"status": "error", "error": error}),
            Self::RecordMissing { kind, account, identifier } => json!({"error": {
                "code": "not_found",
                "message": self.reason(),
                "target": kind,
                "details": {
                    "code": "not_found",
                    "target": "id",
                    "message": format!("{account}:{kind}:{identifier}"),
                },
            }}),
            Self::SecretMissing { .. } | Self::CredentialMissing { .. } => plain("not_found"),
            Self::Unauthorized(_) => plain("unauthorized"),
            Self::Argument(_) => plain("argument_error"),
            Self::ParameterMissing { .. } => plain("parameter_missing"),
            Self::AccountMissing { .. } => json!({"error": {
                "code": "not_found",
                "message": self.reason(),
                "target": "accounts",
            }}),
            Self::Unprocessable(_) => plain("unprocessable_entity"),
            Self::Invalid { field, message } => json!({"error": {
                "code": "validation_failed",
                "message": self.reason(),
                "details": [
                    {"code": "validation_failed", "target": field, "message": message},
                ],
            }}),
            Self::Policy { message, place: None } => {
                json!({"error": {"code": "policy_invalid", "message": message}})
            }
            Self::Policy { message, place: Some((line, column)) } => json!({"error": {
                "code": "policy_invalid",
                "message": message,
                "innererror": {
                    "code": "policy_invalid",
                    "filename": "policy",
                    "line": line,
                    "column": column,
                },
            }}),
            Self::DryRun { document, .. } => document.clone(),
            Self::PolicyConflict { .. } => plain("policy_conflict"),
            Self::Conflict { what, id } => json!({"error": {
                "code": "conflict",
                "message": self.reason(),
                "target": what,
                "details": {"code": "conflict", "target": "id", "message": id},
            }}),
            Self::MethodNotAllowed(_) => plain("method_not_allowed"),
            Self::ReadOnly { .. } => json!({"error": {"code": 405, "message": READ_ONLY}}),
            Self::NotUtf8 => plain("not_acceptable"),
            Self::Directory { .. } => plain("directory"),
            Self::Guarded(_) => plain("guarded"),
        })
    }

    /// After how many seconds it is worth trying again, where that is so.
    fn retry_after(&self) -> Option<u64> {
        if let Self::PolicyConflict { retry_after } = self {
            Some(*retry_after)
        } else if let Self::TooMany { retry_after } = self {
            Some(retry_after.as_secs().max(1))
        } else {
            matches!(self, Self::Unavailable { .. }).then_some(1)
        }
    }

    /// The answer that goes to a client of the v2 API: in its media type, and in its one form.
    pub(crate) fn into_v2_response(self, media_type: HeaderValue) -> Response<Body> {
        let status = self.status();
        let says_nothing = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            || matches!(self, Self::Empty(_) | Self::Unavailable { .. } | Self::Fault(_));
        let message = self.reason().into_owned();
        let mut response = self.into_response();
        let headers = response.headers_mut();
        headers.remove(CONTENT_TYPE);
        if says_nothing {
            *response.body_mut() = Body::empty();
        } else {
            headers.insert(CONTENT_TYPE, media_type);
            let document = json!({"code": status.as_str(), "message": message});
            *response.body_mut() = Body::from(json::to_vec(&document));
        }
        response
    }

    /// The answer that goes to the client.
    pub(crate) fn into_response(self) -> Response<Body> {
        let status = self.status();
        let (body, content_type) = match (self.document(), &self) {
            (Some(document), _) => (Body::from(json::to_vec(&document)), Some(JSON)),
            (None, Self::Text(_, text)) => (Body::from(*text), Some(TEXT)),
            (None, _) => (Body::empty(), None),
        };
        let mut response = Response::new(body);
        if let Some(content_type) = content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::Unavailable { reason } = &self
            && let Ok(reason) = HeaderValue::from_str(reason)
        {
            headers.insert(HeaderName::from_static("x-conclave-reason"), reason);
        }
        if let Self::ReadOnly { leader: Some(leader) } = &self
            && let Ok(leader) = HeaderValue::from_str(leader)
        {
            headers.insert(LEADER, leader);
        }
        response
    }
}

const ISSUER_MISSING: &str = "Issuer not found";
const POLICY_CONFLICT: &str = "Concurrent policy load in progress, please retry";
const READ_ONLY: &str = "Write operations are not allowed";
const NOT_UTF8: &str = "CONJ00074E Issue encoding secret into JSON format, try including \
                        'Accept-Encoding: base64' header in request.";

/// `Variable 'x' not found in account 'acct'`, the kind capitalised in its first letter only.
pub(crate) fn record_missing(kind: &str, account: &str, identifier: &str) -> String {
    let kind = if kind.is_empty() { "unknown kind" } else { kind };
    let mut letters = kind.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    let kind: String = first.into_iter().chain(letters).collect();
    format!("{kind} '{identifier}' not found in account '{account}'")
}

fn secret_missing(id: &str) -> String {
    format!("CONJ00076E Variable {id} is empty or not found.")
}

fn credential_missing(target: &str, role: &str) -> String {
    format!("CONJ00123E Resource '{target}' requested by role '{role}' not found")
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NotFound { resource } => Self::missing(&resource),
            Rejection::Forbidden { .. } | Rejection::JoinTokenRefused(_) => Self::FORBIDDEN,
            Rejection::Unauthenticated | Rejection::NoCredentials { .. } => Self::UNAUTHENTICATED,
            Rejection::Stale { .. } => Self::PolicyConflict { retry_after: 1 },
            Rejection::Exists { what, id } => Self::Conflict { what, id },
            Rejection::Invalid(text) => Self::Unprocessable(text),
        }
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::TooLarge => Self::Empty(StatusCode::PAYLOAD_TOO_LARGE),
            ProposeError::NoLeader
            | ProposeError::Overloaded
            | ProposeError::Unknown
            | ProposeError::Stopped => Self::unavailable(error.to_string()),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<IdError> for Refusal {
    fn from(error: IdError) -> Self {
        Self::Argument(error.to_string())
    }
}

/// Parses an account out of a URL; what is no account name is no route.
pub(crate) fn account(text: &str) -> Result<AccountName, Refusal> {
    AccountName::new(text).map_err(|_not_a_name| Refusal::UNROUTED)
}
