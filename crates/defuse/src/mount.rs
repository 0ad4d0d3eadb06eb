//! One mount: the plugin that serves it, loaded when the first path or FD needs it.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use plugin_abi::{Capabilities, Form, Instance, LoadError, Plugin};
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::lock_files::Keepers;
use crate::shadow::ShadowProvider;
use crate::sync::Lock;
use crate::trace;
use crate::vfork::{self, Started};

/// How long a fork waits for threads that load a plugin: not for ever, as they may wait for the thread that forks.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
const PATIENCE: u32 = 20;

/// Plugins that this process has started, or tried to.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// How often the root directory has become another.
static ROOTS: AtomicU32 = AtomicU32::new(0);

/// The root directory has become another: what could not be found in the former one may be there.
pub fn root_changed() {
    ROOTS.fetch_add(1, Ordering::AcqRel);
}

/// How many plugins this process has started until now: all their descriptors are in its FD table.
pub fn started() -> u64 {
    STARTED.load(Ordering::Acquire)
}

/// A mount of the session.
pub struct Mount {
    /// Number in the mount table.
    pub number: usize,
    /// Who makes the shadows of its files.
    pub shadows: ShadowProvider,
    point: CString,
    library: PathBuf,
    backend: CString,
    options: CString,
    /// Who keeps the locks of its files.
    pub keepers: Keepers,
    /// Held while the plugin is initialised.
    loading: Lock<()>,
    /// Threads that are loading the library.
    loaders: AtomicU32,
    instance: OnceLock<Instance>,
    /// Why the plugin could not be started, and in the how manieth root; 0 if that was not tried. See [`Failure`].
    failure: AtomicU64,
    /// The [`started`] plugin of this number is its own; 0 for none.
    turn: AtomicU64,
    /// The library has one state for all of the process; the session may know it before it is loaded.
    has_one_state: AtomicBool,
    /// An open of a file may give the program the plugin's own descriptor: none has not yet, or one has.
    hands_over: AtomicBool,
    /// One has.
    has_handed_over: AtomicBool,
    /// The plugin has said that it has no `save`.
    pub saves_nothing: AtomicBool,
}

impl Mount {
    /// A mount whose plugin is not loaded yet.
    pub fn new(
        number: usize,
        shadows: ShadowProvider,
        point: CString,
        library: PathBuf,
        backend: CString,
        options: CString,
    ) -> Self {
        let (loading, loaders, instance) = (Lock::new(()), AtomicU32::new(0), OnceLock::new());
        let (keepers, saves_nothing) = (Keepers::new(), AtomicBool::new(false));
        let hands_over = AtomicBool::new(true);
        Self {
            number,
            shadows,
            point,
            library,
            backend,
            options,
            keepers,
            loading,
            loaders,
            instance,
            failure: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            has_one_state: AtomicBool::new(false),
            hands_over,
            has_handed_over: AtomicBool::new(false),
            saves_nothing,
        }
    }

    /// Its library has one state for all of the process, whoever of it starts it.
    pub fn with_one_state(self) -> Self {
        self.has_one_state.store(true, Ordering::Relaxed);
        self
    }

    /// Where it is mounted.
    pub fn point(&self) -> &CStr {
        &self.point
    }

    /// The plugin's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The plugin's instance. The first call loads the library and initialises it; if that fails, the reason is
    /// logged once and every call on the mount fails with the same error, as long as the root directory is the same. A vfork child that has its own FD
    /// table has its own instance, too, if its parent had none before.
    pub fn instance(&self) -> Result<&Instance, Errno> {
        match self.known() {
            (Some(known), _) => known,
            (None, true) => self.start_alone().as_ref().map_err(|errno| *errno),
            (None, false) => self.start_for_all(),
        }
    }

    /// The instance if the plugin has been loaded and works.
    pub fn loaded(&self) -> Option<&Instance> {
        self.known().0?.ok()
    }

    /// The plugin as far as it was started for this process, and whether that is a vfork child which must not have its parent's.
    fn known(&self) -> (Option<Result<&Instance, Errno>>, bool) {
        if interpose::in_vfork_child() {
            let turn = self.turn.load(Ordering::Acquire);
            if let vfork::Plugin::Own(own) = vfork::children().plugin(self.number, turn) {
                // To start it once more would take its state away from the parent.
                let keep_off = own.is_none() && turn != 0 && self.has_one_state.load(Ordering::Relaxed);
                if !keep_off {
                    return (own.map(|own| own.as_ref().map_err(|errno| *errno)), true);
                }
            }
        }
        (self.known_to_all(), false)
    }

    fn known_to_all(&self) -> Option<Result<&Instance, Errno>> {
        let started = self.instance.get().map(Ok);
        started.or_else(|| Failure::here(self.failure.load(Ordering::Acquire)).map(Err))
    }

    fn start_for_all(&self) -> Result<&Instance, Errno> {
        let root = ROOTS.load(Ordering::Acquire);
        let plugin = self.load();
        let _loading = self.loading.lock();
        if let Some(known) = self.known_to_all() {
            return known;
        }
        let started = self.start(plugin);
        // Before it is seen: a vfork child asks for the one, then for the other.
        self.turn.store(STARTED.fetch_add(1, Ordering::AcqRel) + 1, Ordering::Release);
        match started {
            Ok(instance) => Ok(self.instance.get_or_init(|| instance)),
            Err(errno) => {
                self.failure.store(Failure::in_root(root, errno), Ordering::Release);
                Err(errno)
            }
        }
    }

    /// This process is about to make a vfork child with an FD table of its own. A plugin with one state is started now: started there, it would
    /// have its descriptors in the child, and its state in the memory of both.
    pub fn before_vfork(&self) {
        if self.has_one_state.load(Ordering::Relaxed) && self.turn.load(Ordering::Acquire) == 0 {
            // What is wrong with it is said again when it is needed.
            let _ = self.instance();
        }
    }

    /// Starts the plugin for this vfork child only.
    fn start_alone(&self) -> &'static Started {
        let started = Box::leak(Box::new(self.start(self.load())));
        vfork::children().keep(self.number, started);
        started
    }

    /// Whether the next file that is opened may become the program's own descriptor.
    pub fn hands_over(&self) -> bool {
        self.hands_over.load(Ordering::Relaxed)
    }

    /// Notes whether an open gave the program the plugin's own descriptor. Once one did, each may: of a directory, or a place in the tree, nothing can be
    /// told about the next, and if that one were moved the program's record locks on the same file would be lost.
    pub fn note_hand_over(&self, handed_over: bool) {
        if handed_over && !self.has_handed_over.load(Ordering::Relaxed) {
            self.has_handed_over.store(true, Ordering::Relaxed);
        }
        let hands_over = handed_over || self.has_handed_over.load(Ordering::Relaxed);
        if self.hands_over() != hands_over {
            self.hands_over.store(hands_over, Ordering::Relaxed);
        }
    }

    /// Holds the mount still while the process forks; [`after_fork`](Self::after_fork) lets go, on both sides.
    pub fn before_fork(&self) {
        for _ in 0..PATIENCE {
            self.loading.acquire();
            let loaders = self.loaders.load(Ordering::Relaxed);
            if loaders == 0 {
                return;
            }
            // The child would have the dynamic linker's lists as they are now.
            self.loading.release();
            let _ = futex::wait(&self.loaders, futex::Flags::PRIVATE, loaders, Some(&MOMENT));
        }
        self.loading.acquire();
    }

    /// In the forked child, which has none of its parent's other threads.
    pub fn in_forked_child(&self) {
        self.loaders.store(0, Ordering::Relaxed);
    }

    /// See [`before_fork`](Self::before_fork).
    pub fn after_fork(&self) {
        self.loading.release();
    }

    /// Loads the library, under no lock of ours but the dynamic linker's own: who has that (inside a `dlopen` of the program)
    /// may come here too. Two threads that meet get the same library.
    fn load(&self) -> Result<Plugin, LoadError> {
        drop({
            let loading = self.loading.lock();
            self.loaders.fetch_add(1, Ordering::Relaxed);
            loading
        });
        let plugin = Plugin::load(&self.library);
        self.loaders.fetch_sub(1, Ordering::Release);
        let _ = futex::wake(&self.loaders, futex::Flags::PRIVATE, u32::MAX);
        plugin
    }

    fn start(&self, plugin: Result<Plugin, LoadError>) -> Result<Instance, Errno> {
        let plugin = plugin.map_err(|error| {
            trace::error(format_args!("{error}"));
            Errno::IO
        })?;
        self.has_one_state.store(plugin.form() != Form::Table, Ordering::Relaxed);
        plugin.instantiate(&self.point, &self.backend, &self.options, trace::HOST).map_err(|error| {
            trace::error(format_args!(
                "cannot mount {} on {:?}: {error}",
                self.library.display(),
                self.point
            ));
            Errno::from_raw_os_error(error.errno.raw())
        })
    }
}

/// That a plugin could not be started, in a word: its file, and what that needs, are looked for below the root directory.
struct Failure;

impl Failure {
    fn in_root(root: u32, errno: Errno) -> u64 {
        u64::from(root) << 32 | u64::from(errno.raw_os_error().unsigned_abs())
    }

    /// The error, if the root is still the same.
    fn here(word: u64) -> Option<Errno> {
        let (root, errno) = ((word >> 32) as u32, word as u32);
        (errno != 0 && root == ROOTS.load(Ordering::Acquire)).then(|| Errno::from_raw_os_error(errno as i32))
    }
}

/// Whether reads and writes go to the kernel with the program's own pointer, so that a bad one gets `EFAULT` there.
pub fn copies_in_kernel(instance: &Instance) -> bool {
    instance.capabilities().contains(Capabilities::RELOCATABLE)
}
