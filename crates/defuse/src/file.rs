//! Open files: the open file description of the session and the plugin's handle behind an FD.

mod owner;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as sys;
use plugin_abi::{Handle, Instance};
use rustix::fs::FileType;
use rustix::io::Errno;
use stash::{Holder, Slot, SlotId, StashError};

use crate::mount::Mount;
use crate::paging::Key;
use crate::process::Process;
use crate::resolve::PathBytes;
use crate::shadow::{self, Form, ShadowProvider};
use crate::{lock_files, trace};

pub use owner::{FileRef, Owner, identity, is_fd_directory, owner, served, served_if_open};

/// What this process has of an open file description: the plugin's handle, and where the shared part is.
pub struct OpenFile {
    process: &'static Process,
    /// Number of the mount it lies on.
    pub mount: usize,
    /// The plugin's handle.
    pub handle: AtomicU64,
    /// The shared part: offset, flags, path.
    pub slot: SlotId,
    /// open(2)'s flags as far as they never change: access mode, `O_PATH`, `O_DIRECTORY`...
    pub open_flags: u32,
    /// `S_IFMT` bits, 0 until known.
    kind: AtomicU32,
    /// What stands at the program's FD numbers: [`PLACEHOLDER`], [`SHADOW`], or the number itself that is the plugin's
    /// own descriptor.
    form: AtomicI32,
    /// It is counted in [`ADOPTED_DIRECTORIES`].
    leads_in: AtomicBool,
    /// What its locks need, if the session keeps them.
    pub locks: lock_files::Held,
    /// What it is for mapping.
    pub paged: Paged,
    /// It has no cache of pages as long as [`paging::generation`](crate::paging::generation) is this.
    pub uncached_at: AtomicU64,
    /// The handle has descriptors in common with another process: it is not closed.
    lent: AtomicBool,
    /// An error of writing back mapped pages that nobody has been told of; 0: none.
    error: AtomicI32,
}

/// The identity of a file that is mapped by us, once it was asked for; `None` inside for others.
#[derive(Default)]
pub struct Paged(std::sync::OnceLock<Option<Key>>);

impl Paged {
    /// What is known, else what `ask` says.
    pub fn get_or_try(&self, ask: impl FnOnce() -> Result<Option<Key>, Errno>) -> Result<Option<Key>, Errno> {
        if let Some(known) = self.0.get() {
            return Ok(*known);
        }
        let asked = ask()?;
        Ok(*self.0.get_or_init(|| asked))
    }
}

/// In the slot's first user word, beside open(2)'s flags: the directory has been removed.
pub const REMOVED: u64 = 1 << 63;

/// How many files at whose numbers a descriptor of their plugin stands may be directories: by a link to `/proc/self/fd/N` the kernel finds what is in them.
static ADOPTED_DIRECTORIES: AtomicU32 = AtomicU32::new(0);

/// Whether a symbolic link may lead the kernel to what is in a directory on a mount.
pub fn has_adopted_directories() -> bool {
    ADOPTED_DIRECTORIES.load(Ordering::SeqCst) != 0
}

const PLACEHOLDER: i32 = -1;
const SHADOW: i32 = -2;

impl OpenFile {
    /// A file that this process has just opened or rebuilt.
    pub fn new(
        process: &'static Process,
        mount: usize,
        handle: u64,
        slot: SlotId,
        open_flags: u32,
        kind: u32,
    ) -> Self {
        if open_flags & sys::O_PATH != 0 {
            interpose::offer_late();
        }
        Self {
            process,
            mount,
            handle: AtomicU64::new(handle),
            slot,
            open_flags,
            kind: AtomicU32::new(kind & sys::S_IFMT),
            form: AtomicI32::new(PLACEHOLDER),
            leads_in: AtomicBool::new(false),
            locks: lock_files::Held::new(),
            paged: Paged::default(),
            uncached_at: AtomicU64::new(0),
            lent: AtomicBool::new(false),
            error: AtomicI32::new(0),
        }
    }

    /// From now on another process has the same handle, with the same descriptors: nobody closes it.
    pub fn lend(&self) {
        self.lent.store(true, Ordering::Relaxed);
    }

    /// Whether [`lend`](Self::lend) was called.
    pub fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// Keeps an error of writing back for who next calls [`take_error`](Self::take_error).
    pub fn keep_error(&self, error: Errno) {
        self.error.store(error.raw_os_error(), Ordering::Relaxed);
    }

    /// The error that was kept, once.
    pub fn take_error(&self) -> Result<(), Errno> {
        match self.error.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            error => Err(Errno::from_raw_os_error(error)),
        }
    }

    /// The process whose file it is.
    pub fn process(&self) -> &'static Process {
        self.process
    }

    /// What stands at the program's FD numbers for this file.
    pub fn form(&self) -> Form {
        match self.form.load(Ordering::Acquire) {
            PLACEHOLDER => Form::Placeholder,
            SHADOW => Form::Shadow,
            fd => Form::Backing(fd),
        }
    }

    /// Records what stands at the program's FD numbers for this file.
    pub fn set_form(&self, form: Form) {
        let form = match form {
            Form::Placeholder => PLACEHOLDER,
            Form::Shadow => SHADOW,
            Form::Backing(fd) => fd,
        };
        self.form.store(form, Ordering::Release);
        self.count_if(form >= 0 && matches!(self.kind.load(Ordering::Relaxed), 0 | sys::S_IFDIR));
    }

    /// Counts it in [`ADOPTED_DIRECTORIES`], or does so no more.
    fn count_if(&self, adopted_directory: bool) {
        match (self.leads_in.swap(adopted_directory, Ordering::Relaxed), adopted_directory) {
            (false, true) => ADOPTED_DIRECTORIES.fetch_add(1, Ordering::SeqCst),
            (true, false) => ADOPTED_DIRECTORIES.fetch_sub(1, Ordering::SeqCst),
            _ => 0,
        };
    }

    /// Tells the plugin that its descriptor for this file now is `fd`, and uses the handle it answers with.
    pub fn move_backing(&self, fd: RawFd) -> Result<(), Errno> {
        let mut handle = borrowed(self.handle.load(Ordering::Acquire));
        self.instance()?.move_fd(&mut handle, fd).map_err(plugin_errno)?;
        self.handle.store(handle.into_raw(), Ordering::Release);
        Ok(())
    }

    /// This thread, as the holder of locks in the arena.
    pub fn holder(&self) -> Holder {
        self.process.holder()
    }

    /// The plugin's instance.
    pub fn instance(&self) -> Result<&'static Instance, Errno> {
        self.process.mounts[self.mount].instance()
    }

    /// The mount it lies on.
    pub fn mount(&self) -> &'static Mount {
        &self.process.mounts[self.mount]
    }

    /// The shared part of the description.
    pub fn shared(&self) -> Result<Slot<'static>, Errno> {
        self.process.arena.slot(self.slot).map_err(stash_errno)
    }

    /// Runs a plugin operation on the handle. If the handle's descriptor was moved meanwhile (see
    /// [`shadow::separate`]), the operation met the wrong file and is made again.
    pub fn with_handle<R>(
        &self,
        mut operation: impl FnMut(&Instance, &Handle) -> plugin_abi::Result<R>,
    ) -> Result<R, Errno> {
        let instance = self.instance()?;
        let mut handle = self.handle.load(Ordering::Acquire);
        loop {
            let result = operation(instance, &borrowed(handle));
            let now = self.handle.load(Ordering::Acquire);
            if now == handle {
                return result.map_err(plugin_errno);
            }
            handle = now;
        }
    }

    /// Whether it is only a place in the tree (`O_PATH`).
    pub fn is_place(&self) -> bool {
        self.open_flags & sys::O_PATH != 0
    }

    /// Whether reading is allowed by how it was opened.
    pub fn readable(&self) -> bool {
        self.open_flags & (sys::O_ACCMODE | sys::O_PATH) != sys::O_WRONLY
            && self.open_flags & sys::O_PATH == 0
    }

    /// Whether writing is allowed by how it was opened.
    pub fn writable(&self) -> bool {
        self.open_flags & sys::O_ACCMODE != sys::O_RDONLY && self.open_flags & sys::O_PATH == 0
    }

    /// The file's type as `S_IFMT` bits; asks the plugin once.
    pub fn kind(&self) -> Result<u32, Errno> {
        let known = self.kind.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(known);
        }
        let kind = if opens_directory(self.open_flags) {
            sys::S_IFDIR
        } else {
            self.with_handle(Instance::fgetattr)?.st_mode & sys::S_IFMT
        };
        self.kind.store(kind, Ordering::Relaxed);
        Ok(kind)
    }

    /// Whether it is a directory that has been removed by a process of the session.
    pub fn is_removed(&self) -> bool {
        self.shared().is_ok_and(|slot| slot.user_words()[0].load(Ordering::Relaxed) & REMOVED != 0)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> Result<bool, Errno> {
        Ok(FileType::from_raw_mode(self.kind()?) == FileType::Directory)
    }

    /// Path below the mount point when it was opened, kept up with renames.
    pub fn path(&self) -> Result<PathBytes, Errno> {
        let mut buffer = [0; stash::PATH_MAX_LEN];
        let path = self.shared()?.path(&mut buffer).map_err(stash_errno)?;
        PathBytes::try_from(path).map_err(|_| Errno::NAMETOOLONG)
    }

    /// Who makes its shadow.
    pub fn shadows(&self) -> &'static ShadowProvider {
        self.process.mounts[self.mount].shadows.of(self.open_flags)
    }

    /// Absolute path, for display and as the base of relative paths.
    pub fn absolute_path(&self) -> Result<PathBytes, Errno> {
        let mut absolute = PathBytes::new();
        let below = self.path()?;
        let point = self.process.table.point(self.mount);
        absolute.try_extend_from_slice(point).map_err(|_| Errno::NAMETOOLONG)?;
        if below.as_slice() != b"/" {
            absolute.try_extend_from_slice(&below).map_err(|_| Errno::NAMETOOLONG)?;
        }
        Ok(absolute)
    }
}

impl Drop for OpenFile {
    /// The last FD of this process and the last call that used it are gone.
    fn drop(&mut self) {
        self.count_if(false);
        if let Some(instance) = self.process.mounts[self.mount].loaded().filter(|_| !self.is_lent()) {
            let handle = borrowed(*self.handle.get_mut());
            // The descriptor that the plugin closes has a number of the program's.
            let adopted = matches!(self.form(), Form::Backing(_));
            interpose::pass_inner_calls(adopted);
            let closed = instance.close(handle);
            interpose::pass_inner_calls(false);
            if let Err(error) = closed {
                trace::debug(format_args!("close: {error}"));
            }
        }
        if !self.is_lent() {
            lock_files::let_go(self.process, &self.locks);
        }
        shadow::let_go(self.process, self.slot);
    }
}

/// Whether what these flags of open(2) open can only be a directory. `O_TMPFILE` has the same bit, and makes a file.
pub fn opens_directory(flags: u32) -> bool {
    flags & sys::O_DIRECTORY != 0 && flags & sys::O_TMPFILE != sys::O_TMPFILE
}

/// The plugin's handle behind its number.
#[allow(unsafe_code)]
fn borrowed(raw: u64) -> Handle {
    // SAFETY: only `OpenFile` keeps the numbers of handles, which are open as long as it lives: it closes its handle
    // when it is dropped, and only then.
    unsafe { Handle::from_raw(raw) }
}

/// An error of a plugin as the kernel would report it.
pub fn plugin_errno(error: plugin_abi::Errno) -> Errno {
    Errno::from_raw_os_error(error.raw())
}

/// An error of the arena as the kernel would report it; what should never happen is logged.
pub fn stash_errno(error: StashError) -> Errno {
    match error {
        StashError::Full(_) => Errno::NFILE,
        StashError::NoSpace => Errno::NOSPC,
        StashError::OffsetOverflow => Errno::OVERFLOW,
        StashError::TooLong { .. } => Errno::NAMETOOLONG,
        StashError::WouldDeadlock => Errno::DEADLK,
        StashError::StaleSlot(_) => Errno::BADF,
        other => {
            trace::error(format_args!("{other}"));
            Errno::IO
        }
    }
}
