//! Whether the token of a service account is still good, by the word of the cluster that gave it out (`TokenReview`).
//! Signature and times of a token are in order until it ends; that its pod is gone only the cluster knows.

use std::sync::Arc;

use bytes::Bytes;
use conclave_domain::id::ResourceId;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::cluster::{ANSWER_BYTES_MAX, Cluster, in_trouble};
use crate::authn::outbound::{CallError, Outbound};
use crate::authn::{Denied, StatusError};
use crate::context::{Call, wiped_bytes};
use crate::error::Refusal;

/// The annotation of a webservice that has its tokens reviewed, `true` or `false`.
const ANNOTATION: &str = "authn-jwt/token_review";
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Reviews that are waited for at once; more logins are answered 503.
const REVIEWS_MAX: usize = 64;
/// What is shown to try a cluster: no token at all.
const NO_TOKEN: &str = "conclave-status-check";

/// What a cluster is asked.
pub(in crate::authn) struct Question<'a> {
    /// As the client brought it.
    pub(in crate::authn) token: &'a str,
    /// For whom it must be; without one, for the cluster itself.
    pub(in crate::authn) audience: Option<&'a str>,
    /// Whose it says it is (`sub`).
    pub(in crate::authn) subject: &'a str,
}

/// Asks clusters.
pub(in crate::authn) struct Reviewer {
    outbound: Arc<Outbound>,
    asking: Semaphore,
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
}

impl Reviewer {
    pub(in crate::authn) fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound, asking: Semaphore::new(REVIEWS_MAX) }
    }

    /// Whether policy wants the tokens of a service reviewed.
    pub(in crate::authn) fn is_wanted(
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<bool, Denied> {
        let text = call.open_view(|view| {
            Ok(view.state.annotation(webservice, ANNOTATION).map(|one| one.value.clone()))
        })?;
        match text.as_deref().map(str::trim) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(Denied::new(format!("{ANNOTATION} = {other:?} is neither true nor false")))
            }
        }
    }

    /// Sees that a token is good.
    pub(in crate::authn) async fn review(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
        question: &Question<'_>,
    ) -> Result<(), Denied> {
        let status = self.ask(call, webservice, question).await?;
        let refused = |why: String| Err(Denied::new(format!("The cluster's review: {why}")));
        if !status.authenticated {
            let why =
                if status.error.is_empty() { "it is not authenticated" } else { &status.error };
            return refused(format!("the token is not good any more: {why}"));
        }
        if question.subject.is_empty() || status.user.username != question.subject {
            return refused(format!("the token is that of '{}'", status.user.username));
        }
        // Clusters that know nothing of audiences name none, and have looked at none.
        if question.audience.is_some_and(|ours| !status.audiences.iter().any(|one| one == ours)) {
            return refused("the token is for others".to_owned());
        }
        Ok(())
    }

    /// Whether the cluster answers, and has this node ask.
    pub(in crate::authn) async fn try_out(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<(), StatusError> {
        let nothing = Question { token: NO_TOKEN, audience: None, subject: "" };
        if self.ask(call, webservice, &nothing).await?.authenticated {
            let why = "The cluster's review finds everything good, tokens or not";
            return Err(Denied::new(why).into());
        }
        Ok(())
    }

    async fn ask(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
        question: &Question<'_>,
    ) -> Result<Status, Denied> {
        let _place = self.asking.try_acquire().map_err(|_| {
            let why = "Too many requests wait for reviews of Kubernetes";
            Denied::with(Refusal::unavailable(why), why)
        })?;
        let cluster = Cluster::read(call, webservice).await?;
        let mut headers = cluster.headers()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self
            .outbound
            .ask(
                &cluster.target(PATH)?,
                headers,
                Some(body(question)),
                Some(&cluster.authorities),
                ANSWER_BYTES_MAX,
            )
            .await;
        let answer = answer.map_err(|error| in_trouble(&error))?;
        let review: Result<Review, _> = serde_json::from_slice(&answer);
        let unread = |_| in_trouble(&CallError::Answer("its answer is no review"));
        review.map(|review| review.status).map_err(unread)
    }
}

/// The question as Kubernetes reads it.
fn body(question: &Question<'_>) -> Bytes {
    let audiences: Vec<&str> = question.audience.into_iter().collect();
    let text = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": question.token, "audiences": audiences},
    });
    wiped_bytes(zeroize::Zeroizing::new(text.to_string().into_bytes()))
}
