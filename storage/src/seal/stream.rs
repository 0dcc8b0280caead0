//! Long things, sealed in chunks: AES-256-GCM under one key that serves for nothing else, the nonce a
//! count of the chunks with a mark on the last (the STREAM construction of Hoang, Reyhanitabar, Rogaway
//! and Vizár, 2015). So no chunk can be changed, moved, repeated, left out or cut off unseen.
//!
//! ```text
//! nonce (12) = zeros (7) | number of the chunk, from 0 (u32) | 1 for the last chunk, else 0
//! associated data = the header of the whole
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::Secret;
use crate::error::Fault;

/// Bytes in every chunk but the last, which has at least one.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// What sealing adds to a chunk.
pub(crate) const TAG_BYTES: usize = 16;

/// What a chunk that was to be the next, and the last or not the last, turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// What it was to be.
    Opened,
    /// The next, but in the place of the last; or the last, but not at the end.
    EndElsewhere,
    /// Not the next, or changed.
    Refused,
}

/// A key with a header and the number of the chunk that is next.
pub(crate) struct ChunkKey {
    key: LessSafeKey,
    header: Vec<u8>,
    next: u32,
}

impl ChunkKey {
    /// Begins at the first chunk. The key must not have sealed anything else.
    pub(crate) fn new(key: &Secret, header: Vec<u8>) -> Result<Self, Fault> {
        let key = UnboundKey::new(&AES_256_GCM, &key.key("the key of a stream")?[..])
            .map_err(|_rejected| Fault::Key("the cipher refused its key".to_owned()))?;
        Ok(Self { key: LessSafeKey::new(key), header, next: 0 })
    }

    /// Number of the chunk that is next.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Seals the next chunk in its place.
    pub(crate) fn seal(&mut self, chunk: &mut Vec<u8>, is_last: bool) -> Result<(), Fault> {
        let nonce = nonce(self.next, is_last);
        self.count()?;
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(&self.header), chunk)
            .map_err(|_refused| Fault::Key("the cipher refused to seal".to_owned()))
    }

    /// Opens the next chunk into `plain`, which is emptied first.
    pub(crate) fn open(
        &mut self,
        sealed: &[u8],
        is_last: bool,
        plain: &mut Vec<u8>,
    ) -> Result<Chunk, Fault> {
        plain.clear();
        let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else {
            return Ok(Chunk::Refused);
        };
        plain.resize(ciphertext.len(), 0);
        for (as_last, found) in [(is_last, Chunk::Opened), (!is_last, Chunk::EndElsewhere)] {
            let (nonce, header) = (nonce(self.next, as_last), Aad::from(&self.header));
            let opened = self.key.open_separate_gather(nonce, header, ciphertext, tag, plain);
            if opened.is_ok() {
                if found == Chunk::Opened {
                    self.count()?;
                }
                return Ok(found);
            }
        }
        Ok(Chunk::Refused)
    }

    fn count(&mut self) -> Result<(), Fault> {
        let next = self.next.checked_add(1);
        self.next = next.ok_or_else(|| Fault::Key("a stream has too many chunks".to_owned()))?;
        Ok(())
    }
}

fn nonce(number: u32, is_last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[7..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}
