//! Asks a node over its admin socket.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Account, AuditPage, Request, Response, StateHash, Status};
use super::socket_path;
use crate::exit::{Exit, Failure};
use crate::seed::Seed;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// Asks the node whose data folder is `data`.
///
/// # Errors
/// When no node answers there, or it refuses.
pub async fn ask(data: &Path, request: &Request) -> Result<Response, Failure> {
    match tokio::time::timeout(DEADLINE, exchange(data, request)).await {
        Ok(Ok(Response::Refused { exit, message })) => {
            Err(Response::Refused { exit, message }.into_failure())
        }
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(silent(data, &error)),
        Err(_) => Err(Failure::new(
            Exit::Unavailable,
            format!("the node in {} did not answer within {DEADLINE:?}", data.display()),
        )),
    }
}

/// Asks for something whose answer is longer than one line.
///
/// # Errors
/// When no node answers there.
pub async fn connect(data: &Path, request: &Request) -> Result<BufReader<UnixStream>, Failure> {
    asked(data, request).await.map(BufReader::new).map_err(|error| silent(data, &error))
}

fn silent(data: &Path, error: &std::io::Error) -> Failure {
    let data = data.display();
    let text = format!("no node answers in {data}: {error}; is `conclave server` running?");
    Failure::new(Exit::Unavailable, text)
}

async fn asked(data: &Path, request: &Request) -> std::io::Result<UnixStream> {
    let (folder, path) = socket_path(data)?;
    let mut stream = UnixStream::connect(path).await?;
    drop(folder);
    let mut line = zeroize::Zeroizing::new(serde_json::to_vec(request)?);
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(stream)
}

async fn exchange(data: &Path, request: &Request) -> std::io::Result<Response> {
    let mut stream = asked(data, request).await?;
    let mut answer = zeroize::Zeroizing::new(Vec::new());
    stream.read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Where the node stands.
///
/// # Errors
/// As [`ask`].
pub async fn status(data: &Path) -> Result<Status, Failure> {
    let response = ask(data, &Request::Status).await?;
    if let Response::Status(status) = response {
        return Ok(*status);
    }
    Err(response.into_failure())
}

/// Digest of what the node has applied.
///
/// # Errors
/// As [`ask`].
pub async fn state_hash(data: &Path) -> Result<StateHash, Failure> {
    let response = ask(data, &Request::StateHash).await?;
    if let Response::StateHash(hash) = response {
        return Ok(hash);
    }
    Err(response.into_failure())
}

/// Issues a seed; `request` is [`Request::Seed`].
///
/// # Errors
/// As [`ask`].
pub async fn seed(data: &Path, request: &Request) -> Result<Seed, Failure> {
    let response = ask(data, request).await?;
    if let Response::Seed(seed) = response {
        return Ok(*seed);
    }
    Err(response.into_failure())
}

/// The names of all accounts.
///
/// # Errors
/// As [`ask`].
pub async fn accounts(data: &Path) -> Result<Vec<String>, Failure> {
    let response = ask(data, &Request::Accounts).await?;
    if let Response::Accounts { names } = response {
        return Ok(names);
    }
    Err(response.into_failure())
}

/// Creates an account.
///
/// # Errors
/// As [`ask`].
pub async fn create_account(data: &Path, name: &str) -> Result<Account, Failure> {
    let response = ask(data, &Request::CreateAccount { name: name.to_owned() }).await?;
    if let Response::Account(account) = response {
        return Ok(account);
    }
    Err(response.into_failure())
}

/// Records of the audit chain from a number on, a page of them.
///
/// # Errors
/// As [`ask`].
pub async fn audit_page(data: &Path, from: u64) -> Result<AuditPage, Failure> {
    let response = ask(data, &Request::Audit { from }).await?;
    if let Response::Audit(answer) = response {
        return AuditPage::try_from(*answer);
    }
    Err(response.into_failure())
}
