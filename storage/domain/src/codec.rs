//! What all byte formats of this crate share: a version byte, then bincode of that version's types.
//!
//! Decoding is bounded, takes all of its input or refuses it, and says so clearly when the bytes
//! were written by a newer program.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most that one value may take up when decoded, in bytes.
pub const DECODED_BYTES_MAX: usize = 64 << 20;

/// Why bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There was nothing at all.
    #[error("no bytes where a {what} was expected")]
    Empty {
        /// What was to be read.
        what: &'static str,
    },
    /// The bytes were written by a newer program.
    #[error(
        "{what} has format version {found}, and this program knows none above {newest}: \
         upgrade this node"
    )]
    TooNew {
        /// What was to be read.
        what: &'static str,
        /// The version that stands in the bytes.
        found: u8,
        /// The newest version known.
        newest: u8,
    },
    /// No program ever wrote that version.
    #[error("{what} has format version {found}, which does not exist")]
    NoSuchVersion {
        /// What was to be read.
        what: &'static str,
        /// The version that stands in the bytes.
        found: u8,
    },
    /// The bytes do not fit the format.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// What was to be read.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// More bytes follow than the value takes.
    #[error("{what} is followed by {bytes} bytes that do not belong to it")]
    Trailing {
        /// What was read.
        what: &'static str,
        /// How many bytes are left over.
        bytes: usize,
    },
}

fn config() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODED_BYTES_MAX>,
> {
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>()
}

/// Writes the version byte and the body.
pub(crate) fn encode<T: Serialize>(version: u8, body: &T) -> Vec<u8> {
    let mut bytes = vec![version];
    #[expect(
        clippy::expect_used,
        reason = "the bodies are plain structs, enums and sequences of known length, and a Vec \
                  takes any number of bytes"
    )]
    bincode::serde::encode_into_std_write(body, &mut bytes, config())
        .expect("plain data is always encodable");
    bytes
}

/// Splits off the version byte and refuses versions that this program does not know.
pub(crate) fn split_version<'a>(
    what: &'static str,
    newest: u8,
    bytes: &'a [u8],
) -> Result<(u8, &'a [u8]), DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty { what }),
        Some((&found, _)) if found > newest => Err(DecodeError::TooNew { what, found, newest }),
        Some((&0, _)) => Err(DecodeError::NoSuchVersion { what, found: 0 }),
        Some((&version, body)) => Ok((version, body)),
    }
}

/// Reads a body that takes up all the bytes.
pub(crate) fn decode_body<T: DeserializeOwned>(
    what: &'static str,
    body: &[u8],
) -> Result<T, DecodeError> {
    let (value, taken) = bincode::serde::decode_from_slice(body, config())
        .map_err(|error| DecodeError::Malformed { what, why: error.to_string() })?;
    match body.len() - taken {
        0 => Ok(value),
        bytes => Err(DecodeError::Trailing { what, bytes }),
    }
}

/// A byte string: written and read at once instead of byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}
