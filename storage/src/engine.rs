//! What a database must do here: ordered keys, atomic batches, one sync for all that was written
//! before it, consistent scans, checkpoints. Two implementations: [`crate::rocks`] and
//! [`crate::memory`].

use std::ops::{ControlFlow, Range};
use std::path::Path;

use crate::error::Fault;

/// Whether a write has to be on the disk before the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Readable on return; on the disk after the next [`Engine::sync`].
    Buffered,
    /// On the disk on return, and with it every write before it.
    Synced,
}

/// What a database is used for, which decides how it is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Small appends, each synced soon; short lived; read in order.
    Log,
    /// Long lived rows, point reads, no syncs of its own.
    State,
}

/// Work done since the engine was opened, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Batches written.
    pub writes: u64,
    /// Bytes of keys and values in them.
    pub bytes: u64,
    /// Syncs that reached the disk.
    pub syncs: u64,
}

/// Called for each row of a scan; breaks to end it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Fault> + 'a;

/// A database in one folder.
pub trait Engine: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Fault::Database`] or [`Fault::Corrupt`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;

    /// Visits the rows with `from <= key < to` in order, all as of the moment of the call.
    ///
    /// # Errors
    /// What reading or the visitor gave.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fault>;

    /// Writes all of a batch or nothing.
    ///
    /// # Errors
    /// [`Fault::Database`] the first time a write fails, [`Fault::Stopped`] ever after.
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), Fault>;

    /// Brings every write that returned before this call to the disk.
    ///
    /// # Errors
    /// As [`Engine::write`]. A failed sync is never tried again.
    fn sync(&self) -> Result<(), Fault>;

    /// Writes a copy of the database as of some moment during the call into a new folder, and makes
    /// the database itself durable up to that moment. Writers go on meanwhile.
    ///
    /// # Errors
    /// As [`Engine::write`].
    fn checkpoint(&self, folder: &Path) -> Result<(), Fault>;

    /// Work done since the engine was opened.
    fn counters(&self) -> Counters;
}

/// Writes that happen together. Keys and values lie in one buffer, so that a batch of many rows
/// costs a few allocations.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    buffer: Vec<u8>,
    writes: Vec<(Write, usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Put,
    Delete,
    DeleteRange,
}

/// One write of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchWrite<'a> {
    /// Insert or overwrite.
    Put(&'a [u8], &'a [u8]),
    /// Delete one key.
    Delete(&'a [u8]),
    /// Delete `from <= key < to`.
    DeleteRange(&'a [u8], &'a [u8]),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Inserts or overwrites; both closures append to the batch's own buffer.
    ///
    /// # Errors
    /// What the closures give; the batch is then as before.
    pub fn put_with<E>(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.buffer.len();
        key(&mut self.buffer);
        let key_end = self.buffer.len();
        if let Err(error) = value(&mut self.buffer) {
            self.buffer.truncate(start);
            return Err(error);
        }
        self.writes.push((Write::Put, key_end, self.buffer.len()));
        Ok(())
    }

    /// Inserts or overwrites.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.push(Write::Put, key, value);
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.push(Write::Delete, key, &[]);
    }

    /// Deletes the key that the closure appends to the batch's own buffer.
    pub fn delete_with(&mut self, key: impl FnOnce(&mut Vec<u8>)) {
        key(&mut self.buffer);
        let end = self.buffer.len();
        self.writes.push((Write::Delete, end, end));
    }

    /// Deletes all keys of a range.
    pub fn delete_range(&mut self, range: Range<&[u8]>) {
        self.push(Write::DeleteRange, range.start, range.end);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// How many writes there are.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The writes in order.
    pub fn iter(&self) -> impl Iterator<Item = BatchWrite<'_>> {
        let mut start = 0;
        self.writes.iter().map(move |&(write, middle, end)| {
            let (first, second) = (&self.buffer[start..middle], &self.buffer[middle..end]);
            start = end;
            match write {
                Write::Put => BatchWrite::Put(first, second),
                Write::Delete => BatchWrite::Delete(first),
                Write::DeleteRange => BatchWrite::DeleteRange(first, second),
            }
        })
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.writes.clear();
    }

    fn push(&mut self, write: Write, first: &[u8], second: &[u8]) {
        self.buffer.extend_from_slice(first);
        let middle = self.buffer.len();
        self.buffer.extend_from_slice(second);
        self.writes.push((write, middle, self.buffer.len()));
    }
}
