//! The `defuse` command.

// Rust's own entry would ignore SIGPIPE before `main`, and the program that `defuse run` starts would inherit something that
// nobody asked for. Without it, signal dispositions stay as they were when the command was started.
#![cfg_attr(not(test), no_main)]

// In the test harness nobody calls its entry.
#[cfg_attr(test, allow(dead_code))]
mod cli;

#[cfg(not(test))]
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
#[cfg(not(test))]
use std::os::unix::ffi::OsStrExt;
#[cfg(not(test))]
use std::path::Path;

#[cfg(not(test))]
use defuse::session::names;

/// What a shell says of a program that cannot be run.
#[cfg(not(test))]
const CANNOT_RUN: i32 = 126;

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
    if is_host() {
        // The words are those of the program in whose place this was executed: none is for the command.
        let program = std::env::args_os().next().unwrap_or_default();
        eprintln!(
            "defuse: cannot run '{}': its host has not got the library, or nothing of the session (was the environment changed?)",
            program.display()
        );
        std::process::exit(CANNOT_RUN);
    }
    std::process::exit(cli::main(std::env::args_os()))
}

/// Whether this was executed as the host of a program: by a session's link of that name.
#[cfg(not(test))]
fn is_host() -> bool {
    // SAFETY: the kernel's text, which stays.
    let called = unsafe {
        let text = libc::getauxval(libc::AT_EXECFN) as *const c_char;
        if text.is_null() {
            return false;
        }
        CStr::from_ptr(text)
    };
    let name = Path::new(OsStr::from_bytes(called.to_bytes())).file_name();
    name.is_some_and(|name| name == names::HOST || name == names::HOST_OF_STATIC)
}
