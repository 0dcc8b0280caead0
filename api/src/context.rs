//! One request on its way through the door: who asks, what for, and what is to be recorded of it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use conclave_domain::id::{AccountName, Id, Kind, ResourceId, RoleId};
use conclave_domain::state::State;
use conclave_domain::time::Timestamp;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::audit::Deed;
use crate::door::Door;
use crate::error::{JSON, Refusal, TEXT};
use crate::limits;
use crate::ports::Secret;
use crate::router::Route;
use crate::token::{TokenError, Verified};
use crate::wire::json;
use crate::wire::query::Query;

/// What stood in the places that a route's pattern leaves open, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    pub(crate) account: Option<AccountName>,
    pub(crate) kind: Option<Kind>,
    pub(crate) identifier: Option<String>,
    pub(crate) authenticator: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) login: Option<String>,
    pub(crate) r#type: Option<String>,
    pub(crate) name: Option<String>,
    /// A secret that stands in the path.
    pub(crate) token: Option<Zeroizing<String>>,
}

/// One request.
pub(crate) struct Call {
    pub(crate) door: Arc<Door>,
    pub(crate) route: &'static Route,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) params: Params,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Body>,
    pub(crate) client_ip: IpAddr,
    /// Who is at the other end of the connection: the client, or a proxy before it.
    pub(crate) peer_ip: IpAddr,
    /// The certificates that it showed; that it has their key is all that is known of them.
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
    pub(crate) request_id: String,
    pub(crate) now: Timestamp,
    pub(crate) deadline: Instant,
    pub(crate) principal: Option<Arc<Verified>>,
    /// What is to be recorded, filled in by the handler before it decides.
    pub(crate) deeds: Vec<Deed>,
    /// The reason in the record, where it is not the refusal's own.
    pub(crate) reason: Option<Cow<'static, str>>,
    /// How long a token lives that is the answer, in seconds, where its authenticator says that.
    pub(crate) token_seconds: Option<u32>,
    /// The newest log index that the answer depends on.
    pub(crate) index: u64,
}

/// A "yes" of the door.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Answer {
    pub(crate) const fn empty(status: StatusCode) -> Self {
        Self { status, content_type: None, body: Bytes::new(), headers: Vec::new() }
    }

    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self::json_bytes(json::to_vec(value))
    }

    pub(crate) fn json_bytes(body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(JSON), body: body.into(), ..Self::empty(StatusCode::OK) }
    }

    pub(crate) fn text(body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(TEXT), body: body.into(), ..Self::empty(StatusCode::OK) }
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.extend(self.headers);
        response
    }
}

/// Bytes that are wiped once the answer has left.
pub(crate) fn wiped_bytes(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    struct Owner(Zeroizing<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(bytes))
}

/// A secret as a body: not copied, and wiped once the answer has left.
pub(crate) fn secret_bytes(secret: Secret) -> Bytes {
    struct Owner(Secret);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.expose_secret()
        }
    }
    Bytes::from_owner(Owner(secret))
}

impl Call {
    /// Who asks, by its token.
    pub(crate) fn caller(&self) -> Result<&Arc<Verified>, Refusal> {
        self.principal.as_ref().ok_or_else(|| TokenError::Missing.into())
    }

    /// Who asks, as it stands in records.
    pub(crate) fn user(&self) -> String {
        self.principal.as_ref().map_or_else(String::new, |caller| caller.role_text.clone())
    }

    /// The account in the path.
    pub(crate) fn account(&self) -> Result<&AccountName, Refusal> {
        self.params.account.as_ref().ok_or(Refusal::UNROUTED)
    }

    /// The id that the path names.
    pub(crate) fn id(&self) -> Result<ResourceId, Refusal> {
        match (&self.params.account, self.params.kind, &self.params.identifier) {
            (Some(account), Some(kind), Some(identifier)) => {
                Id::new(account.clone(), kind, identifier).map_err(|_too_long| Refusal::UNROUTED)
            }
            _ => Err(Refusal::UNROUTED),
        }
    }

    /// One header as text; nothing when it is absent or not visible ASCII.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `Authorization` header.
    pub(crate) fn authorization(&self) -> Option<&[u8]> {
        self.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)
    }

    /// The whole body, in memory that is wiped.
    pub(crate) async fn take_body(
        &mut self,
        bytes_max: usize,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let time_max = self.door.settings().body_time_max;
        match self.body.take() {
            Some(body) if http_body::Body::size_hint(&body).lower() > bytes_max as u64 => {
                limits::discard(body, &self.headers).await;
                Err(Refusal::TooLarge { bytes_max })
            }
            Some(body) => limits::read_body(body, bytes_max, time_max).await,
            None => Ok(Zeroizing::default()),
        }
    }

    /// Says what is about to be decided.
    pub(crate) fn deed(
        &mut self,
        message_id: &'static str,
        operation: &'static str,
        subject: Vec<(Cow<'static, str>, String)>,
        did: String,
        tried: String,
    ) {
        let user = Some(self.user());
        self.deeds.push(Deed {
            message_id,
            operation: operation.into(),
            user,
            subject,
            did,
            tried,
            ..Deed::default()
        });
    }
}

/// Checks that the state still knows the caller: its account's key and its role.
pub(crate) fn confirm(state: &State, caller: &Verified) -> Result<(), Refusal> {
    if !caller.is_key_in_force(state) {
        return Err(TokenError::Invalid.into());
    }
    role_exists(state, &caller.role)
}

/// A valid token of a role that is gone gets nothing.
fn role_exists(state: &State, role: &RoleId) -> Result<(), Refusal> {
    if state.role(role).is_some() { Ok(()) } else { Err(Refusal::FORBIDDEN) }
}
