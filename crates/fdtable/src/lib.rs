//! The `fdtable` crate.
