//! The compatibility form: a library that exports the functions of the paper's Listing 1.
//!
//! What the listing leaves open is decided as the authors' published file systems and their caller do it:
//! paths are relative to the mount and start with `/`; a function returns 0 or an errno value; `save` and
//! `restore` get the number that `open` gave, in this program image and in the next. `getdirents` fills an
//! array of `struct dirent` and counts entries, `bufsiz` being its length in bytes. The library follows
//! symbolic links in the middle of a path itself.

mod serve;

use crate::abi::Table;
use crate::errno::Errno;
use crate::export::{Exported, table_of};
use crate::host::Host;
use crate::types::{Capabilities, InitError};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};
use libc::{DIR, gid_t, mode_t, off_t, stat, uid_t, utimbuf};
use std::ffi::CString;

/// Declares the listing: each function with its prototype and the names it goes by.
macro_rules! listing {
    ($($(#[$doc:meta])* $name:ident($($ty:ty),*) $(-> $ret:ty)?, $first:literal $(or $other:literal)?;)*) => {
        /// What a library exports of the listing.
        #[derive(Debug)]
        struct Functions {
            $($name: Option<unsafe extern "C" fn($($ty),*) $(-> $ret)?>,)*
        }

        impl Functions {
            fn find(prefix: &str, symbol: &dyn Fn(&CStr) -> Option<*mut c_void>) -> (Self, usize) {
                let mut found = 0;
                let mut look = |names: &[&str]| names.iter().find_map(|name| {
                    let name = CString::new(format!("{prefix}{name}")).ok()?;
                    symbol(&name).inspect(|_| found += 1)
                });
                let functions = Self {
                    $($name: look(&[$first $(, $other)?]).map(|address| {
                        // SAFETY: a function the library exports by this name has the listing's prototype.
                        unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($ty),*) $(-> $ret)?>(address) }
                    }),)*
                };
                (functions, found)
            }
        }
    };
}

listing! {
    init(*const c_char, *const c_char), "init";
    finalize(), "finalize";
    open(*const c_char, c_int, mode_t, *mut u64) -> c_int, "open";
    close(u64) -> c_int, "close";
    read(u64, *mut c_char, usize, off_t, *mut usize) -> c_int, "read";
    write(u64, *const c_char, usize, off_t, *mut usize) -> c_int, "write";
    fsync(u64, c_int) -> c_int, "fsync";
    ftruncate(u64, off_t) -> c_int, "ftruncate";
    fgetattr(u64, *mut stat) -> c_int, "fgetattr";
    save(u64) -> c_int, "save";
    restore(u64) -> c_int, "restore";
    getattr(*const c_char, *mut stat, c_int) -> c_int, "getattr";
    trunc(*const c_char, off_t) -> c_int, "trunc" or "truncate";
    readlink(*const c_char, *mut c_char, usize, *mut usize) -> c_int, "readlink";
    unlink(*const c_char) -> c_int, "unlink";
    mkdir(*const c_char, mode_t) -> c_int, "mkdir";
    rmdir(*const c_char) -> c_int, "rmdir";
    getdircount(*const c_char, *mut c_int) -> c_int, "getdircount";
    getdirents(*const c_char, *mut DIR, usize, *mut usize) -> c_int, "getdirents";
    chown(*const c_char, uid_t, gid_t) -> c_int, "chown";
    chmod(*const c_char, mode_t) -> c_int, "chmod";
    access(*const c_char, c_int) -> c_int, "access";
    rename(*const c_char, *const c_char) -> c_int, "rename";
    utime(*const c_char, *const utimbuf) -> c_int, "utime";
    symlink(*const c_char, *const c_char) -> c_int, "symlink";
}

/// Names that tell a file system from any other library. The rest are libc's, and `trunc` is libm's.
const DISTINCTIVE: [&CStr; 4] = [c"getattr", c"fgetattr", c"getdirents", c"getdircount"];

/// A loaded library in this form.
#[derive(Debug)]
pub(crate) struct Library {
    functions: Functions,
    prefixed: bool,
    in_use: AtomicBool,
}

impl Library {
    /// Looks for the functions, with the prefix first. `symbol` must only find what the library itself defines.
    pub(crate) fn find(symbol: &dyn Fn(&CStr) -> Option<*mut c_void>) -> Option<Self> {
        let in_use = AtomicBool::new(false);
        let (functions, found) = Functions::find("usfs_", symbol);
        if found > 0 {
            return Some(Self { functions, prefixed: true, in_use });
        }
        if !DISTINCTIVE.iter().any(|name| symbol(name).is_some()) {
            return None;
        }
        Some(Self { functions: Functions::find("", symbol).0, prefixed: false, in_use })
    }

    pub(crate) fn prefixed(&self) -> bool {
        self.prefixed
    }

    /// Initialises the library's one state; the result is for the functions of [`table`].
    pub(crate) fn instantiate(
        &'static self,
        mount: &CStr,
        backend: &CStr,
        host: Host,
    ) -> Result<*mut c_void, InitError> {
        if self.in_use.swap(true, Ordering::AcqRel) {
            let message = "a library in the form of Listing 1 serves one mount at a time";
            return Err(InitError::new(Errno::EBUSY, message));
        }
        if let Some(init) = self.functions.init {
            // SAFETY: the listing's prototype, two C strings.
            unsafe { init(mount.as_ptr(), backend.as_ptr()) };
        }
        Ok(Box::into_raw(Box::new(Exported { inner: Listing1 { library: self, host }, host })).cast())
    }
}

/// The table whose functions work on what [`Library::instantiate`] gives.
pub(crate) fn table() -> Table {
    let mut table = table_of::<Listing1>();
    // The listing says nothing of threads.
    table.capabilities &= !Capabilities::THREAD_SAFE.bits();
    table
}

struct Listing1 {
    library: &'static Library,
    host: Host,
}
