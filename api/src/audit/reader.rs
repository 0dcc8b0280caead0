//! Reads the spool back, in order, for whoever ships its records to the audit chain; and deletes the
//! files that are in the chain whole.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use conclave_domain::audit::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};

/// Records of a spool that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpoolBatch {
    /// Number of the first.
    pub first: u64,
    /// How many right before the first are not in the spool any more.
    pub lost: u64,
    /// Their texts, as they stand in the files.
    pub records: Vec<String>,
}

/// Reads a spool's files. Remembers where it is, so that reading on costs no search.
#[derive(Debug)]
pub struct SpoolReader {
    folder: PathBuf,
    open: Option<(PathBuf, BufReader<File>)>,
    /// Read, and not given out yet.
    pending: Option<(u64, String)>,
    /// Number of the record that reading on would give.
    next: u64,
}

impl SpoolReader {
    /// A reader of the spool in a folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, open: None, pending: None, next: 0 }
    }

    /// Records from number `from` on, up to number `through`, as many as go into one batch. Those of
    /// the range must be fsynced. Where records at the front are gone, the batch says how many; it is
    /// empty but for that when all of them are.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self, from: u64, through: u64) -> io::Result<SpoolBatch> {
        if self.next != from {
            self.open = None;
            self.pending = None;
        }
        let mut batch = SpoolBatch { first: from, ..SpoolBatch::default() };
        let mut next = from;
        let mut bytes = 0;
        while next <= through && batch.records.len() < BATCH_RECORDS_MAX {
            let (number, text) = match self.line_from(next)? {
                Some(found) if found.0 <= through => found,
                beyond => {
                    self.pending = beyond;
                    if batch.records.is_empty() {
                        next = through + 1;
                        batch = SpoolBatch { first: next, lost: next - from, records: Vec::new() };
                    }
                    break;
                }
            };
            let is_first = batch.records.is_empty();
            if !is_first && (number > next || bytes + text.len() > BATCH_BYTES_MAX) {
                self.pending = Some((number, text));
                break;
            }
            if is_first {
                (batch.first, batch.lost) = (number, number - from);
            }
            bytes += text.len();
            batch.records.push(text);
            next = number + 1;
        }
        self.next = next;
        Ok(batch)
    }

    /// Deletes the files whose records all have numbers up to `through`; never the newest file.
    ///
    /// # Errors
    /// When a file cannot be deleted.
    pub fn forget(&mut self, through: u64) -> io::Result<()> {
        let files = files(&self.folder)?;
        for pair in files.windows(2) {
            let [(_, path), (next_first, _)] = pair else { continue };
            if *next_first > through.saturating_add(1) {
                break;
            }
            if self.open.as_ref().is_some_and(|(open, _)| open == path) {
                self.open = None;
            }
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The next record of number `wanted` or above.
    fn line_from(&mut self, wanted: u64) -> io::Result<Option<(u64, String)>> {
        if let Some(pending) = self.pending.take_if(|(number, _)| *number >= wanted) {
            return Ok(Some(pending));
        }
        self.pending = None;
        let mut line = Vec::new();
        loop {
            let Some((path, reader)) = &mut self.open else {
                let files = files(&self.folder)?;
                // The last that begins at or before it; where there is none, the first of all.
                let place = files.iter().rposition(|(first, _)| *first <= wanted).unwrap_or(0);
                let Some((_, path)) = files.get(place) else { return Ok(None) };
                // Of files that begin with the same number, all but the last are empty.
                self.open = Some((path.clone(), BufReader::new(File::open(path)?)));
                continue;
            };
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                // The end, or a line that was torn, or one that is being written.
                reader.seek_relative(-i64::try_from(read).unwrap_or(0))?;
                let files = files(&self.folder)?;
                let place = files.iter().position(|(_, known)| known == path);
                let after = place.and_then(|place| files.get(place + 1));
                let Some((_, path)) = after else { return Ok(None) };
                self.open = Some((path.clone(), BufReader::new(File::open(path)?)));
                continue;
            }
            line.pop();
            let Some(number) = line_number(&line).filter(|number| *number >= wanted) else {
                continue;
            };
            // What is damaged or too long counts as lost.
            if line.len() <= RECORD_BYTES_MAX
                && let Ok(text) = String::from_utf8(std::mem::take(&mut line))
            {
                return Ok(Some((number, text)));
            }
            tracing::error!(number, "audit.spool holds a record that cannot be shipped");
        }
    }
}

/// The spool's files with the number of the first record in each, in order.
pub(super) fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_spool = name.starts_with("spool-");
        if is_spool && path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push((first_number(&path), path));
        }
    }
    // Names sort by the number of their first record, whatever the clock said. One of two that begin
    // alike is empty.
    files.sort();
    Ok(files)
}

fn first_number(path: &Path) -> u64 {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The number that a line of the spool begins with.
pub(super) fn line_number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, first: u64, lines: &str) {
        let name = format!("spool-{:015}-{first:012}.jsonl", 7);
        std::fs::write(folder.join(name), lines).unwrap();
    }

    fn texts(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
        numbers.into_iter().map(|number| format!("{{\"seq\":{number},\"a\":1}}")).collect()
    }

    fn lines(numbers: impl IntoIterator<Item = u64>) -> String {
        texts(numbers).iter().flat_map(|text| [text.as_str(), "\n"]).collect()
    }

    #[test]
    fn records_are_read_across_files_and_torn_lines() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, &(lines(1..=3) + "{\"seq\":4,\"to"));
        write(folder.path(), 4, &lines(4..=6));
        let mut reader = SpoolReader::new(folder.path().to_owned());
        let batch = |first, lost, numbers| SpoolBatch { first, lost, records: texts(numbers) };
        assert_eq!(reader.read(1, 2).unwrap(), batch(1, 0, 1..=2));
        assert_eq!(reader.read(3, 6).unwrap(), batch(3, 0, 3..=6));
        // More came, and then the answer was lost: from an earlier place again.
        write(folder.path(), 4, &lines(4..=8));
        assert_eq!(reader.read(7, 8).unwrap(), batch(7, 0, 7..=8));
        assert_eq!(reader.read(5, 8).unwrap(), batch(5, 0, 5..=8));
    }

    #[test]
    fn what_is_gone_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 5, &(lines(5..=6) + "damage\n" + &lines(9..=9)));
        let mut reader = SpoolReader::new(folder.path().to_owned());
        let batch = |first, lost, numbers: &[u64]| SpoolBatch {
            first,
            lost,
            records: texts(numbers.iter().copied()),
        };
        assert_eq!(reader.read(1, 9).unwrap(), batch(5, 4, &[5, 6]));
        assert_eq!(reader.read(7, 9).unwrap(), batch(9, 2, &[9]));
        assert_eq!(reader.read(10, 12).unwrap(), batch(13, 3, &[]));
    }

    #[test]
    fn files_that_are_in_the_chain_whole_are_deleted_but_never_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        for first in [1, 4, 7] {
            write(folder.path(), first, &lines(first..first + 3));
        }
        let mut reader = SpoolReader::new(folder.path().to_owned());
        let firsts = || files(folder.path()).unwrap().iter().map(|(first, _)| *first).collect();
        let left = |reader: &mut SpoolReader, through| -> Vec<u64> {
            reader.forget(through).unwrap();
            firsts()
        };
        assert_eq!(left(&mut reader, 2), [1, 4, 7]);
        assert_eq!(left(&mut reader, 3), [4, 7]);
        assert_eq!(left(&mut reader, 100), [7]);
    }

    #[test]
    fn a_batch_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let long = |number: u64| {
            format!("{{\"seq\":{number},\"a\":\"{}\"}}\n", "x".repeat(BATCH_BYTES_MAX / 5))
        };
        write(folder.path(), 1, &(1..=9).map(long).collect::<String>());
        let mut reader = SpoolReader::new(folder.path().to_owned());
        assert_eq!(reader.read(1, 9).unwrap().records.len(), 4);
        assert_eq!(reader.read(5, 9).unwrap().first, 5);
    }
}
