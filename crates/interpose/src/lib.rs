//! The `interpose` crate.

pub mod rewrite;
