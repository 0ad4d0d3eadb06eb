//! The paper's Figure 14: random accesses to a mapped file.

use std::hint::black_box;
use std::io;

use crate::calls::{close, open, size, write};
use crate::{Done, Random, Work, timed};

const SIZE: usize = 128 << 20;
const ACCESSES: usize = 1_250_000;
const CHUNK: usize = 128 << 10;

pub fn run(work: &Work, name: &str) -> Done {
    let stores = match name {
        "map-read" => false,
        "map-write" => true,
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
    let mut failed = None;
    let answer = timed(accesses as u64, || {
        // SAFETY: a new mapping, of which only this function knows; all accesses are below its length.
        unsafe {
            let memory = libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0);
            if memory == libc::MAP_FAILED {
                failed = Some(io::Error::last_os_error());
                return;
            }
            let (bytes, mut random) = (memory.cast::<u8>(), Random::new());
            for _ in 0..accesses {
                let byte = bytes.add(random.below(length));
                if stores {
                    byte.write_volatile(1);
                } else {
                    black_box(byte.read_volatile());
                }
            }
            assert_eq!(libc::munmap(memory, length), 0);
        }
    });
    close(fd);
    Some(match failed {
        Some(error) => Err(io::Error::other(format!("mmap: {error}"))),
        None => Ok(answer),
    })
}
