//! What a command shows: text for people by default, JSON with `--output json`. Standard output
//! carries results only; everything else goes to standard error.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use crate::exit::{Context, Exit, Failure};

/// What leads the error when standard output takes nothing.
const CANNOT_WRITE: &str = "cannot write to standard output";

/// The shape of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Output {
    /// Shows a result: `text` for people, `value` as JSON for programs.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn show(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self {
            Self::Text => line(text().as_bytes()),
            Self::Json => {
                let json =
                    serde_json::to_vec_pretty(value).context(Exit::Failed, "cannot write JSON")?;
                line(&json)
            }
        }
    }
}

/// Writes bytes and a line end to standard output; an empty text writes nothing.
///
/// # Errors
/// When standard output is closed.
pub fn line(bytes: &[u8]) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    let end: &[u8] = if bytes.ends_with(b"\n") { b"" } else { b"\n" };
    let written = out.write_all(bytes).and_then(|()| out.write_all(end));
    told(written.and_then(|()| out.flush()), CANNOT_WRITE)
}

/// Writes bytes as they are to standard output.
///
/// # Errors
/// When standard output is closed.
pub fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    told(out.write_all(bytes).and_then(|()| out.flush()), CANNOT_WRITE)
}

/// What became of something written where people or programs read it; `what` leads other errors.
///
/// # Errors
/// [`Exit::Unread`] when the reader has gone, [`Exit::Failed`] when it cannot be written.
pub fn told(written: io::Result<()>, what: &str) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Unread, "the output was not read to its end"))
        }
        written => written.context(Exit::Failed, what),
    }
}

/// Writes a note for people to standard error. A closed standard error is no reason to stop.
pub fn note(text: impl std::fmt::Display) {
    let mut err = io::stderr().lock();
    drop(writeln!(err, "{text}"));
}

/// Shows a document that a server sent: `text` for people, itself for programs.
///
/// # Errors
/// When it is no JSON, or standard output is closed.
pub fn document(
    bytes: &[u8],
    output: Output,
    text: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    let document: Value =
        serde_json::from_slice(bytes).context(Exit::Failed, "the server's answer")?;
    output.show(&document, || text(&document))
}

/// A document as indented JSON, for people.
pub fn pretty(document: &Value) -> String {
    serde_json::to_string_pretty(document).unwrap_or_default()
}

/// A list of texts, one a line and in order, for people.
pub fn lines(document: &Value) -> String {
    let mut lines: Vec<&str> =
        document.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Columns padded to the widest cell, for people.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
