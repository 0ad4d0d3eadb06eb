//! Mappings that the kernel has in several pieces, without what kernels after 6.1 have.

#[path = "split.rs"]
mod split;
