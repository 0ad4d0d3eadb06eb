//! `fdtable` maps the file descriptors of one process to *open file descriptions* of any type `T`.
//!
//! It is for code that serves some of a process's files itself, inside that process: user-space file systems,
//! user-space network stacks, sandboxes. The kernel chooses the FD numbers; the table remembers what each one
//! stands for, with the semantics of the kernel's own table: several FDs may share one description (`dup`), each FD
//! has its own close-on-exec flag, and a description lives until its last FD is closed and its last user is done.
//!
//! - [`FdTable`]: the table. Looking up takes no lock, allocates nothing and registers no thread.
//! - [`Ref`]: a description in use. It stays valid whatever happens to the FD meanwhile.
//! - [`Released`]: what an FD stood for until it was closed or replaced.
//! - [`FdStates`]: one byte per FD, for a fast path in assembly that only asks "is this FD mine?".
//!
//! ```
//! use fdtable::FdTable;
//!
//! static OPEN: FdTable<String> = FdTable::new();
//!
//! OPEN.insert(3, "/etc/motd".to_owned(), false)?;
//! OPEN.dup(3, 7, true)?;
//! let file = OPEN.get(7).expect("open");
//!
//! assert!(!OPEN.remove(3).expect("open").is_last_fd());
//! assert!(OPEN.remove(7).expect("open").is_last_fd());
//! assert_eq!(*file, "/etc/motd"); // still in use here, dropped with `file`
//! assert!(OPEN.is_empty());
//! # Ok::<(), fdtable::Error>(())
//! ```

mod description;
mod directory;
mod entry;
mod error;
mod handle;
mod states;
mod sync;
mod table;
mod word;

pub use error::Error;
pub use handle::{Ref, Released};
pub use states::{FdState, FdStates};
pub use table::FdTable;

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
