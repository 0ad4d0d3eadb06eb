//! The environment: what it tells us at the start, and what the next image must find in it.
//!
//! The program does not see our variables: they are taken out of its environment at the start and put back at exec,
//! so that `env -i`, `unsetenv` and scrubbed environments make no difference.

mod inheritance;
mod next_image;
mod taken;

use rustix::io::Errno;

use crate::user;
pub use inheritance::Inheritance;
pub use next_image::{Environment, NextImage};
pub use taken::{Found, names_session, take, without_preload};

/// The dynamic linker's list of libraries to load first.
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// How a name of this library in the session's folder ends that only glibc understands, see [`next_image`].
const GLIBC_NAME: &[u8] = b"/preload/$LIB/libdefuse.so";
/// The dynamic linker's list of directories.
const LIBRARY_PATH: &[u8] = b"LD_LIBRARY_PATH=";
/// The folder of the session.
const SESSION: &[u8] = b"DEFUSE_SESSION=";
/// What this image leaves to the next: `PROCESS PARENT PID ARENA STATE TOKEN SOFT HARD LENGTHS CWD EXE GUEST NAME`, see [`Inheritance`].
const INHERITANCE: &[u8] = b"DEFUSE_INHERITANCE=";

/// Stands before variables of a guest that its host's dynamic linker would go by.
const HIDDEN: &[u8] = b"DEFUSE_GUEST:";

/// The value of `LD_LIBRARY_PATH` in the program's environment at `envp`.
pub fn library_path(envp: u64) -> Result<Option<Vec<u8>>, Errno> {
    for pointer in pointers(envp)? {
        let mut matching = 0;
        while matching < LIBRARY_PATH.len()
            && user::read::<u8>(pointer + matching as u64)? == LIBRARY_PATH[matching]
        {
            matching += 1;
        }
        if matching == LIBRARY_PATH.len() {
            let mut value = Vec::new();
            append_c_string(pointer + LIBRARY_PATH.len() as u64, &mut value)?;
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The entries of a null-terminated array of pointers in the program's memory; a null array has none.
pub fn pointers(array: u64) -> Result<Vec<u64>, Errno> {
    let mut entries = Vec::with_capacity(64);
    if array == 0 {
        return Ok(entries);
    }
    for at in (array..).step_by(8) {
        match user::read::<u64>(at)? {
            0 => break,
            entry => entries.push(entry),
        }
    }
    Ok(entries)
}

fn append_c_string(address: u64, to: &mut Vec<u8>) -> Result<(), Errno> {
    for at in address.. {
        match user::read::<u8>(at)? {
            0 => break,
            byte => to.push(byte),
        }
    }
    Ok(())
}
