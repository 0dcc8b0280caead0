//! The marker: a small file beside the databases that tells an old disk from a current one.
//!
//! It holds the storage id (random, made with the folder), the generation (new at every open, on the
//! disk before anything else happens: the count of opens, and random bits that tell the run from
//! another one that began on a copy of the same disk) and what the log database had when the marker was last
//! written: the count of votes saved, and index and digest of the last durable entry. It is only
//! ever written *after* the database has made these durable, so a database that lacks them is older
//! than its marker: see [`Fault::OldDisk`]. After each flush the marker is written but not synced
//! (a process kill loses nothing, a power cut a bounded tail of knowledge); every
//! [`ENTRIES_PER_SYNC`] entries, at each vote and at each open it is synced.
//!
//! That finds lost tails and a log folder put back alone. A whole folder put back agrees with itself;
//! only others can tell. So a node shows its [`Standing`] to each peer it connects to, and peers
//! remember (in their own log database) the highest they have seen of it:
//!
//! ```text
//! remembered (storage, generation g, progress p)   shown (storage', g', opened p')
//!   storage' != storage                 → another disk under this node's name: refuse
//!   g' != g, but no later in count      → a run that has been before: refuse
//!   g' >  g and p' < p                  → came back with less than it had acknowledged: refuse
//!   otherwise                           → welcome; remember the higher of both
//! ```
//!
//! [`Progress`] orders by vote first: a node that has moved to a newer vote may rightly have cut its
//! log back. A remembered progress is what the node has *acknowledged* to this peer as durable; of
//! what it only showed, the term of its vote is kept: under that vote its log may yet be cut back.

use crate::bytes_io::{Reader, checked, hex, put_checksum};
use crate::datadir::Datadir;
use crate::disk::DiskFile;
use crate::error::Fault;

/// After how many durable entries the marker itself is synced.
pub const ENTRIES_PER_SYNC: u64 = 8192;

const VERSION: u8 = 1;
const MAGIC: &[u8; 4] = b"CVMK";
/// Slots are written in turn, each in a disk block of its own, so that a torn write spares the other.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const SLOT_BYTES: usize = 82;

/// Identifies one data folder: random, made with it, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageId(pub [u8; 16]);

impl std::fmt::Display for StorageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// How far a node's log had come. Ordered: a later state of the same disk is never lower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress {
    /// Term of the vote saved.
    pub vote_term: u64,
    /// Term of the last entry.
    pub last_term: u64,
    /// Index of the last entry.
    pub last_index: u64,
}

/// What a node shows to its peers, and they remember of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its data folder.
    pub storage: StorageId,
    /// Which opening of that folder this is; see [`opens`].
    pub generation: u64,
    /// As shown: the progress at the moment of opening. As remembered: the highest acknowledged.
    pub progress: Progress,
}

/// How often a folder had been opened, by its generation; the rest of it is random.
pub const fn opens(generation: u64) -> u64 {
    generation >> 32
}

/// What a peer thinks of a [`Standing`] shown to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// In order.
    Current,
    /// The node's disk is older than what it had promised. It must not vote; replace it.
    OldDisk {
        /// What this peer remembers.
        remembered: Standing,
    },
    /// Another data folder uses the node's id. One of the two must go.
    OtherStorage {
        /// What this peer remembers.
        remembered: Standing,
    },
}

impl Standing {
    /// Judges what a node shows by what is remembered of it.
    pub fn judge(remembered: &Self, shown: &Self) -> Verdict {
        let remembered = *remembered;
        if shown.storage != remembered.storage {
            Verdict::OtherStorage { remembered }
        } else if shown.generation == remembered.generation {
            // The same run connects again: what it shows is as of its start.
            Verdict::Current
        } else if opens(shown.generation) <= opens(remembered.generation)
            || shown.progress < remembered.progress
        {
            Verdict::OldDisk { remembered }
        } else {
            Verdict::Current
        }
    }

    // storage (16) | generation (u64) | vote term, last term, last index (u64 each) | crc32c,
    // behind a version byte.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.storage.0);
        let Progress { vote_term, last_term, last_index } = self.progress;
        for number in [self.generation, vote_term, last_term, last_index] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        put_checksum(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        const WHAT: &str = "a remembered peer";
        let mut reader = Reader::new(checked(bytes, WHAT)?, WHAT);
        reader.version(VERSION)?;
        let storage = StorageId(reader.array()?);
        let generation = reader.u64()?;
        let progress = Progress {
            vote_term: reader.u64()?,
            last_term: reader.u64()?,
            last_index: reader.u64()?,
        };
        reader.end()?;
        Ok(Self { storage, generation, progress })
    }
}

/// What the log database is known to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Counts the votes saved.
    pub(crate) votes: u64,
    /// Index of the last durable entry; 0 when there was none.
    pub(crate) last_index: u64,
    /// Digest of that entry's record.
    pub(crate) last_digest: [u8; 16],
}

/// The open marker file.
pub(crate) struct Marker {
    file: Box<dyn DiskFile>,
    storage: StorageId,
    generation: u64,
    sequence: u64,
    held: Held,
    synced_index: u64,
    datadir: Datadir,
}

impl Marker {
    /// Opens the marker, or makes it for a log that `holds` nothing yet. Gives what the log must
    /// hold. The new generation is on the disk on return.
    pub(crate) fn open(datadir: &Datadir, log_is_empty: bool) -> Result<(Self, Held), Fault> {
        let path = datadir.marker();
        let disk = datadir.disk();
        let opened = disk.file(&path, false)?;
        let mut found: Option<(u64, StorageId, u64, Held)> = None;
        let mut newest_refusal = None;
        if let Some(file) = &opened {
            for offset in SLOT_OFFSETS {
                let mut slot = [0; SLOT_BYTES];
                let read = file.read_at(offset, &mut slot)?;
                match decode(&slot[..read]) {
                    Ok(slot) if found.as_ref().is_none_or(|best| slot.0 > best.0) => {
                        found = Some(slot);
                    }
                    Ok(_) => {}
                    Err(fault) => newest_refusal = Some(fault),
                }
            }
        }
        if let Some(fault @ Fault::TooNew { .. }) = newest_refusal {
            return Err(fault);
        }
        let (sequence, storage, generation, held) = match found {
            Some(found) => found,
            None if log_is_empty => {
                let mut id = [0; 16];
                disk.random(&mut id)?;
                (0, StorageId(id), 0, Held::default())
            }
            None => {
                let detail = format!("{} is missing or unreadable", path.display());
                return Err(Fault::OldDisk { detail });
            }
        };
        let file = match opened {
            Some(file) => file,
            None => disk
                .file(&path, true)?
                .ok_or_else(|| Fault::io("create", &path, std::io::ErrorKind::NotFound.into()))?,
        };
        let mut run = [0; 4];
        disk.random(&mut run)?;
        let generation = ((opens(generation) + 1) << 32) | u64::from(u32::from_be_bytes(run));
        let mut marker = Self {
            file,
            storage,
            generation,
            sequence,
            held,
            synced_index: held.last_index,
            datadir: datadir.clone(),
        };
        marker.write(held, true)?;
        disk.sync_folder(datadir.root())?;
        Ok((marker, held))
    }

    pub(crate) fn storage(&self) -> StorageId {
        self.storage
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Notes entries that have just become durable; syncs now and then.
    pub(crate) fn entries_are_durable(
        &mut self,
        index: u64,
        digest: [u8; 16],
    ) -> Result<(), Fault> {
        let held = Held { last_index: index, last_digest: digest, ..self.held };
        if held == self.held {
            return Ok(());
        }
        self.write(held, index.abs_diff(self.synced_index) >= ENTRIES_PER_SYNC)
    }

    /// Notes that the log ends here now, on the disk on return.
    pub(crate) fn set_end(&mut self, index: u64, digest: [u8; 16]) -> Result<(), Fault> {
        self.write(Held { last_index: index, last_digest: digest, ..self.held }, true)
    }

    /// Notes a saved vote, on the disk on return.
    pub(crate) fn vote_is_durable(&mut self, votes: u64) -> Result<(), Fault> {
        self.write(Held { votes, ..self.held }, true)
    }

    /// Index of the entry that the marker vouches for.
    pub(crate) fn last_index(&self) -> u64 {
        self.held.last_index
    }

    fn write(&mut self, held: Held, sync: bool) -> Result<(), Fault> {
        self.datadir.fail_points().hit("marker.write.before")?;
        self.sequence += 1;
        let slot = encode(self.sequence, self.storage, self.generation, &held);
        let offset = SLOT_OFFSETS[usize::from(self.sequence.is_multiple_of(2))];
        self.file.write_at(offset, &slot)?;
        if sync {
            self.file.sync()?;
            self.synced_index = held.last_index;
        }
        self.held = held;
        self.datadir.fail_points().hit("marker.write.after")
    }
}

// magic (4) | version (1) | sequence (u64) | storage id (16) | generation (u64) | votes (u64)
// | last index (u64) | last digest (16) | spare (9, zero) | crc32c (4)
fn encode(sequence: u64, storage: StorageId, generation: u64, held: &Held) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT_BYTES);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&storage.0);
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(&held.votes.to_be_bytes());
    out.extend_from_slice(&held.last_index.to_be_bytes());
    out.extend_from_slice(&held.last_digest);
    out.extend_from_slice(&[0; 9]);
    put_checksum(&mut out);
    out
}

fn decode(slot: &[u8]) -> Result<(u64, StorageId, u64, Held), Fault> {
    const WHAT: &str = "the marker";
    let mut reader = Reader::new(checked(slot, WHAT)?, WHAT);
    if reader.take(4)? != MAGIC {
        return Err(Fault::corrupt(WHAT, "it does not begin as a marker does"));
    }
    reader.version(VERSION)?;
    let sequence = reader.u64()?;
    let storage = StorageId(reader.array()?);
    let generation = reader.u64()?;
    let held =
        Held { votes: reader.u64()?, last_index: reader.u64()?, last_digest: reader.array()? };
    Ok((sequence, storage, generation, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGE: StorageId = StorageId([7; 16]);

    fn standing(generation: u64, vote_term: u64, last_term: u64, last_index: u64) -> Standing {
        let progress = Progress { vote_term, last_term, last_index };
        Standing { storage: STORAGE, generation: generation << 32, progress }
    }

    #[test]
    #[expect(clippy::format_collect, reason = "a short text, in a test")]
    fn a_slot_has_the_bytes_it_always_had() {
        let held = Held { votes: 3, last_index: 258, last_digest: [0xab; 16] };
        let slot = encode(5, STORAGE, 2, &held);
        let hex: String = slot.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "43564d4b01000000000000000507070707070707070707070707070707000000000000000200000000000\
             000030000000000000102abababababababababababababababab000000000000000000df5e336d"
        );
        assert_eq!(slot.len(), SLOT_BYTES);
        assert_eq!(decode(&slot).unwrap(), (5, STORAGE, 2, held));
    }

    #[test]
    fn a_disk_put_back_is_told_from_a_current_one() {
        let remembered = standing(4, 2, 2, 1000);
        let old = Verdict::OldDisk { remembered };
        // The same run reconnects: its opening progress is naturally lower.
        assert_eq!(Standing::judge(&remembered, &standing(4, 1, 1, 10)), Verdict::Current);
        // A restart that kept everything, and one that lost entries, and one that lost a vote.
        assert_eq!(Standing::judge(&remembered, &standing(5, 2, 2, 1000)), Verdict::Current);
        assert_eq!(Standing::judge(&remembered, &standing(5, 2, 2, 999)), old);
        assert_eq!(Standing::judge(&remembered, &standing(5, 1, 2, 1000)), old);
        // Cut back by a newer leader: the vote is newer too.
        assert_eq!(Standing::judge(&remembered, &standing(5, 3, 2, 990)), Verdict::Current);
        // A run that has been before, and one that began where the remembered one did: on a copy.
        assert_eq!(Standing::judge(&remembered, &standing(3, 9, 9, 9000)), old);
        let mut twin = standing(4, 9, 9, 9000);
        twin.generation += 1;
        assert_eq!(Standing::judge(&remembered, &twin), old);
        let other = Standing { storage: StorageId([8; 16]), ..remembered };
        assert_eq!(Standing::judge(&remembered, &other), Verdict::OtherStorage { remembered });
        assert_eq!(Standing::decode(&remembered.encode()).unwrap(), remembered);
    }
}
