//! The paper's Figure 14: random accesses to a mapped file; and a pass through all of it, stores with msync, and stores to what is
//! there already.

use std::hint::black_box;
use std::io;

use crate::calls::{close, open, size, write};
use crate::{Done, Random, Work, timed};

const SIZE: usize = 128 << 20;
const ACCESSES: usize = 1_250_000;
const CHUNK: usize = 128 << 10;

pub fn run(work: &Work, name: &str) -> Done {
    let stores = match name {
        "map-read" | "map-scan" => false,
        "map-write" | "map-write+msync" | "map-write-again" => true,
        _ => return None,
    };
    let (length, accesses) = (work.count(SIZE / CHUNK) * CHUNK, work.count(ACCESSES));
    let path = work.path("mapped");
    if size(&path) != Some(length as u64) {
        let fd = open(&path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC);
        let chunk = vec![b'x'; CHUNK];
        (0..length / CHUNK).for_each(|_| write(fd, &chunk));
        close(fd);
    }
    let fd = open(&path, libc::O_RDWR);
    let protection = if stores { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: a new mapping, of which only this function knows; all accesses are below its length.
    let map = || unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0);
        if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(memory.cast::<u8>()) }
    };
    let mut failed = None;
    let before = match (name == "map-write-again").then(map) {
        Some(Err(error)) => return Some(Err(io::Error::other(format!("mmap: {error}")))),
        Some(Ok(memory)) => Some(memory),
        None => None,
    };
    if let Some(memory) = before {
        access(memory, length, accesses, true);
    }
    let answer = timed(accesses as u64, || {
        let memory = match before.map_or_else(map, Ok) {
            Ok(memory) => memory,
            Err(error) => return failed = Some(error),
        };
        if name == "map-scan" {
            scan(memory, length);
        } else {
            access(memory, length, accesses, stores);
        }
        // SAFETY: the mapping above, which is used no more where it is unmapped.
        unsafe {
            if name == "map-write+msync" {
                assert_eq!(libc::msync(memory.cast(), length, libc::MS_SYNC), 0);
            }
            if before.is_none() {
                assert_eq!(libc::munmap(memory.cast(), length), 0);
            }
        }
    });
    if let Some(memory) = before {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::munmap(memory.cast(), length) }, 0);
    }
    close(fd);
    Some(match failed {
        Some(error) => Err(io::Error::other(format!("mmap: {error}"))),
        None => Ok(answer),
    })
}

/// Loads or stores single bytes all over `length` bytes that are mapped.
fn access(memory: *mut u8, length: usize, accesses: usize, stores: bool) {
    let mut random = Random::new();
    for _ in 0..accesses {
        // SAFETY: below the length of the mapping.
        unsafe {
            let byte = memory.add(random.below(length));
            if stores {
                byte.write_volatile(1);
            } else {
                black_box(byte.read_volatile());
            }
        }
    }
}

/// Copies all of it once, as a program that reads a file does.
fn scan(memory: *const u8, length: usize) {
    let mut buffer = vec![0_u8; 64 << 10];
    for start in (0..length).step_by(buffer.len()) {
        let count = buffer.len().min(length - start);
        // SAFETY: below the length of the mapping, and nobody stores to it.
        unsafe { std::ptr::copy_nonoverlapping(memory.add(start), buffer.as_mut_ptr(), count) };
        black_box(buffer.as_mut_ptr());
    }
}
