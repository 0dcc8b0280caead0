//! Tokens for programs of this machine: a Unix socket where one JSON line asks and one line answers.
//!
//! ```text
//! {"account":"acme","sub":"host/app"[,"exp":1767225600][,"cidr":["10.0.0.0/8"]]}\n   →   <token>\n
//! anything that gets no token                                                       →   \n
//! ```
//! Whoever can open the socket may act as anybody, so it is off unless configured, and mode 0600.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conclave_api::door::Door;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::exit::{Context, Exit, Failure};
use crate::lifecycle::told_to_stop;

/// How much is read away after a question that was too long.
const REST_BYTES_MAX: u64 = 1 << 20;
/// Longest question.
const QUESTION_BYTES_MAX: u64 = 16 * 1024;
/// How long a question may take to arrive, and an answer to be taken.
const DEADLINE: Duration = Duration::from_secs(5);
/// Questions in work at once; others wait at the socket.
const IN_WORK_MAX: usize = 32;
/// Pause after a connection could not be taken.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Makes the socket, in place of one that an earlier run left. It is never open to others, not even
/// between its making and the setting of its mode.
///
/// # Errors
/// When something else is there, or the folder cannot be written.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Failure> {
    let what = || format!("api.local_socket {}", path.display());
    let is_foreign =
        std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket());
    if is_foreign {
        let why = format!("{}: something that is no socket is there", what());
        return Err(Failure::new(Exit::Configuration, why));
    }
    // Made in a folder that only this user can enter, and moved into place once it is closed to others.
    let make = || -> std::io::Result<UnixListener> {
        let folder = path.with_file_name(format!(".{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let inside = folder.join("s");
        let made = UnixListener::bind(&inside).and_then(|listener| {
            std::fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
            std::fs::rename(&inside, path)?;
            Ok(listener)
        });
        std::fs::remove_dir_all(&folder)?;
        made
    };
    let listener = make().context(Exit::Configuration, what())?;
    tracing::info!(path = %path.display(), "local_socket.open");
    Ok(listener)
}

/// Answers until the node stops; then removes the socket.
pub(crate) async fn serve(
    listener: UnixListener,
    door: Arc<Door>,
    path: PathBuf,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(IN_WORK_MAX));
    loop {
        let taken = async {
            let place = places.clone().acquire_owned().await.ok();
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        let (stream, place) = tokio::select! {
            taken = taken => match taken {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::warn!(%error, "local_socket.accept");
                    sleep(AFTER_FAILURE).await;
                    continue;
                }
            },
            () = told_to_stop(&mut stopped) => break,
        };
        let door = door.clone();
        tokio::spawn(async move {
            if !matches!(timeout(DEADLINE, converse(&door, stream)).await, Ok(Ok(()))) {
                tracing::debug!("local_socket.connection ended early");
            }
            drop(place);
        });
    }
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, "local_socket.remove");
    }
}

async fn converse(door: &Door, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut question = BufReader::new(read.take(QUESTION_BYTES_MAX));
    question.read_until(b'\n', &mut line).await?;
    let mut answer = match door.issue_locally(&line).await {
        Ok(token) => token,
        Err(error) => {
            tracing::info!(%error, "local_socket.refused");
            String::new()
        }
    };
    answer.push('\n');
    write.write_all(answer.as_bytes()).await?;
    write.shutdown().await?;
    // Closing on bytes that nobody read would take the answer back from whoever sent too many.
    let mut rest = question.into_inner().into_inner().take(REST_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}
