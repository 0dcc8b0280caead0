//! What a file system must do here. [`RealDisk`] is the operating system's; the simulated one is in
//! [`crate::memory`]. Everything durable in this crate goes through this trait, so that every crash
//! point can be tried.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use crate::engine::{Engine, Profile};
use crate::error::Fault;
use crate::rocks::Rocks;

/// A file system with databases on it.
pub trait Disk: Send + Sync + 'static {
    /// Opens the database in a folder, made when absent.
    ///
    /// # Errors
    /// [`Fault::Database`], [`Fault::Corrupt`] when the database finds its files damaged.
    fn engine(&self, folder: &Path, profile: Profile) -> Result<Arc<dyn Engine>, Fault>;

    /// The value of one key of the database in a folder, which is not changed by that.
    ///
    /// # Errors
    /// As [`Disk::engine`].
    fn peek(&self, folder: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;

    /// Opens a file for reading and writing, made when absent if `create`. Gives `None` when absent.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn file(&self, path: &Path, create: bool) -> Result<Option<Box<dyn DiskFile>>, Fault>;

    /// The names in a folder, sorted; none when the folder is absent.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn list(&self, folder: &Path) -> Result<Vec<String>, Fault>;

    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn create_folder(&self, folder: &Path) -> Result<(), Fault>;

    /// Renames a file or folder; durable after [`Disk::sync_folder`] of the folder above.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault>;

    /// Gives a file that nobody will write to a second name, or copies it, content durable.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn link(&self, from: &Path, to: &Path) -> Result<(), Fault>;

    /// Removes a folder with all in it, or a file; absence is no error.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn remove(&self, path: &Path) -> Result<(), Fault>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn sync_folder(&self, folder: &Path) -> Result<(), Fault>;

    /// Fills a buffer with random bytes; seeded where the disk is simulated.
    ///
    /// # Errors
    /// [`Fault::Key`] when the system has no randomness to give.
    fn random(&self, buffer: &mut [u8]) -> Result<(), Fault>;
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes from an offset; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Fault>;

    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn set_len(&self, len: u64) -> Result<(), Fault>;

    /// Length in bytes.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn len(&self) -> Result<u64, Fault>;

    /// Makes the content durable.
    ///
    /// # Errors
    /// [`Fault::Io`].
    fn sync(&self) -> Result<(), Fault>;
}

impl dyn Disk {
    /// All bytes of a small file; `None` when it is absent.
    ///
    /// # Errors
    /// [`Fault::Io`]; [`Fault::Corrupt`] when it is longer than `max`.
    pub fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, Fault> {
        let Some(file) = self.file(path, false)? else { return Ok(None) };
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if len > max {
            return Err(Fault::corrupt(path.display().to_string(), format!("{len} bytes long")));
        }
        let mut bytes = vec![0; len];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Replaces a small file so that after a crash it holds the old bytes or the new ones; durable
    /// on return.
    ///
    /// # Errors
    /// [`Fault::Io`].
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let scratch = folder.join(name);
        self.remove(&scratch)?;
        self.write_new(&scratch, bytes)?;
        self.rename(&scratch, path)?;
        self.sync_folder(folder)
    }

    /// Writes a file and syncs its content, not its name.
    ///
    /// # Errors
    /// [`Fault::Io`].
    pub fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        let Some(file) = self.file(path, true)? else {
            return Err(Fault::io("create", path, ErrorKind::NotFound.into()));
        };
        file.set_len(0)?;
        file.write_at(0, bytes)?;
        file.sync()
    }
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn engine(&self, folder: &Path, profile: Profile) -> Result<Arc<dyn Engine>, Fault> {
        Ok(Arc::new(Rocks::open(folder, profile)?))
    }

    fn peek(&self, folder: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        crate::rocks::peek(folder, key)
    }

    fn file(&self, path: &Path, create: bool) -> Result<Option<Box<dyn DiskFile>>, Fault> {
        let opened =
            OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(path);
        match opened {
            Ok(file) => Ok(Some(Box::new(RealFile { file, path: path.into() }))),
            Err(error) if error.kind() == ErrorKind::NotFound && !create => Ok(None),
            Err(error) => Err(Fault::io("open", path, error)),
        }
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>, Fault> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Fault::io("list", folder, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Fault::io("list", folder, error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_folder(&self, folder: &Path) -> Result<(), Fault> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| Fault::io("create", folder, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        fs::rename(from, to).map_err(|error| Fault::io("rename", from, error))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        fs::hard_link(from, to)
            .or_else(|_| fs::copy(from, to).and_then(|_| File::open(to)?.sync_all()))
            .map_err(|error| Fault::io("link", from, error))
    }

    fn remove(&self, path: &Path) -> Result<(), Fault> {
        let removed = match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Fault::io("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    fn sync_folder(&self, folder: &Path) -> Result<(), Fault> {
        File::open(folder)
            .and_then(|file| file.sync_all())
            .map_err(|error| Fault::io("sync", folder, error))
    }

    fn random(&self, buffer: &mut [u8]) -> Result<(), Fault> {
        crate::seal::fill_random(buffer)
    }
}

struct RealFile {
    file: File,
    path: Box<Path>,
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Fault> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::io("read", &self.path, error)),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write_all_at(bytes, offset).map_err(|error| Fault::io("write", &self.path, error))
    }

    fn set_len(&self, len: u64) -> Result<(), Fault> {
        self.file.set_len(len).map_err(|error| Fault::io("resize", &self.path, error))
    }

    fn len(&self) -> Result<u64, Fault> {
        let meta = self.file.metadata().map_err(|error| Fault::io("inspect", &self.path, error))?;
        Ok(meta.len())
    }

    fn sync(&self) -> Result<(), Fault> {
        self.file.sync_all().map_err(|error| Fault::io("sync", &self.path, error))
    }
}

/// Reads a small file outside any data folder (a key file).
///
/// # Errors
/// [`Fault::Io`]; [`Fault::Corrupt`] when it is longer than `max`.
pub(crate) fn read_small(path: &Path, max: u64) -> Result<Vec<u8>, Fault> {
    let file = File::open(path).map_err(|error| Fault::io("open", path, error))?;
    let mut bytes = Vec::with_capacity(256);
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| Fault::io("read", path, error))?;
    if bytes.len() as u64 > max {
        return Err(Fault::corrupt(path.display().to_string(), "far longer than it should be"));
    }
    Ok(bytes)
}
