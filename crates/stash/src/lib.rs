//! The `stash` crate.
