//! One mount: the plugin that serves it, loaded when the first path or FD needs it.

use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use plugin_abi::{Capabilities, Instance, Plugin};
use rustix::io::Errno;

use crate::shadow::ShadowProvider;
use crate::sync::Lock;
use crate::trace;

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
    loading: Lock<()>,
    instance: OnceLock<Result<Instance, Errno>>,
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
        let (loading, instance) = (Lock::new(()), OnceLock::new());
        let saves_nothing = AtomicBool::new(false);
        Self { number, shadows, point, library, backend, options, loading, instance, saves_nothing }
    }

    /// Where it is mounted.
    pub fn point(&self) -> &CStr {
        &self.point
    }

    /// The plugin's instance. The first call loads the library and initialises it; if that fails, the reason is
    /// logged once and every call on the mount fails with the same error.
    pub fn instance(&self) -> Result<&Instance, Errno> {
        let made = if let Some(made) = self.instance.get() {
            made
        } else {
            let _loading = self.loading.lock();
            self.instance.get_or_init(|| self.load())
        };
        made.as_ref().map_err(|errno| *errno)
    }

    /// The instance if the plugin has been loaded and works.
    pub fn loaded(&self) -> Option<&Instance> {
        self.instance.get()?.as_ref().ok()
    }

    /// Holds the mount still while the process forks; [`after_fork`](Self::after_fork) lets go, on both sides.
    pub fn before_fork(&self) {
        self.loading.acquire();
    }

    /// See [`before_fork`](Self::before_fork).
    pub fn after_fork(&self) {
        self.loading.release();
    }

    fn load(&self) -> Result<Instance, Errno> {
        let plugin = Plugin::load(&self.library).map_err(|error| {
            trace::error(format_args!("{error}"));
            Errno::IO
        })?;
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

/// Whether reads and writes go to the kernel with the program's own pointer, so that a bad one gets `EFAULT` there.
pub fn copies_in_kernel(instance: &Instance) -> bool {
    instance.capabilities().contains(Capabilities::RELOCATABLE)
}
