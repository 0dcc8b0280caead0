//! The file of values: `id: value`, as YAML or JSON. A value that is no text stands as base64:
//!
//! ```yaml
//! app/db/password: correct horse
//! app/tls/key: {base64: LS0tLS1CRUdJTg==}
//! ```

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::yaml::{self, Body, Node};
use crate::client::ids::FullId;
use crate::exit::{Exit, Failure};

/// One variable and the value it is to have.
pub(super) struct Entry {
    /// The variable.
    pub(super) id: FullId,
    /// Its value.
    pub(super) value: Zeroizing<Vec<u8>>,
    /// Where it stands in the file; 0 where that is not known.
    pub(super) line: usize,
}

/// Reads a file of values. Without an account, ids may name any.
///
/// # Errors
/// The first thing that is wrong, with file and line.
pub(super) fn parse(path: &Path, text: &str, account: Option<&str>) -> Result<Vec<Entry>, Failure> {
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let raw = if is_json { from_json(text) } else { from_yaml(text) };
    let raw = raw.map_err(|(line, why)| at(path, line, &why))?;
    let mut entries = Vec::with_capacity(raw.len());
    let mut seen = std::collections::HashMap::with_capacity(raw.len());
    for Raw { id: text, value, line } in raw {
        let id = FullId::parse(account.unwrap_or_default(), Some("variable"), &text)
            .map_err(|failure| at(path, line, &failure.message))?;
        if id.kind != "variable" || account.is_some_and(|account| id.account != account) {
            return Err(at(path, line, &format!("{text} is no variable of this account")));
        }
        if value.iter().all(u8::is_ascii_whitespace) {
            return Err(at(
                path,
                line,
                &format!("{text} has an empty value; a secret may not be empty"),
            ));
        }
        if let Some(before) = seen.insert(id.identifier.clone(), line) {
            return Err(at(
                path,
                line,
                &format!("{text} stands here twice, on line {before} already"),
            ));
        }
        entries.push(Entry { id, value, line });
    }
    Ok(entries)
}

/// A failure at a line of a file.
pub(super) fn at(path: &Path, line: usize, why: &str) -> Failure {
    let place = if line == 0 { String::new() } else { format!(":{line}") };
    Failure::new(Exit::Configuration, format!("{}{place}: {why}", path.display()))
}

struct Raw {
    id: String,
    value: Zeroizing<Vec<u8>>,
    line: usize,
}

fn from_base64(text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let packed: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
    // The decoder's own words would quote a byte of the value.
    STANDARD.decode(packed.as_bytes()).map(Zeroizing::new).map_err(|_| "no base64".to_owned())
}

fn from_yaml(text: &str) -> Result<Vec<Raw>, (usize, String)> {
    let Some(root) = yaml::read(text)? else { return Ok(Vec::new()) };
    let Body::Map(pairs) = root.body else {
        return Err((root.line, "wanted `id: value` pairs".to_owned()));
    };
    pairs.into_iter().map(|(key, value)| yaml_pair(&key, &value)).collect()
}

fn yaml_pair(key: &Node, value: &Node) -> Result<Raw, (usize, String)> {
    let Some(id) = key.text() else {
        return Err((key.line, "wanted the id of a variable".to_owned()));
    };
    let line = key.line;
    let wrong = |why: &str| (line, format!("{id}: {why}"));
    let bytes = match &value.body {
        Body::Scalar { is_null: true, .. } => return Err(wrong("has no value")),
        Body::Scalar { text, is_binary: true, .. } => {
            from_base64(text).map_err(|why| wrong(&why))?
        }
        Body::Scalar { text, .. } => Zeroizing::new(text.as_bytes().to_vec()),
        Body::Map(pairs) => match pairs.as_slice() {
            [(name, packed)] if name.text() == Some("base64") => {
                let packed = packed.text().ok_or_else(|| wrong("no base64"))?;
                from_base64(packed).map_err(|why| wrong(&why))?
            }
            _ => return Err(wrong("wanted text, or {base64: …}")),
        },
        Body::List(_) => return Err(wrong("wanted text, or {base64: …}")),
    };
    Ok(Raw { id: id.to_owned(), value: bytes, line })
}

fn from_json(text: &str) -> Result<Vec<Raw>, (usize, String)> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut raw = deserializer
        .deserialize_map(Pairs)
        .and_then(|raw| deserializer.end().map(|()| raw))
        .map_err(|error| (error.line(), error.to_string()))?;
    for entry in &mut raw {
        let key = serde_json::to_string(&entry.id).unwrap_or_default();
        let place = text.find(&key).map(|at| text[..at].matches('\n').count() + 1);
        entry.line = place.unwrap_or(0);
    }
    Ok(raw)
}

/// The pairs of a JSON object, in the order of the text and with repeated ones kept.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of ids and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(id) = map.next_key::<String>()? {
            let JsonValue(value) = map.next_value()?;
            pairs.push(Raw { id, value, line: 0 });
        }
        Ok(pairs)
    }
}

/// A text, or an object with one text called `base64`.
struct JsonValue(Zeroizing<Vec<u8>>);

impl<'de> serde::Deserialize<'de> for JsonValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = JsonValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or {\"base64\": …}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<JsonValue, E> {
                Ok(JsonValue(Zeroizing::new(text.as_bytes().to_vec())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonValue, A::Error> {
                let pair: Option<(String, String)> = map.next_entry()?;
                match pair {
                    Some((name, packed)) if name == "base64" => {
                        if map.next_key::<String>()?.is_some() {
                            return Err(A::Error::custom(
                                "wanted {\"base64\": …} and nothing more",
                            ));
                        }
                        let packed = Zeroizing::new(packed);
                        from_base64(&packed).map(JsonValue).map_err(A::Error::custom)
                    }
                    _ => Err(A::Error::custom("wanted text, or {\"base64\": …}")),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<(String, Vec<u8>, usize)>, String> {
        let entries =
            parse(Path::new(name), text, Some("dev")).map_err(|failure| failure.message)?;
        let flat = entries.into_iter();
        Ok(flat.map(|entry| (entry.id.identifier, entry.value.to_vec(), entry.line)).collect())
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        let yaml = "---\na/b: yes\n'c d': \"x\\ty\"\nk: {base64: AP8=}\nl: !!binary AP8=\nm: |\n  two\n  lines\n";
        let got = read("v.yml", yaml).unwrap();
        assert_eq!(got[0], ("a/b".to_owned(), b"yes".to_vec(), 2));
        assert_eq!(got[1], ("c d".to_owned(), b"x\ty".to_vec(), 3));
        assert_eq!(got[2], ("k".to_owned(), vec![0, 255], 4));
        assert_eq!(got[3], ("l".to_owned(), vec![0, 255], 5));
        assert_eq!(got[4], ("m".to_owned(), b"two\nlines\n".to_vec(), 6));
        let json = "{\n \"a\": \"\\ud83d\\ude00\",\n \"dev:variable:b\": {\"base64\": \"AP8=\"}}";
        let got = read("v.json", json).unwrap();
        assert_eq!(got[0], ("a".to_owned(), "\u{1f600}".as_bytes().to_vec(), 2));
        assert_eq!(got[1], ("b".to_owned(), vec![0, 255], 3));
    }

    #[test]
    fn errors_name_file_and_line() {
        let cases = [
            ("v.yml", "a: 1\nb:\n", "v.yml:2: b: has no value"),
            ("v.yml", "a: 1\na: 2\n", "v.yml:2: a stands here twice, on line 1 already"),
            ("v.yml", "a: 1\nb: [x]\n", "v.yml:2: b: wanted text"),
            ("v.yml", "a: 1\nb: {base64: '?'}\n", "v.yml:2: b: no base64"),
            ("v.yml", "- a\n", "v.yml:1: wanted `id: value` pairs"),
            ("v.yml", "user:bob: x\n", "is no variable of this account"),
            ("v.json", "{\"a\": 1}", "v.json:1: invalid type"),
            ("v.json", "{\"a\": \"x\",\n}", "v.json:2: "),
        ];
        for (name, text, wanted) in cases {
            let message = read(name, text).unwrap_err();
            assert!(message.contains(wanted), "{text:?}: {message}");
        }
    }
}
