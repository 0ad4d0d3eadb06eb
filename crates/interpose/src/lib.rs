//! The `interpose` crate.
