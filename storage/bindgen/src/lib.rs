//! A stand-in for the `bindgen` build tool that needs no libclang: it hands the RocksDB build script
//! the bindings that are committed beside it, and refuses to serve any other header or crate version.
//!
//! To upgrade RocksDB, run the real bindgen once with the calls of that crate's build script plus
//! `allowlist_item("_?rocksdb_.*")` and `layout_tests(false)`, commit the output as
//! `librocksdb.rs.txt`, and change [`MADE_FOR`].

use std::path::Path;

/// The one version of `librocksdb-sys` whose header the committed bindings were made from.
const MADE_FOR: &str = "0.19.0+11.8.1";

/// Takes the calls that the build script of `librocksdb-sys` makes; only the header matters.
#[derive(Default)]
pub struct Builder {
    header: String,
}

impl Builder {
    /// Remembers the header, which `generate` checks.
    pub fn header(mut self, header: impl Into<String>) -> Self {
        self.header = header.into();
        self
    }

    /// Accepted and ignored: the committed file was made with it.
    pub fn derive_debug(self, _: bool) -> Self {
        self
    }

    /// Accepted and ignored: the committed file was made with it.
    pub fn blocklist_type(self, _: impl AsRef<str>) -> Self {
        self
    }

    /// Accepted and ignored: the committed file was made with it.
    pub fn ctypes_prefix(self, _: impl Into<String>) -> Self {
        self
    }

    /// Accepted and ignored: the committed file was made with it.
    pub fn size_t_is_usize(self, _: bool) -> Self {
        self
    }

    /// Hands out the committed bindings.
    ///
    /// # Errors
    /// A text for the build log when the header or the calling crate's version is not the one that
    /// the bindings were made for.
    pub fn generate(self) -> Result<Bindings, String> {
        let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
        if !self.header.ends_with("rocksdb/c.h") {
            return Err(format!("no committed bindings for the header {}", self.header));
        }
        if version != MADE_FOR {
            return Err(format!(
                "the committed bindings are for librocksdb-sys {MADE_FOR}, not {version}: \
                 regenerate storage/bindgen/src/librocksdb.rs.txt"
            ));
        }
        Ok(Bindings)
    }
}

/// The committed bindings, ready to be written where the build script wants them.
pub struct Bindings;

impl Bindings {
    /// Writes the bindings to `path`.
    ///
    /// # Errors
    /// What the file system said.
    pub fn write_to_file(&self, path: impl AsRef<Path>) -> std::io::Result<()> {
        std::fs::write(path, include_str!("librocksdb.rs.txt"))
    }
}
