//! The `defuse` command.

// Rust's own entry would ignore SIGPIPE before `main`, and the program that `defuse run` starts would inherit something that
// nobody asked for. Without it, signal dispositions stay as they were when the command was started.
#![cfg_attr(not(test), no_main)]

// In the test harness nobody calls its entry.
#[cfg_attr(test, allow(dead_code))]
mod cli;

#[cfg(not(test))]
use std::ffi::{c_char, c_int, c_void};

/// Called by the C start-up code. Arguments are read through [`std::env::args_os`].
// SAFETY: no other object of the program defines `main`, and this has the signature that the C start-up code calls.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(
    count: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    type Host = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char);
    // SAFETY: looks for a name, which only the preloaded library has; its function gets what it says, and comes back unless this process was
    // started to run a program that does not load the library.
    unsafe {
        let host: *mut c_void = libc::dlsym(libc::RTLD_DEFAULT, c"defuse_run_guest".as_ptr());
        if !host.is_null() {
            std::mem::transmute::<*mut c_void, Host>(host)(count, arguments, environment);
        }
    }
    std::process::exit(cli::main(std::env::args_os()))
}
