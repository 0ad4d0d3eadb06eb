//! Shadows that the kernel module makes, for mounts of type `defuse`.
//!
//! One ioctl on the mount opens a shadow, whatever the depth of the path. It is named by a *token*, which is the number of the slot, mixed with
//! the session's so that sessions of one user do not meet. `DEFUSE_IOC_IDENT` answers with the token on any FD, and
//! `DEFUSE_IOC_LIVE` tells whether a description is still open anywhere. The key under which all shadows of one
//! file share locks and leases is the device and inode number that the plugin's `fgetattr` tells.
//!
//! The private descriptor of the mount's root that the ioctls go to is opened at the first use and stays as long as the process.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::{Slot, SlotId};

use super::module_abi::{self as abi, Ident, Live, Open};
use super::{Form, KIND, LENDER, OPENER, ShadowProvider};
use crate::file::{OpenFile, stash_errno};
use crate::mount::Mount;
use crate::process::Process;
use crate::{native, private_fd};

/// Status flags that the kernel's description has, too, for who is not intercepted.
const SHOWN: u32 = sys::O_APPEND | sys::O_NONBLOCK;

/// What to do while somebody's lease on the file is being broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Say `AGAIN`.
    Never,
    /// Wait, until the program is to handle a signal.
    UntilSignal,
}

/// A mount of type `defuse`.
#[derive(Debug)]
pub struct Module {
    /// A private descriptor of its root; -1 until the first use.
    root: AtomicI32,
}

impl Module {
    /// A mount that has not been used yet.
    pub const fn new() -> Self {
        Self { root: AtomicI32::new(-1) }
    }

    /// Opens the shadow of `slot` at the lowest free number.
    pub fn open(
        &self,
        process: &Process,
        slot: &Slot<'_>,
        cloexec: bool,
        waiting: Waiting,
    ) -> Result<RawFd, Errno> {
        let words = slot.user_words();
        let flags = words[0].load(Ordering::Relaxed) as u32;
        let directory = words[KIND].load(Ordering::Relaxed) as u32 & sys::S_IFMT == sys::S_IFDIR;
        let mut buffer = [0; stash::PATH_MAX_LEN];
        let path = slot.path(&mut buffer).map_err(stash_errno)?;
        let path = path.strip_prefix(b"/").unwrap_or(path);
        // A file without a name is shown as tmpfs shows it.
        let path = if path.is_empty() && !directory { b"# (deleted)".as_slice() } else { path };
        let token = token(process, slot.id());
        let (dev, ino) = slot.inode_key();
        let access = match flags & sys::O_ACCMODE {
            access @ (sys::O_WRONLY | sys::O_RDWR) if !directory => access,
            _ => sys::O_RDONLY,
        };
        let mut o_flags = access | (flags & SHOWN);
        if cloexec {
            o_flags |= sys::O_CLOEXEC;
        }
        if waiting == Waiting::Never {
            o_flags |= sys::O_NONBLOCK;
        }
        let owner = words[KIND].load(Ordering::Relaxed) >> 32;
        let request = Open {
            dev,
            ino,
            token,
            path: path.as_ptr() as u64,
            user: words[OPENER].as_ptr() as u64,
            path_len: path.len() as u32,
            o_flags,
            flags: if directory { abi::OPEN_DIR } else { 0 },
            uid: owner as u32,
        };
        let address = (&raw const request) as u64;
        self.with_root(point_of(process, slot)?, |root| {
            let args = [root as u64, abi::OPEN, address, 0, 0, 0];
            let opened = match waiting {
                Waiting::Never => native::checked(sys::__NR_ioctl, args),
                Waiting::UntilSignal => native::checked_interruptible(sys::__NR_ioctl, args),
            };
            // What the plugin did cannot be begun anew, so a call that would be restarted ends.
            opened.and_then(|fd| RawFd::try_from(fd).map_err(|_| Errno::INTR))
        })
    }

    /// Whether the description of `slot` is still open anywhere.
    pub fn is_held(&self, process: &Process, slot: &Slot<'_>) -> bool {
        let token = token(process, slot.id());
        let mut live = 1_u8;
        let mut request = Live {
            tokens: (&raw const token) as u64,
            answers: (&raw mut live) as u64,
            user: opener(slot),
            closed: 0,
            count: 1,
            reserved: 0,
        };
        let address = (&raw mut request) as u64;
        let asked = point_of(process, slot).and_then(|point| {
            self.with_root(point, |root| {
                native::checked(sys::__NR_ioctl, [root as u64, abi::LIVE, address, 0, 0, 0])
            })
        });
        asked.is_err() || live != 0
    }

    /// Whether the mount is read-only, by itself or by its super block.
    pub fn is_read_only(&self, point: &CStr) -> bool {
        self.with_root(point, native::fstatfs).is_ok_and(|found| found.f_flags as u32 & sys::MS_RDONLY != 0)
    }

    /// Opens what the ioctls go to, for a process that may be unable to later.
    pub fn prepare(&self, point: &CStr) {
        // If it cannot be had, opening files says so.
        let _ = self.with_root(point, |_| Ok(()));
    }

    /// Runs `ask` with a descriptor of the mount's root.
    fn with_root<R>(&self, point: &CStr, ask: impl Fn(RawFd) -> Result<R, Errno>) -> Result<R, Errno> {
        let known = self.root.load(Ordering::Acquire);
        if known >= 0 {
            match ask(known) {
                // A program that is not fully intercepted closed it.
                Err(Errno::BADF) => {}
                other => return other.map_err(unless_mounted),
            }
        }
        let root = open_root(point)?;
        if interpose::in_vfork_child() {
            // The memory is the parent's, the descriptors are not.
            let answer = ask(root);
            private_fd::close(root);
            return answer.map_err(unless_mounted);
        }
        let root = match self.root.compare_exchange(known, root, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                if known >= 0 {
                    private_fd::forget(known);
                }
                root
            }
            Err(winner) => {
                private_fd::close(root);
                winner
            }
        };
        ask(root).map_err(unless_mounted)
    }
}

/// Makes the file known to others: from now on they can look it up by its token, and see its status flags.
pub fn share(process: &Process, file: &OpenFile, slot: &Slot<'_>, only: Option<RawFd>) -> Result<(), Errno> {
    slot.mark_shared().map_err(stash_errno)?;
    let flags = u64::from(slot.status_flags() & SHOWN);
    let mut number = only;
    if number.is_none() {
        process.files.for_each(|fd, other, _| {
            if other.slot == file.slot {
                number = Some(fd);
            }
        });
    }
    if let Some(fd) = number {
        native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_SETFL), flags, 0, 0, 0]);
    }
    file.set_form(Form::Shadow);
    // From here on the kernel tells whether somebody has it; the owner's being alive does not.
    slot.user_words()[LENDER].store(0, Ordering::Release);
    Ok(())
}

/// The slot of this session that the shadow `fd` stands for. `None` for another session's, and for what is no shadow at all.
pub fn slot_of(process: &Process, fd: RawFd) -> Option<SlotId> {
    let mut ident = Ident::default();
    let address = (&raw mut ident) as u64;
    native::checked(sys::__NR_ioctl, [fd as u64, abi::IDENT, address, 0, 0, 0]).ok()?;
    if ident.kind == abi::KIND_ROOT {
        return None;
    }
    let id = SlotId::from_bits(ident.token ^ session_bits(process));
    let slot = process.arena.slot(id).ok()?;
    let mount = process.mount_of(&slot)?;
    // Whoever may open shadows can choose a token; but not who he is.
    let believed = matches!(mount.shadows, ShadowProvider::Module(_)) && opener(&slot) == ident.user;
    believed.then_some(id)
}

/// The token that names the description of `slot` to the kernel.
fn token(process: &Process, slot: SlotId) -> u64 {
    slot.to_bits() ^ session_bits(process)
}

fn session_bits(process: &Process) -> u64 {
    process.arena.session_id() as u64
}

/// Who opened the shadow of `slot`, as the kernel names him in all user namespaces.
fn opener(slot: &Slot<'_>) -> u64 {
    slot.user_words()[OPENER].load(Ordering::Relaxed)
}

/// Where the file of `slot` is mounted.
fn point_of<'p>(process: &'p Process, slot: &Slot<'_>) -> Result<&'p CStr, Errno> {
    process.mount_of(slot).map(Mount::point).ok_or(Errno::IO)
}

fn open_root(point: &CStr) -> Result<RawFd, Errno> {
    let flags = u64::from(sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC);
    let fd = native::new_fd(sys::__NR_open, [point.as_ptr() as u64, flags, 0, 0, 0, 0])?;
    private_fd::take(fd).inspect_err(|_| native::close(fd))
}

/// What stands at the mount point is no mount of ours any more.
fn unless_mounted(error: Errno) -> Errno {
    if error == Errno::NOTTY { Errno::IO } else { error }
}
