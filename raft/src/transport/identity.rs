//! Which node is at the other end: the proof that a shared certificate cannot give.
//!
//! On each new connection, before anything else, both ends sign the connection's TLS exporter value
//! with their node keys. The exporter value is unique to the connection, so a proof is worth nothing
//! on another one.
//!
//! ```text
//! dialler → acceptor   hello: version, lane, cluster, from, to, node key, standing, signature
//! acceptor → dialler   proof: version, standing, signature       (or the connection is closed)
//!
//! signed = "conclave node proof 1" | side | lane | cluster | exporter | from | to | standing
//! ```
//!
//! `standing` is what the node shows of its disk; storage judges it (an old disk must not come back).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use bytes::Bytes;

use super::Lane;
use crate::wire::DecodeError;
use crate::wire::codec::{Reader, Writer};

/// Label of the TLS exporter value (RFC 8446 section 7.5).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-conclave-node-proof";
/// Longest hello or proof accepted.
pub(crate) const PROOF_BYTES_MAX: usize = 1024;

const CONTEXT: &[u8] = b"conclave node proof 1";
const VERSION: u8 = 1;
const STANDING_BYTES_MAX: usize = 256;

/// A node's Ed25519 key pair.
#[derive(Clone)]
pub struct NodeKey(Arc<Ed25519KeyPair>);

impl NodeKey {
    /// Makes a new key pair; returns it with its PKCS#8 form, which the caller seals and keeps.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<(Self, Vec<u8>), IdentityError> {
        let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| IdentityError::Key)?;
        let bytes = document.as_ref().to_vec();
        Ok((Self::from_pkcs8(&bytes)?, bytes))
    }

    /// Reads a PKCS#8 key pair.
    ///
    /// # Errors
    /// [`IdentityError::Key`] when the bytes are none.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|_| IdentityError::Key)?;
        Ok(Self(Arc::new(pair)))
    }

    /// The public half, as it stands in the member list.
    pub fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        // An Ed25519 public key has 32 bytes (RFC 8032 section 5.1.5).
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    /// Signs bytes of the caller's own making; it must lead them with a context text of its own.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(message).as_ref());
        signature
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

/// Verifies a signature of [`NodeKey::sign`].
pub fn verify(node_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, node_key).verify(message, signature).is_ok()
}

/// Who this node is to its peers.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: [u8; 16],
    /// Its id; 0 for a node that has yet to join.
    pub node_id: u64,
    /// Its key.
    pub key: NodeKey,
    /// What it shows of its disk; empty where it has none.
    pub standing: Bytes,
}

/// Why a peer is not believed, or a key is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a key, or none could be made.
    #[error("not an Ed25519 key")]
    Key,
    /// The bytes are no proof.
    #[error("not a proof of identity: {0}")]
    Malformed(#[from] DecodeError),
    /// Dialled here, but meant another node.
    #[error("meant for node {wanted}, this is node {this}")]
    WrongNode {
        /// Whom the dialler meant.
        wanted: u64,
        /// Who this is.
        this: u64,
    },
    /// Of another cluster.
    #[error("of another cluster")]
    WrongCluster,
    /// No member of that id: never was, or was removed.
    #[error("node {0} is not a member of this cluster")]
    Unknown(u64),
    /// The signature does not verify with the key that the member list has.
    #[error("node {0} has not proven its node key")]
    WrongKey(u64),
    /// A lane that this build does not know.
    #[error("unknown lane {0}")]
    Lane(u8),
    /// A proven member whose disk is not in order.
    #[error("{0}")]
    Standing(String),
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Dialler,
    Acceptor,
}

/// What was claimed in a hello and proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) lane: Lane,
    /// 0 for a joiner.
    pub(crate) from: u64,
    pub(crate) node_key: [u8; 32],
    pub(crate) standing: Bytes,
}

/// The ends and the connection that a proof is about.
struct Subject<'a> {
    lane: Lane,
    cluster: [u8; 16],
    exporter: &'a [u8; 32],
    from: u64,
    to: u64,
}

impl Subject<'_> {
    fn message(&self, side: Side, standing: &[u8]) -> Bytes {
        let mut out = Writer::with_capacity(160);
        out.bytes(CONTEXT);
        out.u8(match side {
            Side::Dialler => 1,
            Side::Acceptor => 2,
        });
        out.u8(self.lane.tag()).raw(&self.cluster).raw(self.exporter);
        out.u64(self.from).u64(self.to).bytes(standing);
        out.finish()
    }
}

/// The dialler's first bytes. `to` is 0 when a joiner does not know whom it will meet.
pub(crate) fn hello(me: &Identity, to: u64, lane: Lane, exporter: &[u8; 32]) -> Bytes {
    let subject = Subject { lane, cluster: me.cluster, exporter, from: me.node_id, to };
    let signature = me.key.sign(&subject.message(Side::Dialler, &me.standing));
    let mut out = Writer::with_capacity(256);
    out.u8(VERSION).u8(lane.tag()).raw(&me.cluster).u64(me.node_id).u64(to);
    out.raw(&me.key.public()).bytes(&me.standing).raw(&signature);
    out.finish()
}

/// Checks a hello. `key_of` gives the key that the member list has for an id.
pub(crate) fn check_hello(
    me: &Identity,
    bytes: Bytes,
    exporter: &[u8; 32],
    key_of: impl FnOnce(u64) -> Option<[u8; 32]>,
) -> Result<Proven, IdentityError> {
    let mut input = Reader::new(bytes);
    version(&mut input)?;
    let tag = input.u8()?;
    let cluster: [u8; 16] = input.array()?;
    let (from, to) = (input.u64()?, input.u64()?);
    let claimed_key: [u8; 32] = input.array()?;
    let standing = standing(&mut input)?;
    let signature: [u8; 64] = input.array()?;
    input.finish()?;

    let lane = Lane::from_tag(tag).ok_or(IdentityError::Lane(tag))?;
    if cluster != me.cluster {
        return Err(IdentityError::WrongCluster);
    }
    let is_joiner = lane == Lane::Join;
    if to != me.node_id && !(is_joiner && to == 0) {
        return Err(IdentityError::WrongNode { wanted: to, this: me.node_id });
    }
    let node_key = if is_joiner {
        if from != 0 {
            return Err(IdentityError::Unknown(from));
        }
        claimed_key
    } else {
        key_of(from).ok_or(IdentityError::Unknown(from))?
    };
    let subject = Subject { lane, cluster, exporter, from, to };
    if !verify(&node_key, &subject.message(Side::Dialler, &standing), &signature) {
        return Err(IdentityError::WrongKey(from));
    }
    Ok(Proven { lane, from, node_key, standing })
}

/// The acceptor's answer to a hello that it believes.
pub(crate) fn proof(me: &Identity, peer: &Proven, exporter: &[u8; 32]) -> Bytes {
    let subject =
        Subject { lane: peer.lane, cluster: me.cluster, exporter, from: me.node_id, to: peer.from };
    let signature = me.key.sign(&subject.message(Side::Acceptor, &me.standing));
    let mut out = Writer::with_capacity(256);
    out.u8(VERSION).u64(me.node_id).bytes(&me.standing).raw(&signature);
    out.finish()
}

/// Checks the acceptor's answer. `expected` is the id dialled (0: any) and its key; without a key,
/// as for a joiner, only the certificate speaks for the acceptor. Returns the acceptor's standing.
pub(crate) fn check_proof(
    me: &Identity,
    bytes: Bytes,
    lane: Lane,
    exporter: &[u8; 32],
    expected: (u64, Option<[u8; 32]>),
) -> Result<Bytes, IdentityError> {
    let mut input = Reader::new(bytes);
    version(&mut input)?;
    let from = input.u64()?;
    let standing = standing(&mut input)?;
    let signature: [u8; 64] = input.array()?;
    input.finish()?;
    let (id, key) = expected;
    if id != 0 && from != id {
        return Err(IdentityError::WrongNode { wanted: id, this: from });
    }
    let subject = Subject { lane, cluster: me.cluster, exporter, from, to: me.node_id };
    if let Some(key) = key
        && !verify(&key, &subject.message(Side::Acceptor, &standing), &signature)
    {
        return Err(IdentityError::WrongKey(from));
    }
    Ok(standing)
}

fn version(input: &mut Reader) -> Result<(), DecodeError> {
    match input.u8()? {
        VERSION => Ok(()),
        found => Err(DecodeError::Version { what: "proof of identity", found, known: VERSION }),
    }
}

fn standing(input: &mut Reader) -> Result<Bytes, DecodeError> {
    let standing = input.bytes()?;
    if standing.len() > STANDING_BYTES_MAX {
        let found = standing.len();
        return Err(DecodeError::Bound { what: "standing", found, most: STANDING_BYTES_MAX });
    }
    Ok(standing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(node_id: u64) -> Identity {
        let (key, _) = NodeKey::generate().unwrap();
        Identity { cluster: [7; 16], node_id, key, standing: Bytes::from_static(b"disk") }
    }

    /// What an acceptor that knows `members` thinks of a hello from `dialler`.
    fn judge(
        dialler: &Identity,
        to: u64,
        lane: Lane,
        acceptor: &Identity,
        members: &[&Identity],
        exporters: (&[u8; 32], &[u8; 32]),
    ) -> Result<Proven, IdentityError> {
        let bytes = hello(dialler, to, lane, exporters.0);
        check_hello(acceptor, bytes, exporters.1, |id| {
            members.iter().find(|member| member.node_id == id).map(|member| member.key.public())
        })
    }

    #[test]
    fn a_member_proves_itself_and_is_proven_to() {
        let (one, two) = (identity(1), identity(2));
        let exporter = [1; 32];
        let both = (&exporter, &exporter);
        let proven = judge(&one, 2, Lane::Control, &two, &[&one], both).unwrap();
        assert_eq!((proven.from, proven.lane), (1, Lane::Control));
        assert_eq!(proven.standing, one.standing);
        let answer = proof(&two, &proven, &exporter);
        let key = Some(two.key.public());
        let standing = check_proof(&one, answer, Lane::Control, &exporter, (2, key)).unwrap();
        assert_eq!(standing, two.standing);
    }

    #[test]
    fn strangers_impostors_and_strays_are_refused() {
        let (one, two, stranger) = (identity(1), identity(2), identity(9));
        let x = [1; 32];
        let same = (&x, &x);
        let impostor = Identity { node_id: 1, ..identity(1) };
        assert_eq!(
            judge(&impostor, 2, Lane::Control, &two, &[&one], same),
            Err(IdentityError::WrongKey(1))
        );
        assert_eq!(
            judge(&stranger, 2, Lane::Control, &two, &[&one], same),
            Err(IdentityError::Unknown(9))
        );
        assert_eq!(
            judge(&one, 3, Lane::Control, &two, &[&one], same),
            Err(IdentityError::WrongNode { wanted: 3, this: 2 })
        );
        let foreign = Identity { cluster: [8; 16], ..one.clone() };
        assert_eq!(
            judge(&foreign, 2, Lane::Control, &two, &[&one], same),
            Err(IdentityError::WrongCluster)
        );
        assert_eq!(
            judge(&one, 2, Lane::Control, &two, &[&one], (&x, &[2; 32])),
            Err(IdentityError::WrongKey(1)),
            "a proof replayed on another connection"
        );
        assert_eq!(
            judge(&one, 2, Lane::Join, &two, &[&one], same),
            Err(IdentityError::Unknown(1)),
            "a member has no business in the join lane"
        );
    }

    #[test]
    fn a_joiner_proves_the_key_it_brings() {
        let two = identity(2);
        let joiner = Identity { node_id: 0, ..identity(0) };
        let x = [1; 32];
        let proven = judge(&joiner, 0, Lane::Join, &two, &[], (&x, &x)).unwrap();
        assert_eq!((proven.from, proven.node_key), (0, joiner.key.public()));
        assert_eq!(
            judge(&joiner, 2, Lane::Append, &two, &[], (&x, &x)),
            Err(IdentityError::Unknown(0))
        );
    }

    #[test]
    fn the_acceptor_must_be_the_one_that_was_dialled() {
        let (one, two, three) = (identity(1), identity(2), identity(3));
        let x = [1; 32];
        let proven = judge(&one, 2, Lane::Append, &two, &[&one], (&x, &x)).unwrap();
        let key = Some(two.key.public());
        let other = proof(&three, &proven, &x);
        assert_eq!(
            check_proof(&one, other, Lane::Append, &x, (2, key)),
            Err(IdentityError::WrongNode { wanted: 2, this: 3 })
        );
        let impostor = Identity { node_id: 2, ..three };
        let forged = proof(&impostor, &proven, &x);
        assert_eq!(
            check_proof(&one, forged, Lane::Append, &x, (2, key)),
            Err(IdentityError::WrongKey(2))
        );
    }
}
