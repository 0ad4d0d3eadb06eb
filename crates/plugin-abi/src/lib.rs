//! The `plugin-abi` crate.
