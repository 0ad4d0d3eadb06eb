//! What a sequence is made of. Every step makes sense in any state, so that any can be left out.

use std::fmt;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `O_RDONLY`
    Read,
    /// `O_WRONLY`
    Write,
    /// `O_RDWR`
    Both,
}

/// One operation. Paths are relative to the directory the kit works in; slots hold open files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the operation's arguments, and Display shows them")]
pub enum Step {
    Open { slot: usize, path: String, access: Access, create: bool, exclusive: bool, truncate: bool },
    Close { slot: usize },
    Read { slot: usize, offset: u64, len: usize },
    Write { slot: usize, offset: u64, len: usize, fill: u8 },
    Append { slot: usize, len: usize, fill: u8 },
    ReadVector { slot: usize, offset: u64, lens: [usize; 3] },
    WriteVector { slot: usize, offset: u64, lens: [usize; 3], fill: u8 },
    Stat { path: String },
    StatOpen { slot: usize },
    Truncate { path: String, size: u64 },
    TruncateOpen { slot: usize, size: u64 },
    Chmod { path: String, mode: u32 },
    Utime { path: String, seconds: i64 },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Unlink { path: String },
    Rename { old: String, new: String, flags: u32 },
    Link { old: String, new: String },
    Symlink { target: String, path: String },
    Readlink { path: String, size: usize },
    List { path: String, at_once: usize },
    Access { path: String, mode: i32 },
    SetXattr { path: String, name: &'static str, len: usize, flags: i32 },
    GetXattr { path: String, name: &'static str, size: usize },
    ListXattr { path: String },
    RemoveXattr { path: String, name: &'static str },
    Allocate { slot: usize, mode: i32, offset: u64, len: u64 },
    Seek { slot: usize, offset: u64, hole: bool },
    Copy { from: usize, from_at: u64, to: usize, to_at: u64, len: usize },
    Sync { slot: usize, datasync: bool },
    SaveRestore { slot: usize },
}

impl Step {
    /// Passes every slot and every path the step names.
    pub(super) fn visit(
        &mut self,
        on_slot: &mut dyn FnMut(&mut usize),
        on_path: &mut dyn FnMut(&mut String),
    ) {
        match self {
            Self::Open { slot, path, .. } => {
                on_slot(slot);
                on_path(path);
            }
            Self::Close { slot }
            | Self::Read { slot, .. }
            | Self::Write { slot, .. }
            | Self::Append { slot, .. }
            | Self::ReadVector { slot, .. }
            | Self::WriteVector { slot, .. }
            | Self::StatOpen { slot }
            | Self::TruncateOpen { slot, .. }
            | Self::Allocate { slot, .. }
            | Self::Seek { slot, .. }
            | Self::Sync { slot, .. }
            | Self::SaveRestore { slot } => on_slot(slot),
            Self::Copy { from, to, .. } => {
                on_slot(from);
                on_slot(to);
            }
            Self::Stat { path }
            | Self::Truncate { path, .. }
            | Self::Chmod { path, .. }
            | Self::Utime { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Rmdir { path }
            | Self::Unlink { path }
            | Self::Symlink { path, .. }
            | Self::Readlink { path, .. }
            | Self::List { path, .. }
            | Self::Access { path, .. }
            | Self::SetXattr { path, .. }
            | Self::GetXattr { path, .. }
            | Self::ListXattr { path }
            | Self::RemoveXattr { path, .. } => on_path(path),
            Self::Rename { old, new, .. } | Self::Link { old, new } => {
                on_path(old);
                on_path(new);
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { slot, path, access, create, exclusive, truncate } => {
                let access = match access {
                    Access::Read => "O_RDONLY",
                    Access::Write => "O_WRONLY",
                    Access::Both => "O_RDWR",
                };
                let flag = |set: &bool, name| if *set { name } else { "" };
                let (create, exclusive) = (flag(create, "|O_CREAT"), flag(exclusive, "|O_EXCL"));
                write!(f, "h{slot} = open({path}, {access}{create}{exclusive}{})", flag(truncate, "|O_TRUNC"))
            }
            Self::Close { slot } => write!(f, "close(h{slot})"),
            Self::Read { slot, offset, len } => write!(f, "read(h{slot}, {len} bytes at {offset})"),
            Self::Write { slot, offset, len, fill } => {
                write!(f, "write(h{slot}, {len} bytes from {fill:#04x} up at {offset})")
            }
            Self::Append { slot, len, fill } => write!(f, "append(h{slot}, {len} bytes from {fill:#04x} up)"),
            Self::ReadVector { slot, offset, lens } => {
                write!(f, "readv(h{slot}, {lens:?} bytes at {offset})")
            }
            Self::WriteVector { slot, offset, lens, fill } => {
                write!(f, "writev(h{slot}, {lens:?} bytes from {fill:#04x} up at {offset})")
            }
            Self::Stat { path } => write!(f, "getattr({path})"),
            Self::StatOpen { slot } => write!(f, "fgetattr(h{slot})"),
            Self::Truncate { path, size } => write!(f, "setattr({path}, size {size})"),
            Self::TruncateOpen { slot, size } => write!(f, "fsetattr(h{slot}, size {size})"),
            Self::Chmod { path, mode } => write!(f, "setattr({path}, mode {mode:#o})"),
            Self::Utime { path, seconds } => write!(f, "setattr({path}, mtime {seconds})"),
            Self::Mkdir { path, mode } => write!(f, "mkdir({path}, {mode:#o})"),
            Self::Rmdir { path } => write!(f, "rmdir({path})"),
            Self::Unlink { path } => write!(f, "unlink({path})"),
            Self::Rename { old, new, flags: 0 } => write!(f, "rename({old}, {new})"),
            Self::Rename { old, new, flags } => {
                let name =
                    if *flags == libc::RENAME_NOREPLACE { "RENAME_NOREPLACE" } else { "RENAME_EXCHANGE" };
                write!(f, "rename({old}, {new}, {name})")
            }
            Self::Link { old, new } => write!(f, "link({old}, {new})"),
            Self::Symlink { target, path } => write!(f, "symlink(\"{target}\", {path})"),
            Self::Readlink { path, size } => write!(f, "readlink({path}, {size} bytes)"),
            Self::List { path, at_once: usize::MAX } => write!(f, "readdir({path})"),
            Self::List { path, at_once } => write!(f, "readdir({path}, {at_once} at once)"),
            Self::Access { path, mode } => write!(f, "access({path}, {mode})"),
            Self::SetXattr { path, name, len, flags } => {
                let flags = match *flags {
                    libc::XATTR_CREATE => ", XATTR_CREATE",
                    libc::XATTR_REPLACE => ", XATTR_REPLACE",
                    _ => "",
                };
                write!(f, "setxattr({path}, {name}, {len} bytes{flags})")
            }
            Self::GetXattr { path, name, size } => write!(f, "getxattr({path}, {name}, {size} bytes)"),
            Self::ListXattr { path } => write!(f, "listxattr({path})"),
            Self::RemoveXattr { path, name } => write!(f, "removexattr({path}, {name})"),
            Self::Allocate { slot, mode, offset, len } => {
                write!(f, "fallocate(h{slot}, mode {mode}, {len} bytes at {offset})")
            }
            Self::Seek { slot, offset, hole } => {
                write!(f, "lseek(h{slot}, {offset}, {})", if *hole { "SEEK_HOLE" } else { "SEEK_DATA" })
            }
            Self::Copy { from, from_at, to, to_at, len } => {
                write!(f, "copy_range(h{from} at {from_at}, h{to} at {to_at}, {len} bytes)")
            }
            Self::Sync { slot, datasync } => {
                write!(f, "{}(h{slot})", if *datasync { "fdatasync" } else { "fsync" })
            }
            Self::SaveRestore { slot } => write!(f, "h{slot} = restore(save(h{slot}))"),
        }
    }
}
