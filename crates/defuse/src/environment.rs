//! The environment: what it tells us at the start, and what the next image must find in it.
//!
//! The program does not see our variables: they are taken out of its environment at the start and put back at exec,
//! so that `env -i`, `unsetenv` and scrubbed environments make no difference.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::{ExecToken, ProcessId};

use crate::image::Outsider;
use crate::process::{Cwd, Process};
use crate::{namei, native, user};

/// The dynamic linker's list of libraries to load first.
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// The folder of the session.
const SESSION: &[u8] = b"DEFUSE_SESSION=";
/// What this image leaves to the next: `PROCESS ARENA SERVING TOKEN SOFT HARD LENGTHS CWD EXE NAME`, see [`Inheritance`].
const INHERITANCE: &[u8] = b"DEFUSE_INHERITANCE=";

/// What the previous image left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inheritance {
    /// The process in the arena, if it is the same.
    pub process: Option<ProcessId>,
    /// A descriptor of the arena, for a process that has no right any more to open it.
    pub arena: Option<RawFd>,
    /// The previous image has served files, so that FDs of them may be here.
    pub serving: bool,
    /// Names the list of kept descriptors in the arena.
    pub token: Option<ExecToken>,
    /// RLIMIT_NOFILE as the program saw it.
    pub nofile: (u64, u64),
    /// Absolute path of the working directory, if that is on a mount.
    pub cwd: Vec<u8>,
    /// Absolute path of the program, if that is on a mount.
    pub executable: Vec<u8>,
    /// Base name by which the program was called, where the kernel shows another one in `comm`; else empty.
    pub name: Vec<u8>,
}

impl Inheritance {
    fn to_variable(&self) -> Vec<u8> {
        let process = self.process.map_or(0, ProcessId::to_bits);
        let token = self.token.map_or_else(|| "-".into(), |token| token.to_string());
        let (soft, hard) = self.nofile;
        let (serving, cwd, executable) = (u8::from(self.serving), self.cwd.len(), self.executable.len());
        let arena = self.arena.map_or(0, |fd| fd + 1);
        let numbers = format!("{process} {arena} {serving} {token} {soft} {hard} {cwd} {executable} ");
        [INHERITANCE, numbers.as_bytes(), &self.cwd, &self.executable, &self.name, b"\0"].concat()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words =
            text.splitn(9, |&byte| byte == b' ').map(|word| (word, std::str::from_utf8(word).ok()));
        let mut number = || words.next()?.1?.parse::<u64>().ok();
        let process = number()?;
        let arena = i32::try_from(number()?).ok()?;
        let serving = number()? != 0;
        let token = words.next()?.1?;
        let mut number = || words.next()?.1?.parse::<u64>().ok();
        let nofile = (number()?, number()?);
        let (cwd_length, executable_length) = (number()? as usize, number()? as usize);
        let (cwd, rest) = words.next()?.0.split_at_checked(cwd_length)?;
        let (executable, name) = rest.split_at_checked(executable_length)?;
        Some(Self {
            process: (process != 0).then(|| ProcessId::from_bits(process as u32)),
            arena: (arena > 0).then(|| arena - 1),
            serving,
            token: if token == "-" { None } else { Some(token.parse().ok()?) },
            nofile,
            cwd: cwd.to_vec(),
            executable: executable.to_vec(),
            name: name.to_vec(),
        })
    }
}

/// What the environment of a new image says about us.
#[derive(Debug, Default)]
pub struct Found {
    /// The session's folder.
    pub session: Option<PathBuf>,
    /// What the previous image left.
    pub inheritance: Option<Inheritance>,
    /// The entry of `LD_PRELOAD` that is this library.
    pub library: Vec<u8>,
}

/// Reads our variables out of the array of pointers at `envp` and takes them away from the program.
///
/// # Safety
/// `envp` is the environment that this image was started with: a null-terminated array, writable, of C strings that live as long as
/// the process; no other thread reads it yet.
pub unsafe fn take(envp: *mut *mut u8) -> Found {
    let mut found = Found::default();
    let (mut from, mut to) = (0, 0);
    loop {
        // SAFETY: `from` has not passed the terminating null.
        let entry = unsafe { *envp.add(from) };
        from += 1;
        if entry.is_null() {
            break;
        }
        // SAFETY: the caller vouches for the strings.
        let text = unsafe { std::ffi::CStr::from_ptr(entry.cast()) }.to_bytes();
        let keep = if let Some(path) = text.strip_prefix(SESSION) {
            found.session = Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
            false
        } else if let Some(left) = text.strip_prefix(INHERITANCE) {
            found.inheritance = Inheritance::parse(left);
            false
        } else if let Some(list) = text.strip_prefix(PRELOAD) {
            // Ours is the first: `defuse run` and `for_next_image` put it there.
            let end = list.iter().position(|&byte| matches!(byte, b':' | b' ')).unwrap_or(list.len());
            found.library = list[..end].to_vec();
            let others = &list[(end + 1).min(list.len())..];
            if others.is_empty() {
                false
            } else {
                // SAFETY: the shorter value fits where the longer one is; both end at the same NUL.
                unsafe {
                    let value = entry.add(PRELOAD.len());
                    std::ptr::copy(others.as_ptr(), value, others.len() + 1);
                }
                true
            }
        } else {
            true
        };
        if keep {
            // SAFETY: `to` is never ahead of `from`.
            unsafe { *envp.add(to) = entry };
            to += 1;
        }
    }
    // Nulls to the very end: who looks for the auxiliary vector behind the array (Go's runtime) finds none there, and
    // does not take what was left over for it.
    for freed in to..from {
        // SAFETY: between the new end and the old terminating null.
        unsafe { *envp.add(freed) = std::ptr::null_mut() };
    }
    found
}

/// An environment for exec.
pub struct Environment {
    pointers: Vec<u64>,
    /// What some of the pointers point to.
    _strings: Vec<Vec<u8>>,
}

impl Environment {
    /// The environment at `envp`, with our variables in it.
    /// `outsider` says if the next program cannot be intercepted; `executable` is its path if it lies on a mount.
    pub fn for_next_image(
        process: &'static Process,
        envp: u64,
        outsider: Option<Outsider>,
        token: Option<ExecToken>,
        arena: Option<RawFd>,
        executable: &[u8],
        name: &[u8],
    ) -> Result<Self, Errno> {
        let library = preload_for(process, outsider);
        let mut preload = [PRELOAD, &library].concat();
        let mut pointers_to = Vec::new();
        for pointer in pointers(envp)? {
            let mut start = [0; 20];
            // Short strings at the end of memory: byte by byte up to the longest of our names.
            let length = prefix(pointer, &mut start)?;
            let start = &start[..length];
            if start.starts_with(PRELOAD) {
                if !library.is_empty() {
                    preload.push(b':');
                }
                append_c_string(pointer + PRELOAD.len() as u64, &mut preload)?;
            } else if !start.starts_with(SESSION) && !start.starts_with(INHERITANCE) {
                pointers_to.push(pointer);
            }
        }
        preload.push(0);
        let session = [SESSION, &process.folder, b"\0"].concat();
        let on_mount = process.with_cwd(|cwd| matches!(cwd, Cwd::Served { .. }));
        let cwd = if on_mount { namei::working_directory(process)?.to_vec() } else { Vec::new() };
        let own = (!interpose::in_vfork_child()).then(|| process.me());
        let inheritance = Inheritance {
            process: token.map(ExecToken::process).or(own),
            arena,
            serving: process.serving.load(Ordering::Relaxed) != 0,
            token,
            nofile: process.nofile(),
            cwd,
            executable: executable.to_vec(),
            name: name.to_vec(),
        }
        .to_variable();
        let mut strings = vec![session, inheritance];
        if preload.len() > PRELOAD.len() + 1 {
            strings.push(preload);
        }
        pointers_to.extend(strings.iter().map(|string| string.as_ptr() as u64));
        pointers_to.push(0);
        Ok(Self { pointers: pointers_to, _strings: strings })
    }

    /// The array for the kernel; valid as long as `self`.
    pub fn pointer(&self) -> u64 {
        self.pointers.as_ptr() as u64
    }
}

/// This library, as `LD_PRELOAD` is to name it for the next program.
fn preload_for(process: &Process, outsider: Option<Outsider>) -> Vec<u8> {
    match outsider {
        // Its dynamic linker would complain of a library for another machine.
        Some(Outsider::OtherMachine) => Vec::new(),
        // It would fail to load it. What it starts finds it by this name, which only glibc understands.
        Some(Outsider::Musl) => glibc_name(process).unwrap_or_default(),
        Some(Outsider::Static | Outsider::Privileged) | None => process.library.clone(),
    }
}

/// A name of this library with the token `$LIB` in it (ld.so(8)), for which musl looks in vain.
fn glibc_name(process: &Process) -> Option<Vec<u8>> {
    const BELOW: &[u8] = b"/preload/$LIB/libdefuse.so";
    if process.library.ends_with(BELOW) {
        return Some(process.library.clone());
    }
    let made = |result: Result<u64, Errno>| matches!(result, Ok(_) | Err(Errno::EXIST)).then_some(());
    let path = |below: &str| [&process.folder, below.as_bytes(), b"\0"].concat();
    let folder = |below: &str| {
        made(native::checked(sys::__NR_mkdir, [path(below).as_ptr() as u64, 0o711, 0, 0, 0, 0]))
    };
    let library = [process.library.as_slice(), b"\0"].concat();
    folder("/preload")?;
    folder("/preload/lib")?;
    // What `$LIB` stands for: on Debian, on Fedora, elsewhere.
    for below in ["/preload/lib/x86_64-linux-gnu", "/preload/lib64", "/preload/lib"] {
        folder(below)?;
        let link = path(&format!("{below}/libdefuse.so"));
        let names = [library.as_ptr() as u64, link.as_ptr() as u64, 0, 0, 0, 0];
        made(native::checked(sys::__NR_symlink, names))?;
    }
    Some([&process.folder, BELOW].concat())
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

fn prefix(address: u64, start: &mut [u8]) -> Result<usize, Errno> {
    for (index, place) in start.iter_mut().enumerate() {
        *place = user::read::<u8>(address + index as u64)?;
        if *place == 0 {
            return Ok(index);
        }
    }
    Ok(start.len())
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

#[cfg(test)]
mod tests {
    use super::{Inheritance, ProcessId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_left_is_found(cwd in "(/[a-z /]{0,20})?", executable in "(/[a-z /]{0,20})?", soft: u64, hard: u64, process: u32) {
            let left = Inheritance {
                process: (process != 0).then(|| ProcessId::from_bits(process)),
                arena: (hard % 3 == 0).then_some((hard % 1000) as i32),
                serving: soft % 2 == 1,
                token: None,
                nofile: (soft, hard),
                cwd: cwd.into_bytes(),
                name: executable.as_bytes().iter().rev().copied().collect(),
                executable: executable.into_bytes(),
            };
            let text = left.to_variable();
            let value = text.strip_prefix(super::INHERITANCE).unwrap().strip_suffix(b"\0").unwrap();
            prop_assert_eq!(Inheritance::parse(value), Some(left));
        }
    }

    #[test]
    fn nonsense_is_no_inheritance() {
        for text in [
            "",
            "-",
            "1 0 0 -",
            "1 0 0 - a b 0 0 ",
            "1 0 0 x-y-z 1 2 0 0 ",
            "1 0 0 - 1 2 9 0 /",
            "1 0 0 - 1 2 0 9 /",
            "1 0 0 - 1 2 0 ",
        ] {
            assert_eq!(Inheritance::parse(text.as_bytes()), None, "{text}");
        }
    }
}
