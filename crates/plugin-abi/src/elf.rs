//! A look at a shared object before the dynamic linker sees it.
//!
//! `dlopen` maps a file by what its headers claim: with a truncated one the process dies of SIGBUS. What
//! it does refuse, it refuses without saying which machine the file is for.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// What is wrong with a file that should be a shared object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Defect {
    NotElf,
    Truncated { need: u64, have: u64 },
    Machine { class: u8, data: u8, machine: u16 },
    NotShared { kind: u16 },
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// So many program headers are read with the ELF header.
const FOLLOWING: usize = 15;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const SHARED_OBJECT: u16 = 3;
const LOAD: u32 = 1;

/// Checks that `file` is a whole shared object for this machine.
pub(crate) fn check(file: &File) -> std::io::Result<Result<(), Defect>> {
    let have = file.metadata()?.len();
    // The program headers follow at once as a rule, and are read with it.
    let mut beginning = [0_u8; HEADER + FOLLOWING * PROGRAM_HEADER];
    let got = read_up_to(file, &mut beginning, 0)?;
    let header = &beginning[..HEADER];
    if got < 4 || &header[..4] != b"\x7fELF" {
        return Ok(Err(Defect::NotElf));
    }
    if got < HEADER {
        return Ok(Err(Defect::Truncated { need: HEADER as u64, have }));
    }
    let (class, data, machine) = (header[4], header[5], u16_at(header, 18));
    if (class, data, machine) != (CLASS_64, LITTLE_ENDIAN, MACHINE_X86_64) {
        return Ok(Err(Defect::Machine { class, data, machine }));
    }
    let kind = u16_at(header, 16);
    if kind != SHARED_OBJECT {
        return Ok(Err(Defect::NotShared { kind }));
    }
    let (table, count) = (u64_at(header, 32), u16_at(header, 56));
    for index in 0..u64::from(count) {
        let mut entry = [0_u8; PROGRAM_HEADER];
        let at = table.saturating_add(index * PROGRAM_HEADER as u64);
        let known =
            usize::try_from(at).ok().and_then(|at| beginning[..got].get(at..at.checked_add(PROGRAM_HEADER)?));
        if let Some(known) = known {
            entry.copy_from_slice(known);
        } else if read_up_to(file, &mut entry, at)? < PROGRAM_HEADER {
            return Ok(Err(Defect::Truncated { need: at.saturating_add(PROGRAM_HEADER as u64), have }));
        }
        let end = u64_at(&entry, 8).saturating_add(u64_at(&entry, 32));
        if u32_at(&entry, 0) == LOAD && end > have {
            return Ok(Err(Defect::Truncated { need: end, have }));
        }
    }
    Ok(Ok(()))
}

fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // An offset beyond what the kernel takes is beyond the end as well.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl core::fmt::Display for Defect {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::NotElf => f.write_str("not an ELF file"),
            Self::Truncated { need, have } => {
                write!(f, "truncated: its headers name byte {need}, the file has {have}")
            }
            Self::Machine { class, data, machine } => {
                let bits = if class == CLASS_64 { "64-bit" } else { "32-bit" };
                let order = if data == LITTLE_ENDIAN { "little" } else { "big" };
                let name = match machine {
                    3 => "x86",
                    20 | 21 => "PowerPC",
                    40 => "ARM",
                    62 => "x86-64",
                    183 => "AArch64",
                    243 => "RISC-V",
                    _ => "another machine",
                };
                write!(f, "built for {name} ({bits}, {order}-endian, machine {machine}), this is x86-64")
            }
            Self::NotShared { kind } => {
                let what = match kind {
                    1 => "an object file",
                    2 => "an executable",
                    4 => "a core dump",
                    _ => "something else",
                };
                write!(f, "{what}, not a shared library")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Defect, HEADER, PROGRAM_HEADER, check};
    use proptest::prelude::*;
    use std::io::Write;

    /// A shared object of one segment that covers the whole file.
    fn minimal() -> Vec<u8> {
        let mut elf = vec![0; HEADER + PROGRAM_HEADER + 100];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (elf[16], elf[18], elf[32], elf[56]) = (3, 62, HEADER as u8, 1);
        elf[HEADER] = 1;
        let len = elf.len() as u64;
        elf[HEADER + 32..HEADER + 40].copy_from_slice(&len.to_le_bytes());
        elf
    }

    fn verdict(bytes: &[u8]) -> Result<(), Defect> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&file).unwrap()
    }

    #[test]
    fn a_whole_object_passes_and_no_part_of_it_does() {
        let elf = minimal();
        assert_eq!(verdict(&elf), Ok(()));
        for len in 0..elf.len() {
            assert!(verdict(&elf[..len]).is_err(), "{len} bytes");
        }
    }

    proptest! {
        /// Whatever the headers claim, the check ends with a verdict, and one that passes names no byte
        /// beyond the end.
        #[test]
        fn damaged_headers_get_a_verdict(changes in proptest::collection::vec((0..HEADER + PROGRAM_HEADER, any::<u8>()), 1..6)) {
            let mut elf = minimal();
            for (at, byte) in changes {
                elf[at] = byte;
            }
            if verdict(&elf).is_ok() && elf[56..58] == [1, 0] && elf[32..40] == [HEADER as u8, 0, 0, 0, 0, 0, 0, 0] {
                let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
                let loads = elf[HEADER..HEADER + 4] == [1, 0, 0, 0];
                prop_assert!(!loads || word(HEADER + 8) + word(HEADER + 32) <= elf.len() as u64);
            }
        }
    }
}
