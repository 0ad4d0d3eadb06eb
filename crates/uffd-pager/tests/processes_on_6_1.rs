//! Processes, without what kernels after 6.1 have.

#[path = "processes.rs"]
mod processes;
