//! Programs that lie on a mount: the kernel can only run files of its own, so it gets a copy in the session's folder, under
//! the same base name (which is what `comm` and error messages show).

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::RawFd;

use arrayvec::ArrayVec;
use linux_raw_sys::general as sys;
use plugin_abi::{Handle, Instance, Open};
use rustix::io::Errno;

use crate::file::plugin_errno;
use crate::namei::{self, OpenHow, Spot};
use crate::process::Process;
use crate::resolve::PathBytes;
use crate::{native, paging, running, trace};

/// The kernel looks at this much of a file (`BINPRM_BUF_SIZE`).
const HEADER: usize = 256;
const CHUNK: usize = 256 * 1024;

/// A path in the session's folder.
pub type Path = ArrayVec<u8, 4096>;

/// What a file begins with, as far as exec cares.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// `#!`: run this instead, with the script as an argument.
    Script {
        /// The interpreter's path.
        interpreter: Vec<u8>,
        /// The one optional argument, spaces and all.
        option: Option<Vec<u8>>,
    },
    /// Anything else.
    Other,
}

impl Header {
    /// Reads the first bytes of a file as the kernel's binfmt_script does.
    pub fn parse(start: &[u8]) -> Result<Self, Errno> {
        let start = &start[..start.len().min(HEADER)];
        let Some(line) = start.strip_prefix(b"#!") else { return Ok(Self::Other) };
        let blank = |byte: u8| matches!(byte, b' ' | b'\t');
        let line = if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            &line[..end]
        } else {
            // Cut off: the interpreter's name at least must be whole.
            let name = line.iter().position(|&byte| !blank(byte)).unwrap_or(line.len());
            let whole = line[name..].iter().any(|&byte| blank(byte) || byte == 0);
            if start.len() == HEADER && !whole {
                return Err(Errno::NOEXEC);
            }
            line
        };
        let line = &line[..line.iter().position(|&byte| byte == 0).unwrap_or(line.len())];
        let line = trim(line);
        let end = line.iter().position(|&byte| blank(byte)).unwrap_or(line.len());
        if end == 0 {
            return Err(Errno::NOEXEC);
        }
        let option = trim(&line[end..]);
        Ok(Self::Script {
            interpreter: line[..end].to_vec(),
            option: (!option.is_empty()).then(|| option.to_vec()),
        })
    }
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What the kernel's file at `path` begins with; `Other` when it cannot be read, since then exec fails by itself or it is no
/// script.
pub fn header_of(dirfd: RawFd, path: &[u8]) -> Header {
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC | sys::O_NONBLOCK | sys::O_NOCTTY);
    let Ok(fd) = namei::look_how(dirfd, path, &OpenHow { flags, mode: 0, resolve: 0 }) else {
        return Header::Other;
    };
    let mut start = [0; HEADER];
    let count =
        native::raw_call(sys::__NR_pread64, [fd as u64, start.as_mut_ptr() as u64, HEADER as u64, 0, 0, 0]);
    native::close(fd);
    Header::parse(&start[..count.max(0) as usize]).unwrap_or(Header::Other)
}

/// The path of a copy of the program at `spot` that the kernel can run; for a script only what it begins with. The copy
/// has the base name of `name`, by which the program was called.
pub fn stage(
    process: &'static Process,
    spot: &Spot,
    attributes: &plugin_abi::stat,
    name: &[u8],
) -> Result<(PathBytes, Header), Errno> {
    running::check_writers(process, spot, attributes)?;
    paging::settle_at(process, spot, attributes)?;
    let instance = spot.mount.instance()?;
    let opened = instance.open(spot.path(), sys::O_RDONLY as i32, 0).map_err(plugin_errno)?;
    let handle = match opened {
        Open::Served { handle, .. } => handle,
        Open::Native { fd, .. } => {
            return stage_from(process, attributes, name, &mut |buffer, offset| {
                rustix::io::pread(&fd, buffer, offset)
            });
        }
    };
    let result = stage_from(process, attributes, name, &mut |buffer, offset| {
        instance.read(&handle, buffer, offset).map_err(plugin_errno)
    });
    close(instance, handle);
    result
}

fn close(instance: &Instance, handle: Handle) {
    if let Err(error) = instance.close(handle) {
        trace::debug(format_args!("close after reading a program: {error}"));
    }
}

/// The folder for the copies of this process: the session's, or one of its own if it is not the user who made the session,
/// as nobody runs what somebody else has put there. Everybody may make a name in `guests`.
pub fn copies(process: &Process) -> Result<Path, Errno> {
    let user = native::raw_call(sys::__NR_geteuid, [0; 6]);
    if user == i64::from(process.owner) {
        return session_copies(process);
    }
    let mut path = Path::new();
    path.try_extend_from_slice(&process.shared_folder).map_err(|_| Errno::NAMETOOLONG)?;
    write!(path, "/guests/{user}").map_err(|_| Errno::NAMETOOLONG)?;
    let mut name = path.clone();
    match native::checked(sys::__NR_mkdir, [c_string(&mut name)?, 0o711, 0, 0, 0, 0]) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = u64::from(sys::O_PATH | sys::O_DIRECTORY | sys::O_NOFOLLOW | sys::O_CLOEXEC);
    let folder = native::new_fd(sys::__NR_open, [c_string(&mut name)?, flags, 0, 0, 0, 0])?;
    let stat = native::fstat(folder);
    native::close(folder);
    let stat = stat?;
    if i64::from(stat.st_uid) != user || stat.st_mode & 0o022 != 0 {
        return Err(Errno::ACCESS);
    }
    Ok(path)
}

/// The session's folder for copies.
pub fn session_copies(process: &Process) -> Result<Path, Errno> {
    let mut path = Path::new();
    path.try_extend_from_slice(&process.folder).map_err(|_| Errno::NAMETOOLONG)?;
    path.try_extend_from_slice(b"/exec").map_err(|_| Errno::NAMETOOLONG)?;
    Ok(path)
}

type Read<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> Result<usize, Errno>;

fn stage_from(
    process: &'static Process,
    attributes: &plugin_abi::stat,
    name: &[u8],
    read: Read<'_>,
) -> Result<(PathBytes, Header), Errno> {
    let mut start = [0; HEADER];
    let count = read(&mut start, 0)?;
    let header = Header::parse(&start[..count])?;
    if header != Header::Other {
        return Ok((PathBytes::new(), header));
    }
    let name = &name[name.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1)..];
    let cut = |_| Errno::NAMETOOLONG;
    let mut path = copies_of(copies(process)?, attributes)?;
    let copies_end = path.len();
    // One folder for each version of the file: another one gets another name.
    write!(
        path,
        "/{:x}-{:x}.{:x}-{:x}.{:x}-{:o}",
        attributes.st_size,
        attributes.st_mtime,
        attributes.st_mtime_nsec,
        attributes.st_ctime,
        attributes.st_ctime_nsec,
        attributes.st_mode & 0o777,
    )
    .map_err(cut)?;
    let folder_end = path.len();
    write!(path, "/").and_then(|()| path.write_all(name)).map_err(cut)?;
    let copy = path.clone();
    // What a copy must be good for: to be executed, or only to be read.
    let needed = if attributes.st_mode & 0o111 == 0 { 4 } else { 1 };
    // Nobody forks while the copy is open for writing: a child would keep it so, and exec would say ETXTBSY.
    let _alone = process.staging.lock();
    if native::checked(sys::__NR_access, [c_string(&mut path)?, needed, 0, 0, 0, 0]).is_ok() {
        return Ok((PathBytes::try_from(copy.as_slice())?, Header::Other));
    }
    for end in [copies_end, folder_end] {
        let mut folder = Path::new();
        folder.try_extend_from_slice(&path[..end]).map_err(|_| Errno::NAMETOOLONG)?;
        match native::checked(sys::__NR_mkdir, [c_string(&mut folder)?, 0o711, 0, 0, 0, 0]) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    running::note_start(process);
    let mut temporary = copy.clone();
    // Threads of two PID name spaces of a session may have one number.
    write!(temporary, "~{:x}-{}", process.me().to_bits(), crate::thread::id()).map_err(cut)?;
    write_copy(&mut temporary, attributes.st_mode & 0o777, read)?;
    put(&mut temporary, &mut copy.clone())?;
    Ok((PathBytes::try_from(copy.as_slice())?, Header::Other))
}

/// Gives a finished copy its name, unless another process was faster: that one's may run already, or be looked at, and stays.
fn put(temporary: &mut Path, copy: &mut Path) -> Result<(), Errno> {
    let name = c_string(temporary)?;
    let linked = native::checked(sys::__NR_link, [name, c_string(copy)?, 0, 0, 0, 0]);
    native::raw_call(sys::__NR_unlink, [name, 0, 0, 0, 0, 0]);
    match linked {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The folder of the copies of a file in `copies`, whatever it was called and however it has changed since.
pub fn copies_of(mut copies: Path, attributes: &plugin_abi::stat) -> Result<Path, Errno> {
    write!(copies, "/{:x}-{:x}", attributes.st_dev, attributes.st_ino).map_err(|_| Errno::NAMETOOLONG)?;
    Ok(copies)
}

fn write_copy(path: &mut Path, mode: u32, read: Read<'_>) -> Result<(), Errno> {
    let flags = u64::from(sys::O_WRONLY | sys::O_CREAT | sys::O_TRUNC | sys::O_CLOEXEC);
    let name = c_string(path)?;
    let args = [name, flags, 0o700, 0, 0, 0];
    let fd = native::new_fd(sys::__NR_open, args)?;
    let result = copy_all(fd, read).and_then(|()| {
        // Whoever may run the original may run the copy, and nobody may more.
        native::checked(sys::__NR_fchmod, [fd as u64, u64::from(mode), 0, 0, 0, 0]).map(drop)
    });
    native::close(fd);
    if result.is_err() {
        native::raw_call(sys::__NR_unlink, [name, 0, 0, 0, 0, 0]);
    }
    path.pop();
    result
}

fn copy_all(fd: RawFd, read: Read<'_>) -> Result<(), Errno> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let count = read(&mut buffer, offset)?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let args = [fd as u64, rest.as_ptr() as u64, rest.len() as u64, 0, 0, 0];
            let written = native::checked(sys::__NR_write, args)? as usize;
            rest = &rest[written..];
        }
        offset += count as u64;
    }
}

/// The address of `path` with a NUL after it.
fn c_string(path: &mut Path) -> Result<u64, Errno> {
    if CStr::from_bytes_until_nul(path).is_err() {
        path.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    }
    Ok(path.as_ptr() as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("#!/bin/sh\necho", "/bin/sh", None)]
    #[case("#! /bin/sh -e -x \n", "/bin/sh", Some("-e -x"))]
    #[case("#!\t/usr/bin/env\tpython3 -u\n", "/usr/bin/env", Some("python3 -u"))]
    #[case("#!/bin/cat", "/bin/cat", None)]
    fn scripts_are_read_as_the_kernel_does(
        #[case] text: &str,
        #[case] interpreter: &str,
        #[case] option: Option<&str>,
    ) {
        let expected = Header::Script {
            interpreter: interpreter.into(),
            option: option.map(|option| option.as_bytes().to_vec()),
        };
        assert_eq!(Header::parse(text.as_bytes()), Ok(expected));
    }

    #[rstest]
    #[case("#!\n")]
    #[case("#!   \n")]
    fn a_script_without_interpreter_cannot_run(#[case] text: &str) {
        assert_eq!(Header::parse(text.as_bytes()), Err(Errno::NOEXEC));
    }

    #[test]
    fn an_interpreter_cut_off_is_refused_but_an_argument_may_be() {
        let long = format!("#!/{}", "x".repeat(300));
        assert_eq!(Header::parse(long.as_bytes()), Err(Errno::NOEXEC));
        let argument = format!("#!/bin/sh {}", "x".repeat(300));
        assert!(matches!(Header::parse(argument.as_bytes()), Ok(Header::Script { .. })));
    }

    /// Programs of a pipeline are started for the first time at once: who has opened the first copy goes on with it by its name.
    #[test]
    fn a_copy_that_has_its_name_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Path::try_from(folder.path().join(name).as_os_str().as_bytes()).unwrap();
        for text in ["first", "second"] {
            std::fs::write(folder.path().join(text), text).unwrap();
            put(&mut path(text), &mut path("copy")).unwrap();
        }
        assert_eq!(std::fs::read(folder.path().join("copy")).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(put(&mut path("nothing"), &mut path("other")), Err(Errno::NOENT));
    }

    #[test]
    fn other_files_are_left_to_the_kernel() {
        assert_eq!(Header::parse(b"\x7fELF"), Ok(Header::Other));
        assert_eq!(Header::parse(b""), Ok(Header::Other));
    }
}
