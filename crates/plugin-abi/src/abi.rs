//! The C ABI as Rust types: what crosses the boundary, and nothing else.
//!
//! `include/defuse_plugin.h` is generated from this file by [`crate::header`].

#![allow(clippy::doc_markdown, reason = "the text becomes comments of the C header")]

use crate::declare::{Item, c_constants, c_struct};
use libc::{
    c_char, c_int, c_uint, c_ulong, c_void, dev_t, flock, iovec, mode_t, off_t, size_t, stat, statfs,
};

/// The symbol a plugin exports: a `struct defuse_plugin`, as data.
pub const SYMBOL: &core::ffi::CStr = c"defuse_plugin";

c_constants! { CONSTANTS;
    /// First word of the table ("DFPL").
    pub const DEFUSE_MAGIC: u32 = 0x4c50_4644;
    /// A plugin of another major version is refused.
    pub const DEFUSE_ABI_MAJOR: u16 = 1;
    /// Grows when members are added to the end of a struct; never a reason to refuse.
    pub const DEFUSE_ABI_MINOR: u16 = 1;

    /// Functions may be called from several threads at once. Without it the host serialises them,
    /// and never calls `lock` and `flock`, which may block.
    pub const DEFUSE_CAP_THREAD_SAFE: u64 = 1;
    /// `open` may answer DEFUSE_OPENED_NATIVE.
    pub const DEFUSE_CAP_NATIVE_FD: u64 = 2;
    /// Wants fork_prepare, fork_parent and fork_child.
    pub const DEFUSE_CAP_FORK_HOOKS: u64 = 4;
    /// A backing_fd from `open` may be taken over by the host as the program's descriptor number,
    /// and move_fd tells the plugin of every later number.
    pub const DEFUSE_CAP_RELOCATABLE: u64 = 8;
    /// Honours DEFUSE_WRITE_APPEND atomically, between processes too.
    pub const DEFUSE_CAP_APPEND: u64 = 16;
    /// One read never sees half of one write to the same file.
    pub const DEFUSE_CAP_ATOMIC_IO: u64 = 32;
    /// Applies the process's umask itself. Without it the host clears those bits of every mode first.
    pub const DEFUSE_CAP_UMASK: u64 = 64;
    /// Follows symbolic links in the middle of a path by itself, so ELOOP never asks the host to walk.
    pub const DEFUSE_CAP_FOLLOWS_SYMLINKS: u64 = 128;
    /// Files are seen by this process only: its children and the next program image get copies or nothing.
    pub const DEFUSE_CAP_PROCESS_LOCAL: u64 = 256;
    /// Beside DEFUSE_CAP_RELOCATABLE: a handle is its descriptor and nothing else, which `open` makes by open(2),
    /// openat(2) or openat2(2). `restore` with no blob and that descriptor makes the handle again, and exec needs no `save`.
    pub const DEFUSE_CAP_BARE_FD: u64 = 512;
    /// `open` and `reopen` get O_CLOEXEC where the descriptor they make is to be closed by exec, and make it so; one that is
    /// handed over with DEFUSE_OPENED_NATIVE is open. The host then does not look at it again.
    pub const DEFUSE_CAP_CLOEXEC: u64 = 1024;

    /// `access` answers ELOOP for a symbolic link unless its `flags` have AT_SYMLINK_NOFOLLOW, and so does `setattr` if
    /// DEFUSE_SET_NO_LINK is in `valid`: the host need not look first at what is there.
    pub const DEFUSE_CAP_TELLS_LINKS: u64 = 2048;

    /// The program's descriptor becomes backing_fd itself; the handle is not used again.
    pub const DEFUSE_OPENED_NATIVE: u32 = 1;
    /// The host need not ask the plugin for locks on this handle: it has none.
    pub const DEFUSE_OPENED_NO_LOCKS: u32 = 2;

    /// Write at the end of the file, whatever `offset` says.
    pub const DEFUSE_WRITE_APPEND: u32 = 1;

    /// `backing_fd`: pages for a mapping.
    pub const DEFUSE_BACKING_MAP: u32 = 1;
    /// `backing_fd`: a file to execute.
    pub const DEFUSE_BACKING_EXEC: u32 = 2;
    /// `backing_fd`: the descriptor by which the handle alone reads and writes, to change its status flags.
    pub const DEFUSE_BACKING_FLAGS: u32 = 3;

    /// Bits of `defuse_setattr.valid`.
    pub const DEFUSE_SET_MODE: u32 = 1;
    /// Set uid.
    pub const DEFUSE_SET_UID: u32 = 2;
    /// Set gid.
    pub const DEFUSE_SET_GID: u32 = 4;
    /// Truncate or extend to size.
    pub const DEFUSE_SET_SIZE: u32 = 8;
    /// Set atime to the value given.
    pub const DEFUSE_SET_ATIME: u32 = 16;
    /// Set mtime to the value given.
    pub const DEFUSE_SET_MTIME: u32 = 32;
    /// Set atime to now; the value given is ignored.
    pub const DEFUSE_SET_ATIME_NOW: u32 = 64;
    /// Set mtime to now; the value given is ignored.
    pub const DEFUSE_SET_MTIME_NOW: u32 = 128;

    /// Nothing to set: a symbolic link is to be answered with ELOOP. For DEFUSE_CAP_TELLS_LINKS.
    pub const DEFUSE_SET_NO_LINK: u32 = 256;

    /// `defuse_more.valid`: btime.
    pub const DEFUSE_MORE_BTIME: u32 = 1;

    /// Level of a log line: something went wrong.
    pub const DEFUSE_LOG_ERROR: u32 = 1;
    /// Level of a log line: something looks wrong.
    pub const DEFUSE_LOG_WARN: u32 = 2;
    /// Level of a log line: worth knowing.
    pub const DEFUSE_LOG_INFO: u32 = 3;
    /// Level of a log line: for the author of the plugin.
    pub const DEFUSE_LOG_DEBUG: u32 = 4;
}

/// Takes one directory entry; `true`/non-zero means "enough, stop and return 0".
///
/// `next_cookie` is where a later `readdir` goes on *after* this entry; `d_type` is a `DT_*` value.
pub type Emit = unsafe extern "C" fn(
    ctx: *mut c_void,
    name: *const c_char,
    name_len: size_t,
    ino: u64,
    d_type: u32,
    next_cookie: u64,
) -> c_int;

c_struct! { HOST;
    /// What the host offers to a plugin. Valid until `finalize` returns.
    pub struct Host as "defuse_host" {
        /// Bytes of this struct as the host knows it.
        size: u32,
        /// Zero.
        reserved: u32,
        /// First argument of every function here.
        ctx: *mut c_void,
    }
    functions {
        /// Writes a line (no newline needed) to the host's log. Callable from anywhere, fork hooks too.
        fn log(ctx: *mut c_void, level: u32, text: *const c_char, len: size_t);
        /// With `on` 1: descriptors that this thread opens from now on are closed before the operation that it is in returns.
        /// Then the host need not keep them out of the program's sight at once, which takes four system calls each. With 0:
        /// others again.
        fn brief(ctx: *mut c_void, on: u32);
        /// 1 where memory and descriptors do not belong together: in the child of a vfork, which runs in its parent's memory with
        /// descriptors of its own, and where another process uses the same descriptors; also where there is no more room for them
        /// out of the program's sight. A descriptor that was opened in another operation
        /// may be another one here, or closed; one that is opened here is not to be kept for another operation. Else 0.
        fn transient(ctx: *mut c_void);
        /// openat2(2) for the descriptor that `open` is about to answer with, sooner than the plugin, whose system calls
        /// the host takes in, could make it. ENOSYS: the plugin is to make the call itself.
        fn openat2(ctx: *mut c_void, dirfd: c_int, path: *const c_char, flags: u64, mode: u64, resolve: u64, out_fd: *mut c_int);
    }
}

c_struct! { SETATTR;
    /// Attributes to change, all of those in `valid` or none.
    #[derive(Debug, Clone, Copy)]
    pub struct RawSetAttr as "defuse_setattr" {
        /// DEFUSE_SET_* bits; members that are not named there are to be ignored.
        valid: u32,
        /// Permission bits (07777).
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Length in bytes.
        size: u64,
        /// Last access.
        atime: libc::timespec,
        /// Last modification.
        mtime: libc::timespec,
    }
}

c_struct! { MORE;
    /// What statx(2) tells beyond `struct stat`. The host fills in zeros before the call.
    #[derive(Debug, Clone, Copy)]
    pub struct RawMore as "defuse_more" {
        /// DEFUSE_MORE_* bits of what is given; unknown ones are ignored.
        valid: u32,
        /// Zero.
        reserved: u32,
        /// When the file was made.
        btime: libc::timespec,
        /// STATX_ATTR_* bits that are set; the host knows itself what is the root of a mount.
        attributes: u64,
        /// Those that the file system knows.
        attributes_mask: u64,
    }
}

c_struct! { OPENED;
    /// Answer of `open` and `restore`. The host fills in {0, -1, 0, 0, 0} before the call.
    #[derive(Debug, Clone, Copy)]
    pub struct Opened as "defuse_opened" {
        /// The plugin's name for the open file, any value.
        handle: u64,
        /// A descriptor behind the file, or -1. With DEFUSE_OPENED_NATIVE the host takes it over.
        backing_fd: i32,
        /// DEFUSE_OPENED_* bits; unknown ones are ignored.
        reply_flags: u32,
        /// The file's type (S_IFMT bits of st_mode), or 0 when the plugin does not care to say.
        mode_type: u32,
        /// Zero.
        reserved: u32,
    }
}

c_struct! { TABLE;
    /// The table a plugin exports as `const struct defuse_plugin defuse_plugin`.
    ///
    /// Every function returns 0 or an errno value. `fs` is what `init` gave. A NULL member, or one
    /// beyond `size`, means ENOSYS or the default its comment names.
    ///
    /// Paths are NUL-terminated, relative to the mount and start with '/', without "." or ".." or
    /// repeated or trailing '/'. An operation acts on the last component itself and never follows it
    /// if it is a symbolic link; `open` of one answers ELOOP (unless O_PATH). A symbolic link in an
    /// earlier component is answered with ELOOP too: the host then walks by `readlink`.
    ///
    /// Functions run on a thread of the program, inside one of its system calls.
    #[derive(Debug, Clone, Copy)]
    pub struct Table as "defuse_plugin" {
        /// DEFUSE_MAGIC
        magic: u32,
        /// DEFUSE_ABI_MAJOR
        abi_major: u16,
        /// DEFUSE_ABI_MINOR
        abi_minor: u16,
        /// sizeof(struct defuse_plugin) as the plugin knows it.
        size: u32,
        /// Zero.
        reserved: u32,
        /// DEFUSE_CAP_* bits; unknown ones are ignored.
        capabilities: u64,
        /// A short name for messages, or NULL.
        name: *const c_char,
    }
    functions {
        /// Makes an instance for one mount. `backend` and `options` come from the user ("" when absent).
        /// On failure a message may be left in `error` (NUL-terminated, at most `error_size` bytes).
        fn init(host: *const Host, mount_point: *const c_char, backend: *const c_char, options: *const c_char,
            error: *mut c_char, error_size: size_t, out_fs: *mut *mut c_void);
        /// The last call on this instance; every handle was closed. Default: nothing.
        fn finalize(fs: *mut c_void);

        /// Attributes of the file at `path`.
        fn getattr(fs: *mut c_void, path: *const c_char, out: *mut stat);
        /// Attributes of an open file, also when its name is gone.
        fn fgetattr(fs: *mut c_void, handle: u64, out: *mut stat);
        /// Changes attributes.
        fn setattr(fs: *mut c_void, path: *const c_char, attr: *const RawSetAttr);
        /// Changes attributes of an open file.
        fn fsetattr(fs: *mut c_void, handle: u64, attr: *const RawSetAttr);

        /// Opens or creates. `flags` are open(2)'s without O_CLOEXEC (but see DEFUSE_CAP_CLOEXEC). O_RDWR comes with O_APPEND only if the plugin has
        /// DEFUSE_CAP_APPEND, DEFUSE_CAP_NATIVE_FD or DEFUSE_CAP_RELOCATABLE: others are told where the end is. Directories are opened here too.
        /// With O_TMPFILE `path` is the directory. The plugin checks permissions.
        fn open(fs: *mut c_void, path: *const c_char, flags: c_int, mode: mode_t, out: *mut Opened);
        /// The handle is not used again, whatever is returned.
        fn close(fs: *mut c_void, handle: u64);
        /// One of the descriptors that share the handle is being closed. Default: 0.
        fn flush(fs: *mut c_void, handle: u64);

        /// Reads at `offset`; fewer bytes than asked only at the end of the file.
        fn read(fs: *mut c_void, handle: u64, buf: *mut c_void, size: size_t, offset: off_t, out_read: *mut size_t);
        /// Writes at `offset`, or at the end with DEFUSE_WRITE_APPEND. `out_end` is the offset after the
        /// last byte written.
        fn write(fs: *mut c_void, handle: u64, buf: *const c_void, size: size_t, offset: off_t, flags: u32,
            out_written: *mut size_t, out_end: *mut off_t);
        /// As read, into several buffers. Default: read for each.
        fn readv(fs: *mut c_void, handle: u64, iov: *const iovec, count: c_int, offset: off_t, out_read: *mut size_t);
        /// As write, from several buffers. Default: write for each.
        fn writev(fs: *mut c_void, handle: u64, iov: *const iovec, count: c_int, offset: off_t, flags: u32,
            out_written: *mut size_t, out_end: *mut off_t);
        /// Makes data (and, unless `datasync`, attributes) durable. Default: 0.
        fn fsync(fs: *mut c_void, handle: u64, datasync: c_int);
        /// fallocate(2). Default: EOPNOTSUPP.
        fn fallocate(fs: *mut c_void, handle: u64, mode: c_int, offset: off_t, len: off_t);
        /// SEEK_DATA and SEEK_HOLE only. Default: all data, one hole at the end.
        fn lseek(fs: *mut c_void, handle: u64, offset: off_t, whence: c_int, out: *mut off_t);
        /// copy_file_range(2) inside the mount. Default: EOPNOTSUPP, and the host copies.
        fn copy_range(fs: *mut c_void, handle_in: u64, offset_in: off_t, handle_out: u64, offset_out: off_t,
            len: size_t, out_copied: *mut size_t);

        /// Hands entries to `emit` from `cookie` on (0: the start), "." and ".." among them, until it returns
        /// non-zero or the directory ends. A cookie stays good while the handle is open.
        fn readdir(fs: *mut c_void, handle: u64, cookie: u64, emit: Emit, ctx: *mut c_void);

        /// Makes a directory.
        fn mkdir(fs: *mut c_void, path: *const c_char, mode: mode_t);
        /// Removes an empty directory.
        fn rmdir(fs: *mut c_void, path: *const c_char);
        /// Removes a name. Files still open stay readable.
        fn unlink(fs: *mut c_void, path: *const c_char);
        /// renameat2(2) with its flags; EINVAL for flags that are not supported.
        fn rename(fs: *mut c_void, old_path: *const c_char, new_path: *const c_char, flags: c_uint);
        /// Another name for `path` (a symbolic link itself when it is one).
        fn link(fs: *mut c_void, path: *const c_char, new_path: *const c_char);
        /// A name for an open file, as linkat(2) with AT_EMPTY_PATH: for O_TMPFILE.
        fn flink(fs: *mut c_void, handle: u64, new_path: *const c_char);
        /// Makes a symbolic link at `path`.
        fn symlink(fs: *mut c_void, target: *const c_char, path: *const c_char);
        /// The target, cut at `size`, without a NUL.
        fn readlink(fs: *mut c_void, path: *const c_char, buf: *mut c_char, size: size_t, out_len: *mut size_t);
        /// A FIFO, socket, device or plain file.
        fn mknod(fs: *mut c_void, path: *const c_char, mode: mode_t, dev: dev_t);
        /// access(2); `flags` may hold AT_EACCESS (and see DEFUSE_CAP_TELLS_LINKS). Default: from getattr.
        fn access(fs: *mut c_void, path: *const c_char, mode: c_int, flags: c_int);

        /// statfs(2). Default: made up by the host.
        fn statfs(fs: *mut c_void, path: *const c_char, out: *mut statfs);
        /// fstatfs(2). Default: made up by the host.
        fn fstatfs(fs: *mut c_void, handle: u64, out: *mut statfs);
        /// syncfs(2) of the whole instance. Default: 0.
        fn syncfs(fs: *mut c_void);

        /// lgetxattr(2): with `size` 0 only the length is asked. Default of all eight: EOPNOTSUPP.
        fn getxattr(fs: *mut c_void, path: *const c_char, name: *const c_char, value: *mut c_void, size: size_t,
            out_len: *mut size_t);
        /// lsetxattr(2).
        fn setxattr(fs: *mut c_void, path: *const c_char, name: *const c_char, value: *const c_void, size: size_t,
            flags: c_int);
        /// llistxattr(2): names, each with its NUL.
        fn listxattr(fs: *mut c_void, path: *const c_char, list: *mut c_char, size: size_t, out_len: *mut size_t);
        /// lremovexattr(2).
        fn removexattr(fs: *mut c_void, path: *const c_char, name: *const c_char);
        /// getxattr of an open file.
        fn fgetxattr(fs: *mut c_void, handle: u64, name: *const c_char, value: *mut c_void, size: size_t,
            out_len: *mut size_t);
        /// setxattr of an open file.
        fn fsetxattr(fs: *mut c_void, handle: u64, name: *const c_char, value: *const c_void, size: size_t,
            flags: c_int);
        /// listxattr of an open file.
        fn flistxattr(fs: *mut c_void, handle: u64, list: *mut c_char, size: size_t, out_len: *mut size_t);
        /// removexattr of an open file.
        fn fremovexattr(fs: *mut c_void, handle: u64, name: *const c_char);

        /// fcntl(2) record locks: F_SETLK, F_SETLKW, F_GETLK and F_OFD_*; `lock` has absolute offsets
        /// (SEEK_SET). Default: ENOSYS, and the host keeps the locks.
        fn lock(fs: *mut c_void, handle: u64, cmd: c_int, lock: *mut flock);
        /// flock(2). Default: ENOSYS, and the host keeps the locks. To learn that, the host calls it with LOCK_NB
        /// alone, which is no operation (EINVAL).
        fn flock(fs: *mut c_void, handle: u64, operation: c_int);

        /// Writes what `restore` needs in the next program image into `blob`, and lists descriptors that have
        /// to stay open across exec, by their numbers. The handle stays open and usable. ERANGE when one of
        /// the buffers is too small, with both lengths set. Default: ENOSYS, and the host opens by path.
        fn save(fs: *mut c_void, handle: u64, blob: *mut c_void, blob_size: size_t, out_len: *mut size_t,
            keep_fds: *mut c_int, keep_size: size_t, out_keep: *mut size_t);
        /// Makes a handle from `save`'s blob. `fds` are the kept descriptors in the same order, perhaps under
        /// other numbers; they belong to the plugin from here on, unless it fails. See also DEFUSE_CAP_BARE_FD.
        fn restore(fs: *mut c_void, blob: *const c_void, len: size_t, fds: *const c_int, fd_count: size_t,
            out: *mut Opened);

        /// Before fork. The three run under the locks of libc's malloc: no allocation, and no waiting for a thread that may want malloc
        /// (one that is in the middle of an operation, unless operations allocate elsewhere).
        fn fork_prepare(fs: *mut c_void);
        /// After fork, in the parent.
        fn fork_parent(fs: *mut c_void);
        /// After fork, in the child, whose only thread this is.
        fn fork_child(fs: *mut c_void);

        /// Lends a descriptor whose pages are the file's, for a DEFUSE_BACKING_* purpose; it stays the
        /// plugin's. Default: ENOSYS, and the host pages through `read`.
        fn backing_fd(fs: *mut c_void, handle: u64, purpose: u32, out_fd: *mut c_int);
        /// The handle's descriptor has the number `new_fd` now (the host moved it; the old number is no longer
        /// the plugin's). `handle` holds the handle and takes its name from now on. Only for plugins with
        /// DEFUSE_CAP_RELOCATABLE, never beside another call on this handle; must not fail.
        fn move_fd(fs: *mut c_void, handle: *mut u64, new_fd: c_int);
        /// ioctl(2) the host does not serve itself. Default: ENOTTY.
        fn ioctl(fs: *mut c_void, handle: u64, request: c_ulong, arg: *mut c_void, out_result: *mut c_int);
        /// Opens the file behind a handle once more, as open(2) of /proc/self/fd does: also when its name is
        /// gone. `flags` as for `open`, never with O_CREAT. Default: ENOSYS, and the host opens by path.
        fn reopen(fs: *mut c_void, handle: u64, flags: c_int, out: *mut Opened);

        /// What getattr cannot tell, for programs that ask statx(2) for the time when the file was made. Default: nothing.
        fn getmore(fs: *mut c_void, path: *const c_char, out: *mut RawMore);
        /// The same of an open file.
        fn fgetmore(fs: *mut c_void, handle: u64, out: *mut RawMore);
    }
}

// SAFETY: a table is constant data, never written after it was made; the one pointer in it leads to a
// constant string.
unsafe impl Sync for Table {}
// SAFETY: as above.
unsafe impl Send for Table {}
// SAFETY: the host promises that its functions may be called from any thread, with this `ctx`.
unsafe impl Sync for Host {}
// SAFETY: as above.
unsafe impl Send for Host {}

/// Bytes before the first function: the least `size` a table may have.
pub const HEADER_SIZE: usize = core::mem::offset_of!(Table, init);

impl Table {
    /// A table with no function at all: every operation is missing.
    pub const fn empty(name: &'static core::ffi::CStr, capabilities: u64) -> Self {
        // SAFETY: all members are integers, a nullable pointer or `Option<fn>`, for all of which zero
        // is a valid value.
        let mut table: Self = unsafe { core::mem::zeroed() };
        table.magic = DEFUSE_MAGIC;
        table.abi_major = DEFUSE_ABI_MAJOR;
        table.abi_minor = DEFUSE_ABI_MINOR;
        table.size = size_of::<Self>() as u32;
        table.capabilities = capabilities;
        table.name = name.as_ptr();
        table
    }
}

impl Opened {
    /// What the host puts there before the call.
    pub const EMPTY: Self = Self { handle: 0, backing_fd: -1, reply_flags: 0, mode_type: 0, reserved: 0 };
}

/// Every declaration, in the order in which the header has them.
pub(crate) const STRUCTS: &[Item] = &[HOST, SETATTR, MORE, OPENED, TABLE];
