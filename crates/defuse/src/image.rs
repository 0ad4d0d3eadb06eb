//! What kind of executable a file is: whether a process that runs it can be intercepted.
//!
//! The library comes into a process by its dynamic linker, so a program without one, with one that is not glibc's, or with one that
//! ignores `LD_PRELOAD` runs without the mounts.

use std::fmt;
use std::os::fd::RawFd;

use linux_raw_sys::general as sys;

use crate::dynamic::{self, START, u16_at, u32_at, u64_at};
use crate::namei::{self, OpenHow};
use crate::native;

/// Why a process that runs a program is not intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outsider {
    /// It has no dynamic linker.
    Static,
    /// Its C library is musl, for which neither this library nor a plugin is made.
    Musl,
    /// It is for another machine or has 32-bit addresses.
    OtherMachine,
    /// It runs with more rights than who starts it: set-user-ID, set-group-ID or file capabilities (ld.so(8), secure-execution
    /// mode).
    Privileged,
}

impl fmt::Display for Outsider {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Static => "is statically linked",
            Self::Musl => "is linked with musl",
            Self::OtherMachine => "is not a 64-bit program of this machine",
            Self::Privileged => "runs with other rights (set-user-ID, set-group-ID or capabilities)",
        })
    }
}

/// Looks at the executable at `path`; `None` when it can be intercepted, and when that cannot be told.
pub fn look(dirfd: RawFd, path: &[u8]) -> Option<Outsider> {
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC | sys::O_NONBLOCK | sys::O_NOCTTY);
    if let Ok(fd) = namei::look_how(dirfd, path, &OpenHow { flags, mode: 0, resolve: 0 }) {
        let found = look_at(fd);
        native::close(fd);
        // A dynamic linker that is called by its name has no interpreter that would tell whose it is.
        return found.or_else(|| is_musl(path).then_some(Outsider::Musl));
    }
    // It may be run but not read: only its mode is known.
    let flags = u64::from(sys::O_PATH | sys::O_CLOEXEC);
    let fd = namei::look_how(dirfd, path, &OpenHow { flags, mode: 0, resolve: 0 }).ok()?;
    let found = is_privileged(fd).then_some(Outsider::Privileged);
    native::close(fd);
    found
}

/// As [`look`], at an open file.
pub fn look_at(fd: RawFd) -> Option<Outsider> {
    // Nearly all of it lies at the beginning, which is read at once.
    let mut start = [0; START];
    let count = dynamic::read_at(fd, &mut start, 0);
    let read = |buffer: &mut [u8], offset: u64| {
        let within =
            usize::try_from(offset).ok().and_then(|at| start[..count].get(at..)?.get(..buffer.len()));
        match within {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                bytes.len()
            }
            None => dynamic::read_at(fd, buffer, offset),
        }
    };
    outsider_by_format(read).or_else(|| is_privileged(fd).then_some(Outsider::Privileged))
}

/// Whether a process that runs this file has rights that its user has not: then the dynamic linker ignores `LD_PRELOAD`.
pub fn is_privileged(fd: RawFd) -> bool {
    let identity = |nr| native::raw_call(nr, [0; 6]);
    let Ok(stat) = native::fstat(fd) else { return false };
    let by_group = sys::S_ISGID | sys::S_IXGRP;
    let (mut user, mut group) = (identity(sys::__NR_geteuid), identity(sys::__NR_getegid));
    let real_user = identity(sys::__NR_getuid);
    let mut capabilities = false;
    if !rights_are_kept(fd) {
        if stat.st_mode & sys::S_ISUID != 0 {
            user = i64::from(stat.st_uid);
        }
        if stat.st_mode & by_group == by_group {
            group = i64::from(stat.st_gid);
        }
        let attribute = [fd as u64, c"security.capability".as_ptr() as u64, 0, 0, 0, 0];
        // Who is root gets nothing from capabilities of a file.
        capabilities = real_user != 0 && native::checked(sys::__NR_fgetxattr, attribute).is_ok();
    }
    capabilities || user != real_user || group != identity(sys::__NR_getgid)
}

/// Whether the process or the file system forbids that exec gives rights.
fn rights_are_kept(fd: RawFd) -> bool {
    let no_new = native::raw_call(sys::__NR_prctl, [PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0, 0]) == 1;
    no_new || native::fstatfs(fd).is_ok_and(|found| found.f_flags as u32 & sys::MS_NOSUID != 0)
}

/// `PR_GET_NO_NEW_PRIVS` of prctl(2).
const PR_GET_NO_NEW_PRIVS: u64 = 39;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const CLASS_64: u8 = 2;
const MACHINE_X86_64: u16 = 62;
const POSITION_INDEPENDENT: u16 = 3;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
/// `DT_FLAGS_1` of a dynamic section, and the bit in it of an executable.
const FLAGS_1: (u64, u64) = (0x6fff_fffb, 0x0800_0000);

/// What the file's format says. `read` fills a buffer from an offset and returns how much there is.
fn outsider_by_format(read: impl Fn(&mut [u8], u64) -> usize) -> Option<Outsider> {
    let mut header = [0; HEADER];
    let length = read(&mut header, 0);
    if length < 20 || &header[..4] != b"\x7fELF" {
        return None;
    }
    if header[4] != CLASS_64 || u16_at(&header, 18)? != MACHINE_X86_64 {
        return Some(Outsider::OtherMachine);
    }
    let (table, count) = (u64_at(&header, 32)?, u16_at(&header, 56)?);
    let mut dynamic = None;
    for index in 0..u64::from(count) {
        let mut entry = [0; PROGRAM_HEADER];
        if read(&mut entry, table.checked_add(index * PROGRAM_HEADER as u64)?) < PROGRAM_HEADER {
            return None;
        }
        let (offset, size) = (u64_at(&entry, 8)?, u64_at(&entry, 32)?);
        match u32_at(&entry, 0)? {
            INTERPRETER => {
                let mut name = [0; 256];
                let wanted = name.len().min(size as usize);
                let have = read(&mut name[..wanted], offset);
                return is_musl(&name[..have]).then_some(Outsider::Musl);
            }
            DYNAMIC => dynamic = Some((offset, size)),
            _ => {}
        }
    }
    let kind = u16_at(&header, 16)?;
    let is_linker = |(offset, size)| kind == POSITION_INDEPENDENT && !is_executable(&read, offset, size);
    // A shared object without an interpreter that can be run is a dynamic linker, called by its name.
    if dynamic.is_some_and(is_linker) { None } else { Some(Outsider::Static) }
}

fn is_musl(interpreter: &[u8]) -> bool {
    let name = interpreter.rsplit(|&byte| byte == b'/').next().unwrap_or(interpreter);
    name.starts_with(b"ld-musl-")
}

/// Whether the dynamic section says that the object is a position-independent executable.
fn is_executable(read: &impl Fn(&mut [u8], u64) -> usize, offset: u64, size: u64) -> bool {
    let mut entry = [0; 16];
    for at in (0..size.min(64 * 1024)).step_by(entry.len()) {
        if read(&mut entry, offset.saturating_add(at)) < entry.len() {
            return false;
        }
        match (u64_at(&entry, 0), u64_at(&entry, 8)) {
            (Some(0), _) => return false,
            (Some(tag), Some(value)) if tag == FLAGS_1.0 => return value & FLAGS_1.1 != 0,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn reader(file: &[u8]) -> impl Fn(&mut [u8], u64) -> usize {
        move |buffer, offset| {
            let from = file.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or(&[]);
            let count = from.len().min(buffer.len());
            buffer[..count].copy_from_slice(&from[..count]);
            count
        }
    }

    /// An executable with the given kind, interpreter, and `DT_FLAGS_1` of a dynamic section.
    fn elf(kind: u16, interpreter: Option<&str>, flags: Option<u64>) -> Vec<u8> {
        let mut file = vec![0; 512];
        file[..5].copy_from_slice(b"\x7fELF\x02");
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
        file[32] = HEADER as u8;
        file[56] = 2;
        let mut segment = |index: usize, kind: u32, at: u64, content: &[u8]| {
            let entry = HEADER + index * PROGRAM_HEADER;
            file[entry..entry + 4].copy_from_slice(&kind.to_le_bytes());
            file[entry + 8..entry + 16].copy_from_slice(&at.to_le_bytes());
            file[entry + 32..entry + 40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            file[at as usize..at as usize + content.len()].copy_from_slice(content);
        };
        if let Some(interpreter) = interpreter {
            segment(0, INTERPRETER, 256, interpreter.as_bytes());
        }
        if let Some(flags) = flags {
            let section = [FLAGS_1.0.to_le_bytes(), flags.to_le_bytes(), [0; 8], [0; 8]].concat();
            segment(1, DYNAMIC, 384, &section);
        }
        file
    }

    #[rstest]
    #[case::glibc(elf(3, Some("/lib64/ld-linux-x86-64.so.2\0"), Some(FLAGS_1.1)), None)]
    #[case::fixed_glibc(elf(2, Some("/lib64/ld-linux-x86-64.so.2\0"), Some(0)), None)]
    #[case::musl(elf(3, Some("/lib/ld-musl-x86_64.so.1\0"), Some(FLAGS_1.1)), Some(Outsider::Musl))]
    #[case::fixed_static(elf(2, None, None), Some(Outsider::Static))]
    #[case::movable_static(elf(3, None, Some(FLAGS_1.1)), Some(Outsider::Static))]
    #[case::dynamic_linker(elf(3, None, Some(1)), None)]
    #[case::thirty_two_bits(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec(), Some(Outsider::OtherMachine))]
    #[case::script(b"#!/bin/sh\n".to_vec(), None)]
    #[case::empty(Vec::new(), None)]
    fn told_by_the_headers(#[case] file: Vec<u8>, #[case] expected: Option<Outsider>) {
        assert_eq!(outsider_by_format(reader(&file)), expected);
    }

    #[test]
    fn this_program_can_be_intercepted() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(outsider_by_format(reader(&program)), None);
    }

    proptest! {
        #[test]
        fn nonsense_is_survived(
            mut file in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..600),
                Just(elf(3, Some("/lib/x\0"), Some(0))),
            ],
            changes in prop::collection::vec((0_usize..512, any::<u8>()), 0..8),
        ) {
            for (at, byte) in changes {
                if let Some(place) = file.get_mut(at) {
                    *place = byte;
                }
            }
            outsider_by_format(reader(&file));
        }
    }
}
