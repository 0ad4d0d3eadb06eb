//! open, openat, openat2, creat.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::Capabilities;
use rustix::io::Errno;

use super::attributes::attributes_at;
use super::enter::{enter, open_handle};
use super::{Reply, Served, read_only, scoped};
use crate::file::OpenFile;
use crate::namei::{self, OpenHow, PathArgument, Performed, Spot};
use crate::paging::{self, Key, coherent};
use crate::process::Process;
use crate::resolve::Walk;
use crate::{common, native, running, user, working_directory};

/// Flags that open(2) knows; it ignores others, openat2(2) does not.
const KNOWN: u32 = sys::O_ACCMODE
    | sys::O_CREAT
    | sys::O_EXCL
    | sys::O_NOCTTY
    | sys::O_TRUNC
    | sys::O_APPEND
    | sys::O_NONBLOCK
    | sys::O_SYNC
    | sys::O_DIRECT
    | sys::O_LARGEFILE
    | sys::O_DIRECTORY
    | sys::O_NOFOLLOW
    | sys::O_NOATIME
    | sys::O_CLOEXEC
    | sys::O_PATH
    | sys::O_TMPFILE
    | sys::FASYNC;
/// Those that mean something together with `O_PATH`.
const WITH_PATH: u32 = sys::O_PATH | sys::O_DIRECTORY | sys::O_NOFOLLOW | sys::O_CLOEXEC;
/// Flags of a description that `F_GETFL` shows and `F_SETFL` may change.
pub const STATUS: u32 = sys::O_APPEND | sys::O_NONBLOCK | sys::O_DIRECT | sys::O_NOATIME | sys::FASYNC;

pub fn open(process: &'static Process, call: &Call) -> Served {
    let [path, flags, mode, ..] = call.args;
    open_path(process, call, sys::AT_FDCWD, path, flags as u32, mode as u32)
}

pub fn creat(process: &'static Process, call: &Call) -> Served {
    let [path, mode, ..] = call.args;
    let flags = sys::O_CREAT | sys::O_WRONLY | sys::O_TRUNC;
    open_path(process, call, sys::AT_FDCWD, path, flags, mode as u32)
}

pub fn openat(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, flags, mode, ..] = call.args;
    open_path(process, call, dirfd as RawFd, path, flags as u32, mode as u32)
}

pub fn openat2(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, how, size, ..] = call.args;
    if (size as usize) < size_of::<OpenHow>() {
        return Ok(Reply::Pass); // The kernel says what is wrong with it.
    }
    let [flags, mode, resolve] = user::read::<[u64; 3]>(how)?;
    if !is_valid(how, size, flags, mode, resolve)? {
        return Ok(Reply::Pass);
    }
    let argument = PathArgument::read(dirfd as RawFd, path)?;
    let asked = Asked { flags: flags as u32, mode: mode as u32, resolve };
    let restricted =
        sys::RESOLVE_BENEATH | sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS | sys::RESOLVE_NO_XDEV;
    if resolve & u64::from(restricted) != 0 {
        return scoped::open(process, call, argument, asked);
    }
    open_argument(process, call, &argument, asked)
}

/// What the program wants to open, and how.
#[derive(Clone, Copy)]
pub struct Asked {
    /// `O_*`.
    pub flags: u32,
    /// Permission bits for what is created.
    pub mode: u32,
    /// openat2(2)'s own; 0 for the others.
    pub resolve: u64,
}

impl Asked {
    /// Whether all of these words are asked for.
    pub fn resolves(self, words: u32) -> bool {
        self.resolve & u64::from(words) == u64::from(words)
    }

    /// What links of /proc are refused with that only the kernel can read, if they are.
    pub fn magic(self) -> Option<Errno> {
        self.resolves(sys::RESOLVE_NO_MAGICLINKS).then_some(Errno::LOOP)
    }

    /// Whether a link in the last component is followed.
    pub fn follow(self) -> bool {
        let exclusive = self.flags & (sys::O_CREAT | sys::O_EXCL) == sys::O_CREAT | sys::O_EXCL;
        self.flags & sys::O_NOFOLLOW == 0 && !exclusive
    }

    /// How links are treated. A name that is to be made where there is none must have no slash after it: what it is does not matter then.
    pub fn walk(self, argument: &PathArgument) -> Walk {
        let refused = self.flags & sys::O_CREAT != 0
            && argument.text.ends_with(b"/")
            && argument.last() == namei::Last::Name;
        let plain = if refused { Walk::name() } else { Walk::plain(self.follow()) };
        Walk { magic: self.magic(), ..plain }
    }
}

/// `EINVAL` for what cannot go together, whatever the path is.
fn check_flags(flags: u32) -> Result<(), Errno> {
    const TEMPORARY: u32 = sys::O_TMPFILE & !sys::O_DIRECTORY;
    let writes = flags & sys::O_ACCMODE != sys::O_RDONLY;
    let both = |flags, these| flags & these == these;
    if both(flags, sys::O_CREAT | sys::O_DIRECTORY)
        || flags & TEMPORARY != 0 && !(flags & sys::O_DIRECTORY != 0 && writes)
    {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// Whether openat2(2) accepts the structure: unlike open(2) it refuses what it does not know.
fn is_valid(how: u64, size: u64, flags: u64, mode: u64, resolve: u64) -> Result<bool, Errno> {
    const RESOLVE: u32 = sys::RESOLVE_NO_XDEV
        | sys::RESOLVE_NO_MAGICLINKS
        | sys::RESOLVE_NO_SYMLINKS
        | sys::RESOLVE_BENEATH
        | sys::RESOLVE_IN_ROOT
        | sys::RESOLVE_CACHED;
    const SCOPES: u64 = (sys::RESOLVE_BENEATH | sys::RESOLVE_IN_ROOT) as u64;
    let mut tail = vec![0; (size as usize).min(4096) - size_of::<OpenHow>()];
    user::read_bytes(how + size_of::<OpenHow>() as u64, &mut tail)?;
    let creates = flags & u64::from(sys::O_CREAT | sys::O_TMPFILE & !sys::O_DIRECTORY) != 0;
    let path_only = flags & u64::from(sys::O_PATH) != 0;
    Ok(tail.iter().all(|&byte| byte == 0)
        && check_flags(flags as u32).is_ok()
        && flags & !u64::from(KNOWN) == 0
        && resolve & !u64::from(RESOLVE) == 0
        && resolve & SCOPES != SCOPES
        && if creates { mode & !0o7777 == 0 } else { mode == 0 }
        && !(path_only && flags & !u64::from(WITH_PATH) != 0))
}

fn open_path(
    process: &'static Process,
    call: &Call,
    dirfd: RawFd,
    path: u64,
    flags: u32,
    mode: u32,
) -> Served {
    if let Some(fd) = call.tried() {
        // Not on a mount, and open already: only its number is left to be judged.
        return Ok(Reply::Value(process.check_limit(fd as RawFd)?.into()));
    }
    let flags = flags & KNOWN;
    let flags = if flags & sys::O_PATH == 0 { flags } else { flags & WITH_PATH };
    check_flags(flags)?;
    open_argument(process, call, &PathArgument::read(dirfd, path)?, Asked { flags, mode, resolve: 0 })
}

fn open_argument(process: &'static Process, call: &Call, argument: &PathArgument, asked: Asked) -> Served {
    let Asked { flags, mode, .. } = asked;
    if asked.magic().is_none()
        && asked.follow()
        && let Some(file) = crate::proc_links::proc_fd(process, &argument.text)
    {
        return Ok(Reply::Value(open_again(process, &file, flags)?.into()));
    }
    let makes = flags & (sys::O_CREAT | sys::O_TMPFILE & !sys::O_DIRECTORY) != 0;
    if let (false, Some(file)) = (makes, namei::directory_itself(process, argument)) {
        return Ok(Reply::Value(open_again(process, &file, flags)?.into()));
    }
    match argument
        .perform_with(process, asked.walk(argument), |spot| open_spot(process, spot, flags, mode))?
    {
        Performed::Served(fd) => Ok(Reply::Value(fd.into())),
        Performed::Native(path) => open_native(process, call, argument, path.as_deref(), asked),
    }
}

/// Opens what lies on a mount, and gives the program a number for it.
pub fn open_spot(process: &'static Process, spot: &Spot, flags: u32, mode: u32) -> Result<RawFd, Errno> {
    if spot.directory && flags & sys::O_CREAT != 0 {
        if !spot.dot {
            spot.check_parent()?;
            return Err(Errno::ISDIR);
        }
        spot.check_directory()?;
        return Err(if flags & sys::O_EXCL == 0 { Errno::ISDIR } else { Errno::EXIST });
    }
    if flags & sys::O_PATH != 0 && flags & sys::O_NOFOLLOW == 0 {
        attributes_at(spot, true)?;
    }
    spot.check_directory()?;
    read_only::check_open(process, spot, flags)?;
    let writes = flags & (sys::O_ACCMODE | sys::O_TRUNC) != 0 && flags & sys::O_PATH == 0;
    if writes && flags & (sys::O_CREAT | sys::O_EXCL) != sys::O_CREAT | sys::O_EXCL {
        running::check(process, spot)?;
    }
    let instance = spot.mount.instance()?;
    let mode =
        if instance.capabilities().contains(Capabilities::UMASK) { mode } else { process.masked(mode) };
    let open = |flags: u32| {
        open_handle(process, spot.mount, instance, flags, |flags| {
            spot.call(|instance, path| instance.open(path, flags, mode & 0o7777))
        })
    };
    let mapped = if flags & sys::O_TRUNC == 0 { None } else { maybe_mapped(process, spot) };
    let opened = match mapped {
        Some(key) => coherent::set_length(None, process, key, 0, || open(flags))?,
        None => open(flags)?,
    };
    let mut path = spot.path().as_bytes();
    if flags & sys::O_TMPFILE == sys::O_TMPFILE {
        path = b"/";
    }
    enter(process, spot.mount, instance, opened, path, flags)
}

/// The identity of what lies there, if files are mapped in the session: cutting it off concerns who maps it.
fn maybe_mapped(process: &Process, spot: &Spot) -> Option<Key> {
    if paging::generation(process) == 0 {
        return None;
    }
    let attributes = attributes_at(spot, true).ok()?;
    coherent::maybe_mapped(process, spot.mount.number, &attributes)
}

/// Opens a file that is open already once more, as `/proc/self/fd/N` does.
fn open_again(process: &'static Process, file: &OpenFile, flags: u32) -> Result<RawFd, Errno> {
    let path = file.path()?;
    let instance = file.instance()?;
    let flags = flags & !(sys::O_CREAT | sys::O_EXCL);
    let mount = &process.mounts[file.mount];
    if flags & (sys::O_ACCMODE | sys::O_TRUNC) != 0
        && flags & sys::O_PATH == 0
        && file.kind()? == sys::S_IFREG
    {
        read_only::check_file(process, file)?;
    }
    let open = || match open_handle(process, mount, instance, flags, |flags| {
        file.with_handle(|instance, handle| instance.reopen(handle, flags))
    }) {
        Err(Errno::NOSYS) => {
            let spot = Spot::new(mount, path.clone(), false)?;
            open_handle(process, mount, instance, flags, |flags| {
                spot.call(|instance, path| instance.open(path, flags, 0))
            })
        }
        other => other,
    };
    let truncates = flags & sys::O_TRUNC != 0 && flags & sys::O_PATH == 0;
    let opened = match if truncates { paging::key_of(file)? } else { None } {
        Some(key) => coherent::set_length(Some(file), process, key, 0, open)?,
        None => open()?,
    };
    let fd = enter(process, mount, instance, opened, &path, flags)?;
    if file.is_removed()
        && let Some(again) = process.files.get(fd)
    {
        working_directory::mark_removed(process, again.slot);
    }
    Ok(fd)
}

/// Whether the path, found to be without links, cannot lead to a directory that matters later: one above a mount
/// point, or one of FDs.
fn is_elsewhere(process: &Process, argument: &PathArgument) -> bool {
    let text = argument.text.as_slice();
    let plain = argument.is_absolute() && !text.ends_with(b"/") && !text.starts_with(b"/proc");
    plain
        && !text.windows(2).any(|pair| matches!(pair, b"//" | b"/."))
        && !process.table.is_above(text)
        && !namei::is_above_magic(text)
}

/// Opens what is not on a mount, unless a symbolic link leads there after all.
fn open_native(
    process: &'static Process,
    call: &Call,
    argument: &PathArgument,
    path: Option<&[u8]>,
    asked: Asked,
) -> Served {
    let Asked { flags, mode, resolve: asked_to } = asked;
    let mode =
        if flags & (sys::O_CREAT | sys::O_TMPFILE & !sys::O_DIRECTORY) == 0 { 0 } else { mode & 0o7777 };
    if let Some(path) = path
        && flags & sys::O_CREAT != 0
        && argument.last() != namei::Last::Name
    {
        namei::expect_directory(sys::AT_FDCWD, path)?;
        return Err(if flags & sys::O_EXCL == 0 { Errno::ISDIR } else { Errno::EXIST });
    }
    let (dirfd, text, resolve) = match path {
        Some(path) => (sys::AT_FDCWD, path, asked_to),
        None => (argument.dirfd, argument.text.as_slice(), asked_to | namei::NO_SYMLINKS),
    };
    let how = OpenHow { flags: flags.into(), mode: mode.into(), resolve };
    match namei::open_waiting(dirfd, text, &how) {
        Ok(fd) => {
            let fd = process.check_limit(fd)?;
            let no_directory = flags & sys::O_ACCMODE != sys::O_RDONLY;
            if (no_directory || is_elsewhere(process, argument)) && !interpose::in_vfork_child() {
                common::mark_foreign(process, fd);
            }
            Ok(Reply::Value(fd.into()))
        }
        Err(Errno::LOOP | Errno::INVAL | Errno::NOSYS | Errno::PERM) if path.is_none() => {
            // A link on the way, or a kernel or filter that wants the old call: find out where it leads, then let
            // the program make its own call.
            match argument.walk_with(process, asked.walk(argument)) {
                Ok(namei::Located::Served(spot)) => {
                    Ok(Reply::Value(open_spot(process, &spot, flags, mode)?.into()))
                }
                Ok(namei::Located::Native(Some(path))) => {
                    let how = OpenHow { flags: flags.into(), mode: mode.into(), resolve: asked_to };
                    let fd = namei::open_waiting(sys::AT_FDCWD, &path, &how)?;
                    Ok(Reply::Value(process.check_limit(fd)?.into()))
                }
                Ok(namei::Located::Native(None)) => by_kernel(process, call),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The program's own call.
pub fn by_kernel(process: &Process, call: &Call) -> Served {
    let result = native::interruptible(call.nr, call.args);
    Ok(Reply::Value(if result >= 0 { process.check_limit(result as RawFd)?.into() } else { result }))
}
