//! Steps on open files.

use super::super::model::{Kind, read, write};
use super::super::step::Access;
use super::{Checked, OpenFile, Session, differ, pattern, same, same_bytes};
use crate::errno::Errno;
use crate::instance::Saved;
use crate::path::MountPath;
use crate::types::Open;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, IntoRawFd};

impl Session<'_> {
    pub(super) fn open(
        &mut self,
        slot: usize,
        path: &str,
        access: Access,
        create: bool,
        exclusive: bool,
        truncate: bool,
    ) -> Checked {
        // Without O_CREAT, O_EXCL means nothing; O_RDONLY with O_TRUNC means whatever it means.
        let exclusive = exclusive && create;
        let truncate = truncate && access != Access::Read;
        if self.is_out_of_scope(path) {
            return Ok(());
        }
        if let Some(old) = self.slots[slot].take() {
            let got = self.fs.close(old.handle);
            self.verdict("close", got, Ok(()))?;
        }
        let expected = self.model.open(path, access, create, exclusive, truncate);
        let mut flags = match access {
            Access::Read => libc::O_RDONLY,
            Access::Write => libc::O_WRONLY,
            Access::Both => libc::O_RDWR,
        };
        flags |= if create { libc::O_CREAT } else { 0 };
        flags |= if exclusive { libc::O_EXCL } else { 0 };
        flags |= if truncate { libc::O_TRUNC } else { 0 };
        let name = self.path(path);
        let got = self.fs.open(MountPath::from_normalised(&name), flags, 0o644);
        let found = expected.as_ref().ok().copied().flatten();
        let kind = if create { "open with O_CREAT" } else { "open" };
        let Some(opened) = self.verdict(kind, got, expected.map(drop))? else { return Ok(()) };
        let node = match found {
            None => self.model.add(path, Kind::File(Vec::new()), 0o644),
            Some(node) => node,
        };
        if let (Kind::File(data), true) = (&mut self.model.nodes[node].kind, truncate) {
            data.clear();
            self.model.nodes[node].mtime = None;
        }
        match opened {
            Open::Served { handle, mode_type, .. } => {
                let is_directory = self.model.nodes[node].kind == Kind::Directory;
                let right = if is_directory { libc::S_IFDIR } else { libc::S_IFREG };
                self.slots[slot] = Some(OpenFile { handle, node, access });
                if mode_type != 0 && mode_type != right {
                    return differ(format!("file type {right:#o}"), format!("file type {mode_type:#o}"));
                }
            }
            // The kernel serves it; there is nothing of the plugin's to check.
            Open::Native { .. } => {
                self.unsupported.insert("handles (native descriptors are given)");
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self, slot: usize, offset: u64, lens: &[usize]) -> Checked {
        let Some((handle, data)) = self.usable(slot, Access::Write) else { return Ok(()) };
        let total: usize = lens.iter().sum();
        let right = read(data, offset, total).to_vec();
        let mut got = vec![0xee; total];
        let answer = if let [_] = lens {
            self.fs.read(handle, &mut got, offset)
        } else {
            let (mut pieces, mut rest) = (Vec::new(), got.as_mut_slice());
            for len in lens {
                let (piece, tail) = rest.split_at_mut(*len);
                pieces.push(IoSliceMut::new(piece));
                rest = tail;
            }
            self.fs.readv(handle, &mut pieces, offset)
        };
        let Some(count) = self.verdict("read", answer, Ok(()))? else { return Ok(()) };
        same_bytes(&right, &got[..count])
    }

    pub(super) fn write(
        &mut self,
        slot: usize,
        offset: u64,
        lens: &[usize],
        fill: u8,
        append: bool,
    ) -> Checked {
        let Some((handle, data)) = self.usable(slot, Access::Read) else { return Ok(()) };
        let at = if append { data.len() as u64 } else { offset };
        let bytes = pattern(lens.iter().sum(), fill);
        let answer = if let [_] = lens {
            self.fs.write(handle, &bytes, offset, append)
        } else {
            let (mut pieces, mut rest) = (Vec::new(), bytes.as_slice());
            for len in lens {
                let (piece, tail) = rest.split_at(*len);
                pieces.push(IoSlice::new(piece));
                rest = tail;
            }
            self.fs.writev(handle, &pieces, offset, append)
        };
        let kind = if append { "append" } else { "write" };
        let Some(written) = self.verdict(kind, answer, Ok(()))? else { return Ok(()) };
        same("bytes written", &bytes.len(), &written.count)?;
        if !bytes.is_empty() {
            same("end", &(at + bytes.len() as u64), &written.end)?;
            self.changed(slot);
        }
        if let Some(data) = self.file(slot) {
            write(data, at, &bytes);
        }
        Ok(())
    }

    pub(super) fn allocate(&mut self, slot: usize, mode: i32, offset: u64, len: u64) -> Checked {
        let Some((handle, _)) = self.usable(slot, Access::Read) else { return Ok(()) };
        let got = self.fs.fallocate(handle, mode, offset, len);
        let kind = match mode {
            0 => "fallocate",
            libc::FALLOC_FL_KEEP_SIZE => "fallocate with FALLOC_FL_KEEP_SIZE",
            libc::FALLOC_FL_ZERO_RANGE => "fallocate with FALLOC_FL_ZERO_RANGE",
            _ => "fallocate with FALLOC_FL_PUNCH_HOLE",
        };
        if self.verdict(kind, got, Ok(()))?.is_none() {
            return Ok(());
        }
        self.changed(slot);
        if let Some(data) = self.file(slot) {
            let end = (offset + len) as usize;
            if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && data.len() < end {
                data.resize(end, 0);
            }
            if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
                let range = data.len().min(offset as usize)..data.len().min(end);
                data[range].fill(0);
            }
        }
        Ok(())
    }

    /// A hole must read as zeros; more than that no file system owes.
    pub(super) fn seek(&mut self, slot: usize, offset: u64, hole: bool) -> Checked {
        let Some((handle, data)) = self.usable(slot, Access::Write) else { return Ok(()) };
        let data = data.clone();
        let whence = if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
        let got = self.fs.lseek(handle, offset, whence);
        let size = data.len() as u64;
        let zero_from = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|&byte| byte == 0);
        let expected = match got {
            _ if offset >= size => Err(vec![Errno::ENXIO]),
            Err(Errno::ENXIO) if !hole && zero_from(offset, size) => return Ok(()),
            _ => Ok(()),
        };
        let Some(found) = self.verdict("lseek", got, expected)? else { return Ok(()) };
        if found > size {
            return differ(format!("at most the size, {size}"), found.to_string());
        }
        if !hole && !zero_from(offset, found) {
            return differ("the first data", format!("{found}, but there is data before"));
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, from: usize, from_at: u64, to: usize, to_at: u64, len: usize) -> Checked {
        let (Some((source, data)), Some((target, _))) =
            (self.usable(from, Access::Write), self.usable(to, Access::Read))
        else {
            return Ok(());
        };
        let node = |slot: usize| self.slots[slot].as_ref().map(|file| file.node);
        if node(from) == node(to) && from_at.abs_diff(to_at) < len as u64 {
            return Ok(());
        }
        let bytes = read(data, from_at, len).to_vec();
        let mut got = self.fs.copy_range(source, from_at, target, to_at, len);
        // What cannot be copied so, the host copies by reading and writing.
        if matches!(got, Err(Errno::EXDEV | Errno::EINVAL)) {
            got = Err(Errno::EOPNOTSUPP);
        }
        let Some(count) = self.verdict("copy_range", got, Ok(()))? else { return Ok(()) };
        if count > bytes.len() || (count == 0 && !bytes.is_empty()) {
            return differ(format!("1 to {} bytes copied", bytes.len()), format!("{count} bytes copied"));
        }
        if count > 0 {
            self.changed(to);
        }
        if let Some(data) = self.file(to) {
            write(data, to_at, &bytes[..count]);
        }
        Ok(())
    }

    pub(super) fn save_restore(&mut self, slot: usize) -> Checked {
        let Some(file) = &self.slots[slot] else { return Ok(()) };
        let (mut blob, mut keep, mut saved) = (vec![0; 8192], [-1; 8], Saved::default());
        let got = self.fs.save(&file.handle, &mut blob, &mut keep, &mut saved);
        if self.verdict("save", got, Ok(()))?.is_none() {
            return Ok(());
        }
        // In this process the old handle lives on, so the new one gets descriptors of its own.
        let mut fds = Vec::new();
        for &fd in &keep[..saved.kept] {
            // SAFETY: only duplicates the number; a closed one is answered with an error.
            match rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(fd) }, 0) {
                Ok(copy) => fds.push(copy.into_raw_fd()),
                Err(_) => {
                    return differ("open descriptors to keep", format!("descriptor {fd}, which is closed"));
                }
            }
        }
        let got = self.fs.restore(&blob[..saved.len], &fds);
        let Some(opened) = self.verdict("restore", got, Ok(()))? else { return Ok(()) };
        let Open::Served { handle, .. } = opened else { return differ("a handle", "a native descriptor") };
        let Some(file) = &mut self.slots[slot] else { return Ok(()) };
        let old = std::mem::replace(&mut file.handle, handle);
        if fds.is_empty() {
            // It may be the same file under the same number, which the next image would not see closed.
            let _left_open = old.into_raw();
            return Ok(());
        }
        let got = self.fs.close(old);
        self.verdict("close", got, Ok(())).map(drop)
    }
}
