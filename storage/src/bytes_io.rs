//! Reading and writing of small hand-laid records: big-endian integers, length-prefixed bytes, a
//! checksum at the end. Reading never panics, whatever the bytes.

use crate::error::Fault;

/// Takes fields off the front of bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        match self.bytes.split_at_checked(len) {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(head)
            }
            None => Err(Fault::corrupt(self.what, "it ends too early")),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Bytes behind a 32-bit length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn end(self) -> Result<(), Fault> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(Fault::corrupt(self.what, "bytes follow where it should end"))
        }
    }

    /// Takes the version byte and refuses one this program does not know.
    pub(crate) fn version(&mut self, known: u8) -> Result<u8, Fault> {
        let found = self.u8()?;
        if found > known {
            return Err(Fault::TooNew {
                what: self.what.to_owned(),
                found: found.into(),
                known: known.into(),
            });
        }
        if found == 0 {
            return Err(Fault::corrupt(self.what, "its version is 0"));
        }
        Ok(found)
    }
}

/// Appends bytes behind a 32-bit length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&len_u32(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')).collect()
}

/// A length as 32 bits. Everything stored here is bounded far below that.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Appends the CRC-32C of all bytes before it.
pub(crate) fn put_checksum(out: &mut Vec<u8>) {
    let sum = crc32c::crc32c(out);
    out.extend_from_slice(&sum.to_be_bytes());
}

/// Takes the CRC-32C off the end and compares it.
pub(crate) fn checked<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], Fault> {
    let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
        return Err(Fault::corrupt(what, "it ends too early"));
    };
    if crc32c::crc32c(body) != u32::from_be_bytes(*sum) {
        return Err(Fault::corrupt(what, "its checksum does not match"));
    }
    Ok(body)
}
