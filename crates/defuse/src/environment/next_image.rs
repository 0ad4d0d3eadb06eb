//! What is put into the environment of the next image.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as sys;
use rustix::io::Errno;
use stash::{ExecToken, ProcessId};

use super::{
    GLIBC_NAME, HIDDEN, INHERITANCE, Inheritance, LIBRARY_PATH, PRELOAD, SESSION, append_c_string, pointers,
};
use crate::image::Outsider;
use crate::process::{Cwd, Process};
use crate::{leaving, namei, native, user};

/// What variables begin with that a dynamic linker goes by.
const LINKERS: [&[u8]; 2] = [b"LD_", b"GLIBC_TUNABLES="];

/// What goes into the environment of the next image.
#[derive(Clone, Copy)]
pub struct NextImage<'a> {
    /// Why it cannot be intercepted.
    pub outsider: Option<Outsider>,
    /// Its process in the arena, if that is not this image's.
    pub registered: Option<ProcessId>,
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
        let &NextImage { outsider, registered, token, arena, executable, guest, name, library_path, leaves } =
            next;
        // Who leaves by his own will is no process that another session is to be joined in.
        let library = if leaving::is_leaving() { Vec::new() } else { preload_for(process, outsider) };
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
            process: registered.or(own),
            // One that is not intercepted might hand it on to a process of another pid namespace.
            child_of: (own.is_none() && outsider.is_none()).then(|| (process.me(), native::pid())),
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

fn prefix(address: u64, start: &mut [u8]) -> Result<usize, Errno> {
    for (index, place) in start.iter_mut().enumerate() {
        *place = user::read::<u8>(address + index as u64)?;
        if *place == 0 {
            return Ok(index);
        }
    }
    Ok(start.len())
}
