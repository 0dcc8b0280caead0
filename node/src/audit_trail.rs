//! The audit chain outside the cluster: the lines of an export, and the proof that they are what the
//! cluster wrote.
//!
//! ```text
//! {"conclave_audit":1,"cluster":"…","key":"…","first":1,"base":"…"}
//! {"number":1,"node":1,"sequence":1,"hash":"…","record":{…}}
//! …
//! {"checkpoint":{…}}
//! ```
//! `base` is the hash before the first record, `record` what its node wrote, to the byte. The last line
//! is signed with the cluster's key as the export was made, so that nothing can be cut off unseen.

use conclave_domain::audit::{
    AuditCheckpoint, AuditRecord, BrokenChain, ChainVerifier, hex, unhex,
};
use conclave_domain::records::Digest;
use conclave_storage::seal::is_signed;
use serde::{Deserialize, Serialize};

/// Version of the lines.
const VERSION: u8 = 1;

/// What stands before a record's own text in its line.
const RECORD: &str = ",\"record\":";

/// What a chain was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Number of the first record.
    pub first: u64,
    /// Number of the last record; one less than `first` when there is none.
    pub last: u64,
    /// Hash of the last record.
    pub hash: String,
    /// Places where a node says that it has lost records.
    pub gaps: u64,
    /// Signed checkpoints among the records.
    pub checkpoints: u64,
    /// Number of the last record that one of them vouches for.
    pub vouched: u64,
    /// The key that signed them.
    pub key: String,
}

impl Finding {
    /// What a verifier that has come to the end found.
    pub fn of(verifier: &ChainVerifier, first: u64, key: &[u8; 32]) -> Self {
        Self {
            first,
            last: verifier.next().saturating_sub(1),
            hash: hex(&verifier.hash().0),
            gaps: verifier.gaps(),
            checkpoints: verifier.checkpoints(),
            vouched: verifier.vouched(),
            key: hex(key),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opening {
    conclave_audit: u8,
    cluster: String,
    key: String,
    first: u64,
    base: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    number: u64,
    node: u64,
    sequence: u64,
    hash: String,
}

/// The first line of an export.
pub fn opening_line(cluster: &str, key: &[u8; 32], first: u64, base: &Digest) -> String {
    format!(
        "{{\"conclave_audit\":{VERSION},\"cluster\":\"{cluster}\",\"key\":\"{}\",\"first\":{first},\
         \"base\":\"{}\"}}",
        hex(key),
        hex(&base.0)
    )
}

/// The line of a record.
pub fn record_line(number: u64, record: &AuditRecord) -> String {
    format!(
        "{{\"number\":{number},\"node\":{},\"sequence\":{},\"hash\":\"{}\"{RECORD}{}}}",
        record.node,
        record.sequence,
        hex(&record.hash.0),
        record.text
    )
}

fn parse_record(line: &str) -> Option<(u64, AuditRecord)> {
    let (place, rest) = line.split_once(RECORD)?;
    let place: Place = serde_json::from_str(&format!("{place}}}")).ok()?;
    let record = AuditRecord {
        node: place.node,
        sequence: place.sequence,
        text: rest.strip_suffix('}')?.to_owned(),
        hash: Digest(unhex(&place.hash)?),
    };
    // The line must be the one that was written: a number may not be spelled in two ways.
    (record_line(place.number, &record) == line).then_some((place.number, record))
}

/// Judges the lines of an export. `trusted` is the cluster's key where it is known from elsewhere;
/// without it the export's own word is taken for it, and whoever reads the finding compares.
///
/// # Errors
/// [`BrokenChain`] with the number of the first record that is not as the cluster wrote it; 0 stands
/// for the first line.
pub fn verify<E>(
    lines: impl IntoIterator<Item = Result<String, E>>,
    trusted: Option<&[u8; 32]>,
) -> Result<Result<Finding, BrokenChain>, E> {
    let mut judge = Judge { trusted, at: None, ended: false };
    for line in lines {
        if let Err(broken) = judge.take(&line?) {
            return Ok(Err(broken));
        }
    }
    Ok(judge.finish())
}

struct Judge<'a> {
    trusted: Option<&'a [u8; 32]>,
    at: Option<(u64, [u8; 32], ChainVerifier)>,
    ended: bool,
}

impl Judge<'_> {
    fn take(&mut self, line: &str) -> Result<(), BrokenChain> {
        let Some((_, key, verifier)) = &mut self.at else {
            self.at = Some(self.open(line)?);
            return Ok(());
        };
        let broken = |why: &str| BrokenChain { number: verifier.next(), why: why.to_owned() };
        if self.ended {
            return Err(broken("lines follow the end of the export"));
        }
        if let Some(end) = AuditCheckpoint::from_text(line) {
            if end.key != *key || !is_signed(&end) {
                return Err(broken("the last line is not signed by the cluster"));
            }
            verifier.finish(end.number, &end.hash)?;
            self.ended = true;
            return Ok(());
        }
        let (number, record) = parse_record(line).ok_or_else(|| broken("not a record"))?;
        verifier.take(number, &record, |checkpoint| checkpoint.key == *key && is_signed(checkpoint))
    }

    fn open(&self, line: &str) -> Result<(u64, [u8; 32], ChainVerifier), BrokenChain> {
        let broken = |why: &str| BrokenChain { number: 0, why: why.to_owned() };
        let opening: Opening =
            serde_json::from_str(line).map_err(|_| broken("not the first line of an export"))?;
        if opening.conclave_audit != VERSION {
            return Err(broken("an export of another version"));
        }
        let key = unhex(&opening.key).ok_or_else(|| broken("its key is none"))?;
        if self.trusted.is_some_and(|trusted| *trusted != key) {
            return Err(broken("it names another key than the one that is trusted"));
        }
        let base = unhex(&opening.base).ok_or_else(|| broken("its base is no hash"))?;
        Ok((opening.first, key, ChainVerifier::new(opening.first, Digest(base))))
    }

    fn finish(self) -> Result<Finding, BrokenChain> {
        let Some((first, key, verifier)) = self.at else {
            return Err(BrokenChain { number: 0, why: "the export is empty".to_owned() });
        };
        if !self.ended {
            let why = "it is missing: the export breaks off".to_owned();
            return Err(BrokenChain { number: verifier.next(), why });
        }
        Ok(Finding::of(&verifier, first, &key))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use conclave_domain::audit::chain_hash;
    use conclave_domain::time::Timestamp;
    use conclave_storage::seal::{AuditKey, RootKey};

    use super::*;

    /// An export of `count` records and a checkpoint in their middle.
    fn export(key: &AuditKey, count: u64) -> Vec<String> {
        let base = Digest([0; 32]);
        let mut lines = vec![opening_line("c0ffee", &key.public(), 1, &base)];
        let mut hash = base;
        let mut sequence = 0;
        for number in 1..=count {
            let (node, own, text) = if number == count / 2 {
                (0, 0, key.checkpoint(number - 1, hash, Timestamp(7)).to_text())
            } else {
                sequence += 1;
                (7, sequence, format!("{{\"seq\":{sequence},\"message\":\"m{number}\"}}"))
            };
            hash = chain_hash(&hash, node, own, &text);
            lines.push(record_line(number, &AuditRecord { node, sequence: own, text, hash }));
        }
        lines.push(key.checkpoint(count, hash, Timestamp(8)).to_text());
        lines
    }

    fn judge(lines: &[String], trusted: Option<&[u8; 32]>) -> Result<Finding, BrokenChain> {
        verify(lines.iter().cloned().map(Ok::<_, Infallible>), trusted).unwrap()
    }

    #[test]
    fn an_export_is_found_to_be_what_it_is() {
        let key = AuditKey::derive(&RootKey::generate().unwrap()).unwrap();
        let lines = export(&key, 20);
        let finding = judge(&lines, Some(&key.public())).unwrap();
        assert_eq!((finding.first, finding.last, finding.checkpoints), (1, 20, 1));
        assert_eq!(finding.vouched, 9);
        assert_eq!(judge(&lines, Some(&[1; 32])).unwrap_err().number, 0);
        assert_eq!(judge(&[], None).unwrap_err().number, 0);
    }

    #[test]
    fn every_byte_and_every_line_counts() {
        let key = AuditKey::derive(&RootKey::generate().unwrap()).unwrap();
        let lines = export(&key, 12);
        for at in 1..lines.len() {
            let number = at as u64;
            let first_bad = |lines: &[String]| judge(lines, None).unwrap_err().number;
            for place in 0..lines[at].len() {
                let mut edited = lines.clone();
                let mut bytes = edited[at].clone().into_bytes();
                bytes[place] ^= 1;
                edited[at] = String::from_utf8(bytes).unwrap();
                let found = first_bad(&edited);
                // The end is no record: what it no longer says is missing is.
                assert!(found == number || at == lines.len() - 1, "{found}: {}", edited[at]);
            }
            let mut shorter = lines.clone();
            shorter.remove(at);
            assert_eq!(first_bad(&shorter), number);
            assert_eq!(first_bad(&lines[..at]), number);
            let mut swapped = lines.clone();
            swapped.swap(at, 1 + at % (lines.len() - 2));
            assert!(swapped == lines || first_bad(&swapped) <= number);
        }
        // Whoever makes a chain of their own lacks the key.
        let forged = export(&AuditKey::derive(&RootKey::generate().unwrap()).unwrap(), 12);
        assert!(judge(&forged, Some(&key.public())).is_err());
        let mut grafted = forged;
        grafted[0].clone_from(&lines[0]);
        assert!(judge(&grafted, None).is_err());
    }
}
