//! What this process knows: the session it belongs to, its mounts, its served files, its working directory.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use fdtable::{FdStates, FdTable};
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::{Arena, Description, Holder, Image, ProcessId, Slot, StashError};

use crate::carried::Carried;
use crate::common::{self, Common};
use crate::file::{OpenFile, stash_errno};
use crate::mount::Mount;
use crate::mounts::MountTable;
use crate::namei::MAGIC_PREFIXES;
use crate::resolve::PathBytes;
use crate::serve::extended::makedev;
use crate::sync::Lock;
use crate::working_directory::Directory;
use crate::{leaving, mount, native, nofile, shadow, thread, trace, vfork};

/// One byte per FD for the entry's fast path.
pub static STATES: FdStates = FdStates::new();
/// Not 0 while no path that goes down from the working directory leads to a mount by its text; another number each time that this has
/// become so. Changed under `Process::cwd`.
pub static RELATIVE_FOREIGN: AtomicU32 = AtomicU32::new(0);
/// Even and not 0: another number each time that one of the kernel's FDs, without being closed, has become a served one (dup2). Its state
/// is forgotten before that, and the kernel's table changes after.
pub static EXCHANGES: AtomicU32 = AtomicU32::new(2);
/// The served FDs. Static, so that its 16 KiB are pages that nobody touches before a file is served.
pub static FILES: FdTable<OpenFile> = FdTable::new();

/// The state of this process; one, made by the constructor and never dropped.
pub struct Process {
    /// Where the served parts of the name space are.
    pub table: MountTable,
    /// What serves them, by the table's numbers.
    pub mounts: Vec<Mount>,
    /// Device and inode of every directory above a mount point: from there a relative path may lead in.
    pub ancestors: Vec<(u64, u64)>,
    /// The session's shared memory.
    pub arena: Arena,
    /// This process in the arena; another one in a forked child.
    pub me: AtomicU32,
    /// Which of the programs that it has executed under that registration.
    pub image: AtomicU32,
    /// A private descriptor of it, for the next image of a process that has dropped its privileges.
    pub arena_fd: RawFd,
    /// Who made the session.
    pub owner: u32,
    /// The session is one that stands for all of its owner's processes.
    pub standing: bool,
    /// The session's folder.
    pub folder: Vec<u8>,
    /// The folder in it that all processes of the session may make things in.
    pub shared_folder: Vec<u8>,
    /// Device of the session's folder.
    pub folder_device: u64,
    /// Device of /proc: its directories of FDs show ours too.
    pub proc_device: u64,
    /// The served FDs.
    pub files: &'static FdTable<OpenFile>,
    /// Files that came through exec and are not in the table yet.
    pub carried: Carried,
    /// The working directory.
    pub cwd: Lock<Cwd>,
    /// How often it was changed.
    pub cwd_changes: AtomicU64,
    /// Threads in a chdir(2) of the kernel's, see [`Process::moving`]. Changed under `cwd`.
    pub in_chdir: AtomicU32,
    /// What other processes use as well.
    pub common: Common,
    /// umask(2), tracked.
    pub umask: AtomicU32,
    /// RLIMIT_NOFILE as the program sees it: soft and hard.
    pub nofile: (AtomicU64, AtomicU64),
    /// Not 0 once a file has been served: the entry's fast path asks.
    pub serving: &'static AtomicU8,
    /// Makes one thread at a time rebuild what the kernel knows about an FD and we do not.
    pub rebuilding: Lock<()>,
    /// Held while the kernel's FD table and ours change together. Taken before `rebuilding`.
    pub descriptors: Lock<()>,
    /// Held while a program's copy is open for writing.
    pub staging: Lock<()>,
    /// This library as LD_PRELOAD names it.
    pub library: Vec<u8>,
    /// Where the program lies, if the kernel would say otherwise: it is on a mount, or a guest.
    pub executable: Option<PathBytes>,
    /// Programs that do not load the library may be run as guests.
    pub hosts: bool,
    /// The process has had a second thread: a descriptor may be in use while its number changes hands.
    pub threaded: AtomicBool,
    /// The process has given up system calls: what can be left to others is.
    pub restricted: AtomicBool,
    /// The kernel's working directory is the unlinked one.
    pub nowhere: AtomicBool,
    /// Mapped files.
    pub paging: crate::paging::Paging,
    /// Slot numbers at and above this make the next open look for slots of ended processes.
    pub sweep_at: AtomicU32,
}

/// The working directory as the program knows it.
pub enum Cwd {
    /// The kernel's, by this canonical path.
    Native(PathBytes),
    /// The kernel's; somebody changed it since we looked.
    Unknown,
    /// On a mount, at this path below its point; the kernel's own is an unlinked directory.
    Served {
        /// Number of the mount.
        mount: usize,
        /// Path below its point, when it was entered.
        path: PathBytes,
        /// Holds it, and knows its path now.
        held: Option<Arc<Directory>>,
    },
}

/// Slots in use before the first look for those of ended processes.
const SWEEP_AT: u32 = 4096;

/// `path` after `old` was renamed to `new`, if it lies there.
fn moved(path: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(old)?;
    (rest.is_empty() || rest[0] == b'/').then(|| [new, rest].concat())
}

/// Sets [`RELATIVE_FOREIGN`]. The caller holds `Process::cwd`.
fn mark_relative(foreign: bool) {
    static TIMES: AtomicU32 = AtomicU32::new(0);
    let mark = if foreign { TIMES.fetch_add(2, Ordering::Relaxed) | 1 } else { 0 };
    // Who finds nothing in the kernel's working directory looks at the mark afterwards.
    RELATIVE_FOREIGN.store(mark, Ordering::SeqCst);
}

impl Process {
    /// This process in the arena.
    pub fn me(&self) -> ProcessId {
        ProcessId::from_bits(self.me.load(Ordering::Relaxed))
    }

    /// Whether the next image is to be in another session: a standing one is one user's, and the command makes its own.
    pub fn leaves_session(&self) -> bool {
        let effective = || native::raw_call(sys::__NR_geteuid, [0; 6]);
        leaving::is_leaving() || self.standing && effective() != i64::from(self.owner)
    }

    /// Sets who this process is in the arena.
    pub fn set_me(&self, me: ProcessId) {
        self.image.store(Image::default().to_bits(), Ordering::Relaxed);
        self.me.store(me.to_bits(), Ordering::Relaxed);
    }

    /// Goes on as `me` after an exec: what threads of the image before held is nobody's from now on.
    pub fn go_on_as(&self, me: ProcessId) -> Result<(), StashError> {
        let image = self.arena.begin_image(me)?;
        self.set_me(me);
        self.image.store(image.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes a call that changes the kernel's working directory. Who finds nothing meanwhile looks again: see `serve::absent::steadily`.
    pub fn moving(&'static self, call: impl FnOnce() -> Result<i64, Errno>) -> Result<i64, Errno> {
        if interpose::in_vfork_child() {
            // Its directory is its own.
            return call().inspect(|&result| {
                if result == 0 {
                    vfork::children().set_cwd(Cwd::Unknown);
                }
            });
        }
        let known = self.cwd.lock();
        self.in_chdir.fetch_add(1, Ordering::SeqCst);
        // Before the directory is another: that may be above a mount point.
        mark_relative(false);
        let changes = self.cwd_changes.load(Ordering::SeqCst);
        drop(known);
        let result = call();
        let mut known = self.cwd.lock();
        let former = if result == Ok(0) {
            let beside_others = self.cwd_changes.fetch_add(1, Ordering::SeqCst) != changes;
            // Another thread may have entered a mount since: if that came later, the kernel's directory is the empty one, and must be known to be.
            let stays = beside_others
                && matches!(*known, Cwd::Served { .. })
                && !self.restricted.load(Ordering::Relaxed)
                && self.is_nowhere();
            (!stays).then(|| {
                self.nowhere.store(false, Ordering::Relaxed);
                std::mem::replace(&mut *known, Cwd::Unknown)
            })
        } else {
            None
        };
        self.in_chdir.fetch_sub(1, Ordering::SeqCst);
        mark_relative(self.is_foreign_below(&known));
        drop(known);
        if former.is_some() {
            common::moved(self);
        }
        result
    }

    /// This thread, as the holder of locks in the arena; or this vfork child, with which they end if it is killed.
    pub fn holder(&self) -> Holder {
        let thread = if interpose::in_vfork_child() { native::thread_id() } else { thread::id() };
        Holder::new(self.me(), thread).of_image(Image::from_bits(self.image.load(Ordering::Relaxed)))
    }

    /// The mount that the file of `slot` is on. Others may have written there: it may be none.
    pub fn mount_of(&self, slot: &Slot<'_>) -> Option<&Mount> {
        self.mounts.get(slot.mount() as usize)
    }

    /// A slot for a new description. Now and then those of ended processes are freed first.
    pub fn allocate_slot(&'static self, description: &Description<'_>) -> Result<Slot<'static>, Errno> {
        self.carried.free_closed(self);
        let slot = match self.arena.alloc_slot(self.me(), description) {
            Err(StashError::Full(_) | StashError::NoSpace) => {
                shadow::sweep(self);
                self.arena.alloc_slot(self.me(), description)
            }
            other => other,
        };
        let slot = slot.map_err(stash_errno)?;
        if slot.id().index >= self.sweep_at.load(Ordering::Relaxed) {
            shadow::sweep(self);
            let live = self.arena.stats().slots;
            self.sweep_at.store((2 * live).max(SWEEP_AT), Ordering::Relaxed);
        }
        Ok(slot)
    }

    /// Registers this process in the arena: at the start, and in a forked child. `parent` is the process that made it, if that is known.
    pub fn register(&'static self, parent: Option<ProcessId>) {
        let register = || match parent {
            Some(parent) => self.arena.register_child(parent),
            None => self.arena.register_process(),
        };
        let me = register().or_else(|_| {
            shadow::sweep(self);
            register()
        });
        match me {
            Ok(me) => self.set_me(me),
            Err(error) => trace::error(format_args!("{error}")),
        }
    }

    /// RLIMIT_NOFILE as the program sees it.
    pub fn nofile(&self) -> (u64, u64) {
        if interpose::in_vfork_child()
            && let Some(own) = vfork::children().limits()
        {
            return own;
        }
        (self.nofile.0.load(Ordering::Relaxed), self.nofile.1.load(Ordering::Relaxed))
    }

    /// Looks at the working directory.
    pub fn with_cwd<R>(&'static self, look: impl FnOnce(&Cwd) -> R) -> R {
        if interpose::in_vfork_child() {
            let children = vfork::children();
            if let Some(cwd) = children.cwd() {
                return look(cwd);
            }
        }
        if !interpose::in_vfork_child() {
            common::follow(self);
        }
        look(&self.cwd.lock())
    }

    /// Makes `cwd`, which is on a mount, the working directory, and an empty directory the kernel's. What another thread does not find in
    /// that is looked for again, as it sees the mark gone or `cwd_changes` another number: so both change first. And who asks where the
    /// working directory is waits until it is on the mount.
    pub fn enter(&'static self, cwd: Cwd) -> Result<(), Errno> {
        if interpose::in_vfork_child() {
            self.enter_nowhere()?;
            vfork::children().set_cwd(cwd);
            return Ok(());
        }
        let mut known = self.cwd.lock();
        mark_relative(false);
        self.cwd_changes.fetch_add(1, Ordering::SeqCst);
        if self.enter_nowhere().is_err() {
            mark_relative(self.is_foreign_below(&known));
            return Err(Errno::IO); // Whatever it is, it says nothing about the path.
        }
        let former = std::mem::replace(&mut *known, cwd);
        drop(known);
        drop(former);
        common::moved(self);
        Ok(())
    }

    /// Replaces the working directory; a vfork child's is its own.
    pub fn set_cwd(&'static self, cwd: Cwd) {
        let own = !interpose::in_vfork_child();
        let on_mount = matches!(cwd, Cwd::Served { .. });
        self.know_cwd(cwd);
        if own {
            self.nowhere.store(on_mount, Ordering::Relaxed);
            common::moved(self);
        }
    }

    /// Replaces what is known of the working directory.
    fn know_cwd(&self, cwd: Cwd) {
        if interpose::in_vfork_child() {
            vfork::children().set_cwd(cwd);
        } else {
            let mut known = self.cwd.lock();
            self.cwd_changes.fetch_add(1, Ordering::Relaxed);
            mark_relative(self.is_foreign_below(&cwd));
            let former = std::mem::replace(&mut *known, cwd);
            drop(known);
            drop(former);
        }
    }

    /// The kernel's working directory was `path`, when this process had changed its own `changes` times; without effect if it has done so
    /// since.
    pub fn learn_cwd(&self, path: PathBytes, changes: u64) {
        if interpose::in_vfork_child() {
            return self.know_cwd(Cwd::Native(path));
        }
        let mut known = self.cwd.lock();
        if matches!(*known, Cwd::Unknown) && self.cwd_changes.load(Ordering::Relaxed) == changes {
            *known = Cwd::Native(path);
            mark_relative(self.is_foreign_below(&known));
        }
    }

    /// Whether no path that goes down from there is of interest by its text, and nobody else can move there. The caller holds `Process::cwd`.
    fn is_foreign_below(&self, cwd: &Cwd) -> bool {
        let Cwd::Native(path) = cwd else { return false };
        let apart = |prefix: &[u8]| {
            let both = prefix.len().min(path.len());
            prefix[..both] != path[..both]
        };
        path.starts_with(b"/")
            && self.table.beginnings().chain(MAGIC_PREFIXES).all(apart)
            && self.in_chdir.load(Ordering::SeqCst) == 0
            && !self.common.place()
            && !self.common.wanders()
    }

    /// From now on others may change the working directory, too.
    pub fn share_cwd(&self) {
        let _known = self.cwd.lock();
        mark_relative(false);
    }

    /// After the root directory has become another, or the kernel's working directory by something else than chdir(2).
    pub fn root_changed(&self) {
        if !self.restricted.load(Ordering::Relaxed) {
            mount::root_changed();
        }
        if !interpose::in_vfork_child() {
            self.know_cwd_of_kernel();
        } else if !vfork::children().cwd().is_some_and(|cwd| matches!(cwd, Cwd::Served { .. })) {
            vfork::children().set_cwd(Cwd::Unknown);
        }
    }

    /// Forgets what the kernel's working directory was, and that of a mount if the kernel's is not the unlinked one any more.
    pub fn know_cwd_of_kernel(&self) {
        let mut cwd = self.cwd.lock();
        // Who is just learning it has asked before.
        self.cwd_changes.fetch_add(1, Ordering::Relaxed);
        let kernels = match &*cwd {
            Cwd::Native(_) => true,
            Cwd::Served { .. } => !self.is_nowhere(),
            Cwd::Unknown => false,
        };
        if kernels {
            let former = std::mem::replace(&mut *cwd, Cwd::Unknown);
            mark_relative(false);
            self.nowhere.store(false, Ordering::Relaxed);
            drop(cwd);
            drop(former);
        }
    }

    /// Whether the kernel's working directory is one that [`enter_nowhere`](Self::enter_nowhere) has entered. The caller holds `Process::cwd`, so that no
    /// thread enters one now; no file system is waited for.
    fn is_nowhere(&self) -> bool {
        let here = native::statx_as_known(c".", sys::STATX_NLINK | sys::STATX_INO).map(|here| {
            let device = makedev(here.stx_dev_major, here.stx_dev_minor);
            (device, here.stx_ino, u64::from(here.stx_nlink))
        });
        // A filter of the program's may know no statx(2).
        let here = here.or_else(|_| native::stat(c".").map(|here| (here.st_dev, here.st_ino, here.st_nlink)));
        here.is_ok_and(|(device, inode, links)| shadow::is_empty_directory(self, device, inode, links))
    }

    /// Makes the kernel's working directory one in which nothing can be found or made: an unlinked one.
    fn enter_nowhere(&self) -> Result<(), Errno> {
        let shared_memory = interpose::in_vfork_child();
        if !shared_memory && !self.common.place() && self.nowhere.load(Ordering::Relaxed) {
            return Ok(());
        }
        // One that is gone already, since another thread may be making a name there. A vfork child has no descriptor of it, and no other threads in its
        // directory.
        let gone = if shared_memory { None } else { shadow::placeholder(self).ok() };
        let enter = |fd| native::checked(sys::__NR_fchdir, [fd as u64, 0, 0, 0, 0, 0]);
        if gone.is_none_or(|fd| enter(fd).is_err()) {
            self.with_nowhere(|name| native::checked(sys::__NR_chdir, [name, 0, 0, 0, 0, 0]))?;
        }
        if !shared_memory {
            self.nowhere.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Calls `enter` with the C string of an empty directory's name; nothing is found or made in that by who has it, as it is gone afterwards.
    pub fn with_nowhere(&self, enter: impl Fn(u64) -> Result<u64, Errno>) -> Result<u64, Errno> {
        let mut path = self.folder.clone();
        path.extend_from_slice(format!("/nowhere-{}\0", thread::id()).as_bytes());
        let name = path.as_ptr() as u64;
        if native::checked(sys::__NR_mkdir, [name, 0o700, 0, 0, 0, 0]).is_err() {
            // A process without the privileges of who made the session: one that it cannot write.
            let null = [self.folder.as_slice(), b"/null\0"].concat();
            return enter(null.as_ptr() as u64);
        }
        let entered = enter(name);
        native::raw_call(sys::__NR_rmdir, [name, 0, 0, 0, 0, 0]);
        entered
    }

    /// A name on mount number `mount` has changed from `old` to `new`: open files and the working directory follow.
    pub fn renamed(&self, mount: usize, old: &[u8], new: &[u8], flags: u32) {
        let exchange = flags & sys::RENAME_EXCHANGE != 0;
        let follow = |path: &[u8]| {
            moved(path, old, new).or_else(|| if exchange { moved(path, new, old) } else { None })
        };
        if let Cwd::Served { mount: number, path, .. } = &mut *self.cwd.lock()
            && *number == mount
            && let Some(now) = follow(path)
            && let Ok(now) = PathBytes::try_from(now.as_slice())
        {
            *path = now;
        }
        if crate::paging::generation(self) != 0 {
            crate::paging::store::renamed(self, mount as u32, follow);
        }
        let holder = self.holder();
        let mut buffer = vec![0; stash::PATH_MAX_LEN];
        self.arena.for_each_live(|slot| {
            if slot.mount() as usize != mount {
                return;
            }
            let Ok(path) = slot.path(&mut buffer) else { return };
            let Some(now) = follow(path) else { return };
            let changed = slot.lock(holder).and_then(|guard| guard.set_path(&now));
            if let Err(error) = changed {
                trace::debug(format_args!("a renamed file keeps its old path: {error}"));
            }
        });
    }

    /// `mode` with the bits of the umask cleared.
    pub fn masked(&self, mode: u32) -> u32 {
        mode & !common::umask(self)
    }

    /// The number below which the program's FDs are.
    pub fn fd_limit(&self) -> u64 {
        nofile::enforced(self.nofile().0)
    }

    /// `EMFILE` if the program's own limit forbids the number `fd`, which is then closed. The kernel forbids it but for the moment
    /// in which another thread makes a private descriptor.
    pub fn check_limit(&self, fd: RawFd) -> Result<RawFd, Errno> {
        if (fd as u64) < self.fd_limit() {
            return Ok(fd);
        }
        native::close(fd);
        Err(Errno::MFILE)
    }
}
