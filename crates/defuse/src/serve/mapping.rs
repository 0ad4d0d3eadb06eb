//! mmap of a served file.

use std::os::fd::{AsRawFd, RawFd};

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::Purpose;
use rustix::io::Errno;

use super::{Reply, Served};
use crate::file::{self, FileRef, OpenFile};
use crate::native;
use crate::paging::live;
use crate::process::Process;

/// A plugin that lends a descriptor whose pages are the file's gets a mapping of that: shared pages, one cache. The files of
/// others are mapped by the pager (`crate::paging`). Where that cannot be, for files of this process only and on kernels without
/// userfaultfd, a private mapping is a copy made now, and a shared one is refused.
pub fn mmap(process: &'static Process, call: &Call) -> Served {
    let [_, length, protection, flags, fd, offset] = call.args;
    let (protection, flags) = (protection as u32, flags as u32);
    if flags & sys::MAP_ANONYMOUS != 0 {
        return super::address_space::over(process, call);
    }
    let Some(file) = file::served(process, fd as RawFd) else {
        return super::address_space::over(process, call);
    };
    let shared = flags & sys::MAP_TYPE != sys::MAP_PRIVATE;
    let writes = shared && protection & sys::PROT_WRITE != 0;
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    if flags & sys::MAP_HUGETLB != 0 {
        return Err(Errno::INVAL); // Of huge pages are hugetlbfs's files alone.
    }
    if !file.readable() || (writes && !file.writable()) {
        return Err(Errno::ACCESS);
    }
    if file.kind()? != sys::S_IFREG {
        return Err(Errno::NODEV);
    }
    if flags & sys::MAP_GROWSDOWN != 0 {
        return Err(Errno::INVAL); // Of a stack, not of a file.
    }
    let lent = file
        .with_handle(|instance, handle| instance.backing_fd(handle, Purpose::Map).map(|fd| fd.as_raw_fd()));
    match lent {
        Ok(backing) => {
            let mut args = call.args;
            args[4] = backing as u64;
            if process.paging.pager().is_some() && flags & sys::MAP_FIXED != 0 {
                return super::address_space::replace(process, call, args, args[0], length);
            }
            if let FileRef::Alone(_) = file {
                // The descriptor lives as long as the handle, and that for this call.
                return Ok(Reply::Value(native::raw_call(call.nr, args)));
            }
            Ok(Reply::PassWith(args))
        }
        Err(_) => match paged(process, &file, call)? {
            Some(address) => Ok(Reply::Value(address as i64)),
            None if shared => Err(Errno::NODEV),
            None => copy(&file, call, length as usize, offset),
        },
    }
}

/// Has the pager map the file; `None` if it cannot.
fn paged(process: &'static Process, file: &FileRef, call: &Call) -> Result<Option<u64>, Errno> {
    match file {
        FileRef::Entered(file) => live::map(process, file, call.args),
        FileRef::Alone(_) | FileRef::WorkingDirectory(_) => Ok(None),
    }
}

/// Anonymous memory with the file's present content.
#[allow(unsafe_code)]
fn copy(file: &OpenFile, call: &Call, length: usize, offset: u64) -> Served {
    if length == 0 || !offset.is_multiple_of(4096) {
        return Err(Errno::INVAL);
    }
    let flags = call.args[3] as u32 & !sys::MAP_TYPE | sys::MAP_PRIVATE | sys::MAP_ANONYMOUS;
    let writable = u64::from(sys::PROT_READ | sys::PROT_WRITE);
    let args = [call.args[0], length as u64, writable, flags.into(), u64::MAX, 0];
    let address = native::checked(sys::__NR_mmap, args)?;
    let mut filled = 0;
    while filled < length {
        // SAFETY: the kernel has just mapped these `length` bytes for us to write, and nobody else knows of them.
        let rest = unsafe {
            std::slice::from_raw_parts_mut((address as usize + filled) as *mut u8, length - filled)
        };
        match file.with_handle(|instance, handle| instance.read(handle, rest, offset + filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => {
                native::raw_call(sys::__NR_munmap, [address, length as u64, 0, 0, 0, 0]);
                return Err(error);
            }
        }
    }
    native::checked(sys::__NR_mprotect, [address, length as u64, call.args[2], 0, 0, 0])?;
    Ok(Reply::Value(address as i64))
}
