//! Threads that store, sync, drop pages and truncate at the same time, without what kernels after 6.1 have.

#[path = "threads.rs"]
mod threads;
