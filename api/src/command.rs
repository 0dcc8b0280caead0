//! From a checked request to a command in the log: stamped, numbered, proposed until its fate is
//! known or the request's time is up.

use std::time::Duration;

use conclave_domain::command::{self, Actor, Command, Envelope};
use conclave_domain::id::RoleId;
use conclave_domain::level;
use conclave_domain::outcome::{self, Reply};
use conclave_domain::records::RequestId;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::context::Call;
use crate::credentials::{self, api_key_digest};
use crate::door::Door;
use crate::error::Refusal;
use crate::ports::{ProposeError, Vault};
use crate::token::sha256;

/// The header by which a client marks retries of one request as such.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// First pause before proposing again, unless another leader is known earlier; each next one is twice as
/// long.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(250);

impl Call {
    /// Whether the client marked this request as one that it may repeat.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.headers.contains_key(IDEMPOTENCY_KEY)
    }

    /// The API key that a role has since this request's command was carried out: `fresh`, unless the
    /// log had known the request already. Then the key in force is that of the first try.
    pub(crate) async fn key_in_force(
        &mut self,
        vault: &Vault,
        role: &RoleId,
        fresh: Zeroizing<String>,
    ) -> Result<Zeroizing<String>, Refusal> {
        if !self.is_repeatable() {
            return Ok(fresh);
        }
        self.wait_for_seen(self.index).await?;
        let kept = self.open_view(|view| Ok(view.state.credential(role).cloned()))?;
        let made = api_key_digest(fresh.as_bytes());
        let Some(kept) = kept.filter(|kept| kept.api_key_digest != made) else { return Ok(fresh) };
        let opened = vault
            .open(role, &kept.api_key)
            .map_err(|fault| Refusal::Fault(format!("API key of {role}: {fault}")))?;
        Ok(Zeroizing::new(String::from_utf8_lossy(opened.expose_secret()).into_owned()))
    }

    /// What an earlier try of this request was answered, as far as this node's state knows; nothing for
    /// requests that are not marked as repeatable.
    pub(crate) fn answered_before(&mut self, id: &RequestId) -> Result<Option<Reply>, Refusal> {
        if !self.is_repeatable() {
            return Ok(None);
        }
        let kept =
            self.open_view(|view| Ok(view.state.answered(id).map(|one| one.reply.clone())))?;
        kept.map(|reply| outcome::codec::decode(&reply))
            .transpose()
            .map_err(|error| Refusal::Fault(format!("reply of the log: {error}")))
    }

    /// Names this request: at random, or from the client's idempotency key, caller, route and body,
    /// so that no other caller and no other request can meet its answer.
    pub(crate) fn command_id(&self, body_digest: &[u8; 32]) -> Result<RequestId, Refusal> {
        let mut id = [0_u8; 16];
        match self.headers.get(IDEMPOTENCY_KEY) {
            None => credentials::random(&mut id)?,
            Some(key) => {
                let mut text = Vec::with_capacity(256);
                for part in [
                    self.user().as_bytes(),
                    self.method.as_str().as_bytes(),
                    self.path.as_bytes(),
                    key.as_bytes(),
                    body_digest,
                ] {
                    // Lengths go in, so that no two lists of parts make one text.
                    text.extend_from_slice(&(part.len() as u64).to_be_bytes());
                    text.extend_from_slice(part);
                }
                id.copy_from_slice(&sha256(&text)[..16]);
            }
        }
        Ok(RequestId(id))
    }

    /// Proposes a command and waits for what it was answered.
    ///
    /// While no leader is known, and while the fate of the command is not known, it is proposed
    /// again with the same id: the log answers a repeated id as it did the first time. That is done as
    /// soon as another leader is known, so that a hand-over costs no more than it takes.
    pub(crate) async fn propose(
        &mut self,
        request_id: RequestId,
        actor: Actor,
        body: Command,
    ) -> Result<Reply, Refusal> {
        let envelope = Envelope {
            request_id,
            actor,
            at: self.now,
            client_ip: self.client_ip.to_string(),
            body,
        };
        let door = self.door.clone();
        let (index, reply) =
            door.propose(&envelope, self.deadline).await.inspect_err(|refusal| {
                let reason = refusal.reason();
                tracing::warn!(%reason, request_id = %self.request_id, "write.propose gave up");
            })?;
        self.index = self.index.max(index);
        Ok(reply)
    }
}

impl Door {
    /// As [`Call::propose`], whoever proposes. Tells the command's place in the log, too.
    pub(crate) async fn propose(
        &self,
        envelope: &Envelope,
        deadline: Instant,
    ) -> Result<(u64, Reply), Refusal> {
        let needed = level::needed(envelope);
        if needed > self.state.read(|view| view.state.level()) {
            let text = format!(
                "this takes feature level {needed}, which not all members of the cluster know yet"
            );
            return Err(Refusal::unavailable(text));
        }
        let bytes = command::codec::encode(envelope);
        let mut pause = PAUSE_FIRST;
        loop {
            let reign = self.proposer.reign();
            let attempt = self.proposer.propose(bytes.clone());
            let error = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(committed)) => {
                    return outcome::codec::decode(&committed.reply)
                        .map(|reply| (committed.index, reply))
                        .map_err(|error| Refusal::Fault(format!("reply of the log: {error}")));
                }
                Ok(Err(error)) => error,
                Err(_elapsed) => ProposeError::Unknown,
            };
            match &error {
                ProposeError::NoLeader | ProposeError::Unknown => {}
                ProposeError::Overloaded | ProposeError::TooLarge | ProposeError::Stopped => {
                    return Err(error.into());
                }
            }
            let next = Instant::now() + pause;
            if next >= deadline {
                return Err(error.into());
            }
            tokio::select! {
                () = self.proposer.next_reign(reign) => pause = PAUSE_FIRST,
                () = tokio::time::sleep_until(next) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }
}
