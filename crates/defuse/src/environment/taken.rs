//! What is taken out of the environment at the start of an image.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{GLIBC_NAME, HIDDEN, INHERITANCE, Inheritance, LIBRARY_PATH, PRELOAD, SESSION};
use crate::libraries;

/// What the environment of a new image says about us.
#[derive(Debug, Default)]
pub struct Found {
    /// The session's folder.
    pub session: Option<PathBuf>,
    /// What the previous image left.
    pub inheritance: Option<Inheritance>,
    /// This library, as the dynamic linker was told of it.
    pub library: Vec<u8>,
}

/// Whether the environment names a session. All that happens in a process outside of one.
///
/// # Safety
/// As for [`take`].
pub unsafe fn names_session(envp: *mut *mut u8) -> bool {
    let mut at = envp;
    // SAFETY: the caller vouches for the array and its strings; neither is left.
    unsafe {
        while !(*at).is_null() {
            if std::ffi::CStr::from_ptr((*at).cast()).to_bytes().starts_with(SESSION) {
                return true;
            }
            at = at.add(1);
        }
    }
    false
}

/// The pointers of the array at `envp` but for those to `LD_PRELOAD`, and a null: the environment of a command that does not need this library.
///
/// # Safety
/// As for [`take`].
pub unsafe fn without_preload(envp: *mut *mut u8) -> Vec<u64> {
    let mut pointers = Vec::with_capacity(64);
    let mut at = envp;
    // SAFETY: the caller vouches for the array and its strings; neither is left.
    unsafe {
        while !(*at).is_null() {
            if !std::ffi::CStr::from_ptr((*at).cast()).to_bytes().starts_with(PRELOAD) {
                pointers.push(*at as u64);
            }
            at = at.add(1);
        }
    }
    pointers.push(0);
    pointers
}

/// Reads our variables out of the array of pointers at `envp` and takes them away from the program.
///
/// # Safety
/// `envp` is the environment that this image was started with: a null-terminated array, writable, of C strings that live as long as
/// the process; no other thread reads it yet.
pub unsafe fn take(envp: *mut *mut u8, own_name: &[u8]) -> Found {
    let mut found = Found { library: own_name.to_vec(), ..Found::default() };
    let (mut from, mut to) = (0, 0);
    let mut library_path = None;
    loop {
        let mut shown = 0;
        // SAFETY: `from` has not passed the terminating null.
        let entry = unsafe { *envp.add(from) };
        from += 1;
        if entry.is_null() {
            break;
        }
        // SAFETY: the caller vouches for the strings.
        let text = unsafe { std::ffi::CStr::from_ptr(entry.cast()) }.to_bytes();
        let keep = if text.starts_with(HIDDEN) {
            shown = HIDDEN.len();
            true
        } else if let Some(path) = text.strip_prefix(SESSION) {
            found.session = Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
            false
        } else if let Some(left) = text.strip_prefix(INHERITANCE) {
            found.inheritance = Inheritance::parse(left);
            false
        } else if let Some(list) = text.strip_prefix(PRELOAD) {
            // Ours is the first, as `defuse run` and `for_next_image` put it there, unless it came by /etc/ld.so.preload.
            let end = list.iter().position(|&byte| matches!(byte, b':' | b' ')).unwrap_or(list.len());
            if is_this_library(&list[..end], own_name) {
                found.library = list[..end].to_vec();
                let others = &list[(end + 1).min(list.len())..];
                // SAFETY: the shorter value fits where the longer one is; both end at the same NUL.
                unsafe {
                    let value = entry.add(PRELOAD.len());
                    std::ptr::copy(others.as_ptr(), value, others.len() + 1);
                }
                !others.is_empty()
            } else {
                true
            }
        } else {
            if text.starts_with(LIBRARY_PATH) {
                library_path = Some(to);
            }
            true
        };
        if keep {
            // SAFETY: `to` is never ahead of `from`, and the string is longer than what is left out of it.
            unsafe { *envp.add(to) = entry.add(shown) };
            to += 1;
        }
    }
    // Nulls to the very end: who looks for the auxiliary vector behind the array (Go's runtime) finds none there, and
    // does not take what was left over for it.
    for freed in to..from {
        // SAFETY: between the new end and the old terminating null.
        unsafe { *envp.add(freed) = std::ptr::null_mut() };
    }
    if let (Some(session), Some(at)) = (&found.session, library_path) {
        // SAFETY: the caller's array, and `at` is before its end.
        unsafe { take_mirrors_out(envp.add(at), session.as_os_str().as_bytes()) };
    }
    found
}

/// Whether an entry of `LD_PRELOAD` names this library, which the dynamic linker knows as `own_name`.
fn is_this_library(entry: &[u8], own_name: &[u8]) -> bool {
    entry == own_name || entry.ends_with(GLIBC_NAME)
}

/// Gives the variable at `place` the value that it has for the program.
///
/// # Safety
/// As for [`take`]; `place` holds a `LD_LIBRARY_PATH=...`.
unsafe fn take_mirrors_out(place: *mut *mut u8, folder: &[u8]) {
    // SAFETY: the caller vouches for the string.
    let entry = unsafe { *place };
    // SAFETY: as above.
    let text = unsafe { std::ffi::CStr::from_ptr(entry.cast()) }.to_bytes();
    let value = &text[LIBRARY_PATH.len()..];
    let plain = libraries::without_mirrors(value, folder);
    if plain.len() == value.len() {
        return;
    }
    if plain.is_empty() {
        // There was none. What follows moves up.
        let mut at = place;
        loop {
            // SAFETY: stops at the terminating null.
            unsafe {
                *at = *at.add(1);
                if (*at).is_null() {
                    return;
                }
                at = at.add(1);
            }
        }
    }
    // SAFETY: the shorter value fits where the longer one is.
    unsafe {
        let start = entry.add(LIBRARY_PATH.len());
        std::ptr::copy(plain.as_ptr(), start, plain.len());
        *start.add(plain.len()) = 0;
    }
}
