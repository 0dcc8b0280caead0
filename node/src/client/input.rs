//! What a person or a script hands to a verb: lines, passwords and values, by prompt, file or standard
//! input. Nothing secret is echoed, and nothing secret has to be an argument, which others on the
//! machine can read in the list of processes.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use crate::exit::{Context, Exit, Failure};

/// Longest password, key or value taken from a file or standard input.
const INPUT_BYTES_MAX: u64 = 16 << 20;

/// Reads a file, or standard input for `-`, up to a bound.
///
/// # Errors
/// When it cannot be read, or is too long.
pub(crate) fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let is_stdin = path == Path::new("-");
    let what = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = if is_stdin {
        std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.context(Exit::Configuration, &what)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::new(
            Exit::Usage,
            format!("{what} is longer than {INPUT_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// A line that may be seen: asked for on a terminal, else the first of standard input.
///
/// # Errors
/// When there is none.
pub(crate) fn line(prompt: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        let mut out = std::io::stderr().lock();
        out.write_all(prompt.as_bytes())
            .and_then(|()| out.flush())
            .context(Exit::Usage, "cannot ask")?;
    }
    let mut text = String::new();
    std::io::stdin().read_line(&mut text).context(Exit::Usage, "standard input")?;
    match text.trim() {
        "" => Err(Failure::new(Exit::Usage, format!("nothing was given for {prompt:?}"))),
        line => Ok(line.to_owned()),
    }
}

/// A password, key or token: from the file (`-` for standard input), else asked for without echo on
/// a terminal, else the first line of standard input.
///
/// # Errors
/// When there is none.
pub(crate) fn secret_line(file: Option<&Path>, prompt: &str) -> Result<Zeroizing<String>, Failure> {
    match file {
        Some(file) => first_line(&bytes(file)?),
        None if std::io::stdin().is_terminal() => ask(prompt),
        None => first_line(&bytes(Path::new("-"))?),
    }
}

/// As [`secret_line`]; on a terminal it is asked for twice, since a slip would lock somebody out.
///
/// # Errors
/// When there is none, or the two differ.
pub(crate) fn new_secret_line(
    file: Option<&Path>,
    prompt: &str,
) -> Result<Zeroizing<String>, Failure> {
    if file.is_some() || !std::io::stdin().is_terminal() {
        return secret_line(file, prompt);
    }
    let first = ask(prompt)?;
    let second = ask("Again: ")?;
    if *first != *second {
        return Err(Failure::new(Exit::Usage, "the two are not the same"));
    }
    Ok(first)
}

/// A value, byte for byte from the file or standard input; one line without echo on a terminal.
///
/// # Errors
/// When there is none.
pub(crate) fn value(file: Option<&Path>, prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    match file {
        Some(file) => bytes(file),
        None if std::io::stdin().is_terminal() => {
            Ok(Zeroizing::new(ask(prompt)?.as_bytes().to_vec()))
        }
        None => bytes(Path::new("-")),
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let answer = rpassword::prompt_password(prompt).context(Exit::Usage, "cannot ask")?;
    if answer.is_empty() {
        return Err(Failure::new(Exit::Usage, "nothing was typed"));
    }
    Ok(Zeroizing::new(answer))
}

/// The first line, for passwords: editors end files with a line end that is no part of them.
fn first_line(bytes: &[u8]) -> Result<Zeroizing<String>, Failure> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Failure::new(Exit::Usage, "the password is not UTF-8 text"))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(Exit::Usage, "the password is empty"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}
