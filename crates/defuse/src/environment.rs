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
use crate::{libraries, namei, native, user};

/// The dynamic linker's list of libraries to load first.
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// How a name of this library in the session's folder ends that only glibc understands, see [`glibc_name`].
const GLIBC_NAME: &[u8] = b"/preload/$LIB/libdefuse.so";
/// The dynamic linker's list of directories.
const LIBRARY_PATH: &[u8] = b"LD_LIBRARY_PATH=";
/// The folder of the session.
const SESSION: &[u8] = b"DEFUSE_SESSION=";
/// What this image leaves to the next: `PROCESS ARENA STATE TOKEN SOFT HARD LENGTHS CWD EXE GUEST NAME`, see [`Inheritance`].
const INHERITANCE: &[u8] = b"DEFUSE_INHERITANCE=";

/// Stands before variables of a guest that its host's dynamic linker would go by.
const HIDDEN: &[u8] = b"DEFUSE_GUEST:";
/// What such variables begin with.
const LINKERS: [&[u8]; 2] = [b"LD_", b"GLIBC_TUNABLES="];

/// What the previous image left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inheritance {
    /// The process in the arena, if it is the same.
    pub process: Option<ProcessId>,
    /// A descriptor of the arena, for a process that has no right any more to open it.
    pub arena: Option<RawFd>,
    /// The previous image has served files, so that FDs of them may be here.
    pub serving: bool,
    /// It has used record locks of plugins, which exec keeps.
    pub locking: bool,
    /// Names the list of kept descriptors in the arena.
    pub token: Option<ExecToken>,
    /// RLIMIT_NOFILE as the program saw it.
    pub nofile: (u64, u64),
    /// Absolute path of the working directory, if that is on a mount.
    pub cwd: Vec<u8>,
    /// Absolute path of the program, if that is on a mount, or a guest.
    pub executable: Vec<u8>,
    /// Path of the program that this image is to become, if the image is a host.
    pub guest: Vec<u8>,
    /// Base name by which the program was called, where the kernel shows another one in `comm`; else empty.
    pub name: Vec<u8>,
}

impl Inheritance {
    fn to_variable(&self) -> Vec<u8> {
        let process = self.process.map_or(0, ProcessId::to_bits);
        let token = self.token.map_or_else(|| "-".into(), |token| token.to_string());
        let (soft, hard) = self.nofile;
        let state = u8::from(self.serving) | u8::from(self.locking) << 1;
        let (cwd, executable, guest) = (self.cwd.len(), self.executable.len(), self.guest.len());
        let arena = self.arena.map_or(0, |fd| fd + 1);
        let numbers = format!("{process} {arena} {state} {token} {soft} {hard} {cwd} {executable} {guest} ");
        let paths = [&self.cwd, &self.executable, &self.guest, &self.name];
        [INHERITANCE, numbers.as_bytes(), &paths.map(Vec::as_slice).concat(), b"\0"].concat()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words =
            text.splitn(10, |&byte| byte == b' ').map(|word| (word, std::str::from_utf8(word).ok()));
        let mut number = || words.next()?.1?.parse::<u64>().ok();
        let process = number()?;
        let arena = i32::try_from(number()?).ok()?;
        let state = number()?;
        let token = words.next()?.1?;
        let mut number = || words.next()?.1?.parse::<u64>().ok();
        let nofile = (number()?, number()?);
        let lengths = [number()? as usize, number()? as usize, number()? as usize];
        let (cwd, rest) = words.next()?.0.split_at_checked(lengths[0])?;
        let (executable, rest) = rest.split_at_checked(lengths[1])?;
        let (guest, name) = rest.split_at_checked(lengths[2])?;
        Some(Self {
            process: (process != 0).then(|| ProcessId::from_bits(process as u32)),
            arena: (arena > 0).then(|| arena - 1),
            serving: state & 1 != 0,
            locking: state & 2 != 0,
            token: if token == "-" { None } else { Some(token.parse().ok()?) },
            nofile,
            cwd: cwd.to_vec(),
            executable: executable.to_vec(),
            guest: guest.to_vec(),
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

/// What goes into the environment of the next image.
#[derive(Clone, Copy)]
pub struct NextImage<'a> {
    /// Why it cannot be intercepted.
    pub outsider: Option<Outsider>,
    /// Names the exec map.
    pub token: Option<ExecToken>,
    /// A descriptor of the arena, if it cannot open that.
    pub arena: Option<RawFd>,
    /// The program's path if that lies on a mount, or it is a guest; else empty.
    pub executable: &'a [u8],
    /// The program's path for the kernel if it is a guest, else empty.
    pub guest: &'a [u8],
    /// The base name by which it was called, if the kernel knows another.
    pub name: &'a [u8],
    /// Another value for `LD_LIBRARY_PATH`.
    pub library_path: Option<&'a [u8]>,
    /// It is not to be in this session.
    pub leaves: bool,
}

/// An environment for exec.
pub struct Environment {
    pointers: Vec<u64>,
    /// What some of the pointers point to.
    _strings: Vec<Vec<u8>>,
}

impl Environment {
    /// The environment at `envp`, with our variables in it.
    pub fn for_next_image(process: &'static Process, envp: u64, next: &NextImage<'_>) -> Result<Self, Errno> {
        let &NextImage { outsider, token, arena, executable, guest, name, library_path, leaves } = next;
        let library = preload_for(process, outsider);
        let mut preload = [PRELOAD, &library].concat();
        let mut pointers_to = Vec::new();
        let mut hidden = Vec::new();
        let library_path = library_path.map(|value| [LIBRARY_PATH, value, b"\0"].concat());
        let mut replaced = None;
        for pointer in pointers(envp)? {
            let mut start = [0; 20];
            // Short strings at the end of memory: byte by byte up to the longest of our names.
            let length = prefix(pointer, &mut start)?;
            let start = &start[..length];
            if !guest.is_empty() && LINKERS.iter().any(|name| start.starts_with(name)) {
                let mut variable = HIDDEN.to_vec();
                append_c_string(pointer, &mut variable)?;
                variable.push(0);
                pointers_to.push(variable.as_ptr() as u64);
                hidden.push(variable);
            } else if start.starts_with(PRELOAD) {
                if !library.is_empty() {
                    preload.push(b':');
                }
                append_c_string(pointer + PRELOAD.len() as u64, &mut preload)?;
            } else if let (true, Some(value)) = (start.starts_with(LIBRARY_PATH), &library_path) {
                replaced = Some(pointers_to.len());
                pointers_to.push(value.as_ptr() as u64);
            } else if !start.starts_with(SESSION) && !start.starts_with(INHERITANCE) {
                pointers_to.push(pointer);
            }
        }
        preload.push(0);
        let session = [SESSION, &process.folder, b"\0"].concat();
        let on_mount = process.with_cwd(|cwd| matches!(cwd, Cwd::Served { .. }));
        let cwd = if on_mount { namei::working_path(process)?.to_vec() } else { Vec::new() };
        let own = (!interpose::in_vfork_child()).then(|| process.me());
        let inheritance = Inheritance {
            process: token.map(ExecToken::process).or(own),
            arena,
            serving: process.serving.load(Ordering::Relaxed) != 0,
            // A vfork child has none.
            locking: crate::serve::locks::used() && !interpose::in_vfork_child(),
            token,
            nofile: process.nofile(),
            cwd,
            executable: executable.to_vec(),
            guest: guest.to_vec(),
            name: name.to_vec(),
        }
        .to_variable();
        let mut strings = if leaves { Vec::new() } else { vec![session, inheritance] };
        if preload.len() > PRELOAD.len() + 1 {
            strings.push(preload);
        }
        pointers_to.extend(strings.iter().map(|string| string.as_ptr() as u64));
        strings.append(&mut hidden);
        if let Some(value) = library_path {
            if replaced.is_none() {
                pointers_to.push(value.as_ptr() as u64);
            }
            strings.push(value);
        }
        pointers_to.push(0);
        Ok(Self { pointers: pointers_to, _strings: strings })
    }

    /// The array for the kernel; valid as long as `self`.
    pub fn pointer(&self) -> u64 {
        self.pointers.as_ptr() as u64
    }
}

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
    if process.library.ends_with(GLIBC_NAME) {
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
    Some([&process.folder, GLIBC_NAME].concat())
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
mod tests;
