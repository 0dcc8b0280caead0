//! Texts of audit records, packed: they resemble each other, and in the log, between nodes and in the
//! state they take a fraction of their length.
//!
//! ```text
//! form (1) | count (u32) | length of what follows before it was packed (u32) | what follows, packed
//! what follows: for each text its length (u32) and its bytes
//! ```
//! Integers are big-endian. Form 1 is not packed, form 2 is an LZ4 block. Whoever receives texts keeps
//! and passes on the very bytes that came: nobody packs twice, so all nodes hold the same, whichever
//! compressor the first one had.

use std::sync::Arc;

use super::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};

const PLAIN: u8 = 1;
const LZ4: u8 = 2;

/// Bytes of a text's length.
const LENGTH: usize = 4;
/// Longest that unpacked texts and their lengths may be.
const RAW_MAX: usize = BATCH_BYTES_MAX + LENGTH * BATCH_RECORDS_MAX;

/// Texts of records that follow each other. Copies share their bytes.
#[derive(Clone)]
pub struct AuditTexts(Arc<Inner>);

struct Inner {
    packed: Vec<u8>,
    raw: String,
    /// Where in `raw` each text ends.
    ends: Vec<usize>,
}

/// Why bytes are no packed texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("audit records that cannot be unpacked: {0}")]
pub struct BadAuditTexts(&'static str);

impl AuditTexts {
    /// Packs texts.
    pub fn packed<T: AsRef<str>>(texts: &[T]) -> Self {
        Self::of(texts, LZ4)
    }

    /// Keeps texts as they are: what they are stored as depends on nothing but them.
    pub fn plain<T: AsRef<str>>(texts: &[T]) -> Self {
        Self::of(texts, PLAIN)
    }

    fn of<T: AsRef<str>>(texts: &[T], form: u8) -> Self {
        let length = texts.iter().map(|text| text.as_ref().len()).sum::<usize>();
        let mut raw = String::with_capacity(length);
        let mut ends = Vec::with_capacity(texts.len());
        let mut body = Vec::with_capacity(length + LENGTH * texts.len());
        for text in texts.iter().map(AsRef::as_ref) {
            raw.push_str(text);
            ends.push(raw.len());
            body.extend_from_slice(&u32_of(text.len()).to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        let mut packed = vec![form];
        packed.extend_from_slice(&u32_of(texts.len()).to_be_bytes());
        packed.extend_from_slice(&u32_of(body.len()).to_be_bytes());
        if form == LZ4 {
            packed.extend_from_slice(&lz4_flex::block::compress(&body));
        } else {
            packed.extend_from_slice(&body);
        }
        Self(Arc::new(Inner { packed, raw, ends }))
    }

    /// Takes packed texts.
    ///
    /// # Errors
    /// [`BadAuditTexts`], also for more than one batch may hold: what a short packed text unpacks to
    /// is bounded before it is unpacked.
    pub fn from_bytes(packed: Vec<u8>) -> Result<Self, BadAuditTexts> {
        let cut = BadAuditTexts("they are too short");
        let (form, rest) = packed.split_first().ok_or(cut.clone())?;
        let (count, rest) = rest.split_first_chunk::<LENGTH>().ok_or(cut.clone())?;
        let (length, body) = rest.split_first_chunk::<LENGTH>().ok_or(cut)?;
        let (count, length) = (u32::from_be_bytes(*count), u32::from_be_bytes(*length));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if count > BATCH_RECORDS_MAX || length > RAW_MAX {
            return Err(BadAuditTexts("they are more than a batch may hold"));
        }
        let unpacked;
        let body = match *form {
            PLAIN => body,
            LZ4 => {
                unpacked = lz4_flex::block::decompress(body, length)
                    .map_err(|_damaged| BadAuditTexts("they are damaged"))?;
                unpacked.as_slice()
            }
            _ => return Err(BadAuditTexts("their form is unknown")),
        };
        if body.len() != length {
            return Err(BadAuditTexts("their length is not as said"));
        }
        let mut raw = String::with_capacity(length);
        let mut ends = Vec::with_capacity(count);
        let mut rest = body;
        while let Some((size, tail)) = rest.split_first_chunk::<LENGTH>() {
            let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
            let text = tail.split_at_checked(size);
            let (text, tail) = text.ok_or(BadAuditTexts("a text is cut off"))?;
            raw.push_str(std::str::from_utf8(text).map_err(|_| BadAuditTexts("not UTF-8"))?);
            ends.push(raw.len());
            rest = tail;
        }
        if !rest.is_empty() || ends.len() != count {
            return Err(BadAuditTexts("their number is not as said"));
        }
        Ok(Self(Arc::new(Inner { packed, raw, ends })))
    }

    /// As they are stored and sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.packed
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// Bytes of all of them, unpacked.
    pub fn text_bytes(&self) -> usize {
        self.0.raw.len()
    }

    /// The texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.0.ends.iter().map(move |end| {
            // Ends were noted at the ends of whole texts.
            let text = self.0.raw.get(start..*end).unwrap_or_default();
            start = *end;
            text
        })
    }
}

/// What is longer than a length can say is refused where bounds are checked: the rules take no batch
/// that comes near it.
fn u32_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The same texts, however they are packed.
impl PartialEq for AuditTexts {
    fn eq(&self, other: &Self) -> bool {
        self.0.ends == other.0.ends && self.0.raw == other.0.raw
    }
}

impl Eq for AuditTexts {}

impl std::fmt::Debug for AuditTexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like_records(count: usize) -> Vec<String> {
        (0..count)
            .map(|n| format!("{{\"seq\":{n},\"message\":\"demo:user:{n} fetched x\"}}"))
            .collect()
    }

    #[test]
    fn texts_come_back_as_they_were_and_take_less() {
        for count in [0, 1, 300] {
            let texts = like_records(count);
            for kept in [AuditTexts::packed(&texts), AuditTexts::plain(&texts)] {
                let back = AuditTexts::from_bytes(kept.as_bytes().to_vec()).unwrap();
                assert!(back.iter().eq(&texts));
                assert_eq!((back.len(), &back), (count, &kept));
            }
        }
        let packed = AuditTexts::packed(&like_records(300));
        assert!(packed.as_bytes().len() * 3 < packed.text_bytes());
    }

    #[test]
    fn what_is_no_batch_is_refused_before_it_takes_memory() {
        let bytes = AuditTexts::packed(&like_records(20)).as_bytes().to_vec();
        for end in 0..bytes.len() {
            assert!(AuditTexts::from_bytes(bytes[..end].to_vec()).is_err(), "{end}");
        }
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut edited = bytes.clone();
                edited[place] ^= 1 << bit;
                // Either it is refused or it is other texts; it never goes wrong.
                if let Ok(texts) = AuditTexts::from_bytes(edited) {
                    assert_eq!(texts.len(), texts.iter().count());
                }
            }
        }
        let bomb = [&[LZ4][..], &[0, 0, 0, 1], &[0xff; 4], &[0; 64]].concat();
        assert_eq!(
            AuditTexts::from_bytes(bomb),
            Err(BadAuditTexts("they are more than a batch may hold"))
        );
        let many = vec![""; BATCH_RECORDS_MAX + 1];
        assert!(AuditTexts::from_bytes(AuditTexts::plain(&many).as_bytes().to_vec()).is_err());
    }
}
