//! The plugin's file as the pager reads and writes it.

use std::sync::OnceLock;

use fdtable::Ref;
use linux_raw_sys::general as sys;
use plugin_abi::{Handle, Instance, Open};
use rustix::io::Errno;
use uffd_pager::PageSource;

use crate::file::{OpenFile, plugin_errno};
use crate::namei::Spot;

/// The open files that a mapped file is reached by. As in the kernel, a mapping keeps what it was made from open.
pub struct Files {
    reader: Ref<'static, OpenFile>,
    /// The first that was opened for writing.
    writer: OnceLock<Ref<'static, OpenFile>>,
}

impl Files {
    /// `file` is open for reading.
    pub fn new(file: &Ref<'static, OpenFile>) -> Self {
        let files = Self { reader: file.clone(), writer: OnceLock::new() };
        files.add(file);
        files
    }

    /// Another open file of the same.
    pub fn add(&self, file: &Ref<'static, OpenFile>) {
        if file.writable() {
            let _ = self.writer.set(file.clone());
        }
    }

    fn for_writing(&self) -> &OpenFile {
        self.writer.get().unwrap_or(&self.reader)
    }

    /// fsync(2) of the plugin's file.
    pub fn fsync(&self) -> Result<(), Errno> {
        self.for_writing().with_handle(|instance, handle| instance.fsync(handle, false))
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &OpenFile> {
        [Some(&self.reader), self.writer.get()].into_iter().flatten().map(|file| &**file)
    }

    /// An open file for what is done to the file by itself.
    pub fn file(&self) -> &OpenFile {
        self.for_writing()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let list = &self.reader.process().paging.live;
        list.end(&self.reader);
        if let Some(writer) = self.writer.get() {
            list.end(writer);
        }
    }
}

impl PageSource for Files {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.reader.with_handle(|instance, handle| read(instance, handle, offset, buffer))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        with_writer(self.for_writing(), |write| write(offset, data))
    }

    fn len(&self) -> Result<u64, Errno> {
        Ok(self.reader.with_handle(Instance::fgetattr)?.st_size as u64)
    }
}

/// Runs `action` with a function that writes to the file of `file`, which need not be open for writing.
pub fn with_writer<T>(
    file: &OpenFile,
    action: impl FnOnce(&dyn Fn(u64, &[u8]) -> Result<(), Errno>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    if file.writable() {
        return action(&|offset, data| {
            file.with_handle(|instance, handle| write(instance, handle, offset, data))
        });
    }
    reopened(file, sys::O_WRONLY, |instance, handle| {
        action(&|offset, data| write(instance, handle, offset, data).map_err(plugin_errno))
    })
}

/// As [`with_writer`], for the file at a path.
pub fn with_writer_at<T>(
    spot: &Spot,
    action: impl FnOnce(&dyn Fn(u64, &[u8]) -> Result<(), Errno>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let instance = spot.mount.instance()?;
    let opened = spot.call(|instance, path| instance.open(path, sys::O_WRONLY as i32, 0))?;
    let Open::Served { handle, .. } = opened else { return Err(Errno::BADF) };
    let result = action(&|offset, data| write(instance, &handle, offset, data).map_err(plugin_errno));
    let closed = instance.close(handle).map_err(plugin_errno);
    result.and_then(|value| closed.map(|()| value))
}

/// As [`with_writer`], for reading.
pub fn with_reader<T>(
    file: &OpenFile,
    action: impl FnOnce(&dyn Fn(u64, &mut [u8]) -> Result<usize, Errno>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    if file.readable() {
        return action(&|offset, buffer| {
            file.with_handle(|instance, handle| read(instance, handle, offset, buffer))
        });
    }
    reopened(file, sys::O_RDONLY, |instance, handle| {
        action(&|offset, buffer| read(instance, handle, offset, buffer).map_err(plugin_errno))
    })
}

fn reopened<T>(
    file: &OpenFile,
    flags: u32,
    action: impl FnOnce(&Instance, &Handle) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let instance = file.instance()?;
    let opened = match file.with_handle(|instance, handle| instance.reopen(handle, flags as i32)) {
        Err(Errno::NOSYS) => {
            let path = file.path()?;
            let spot = crate::namei::Spot::new(&file.process().mounts[file.mount], path, false)?;
            let opened = spot.call(|instance, path| instance.open(path, flags as i32, 0))?;
            check_same(file, opened)?
        }
        other => other?,
    };
    let Open::Served { handle, .. } = opened else { return Err(Errno::BADF) };
    let result = action(instance, &handle);
    let closed = instance.close(handle).map_err(plugin_errno);
    result.and_then(|value| closed.map(|()| value))
}

/// What was opened by its path must still be the file.
fn check_same(file: &OpenFile, opened: Open<Handle>) -> Result<Open<Handle>, Errno> {
    let Open::Served { handle, .. } = &opened else { return Err(Errno::BADF) };
    let instance = file.instance()?;
    let there = instance.fgetattr(handle).map_err(plugin_errno)?;
    let here = file.with_handle(Instance::fgetattr)?;
    if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) {
        return Ok(opened);
    }
    if let Open::Served { handle, .. } = opened {
        let _ = instance.close(handle);
    }
    Err(Errno::STALE)
}

fn read(instance: &Instance, handle: &Handle, offset: u64, buffer: &mut [u8]) -> plugin_abi::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match instance.read(handle, &mut buffer[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn write(instance: &Instance, handle: &Handle, offset: u64, data: &[u8]) -> plugin_abi::Result<()> {
    let mut done = 0;
    while done < data.len() {
        match instance.write(handle, &data[done..], offset + done as u64, false)?.count {
            0 => return Err(plugin_abi::Errno::EIO),
            count => done += count,
        }
    }
    Ok(())
}
