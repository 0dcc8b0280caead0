//! The listening end of the admin socket: one line asks, whoever answers.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::protocol::{Request, Response};
use super::socket_path;
use crate::exit::{Context, Exit, Failure};
use crate::lifecycle::told_to_stop;

/// Longest question.
const QUESTION_BYTES_MAX: usize = 64 * 1024;
/// How long a question may take to arrive.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after a connection could not be taken.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Has questions answered until the node stops.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) async fn listen<A, F>(
    data: &Path,
    mut stopped: watch::Receiver<bool>,
    answer: A,
) -> Result<(), Failure>
where
    A: Fn(Request, OwnedWriteHalf) -> F + Clone + Send + 'static,
    F: Future<Output = std::io::Result<()>> + Send,
{
    let listener = bind(data).context(Exit::Fault, "admin socket")?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin.accept");
                    sleep(AFTER_FAILURE).await;
                    continue;
                }
            },
            () = told_to_stop(&mut stopped) => return Ok(()),
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, answer).await {
                tracing::debug!(%error, "admin.connection");
            }
        });
    }
}

fn bind(data: &Path) -> std::io::Result<UnixListener> {
    let (folder, path) = socket_path(data)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The folder itself is 0700, so nobody slips in between.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    drop(folder);
    Ok(listener)
}

async fn converse<A, F>(stream: UnixStream, answer: A) -> std::io::Result<()>
where
    A: Fn(Request, OwnedWriteHalf) -> F,
    F: Future<Output = std::io::Result<()>>,
{
    let (read, mut write) = stream.into_split();
    // As large as it may become, so that it never moves: there may be a private key in it.
    let mut line = Zeroizing::new(Vec::with_capacity(QUESTION_BYTES_MAX));
    let read = timeout(QUESTION_DEADLINE, question(read, &mut line)).await;
    let refusal = match read {
        Err(_) => Failure::new(Exit::Usage, "no question came"),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(())) => match serde_json::from_slice::<Request>(&line) {
            Ok(request) => return answer(request, write).await,
            Err(error) => Failure::new(Exit::Usage, format!("not a question: {error}")),
        },
    };
    reply(&mut write, Err(refusal)).await
}

/// Answers in one line, the last.
pub(crate) async fn reply(
    write: &mut OwnedWriteHalf,
    answer: Result<Response, Failure>,
) -> std::io::Result<()> {
    let response = answer.unwrap_or_else(|failure| Response::refused(&failure));
    let bytes = Zeroizing::new(serde_json::to_vec(&response)?);
    write.write_all(&bytes).await?;
    write.shutdown().await
}

/// Reads a question: one line.
async fn question(read: OwnedReadHalf, line: &mut Vec<u8>) -> std::io::Result<()> {
    let mut read = read.take(QUESTION_BYTES_MAX as u64);
    while line.last() != Some(&b'\n') && read.read_buf(line).await? > 0 {}
    Ok(())
}
