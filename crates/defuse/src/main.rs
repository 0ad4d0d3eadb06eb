//! The `defuse` command.

// Rust's own entry would ignore SIGPIPE before `main`, and the program that `defuse run` starts would inherit something that
// nobody asked for. Without it, signal dispositions stay as they were when the command was started.
#![cfg_attr(not(test), no_main)]

// In the test harness nobody calls its entry.
#[cfg_attr(test, allow(dead_code))]
mod cli;

#[cfg(not(test))]
use std::ffi::{c_char, c_int};

/// Called by the C start-up code. Arguments are read through [`std::env::args_os`].
// SAFETY: no other object of the program defines `main`, and this has the signature that the C start-up code calls.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    std::process::exit(cli::main(std::env::args_os()))
}
