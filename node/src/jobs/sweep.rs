//! Forgets what has expired: host factory tokens whose time is over. The leader asks the log to, once
//! in a while and only when there is something to forget; until then expiry is checked at each use.

use std::sync::Arc;
use std::time::Duration;

use conclave_domain::command::Command;
use conclave_domain::state::State;
use conclave_domain::time::{Clock, Timestamp};
use conclave_raft::status::NodeState;
use tokio::time::sleep;

use crate::clock::SystemClock;
use crate::compose::{Node, propose};

/// How often the leader looks.
const EVERY: Duration = Duration::from_mins(1);

/// Runs for as long as the node does.
pub async fn sweep(node: Arc<Node>) {
    loop {
        sleep(EVERY).await;
        if node.core.raft.status().state != NodeState::Leader {
            continue;
        }
        let now = SystemClock.now();
        let due = node.core.state.read(|view| due(view.state, now));
        if let Some(command) = due
            && let Err(error) = propose(&node.core.raft, command).await
        {
            tracing::debug!(%error, "sweep.tokens failed; it will be tried again");
        }
    }
}

/// What the log should be asked to forget, if anything.
fn due(state: &State, now: Timestamp) -> Option<Command> {
    let some = state.expired_host_factory_tokens(now).next().is_some();
    some.then_some(Command::SweepHostFactoryTokens)
}

#[cfg(test)]
mod tests {
    use conclave_domain::command::{Actor, Envelope};
    use conclave_domain::effect::{Effect, Row};
    use conclave_domain::evolve::execute;
    use conclave_domain::records::{Digest, HostFactoryToken, RequestId, Sealed};
    use conclave_domain::time::LogIndex;

    use super::*;

    #[test]
    fn the_log_is_asked_only_when_there_is_something_to_forget_and_then_forgets_it() {
        let mut state = State::new();
        for (number, expires_at) in [(1, 100), (2, 200)] {
            let token = HostFactoryToken {
                factory: "demo:host_factory:hf".parse().unwrap(),
                sealed: Sealed(Vec::new()),
                cidr: Vec::new(),
                expires_at: Timestamp(expires_at),
                uses_left: None,
            };
            state.apply(&Effect::put(Row::HostFactoryToken(Digest([number; 32]), token)));
        }
        assert_eq!(due(&state, Timestamp(99)), None);
        let command = due(&state, Timestamp(100)).unwrap();
        let asked = Envelope {
            request_id: RequestId([1; 16]),
            actor: Actor::Node,
            at: Timestamp(100),
            client_ip: String::new(),
            body: command,
        };
        execute(&mut state, LogIndex(1), &asked).reply.unwrap();
        assert!(state.host_factory_token(&Digest([1; 32])).is_none());
        assert!(state.host_factory_token(&Digest([2; 32])).is_some());
        assert_eq!(due(&state, Timestamp(199)), None);
        assert!(due(&state, Timestamp(200)).is_some());
    }
}
