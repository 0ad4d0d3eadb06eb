//! Handles that are made again, in the next image or in any process that meets a shadow it has no handle for: from what the plugin's `save`
//! said in the slot, or by the path.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use plugin_abi::{Capabilities, Handle, Instance, Open, Saved};
use rustix::io::Errno;
use stash::{Holder, Slot, SlotId, StashError};

use crate::carried::KEPT_MAX;
use crate::file::{OpenFile, plugin_errno, stash_errno};
use crate::process::Process;
use crate::resolve::PATH_MAX;
use crate::serve::ending;
use crate::shadow::Form;
use crate::unclaimed::Claim;
use crate::{lending, lock_files, locked_inodes, native, private_fd, trace};

/// Bytes that a plugin's description of one handle is given first.
const BLOB_USUAL: usize = 256;
/// The most bytes of a plugin's description of one handle.
const BLOB_MAX: usize = 16 * 1024;
/// What stands before it: device and inode, [`Description::access`], number of kept descriptors, then their numbers.
const HEAD: usize = size_of::<[u64; 2]>() + 4 * (2 + KEPT_MAX);

/// What a plugin says of a handle, so that it can be made again.
#[derive(Default)]
pub struct Description {
    /// Device and inode number of the file; 0 where nobody asked.
    pub inode: [u64; 2],
    /// What the first descriptor is open for, as [`access_of`] says; 0 where nobody asked.
    pub access: u32,
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
        blob.extend_from_slice(&self.access.to_ne_bytes());
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
        let access = numbers.next()? as u32;
        let count = usize::try_from(numbers.next()?).ok().filter(|&count| count <= KEPT_MAX)?;
        Some(Self { inode, access, kept: numbers.take(count).collect(), described: described.to_vec() })
    }

    /// What the slot says now.
    fn read(shared: &Slot<'_>) -> Result<Self, StashError> {
        let length = shared.blob_len()?.ok_or(StashError::Absent("blob"))?;
        let mut buffer = vec![0; length];
        Self::of_blob(shared.blob(&mut buffer)?).ok_or(StashError::Corrupt("blob"))
    }

    /// What the slot says; `ENODATA` if nothing.
    fn of(shared: &Slot<'_>, me: Holder) -> Result<Self, Errno> {
        let said = Self::read(shared).or_else(|_| {
            // Perhaps another process that has the file, too, is just writing what it says of it.
            let _written = shared.lock(me)?;
            Self::read(shared)
        });
        said.map_err(|error| match error {
            StashError::Absent(_) => Errno::NODATA,
            error => stash_errno(error),
        })
    }
}

/// What `fd` is open for: its access mode, and whether it appends. 0 if it is closed.
pub fn access_of(fd: RawFd) -> u32 {
    let flags = native::raw_call(sys::__NR_fcntl, [fd as u64, sys::F_GETFL.into(), 0, 0, 0, 0]);
    u32::try_from(flags).map_or(0, |flags| flags & (sys::O_ACCMODE | sys::O_PATH | sys::O_APPEND))
}

/// A handle with descriptors of its own for a file that has those of another process, with which this one has its FD table in
/// common. That goes on with the old one.
pub fn renew(file: &OpenFile) -> Result<(), Errno> {
    let Description { described, kept, .. } = describe(file)?;
    let copies = private_fd::duplicate_all(&kept)?;
    match file.instance()?.restore(&described, &copies) {
        Ok(Open::Served { handle, .. }) => {
            file.handle.store(handle.into_raw(), Ordering::Release);
            Ok(())
        }
        other => {
            copies.into_iter().for_each(locked_inodes::close);
            Err(other.map_or_else(plugin_errno, |_| Errno::IO))
        }
    }
}

/// Writes the plugin's description of a handle into its slot. One that says the same stays, with the numbers of who wrote it: the next image
/// has its own in its list, and who was lent the file still needs the lender's.
pub fn save(file: &OpenFile) -> Result<Vec<RawFd>, Errno> {
    let description = describe(file)?;
    let shared = file.shared()?;
    let guard = shared.lock(file.holder()).map_err(stash_errno)?;
    let says_the_same =
        |old: Description| old.kept.len() == description.kept.len() && old.described == description.described;
    if !Description::read(&shared).is_ok_and(says_the_same) {
        guard.set_blob(&description.to_blob()).map_err(stash_errno)?;
    }
    Ok(description.kept)
}

/// The plugin's description of a handle.
pub fn describe(file: &OpenFile) -> Result<Description, Errno> {
    let mut described = vec![0; BLOB_USUAL];
    let mut kept = [-1; KEPT_MAX];
    let mut sizes = Saved::default();
    let mut save = |described: &mut Vec<u8>| {
        file.with_handle(|instance, handle| instance.save(handle, described, &mut kept, &mut sizes))
    };
    match save(&mut described) {
        Err(Errno::RANGE) => {
            described.resize(BLOB_MAX, 0);
            save(&mut described)?;
        }
        saved => saved?,
    }
    described.truncate(sizes.len);
    Ok(Description { inode: [0; 2], access: 0, kept: kept[..sizes.kept].to_vec(), described })
}

/// A handle of this process for the description in `slot`: from what its last holder saved, or else by its path.
pub fn restore(process: &'static Process, slot: SlotId, form: Form) -> Result<OpenFile, Errno> {
    let shared = process.arena.slot(slot).map_err(stash_errno)?;
    let instance = process.mount_of(&shared).ok_or(Errno::IO)?.instance()?;
    let open_flags = shared.user_words()[0].load(Ordering::Relaxed) as u32;
    ending::watch(instance);
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
            open_by_path(instance, &shared, process.holder(), open_flags)
                .or_else(|failed| lending::find(process, instance, &shared).map_err(|_| failed))?
        }
    };
    file_of(process, &shared, form, opened)
}

/// A handle for the description in `slot`, of a descriptor that its owner's plugin has, if that is all there is to a handle.
pub fn restore_from(process: &'static Process, slot: SlotId, fd: RawFd) -> Result<OpenFile, Errno> {
    let shared = process.arena.slot(slot).map_err(stash_errno)?;
    let instance = process.mount_of(&shared).ok_or(Errno::IO)?.instance()?;
    if !instance.capabilities().contains(Capabilities::BARE_FD) {
        return Err(Errno::OPNOTSUPP);
    }
    let private = private_fd::duplicate(fd)?;
    restore_of(process, slot, &[], &[private]).inspect_err(|_| locked_inodes::close(private))
}

/// A handle for the description in `slot`, of the plugin's description of another one for it and of the private descriptors `fds`, which are
/// the handle's if this succeeds.
pub fn restore_of(
    process: &'static Process,
    slot: SlotId,
    described: &[u8],
    fds: &[RawFd],
) -> Result<OpenFile, Errno> {
    let shared = process.arena.slot(slot).map_err(stash_errno)?;
    let instance = process.mount_of(&shared).ok_or(Errno::IO)?.instance()?;
    ending::watch(instance);
    let opened = instance.restore(described, fds).map_err(plugin_errno)?;
    file_of(process, &shared, Form::Shadow, opened)
}

/// The file of the description in `shared`, by a handle that the plugin has made again.
fn file_of(
    process: &'static Process,
    shared: &Slot<'_>,
    form: Form,
    opened: Open<Handle>,
) -> Result<OpenFile, Errno> {
    let Open::Served { handle, mode_type, .. } = opened else { return Err(Errno::IO) };
    let open_flags = shared.user_words()[0].load(Ordering::Relaxed) as u32;
    let kind = if mode_type == 0 { shared.kind().0 } else { mode_type };
    let file =
        OpenFile::new(process, shared.mount() as usize, handle.into_raw(), shared.id(), open_flags, kind);
    file.set_form(form);
    lock_files::attach(&file);
    Ok(file)
}

/// The file at the path in the slot, if that is still the same one.
fn open_by_path(
    instance: &Instance,
    shared: &Slot<'_>,
    me: Holder,
    open_flags: u32,
) -> Result<Open<Handle>, Errno> {
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
    let told = Description::of(shared, me).map_or([0; 2], |description| description.inode);
    let inode = if told == [0; 2] { inode_of(instance, shared) } else { told };
    // Another file may have the name now.
    only_of(instance, inode, opened)
}

/// Device and inode number of the file, which the kernel module was told; 0 on other mounts.
pub fn inode_of(instance: &Instance, shared: &Slot<'_>) -> [u64; 2] {
    // That of a plugin with files of the process's own has the process mixed in.
    let own = instance.capabilities().contains(Capabilities::PROCESS_LOCAL);
    if own { [0; 2] } else { shared.inode_key().into() }
}

/// What was opened, if it is this device and inode number or nobody has asked for these; else it is closed: `ESTALE`.
pub fn only_of(instance: &Instance, inode: [u64; 2], opened: Open<Handle>) -> Result<Open<Handle>, Errno> {
    let Open::Served { handle, .. } = &opened else { return Ok(opened) };
    if inode == [0; 2] || instance.fgetattr(handle).is_ok_and(|found| [found.st_dev, found.st_ino] == inode) {
        return Ok(opened);
    }
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
    let description = Description::of(&shared, process.holder())?;
    let claimed = Claim::of(process, slot, description.kept.len());
    let mut kept = match claimed {
        Ok(kept) => kept,
        Err(Errno::STALE) => return lending::borrow(process, instance, &shared, &description),
        Err(other) => return Err(other),
    };
    let opened = instance.restore(&description.described, &kept.fds).map_err(plugin_errno)?;
    kept.granted();
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use stash::{Arena, ArenaConfig};

    use super::*;

    /// Two children of a shell exec at once with the same open file: the one writes what it says of it, the other has just begun to read.
    #[test]
    fn what_is_said_of_a_file_is_never_missed_while_it_is_said_again() {
        let file = tempfile::tempfile().unwrap();
        let arena =
            Arena::create(file.as_fd(), &ArenaConfig { slots: 64, processes: 64, blocks: 64 }).unwrap();
        let me = arena.register_process().unwrap();
        let slot = arena.alloc_slot(me, &stash::Description::default()).unwrap();
        let said = Description { inode: [1, 2], access: 5, kept: vec![3], described: vec![7; 3000] };
        let say = |thread| {
            let guard = slot.lock(Holder::new(me, thread)).unwrap();
            guard.set_blob(&said.to_blob()).unwrap();
        };
        say(1);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    say(1);
                }
            });
            for _ in 0..10_000 {
                let heard = Description::of(&slot, Holder::new(me, 2)).map(|heard| heard.kept);
                if heard != Ok(vec![3]) {
                    done.store(true, Ordering::Relaxed);
                    panic!("{heard:?}");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
