//! Calls with two names: link and rename.

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use rustix::io::Errno;

use super::attributes::attributes_at;
use super::names::{exists_or, is_mount_point};
use super::paths::{self, At};
use super::pinned::{self, Pinned};
use super::{Reply, Served, beside, busy, read_only};
use crate::file::OpenFile;
use crate::namei::{self, Last, Located, PathArgument, Performed, Spot};
use crate::native;
use crate::paging::{self, LastName};
use crate::process::Process;
use crate::resolve::{PathBytes, Walk};

pub fn link(process: &'static Process, call: &Call) -> Served {
    make_hard_link(process, call, At::cwd(0, false), At { path: 1, ..At::name() })
}

pub fn linkat(process: &'static Process, call: &Call) -> Served {
    let flags = call.args[4] as u32;
    if flags & !(sys::AT_SYMLINK_FOLLOW | sys::AT_EMPTY_PATH) != 0 {
        return Ok(Reply::Pass);
    }
    let old = At::dir(flags & sys::AT_SYMLINK_FOLLOW != 0);
    let new = At { dirfd: Some(2), path: 3, ..At::name() };
    let itself = flags & sys::AT_EMPTY_PATH != 0 && super::attributes::is_empty_text(call.args[1])?;
    let by_fd = if itself {
        namei::open_at(process, call.args[0] as i32)
    } else if old.follow {
        crate::proc_links::proc_fd(process, &old.argument(call)?.text)
    } else {
        None
    };
    match by_fd {
        Some(file) => link_file(process, &file, &new.argument(call)?),
        None if itself => link_foreign(process, call, new),
        None => make_hard_link(process, call, old, new),
    }
}

/// Makes a name for an open file.
fn link_file(process: &'static Process, file: &OpenFile, new: &PathArgument) -> Served {
    let link = |spot: &Spot| {
        if spot.mount.number != file.mount || new.last() != Last::Name || spot.directory || spot.is_root() {
            return Err(Errno::XDEV);
        }
        let link = || file.with_handle(|instance, handle| instance.flink(handle, spot.path()));
        read_only::check_new(process, spot)?;
        paging::link(process, paging::key_of(file)?, Some(file), spot.path().as_bytes(), link)
    };
    let linked = match paths::locate_for_sure(process, new, Walk::name()) {
        Ok(Located::Served(spot)) => match link(&spot) {
            Err(Errno::LOOP) => match new.walk_with(process, Walk::name())? {
                Located::Served(spot) => link(&spot),
                Located::Native(_) => Err(Errno::XDEV),
            },
            done => done,
        },
        Ok(Located::Native(_)) => Err(Errno::XDEV),
        Err(error) => Err(error),
    };
    match linked {
        Err(Errno::XDEV) => Err(why_no_name(process, new)),
        done => done.map(|()| Reply::Value(0)),
    }
}

/// Makes a name for what the kernel has open at an FD.
fn link_foreign(process: &'static Process, call: &Call, new: At) -> Served {
    let argument = new.argument(call)?;
    let from = call.args[0] as std::os::fd::RawFd;
    if from != sys::AT_FDCWD {
        native::fstat(from)?;
    }
    let mut place = paths::locate_for_sure(process, &argument, Walk::name())?;
    if let Located::Served(spot) = &place
        && spot.check_parent() == Err(Errno::LOOP)
    {
        place = argument.walk_with(process, Walk::name())?;
    }
    match place {
        Located::Served(_) => Err(why_no_name(process, &argument)),
        Located::Native(Some(path)) => {
            let mut name = path;
            name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
            let [from, empty, _, _, flags, _] = call.args;
            let args = [from, empty, sys::AT_FDCWD as u64, name.as_ptr() as u64, flags, 0];
            Ok(Reply::Value(native::raw_call(call.nr, args)))
        }
        Located::Native(None) => match pinned::make(process, call, new, &argument)? {
            Pinned::Done(result) => Ok(Reply::Value(result)),
            Pinned::NotNeeded => paths::by_kernel(process, call),
            Pinned::Elsewhere => Err(why_no_name(process, &argument)),
        },
    }
}

fn make_hard_link(process: &'static Process, call: &Call, old: At, new: At) -> Served {
    if !old.follow && beside::done(process, call, old, new) {
        return super::DONE;
    }
    if both_arguments(process, call, old, new)?.1.last() != Last::Name {
        return match why_no_link(process, &old.argument(call)?, old.follow, &new.argument(call)?) {
            // Where both are the kernel's business, that comes before all else that it could say.
            None => Err(Errno::EXIST),
            Some(error) => Err(error),
        };
    }
    two_paths(process, call, old, new, |old, new| {
        if old.directory {
            attributes_at(old, true)?;
        }
        if new.is_root() {
            return Err(Errno::EXIST);
        }
        if new.directory {
            return Err(exists_or(new, Errno::NOENT));
        }
        read_only::check_new(process, new)?;
        let link = || old.call(|instance, path| instance.link(path, new.path()));
        let key = paging::identity_at(process, old);
        paging::link(process, key, None, new.path().as_bytes(), link).map_err(|error| {
            match new.check_parent() {
                // A directory cannot be linked; but where the new name is comes first.
                Err(Errno::LOOP) if error == Errno::PERM => Errno::LOOP,
                _ => error,
            }
        })
    })
}

pub fn rename(process: &'static Process, call: &Call) -> Served {
    change_name(process, call, At::name(), At { path: 1, ..At::name() }, 0)
}

pub fn renameat(process: &'static Process, call: &Call) -> Served {
    change_name(process, call, At::name_below(), At { dirfd: Some(2), path: 3, ..At::name() }, 0)
}

pub fn renameat2(process: &'static Process, call: &Call) -> Served {
    let new = At { dirfd: Some(2), path: 3, ..At::name() };
    change_name(process, call, At::name_below(), new, call.args[4] as u32)
}

fn change_name(process: &'static Process, call: &Call, old: At, new: At, flags: u32) -> Served {
    const KNOWN: u32 = sys::RENAME_NOREPLACE | sys::RENAME_EXCHANGE | sys::RENAME_WHITEOUT;
    let exchanges = flags & sys::RENAME_EXCHANGE != 0;
    if flags & !KNOWN != 0 || exchanges && flags & (sys::RENAME_NOREPLACE | sys::RENAME_WHITEOUT) != 0 {
        return Err(Errno::INVAL);
    }
    if beside::done(process, call, old, new) {
        return super::DONE;
    }
    let (old_argument, new_argument) = both_arguments(process, call, old, new)?;
    if old_argument.last() != Last::Name || new_argument.last() != Last::Name {
        let (from, to) = (parent(process, &old_argument)?, parent(process, &new_argument)?);
        return Err(match (from, to) {
            (None, None) => return unnamed(process, call, (old, &old_argument), (new, &new_argument)),
            _ if from != to => Errno::XDEV,
            _ if old_argument.last() != Last::Name || flags & sys::RENAME_NOREPLACE == 0 => Errno::BUSY,
            _ => Errno::EXIST,
        });
    }
    two_paths(process, call, old, new, |old, new| {
        if old.is_root() != new.is_root() {
            return Err(Errno::XDEV); // The name of the one is outside.
        }
        if old.is_root() && flags == 0 {
            return Ok(()); // Both are, and nothing changes.
        }
        if !old.is_root() {
            // Both are on this mount; what is wrong with the way to the other comes from `two_paths`.
            read_only::check_name(process, old)?;
        }
        if old.is_root() || is_mount_point(process, old) || is_mount_point(process, new) {
            return Err(Errno::BUSY);
        }
        if old.directory || new.directory {
            check_slashes(process, old, new, flags)?;
        }
        let exchanged = flags & sys::RENAME_EXCHANGE != 0;
        let replaced = if exchanged { None } else { LastName::of(process, new) };
        let moved = if replaced.is_some() { paging::identity_at(process, old) } else { None };
        old.call(|instance, path| instance.rename(path, new.path(), flags))?;
        if let Some(last) = replaced.filter(|last| !last.is_of(moved)) {
            last.forget();
        }
        process.renamed(old.mount.number, old.path().as_bytes(), new.path().as_bytes(), flags);
        Ok(())
    })
}

/// A rename of the kernel's, with a path that ends in no name: it has its own reasons. What a path leads to is told in words that it understands.
fn unnamed(
    process: &'static Process,
    call: &Call,
    old: (At, &PathArgument),
    new: (At, &PathArgument),
) -> Served {
    let mut rewritten = Call::new(call.nr, call.args);
    let mut paths = [PathBytes::new(), PathBytes::new()];
    for ((at, argument), path) in [old, new].into_iter().zip(&mut paths) {
        let parent = argument.parent();
        let directory = PathArgument { dirfd: argument.dirfd, text: parent.clone() };
        if let Located::Native(Some(found)) = directory.walk(process, true)? {
            *path = found;
            path.try_push(b'/').map_err(|_| Errno::NAMETOOLONG)?;
            let last = argument.text.strip_prefix(parent.as_slice()).unwrap_or(&argument.text);
            path.try_extend_from_slice(last).map_err(|_| Errno::NAMETOOLONG)?;
            put(&mut rewritten, at, path, false)?;
        }
    }
    if rewritten.args == call.args { Ok(Reply::Pass) } else { Ok(Reply::Value(native::call(&rewritten))) }
}

/// A slash at the end is for directories only. What the kernel looks at before comes first here too.
fn check_slashes(process: &Process, old: &Spot, new: &Spot, flags: u32) -> Result<(), Errno> {
    let kind = |spot: &Spot| spot.call(Instance::getattr).map(|attributes| attributes.st_mode & sys::S_IFMT);
    let exchange = flags & sys::RENAME_EXCHANGE != 0;
    let (from, to) = (kind(old), kind(new));
    // It is elsewhere that both are to be looked for.
    if to == Err(Errno::LOOP) {
        return Err(Errno::LOOP);
    }
    let from = from?;
    match to {
        Ok(_) if flags & sys::RENAME_NOREPLACE != 0 => return Err(Errno::EXIST),
        Err(error) if exchange => return Err(error),
        Ok(kind) if exchange && new.directory && kind != sys::S_IFDIR => return Err(Errno::NOTDIR),
        _ => {}
    }
    let demanded = old.directory || new.directory && !exchange;
    if !demanded || from == sys::S_IFDIR || is_above(new, old) && minds_ancestors_first(process) {
        return Ok(());
    }
    Err(Errno::NOTDIR)
}

/// Whether `old` lies somewhere in the directory `new`, which it can then not take the place of.
fn is_above(new: &Spot, old: &Spot) -> bool {
    old.path().as_bytes().strip_prefix(new.path().as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Whether this kernel (7.x; 6.18 does not) says that a file cannot take the place of a directory that it lies in before it says that
/// a name with a slash is none for a file. Asks it about two names of which neither answer changes anything.
fn minds_ancestors_first(process: &Process) -> bool {
    let file = [&process.folder, b"/arena\0".as_slice()].concat();
    let folder = [&process.folder, b"/\0".as_slice()].concat();
    let args = [file.as_ptr() as u64, folder.as_ptr() as u64, 0, 0, 0, 0];
    native::checked(sys::__NR_rename, args) == Err(Errno::NOTEMPTY)
}

fn is_link(call: &Call) -> bool {
    matches!(call.nr, sys::__NR_link | sys::__NR_linkat)
}

/// Both paths of a call. If the second cannot be read, what is wrong with the first comes before that.
fn both_arguments(
    process: &'static Process,
    call: &Call,
    old: At,
    new: At,
) -> Result<(PathArgument, PathArgument), Errno> {
    let first = old.argument(call)?;
    let second = new.argument(call).map_err(|error| {
        let found =
            if is_link(call) { lookup(process, &first, old.follow, false) } else { parent(process, &first) };
        found.err().unwrap_or(error)
    })?;
    Ok((first, second))
}

/// Serves a call with two paths. Of several errors it is the one that the kernel meets first.
fn two_paths(
    process: &'static Process,
    call: &Call,
    old: At,
    new: At,
    operation: impl FnMut(&Spot, &Spot) -> Result<(), Errno>,
) -> Served {
    let (first, second) = both_arguments(process, call, old, new)?;
    located_pair(process, call, [old, new], (first.clone(), second.clone()), operation).map_err(|error| {
        let earlier = if is_link(call) {
            why_no_link(process, &first, old.follow, &second).or_else(|| Some(why_no_name(process, &second)))
        } else {
            parent(process, &first).and_then(|_| parent(process, &second)).err()
        };
        earlier.filter(|&earlier| earlier != Errno::XDEV).unwrap_or(error)
    })
}

/// Serves a call with two paths; from one mount to another, or between a mount and the rest, is `EXDEV`, once
/// everything is there that the kernel looks at before.
fn located_pair(
    process: &'static Process,
    call: &Call,
    [old, new]: [At; 2],
    (mut old_argument, mut new_argument): (PathArgument, PathArgument),
    mut operation: impl FnMut(&Spot, &Spot) -> Result<(), Errno>,
) -> Served {
    let links = is_link(call);
    let slashes = [&old_argument, &new_argument].map(|path| path.text.ends_with(b"/"));
    // A slash at the end demands a directory; but only through the link that is to be linked does it lead.
    new_argument.text = new_argument.without_slashes();
    if !links {
        old_argument.text = old_argument.without_slashes();
    }
    let follow = old.follow || links && slashes[0];
    let mut operation = |mut from: Spot, mut to: Spot| {
        from.directory |= slashes[0];
        to.directory |= slashes[1];
        if old.follow {
            attributes_at(&from, true)?;
        }
        operation(&from, &to)
    };
    let beside = || {
        !follow && old_argument.dirfd == new_argument.dirfd && old_argument.parent() == new_argument.parent()
    };
    let (first, second) = match old_argument.locate(process)? {
        // One directory is asked about once.
        Located::Native(None) if beside() && !paths::parent_may_meet_link(&old_argument) => {
            (Located::Native(None), new_argument.locate(process)?)
        }
        Located::Native(None) => {
            let first = paths::settle(process, &old_argument, Walk::plain(follow))?;
            (first, paths::locate_for_sure(process, &new_argument, Walk::name())?)
        }
        known => (known, paths::locate_for_sure(process, &new_argument, Walk::name())?),
    };
    match (first, second) {
        (Located::Native(from), Located::Native(to)) => {
            return native_pair(process, call, [old, new], [from, to], slashes);
        }
        (Located::Served(from), Located::Served(to)) if from.mount.number == to.mount.number => {
            match operation(from, to) {
                Err(Errno::LOOP) => {}
                done => return done.map(|()| Reply::Value(0)),
            }
        }
        // By their text; a link may lead the one to where the other is.
        _ => {}
    }
    let from = old_argument.walk(process, follow)?;
    let to = new_argument.walk_with(process, Walk::name())?;
    match (from, to) {
        (Located::Served(from), Located::Served(to)) if from.mount.number == to.mount.number => {
            operation(from, to).map(|()| Reply::Value(0))
        }
        (Located::Native(from), Located::Native(to)) => {
            native_pair(process, call, [old, new], [from, to], slashes)
        }
        (Located::Served(from), Located::Native(to)) if !links && from.is_root() => {
            Err(busy::renamed(process, &from, (&new_argument, to.as_ref()), call))
        }
        (Located::Native(from), Located::Served(to)) if !links && to.is_root() => {
            Err(busy::replaced(process, &to, (&old_argument, from.as_ref()), call))
        }
        (Located::Served(from), Located::Served(to)) if !links && (from.is_root() || to.is_root()) => {
            Err(busy::among_mounts(process, &from, (&new_argument, &to), call))
        }
        _ => Err(Errno::XDEV),
    }
}

/// Which mount the directory is on that the last component is looked up in; an error if there is no such directory.
fn parent(process: &'static Process, argument: &PathArgument) -> Result<Option<usize>, Errno> {
    if argument.text.is_empty() {
        return Err(Errno::NOENT);
    }
    let parent = PathArgument { dirfd: argument.dirfd, text: argument.parent() };
    lookup(process, &parent, true, true)
}

/// Why there can be no link, in the order in which the kernel looks: what is to be linked must be there, and the new name not. None if
/// both are the kernel's.
fn why_no_link(
    process: &'static Process,
    old: &PathArgument,
    follow: bool,
    new: &PathArgument,
) -> Option<Errno> {
    let why = || {
        let from = lookup(process, old, follow, false)?;
        let to = parent(process, new)?;
        if from.is_none() && to.is_none() { Ok(None) } else { Err(why_no_name(process, new)) }
    };
    why().unwrap_or_else(Some)
}

/// Why no name can be made there for what is on another mount.
fn why_no_name(process: &'static Process, new: &PathArgument) -> Errno {
    let why = || {
        parent(process, new)?;
        if new.last() != Last::Name {
            return Err(Errno::EXIST);
        }
        let name = PathArgument { dirfd: new.dirfd, text: new.without_slashes() };
        match lookup(process, &name, false, false) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) if name.text.len() == new.text.len() => Ok(()),
            Err(error) => Err(error),
        }
    };
    why().err().unwrap_or(Errno::XDEV)
}

/// Finds what must be there, perhaps as a directory; says which mount it is on.
fn lookup(
    process: &'static Process,
    argument: &PathArgument,
    follow: bool,
    directory: bool,
) -> Result<Option<usize>, Errno> {
    let on_mount = |spot: &Spot| {
        let kind = attributes_at(spot, follow)?.st_mode & sys::S_IFMT;
        if directory && kind != sys::S_IFDIR { Err(Errno::NOTDIR) } else { Ok(Some(spot.mount.number)) }
    };
    let elsewhere = |dirfd, text: &[u8]| {
        let found = native::stat_path(dirfd, text, follow)?;
        let unfit = directory && found.st_mode & sys::S_IFMT != sys::S_IFDIR;
        if unfit { Err(Errno::NOTDIR) } else { Ok(None) }
    };
    match argument.perform(process, follow, on_mount)? {
        Performed::Served(mount) => Ok(mount),
        Performed::Native(Some(path)) => elsewhere(sys::AT_FDCWD, &path),
        Performed::Native(None) => match paths::settle(process, argument, Walk::plain(follow))? {
            Located::Served(spot) => on_mount(&spot),
            Located::Native(Some(path)) => elsewhere(sys::AT_FDCWD, &path),
            Located::Native(None) => elsewhere(argument.dirfd, &argument.text),
        },
    }
}

/// The kernel's call, with the paths that it would not find by the program's words.
fn native_pair(
    process: &'static Process,
    call: &Call,
    [old, new]: [At; 2],
    [mut from, to]: [Option<PathBytes>; 2],
    slashes: [bool; 2],
) -> Served {
    let mut rewritten = Call::new(call.nr, call.args);
    if let Some(from) = &mut from {
        put(&mut rewritten, old, from, slashes[0])?;
    }
    if let Some(mut to) = to {
        put(&mut rewritten, new, &mut to, slashes[1])?;
        return Ok(Reply::Value(native::call(&rewritten)));
    }
    let argument = new.argument(call)?;
    let made = pinned::make(process, &rewritten, new, &argument)?;
    if let Pinned::Done(result) = made {
        return Ok(Reply::Value(result));
    }
    if let Pinned::Elsewhere = made {
        return match argument.walk_with(process, new.walk())? {
            Located::Native(None) => {
                pinned::make_through_links(process, &rewritten, new, &argument).map(Reply::Value)
            }
            Located::Native(Some(mut to)) => {
                put(&mut rewritten, new, &mut to, slashes[1])?;
                Ok(Reply::Value(native::call(&rewritten)))
            }
            Located::Served(_) => Err(Errno::XDEV),
        };
    }
    if from.is_none() { paths::by_kernel(process, call) } else { Ok(Reply::Value(native::call(&rewritten))) }
}

/// Has `path`, with a slash at its end if the program's has one, in the place of the program's path at `at`.
fn put(call: &mut Call, at: At, path: &mut PathBytes, slash: bool) -> Result<(), Errno> {
    let end: &[u8] = if slash && !path.ends_with(b"/") { b"/\0" } else { b"\0" };
    path.try_extend_from_slice(end).map_err(|_| Errno::NAMETOOLONG)?;
    call.args[at.path] = path.as_ptr() as u64;
    if let Some(position) = at.dirfd {
        call.args[position] = sys::AT_FDCWD as u64;
    }
    Ok(())
}
