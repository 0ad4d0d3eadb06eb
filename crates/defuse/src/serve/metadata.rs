//! chmod, chown, the times, lengths, and what concerns the storage of a file.

use std::ops::Range;
use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Instance, SetAttr, SetTime, timespec};
use rustix::io::Errno;

use super::attributes::{attributes_at, is_empty_text, tells_links};
use super::paths::{self, At};
use super::{DONE, Reply, Served, file_size, read_only};
use crate::file::{self, OpenFile};
use crate::namei::{PathArgument, Spot};
use crate::paging::{self, coherent};
use crate::process::Process;
use crate::{running, user};

pub fn chmod(process: &'static Process, call: &Call) -> Served {
    set_at(process, call, At::cwd(0, true), &mode_of(call.args[1]))
}

pub fn fchmod(process: &'static Process, call: &Call) -> Served {
    set_on(process, call.args[0] as RawFd, &mode_of(call.args[1]))
}

pub fn fchmodat(process: &'static Process, call: &Call) -> Served {
    set_at(process, call, At::dir(true), &mode_of(call.args[2]))
}

pub fn fchmodat2(process: &'static Process, call: &Call) -> Served {
    let flags = call.args[3] as u32;
    set_with_flags(process, call, flags, &mode_of(call.args[2]))
}

pub fn chown(process: &'static Process, call: &Call) -> Served {
    set_at(process, call, At::cwd(0, true), &owner_of(call.args[1], call.args[2]))
}

pub fn lchown(process: &'static Process, call: &Call) -> Served {
    set_at(process, call, At::cwd(0, false), &owner_of(call.args[1], call.args[2]))
}

pub fn fchown(process: &'static Process, call: &Call) -> Served {
    set_on(process, call.args[0] as RawFd, &owner_of(call.args[1], call.args[2]))
}

pub fn fchownat(process: &'static Process, call: &Call) -> Served {
    set_with_flags(process, call, call.args[4] as u32, &owner_of(call.args[2], call.args[3]))
}

fn set_with_flags(process: &'static Process, call: &Call, flags: u32, attributes: &SetAttr) -> Served {
    if flags & !(sys::AT_SYMLINK_NOFOLLOW | sys::AT_EMPTY_PATH) != 0 {
        return Ok(Reply::Pass);
    }
    if flags & sys::AT_EMPTY_PATH != 0 && is_empty_text(call.args[1])? {
        if call.args[0] as RawFd == sys::AT_FDCWD {
            return set_argument(process, call, At::dir(true), &PathArgument::here()?, attributes);
        }
        let Some(file) = file::served(process, call.args[0] as RawFd) else { return Ok(Reply::Pass) };
        return set_itself(process, &file, attributes);
    }
    set_at(process, call, At::dir(flags & sys::AT_SYMLINK_NOFOLLOW == 0), attributes)
}

/// What is open, however.
fn set_itself(process: &'static Process, file: &OpenFile, attributes: &SetAttr) -> Served {
    check_times(attributes)?;
    read_only::check_file(process, file)?;
    if is_path_only(file) {
        let spot = Spot::new(&process.mounts[file.mount], file.path()?, false)?;
        spot.call(|instance, path| instance.setattr(path, attributes))?;
    } else {
        file.with_handle(|instance, handle| instance.fsetattr(handle, attributes))?;
    }
    DONE
}

fn mode_of(mode: u64) -> SetAttr {
    SetAttr { mode: Some(mode as u32 & 0o7777), ..SetAttr::default() }
}

fn owner_of(uid: u64, gid: u64) -> SetAttr {
    let given = |id: u64| (id as u32 != u32::MAX).then_some(id as u32);
    SetAttr { uid: given(uid), gid: given(gid), ..SetAttr::default() }
}

fn set_at(process: &'static Process, call: &Call, at: At, attributes: &SetAttr) -> Served {
    set_argument(process, call, at, &at.argument(call)?, attributes)
}

fn set_argument(
    process: &'static Process,
    call: &Call,
    at: At,
    argument: &PathArgument,
    attributes: &SetAttr,
) -> Served {
    // It may have no name, or another by now.
    if at.follow
        && !is_nothing(attributes)
        && let Some(file) = crate::proc_links::proc_fd(process, &argument.text)
    {
        return set_itself(process, &file, attributes);
    }
    let on_mount = |spot: &Spot| {
        let no_link = at.follow && !spot.directory && tells_links(spot)?;
        let times = check_times(attributes);
        // Where there is nothing to set, the plugin need not look at all.
        if !no_link || is_nothing(attributes) || times.is_err() {
            attributes_at(spot, at.follow)?;
        }
        times?;
        read_only::check_change(process, spot, at.follow)?;
        if is_nothing(attributes) {
            return take_privileges(spot).map(|()| 0);
        }
        let attributes = SetAttr { no_link, ..*attributes };
        spot.call(|instance, path| instance.setattr(path, &attributes))?;
        Ok(0)
    };
    paths::lookup_argument(process, call, at, argument, on_mount)
}

/// chown(2) that changes nobody's: a program has its set-user-ID bit no more.
fn take_privileges(spot: &Spot) -> Result<(), Errno> {
    let found = spot.call(Instance::getattr)?;
    let privileged = found.st_mode & (sys::S_ISUID | sys::S_ISGID) != 0;
    if !privileged || found.st_mode & sys::S_IFMT == sys::S_IFDIR {
        return Ok(());
    }
    let same = SetAttr { uid: Some(found.st_uid), ..SetAttr::default() };
    match spot.call(|instance, path| instance.setattr(path, &same)) {
        // Who does not own it could not give it away either.
        Err(Errno::PERM) => Ok(()),
        done => done,
    }
}

fn is_nothing(attributes: &SetAttr) -> bool {
    let SetAttr { mode, uid, gid, size, atime, mtime, no_link: _ } = attributes;
    mode.or(*uid).or(*gid).is_none() && size.is_none() && atime.is_none() && mtime.is_none()
}

fn set_on(process: &'static Process, fd: RawFd, attributes: &SetAttr) -> Served {
    let Some(file) = file::served(process, fd) else { return Ok(Reply::Pass) };
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    check_times(attributes)?;
    read_only::check_file(process, &file)?;
    file.with_handle(|instance, handle| instance.fsetattr(handle, attributes))?;
    DONE
}

pub fn utime(process: &'static Process, call: &Call) -> Served {
    let times = match call.args[1] {
        0 => now(),
        address => {
            let [access, modification] = user::read::<[i64; 2]>(address)?;
            both(access, 0, modification, 0)
        }
    };
    set_at(process, call, At::cwd(0, true), &times)
}

pub fn utimes(process: &'static Process, call: &Call) -> Served {
    let times = from_microseconds(call.args[1])?;
    set_at(process, call, At::cwd(0, true), &times)
}

pub fn futimesat(process: &'static Process, call: &Call) -> Served {
    let times = from_microseconds(call.args[2])?;
    if call.args[1] == 0 {
        return set_on(process, call.args[0] as RawFd, &times);
    }
    set_at(process, call, At::dir(true), &times)
}

pub fn utimensat(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, times, flags, ..] = call.args;
    let times = match times {
        0 => now(),
        address => {
            let [access, access_part, modification, modification_part] = user::read::<[i64; 4]>(address)?;
            if [access_part, modification_part] == [i64::from(sys::UTIME_OMIT); 2] {
                return DONE; // Not even the path is looked at.
            }
            SetAttr {
                atime: one_time(access, access_part),
                mtime: one_time(modification, modification_part),
                ..SetAttr::default()
            }
        }
    };
    if path == 0 && dirfd as RawFd != sys::AT_FDCWD {
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        return set_on(process, dirfd as RawFd, &times);
    }
    set_with_flags(process, call, flags as u32, &times)
}

fn now() -> SetAttr {
    SetAttr { atime: Some(SetTime::Now), mtime: Some(SetTime::Now), ..SetAttr::default() }
}

fn both(access: i64, access_part: i64, modification: i64, modification_part: i64) -> SetAttr {
    let time = |tv_sec, tv_nsec| Some(SetTime::At(timespec { tv_sec, tv_nsec }));
    SetAttr {
        atime: time(access, access_part),
        mtime: time(modification, modification_part),
        ..SetAttr::default()
    }
}

fn from_microseconds(address: u64) -> Result<SetAttr, Errno> {
    if address == 0 {
        return Ok(now());
    }
    let [access, access_part, modification, modification_part] = user::read::<[i64; 4]>(address)?;
    if !(0..1_000_000).contains(&access_part) || !(0..1_000_000).contains(&modification_part) {
        return Err(Errno::INVAL);
    }
    Ok(both(access, access_part * 1000, modification, modification_part * 1000))
}

/// One that is none is told from others when the file has been found.
fn one_time(seconds: i64, nanoseconds: i64) -> Option<SetTime> {
    const NOW: i64 = sys::UTIME_NOW as i64;
    const OMIT: i64 = sys::UTIME_OMIT as i64;
    match nanoseconds {
        NOW => Some(SetTime::Now),
        OMIT => None,
        _ => Some(SetTime::At(timespec { tv_sec: seconds, tv_nsec: nanoseconds })),
    }
}

/// `EINVAL` if these are no times.
fn check_times(attributes: &SetAttr) -> Result<(), Errno> {
    let valid = |time: Option<SetTime>| match time {
        Some(SetTime::At(timespec { tv_nsec, .. })) => (0..1_000_000_000).contains(&tv_nsec),
        _ => true,
    };
    if valid(attributes.atime) && valid(attributes.mtime) { Ok(()) } else { Err(Errno::INVAL) }
}

pub fn truncate(process: &'static Process, call: &Call) -> Served {
    let size = length_of(call.args[1])?;
    paths::lookup(process, call, At::cwd(0, true), |spot| truncate_spot(process, spot, &size))
}

fn truncate_spot(process: &'static Process, spot: &Spot, size: &SetAttr) -> Result<i64, Errno> {
    let attributes = attributes_at(spot, true)?;
    let length = size.size.unwrap_or(0);
    let truncate = || {
        spot.call(|instance, _| Ok(file_size::may_be(instance, || Ok(attributes.st_size), length)))??;
        spot.call(|instance, path| instance.setattr(path, size)).map(|()| 0)
    };
    match attributes.st_mode & sys::S_IFMT {
        sys::S_IFDIR => Err(Errno::ISDIR),
        sys::S_IFREG => {
            read_only::check_change(process, spot, true)?;
            running::check(process, spot)?;
            match coherent::maybe_mapped(process, spot.mount.number, &attributes) {
                Some(key) => coherent::set_length(None, process, key, length, truncate),
                None => truncate(),
            }
        }
        _ => Err(Errno::INVAL),
    }
}

pub fn ftruncate(process: &'static Process, call: &Call) -> Served {
    let Some(file) = file::served(process, call.args[0] as RawFd) else { return Ok(Reply::Pass) };
    let size = length_of(call.args[1])?;
    if file.open_flags & sys::O_PATH != 0 {
        return Err(Errno::BADF);
    }
    if !file.writable() || file.kind()? != sys::S_IFREG {
        return Err(Errno::INVAL);
    }
    let truncate = || {
        file_size::may_be(file.instance()?, || super::transfer::size_of_file(&file), call.args[1])?;
        file.with_handle(|instance, handle| instance.fsetattr(handle, &size))
    };
    match paging::key_of(&file)? {
        Some(key) => coherent::set_length(Some(&file), process, key, call.args[1], truncate)?,
        None => truncate()?,
    }
    DONE
}

fn length_of(length: u64) -> Result<SetAttr, Errno> {
    if (length as i64) < 0 {
        return Err(Errno::INVAL);
    }
    Ok(SetAttr { size: Some(length), ..SetAttr::default() })
}

pub fn fallocate(process: &'static Process, call: &Call) -> Served {
    let [fd, mode, offset, length, ..] = call.args;
    let Some(file) = file::served(process, fd as RawFd) else { return Ok(Reply::Pass) };
    if (offset as i64) < 0 || (length as i64) <= 0 {
        return Err(Errno::INVAL);
    }
    if !file.writable() {
        return Err(Errno::BADF);
    }
    if (offset as i64).checked_add(length as i64).is_none() {
        return Err(Errno::FBIG);
    }
    if mode as u32 & sys::FALLOC_FL_KEEP_SIZE == 0 {
        file_size::may_be(file.instance()?, || super::transfer::size_of_file(&file), offset + length)?;
    }
    coherent::change(&file, || {
        file.with_handle(|instance, handle| instance.fallocate(handle, mode as i32, offset, length))?;
        Ok(((), changed_by(mode as u32, offset, length)))
    })?;
    DONE
}

/// The bytes that a fallocate(2) makes others than they were. Others may be being stored to by who maps the file.
fn changed_by(mode: u32, offset: u64, length: u64) -> Range<u64> {
    if mode & (sys::FALLOC_FL_COLLAPSE_RANGE | sys::FALLOC_FL_INSERT_RANGE) != 0 {
        offset..u64::MAX
    } else if mode & (sys::FALLOC_FL_PUNCH_HOLE | sys::FALLOC_FL_ZERO_RANGE) != 0 {
        offset..offset + length
    } else {
        0..0
    }
}

pub fn fsync(process: &'static Process, call: &Call) -> Served {
    sync(process, call, false)
}

pub fn fdatasync(process: &'static Process, call: &Call) -> Served {
    sync(process, call, true)
}

fn sync(process: &'static Process, call: &Call, datasync: bool) -> Served {
    let Some(file) = open_for_data(process, call)? else { return Ok(Reply::Pass) };
    coherent::settle(&file)?;
    file.take_error()?;
    file.with_handle(|instance, handle| instance.fsync(handle, datasync))?;
    DONE
}

pub fn sync_file_range(process: &'static Process, call: &Call) -> Served {
    let [_, offset, length, flags, ..] = call.args;
    let Some(file) = open_for_data(process, call)? else { return Ok(Reply::Pass) };
    let known =
        sys::SYNC_FILE_RANGE_WAIT_BEFORE | sys::SYNC_FILE_RANGE_WRITE | sys::SYNC_FILE_RANGE_WAIT_AFTER;
    if (offset as i64) < 0 || (length as i64) < 0 || flags as u32 & !known != 0 {
        return Err(Errno::INVAL);
    }
    coherent::settle(&file)?;
    // Writing more than was asked for is allowed, less is not.
    file.with_handle(|instance, handle| instance.fsync(handle, true))?;
    DONE
}

pub fn syncfs(process: &'static Process, call: &Call) -> Served {
    let Some(file) = open_for_data(process, call)? else { return Ok(Reply::Pass) };
    coherent::settle(&file)?;
    file.with_handle(|instance, _| instance.syncfs())?;
    DONE
}

/// sync(2): the plugins that this process uses, then the kernel's own file systems. It knows no errors.
pub fn sync_all(process: &'static Process, _: &Call) -> Served {
    for instance in process.mounts.iter().filter_map(crate::mount::Mount::loaded) {
        let _ = instance.syncfs();
    }
    Ok(Reply::Pass)
}

pub fn fadvise(process: &'static Process, call: &Call) -> Served {
    let [_, _, length, advice, ..] = call.args;
    let Some(_file) = open_for_data(process, call)? else { return Ok(Reply::Pass) };
    if (length as i64) < 0 || advice as u32 > sys::POSIX_FADV_NOREUSE {
        return Err(Errno::INVAL);
    }
    DONE // Advice may be ignored.
}

pub fn readahead(process: &'static Process, call: &Call) -> Served {
    let Some(file) = open_for_data(process, call)? else { return Ok(Reply::Pass) };
    match file.kind()? {
        _ if !file.readable() => Err(Errno::BADF),
        sys::S_IFREG => DONE,
        _ => Err(Errno::INVAL),
    }
}

fn open_for_data(process: &'static Process, call: &Call) -> Result<Option<file::FileRef>, Errno> {
    let Some(file) = file::served(process, call.args[0] as RawFd) else { return Ok(None) };
    if is_path_only(&file) { Err(Errno::BADF) } else { Ok(Some(file)) }
}

fn is_path_only(file: &OpenFile) -> bool {
    file.open_flags & sys::O_PATH != 0
}

/// ioctl(2): what concerns the FD is answered here, the rest is the plugin's.
#[allow(unsafe_code)]
pub fn ioctl(process: &'static Process, call: &Call) -> Served {
    let [fd, request, argument, ..] = call.args;
    let Some(file) = open_for_data(process, call)? else { return Ok(Reply::Pass) };
    let request = request as u32;
    match request {
        linux_raw_sys::ioctl::FIOCLEX | linux_raw_sys::ioctl::FIONCLEX => {
            super::descriptors::set_cloexec(process, fd as RawFd, request == linux_raw_sys::ioctl::FIOCLEX);
            DONE
        }
        linux_raw_sys::ioctl::FIONREAD if file.kind()? == sys::S_IFREG => {
            // As the kernel has it: negative behind the end, and cut at 32 bits.
            let left = super::transfer::size_of_file(&file)? - file.shared()?.offset();
            user::write(argument, &(left as i32))?;
            DONE
        }
        _ => {
            // SAFETY: `ioctl` hands the program's argument on as it is, as the kernel would.
            let done = file.with_handle(|instance, handle| unsafe {
                instance.ioctl(handle, request.into(), argument as *mut _)
            });
            done.map(|value| Reply::Value(value.into()))
        }
    }
}
