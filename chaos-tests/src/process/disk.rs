//! A file system of its own for each node, on a loop device, whose power can be cut: everything
//! that was not synced is then gone.
//!
//! Recipe: `fault-model` N11. ext4 is shut down by its ioctl without flushing its journal, which
//! leaves on the device what reached it and nothing else. A canary file proves for each cut that it
//! cut: what was written without a sync is gone, what was synced is there. Needs root.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::shell::{HarnessError, run};

/// Size of an image; sparse, so that it takes what is used of it.
const IMAGE_BYTES: u64 = 2 << 30;

/// One mounted image. Unmounted on drop; the image goes with the folder it stands in.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    mounted: bool,
}

/// What a cut did to the canary files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// The file that was synced is there with its content.
    pub synced_is_there: bool,
    /// The file that was not synced is gone or empty.
    pub unsynced_is_gone: bool,
}

impl Disk {
    /// Makes an image beside the mount point and mounts it there.
    ///
    /// # Errors
    /// Without root, or when `mkfs.ext4` or `mount` refuses.
    pub fn create(mount_point: &Path) -> Result<Self, HarnessError> {
        let image = mount_point.with_extension("ext4");
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        std::fs::create_dir_all(mount_point)?;
        run(&["mkfs.ext4", "-q", "-F", &image.to_string_lossy()])?;
        let mut disk = Self { image, mount_point: mount_point.to_owned(), mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Mounts it.
    ///
    /// # Errors
    /// When `mount` refuses.
    pub fn mount(&mut self) -> Result<(), HarnessError> {
        let (image, point) = (self.image.to_string_lossy(), self.mount_point.to_string_lossy());
        run(&["mount", "-o", "loop", &image, &point])?;
        self.mounted = true;
        Ok(())
    }

    /// Writes the canary files, then cuts the power: from now on nothing reaches the device, and
    /// every access fails. The process that uses the disk has to be frozen before and killed after
    /// it: an fsync that is under way may say that it is done although nothing reached the device.
    ///
    /// # Errors
    /// When the file system does not support being shut down.
    pub(super) fn cut_power(&self) -> Result<(), HarnessError> {
        let (synced, unsynced) =
            (self.mount_point.join("canary.synced"), self.mount_point.join("canary.unsynced"));
        // Those of an earlier cut must go: ext4 flushes a file that was truncated and rewritten.
        for earlier in [&synced, &unsynced] {
            if earlier.exists() {
                std::fs::remove_file(earlier)?;
            }
        }
        let mut synced = File::create_new(synced)?;
        synced.write_all(b"synced")?;
        synced.sync_all()?;
        File::open(&self.mount_point)?.sync_all()?;
        File::create_new(unsynced)?.write_all(b"unsynced")?;
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        let shutdown = "open(my $disk, '<', $ARGV[0]) or die $!; my $flags = pack('L', 2); \
                        ioctl($disk, 0x8004587d, $flags) or die $!;";
        run(&["perl", "-e", shutdown, &self.mount_point.to_string_lossy()]).map(drop)
    }

    /// Brings the power back: unmounts, mounts again, and says what became of the canary files.
    /// No process may hold a file open.
    ///
    /// # Errors
    /// When `umount` or `mount` refuses.
    pub fn restore_power(&mut self) -> Result<Canary, HarnessError> {
        run(&["umount", &self.mount_point.to_string_lossy()])?;
        self.mounted = false;
        self.mount()?;
        let synced = std::fs::read(self.mount_point.join("canary.synced")).unwrap_or_default();
        let unsynced = std::fs::read(self.mount_point.join("canary.unsynced")).unwrap_or_default();
        Ok(Canary { synced_is_there: synced == b"synced", unsynced_is_gone: unsynced.is_empty() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = run(&["umount", "-l", &self.mount_point.to_string_lossy()])
        {
            eprintln!("conclave-chaos: could not clean up: {error}");
        }
    }
}
