//! Open files through exec, and to any process that meets a shadow it has no handle for.
//!
//! What goes through exec as it stands is only listed (see `carried`). For the rest the plugin's `save` describes each handle
//! that the next image may inherit; the description goes into the slot. Private descriptors that the plugin wants to keep go through exec open, and the arena's exec map lists
//! them, so that the next image can close those whose file it did not inherit.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use fdtable::Ref;
use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Handle, Instance, Open, Saved};
use rustix::io::Errno;
use stash::{ExecEntry, ExecToken, ProcessId, Slot, SlotId};

use crate::carried::{self, Mark};
use crate::file::{OpenFile, plugin_errno, stash_errno};
use crate::process::Process;
use crate::resolve::PATH_MAX;
use crate::shadow::{self, Form};
use crate::sync::{Guard, Lock};
use crate::{lending, lock_files, native, private_fd, trace, working_directory};

/// Descriptors that one handle may keep.
const KEPT_MAX: usize = 8;
/// Bytes of a plugin's description of one handle.
const BLOB_MAX: usize = 16 * 1024;
/// What stands before it: device and inode, number of kept descriptors, then their numbers.
const HEAD: usize = size_of::<[u64; 2]>() + 4 * (1 + KEPT_MAX);

/// What goes through exec: the list in the arena, and the descriptors that exec must not close.
#[derive(Default)]
pub struct Prepared {
    /// Names the list for the next image; `None` if nothing is kept.
    pub token: Option<ExecToken>,
    kept: Vec<RawFd>,
    _together: Option<Guard<'static, ()>>,
}

impl Prepared {
    /// exec failed: this image goes on as before.
    pub fn undo(self, process: &Process) {
        for fd in self.kept {
            set_cloexec(fd, true);
        }
        if let Some(token) = self.token {
            let _ = process.arena.drop_exec_map(token.process());
            if token.process() != process.me() {
                // A vfork child's, for an image that there will not be.
                let _ = process.arena.unregister_process(token.process());
            }
        }
    }
}

/// The descriptor of the arena, left open through exec if the next image could not open it: this process is not who it was
/// when it joined the session.
pub fn carry_arena(process: &Process) -> Option<RawFd> {
    let effective = native::raw_call(sys::__NR_geteuid, [0; 6]);
    if effective == i64::from(process.owner) || effective == 0 {
        return None;
    }
    set_cloexec(process.arena_fd, false);
    Some(process.arena_fd)
}

/// exec failed: the descriptor of the arena stays with this image.
pub fn keep_arena(process: &Process) {
    set_cloexec(process.arena_fd, true);
}

/// Hands the files to the next image. `intercepted` says that this will surely run with us; then placeholders and adopted
/// descriptors go through as they stand, and the arena's exec map tells which is which. Otherwise, and in a vfork child, every
/// file is a shadow.
pub fn prepare_exec(process: &'static Process, intercepted: bool) -> Result<Prepared, Errno> {
    if interpose::in_vfork_child() {
        return prepare_in_vfork_child(process);
    }
    let cwd = working_directory::for_exec(process);
    if process.files.is_empty() && process.carried.is_empty() && cwd.is_none() && lock_files::is_unused() {
        return Ok(Prepared::default());
    }
    if !intercepted {
        shadow::separate_all(process)?;
    }
    // Until the exec is through, or has failed, no other thread opens or closes anything.
    let together = process.descriptors.lock();
    let mut list = Vec::new();
    let mut kept = Vec::new();
    let mut saved: Vec<SlotId> = Vec::new();
    let mut result = Ok(());
    process.files.for_each(|fd, file, cloexec| {
        let more = Ref::fds(file) > 1;
        let mut first = || {
            let first = !more || !saved.contains(&file.slot);
            if more && first {
                saved.push(file.slot);
            }
            first
        };
        let form = file.form();
        match form {
            _ if cloexec => {
                if !more && form != Form::Shadow {
                    carried::append(&mut list, Mark::Closed.entry(fd, file.slot, false));
                }
            }
            Form::Backing(_) if is_bare(file) => {
                let more = more || lock_files::concern(file);
                carried::append(&mut list, Mark::Adopted.entry(fd, file.slot, more));
            }
            Form::Backing(_) => {
                result = result.and_then(|()| shadow::separate(process, file));
                keep(file, Mark::Kept, &mut list, &mut kept);
            }
            Form::Placeholder => {
                let mut more = more || lock_files::concern(file);
                if !process.mounts[file.mount].saves_nothing.load(Ordering::Relaxed) && first() {
                    more |= keep(file, Mark::Kept, &mut list, &mut kept);
                }
                carried::append(&mut list, Mark::Placeholder.entry(fd, file.slot, more));
            }
            Form::Shadow => {
                if first() {
                    keep(file, Mark::Kept, &mut list, &mut kept);
                }
            }
        }
    });
    result?;
    if let Some((held, entry)) = cwd {
        kept.push(entry.fd as RawFd);
        list.push(entry);
        if let Some(file) = held.file() {
            keep(&file, Mark::Kept, &mut list, &mut kept);
        }
    }
    lock_files::for_exec(process, &mut list, &mut kept);
    process.carried.hand_on(&mut list);
    list.extend(unclaimed());
    leave(process, process.me(), list, kept, Some(together))
}

/// Readies the files for an image that will not be in this session: to it they are shadows that it knows nothing of.
pub fn prepare_to_leave(process: &'static Process) -> Result<Prepared, Errno> {
    if !interpose::in_vfork_child() {
        shadow::separate_all(process)?;
    }
    Ok(Prepared::default())
}

/// As [`prepare_exec`], for the files of the suspended parent, which all are shadows: any may be inherited.
fn prepare_in_vfork_child(process: &'static Process) -> Result<Prepared, Errno> {
    let (mut list, mut kept) = (Vec::new(), Vec::new());
    let mut saved: Vec<SlotId> = Vec::new();
    process.files.for_each(|_, file, _| {
        if Ref::fds(file) == 1 || !saved.contains(&file.slot) {
            saved.push(file.slot);
            keep(file, Mark::KeptPerhaps, &mut list, &mut kept);
        }
    });
    if let Some((held, entry)) = working_directory::for_exec(process) {
        kept.push(entry.fd as RawFd);
        list.push(entry);
        if let Some(file) = held.file() {
            keep(&file, Mark::KeptPerhaps, &mut list, &mut kept);
        }
    }
    lock_files::for_exec(process, &mut list, &mut kept);
    process.carried.hand_on_perhaps(&mut list);
    list.extend(unclaimed());
    if list.is_empty() {
        return Ok(Prepared::default());
    }
    let me = process.arena.register_process().map_err(stash_errno)?;
    leave(process, me, list, kept, None)
}

/// Leaves the list for the next image, and the descriptors that are kept open.
fn leave(
    process: &'static Process,
    me: ProcessId,
    list: Vec<ExecEntry>,
    kept: Vec<RawFd>,
    together: Option<Guard<'static, ()>>,
) -> Result<Prepared, Errno> {
    let token =
        if list.is_empty() { None } else { Some(process.arena.put_exec_map(me, list).map_err(stash_errno)?) };
    for &fd in &kept {
        set_cloexec(fd, false);
    }
    Ok(Prepared { token, kept, _together: together })
}

/// Whether the plugin's descriptor is all there is to the handle.
fn is_bare(file: &OpenFile) -> bool {
    file.instance().is_ok_and(|instance| instance.capabilities().contains(Capabilities::BARE_FD))
}

/// Lets the plugin describe the handle, and lists the descriptors that it wants to keep. Says whether there are any.
fn keep(file: &OpenFile, mark: Mark, list: &mut Vec<ExecEntry>, kept: &mut Vec<RawFd>) -> bool {
    match save(file) {
        Ok(fds) => {
            list.extend(fds.iter().map(|&fd| mark.entry(fd, file.slot, false)));
            kept.extend(&fds);
            !fds.is_empty()
        }
        // The next image opens it again by its path.
        Err(error) => {
            if error == Errno::NOSYS {
                file.mount().saves_nothing.store(true, Ordering::Relaxed);
            }
            trace::debug(format_args!("a file cannot be saved for exec: {error}"));
            false
        }
    }
}

/// What a plugin says of a handle, so that it can be made again.
#[derive(Default)]
pub struct Description {
    /// Device and inode number of the file; 0 where nobody asked.
    pub inode: [u64; 2],
    /// The descriptors that the new handle is to have.
    pub kept: Vec<RawFd>,
    /// The plugin's own words.
    pub described: Vec<u8>,
}

impl Description {
    /// As it stands in a slot.
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = Vec::with_capacity(HEAD + self.described.len());
        self.inode.iter().for_each(|part| blob.extend_from_slice(&part.to_ne_bytes()));
        blob.extend_from_slice(&(self.kept.len() as u32).to_ne_bytes());
        let unused = std::iter::repeat(&-1);
        self.kept
            .iter()
            .chain(unused)
            .take(KEPT_MAX)
            .for_each(|fd| blob.extend_from_slice(&fd.to_ne_bytes()));
        blob.extend_from_slice(&self.described);
        blob
    }

    fn of_blob(blob: &[u8]) -> Option<Self> {
        let (head, described) = blob.split_at_checked(HEAD)?;
        let (inode, numbers) = head.split_at(size_of::<[u64; 2]>());
        let inode = [0, 8].map(|at| u64::from_ne_bytes(inode[at..at + 8].try_into().unwrap_or_default()));
        let mut numbers =
            numbers.chunks_exact(4).map(|number| number.try_into().map_or(-1, i32::from_ne_bytes));
        let count = usize::try_from(numbers.next()?).ok().filter(|&count| count <= KEPT_MAX)?;
        Some(Self { inode, kept: numbers.take(count).collect(), described: described.to_vec() })
    }

    /// What the slot says.
    fn of(shared: &Slot<'_>) -> Result<Self, Errno> {
        let length = shared.blob_len().map_err(stash_errno)?.ok_or(Errno::NODATA)?;
        let mut buffer = vec![0; length];
        let blob = shared.blob(&mut buffer).map_err(stash_errno)?;
        Self::of_blob(blob).ok_or(Errno::IO)
    }
}

/// A handle with descriptors of its own for a file that has those of another process, with which this one has its FD table in
/// common. That goes on with the old one.
pub fn renew(file: &OpenFile) -> Result<(), Errno> {
    let Description { described, kept, .. } = describe(file)?;
    let mut copies = Vec::new();
    for fd in kept {
        copies.push(private_fd::duplicate(fd)?);
    }
    let opened = file.instance()?.restore(&described, &copies).map_err(plugin_errno)?;
    let Open::Served { handle, .. } = opened else { return Err(Errno::IO) };
    file.handle.store(handle.into_raw(), Ordering::Release);
    Ok(())
}

/// Writes the plugin's description of a handle into its slot.
fn save(file: &OpenFile) -> Result<Vec<RawFd>, Errno> {
    let description = describe(file)?;
    let shared = file.shared()?;
    let guard = shared.lock(file.holder()).map_err(stash_errno)?;
    guard.set_blob(&description.to_blob()).map_err(stash_errno)?;
    Ok(description.kept)
}

/// The plugin's description of a handle.
pub fn describe(file: &OpenFile) -> Result<Description, Errno> {
    let mut described = vec![0; BLOB_MAX];
    let mut kept = [-1; KEPT_MAX];
    let mut sizes = Saved::default();
    file.with_handle(|instance, handle| instance.save(handle, &mut described, &mut kept, &mut sizes))?;
    described.truncate(sizes.len);
    Ok(Description { inode: [0; 2], kept: kept[..sizes.kept].to_vec(), described })
}

/// A vfork child has opened a file: its memory is the parent's, so all that stays is the shadow FD. Whoever touches that
/// opens the file again by its path.
pub fn leave_behind(process: &'static Process, file: OpenFile) -> Result<(), Errno> {
    process.arena.slot(file.slot).and_then(|slot| slot.mark_shared()).map_err(stash_errno)?;
    drop(file);
    Ok(())
}

/// A handle of this process for the description in `slot`: from what its last holder saved, or else by its path.
pub fn restore(process: &'static Process, slot: SlotId, form: Form) -> Result<OpenFile, Errno> {
    let shared = process.arena.slot(slot).map_err(stash_errno)?;
    let mount = shared.mount() as usize;
    let instance = process.mounts.get(mount).ok_or(Errno::IO)?.instance()?;
    let open_flags = shared.user_words()[0].load(Ordering::Relaxed) as u32;
    let restored = match form {
        Form::Backing(fd) => Ok(instance.restore(&[], &[fd]).map_err(plugin_errno)?),
        Form::Placeholder | Form::Shadow => restore_saved(process, instance, slot),
    };
    let opened = match restored {
        Ok(opened) => opened,
        Err(error) => {
            trace::debug(format_args!(
                "{slot:?} is opened by its path, since it cannot be restored: {error}"
            ));
            open_by_path(instance, &shared, open_flags)?
        }
    };
    match opened {
        Open::Served { handle, mode_type, .. } => {
            let kind = if mode_type == 0 { shared.kind().0 } else { mode_type };
            let file = OpenFile::new(process, mount, handle.into_raw(), slot, open_flags, kind);
            file.set_form(form);
            lock_files::attach(&file);
            Ok(file)
        }
        Open::Native { .. } => Err(Errno::IO),
    }
}

/// The file at the path in the slot, if that is still the same one.
fn open_by_path(instance: &Instance, shared: &Slot<'_>, open_flags: u32) -> Result<Open<Handle>, Errno> {
    let mut buffer = [0; PATH_MAX + 1];
    let length = shared.path(&mut buffer[..PATH_MAX]).map_err(stash_errno)?.len();
    buffer[length] = 0;
    let path = std::ffi::CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::IO)?;
    let path = plugin_abi::MountPath::new(path).ok_or(Errno::IO)?;
    if open_flags & sys::O_TMPFILE == sys::O_TMPFILE {
        // The path is the directory's, and would make another file.
        return Err(Errno::STALE);
    }
    let once = sys::O_CREAT | sys::O_EXCL | sys::O_TRUNC;
    let opened = instance.open(path, (open_flags & !once) as i32, 0).map_err(plugin_errno)?;
    let inode = Description::of(shared).map_or([0; 2], |description| description.inode);
    let Open::Served { handle, .. } = &opened else { return Ok(opened) };
    if inode == [0; 2] || instance.fgetattr(handle).is_ok_and(|found| [found.st_dev, found.st_ino] == inode) {
        return Ok(opened);
    }
    // Another file has the name now.
    if let Open::Served { handle, .. } = opened {
        let _ = instance.close(handle);
    }
    Err(Errno::STALE)
}

fn restore_saved(
    process: &'static Process,
    instance: &Instance,
    slot: SlotId,
) -> Result<Open<Handle>, Errno> {
    let shared = process.arena.slot(slot).map_err(stash_errno)?;
    let description = Description::of(&shared)?;
    let claimed = Claim::of(process, &description.kept, slot);
    let mut kept = match claimed {
        Ok(kept) => kept,
        Err(Errno::STALE) => return lending::borrow(process, instance, &shared, &description),
        Err(other) => return Err(other),
    };
    let opened = instance.restore(&description.described, &kept.fds).map_err(plugin_errno)?;
    kept.granted();
    Ok(opened)
}

/// Kept descriptors that came through exec and that no handle of this image has taken yet. The numbers in a slot are those
/// of whoever saved it: in any other process they mean something else, even if by chance the same file.
static UNCLAIMED: Lock<Vec<(RawFd, SlotId)>> = Lock::new(Vec::new());

/// Before a fork, and after it on both sides: no child may inherit the list held.
pub fn before_fork() {
    UNCLAIMED.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    UNCLAIMED.release();
}

/// `fd` came through exec for the file in `slot`.
pub fn came_through(fd: RawFd, slot: SlotId) {
    private_fd::adopt(fd);
    UNCLAIMED.lock().push((fd, slot));
}

/// What the next image is to know of those that nobody has claimed.
fn unclaimed() -> Vec<ExecEntry> {
    UNCLAIMED.lock().iter().map(|&(fd, slot)| Mark::KeptPerhaps.entry(fd, slot, false)).collect()
}

/// Kept descriptors on their way to a handle.
struct Claim {
    fds: Vec<RawFd>,
    slot: SlotId,
}

impl Claim {
    fn of(process: &Process, fds: &[RawFd], slot: SlotId) -> Result<Self, Errno> {
        // A vfork child's handle lives for one call, and its parent will want them.
        let duplicated = interpose::in_vfork_child();
        let mut claim = Self { fds: Vec::new(), slot };
        for &fd in fds {
            let kept = |entry: &ExecEntry| Mark::of(entry) == Mark::Kept && entry.slot == slot;
            if process.carried.take(fd, kept).is_some() {
                came_through(fd, slot);
            }
            let position = UNCLAIMED.lock().iter().position(|known| *known == (fd, slot));
            let Some(position) = position else { return Err(Errno::STALE) };
            if duplicated {
                claim.fds.push(private_fd::duplicate(fd)?);
            } else {
                UNCLAIMED.lock().swap_remove(position);
                claim.fds.push(fd);
                set_cloexec(fd, true);
            }
        }
        Ok(claim)
    }

    /// The descriptors are a handle's now.
    fn granted(&mut self) {
        self.fds.clear();
    }
}

impl Drop for Claim {
    /// They went to no handle.
    fn drop(&mut self) {
        for &fd in &self.fds {
            if interpose::in_vfork_child() {
                private_fd::close(fd);
            } else {
                UNCLAIMED.lock().push((fd, self.slot));
            }
        }
    }
}

fn set_cloexec(fd: RawFd, cloexec: bool) {
    let flags = u64::from(if cloexec { sys::FD_CLOEXEC } else { 0 });
    native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETFD), flags, 0, 0, 0]);
}
