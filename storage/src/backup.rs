//! A backup: one file with a whole snapshot of the state and the cluster's root key, encrypted and
//! authenticated. It opens with the master key of the node that made it.
//!
//! ```text
//! file     = header | chunk | chunk | … | last chunk            chunks: see seal/stream.rs
//! header   = "CVBK" | version | length (u32) | body | crc32c    in the clear, bound to every chunk
//! body     = cluster (16) | made at (i64, ms) | node name | key of the chunks, sealed by the master key
//!            | from version 2 on: how that node comes by its master key, which is no secret
//! chunks   = length (u32) | contents | each file of the snapshot, in the manifest's order
//! contents = version | node id (u64) | program | root key, sealed by the master key | manifest
//! ```
//! Integers are big-endian; texts and bytes have their length (u32) in front.

use std::io::{self, Read};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use conclave_domain::time::Timestamp;

use crate::bytes_io::{Reader, checked, put_bytes, put_checksum};
use crate::error::Fault;
use crate::seal::{CHUNK_BYTES, Chunk, ChunkKey, MasterKey, RootKey, Secret, TAG_BYTES};
use crate::snapshot::{MANIFEST_BYTES_MAX, Manifest, SnapshotFiles};
use crate::state::StateStore;

const MAGIC: &[u8; 4] = b"CVBK";
const VERSION: u8 = 2;
/// The version before it did not say how the master key is come by.
const VERSION_1: u8 = 1;
const CONTENTS_VERSION: u8 = 1;
/// Longest body of a header.
const BODY_BYTES_MAX: usize = 4096;
/// Longest contents: the manifest and a little more.
const CONTENTS_BYTES_MAX: usize = MANIFEST_BYTES_MAX + 4096;
/// What the key of the chunks is sealed for.
const KEY_LABEL: &str = "backup key";

/// Why a file is not taken for a backup, or cannot be read as one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It begins differently.
    #[error("it is no backup: it does not begin as one does")]
    NotABackup,
    /// A later version wrote it.
    #[error("it has backup format {found}, this program knows up to {known}: use a newer conclave")]
    TooNew {
        /// Its version.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// It is not what was written.
    #[error("it is not intact: {0}. Use another copy of it, or another backup")]
    Damaged(String),
    /// Another master key sealed it.
    #[error(
        "it was made on node {node}, whose master key is {sealed_by}, and the key given is {ours}: \
         bring the master key of {node} as it was then"
    )]
    OtherKey {
        /// The node that made it.
        node: String,
        /// That node's master key.
        sealed_by: String,
        /// The one given.
        ours: String,
    },
    /// The system could not read it.
    #[error("it cannot be read")]
    Unread(#[from] io::Error),
    /// Something on this side went wrong.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What a backup says of itself in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHeader {
    /// The cluster it was made of.
    pub cluster: [u8; 16],
    /// When it was begun, by the clock of the node that made it.
    pub made_at: Timestamp,
    /// That node's name.
    pub node: String,
    /// The key of the chunks, sealed by that node's master key.
    pub sealed_key: Vec<u8>,
    /// How that node comes by its master key, in the node's own words; version 1 does not say.
    pub sealing: Option<String>,
}

impl BackupHeader {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.cluster.to_vec();
        body.extend_from_slice(&self.made_at.0.to_be_bytes());
        put_bytes(&mut body, self.node.as_bytes());
        put_bytes(&mut body, &self.sealed_key);
        let mut out = MAGIC.to_vec();
        if let Some(sealing) = &self.sealing {
            put_bytes(&mut body, sealing.as_bytes());
            out.push(VERSION);
        } else {
            out.push(VERSION_1);
        }
        put_bytes(&mut out, &body);
        put_checksum(&mut out);
        out
    }

    /// Reads a header off the front of a file.
    ///
    /// # Errors
    /// [`BackupError::NotABackup`], [`BackupError::TooNew`], [`BackupError::Damaged`],
    /// [`BackupError::Unread`].
    pub fn read(input: &mut impl Read) -> Result<Self, BackupError> {
        const WHAT: &str = "its header";
        let mut bytes = vec![0; 9];
        let read = fill(input, &mut bytes)?;
        if !bytes[..read].starts_with(MAGIC) {
            return Err(BackupError::NotABackup);
        }
        match bytes[4] {
            _ if read < bytes.len() => return Err(ended()),
            VERSION_1 | VERSION => {}
            0 => return Err(BackupError::NotABackup),
            found => return Err(BackupError::TooNew { found, known: VERSION }),
        }
        let len = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) as usize;
        if len > BODY_BYTES_MAX {
            return Err(damaged("its header is too long"));
        }
        let start = bytes.len();
        bytes.resize(start + len + 4, 0);
        if fill(input, &mut bytes[start..])? < len + 4 {
            return Err(ended());
        }
        let parse = || {
            let whole = checked(&bytes, WHAT)?;
            let mut body = Reader::new(&whole[start..], WHAT);
            let cluster = body.array()?;
            let made_at = Timestamp(i64::from_be_bytes(body.array()?));
            let node = text(body.bytes()?)?;
            let sealed_key = body.bytes()?.to_vec();
            let sealing = if bytes[4] == VERSION_1 { None } else { Some(text(body.bytes()?)?) };
            body.end()?;
            Ok::<_, Fault>(Self { cluster, made_at, node, sealed_key, sealing })
        };
        parse().map_err(|_fault| damaged("its header was changed"))
    }
}

/// What a backup says of itself behind its encryption.
pub struct BackupContents {
    /// Id of the node that made it.
    pub node_id: u64,
    /// Version of the program that made it.
    pub program: String,
    /// The cluster's root key.
    pub root_key: RootKey,
    /// The snapshot in it.
    pub manifest: Manifest,
}

/// Who makes a backup, and of what.
pub struct BackupOrigin {
    /// The cluster.
    pub cluster: [u8; 16],
    /// The time.
    pub made_at: Timestamp,
    /// The node's name.
    pub node: String,
    /// Its id.
    pub node_id: u64,
    /// The version of the program.
    pub program: String,
    /// How the node comes by its master key; without it the backup is of version 1.
    pub sealing: Option<String>,
}

/// Makes a backup of a snapshot, block by block.
pub struct BackupWriter {
    header: Option<Vec<u8>>,
    key: ChunkKey,
    /// What stands before the snapshot's files.
    preamble: Vec<u8>,
    taken: usize,
    snapshot: Arc<SnapshotFiles>,
    place: (usize, u64),
    /// Bytes yet to be sealed.
    left: u64,
    bytes: u64,
}

impl BackupWriter {
    /// Begins a backup.
    ///
    /// # Errors
    /// [`Fault::Key`].
    pub fn new(
        origin: BackupOrigin,
        snapshot: Arc<SnapshotFiles>,
        root_key: &RootKey,
        master: &MasterKey,
    ) -> Result<Self, Fault> {
        let key = Secret::random(32)?;
        let header = BackupHeader {
            cluster: origin.cluster,
            made_at: origin.made_at,
            node: origin.node,
            sealed_key: master.seal(KEY_LABEL, &key)?,
            sealing: origin.sealing,
        };
        let header = header.encode();
        let mut contents = vec![CONTENTS_VERSION];
        contents.extend_from_slice(&origin.node_id.to_be_bytes());
        put_bytes(&mut contents, origin.program.as_bytes());
        put_bytes(&mut contents, &root_key.wrap(master)?);
        put_bytes(&mut contents, &snapshot.manifest().encode());
        let mut preamble = Vec::with_capacity(contents.len() + 4);
        put_bytes(&mut preamble, &contents);
        let left = preamble.len() as u64 + snapshot.manifest().bytes();
        let chunks = left.div_ceil(CHUNK_BYTES as u64);
        Ok(Self {
            bytes: header.len() as u64 + left + chunks * TAG_BYTES as u64,
            key: ChunkKey::new(&key, header.clone())?,
            header: Some(header),
            preamble,
            taken: 0,
            snapshot,
            place: (0, 0),
            left,
        })
    }

    /// How many bytes the backup will have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next block; none at the end. Reads the disk.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] when the snapshot is not what its manifest says; [`Fault::Io`].
    pub fn next_block(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        if let Some(header) = self.header.take() {
            return Ok(Some(header));
        }
        if self.left == 0 {
            return Ok(None);
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + TAG_BYTES);
        let room = usize::try_from(self.left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let rest = &self.preamble[self.taken..];
        let taken = rest.len().min(room);
        chunk.extend_from_slice(&rest[..taken]);
        self.taken += taken;
        while chunk.len() < room {
            let (file, offset) = self.place;
            let piece = self.snapshot.read_chunk(file, offset, room - chunk.len())?;
            let len = self.snapshot.manifest().files.get(file).map_or(0, |file| file.len);
            let end = offset + piece.len() as u64;
            if (piece.is_empty() && len > offset) || end > len {
                return Err(Fault::corrupt("a snapshot", "a file has not the length it had"));
            }
            self.place = if end == len { (file + 1, 0) } else { (file, end) };
            chunk.extend_from_slice(&piece);
        }
        self.left -= room as u64;
        self.key.seal(&mut chunk, self.left == 0)?;
        Ok(Some(chunk))
    }
}

/// Reads a backup from its first byte to its last.
pub struct BackupReader<R> {
    header: BackupHeader,
    contents: BackupContents,
    chunks: Chunks<R>,
}

impl<R: Read> BackupReader<R> {
    /// Opens a backup and reads what it says of itself.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn open(mut input: R, master: &MasterKey) -> Result<Self, BackupError> {
        let header = BackupHeader::read(&mut input)?;
        let sealed_by = MasterKey::id_of(&header.sealed_key)
            .ok_or_else(|| damaged("its header holds no key"))?;
        if sealed_by != master.id() {
            let (node, ours) = (header.node, master.id());
            return Err(BackupError::OtherKey { node, sealed_by, ours });
        }
        let key = master.open(KEY_LABEL, &header.sealed_key);
        let key = key.map_err(|_fault| damaged("the key in its header does not open"))?;
        let mut chunks = Chunks::new(input, &key, header.encode())?;
        let mut len = [0; 4];
        chunks.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > CONTENTS_BYTES_MAX {
            return Err(damaged("its contents are too long"));
        }
        let mut contents = vec![0; len];
        chunks.read_exact(&mut contents)?;
        let contents = parse_contents(&contents, master)?;
        Ok(Self { header, contents, chunks })
    }

    /// What it says in the clear, which is now known to be what was written.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// What it says behind its encryption.
    pub fn contents(&self) -> &BackupContents {
        &self.contents
    }

    /// Reads the snapshot's files to the end of the backup: `take` gets the number of the file in the
    /// manifest, the place in it, and bytes.
    ///
    /// # Errors
    /// [`BackupError`], and what `take` gives.
    pub fn read_files(
        &mut self,
        mut take: impl FnMut(usize, u64, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), BackupError> {
        for (number, file) in self.contents.manifest.files.iter().enumerate() {
            let mut offset = 0;
            while offset < file.len {
                let left = usize::try_from(file.len - offset).unwrap_or(usize::MAX);
                let piece = self.chunks.some(left)?;
                if piece.is_empty() {
                    return Err(damaged("it ends before the snapshot does"));
                }
                take(number, offset, piece)?;
                offset += piece.len() as u64;
            }
        }
        if self.chunks.some(1)?.is_empty() {
            Ok(())
        } else {
            Err(damaged("it goes on after the snapshot"))
        }
    }

    /// Reads the rest of the backup and compares each file with the manifest; answers how many bytes
    /// the backup has. `read` is told of bytes as they are read.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn verify(&mut self, mut read: impl FnMut(usize)) -> Result<u64, BackupError> {
        let files = self.contents.manifest.files.clone();
        let mut sums: Vec<Context> = files.iter().map(|_| Context::new(&SHA256)).collect();
        self.read_files(|file, _, bytes| {
            sums[file].update(bytes);
            read(bytes.len());
            Ok(())
        })?;
        for (file, sum) in files.iter().zip(sums) {
            if sum.finish().as_ref() != file.sha256 {
                return Err(damaged(format!("its file {} is not the snapshot's", file.name)));
            }
        }
        Ok(self.chunks.bytes)
    }

    /// Reads the rest of the backup into an empty state. On return the snapshot is verified, installed
    /// and on the disk.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn install(
        &mut self,
        state: &StateStore,
        mut read: impl FnMut(usize),
    ) -> Result<(), BackupError> {
        let mut import = state.snapshot_import(&self.contents.manifest.encode())?;
        self.read_files(|file, offset, bytes| {
            read(bytes.len());
            import.write_chunk(file, offset, bytes)
        })?;
        let snapshot = import.finish()?;
        Ok(state.snapshot_install(&snapshot)?)
    }
}

/// The chunks of a backup, opened one after the other.
struct Chunks<R> {
    input: R,
    key: ChunkKey,
    /// The sealed chunk that is next; empty at the end.
    sealed: Vec<u8>,
    /// What is open; up to `taken` it has been read.
    plain: Vec<u8>,
    taken: usize,
    /// Bytes of the file that were read, the header included.
    bytes: u64,
}

impl<R: Read> Chunks<R> {
    fn new(input: R, key: &Secret, header: Vec<u8>) -> Result<Self, BackupError> {
        let bytes = header.len() as u64;
        let key = ChunkKey::new(key, header)?;
        let mut chunks =
            Self { input, key, sealed: Vec::new(), plain: Vec::new(), taken: 0, bytes };
        chunks.sealed = chunks.read_sealed()?;
        Ok(chunks)
    }

    fn read_sealed(&mut self) -> Result<Vec<u8>, BackupError> {
        let mut sealed = vec![0; CHUNK_BYTES + TAG_BYTES];
        let read = fill(&mut self.input, &mut sealed)?;
        sealed.truncate(read);
        self.bytes += read as u64;
        Ok(sealed)
    }

    /// The next bytes, at most `most`; none at the end.
    fn some(&mut self, most: usize) -> Result<&[u8], BackupError> {
        if self.taken == self.plain.len() {
            self.open_next()?;
        }
        let start = self.taken;
        self.taken += (self.plain.len() - start).min(most);
        Ok(&self.plain[start..self.taken])
    }

    fn read_exact(&mut self, out: &mut [u8]) -> Result<(), BackupError> {
        let mut at = 0;
        while at < out.len() {
            let piece = self.some(out.len() - at)?;
            if piece.is_empty() {
                return Err(ended());
            }
            out[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        Ok(())
    }

    fn open_next(&mut self) -> Result<(), BackupError> {
        self.plain.clear();
        self.taken = 0;
        let number = self.key.next();
        if self.sealed.is_empty() {
            // Without a first chunk nothing says that the end is the end.
            return if number == 0 { Err(ended()) } else { Ok(()) };
        }
        // What follows tells whether this is the last.
        let following = self.read_sealed()?;
        let is_last = following.is_empty();
        match self.key.open(&self.sealed, is_last, &mut self.plain)? {
            Chunk::Opened if self.plain.is_empty() => Err(damaged("its last chunk is empty")),
            Chunk::Opened => {
                self.sealed = following;
                Ok(())
            }
            Chunk::EndElsewhere if is_last => Err(ended()),
            Chunk::EndElsewhere => Err(damaged("bytes follow its end")),
            Chunk::Refused => Err(damaged(format!(
                "chunk {number} was changed, cut off, or is not the one that belongs there"
            ))),
        }
    }
}

fn parse_contents(bytes: &[u8], master: &MasterKey) -> Result<BackupContents, BackupError> {
    const WHAT: &str = "a backup's contents";
    let mut reader = Reader::new(bytes, WHAT);
    reader.version(CONTENTS_VERSION)?;
    let node_id = reader.u64()?;
    let program = text(reader.bytes()?)?;
    let root_key = RootKey::unwrap(reader.bytes()?, master)?;
    let manifest = Manifest::decode(reader.bytes()?)?;
    reader.end()?;
    Ok(BackupContents { node_id, program, root_key, manifest })
}

fn text(bytes: &[u8]) -> Result<String, Fault> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_not_utf8| Fault::corrupt("a backup", "it holds a text that is none"))
}

/// Fills a buffer as far as the input reaches.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        match input.read(&mut buffer[at..]) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

fn damaged(why: impl Into<String>) -> BackupError {
    BackupError::Damaged(why.into())
}

fn ended() -> BackupError {
    damaged("it breaks off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes_io::hex;

    #[test]
    fn a_header_has_the_bytes_it_always_had() {
        let mut header = BackupHeader {
            cluster: [0xc1; 16],
            made_at: Timestamp(1_700_000_000_123),
            node: "n1".to_owned(),
            sealed_key: vec![0xab; 8],
            sealing: None,
        };
        let first = "4356424b010000002ac1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c10000018bcfe5687b000000026e31000000\
                     08abababababababab";
        let second = "4356424b0200000030c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c10000018bcfe5687b000000026e31000000\
                      08abababababababab000000027b7d";
        for (sealing, golden) in [(None, first), (Some("{}".to_owned()), second)] {
            header.sealing = sealing;
            let bytes = header.encode();
            assert_eq!(
                hex(&bytes),
                golden.to_owned() + &hex(&crc32c::crc32c(&bytes[..bytes.len() - 4]).to_be_bytes())
            );
            assert_eq!(BackupHeader::read(&mut bytes.as_slice()).unwrap(), header);
        }
        let bytes = header.encode();
        let newer = [&bytes[..4], &[3], &bytes[5..]].concat();
        let refused = BackupHeader::read(&mut newer.as_slice()).unwrap_err();
        assert!(matches!(refused, BackupError::TooNew { found: 3, known: 2 }));
    }
}
