//! One temporary folder per run, on the disk whose fsync is calibrated, removed when the run ends.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Fault;

/// The folder of a run.
pub struct Scratch(TempDir);

impl Scratch {
    /// Makes it below `parent`, or below the system's folder for such things.
    pub fn create(parent: Option<&Path>) -> Result<Self, Fault> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let folder = tempfile::Builder::new()
            .prefix("conclave-bench-")
            .tempdir_in(&parent)
            .map_err(Fault::path("make a folder in", &parent))?;
        Ok(Self(folder))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new empty folder inside it.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Fault> {
        let path = self.path().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(Fault::path("empty", &path))?;
        }
        std::fs::create_dir_all(&path).map_err(Fault::path("make", &path))?;
        Ok(path)
    }
}
