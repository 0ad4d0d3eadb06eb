//! The stack that a program finds at its beginning (System V ABI, AMD64 supplement, 3.4.1).

use rustix::io::Errno;

use super::layout::PROGRAM_HEADER;
use super::map::Mapped;
use crate::{environment, user};

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;
const AT_EXECFN: u64 = 31;
/// Between what runs now and the new stack: for what is still called before the program begins.
const LEFT: u64 = 64 * 1024;

/// Writes it below what is in use of this process's stack, which the program goes on with, and returns the stack pointer.
pub fn lay_out(
    path: &[u8],
    arguments: u64,
    environment: u64,
    program: &Mapped,
    interpreter: Option<&Mapped>,
) -> Result<u64, Errno> {
    let arguments = environment::pointers(arguments)?;
    let variables = environment::pointers(environment)?;
    let mut auxiliary = auxiliary_behind(environment)?;
    let name: &'static [u8] = [path, b"\0"].concat().leak();
    let changes = [
        (AT_PHDR, program.headers),
        (AT_PHENT, PROGRAM_HEADER as u64),
        (AT_PHNUM, program.header_count),
        (AT_BASE, interpreter.map_or(0, |interpreter| interpreter.base)),
        (AT_ENTRY, program.entry),
        (AT_EXECFN, name.as_ptr() as u64),
    ];
    for (kind, value) in changes {
        match auxiliary.iter_mut().find(|entry| entry[0] == kind) {
            Some(entry) => entry[1] = value,
            None => auxiliary.push([kind, value]),
        }
    }
    auxiliary.push([AT_NULL, 0]);
    let mut words = vec![arguments.len() as u64];
    words.extend(arguments);
    words.push(0);
    words.extend(variables);
    words.push(0);
    words.extend(auxiliary.into_iter().flatten());
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let here = (&raw const words) as u64;
    let pointer = (here - LEFT - bytes.len() as u64) & !15;
    user::write_bytes(pointer, &bytes)?;
    Ok(pointer)
}

/// The auxiliary vector that the kernel has given this process. Our constructor has put more than one null behind the environment.
fn auxiliary_behind(environment: u64) -> Result<Vec<[u64; 2]>, Errno> {
    let mut at = environment;
    while user::read::<u64>(at)? != 0 {
        at += 8;
    }
    while user::read::<u64>(at)? == 0 {
        at += 8;
    }
    let mut entries = Vec::with_capacity(32);
    loop {
        match user::read::<[u64; 2]>(at)? {
            [AT_NULL, _] => return Ok(entries),
            entry => entries.push(entry),
        }
        at += 16;
    }
}
