//! JSON as the API writes it: compact, with `<`, `>`, `&`, U+2028 and U+2029 escaped. Documents that
//! hold secrets are wiped.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;
use zeroize::{Zeroize, Zeroizing};

struct HtmlSafe;

impl Formatter for HtmlSafe {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let bytes = fragment.as_bytes();
        let mut written = 0;
        for (at, byte) in bytes.iter().enumerate() {
            let (escape, length): (&[u8], usize) = match byte {
                b'<' => (b"\\u003c", 1),
                b'>' => (b"\\u003e", 1),
                b'&' => (b"\\u0026", 1),
                0xE2 if bytes[at..].starts_with(b"\xE2\x80\xA8") => (b"\\u2028", 3),
                0xE2 if bytes[at..].starts_with(b"\xE2\x80\xA9") => (b"\\u2029", 3),
                _ => continue,
            };
            writer.write_all(&bytes[written..at])?;
            writer.write_all(escape)?;
            written = at + length;
        }
        writer.write_all(&bytes[written..])
    }
}

/// Writes a value as JSON.
pub(crate) fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    write(&mut bytes, value);
    bytes
}

/// Writes a value that holds secrets as JSON, into memory that is wiped and that was large enough from
/// the start: growing would leave copies behind.
pub(crate) fn to_wiped(value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut length = Length(0);
    write_to(&mut length, value);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    write(&mut bytes, value);
    bytes
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A document whose texts are wiped when it is dropped.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Wiped(pub(crate) Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Wipes every text of a document, save the names of its fields.
pub(crate) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Writes a value as JSON at the end of `bytes`.
pub(crate) fn write(bytes: &mut Vec<u8>, value: &impl Serialize) {
    write_to(bytes, value);
}

fn write_to(to: impl io::Write, value: &impl Serialize) {
    let mut serializer = serde_json::Serializer::with_formatter(to, HtmlSafe);
    // Writing to memory cannot fail, and no document of ours has a key that is not a string.
    if let Err(error) = value.serialize(&mut serializer) {
        tracing::error!(%error, "json.write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_written_without_growing_and_wiped() {
        let mut document = serde_json::json!({"a": ["<one>", {"b": "two"}], "c": 3});
        let bytes = to_wiped(&document);
        assert_eq!(*bytes, to_vec(&document));
        assert_eq!(bytes.capacity(), bytes.len());
        wipe(&mut document);
        assert_eq!(document, serde_json::json!({"a": ["", {"b": ""}], "c": 3}));
    }

    #[test]
    fn markup_and_line_separators_are_escaped() {
        let text = String::from_utf8(to_vec(&"<a>&b\u{2028}ü\u{2029}\"\n")).unwrap();
        assert_eq!(text, r#""\u003ca\u003e\u0026b\u2028ü\u2029\"\n""#);
    }
}
