//! Tokens for programs of this very machine that need no credentials, because whoever can reach the
//! socket that `node` listens on may act as anybody: one question, one token, and a record of it.

use std::net::IpAddr;

use conclave_domain::id::{AccountName, RoleId};
use ipnet::IpNet;
use serde::Deserialize;

use crate::audit::Deed;
use crate::credentials::{hex, random};
use crate::door::Door;
use crate::error::Refusal;
use crate::ports::Part;

/// Longest life of a token from here, in seconds; the bound of every configured life.
const LIFE_MAX: i64 = 5 * 60 * 60;
/// Most ranges in one token.
const CIDRS_MAX: usize = 32;

/// One line from the socket.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    account: String,
    sub: String,
    #[serde(default)]
    exp: Option<i64>,
    #[serde(default)]
    cidr: Option<Vec<String>>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The line is no question, or asks for what there is not.
    #[error("{0}")]
    Question(String),
    /// This node cannot answer now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Refusal> for LocalError {
    fn from(refusal: Refusal) -> Self {
        Self::Unavailable(refusal.reason().into_owned())
    }
}

impl Door {
    /// Answers one line `{"account","sub","exp"?,"cidr"?}` with an access token's JSON. The role need
    /// not exist: then the token is good for nothing. The record is written before the token is given.
    ///
    /// # Errors
    /// [`LocalError`]; the client is told nothing of it.
    pub async fn issue_locally(&self, line: &[u8]) -> Result<String, LocalError> {
        let question: Question = serde_json::from_slice(line)
            .map_err(|error| LocalError::Question(format!("not a question: {error}")))?;
        let account = AccountName::new(&question.account)
            .map_err(|error| LocalError::Question(error.to_string()))?;
        let role = RoleId::from_login(&account, &question.sub)
            .map_err(|error| LocalError::Question(error.to_string()))?;
        let made = self.make_locally(&account, &role, &question).await;
        let mut id = [0_u8; 16];
        random(&mut id).map_err(Refusal::from)?;
        let deed = Deed {
            message_id: "authn",
            operation: "authenticate".into(),
            user: Some(role.to_string()),
            authenticator: Some("authn-local".to_owned()),
            subject: vec![("role".into(), role.to_string())],
            did: format!("{role} successfully authenticated with authenticator authn-local"),
            tried: format!("{role} failed to authenticate with authenticator authn-local"),
            ..Deed::default()
        };
        let reason = made.as_ref().err().map(ToString::to_string);
        let record = deed.record(self.clock.now(), &hex(&id), "", reason.as_deref());
        self.spool
            .append(&[record])
            .await
            .map_err(|error| LocalError::Unavailable(error.to_string()))?;
        made
    }

    async fn make_locally(
        &self,
        account: &AccountName,
        role: &RoleId,
        question: &Question,
    ) -> Result<String, LocalError> {
        let cidr = question.cidr.as_deref().unwrap_or_default();
        if cidr.len() > CIDRS_MAX {
            return Err(LocalError::Question(format!("more than {CIDRS_MAX} ranges")));
        }
        let cidr: Vec<IpNet> = cidr
            .iter()
            .map(|text| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)))
            .collect::<Result<_, _>>()
            .map_err(|_no_range| LocalError::Question("cidr holds no addresses".to_owned()))?;
        let now = self.clock.now().seconds();
        let usual = if role.kind() == conclave_domain::id::Kind::User {
            self.settings().user_token_seconds
        } else {
            self.settings().host_token_seconds
        };
        let expires_at = question.exp.unwrap_or(now + i64::from(usual));
        if !(now + 1..=now + LIFE_MAX).contains(&expires_at) {
            return Err(LocalError::Question(format!(
                "exp must be within {LIFE_MAX} seconds from now"
            )));
        }
        // A node that is out of touch may not know which key is in force.
        let age = self.proposer.age();
        if self.proposer.part() == Part::Follower
            && age.is_none_or(|age| age > self.settings().staleness_max)
        {
            return Err(LocalError::Unavailable("out of touch for too long".to_owned()));
        }
        let key = self
            .state
            .read(|view| view.state.account(account).map(|found| found.signing_key.clone()))
            .ok_or_else(|| LocalError::Question(format!("there is no account {account}")))?;
        let vault = self.vault()?;
        let token = self.tokens.mint_special(&vault, role, &key, (now, expires_at), &cidr).await?;
        Ok(token.envelope)
    }
}
