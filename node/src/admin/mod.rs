//! The operator's way into a running node: a Unix socket in its data folder, open to its owner only.
//! One JSON line asks, one JSON line answers ([`protocol`]); [`server`] answers over `socket`, [`client`]
//! asks.

pub mod client;
pub mod protocol;
pub mod server;
pub(crate) mod socket;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The socket's name in the data folder.
const SOCKET: &str = "admin.sock";

/// A way to the socket that fits into the 108 bytes that the system allows, however deep the data
/// folder lies: through the folder's open descriptor. The file must outlive the path's use.
fn socket_path(data: &Path) -> std::io::Result<(File, PathBuf)> {
    let folder = File::open(data)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
    Ok((folder, path))
}
