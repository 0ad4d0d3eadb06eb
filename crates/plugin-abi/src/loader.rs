//! Loads a plugin and tells clearly why not.

use crate::abi::{self, HEADER_SIZE, Table};
use crate::elf;
use crate::errno::Errno;
use crate::export::table_of;
use crate::filesystem::FileSystem;
use crate::host::Host;
use crate::instance::Instance;
use crate::listing1;
use crate::types::{Capabilities, InitError};
use core::ffi::{CStr, c_char, c_int, c_void};
use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Which contract the library keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The table `defuse_plugin`.
    Table,
    /// The functions of the paper's Listing 1, by their bare names.
    Listing1,
    /// The same with the prefix `usfs_`.
    Listing1Prefixed,
}

/// A loaded plugin. It stays loaded for ever: its code may be on any thread's stack.
#[derive(Debug)]
pub struct Plugin {
    path: PathBuf,
    name: String,
    abi: (u16, u16),
    table: Table,
    listing1: Option<&'static listing1::Library>,
}

/// Why a file is not loaded.
#[derive(Debug)]
pub enum LoadError {
    /// It cannot be opened or read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a whole shared library for this machine.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        defect: String,
    },
    /// The dynamic linker refused it.
    Linker {
        /// The file.
        path: PathBuf,
        /// What `dlerror` said.
        message: String,
    },
    /// It exports neither the table nor functions of Listing 1.
    NotAPlugin {
        /// The file.
        path: PathBuf,
    },
    /// The symbol is there, but what it names is not a table.
    Magic {
        /// The file.
        path: PathBuf,
        /// The first word found.
        found: u32,
    },
    /// The table is of another major version.
    Version {
        /// The file.
        path: PathBuf,
        /// Major and minor version found.
        found: (u16, u16),
    },
    /// The table's `size` cannot be.
    Size {
        /// The file.
        path: PathBuf,
        /// What it claims.
        claimed: usize,
        /// What the symbol has, or the least a table may have.
        limit: usize,
    },
}

impl Plugin {
    /// Loads a shared library in either form.
    ///
    /// Runs the library's constructors, so check with [`crate::trust`] first. Not for use where the program's
    /// malloc or the dynamic linker may be locked.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        precheck(path)?;
        let object = Object::open(path)?;
        if let Some((address, size)) = object.symbol(abi::SYMBOL) {
            // SAFETY: the symbol is the object's own and has `size` bytes.
            let (table, name) = unsafe { read_table(path, address.cast(), size)? };
            object.keep();
            return Ok(Self {
                path: path.to_owned(),
                name,
                abi: (table.abi_major, table.abi_minor),
                table,
                listing1: None,
            });
        }
        let Some(library) = listing1::Library::find(&|name| object.symbol(name).map(|(address, _)| address))
        else {
            return Err(LoadError::NotAPlugin { path: path.to_owned() });
        };
        let library = Box::leak(Box::new(library));
        object.keep();
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self {
            path: path.to_owned(),
            name,
            abi: (0, 0),
            table: listing1::table(),
            listing1: Some(library),
        })
    }

    /// A file system that is linked into this program.
    pub fn built_in<F: FileSystem>() -> Self {
        let table = table_of::<F>();
        let name = F::NAME.to_string_lossy().into_owned();
        Self { path: PathBuf::new(), name, abi: (table.abi_major, table.abi_minor), table, listing1: None }
    }

    /// The file it came from; empty when built in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name for itself, or the file's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the table; (0, 0) for Listing 1.
    pub fn abi_version(&self) -> (u16, u16) {
        self.abi
    }

    /// What it says it can do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::from_bits_truncate(self.table.capabilities)
    }

    /// Which contract it keeps.
    pub fn form(&self) -> Form {
        match self.listing1 {
            None => Form::Table,
            Some(library) if library.prefixed() => Form::Listing1Prefixed,
            Some(_) => Form::Listing1,
        }
    }

    /// Makes an instance for one mount.
    ///
    /// A library in the form of Listing 1 has one state for the whole process, so a second instance of it is
    /// refused while the first exists.
    pub fn instantiate(
        &self,
        mount_point: &CStr,
        backend: &CStr,
        options: &CStr,
        host: Host,
    ) -> Result<Instance, InitError> {
        if let Some(library) = self.listing1 {
            let fs = library.instantiate(mount_point, backend, host)?;
            // SAFETY: `fs` is what the functions of `listing1::table` expect, all of this program.
            return Ok(unsafe { Instance::new(&self.table, fs, host) });
        }
        let mut fs = core::ptr::null_mut();
        if let Some(init) = self.table.init {
            let mut message: [c_char; 256] = [0; 256];
            let (text, room) = (message.as_mut_ptr(), message.len());
            // SAFETY: the plugin's own function, with strings and buffers that outlive the call.
            let code = unsafe {
                let (point, backend, options) = (mount_point.as_ptr(), backend.as_ptr(), options.as_ptr());
                init(host.as_ptr(), point, backend, options, text, room, &raw mut fs)
            };
            if code != 0 {
                // SAFETY: `text` has `room` bytes, and the last is made NUL before the string is read.
                let said = unsafe {
                    text.add(room - 1).write(0);
                    CStr::from_ptr(text).to_string_lossy()
                };
                let message = if said.is_empty() {
                    format!("plugin {} does not start", self.name)
                } else {
                    said.into()
                };
                return Err(InitError::new(Errno::from_raw(code), message));
            }
        }
        // SAFETY: `fs` is from this table's `init`, and the library stays loaded.
        Ok(unsafe { Instance::new(&self.table, fs, host) })
    }
}

fn precheck(path: &Path) -> Result<(), LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(LoadError::Malformed { path: path.to_owned(), defect: "not a regular file".into() });
    }
    match elf::check(&file).map_err(unreadable)? {
        Ok(()) => Ok(()),
        Err(defect) => Err(LoadError::Malformed { path: path.to_owned(), defect: defect.to_string() }),
    }
}

/// Copies the table at `address`, as much of it as both sides know, and its name.
///
/// # Safety
/// `address` has `size` readable bytes, and stays so.
unsafe fn read_table(path: &Path, address: *const u8, size: usize) -> Result<(Table, String), LoadError> {
    let path = || path.to_owned();
    if size < HEADER_SIZE || address.align_offset(align_of::<Table>()) != 0 {
        return Err(LoadError::Size { path: path(), claimed: size, limit: HEADER_SIZE });
    }
    let mut table = Table::empty(c"", 0);
    // SAFETY: `HEADER_SIZE` bytes are there, both sides are plain memory of one layout.
    unsafe { core::ptr::copy_nonoverlapping(address, (&raw mut table).cast::<u8>(), HEADER_SIZE) };
    if table.magic != abi::DEFUSE_MAGIC {
        return Err(LoadError::Magic { path: path(), found: table.magic });
    }
    if table.abi_major != abi::DEFUSE_ABI_MAJOR {
        return Err(LoadError::Version { path: path(), found: (table.abi_major, table.abi_minor) });
    }
    let claimed = table.size as usize;
    if claimed < HEADER_SIZE {
        return Err(LoadError::Size { path: path(), claimed, limit: HEADER_SIZE });
    }
    if claimed > size {
        return Err(LoadError::Size { path: path(), claimed, limit: size });
    }
    // A function pointer of which only a part is there is not there.
    let known = claimed.min(size_of::<Table>());
    let known = known - (known - HEADER_SIZE) % size_of::<usize>();
    // SAFETY: `known` bytes are there, by the symbol's size.
    unsafe { core::ptr::copy_nonoverlapping(address, (&raw mut table).cast::<u8>(), known) };
    let name = if table.name.is_null() {
        path().file_stem().unwrap_or_default().to_string_lossy().into_owned()
    } else {
        // SAFETY: the plugin promises a NUL-terminated string.
        unsafe { CStr::from_ptr(table.name) }.to_string_lossy().into_owned()
    };
    Ok((table, name))
}

/// An object the dynamic linker has loaded; unloaded when dropped unless kept.
struct Object {
    handle: *mut c_void,
}

/// `struct link_map` is only compared by address.
const RTLD_DI_LINKMAP: c_int = 2;
const RTLD_DL_SYMENT: c_int = 1;
const RTLD_DL_LINKMAP: c_int = 2;

unsafe extern "C" {
    fn dladdr1(
        address: *const c_void,
        info: *mut libc::Dl_info,
        extra: *mut *mut c_void,
        flags: c_int,
    ) -> c_int;
}

impl Object {
    fn open(path: &Path) -> Result<Self, LoadError> {
        let refused = |message| LoadError::Linker { path: path.to_owned(), message };
        // A name without a slash would be searched for in the library path.
        let named = if path.as_os_str().as_bytes().contains(&b'/') {
            path.to_owned()
        } else {
            Path::new(".").join(path)
        };
        let name =
            CString::new(named.as_os_str().as_bytes()).map_err(|_| refused("NUL in the name".into()))?;
        // RTLD_LOCAL keeps its symbols from satisfying anybody else's references. RTLD_DEEPBIND must not be
        // used: a library that exports `open` would then call itself where it means libc's.
        // SAFETY: a NUL-terminated name; what the library's constructors do is the plugin's to answer for.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: after a failure dlerror gives a string, good until the next dl call of this thread.
            let message = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned();
            return Err(refused(message));
        }
        Ok(Self { handle })
    }

    /// Address and size of a symbol that this object itself defines.
    ///
    /// `dlsym` also finds the symbols of its dependencies: for `open` it would give libc's.
    fn symbol(&self, name: &CStr) -> Option<(*mut c_void, usize)> {
        // SAFETY: the handle is open and the name is a C string.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        if address.is_null() {
            return None;
        }
        let mut mine: *mut c_void = core::ptr::null_mut();
        // SAFETY: with RTLD_DI_LINKMAP dlinfo stores one pointer.
        if unsafe { libc::dlinfo(self.handle, RTLD_DI_LINKMAP, (&raw mut mine).cast()) } != 0 {
            return None;
        }
        let (mut owner, mut entry) = (core::ptr::null_mut(), core::ptr::null_mut());
        // SAFETY: `Dl_info` is pointers only; dladdr1 stores into it and one pointer into `extra`.
        let (found, sized) = unsafe {
            let mut info: libc::Dl_info = core::mem::zeroed();
            let found = dladdr1(address, &raw mut info, &raw mut owner, RTLD_DL_LINKMAP);
            (found, dladdr1(address, &raw mut info, &raw mut entry, RTLD_DL_SYMENT))
        };
        if found == 0 || owner != mine {
            return None;
        }
        // The last member of Elf64_Sym.
        let size = if sized == 0 || entry.is_null() {
            0
        } else {
            // SAFETY: dladdr1 gave a pointer to an `Elf64_Sym` in the loaded object.
            unsafe { (*entry.cast::<libc::Elf64_Sym>()).st_size as usize }
        };
        Some((address, size))
    }

    fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, and nothing of it is in use.
        unsafe { libc::dlclose(self.handle) };
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAJOR: u16 = abi::DEFUSE_ABI_MAJOR;
        const MINOR: u16 = abi::DEFUSE_ABI_MINOR;
        let (Self::Unreadable { path, .. }
        | Self::Malformed { path, .. }
        | Self::Linker { path, .. }
        | Self::NotAPlugin { path }
        | Self::Magic { path, .. }
        | Self::Version { path, .. }
        | Self::Size { path, .. }) = self;
        write!(f, "cannot load plugin {}: ", path.display())?;
        match self {
            Self::Unreadable { source, .. } => source.fmt(f),
            Self::Malformed { defect, .. } => f.write_str(defect),
            Self::Linker { message, .. } => f.write_str(message),
            Self::NotAPlugin { .. } => f.write_str(
                "it exports neither `defuse_plugin` nor the functions of the paper's Listing 1 \
                 (`getattr`, `open`, ... or `usfs_getattr`, `usfs_open`, ...)",
            ),
            Self::Magic { found, .. } => write!(
                f,
                "`defuse_plugin` is no plugin table: it starts with {found:#010x}, not {:#010x} \
                 (export the struct itself, not a pointer or a function)",
                abi::DEFUSE_MAGIC
            ),
            Self::Version { found: (major, minor), .. } => {
                write!(
                    f,
                    "`defuse_plugin` is of ABI version {major}.{minor}, this program understands {MAJOR}.{MINOR}"
                )
            }
            Self::Size { claimed, limit, .. } if claimed > limit => {
                write!(f, "`defuse_plugin` claims {claimed} bytes, its symbol has {limit}")
            }
            Self::Size { claimed, limit, .. } => {
                write!(f, "`defuse_plugin` has {claimed} bytes, a table has at least {limit}")
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Unreadable { source, .. } = self { Some(source) } else { None }
    }
}
