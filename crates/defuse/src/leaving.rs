//! A program that goes outside of its session: the command, which is about to make another one (`docs/decisions/runner.md`).

use std::ffi::{CString, c_char};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Path of the folder of this process's session.
static FOLDER: OnceLock<CString> = OnceLock::new();

/// The program has said that it goes.
static LEAVES: AtomicBool = AtomicBool::new(false);

/// Said by the constructor: this process is in the session at `folder`.
pub fn announce(folder: &[u8]) {
    if let Ok(folder) = CString::new(folder) {
        let _ = FOLDER.set(folder);
    }
}

/// Whether the next image is not to be in this session, nor to have this library, because the program has said so.
pub fn is_leaving() -> bool {
    LEAVES.load(Ordering::Relaxed)
}

/// Called by the command: what it executes next is not to be in this session. Returns the path of the session's folder, a C string that stays, or null where
/// this process is in none.
#[unsafe(no_mangle)]
pub extern "C" fn defuse_leave_session() -> *const c_char {
    let Some(folder) = FOLDER.get() else { return std::ptr::null() };
    LEAVES.store(true, Ordering::Relaxed);
    folder.as_ptr()
}
