//! A writer and a bounded reader of flat bytes: big-endian integers, length-prefixed byte strings.
//!
//! Everything that `raft` puts on the wire or into a log record is written with these two types.
//! The reader never allocates more than the input holds and never panics, whatever it is given.

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended inside a field.
    #[error("input ends {missing} bytes too early")]
    Truncated {
        /// How many more bytes the field needed.
        missing: usize,
    },
    /// Bytes were left over after the last field.
    #[error("{extra} bytes after the end of the message")]
    Trailing {
        /// How many were left.
        extra: usize,
    },
    /// A tag that this version does not know.
    #[error("unknown {what} tag {tag}")]
    Tag {
        /// What the tag should have named.
        what: &'static str,
        /// The tag found.
        tag: u8,
    },
    /// A version that this build does not know; the peer or the data is newer.
    #[error(
        "{what} version {found} is newer than {known}, the newest known here; upgrade this node"
    )]
    Version {
        /// What is versioned.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// A text field that is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A list or byte string longer than its bound.
    #[error("{what} has {found} items, at most {most} are allowed")]
    Bound {
        /// What is bounded.
        what: &'static str,
        /// How many were announced.
        found: usize,
        /// How many are allowed.
        most: usize,
    },
    /// Fields that are well-formed but contradict each other.
    #[error("inconsistent {what}")]
    Inconsistent {
        /// What does not hold together.
        what: &'static str,
    },
}

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffer: BytesMut,
}

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(bytes) }
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.buffer.put_u8(value);
        self
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.buffer.put_u32(value);
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.buffer.put_u64(value);
        self
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.buffer.put_slice(bytes);
        self
    }

    /// A length (u32) and as many bytes. Callers bound their input; see [`len_u32`].
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(len_u32(bytes.len()));
        self.raw(bytes)
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// One byte for presence, then the value where there is one.
    pub(crate) fn option<T>(
        &mut self,
        value: Option<&T>,
        write: impl FnOnce(&mut Self, &T),
    ) -> &mut Self {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
        self
    }

    pub(crate) fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}

/// The length of something that memory bounds far below 4 GiB, as it is written on the wire.
pub(crate) fn len_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Takes fields off a buffer. Byte strings share the buffer rather than copy it.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        if self.rest.len() < count {
            return Err(DecodeError::Truncated { missing: count - self.rest.len() });
        }
        Ok(self.rest.split_to(count))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&taken);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::Tag { what: "bool", tag }),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| DecodeError::Utf8)
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A count, checked against a bound and against what the input could hold at all, so that a
    /// lie about the count cannot make us reserve memory.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        most: usize,
        item_bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let found = self.u32()? as usize;
        if found > most {
            return Err(DecodeError::Bound { what, found, most });
        }
        let needed = found.saturating_mul(item_bytes_min);
        if needed > self.remaining() {
            return Err(DecodeError::Truncated { missing: needed - self.remaining() });
        }
        Ok(found)
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { extra: self.rest.len() })
        }
    }
}
