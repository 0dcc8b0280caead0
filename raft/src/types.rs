//! The types that the consensus engine is instantiated with, and [`NodeInfo`], what the log knows
//! of each member. Only `NodeInfo` and its parts leave this crate.

use std::fmt;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::runtime::ConclaveRuntime;
use crate::wire::DecodeError;
use crate::wire::codec::{Reader, Writer};

openraft::declare_raft_types!(
    /// How the engine is instantiated: standard Raft (one leader a term), opaque commands and
    /// replies.
    pub(crate) TypeConfig:
        D = Opaque,
        R = Opaque,
        NodeId = u64,
        Node = NodeInfo,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = ConclaveRuntime,
);

pub(crate) type EngineLogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type EngineVote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type EngineEntry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type EngineMembership = openraft::Membership<u64, NodeInfo>;
pub(crate) type EngineStoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type EngineSnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Engine = openraft::Raft<TypeConfig, crate::adapter::StateMachine>;

/// A command or a reply: bytes that this crate carries and never opens.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Opaque(pub(crate) Bytes);

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opaque({} bytes)", self.0.len())
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// The engine asks for serde on its types; what we store and send goes through `wire` instead.
impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<u8>::deserialize(deserializer)?.into()))
    }
}

/// The part a member is meant to play. A voter-to-be replicates as a follower until it is promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeRole {
    /// Votes, and may lead.
    Voter,
    /// Replicates and answers reads; never votes.
    Follower,
}

impl NodeRole {
    fn tag(self) -> u8 {
        match self {
            Self::Voter => 1,
            Self::Follower => 2,
        }
    }
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Voter => "voter",
            Self::Follower => "follower",
        })
    }
}

/// A member as the log knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name, unique among the members in force.
    pub name: String,
    /// The part it is meant to play.
    pub role: NodeRole,
    /// Ed25519 public key that only this node can sign for.
    pub node_key: [u8; 32],
    /// `host:port` where it speaks to its peers.
    pub peer_address: String,
    /// URL of its API.
    pub api_url: String,
}

/// Version of [`NodeInfo`]'s bytes.
const NODE_INFO_VERSION: u8 = 1;
/// Fewest bytes a [`NodeInfo`] takes: version, role, key and three empty texts.
pub(crate) const NODE_INFO_BYTES_MIN: usize = 1 + 1 + 32 + 3 * 4;

impl NodeInfo {
    /// The versioned encoding kept in membership entries.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish().to_vec()
    }

    /// Reads what [`NodeInfo::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no such encoding, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(Bytes::copy_from_slice(bytes));
        let info = Self::read(&mut input)?;
        input.finish()?;
        Ok(info)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(NODE_INFO_VERSION).u8(self.role.tag()).raw(&self.node_key);
        out.text(&self.name).text(&self.peer_address).text(&self.api_url);
    }

    pub(crate) fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        match input.u8()? {
            NODE_INFO_VERSION => {}
            found => {
                let known = NODE_INFO_VERSION;
                return Err(DecodeError::Version { what: "node info", found, known });
            }
        }
        let role = match input.u8()? {
            1 => NodeRole::Voter,
            2 => NodeRole::Follower,
            tag => return Err(DecodeError::Tag { what: "node role", tag }),
        };
        Ok(Self {
            role,
            node_key: input.array()?,
            name: input.text()?,
            peer_address: input.text()?,
            api_url: input.text()?,
        })
    }
}

impl fmt::Debug for NodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", self.role, self.name, self.peer_address)
    }
}

impl fmt::Display for NodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for NodeInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encode())
    }
}

impl<'de> Deserialize<'de> for NodeInfo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Self::decode(&bytes).map_err(D::Error::custom)
    }
}

/// The place of an entry as everybody outside the engine counts: the first entry is 1.
pub(crate) const fn place(engine_index: u64) -> u64 {
    engine_index.saturating_add(1)
}
