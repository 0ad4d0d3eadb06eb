//! Unmodified programs on a user-space file system: the thin interposer that composes the mechanism crates.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod heap;
pub mod mounts;
pub mod resolve;
#[allow(unsafe_code)]
mod sync;
