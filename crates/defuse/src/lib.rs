//! Unmodified programs on a user-space file system: the library that is loaded into each process, and the parts that it
//! shares with the `defuse` command.

pub mod errno;
pub mod log;
pub mod session;
pub mod table;
