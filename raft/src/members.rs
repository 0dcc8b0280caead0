//! Who belongs to the cluster, as far as this node knows: the list that every connection is checked
//! against.
//!
//! The list is the membership in this node's own log. Two exceptions, both for nodes whose log is
//! behind: before the log holds any list, the one from the join answer counts; and a list that a
//! voter we know vouches for counts where it is newer than ours. Without the second a node that was
//! down while the others were replaced could never be reached by its new leader.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::KnownMember;
use crate::types::{EngineStoredMembership, NodeRole};

/// One member list, as of one place in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberList {
    /// Index of the log entry that holds it; none for the list of a join answer.
    pub log_index: Option<u64>,
    /// The members by id.
    pub members: BTreeMap<u64, KnownMember>,
}

impl MemberList {
    pub(crate) fn from_known(known: &[KnownMember]) -> Self {
        let members = known.iter().map(|member| (member.id, member.clone())).collect();
        Self { log_index: None, members }
    }

    pub(crate) fn from_engine(stored: &EngineStoredMembership) -> Self {
        let voters: Vec<u64> = stored.voter_ids().collect();
        let members = stored
            .membership()
            .nodes()
            .map(|(&id, info)| {
                (id, KnownMember { id, info: info.clone(), voter: voters.contains(&id) })
            })
            .collect();
        Self { log_index: stored.log_id().as_ref().map(|id| id.index), members }
    }

    /// Whether this member may act as a voter: it is one, or was admitted to become one.
    pub(crate) fn may_vote(&self, id: u64) -> bool {
        self.members
            .get(&id)
            .is_some_and(|member| member.voter || member.info.role == NodeRole::Voter)
    }
}

/// The list in force, shared by transport, server and handle.
#[derive(Debug)]
pub struct Members {
    list: ArcSwap<MemberList>,
    sources: Mutex<Sources>,
    changed: watch::Sender<u64>,
    /// Somebody unknown, or not known as a voter, came: perhaps we are the one who is behind.
    doubt: tokio::sync::Notify,
}

#[derive(Debug)]
struct Sources {
    me: u64,
    /// Whether this node's own log has ever named it as a member.
    is_named: bool,
    joined_with: MemberList,
    own: MemberList,
    vouched: MemberList,
}

impl Sources {
    /// The newest list; at the same place in the log the node's own. A log that does not reach the
    /// entry that admitted this node is older than what the join answered.
    fn in_force(&self) -> &MemberList {
        if self.vouched.log_index > self.own.log_index {
            &self.vouched
        } else if self.own.log_index.is_some()
            && (self.is_named || self.joined_with.members.is_empty())
        {
            &self.own
        } else {
            &self.joined_with
        }
    }
}

impl Members {
    /// The list of the node `me`, which knows from its joining, or from an earlier start, of these.
    pub(crate) fn new(me: u64, joined_with: MemberList) -> Arc<Self> {
        Arc::new(Self {
            list: ArcSwap::from_pointee(joined_with.clone()),
            sources: Mutex::new(Sources {
                me,
                is_named: false,
                joined_with,
                own: MemberList::default(),
                vouched: MemberList::default(),
            }),
            changed: watch::Sender::new(0),
            doubt: tokio::sync::Notify::new(),
        })
    }

    /// The list in force.
    pub fn list(&self) -> Arc<MemberList> {
        self.list.load_full()
    }

    /// The member of that id.
    pub fn get(&self, id: u64) -> Option<KnownMember> {
        self.list.load().members.get(&id).cloned()
    }

    /// The key that this member signs with.
    pub fn node_key(&self, id: u64) -> Option<[u8; 32]> {
        self.list.load().members.get(&id).map(|member| member.info.node_key)
    }

    /// Takes over the list in this node's own log. It may be older than the last one, when an
    /// uncommitted change was truncated.
    pub(crate) fn set_own(&self, list: MemberList) {
        self.update(|sources| {
            sources.is_named |= list.members.contains_key(&sources.me);
            sources.own = list;
        });
    }

    /// Takes over a list that a known voter vouched for, unless an equally new one is known.
    pub(crate) fn set_vouched(&self, list: MemberList) {
        self.update(|sources| {
            if list.log_index > sources.vouched.log_index {
                sources.vouched = list;
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut Sources)) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut sources);
        let list = sources.in_force();
        if *list != **self.list.load() {
            self.list.store(Arc::new(list.clone()));
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Tells whenever the list in force has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Notes that a peer was refused because this node's list does not allow it.
    pub fn note_doubt(&self) {
        self.doubt.notify_one();
    }

    pub(crate) async fn doubted(&self) {
        self.doubt.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeInfo;

    fn list(log_index: Option<u64>, ids: &[u64]) -> MemberList {
        let members = ids
            .iter()
            .map(|&id| {
                let info = NodeInfo {
                    name: format!("n{id}"),
                    role: NodeRole::Voter,
                    node_key: [0; 32],
                    peer_address: String::new(),
                    api_url: String::new(),
                };
                (id, KnownMember { id, info, voter: true })
            })
            .collect();
        MemberList { log_index, members }
    }

    #[test]
    fn the_newest_list_counts_and_a_truncated_one_is_given_up() {
        let members = Members::new(1, list(None, &[1, 2]));
        assert!(members.get(2).is_some());
        members.set_own(list(Some(0), &[1]));
        assert!(members.get(2).is_none(), "the log's list replaces the join answer's");
        members.set_own(list(Some(9), &[1, 3]));
        assert!(members.get(3).is_some());
        members.set_own(list(Some(0), &[1]));
        assert!(members.get(3).is_none(), "the change was truncated");
        members.set_vouched(list(Some(12), &[1, 4]));
        assert!(members.get(4).is_some());
        members.set_vouched(list(Some(11), &[1, 5]));
        assert!(members.get(5).is_none(), "older than what is vouched for already");
        members.set_own(list(Some(12), &[1, 6]));
        assert!(members.get(6).is_some(), "as new: the node's own log decides");
    }

    #[test]
    fn a_joiner_trusts_its_join_answer_until_its_log_names_it() {
        let members = Members::new(7, list(None, &[1, 2, 7]));
        members.set_own(list(Some(0), &[1]));
        assert!(members.get(2).is_some(), "the founder's list is from before node 2 was there");
        members.set_own(list(Some(30), &[1, 7]));
        assert!(members.get(2).is_none(), "node 2 has left since");
        members.set_own(list(Some(40), &[1]));
        assert!(members.get(7).is_none(), "and now this node has, too");
    }
}
