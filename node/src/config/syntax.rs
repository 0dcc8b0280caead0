//! What the TOML reader says of a value of the wrong type, in the words of the file: the key, what stands there,
//! and what would be right.

use std::path::Path;

use super::ConfigError;

/// Why a text is refused that is no configuration.
pub(super) fn refusal(text: &str, path: &Path, error: &toml::de::Error) -> ConfigError {
    mistyped(text, path, error).unwrap_or_else(|| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

/// The reader says `invalid type: integer 5, expected a string`, and where that stands.
fn mistyped(text: &str, path: &Path, error: &toml::de::Error) -> Option<ConfigError> {
    let said = error.message();
    let said = said.strip_prefix("invalid type: ").or(said.strip_prefix("invalid value: "))?;
    let (_, expected) = said.split_once(", expected ")?;
    let span = error.span()?;
    let before = text.get(..span.start)?;
    let line = before.lines().count().max(1);
    let (name, _) = text.lines().nth(line - 1)?.split_once('=')?;
    let section = before.lines().rev().find_map(|line| line.trim().strip_prefix('['));
    let section = section.and_then(|rest| rest.trim_start_matches('[').split(']').next());
    let key = section.map_or_else(String::new, |section| format!("{}.", section.trim()));
    let key = format!("{key}{}", name.trim());
    let fix = match expected {
        "a string" => "write it as text, in quotes".to_owned(),
        "a boolean" => "write true or false".to_owned(),
        "a sequence" => "write a list: [ … , … ]".to_owned(),
        section if section.starts_with("struct ") => {
            format!("write [{key}] on a line of its own, and what belongs to it below")
        }
        number if number.strip_prefix('u').is_some_and(|bits| bits.parse::<u8>().is_ok()) => {
            "write a whole number, not negative and not that large".to_owned()
        }
        other => format!("write {other}"),
    };
    let source = ConfigError::Type { key, value: text.get(span)?.to_owned(), fix };
    Some(ConfigError::At { path: path.to_owned(), line: Some(line), source: Box::new(source) })
}
