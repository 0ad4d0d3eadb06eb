//! The `uffd-pager` crate.
