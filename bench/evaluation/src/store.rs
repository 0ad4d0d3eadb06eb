//! The file systems below.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::enclosure::unmount;
use crate::interface::Store;
use crate::peers::said;

/// Room for the data of all interfaces; the file has holes where nothing was written.
const DEVICE: u64 = 12 << 30;

/// A store in use; taken away when dropped.
pub struct InUse {
    /// Where it is.
    pub folder: PathBuf,
    image: Option<PathBuf>,
}

impl InUse {
    /// In `scratch`, which is a tmpfs if mounting is allowed. An error says why it cannot be had.
    pub fn new(store: Store, scratch: &Path, mounts: &Result<(), String>) -> Result<Self, String> {
        let folder = scratch.join(store.id());
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut new = Self { folder, image: None };
        if store == Store::Ext4 {
            mounts.clone()?;
            let image = scratch.join("ext4.image");
            make(&image).map_err(|error| error.to_string())?;
            said(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output(), "mkfs.ext4")?;
            // mount(8) makes the loop device one that goes with its mount.
            said(Command::new("mount").args(["-o", "loop"]).args([&image, &new.folder]).output(), "mount")?;
            new.image = Some(image);
        }
        Ok(new)
    }
}

fn make(image: &Path) -> io::Result<()> {
    File::create(image)?.set_len(DEVICE)
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(image) = self.image.take() {
            unmount(&self.folder);
            let _ = fs::remove_file(image);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Has the kernel forget what it keeps of files: pages, names, attributes. False if that is not allowed.
pub fn clear_caches() -> bool {
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
