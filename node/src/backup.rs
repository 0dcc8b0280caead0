//! Backups: a running node makes one and sends it over the admin socket; the command that asked puts
//! it into a file. What is in the file, and how it is sealed, is storage's.
//!
//! ```text
//! answer = JSON line (a description) | block | block | … | empty block | JSON line (done, or why not)
//! block  = length (u32, big-endian) | bytes
//! ```

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use conclave_api::audit::{Outcome, Record, Severity};
use conclave_domain::time::{Clock, Timestamp};
use conclave_storage::Fault;
use conclave_storage::backup::{
    BackupError, BackupHeader, BackupOrigin, BackupReader, BackupWriter,
};
use conclave_storage::seal::MasterKey;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::admin::client;
use crate::admin::protocol::{Request, Response};
use crate::certificates::inventory::date;
use crate::clock::SystemClock;
use crate::compose::Node;
use crate::exit::{Context, Exit, Failure};
use crate::folder::{hex, unhex};
use crate::unseal::Sealing;

/// How long the snapshot may take, which every byte of the state is read for.
const SNAPSHOT_DEADLINE: Duration = Duration::from_mins(30);
/// Blocks that are read and sealed while one is sent.
const BLOCKS_AHEAD: usize = 8;
/// Longest block taken.
const BLOCK_BYTES_MAX: u32 = 1 << 20;
/// How long the next block may take to come.
const BLOCK_DEADLINE: Duration = Duration::from_mins(1);

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The cluster, 32 hex digits.
    pub cluster_id: String,
    /// The node that made it.
    pub node: String,
    /// Its id.
    pub node_id: u64,
    /// Index of the last entry in it.
    pub index: u64,
    /// When it was begun, by that node's clock.
    pub made_at: String,
    /// Bytes of the state in it.
    pub state_bytes: u64,
    /// Files of the state in it.
    pub files: usize,
    /// Which master key opens it.
    pub master_key: String,
    /// How the node that made it came by that key: `key`, `passphrase` or `pkcs11`.
    #[serde(default)]
    pub unseal: String,
    /// Which root key is in it.
    pub root_key: String,
    /// Version of the program that made it.
    pub program: String,
    /// Bytes of the file; 0 where they have not been counted yet.
    pub bytes: u64,
    /// Whether it has all that was committed anywhere when it was asked for, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<bool>,
}

impl Description {
    /// For people: a line each, after whatever stands before them.
    pub fn to_text(&self) -> String {
        format!(
            "cluster     {}\nmade on     {} (node {}) at {}\nindex       {}\n\
             state       {} bytes in {} files\nfile        {} bytes\n\
             opens with  master key {} (by {})\nroot key    {}",
            self.cluster_id,
            self.node,
            self.node_id,
            self.made_at,
            self.index,
            self.state_bytes,
            self.files,
            self.bytes,
            self.master_key,
            self.unseal,
            self.root_key
        )
    }

    fn of(header: &BackupHeader, reader: &BackupReader<BufReader<File>>) -> Self {
        let contents = reader.contents();
        Self {
            cluster_id: hex(&header.cluster),
            node: header.node.clone(),
            node_id: contents.node_id,
            index: contents.manifest.mark.index,
            made_at: date(header.made_at),
            state_bytes: contents.manifest.bytes(),
            files: contents.manifest.files.len(),
            master_key: MasterKey::id_of(&header.sealed_key).unwrap_or_default(),
            unseal: sealing_in(header).map_or("unknown", |sealing| sealing.by()).to_owned(),
            root_key: contents.root_key.id(),
            program: contents.program.clone(),
            bytes: 0,
            level: None,
        }
    }
}

/// Makes a backup and sends it to whoever asked over the admin socket.
///
/// # Errors
/// When the asker has gone.
pub async fn send(node: &Node, write: &mut OwnedWriteHalf) -> io::Result<()> {
    let (description, mut writer) = match begin(node).await {
        Ok(begun) => begun,
        Err(failure) => return write_line(write, &Response::refused(&failure)).await,
    };
    write_line(write, &Response::Backup(Box::new(description))).await?;
    let (ready, mut blocks) = mpsc::channel(BLOCKS_AHEAD);
    let making = tokio::task::spawn_blocking(move || {
        while let Some(block) = writer.next_block()? {
            if ready.blocking_send(block).is_err() {
                break;
            }
        }
        Ok::<(), Fault>(())
    });
    while let Some(block) = blocks.recv().await {
        let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        write.write_all(&len.to_be_bytes()).await?;
        write.write_all(&block).await?;
    }
    write.write_all(&0_u32.to_be_bytes()).await?;
    let made = making.await.context(Exit::Failed, "backup");
    let ended = match made.and_then(|made| made.context(Exit::Fault, "backup")) {
        Ok(()) => Response::Done,
        Err(failure) => {
            tracing::error!(%failure, "backup.failed");
            Response::refused(&failure)
        }
    };
    write_line(write, &ended).await
}

async fn begin(node: &Node) -> Result<(Description, BackupWriter), Failure> {
    // So that it has what was committed before it was asked for. Cut off from the others a node still
    // gives what it has, and says so.
    let level = node.core.raft.read_barrier().await.is_ok();
    node.core.raft.snapshot(SNAPSHOT_DEADLINE).await.context(Exit::Failed, "snapshot")?;
    let snapshot = node.core.state.current_snapshot();
    let snapshot =
        snapshot.ok_or_else(|| Failure::new(Exit::Unavailable, "this node has no state yet"))?;
    let cluster = unhex(&node.identity.cluster_id)
        .ok_or_else(|| Failure::new(Exit::Fault, "node.json: cluster_id is not 32 hex digits"))?;
    let made_at = SystemClock.now();
    let program = env!("CARGO_PKG_VERSION");
    let (index, state_bytes) = (snapshot.mark().index, snapshot.manifest().bytes());
    let files = snapshot.manifest().files.len();
    // Both as they belong together, should the master key be changing.
    let (master_key, sealing, writer) = node.with_master(|master| {
        let sealing = node.folder.sealing()?;
        let text = serde_json::to_string(&sealing).context(Exit::Failed, "unseal.json")?;
        let origin = BackupOrigin {
            cluster,
            made_at,
            node: node.identity.name.clone(),
            node_id: node.identity.node_id,
            program: program.to_owned(),
            sealing: Some(text),
        };
        let writer = BackupWriter::new(origin, snapshot, &node.core.root_key, master);
        Ok::<_, Failure>((master.id(), sealing, writer.context(Exit::Fault, "backup")?))
    })?;
    let description = Description {
        cluster_id: node.identity.cluster_id.clone(),
        node: node.identity.name.clone(),
        node_id: node.identity.node_id,
        index,
        made_at: date(made_at),
        state_bytes,
        files,
        master_key,
        unseal: sealing.by().to_owned(),
        root_key: node.core.root_key.id(),
        program: program.to_owned(),
        bytes: writer.bytes(),
        level: Some(level),
    };
    // Everything leaves with it, so nothing of it leaves before that is on record.
    let message = format!("the operator made a backup of the cluster as of index {index}");
    let subject = vec![("index".into(), index.to_string())];
    let kept = node.spool.append(&[operator_record(made_at, "backup", subject, message)]).await;
    kept.context(Exit::Unavailable, "audit record")?;
    tracing::info!(index, bytes = description.bytes, "backup.begun");
    Ok((description, writer))
}

/// A record of what the operator did on the node's own machine.
pub(crate) fn operator_record(
    at: Timestamp,
    operation: &'static str,
    subject: Vec<(std::borrow::Cow<'static, str>, String)>,
    message: String,
) -> Record {
    Record {
        at,
        request_id: std::process::id().to_string(),
        message_id: "cluster",
        operation: operation.into(),
        outcome: Outcome::Success,
        severity: Severity::Notice,
        user: None,
        authenticator: None,
        service: None,
        subject,
        client_ip: String::new(),
        policy: None,
        message,
    }
}

async fn write_line(write: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// Has the node whose data folder is `data` make a backup, and puts it into a new file for its owner
/// alone. The file has its name only once it is whole and on the disk. `received` is told of the
/// description, once, and then of bytes.
///
/// # Errors
/// When the file exists already or cannot be written, or no node answers.
pub async fn create(
    data: &Path,
    out: &Path,
    mut received: impl FnMut(&Description, usize),
) -> Result<Description, Failure> {
    if out.exists() {
        let text = format!("{} exists already; name a new file", out.display());
        return Err(Failure::new(Exit::Configuration, text));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).context(Exit::Configuration, folder.display())?;
    let mut stream = client::connect(data, &Request::Backup).await?;
    let begun = tokio::time::timeout(SNAPSHOT_DEADLINE, answer(&mut stream)).await;
    let begun = begun.map_err(|_late| late(SNAPSHOT_DEADLINE))??;
    let Response::Backup(description) = begun else { return Err(begun.into_failure()) };
    received(&description, 0);
    let mut block = Vec::new();
    let mut bytes = 0;
    loop {
        let next = tokio::time::timeout(BLOCK_DEADLINE, read_block(&mut stream, &mut block)).await;
        next.map_err(|_late| late(BLOCK_DEADLINE))?.context(Exit::Unavailable, "backup")?;
        if block.is_empty() {
            break;
        }
        tokio::task::block_in_place(|| file.write_all(&block))
            .context(Exit::Failed, out.display())?;
        bytes += block.len() as u64;
        received(&description, block.len());
    }
    let ended = answer(&mut stream).await?;
    if !matches!(ended, Response::Done) {
        return Err(ended.into_failure());
    }
    if bytes != description.bytes {
        let text = format!("{bytes} of {} bytes came", description.bytes);
        return Err(Failure::new(Exit::Failed, text));
    }
    file.as_file().sync_all().context(Exit::Failed, out.display())?;
    file.persist_noclobber(out).context(Exit::Configuration, out.display())?;
    File::open(folder).and_then(|folder| folder.sync_all()).context(Exit::Failed, out.display())?;
    Ok(*description)
}

type Stream = tokio::io::BufReader<tokio::net::UnixStream>;

async fn answer(stream: &mut Stream) -> Result<Response, Failure> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.context(Exit::Unavailable, "the node's answer")?;
    serde_json::from_slice(&line).context(Exit::Unavailable, "the node's answer breaks off")
}

async fn read_block(stream: &mut Stream, block: &mut Vec<u8>) -> io::Result<()> {
    let len = stream.read_u32().await?;
    if len > BLOCK_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a block is too long"));
    }
    block.resize(usize::try_from(len).unwrap_or_default(), 0);
    stream.read_exact(block).await.map(drop)
}

fn late(limit: Duration) -> Failure {
    Failure::new(Exit::Unavailable, format!("the node was silent for {limit:?}"))
}

/// An open backup, with what it is of.
pub struct Backup {
    /// What it is of.
    pub description: Description,
    /// The rest of it.
    pub reader: BackupReader<BufReader<File>>,
}

/// How the node that made a backup came by its master key.
///
/// # Errors
/// As [`open`]; and where a later version made the backup.
pub fn sealing(path: &Path) -> Result<Sealing, Failure> {
    let mut file = File::open(path).context(Exit::Configuration, path.display())?;
    let header = BackupHeader::read(&mut file).map_err(|error| refused(path, &error))?;
    sealing_in(&header).map_err(|why| {
        let text = format!("{}: how its master key is come by: {why}", path.display());
        Failure::new(Exit::Configuration, text)
    })
}

fn sealing_in(header: &BackupHeader) -> Result<Sealing, String> {
    let Some(text) = header.sealing.as_deref() else { return Ok(Sealing::by_key()) };
    Sealing::parse(text).map_err(|why| why.to_string())
}

/// Opens a backup with the master key of the node that made it.
///
/// # Errors
/// [`Exit::Failed`] when it is not intact, [`Exit::Configuration`] when it is no backup, the key is
/// another, or the file cannot be read.
pub fn open(path: &Path, master: &MasterKey) -> Result<Backup, Failure> {
    let file = File::open(path).context(Exit::Configuration, path.display())?;
    let reader = BackupReader::open(BufReader::with_capacity(1 << 20, file), master);
    let reader = reader.map_err(|error| refused(path, &error))?;
    let header = reader.header().clone();
    let description = Description::of(&header, &reader);
    Ok(Backup { description, reader })
}

/// Reads a whole backup and checks every chunk and every file in it. `read` is told of bytes.
///
/// # Errors
/// As [`open`].
pub fn verify(
    path: &Path,
    master: &MasterKey,
    mut read: impl FnMut(&Description, usize),
) -> Result<Description, Failure> {
    let Backup { mut description, mut reader } = open(path, master)?;
    let bytes = reader.verify(|bytes| read(&description, bytes));
    description.bytes = bytes.map_err(|error| refused(path, &error))?;
    Ok(description)
}

/// Why a backup is not taken, with the exit code that says so.
pub fn refused(path: &Path, error: &BackupError) -> Failure {
    let exit = match error {
        BackupError::Damaged(_) => Exit::Failed,
        BackupError::Fault(_) => Exit::Fault,
        BackupError::NotABackup
        | BackupError::TooNew { .. }
        | BackupError::OtherKey { .. }
        | BackupError::Unread(_) => Exit::Configuration,
    };
    Failure::new(exit, format!("{}: {}", path.display(), crate::exit::chain(error)))
}
