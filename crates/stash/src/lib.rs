#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod arena;
mod backing;
mod births;
mod bitmap;
mod blob;
mod block;
mod checksum;
mod elsewhere;
mod error;
mod exec_map;
mod layout;
mod lock;
#[allow(unsafe_code)]
mod map;
#[cfg(all(test, loom))]
mod models;
mod offset;
mod path;
mod process;
mod process_status;
mod robust;
mod shadow;
mod slot;
mod sweep;
mod trust;
mod word;

pub use arena::{Arena, ArenaConfig, Stats};
pub use births::Births;
pub use elsewhere::has_ended_elsewhere;
pub use error::StashError;
pub use exec_map::{ExecEntry, ExecToken};
pub use layout::{BLOB_MAX_LEN, PATH_MAX_LEN};
pub use lock::{Holder, InodeGuard, SlotGuard};
pub use process::{Image, Process, ProcessId};
pub use slot::{Description, Kind, Slot, SlotId};
pub use sweep::Swept;
pub use trust::check_trusted;
