#![doc = include_str!("../README.md")]

pub mod abi;
#[cfg(feature = "conformance")]
pub mod conformance;
mod declare;
mod elf;
mod errno;
mod export;
mod filesystem;
mod handle;
pub mod header;
mod host;
mod instance;
mod listing1;
mod loader;
mod more;
mod path;
pub mod permission;
mod serial;
mod setattr;
pub mod trust;
mod types;

pub use core::ffi::CStr;
pub use errno::{Errno, Result};
pub use export::table_of;
pub use filesystem::FileSystem;
pub use handle::RawHandle;
pub use host::{Host, LOG_LINE, Level};
pub use instance::{Handle, Instance, Saved};
pub use libc::{flock, stat, statfs, timespec};
pub use loader::{Form, LoadError, Plugin};
pub use path::MountPath;
pub use types::{
    Capabilities, DirEntry, DirSink, InitError, MoreAttributes, Open, Purpose, SaveSink, SetAttr, SetTime,
    Setup, Written, empty_stat, empty_statfs,
};
