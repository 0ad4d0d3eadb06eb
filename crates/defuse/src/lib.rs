//! The `defuse` crate.
