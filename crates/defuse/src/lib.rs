//! Unmodified programs on a user-space file system: the thin interposer that composes the mechanism crates.
//!
//! `docs/architecture.md` follows one `read` through it.
#![deny(unsafe_code)]

mod address_space;
#[allow(unsafe_code)]
mod atfork;
mod carried;
mod common;
mod dynamic;
#[allow(unsafe_code)]
mod environment;
pub mod errno;
mod fdinfo;
mod file;
#[allow(unsafe_code)]
mod guest;
mod handover;
#[allow(unsafe_code)]
mod heap;
#[allow(unsafe_code)]
mod helper_process;
pub mod image;
#[allow(unsafe_code)]
mod leaving;
mod lending;
mod libraries;
mod listing;
mod lock_files;
mod locked_inodes;
pub mod log;
mod mount;
pub mod mounts;
mod namei;
#[allow(unsafe_code)]
mod native;
mod next_image;
mod nofile;
mod openat2;
#[allow(unsafe_code)]
mod paging;
mod parcel;
pub mod path_bytes;
mod private_fd;
mod proc_links;
mod process;
mod program;
pub mod resolve;
mod restoring;
pub mod running;
mod serve;
pub mod session;
mod shadow;
pub mod site_lists;
pub mod standing;
#[allow(unsafe_code)]
mod start;
#[allow(unsafe_code)]
mod stream_list;
#[allow(unsafe_code)]
mod sync;
pub mod table;
#[allow(unsafe_code)]
mod thread;
#[allow(unsafe_code)]
mod trace;
mod unclaimed;
#[allow(unsafe_code)]
mod user;
mod vfork;
mod working_directory;
