//! `authn-iam`: a machine at Amazon signs a question to the Security Token Service, "who am I", and
//! hands it over; the service's answer says which role of which account it has.
//!
//! The path names the host, whose id ends in that account and role: nobody else's question says so.

use std::sync::Arc;

use conclave_domain::id::{ResourceId, RoleId};
use futures::future::BoxFuture;
use http::header::HOST;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::outbound::{CallError, Outbound, Target};
use super::sigv4::{SignedRequest, assumed_role, extra_headers, is_account, is_role};
use super::variables::Variables;
use super::{Attempt, Authenticator, Denied, StatusError, Verdict, host_of};
use crate::context::Call;
use crate::error::Refusal;
use crate::settings::Clouds;

const NAME: &str = "authn-iam";
const VARIABLES: [&str; 1] = ["optional-signed-headers"];
/// Largest body looked at, in bytes: the token of a session is some 1 to 2 KB.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Largest answer of the service looked at, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Questions at once; more are answered 503.
const ASKING_MAX: usize = 128;
/// What is asked, whatever the client has signed: with another question the signature does not fit.
const QUESTION: &str = "/?Action=GetCallerIdentity&Version=2011-06-15";
/// The endpoint that status asks.
const GLOBAL: &str = "sts.amazonaws.com";

pub(crate) struct Iam {
    outbound: Arc<Outbound>,
    /// Called in place of the endpoints of the service.
    instead: Option<String>,
    authorities: Option<String>,
    asking: Semaphore,
}

impl Iam {
    pub(crate) fn new(outbound: Arc<Outbound>, clouds: &Clouds) -> Self {
        Self {
            outbound,
            instead: clouds.sts_uri.clone(),
            authorities: clouds.authorities.clone(),
            asking: Semaphore::new(ASKING_MAX),
        }
    }

    /// Asks as an endpoint. Its name stands in the request, wherever that is sent.
    async fn ask(&self, host: &str, mut headers: HeaderMap) -> Result<bytes::Bytes, CallError> {
        let name = host.parse().map_err(|_| CallError::Url("its host is none"))?;
        headers.insert(HOST, name);
        let base = match &self.instead {
            Some(uri) => uri.trim_end_matches('/').to_owned(),
            None => format!("https://{host}"),
        };
        let target = Target::parse(&format!("{base}{QUESTION}"))?;
        self.outbound
            .ask(&target, headers, None, self.authorities.as_deref(), ANSWER_BYTES_MAX)
            .await
    }

    /// Whether the service can be reached; that it refuses what nobody has signed, shows that.
    async fn check_status(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<(), StatusError> {
        signable(call, webservice)?;
        match self.ask(GLOBAL, HeaderMap::new()).await {
            Ok(_) => Ok(()),
            Err(CallError::Status(status)) if status.is_client_error() => Ok(()),
            Err(trouble) => Err(Denied::new(in_trouble(&trouble)).into()),
        }
    }

    async fn check(&self, call: &mut Call, attempt: &Attempt) -> Result<RoleId, Denied> {
        let webservice = attempt.webservice()?;
        let login = attempt.login.as_deref().unwrap_or_default();
        let role = host_of(attempt.account()?, login)?;
        let mut parts = role.identifier().rsplit('/');
        let (Some(named), Some(number)) = (parts.next(), parts.next()) else {
            return Err(Denied::new(UNFIT_LOGIN).of(&role));
        };
        if !is_account(number) || !is_role(named) {
            return Err(Denied::new(UNFIT_LOGIN).of(&role));
        }
        let extra = signable(call, &webservice)?;
        let body = match call.take_body(BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(Refusal::TooLarge { .. }) => {
                return Err(Denied::new("CONJ00018E Invalid AWS headers: too long").of(&role));
            }
            Err(refusal) => return Err(refusal.into()),
        };
        let request = SignedRequest::parse(&body, &extra, call.now).map_err(|why| {
            Denied::new(format!("CONJ00018E Invalid AWS headers: {why}")).of(&role)
        })?;
        let answer = {
            let _place = self.asking.try_acquire().map_err(|_| {
                let refusal = Refusal::unavailable("too many requests wait for STS");
                Denied::with(refusal, "Too many requests wait for STS")
            })?;
            self.ask(&request.host, request.headers).await
        };
        let answer = answer.map_err(|trouble| refused(&trouble).of(&role))?;
        let arn = arn_of(&answer).ok_or_else(|| {
            Denied::new("CONJ00063E STS cannot be asked: its answer is none").of(&role)
        })?;
        match assumed_role(&arn, request.partition) {
            Some(proven) if proven == (number, named) => {}
            Some(_) => {
                let why = "CONJ00063E The client has another role at Amazon than the host's id";
                return Err(Denied::new(why).of(&role));
            }
            None => {
                let why = "CONJ00063E The client has no role at Amazon, or a user's keys";
                return Err(Denied::new(why).of(&role));
            }
        }
        Ok(role)
    }
}

impl Authenticator for Iam {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            if attempt.service.is_none() {
                return Verdict::NotMine;
            }
            Verdict::from(self.check(call, attempt).await)
        })
    }

    fn status<'a>(
        &'a self,
        call: &'a mut Call,
        webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.check_status(call, webservice))
    }
}

const UNFIT_LOGIN: &str = "CONJ00063E The host's id does not end in the number of an account and the \
                           name of a role";

/// Headers that clients of a service may sign besides the usual ones.
fn signable(
    call: &mut Call,
    webservice: &ResourceId,
) -> Result<Vec<http::header::HeaderName>, Denied> {
    let variables = Variables::read(call, webservice, &VARIABLES)?;
    let list = variables.optional(VARIABLES[0])?.unwrap_or_default();
    extra_headers(list)
        .map_err(|why| Denied::new(format!("CONJ00079E '{}' cannot be used: {why}", VARIABLES[0])))
}

fn in_trouble(trouble: &CallError) -> String {
    format!("CONJ00063E STS cannot be asked: {trouble}")
}

/// The service's no, told apart from trouble in asking it in the record; the answer is the same.
fn refused(trouble: &CallError) -> Denied {
    if let CallError::Status(status) = trouble
        && status.is_client_error()
        && *status != StatusCode::TOO_MANY_REQUESTS
    {
        return Denied::new(format!("CONJ00063E STS does not know the signature: {trouble}"));
    }
    Denied::new(in_trouble(trouble))
}

/// Whose question it was, by the service's answer, which must agree with itself.
fn arn_of(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let result = answer.get("GetCallerIdentityResponse")?.get("GetCallerIdentityResult")?;
    let account = result.get("Account")?.as_str()?;
    let arn = result.get("Arn")?.as_str()?;
    (arn.split(':').nth(4) == Some(account)).then(|| arn.to_owned())
}
