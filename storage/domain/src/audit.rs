//! The audit chain: every node's records in one order, each hashed onto the one before.
//!
//! ```text
//! hash of record n = SHA-256(version (1) | hash of record n-1 | node (u64) | sequence (u64) | text)
//! ```
//! Integers are big-endian; before the first record stand 32 zero bytes. A record's text is what its
//! node wrote into its spool, to the byte; `sequence` is its number there. Two sorts of record have
//! a text of the chain's own: a gap, where a node has lost records, and a checkpoint, where the
//! cluster has signed the hash of an earlier record.
//!
//! Invariant: of one node, sequences go up by one from record to record, gaps aside, which say what
//! is missing. So each record is in the chain once, however often it is sent.

mod texts;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};

pub use self::texts::{AuditTexts, BadAuditTexts};
use crate::records::Digest;
use crate::time::Timestamp;

/// Version of the hash and of the texts that the chain itself writes.
const VERSION: u8 = 1;

/// Longest text of one record, in bytes.
pub const RECORD_BYTES_MAX: usize = 256 << 10;
/// Most bytes of text in one batch.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most records in one batch. Readers of the state wait while a batch is hashed and written, some
/// microseconds a record.
pub const BATCH_RECORDS_MAX: usize = 1024;
/// Most records that one command forgets.
pub const TRIMMED_AT_ONCE_MAX: u64 = 4096;
/// How far behind the record that holds it a checkpoint's own record may lie.
pub const CHECKPOINT_REACH: usize = 65_536;

/// Where the chain begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the oldest record kept; one more than `last` when none is.
    pub first: u64,
    /// Hash of the record before it.
    pub base: Digest,
    /// Number of the newest record; 0 when there has been none.
    pub last: u64,
    /// Its hash.
    pub hash: Digest,
    /// Number of the newest record that a checkpoint in the chain vouches for.
    pub checkpointed: u64,
}

impl Default for AuditHead {
    fn default() -> Self {
        let zero = Digest([0; 32]);
        Self { first: 1, base: zero, last: 0, hash: zero, checkpointed: 0 }
    }
}

/// One record in the chain. Its key is its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// The node that made it; for a checkpoint, 0.
    pub node: u64,
    /// Its number in that node's spool; for a checkpoint, 0.
    pub sequence: u64,
    /// What was written, a JSON object.
    pub text: String,
    /// Its hash.
    pub hash: Digest,
}

/// Records of one node that came to the chain at once: one row. Its key is the number of the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditBlock {
    /// The node that made them; for a checkpoint, 0.
    pub node: u64,
    /// Number of the first in that node's spool; for a checkpoint, 0.
    pub sequence: u64,
    /// Their hashes, in order.
    pub hashes: Vec<Digest>,
    /// Their texts, as many as there are hashes.
    pub texts: AuditTexts,
}

impl AuditBlock {
    /// The records, in order, each with its number. `last` is the number of the last.
    pub fn records(&self, last: u64) -> impl Iterator<Item = (u64, AuditRecord)> {
        let count = self.hashes.len() as u64;
        let places = (last.saturating_sub(count)..last).zip(self.sequence..);
        let texts = self.texts.iter().zip(&self.hashes);
        places.zip(texts).map(|((before, sequence), (text, hash))| {
            let text = text.to_owned();
            (before + 1, AuditRecord { node: self.node, sequence, text, hash: *hash })
        })
    }
}

/// What the cluster vouches for: the hash of one record, and with it all records before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditCheckpoint {
    /// The record's number.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
    /// When it was signed.
    pub at: Timestamp,
    /// Ed25519 public key.
    pub key: [u8; 32],
    /// Over [`AuditCheckpoint::signed_bytes`].
    pub signature: [u8; 64],
}

impl AuditCheckpoint {
    /// The bytes that are signed.
    pub fn signed_bytes(number: u64, hash: &Digest, at: Timestamp) -> Vec<u8> {
        let mut bytes = b"conclave audit checkpoint 1".to_vec();
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&hash.0);
        bytes.extend_from_slice(&at.0.to_be_bytes());
        bytes
    }

    /// The text of its record.
    pub fn to_text(&self) -> String {
        format!(
            "{{\"checkpoint\":{{\"version\":{VERSION},\"number\":{},\"hash\":\"{}\",\"at_ms\":{},\
             \"key\":\"{}\",\"signature\":\"{}\"}}}}",
            self.number,
            hex(&self.hash.0),
            self.at.0,
            hex(&self.key),
            hex(&self.signature)
        )
    }

    /// Reads the text of a checkpoint's record; none for any other text.
    pub fn from_text(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("{\"checkpoint\":{\"version\":1,\"number\":")?;
        let (number, rest) = rest.split_once(",\"hash\":\"")?;
        let (hash, rest) = rest.split_once("\",\"at_ms\":")?;
        let (at, rest) = rest.split_once(",\"key\":\"")?;
        let (key, rest) = rest.split_once("\",\"signature\":\"")?;
        let checkpoint = Self {
            number: number.parse().ok()?,
            hash: Digest(unhex(hash)?),
            at: Timestamp(at.parse().ok()?),
            key: unhex(key)?,
            signature: unhex(rest.strip_suffix("\"}}")?)?,
        };
        (checkpoint.to_text() == text).then_some(checkpoint)
    }
}

/// The text of a gap's record: what a node says that it has lost.
pub fn gap_text(node: u64, from: u64, to: u64) -> String {
    format!("{{\"gap\":{{\"version\":{VERSION},\"node\":{node},\"from\":{from},\"to\":{to}}}}}")
}

/// Whether a text says that records were lost.
pub fn is_gap(text: &str) -> bool {
    text.starts_with("{\"gap\":")
}

/// The hash of a record.
pub fn chain_hash(previous: &Digest, node: u64, sequence: u64, text: &str) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&[VERSION]);
    context.update(&previous.0);
    context.update(&node.to_be_bytes());
    context.update(&sequence.to_be_bytes());
    context.update(text.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Digest(hash)
}

/// What is wrong with a chain, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {number}: {why}")]
pub struct BrokenChain {
    /// Number of the first record that is not as it was.
    pub number: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Walks a chain record by record and finds the first that is not as it was. It takes the same memory
/// however long the chain is.
#[derive(Debug, Clone)]
pub struct ChainVerifier {
    next: u64,
    hash: Digest,
    /// Last sequence of each node seen.
    nodes: BTreeMap<u64, u64>,
    /// Hashes of the last records, the newest last.
    recent: VecDeque<Digest>,
    gaps: u64,
    checkpoints: u64,
    vouched: u64,
}

impl ChainVerifier {
    /// Begins at record `first`, before which the chain's hash was `base`.
    pub fn new(first: u64, base: Digest) -> Self {
        Self {
            next: first,
            hash: base,
            nodes: BTreeMap::new(),
            recent: VecDeque::new(),
            gaps: 0,
            checkpoints: 0,
            vouched: first.saturating_sub(1),
        }
    }

    /// Number of the record that is next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Hash of the last record taken.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Gaps seen.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Checkpoints seen.
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// Number of the last record that a checkpoint seen vouches for.
    pub fn vouched(&self) -> u64 {
        self.vouched
    }

    /// Takes the next record. `is_genuine` judges a checkpoint's signature.
    ///
    /// # Errors
    /// [`BrokenChain`]; the verifier is of no use then.
    pub fn take(
        &mut self,
        number: u64,
        record: &AuditRecord,
        is_genuine: impl FnOnce(&AuditCheckpoint) -> bool,
    ) -> Result<(), BrokenChain> {
        let broken = |why: String| BrokenChain { number: self.next, why };
        if number != self.next {
            return Err(broken(format!("it is missing; record {number} stands in its place")));
        }
        let hash = chain_hash(&self.hash, record.node, record.sequence, &record.text);
        if hash != record.hash {
            return Err(broken(
                "its hash does not follow from its content and the record before it".to_owned(),
            ));
        }
        let is_gap = is_gap(&record.text);
        if let Some(last) = self.nodes.get(&record.node).filter(|_| record.node != 0) {
            let follows = if is_gap {
                record.sequence > *last
            } else {
                Some(record.sequence) == last.checked_add(1)
            };
            if !follows {
                return Err(broken(format!(
                    "it is number {} of node {}, after number {last}",
                    record.sequence, record.node
                )));
            }
        }
        if record.node == 0 {
            let Some(checkpoint) = AuditCheckpoint::from_text(&record.text) else {
                return Err(broken("it is of no node and no checkpoint".to_owned()));
            };
            // What lies before the first record at hand cannot be compared.
            let back = number.checked_sub(checkpoint.number.saturating_add(1));
            let back = back.and_then(|back| usize::try_from(back).ok());
            let at = back.and_then(|back| self.recent.len().checked_sub(back + 1));
            let differs = at.is_some_and(|at| self.recent[at] != checkpoint.hash);
            if back.is_none() || differs || !is_genuine(&checkpoint) {
                return Err(broken("its signature is not for this chain".to_owned()));
            }
            self.checkpoints += 1;
            self.vouched = self.vouched.max(checkpoint.number);
        } else {
            self.nodes.insert(record.node, record.sequence);
        }
        self.gaps += u64::from(is_gap);
        self.recent.push_back(hash);
        if self.recent.len() > CHECKPOINT_REACH {
            self.recent.pop_front();
        }
        self.hash = hash;
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    /// Checks that the chain ends where it should.
    ///
    /// # Errors
    /// [`BrokenChain`].
    pub fn finish(&self, last: u64, hash: &Digest) -> Result<(), BrokenChain> {
        if self.next <= last {
            let why = format!("it is missing; the chain goes on to record {last}");
            return Err(BrokenChain { number: self.next, why });
        }
        if self.next > last.saturating_add(1) {
            let why = format!("it is too many; the chain ends at record {last}");
            return Err(BrokenChain { number: last.saturating_add(1), why });
        }
        if self.hash != *hash {
            let why = "it is not the record that the chain ends with".to_owned();
            return Err(BrokenChain { number: last, why });
        }
        Ok(())
    }
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes from lower-case hex digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, place) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[place..place + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_it_always_was() {
        let hash = chain_hash(&Digest([0; 32]), 7, 258, "{\"seq\":258}");
        assert_eq!(
            hex(&hash.0),
            "a1dd25065cd7653f0bee6f22fa49ef84f4db9c961b4a18c6064f2efcf8525fda"
        );
    }

    #[test]
    fn checkpoints_are_read_as_they_are_written() {
        let checkpoint = AuditCheckpoint {
            number: 300,
            hash: Digest([1; 32]),
            at: Timestamp(1_700_000_000_123),
            key: [2; 32],
            signature: [3; 64],
        };
        let text = checkpoint.to_text();
        assert_eq!(AuditCheckpoint::from_text(&text), Some(checkpoint));
        for end in 0..text.len() {
            assert_eq!(AuditCheckpoint::from_text(&text[..end]), None);
        }
        assert_eq!(AuditCheckpoint::from_text(&text.replace("300", "+300")), None);
    }
}
