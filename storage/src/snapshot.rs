//! Snapshots: a checkpoint of the state in a folder, described by a manifest with a SHA-256 of every
//! file; export in chunks, import that can be resumed, and nothing visible under its final name
//! before it is whole and on the disk.
//!
//! ```text
//! snapshots/building/            a checkpoint under way; removed at start
//! snapshots/incoming-<digest>/   an import under way; resumed when the same snapshot is offered
//! snapshots/<index>-<digest>/    whole: `manifest` and `data/`; only the newest is kept
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::bytes_io::{Reader, checked, hex, len_u32, put_bytes, put_checksum};
use crate::datadir::Datadir;
use crate::disk::Disk;
use crate::error::Fault;
use crate::state::AppliedMark;

/// Largest chunk read or written at a time.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Largest manifest accepted.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

const VERSION: u8 = 1;
const MAGIC: &[u8; 4] = b"CVSN";
const MANIFEST: &str = "manifest";
const DATA: &str = "data";
pub(crate) const BUILDING: &str = "building";
const INCOMING: &str = "incoming-";

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its name, without any folder.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// What a snapshot consists of, and which moment it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The last entry in it.
    pub mark: AppliedMark,
    /// Its files, by name.
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// The manifest's bytes: its identity, and what is sent first.
    // magic | version | mark | count (u32) | each: name, len (u64), sha256 | crc32c
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        put_bytes(&mut out, &self.mark.encode());
        out.extend_from_slice(&len_u32(self.files.len()).to_be_bytes());
        for file in &self.files {
            put_bytes(&mut out, file.name.as_bytes());
            out.extend_from_slice(&file.len.to_be_bytes());
            out.extend_from_slice(&file.sha256);
        }
        put_checksum(&mut out);
        out
    }

    /// Reads a manifest; names that could leave the snapshot's folder are refused.
    ///
    /// # Errors
    /// [`Fault::Corrupt`], [`Fault::TooNew`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        const WHAT: &str = "a snapshot's manifest";
        let mut reader = Reader::new(checked(bytes, WHAT)?, WHAT);
        if reader.take(4)? != MAGIC {
            return Err(Fault::corrupt(WHAT, "it does not begin as a manifest does"));
        }
        reader.version(VERSION)?;
        let mark = AppliedMark::decode(reader.bytes()?)?;
        let count = reader.u32()?;
        let mut files: Vec<ManifestFile> = Vec::new();
        for _ in 0..count {
            let name = std::str::from_utf8(reader.bytes()?)
                .ok()
                .filter(|name| is_file_name(name))
                .ok_or_else(|| Fault::corrupt(WHAT, "it holds a name that is no file's"))?;
            if files.last().is_some_and(|last| last.name.as_str() >= name) {
                return Err(Fault::corrupt(WHAT, "its names are out of order"));
            }
            let (len, sha256) = (reader.u64()?, reader.array()?);
            files.push(ManifestFile { name: name.to_owned(), len, sha256 });
        }
        reader.end()?;
        Ok(Self { mark, files })
    }

    /// SHA-256 of the manifest's bytes.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&self.encode())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }

    fn folder_name(&self) -> String {
        format!("{:020}-{}", self.mark.index, self.digest_name())
    }

    fn digest_name(&self) -> String {
        hex(&self.digest()[..8])
    }
}

/// A whole snapshot on this node's disk. Its folder is removed when a newer one has taken its place
/// and nobody reads it any more.
pub struct SnapshotFiles {
    folder: PathBuf,
    manifest: Manifest,
    datadir: Datadir,
    superseded: AtomicBool,
}

impl SnapshotFiles {
    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The last entry in it.
    pub fn mark(&self) -> &AppliedMark {
        &self.manifest.mark
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads a chunk of the file with that number in the manifest: up to `len` bytes (at most
    /// [`CHUNK_BYTES_MAX`]) from `offset`, fewer at its end.
    ///
    /// # Errors
    /// [`Fault::Io`]; [`Fault::Order`] for a file that is not in the manifest.
    pub fn read_chunk(&self, file: usize, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let path = self.data_path(file)?;
        let Some(open) = self.datadir.disk().file(&path, false)? else {
            return Err(Fault::corrupt("a snapshot", format!("{} is missing", path.display())));
        };
        let mut chunk = vec![0; len.min(CHUNK_BYTES_MAX)];
        let read = open.read_at(offset, &mut chunk)?;
        chunk.truncate(read);
        Ok(chunk)
    }

    /// Checks every file against the manifest.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] naming the file.
    pub fn verify(&self) -> Result<(), Fault> {
        for file in &self.manifest.files {
            verify_file(self.datadir.disk(), &self.folder.join(DATA).join(&file.name), file)?;
        }
        Ok(())
    }

    pub(crate) fn data_folder(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
    }

    fn data_path(&self, file: usize) -> Result<PathBuf, Fault> {
        let file = self.manifest.files.get(file);
        let file = file.ok_or_else(|| Fault::Order("the snapshot has no such file".to_owned()))?;
        Ok(self.folder.join(DATA).join(&file.name))
    }
}

impl std::fmt::Debug for SnapshotFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotFiles").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Drop for SnapshotFiles {
    fn drop(&mut self) {
        if self.superseded.load(Ordering::Acquire)
            && let Err(fault) = self.datadir.disk().remove(&self.folder)
        {
            tracing::warn!(%fault, "an old snapshot stays until the next start");
        }
    }
}

/// Where a new checkpoint is written, emptied.
pub(crate) fn building_folder(datadir: &Datadir) -> Result<(PathBuf, PathBuf), Fault> {
    let folder = datadir.snapshots().join(BUILDING);
    datadir.disk().remove(&folder)?;
    datadir.disk().create_folder(&folder)?;
    let data = folder.join(DATA);
    Ok((folder, data))
}

/// Describes the checkpoint in `building`, makes it durable, and gives it its final name.
pub(crate) fn seal_built(datadir: &Datadir, mark: AppliedMark) -> Result<SnapshotFiles, Fault> {
    let disk = datadir.disk();
    let points = datadir.fail_points();
    let folder = datadir.snapshots().join(BUILDING);
    let data = folder.join(DATA);
    let mut files = Vec::new();
    for name in disk.list(&data)? {
        // RocksDB's own log and lock are no part of the data.
        if name.starts_with("LOG") || name == "LOCK" {
            disk.remove(&data.join(&name))?;
            continue;
        }
        let path = data.join(&name);
        let (len, sha256) = hash_file(disk, &path)?;
        if let Some(file) = disk.file(&path, false)? {
            file.sync()?;
        }
        files.push(ManifestFile { name, len, sha256 });
    }
    disk.sync_folder(&data)?;
    let manifest = Manifest { mark, files };
    disk.write_new(&folder.join(MANIFEST), &manifest.encode())?;
    disk.sync_folder(&folder)?;
    points.hit("snapshot.build.described")?;
    let sealed = take_final_name(datadir, &folder, manifest)?;
    points.hit("snapshot.build.renamed")?;
    Ok(sealed)
}

fn take_final_name(
    datadir: &Datadir,
    scratch: &Path,
    manifest: Manifest,
) -> Result<SnapshotFiles, Fault> {
    let disk = datadir.disk();
    let folder = datadir.snapshots().join(manifest.folder_name());
    disk.remove(&folder)?;
    disk.rename(scratch, &folder)?;
    disk.sync_folder(&datadir.snapshots())?;
    datadir.snapshot_is_durable(manifest.mark.index);
    let datadir = datadir.clone();
    Ok(SnapshotFiles { folder, manifest, datadir, superseded: AtomicBool::new(false) })
}

/// The newest whole snapshot; removes what else lies in the folder, imports under way excepted.
pub(crate) fn newest(datadir: &Datadir) -> Result<Option<SnapshotFiles>, Fault> {
    let disk = datadir.disk();
    let mut newest: Option<SnapshotFiles> = None;
    // Sorted names put the highest index last.
    for name in disk.list(&datadir.snapshots())?.into_iter().rev() {
        let folder = datadir.snapshots().join(&name);
        if name.starts_with(INCOMING) {
            continue;
        }
        let manifest = match disk.read(&folder.join(MANIFEST), MANIFEST_BYTES_MAX)? {
            Some(bytes) if newest.is_none() && name != BUILDING => Manifest::decode(&bytes)?,
            _ => {
                disk.remove(&folder)?;
                continue;
            }
        };
        datadir.snapshot_is_durable(manifest.mark.index);
        let superseded = AtomicBool::new(false);
        newest = Some(SnapshotFiles { folder, manifest, datadir: datadir.clone(), superseded });
    }
    Ok(newest)
}

/// A snapshot being received. Dropping it keeps what has arrived: an import of the same snapshot
/// goes on from there.
pub struct SnapshotImport {
    folder: PathBuf,
    manifest: Manifest,
    datadir: Datadir,
    next: Option<(usize, u64)>,
}

impl SnapshotImport {
    /// Begins, or takes up, the import of the snapshot that these manifest bytes describe. Imports
    /// of other snapshots are thrown away.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] or [`Fault::TooNew`] for the manifest; [`Fault::Io`].
    pub fn begin(datadir: &Datadir, manifest: &[u8]) -> Result<Self, Fault> {
        let manifest = Manifest::decode(manifest)?;
        let disk = datadir.disk();
        let mine = format!("{INCOMING}{}", manifest.digest_name());
        for name in disk.list(&datadir.snapshots())? {
            if name.starts_with(INCOMING) && name != mine {
                disk.remove(&datadir.snapshots().join(&name))?;
            }
        }
        let folder = datadir.snapshots().join(mine);
        disk.create_folder(&folder.join(DATA))?;
        let mut next = None;
        for (number, file) in manifest.files.iter().enumerate() {
            let path = folder.join(DATA).join(&file.name);
            if file.len == 0 {
                disk.write_new(&path, &[])?;
                continue;
            }
            let len = match disk.file(&path, false)? {
                Some(open) => open.len()?,
                None => 0,
            };
            if len > file.len {
                disk.remove(&path)?;
            }
            if len != file.len {
                next = Some((number, if len > file.len { 0 } else { len }));
                break;
            }
        }
        let mut import = Self { folder, manifest, datadir: datadir.clone(), next };
        import.skip_empty_files()?;
        Ok(import)
    }

    /// What is being received.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The chunk wanted next: number of the file in the manifest, and offset. `None` when all is here.
    pub fn next(&self) -> Option<(usize, u64)> {
        self.next
    }

    /// Takes the chunk that [`SnapshotImport::next`] names.
    ///
    /// # Errors
    /// [`Fault::Order`] for another chunk, an empty one, or one too long; [`Fault::Io`].
    pub fn write_chunk(&mut self, file: usize, offset: u64, chunk: &[u8]) -> Result<(), Fault> {
        let end = offset + chunk.len() as u64;
        let wanted = self.manifest.files.get(file);
        let fits = self.next == Some((file, offset)) && !chunk.is_empty();
        let Some(wanted) = wanted.filter(|wanted| fits && end <= wanted.len) else {
            return Err(Fault::Order(format!("snapshot chunk {file}:{offset} is not the next")));
        };
        let path = self.folder.join(DATA).join(&wanted.name);
        let Some(open) = self.datadir.disk().file(&path, true)? else {
            return Err(Fault::io("create", &path, std::io::ErrorKind::NotFound.into()));
        };
        open.write_at(offset, chunk)?;
        if end == wanted.len {
            open.sync()?;
            self.next = (file + 1 < self.manifest.files.len()).then_some((file + 1, 0));
            self.skip_empty_files()
        } else {
            self.next = Some((file, end));
            Ok(())
        }
    }

    /// Verifies every file and gives the snapshot its final name; on the disk on return.
    ///
    /// # Errors
    /// [`Fault::Order`] when chunks are missing; [`Fault::Corrupt`] when a file is not what the
    /// manifest says; the import is then thrown away.
    pub fn finish(self) -> Result<Arc<SnapshotFiles>, Fault> {
        if let Some((file, offset)) = self.next {
            return Err(Fault::Order(format!("snapshot chunk {file}:{offset} is still missing")));
        }
        let disk = self.datadir.disk();
        let data = self.folder.join(DATA);
        for file in &self.manifest.files {
            let path = data.join(&file.name);
            if let Err(fault) = verify_file(disk, &path, file) {
                disk.remove(&self.folder)?;
                return Err(fault);
            }
            // What an earlier process received may be whole and yet not on the disk.
            if let Some(open) = disk.file(&path, false)? {
                open.sync()?;
            }
        }
        disk.sync_folder(&data)?;
        disk.write_new(&self.folder.join(MANIFEST), &self.manifest.encode())?;
        disk.sync_folder(&self.folder)?;
        self.datadir.fail_points().hit("snapshot.import.before_rename")?;
        let sealed = take_final_name(&self.datadir, &self.folder, self.manifest)?;
        self.datadir.fail_points().hit("snapshot.import.after_rename")?;
        Ok(Arc::new(sealed))
    }

    fn skip_empty_files(&mut self) -> Result<(), Fault> {
        while let Some((number, 0)) = self.next
            && let Some(file) = self.manifest.files.get(number)
            && file.len == 0
        {
            let path = self.folder.join(DATA).join(&file.name);
            self.datadir.disk().write_new(&path, &[])?;
            self.next = (number + 1 < self.manifest.files.len()).then_some((number + 1, 0));
        }
        Ok(())
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn verify_file(disk: &dyn Disk, path: &Path, file: &ManifestFile) -> Result<(), Fault> {
    let (len, sha256) = hash_file(disk, path)?;
    if len == file.len && sha256 == file.sha256 {
        return Ok(());
    }
    Err(Fault::corrupt(format!("snapshot file {}", path.display()), "its SHA-256 does not match"))
}

fn hash_file(disk: &dyn Disk, path: &Path) -> Result<(u64, [u8; 32]), Fault> {
    let Some(file) = disk.file(path, false)? else {
        return Err(Fault::corrupt(format!("snapshot file {}", path.display()), "it is missing"));
    };
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES_MAX];
    let mut offset = 0;
    loop {
        let read = file.read_at(offset, &mut chunk)?;
        if read == 0 {
            break;
        }
        context.update(&chunk[..read]);
        offset += read as u64;
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    Ok((offset, sha256))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sha256
}
