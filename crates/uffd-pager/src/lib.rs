#![doc = include_str!("../README.md")]

mod attached;
mod buffers;
mod cache;
mod error;
mod fault;
mod fill;
mod fork;
mod give_back;
mod held;
mod ledger;
mod mapping;
mod memory;
#[cfg(feature = "monitor")]
pub mod monitor;
mod open;
mod owner;
mod page;
mod pager;
mod prefault;
mod registry;
mod request;
mod resident;
mod room;
mod runs;
pub mod signal;
mod signals;
mod source;
mod table;
mod uffd;
mod view;
mod wait;
mod writeback;

pub use buffers::MAX_NESTING;
pub use cache::{Cache, DEFAULT_CAPACITY};
pub use error::{Error, Result};
pub use fault::Handled;
pub use mapping::{Protection, Sharing};
pub use memory::{Place, Remap};
pub use page::PAGE;
pub use pager::{Host, Mode, Pager, Source};
pub use prefault::{Kept, Prefaulted};
pub use request::MapRequest;
pub use rustix::io::Errno;
pub use source::PageSource;
pub use uffd::Features;
pub use view::{Changed, View};
