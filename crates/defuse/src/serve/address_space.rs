//! Calls about memory that files are mapped at. Offered only while there is such memory in this process.

use std::ops::Range;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use uffd_pager::{PAGE, Pager, Protection, Remap};

use super::{DONE, Reply, Served};
use crate::native;
use crate::paging::{coherent, live};
use crate::process::Process;

/// The memory that a call names by address and length, whole pages; `None` if the kernel would refuse it, or there is none.
fn range(address: u64, length: u64) -> Option<Range<usize>> {
    let length = length.checked_next_multiple_of(PAGE as u64)?;
    let end = address.checked_add(length).filter(|&end| end <= 0x7fff_ffff_f000)?;
    (address.is_multiple_of(PAGE as u64) && length > 0).then_some(address as usize..end as usize)
}

/// The pager, if it serves any of the memory.
fn serving(process: &'static Process, memory: &Range<usize>) -> Option<&'static Pager> {
    process.paging.pager().filter(|pager| pager.serves(memory.clone()))
}

/// An mmap(2) that is not ours, maybe in place of what is.
pub fn over(process: &'static Process, call: &Call) -> Served {
    let [address, length, _, flags, ..] = call.args;
    if flags as u32 & (sys::MAP_FIXED | sys::MAP_FIXED_NOREPLACE) != sys::MAP_FIXED {
        return Ok(Reply::Pass);
    }
    replace(process, call, call.args, address, length)
}

/// Makes a call that replaces what is mapped at `length` bytes from `address`.
pub fn replace(process: &'static Process, call: &Call, args: [u64; 6], address: u64, length: u64) -> Served {
    let Some(memory) = range(address, length) else { return Ok(Reply::PassWith(args)) };
    let Some(pager) = serving(process, &memory) else { return Ok(Reply::PassWith(args)) };
    let (value, was_served) = pager.replace(memory, || native::checked(call.nr, args))?;
    // malloc may have got, and given up, memory that another thread has just unmapped: under its locks a fork must not be waited for.
    if was_served {
        live::unmapped(process, pager);
    }
    Ok(Reply::Value(value as i64))
}

pub fn munmap(process: &'static Process, call: &Call) -> Served {
    replace(process, call, call.args, call.args[0], call.args[1])
}

pub fn shmat(process: &'static Process, call: &Call) -> Served {
    const SHM_REMAP: u64 = 0o40000;
    let [id, address, flags, ..] = call.args;
    if flags & SHM_REMAP == 0 || process.paging.pager().is_none() {
        return Ok(Reply::Pass);
    }
    // Its length: struct shmid_ds after struct ipc_perm.
    let mut status = [0_u64; 32];
    native::checked(sys::__NR_shmctl, [id, IPC_STAT, status.as_mut_ptr() as u64, 0, 0, 0])?;
    replace(process, call, call.args, address, status[SHM_SEGSZ])
}

const IPC_STAT: u64 = 2;
/// Index of `shm_segsz` in a `struct shmid_ds`, in words of 8 bytes.
const SHM_SEGSZ: usize = 6;

pub fn mremap(process: &'static Process, call: &Call) -> Served {
    let [address, old_length, new_length, flags, target, _] = call.args;
    let flags = flags as u32;
    let fixed = flags & sys::MREMAP_FIXED != 0;
    let old = range(address, old_length.max(1));
    let Some(pager) = old.as_ref().and_then(|old| serving(process, old)) else {
        // Ours may be in the way.
        return if fixed { replace(process, call, call.args, target, new_length) } else { Ok(Reply::Pass) };
    };
    let Some(old) = range(address, old_length) else { return Err(Errno::INVAL) };
    let known = sys::MREMAP_MAYMOVE | sys::MREMAP_FIXED;
    if new_length == 0 || flags & !known != 0 || (fixed && flags & sys::MREMAP_MAYMOVE == 0) {
        return Err(Errno::INVAL);
    }
    let place = if fixed {
        let new = range(target, new_length).ok_or(Errno::INVAL)?;
        if new.start < old.end && old.start < new.end {
            return Err(Errno::INVAL);
        }
        Remap::Fixed(new.start)
    } else if flags & sys::MREMAP_MAYMOVE != 0 {
        Remap::MayMove
    } else {
        Remap::InPlace
    };
    // SAFETY: what the program asked to be done to its own memory.
    #[allow(unsafe_code)]
    let moved = unsafe { pager.remap(old, new_length as usize, place) };
    live::unmapped(process, pager);
    moved.map(|address| Reply::Value(address as i64)).map_err(|error| error.errno())
}

/// mprotect and `pkey_mprotect`.
pub fn mprotect(process: &'static Process, call: &Call) -> Served {
    let [address, length, protection, ..] = call.args;
    let Some(memory) = range(address, length) else { return Ok(Reply::Pass) };
    let Some(pager) = serving(process, &memory) else { return Ok(Reply::Pass) };
    // SAFETY: what the program asked to be done to its own memory.
    #[allow(unsafe_code)]
    unsafe { pager.protect(memory.clone(), Protection::from_bits(protection as u32)) }
        .map_err(|error| error.errno())?;
    if protection as u32 & sys::PROT_EXEC != 0 {
        live::became_executable(pager, memory);
    }
    // What is not served, and errors of the arguments. Of what is, it is the same once more.
    Ok(Reply::Value(native::call(call)))
}

pub fn msync(process: &'static Process, call: &Call) -> Served {
    let [address, length, flags, ..] = call.args;
    let flags = flags as u32;
    let Some(memory) = range(address, length) else { return Ok(Reply::Pass) };
    let Some(pager) = serving(process, &memory) else { return Ok(Reply::Pass) };
    // Arguments, and memory that is not there.
    let checked = native::call(call);
    if flags & sys::MS_SYNC != 0 && (checked == 0 || checked == -i64::from(Errno::NOMEM.raw_os_error())) {
        live::sync_memory(process, pager, memory)?;
    }
    Ok(Reply::Value(checked))
}

pub fn madvise(process: &'static Process, call: &Call) -> Served {
    let [address, length, advice, ..] = call.args;
    let Some(memory) = range(address, length) else { return Ok(Reply::Pass) };
    let Some(pager) = serving(process, &memory) else { return Ok(Reply::Pass) };
    match advice as u32 {
        // The kernel's own mark is on all that is served; the child gets what it is to get by the pager.
        sys::MADV_DONTFORK => {
            pager.inherit(memory, false);
            Ok(Reply::Value(native::call(call)))
        }
        sys::MADV_DOFORK => {
            pager.inherit(memory.clone(), true);
            if pager.mappings(memory.clone()).iter().map(|(part, ..)| part.len()).sum::<usize>()
                == memory.len()
            {
                return DONE;
            }
            Err(Errno::INVAL)
        }
        sys::MADV_REMOVE => remove(process, pager, memory),
        sys::MADV_WILLNEED => {
            // Advice may be ignored; the arguments may not.
            let _ = pager.prefault(memory, false);
            Ok(Reply::Value(native::call(call)))
        }
        MADV_POPULATE_READ | MADV_POPULATE_WRITE => {
            let write = advice as u32 == MADV_POPULATE_WRITE;
            let _ready = pager.prefault(memory, write).map_err(|error| error.errno())?;
            Ok(Reply::Value(native::call(call)))
        }
        _ => Ok(Reply::Pass),
    }
}

/// Since Linux 5.14.
const MADV_POPULATE_READ: u32 = 22;
const MADV_POPULATE_WRITE: u32 = 23;

/// `MADV_REMOVE`: a hole in the file.
fn remove(process: &'static Process, pager: &Pager, memory: Range<usize>) -> Served {
    const PUNCH: u32 = 0x2 | 0x1; // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    let parts = live::files_in(process, pager, memory.clone());
    if parts.iter().map(|(_, _, bytes)| bytes.end - bytes.start).sum::<u64>() != memory.len() as u64 {
        return Err(Errno::INVAL);
    }
    // A private copy has no file to make a hole in.
    if !pager.may_be_removed(memory) {
        return Err(Errno::ACCESS);
    }
    for (_, files, bytes) in parts {
        let file = files.file();
        if !file.writable() {
            return Err(Errno::ACCESS);
        }
        coherent::change(file, || {
            let length = bytes.end - bytes.start;
            file.with_handle(|instance, handle| {
                instance.fallocate(handle, PUNCH as i32, bytes.start, length)
            })?;
            Ok(((), bytes.clone()))
        })?;
    }
    DONE
}

/// mlock and mlock2: the kernel wants the pages there.
pub fn mlock(process: &'static Process, call: &Call) -> Served {
    let [address, length, ..] = call.args;
    let start = address / PAGE as u64 * PAGE as u64;
    let Some(memory) = range(start, (address - start).saturating_add(length)) else { return Ok(Reply::Pass) };
    let Some(pager) = serving(process, &memory) else { return Ok(Reply::Pass) };
    let Ok(_ready) = pager.prefault(memory, true) else { return Err(Errno::NOMEM) };
    Ok(Reply::Value(native::call(call)))
}

/// Other pages of the same file at the same place: the pager would not know.
pub fn remap_file_pages(process: &'static Process, call: &Call) -> Served {
    let [address, length, ..] = call.args;
    match range(address, length).and_then(|memory| serving(process, &memory)) {
        Some(_) => Err(Errno::INVAL),
        None => Ok(Reply::Pass),
    }
}
