//! The paper's Figures 1, 2, 7, 8: small, large and mixed files, written and read. With `+fsync` behind the name of a work that
//! writes, each file is flushed to its device, as the paper does.

use crate::calls::{close, fsync, open, put, read, take, unlink, write};
use crate::{Answer, Done, Work, timed};

const SMALL_FILES: usize = 4096;
const SMALL: usize = 128;
const LARGE: usize = 128 << 20;
const CHUNK: usize = 128 << 10;
const MIXED_FILES: usize = 2048;

pub fn run(work: &Work, name: &str) -> Done {
    let (name, sync) = match name.strip_suffix("+fsync") {
        Some(name) => (name, true),
        None => (name, false),
    };
    Some(Ok(match name {
        "small-write" => write_all(work, "s", SMALL_FILES, sync, |_| SMALL),
        "small-read" => read_all(work, "s", SMALL_FILES, |_| SMALL),
        "mixed-write" => write_all(work, "m", MIXED_FILES, sync, mixed_size),
        "mixed-read" => read_all(work, "m", MIXED_FILES, mixed_size),
        "large-write" => {
            let chunks = work.count(LARGE / CHUNK);
            let content = vec![b'x'; CHUNK];
            let path = work.path("large");
            // Other pages in each round: how fast a file's are copied depends on where they are, and stays so as long as it is there.
            unlink(&path);
            let fd = open(&path, libc::O_CREAT | libc::O_WRONLY);
            let answer = timed(chunks as u64, || {
                (0..chunks).for_each(|_| write(fd, &content));
                if sync {
                    fsync(fd);
                }
            });
            close(fd);
            answer
        }
        "large-read" => {
            let chunks = work.count(LARGE / CHUNK);
            let mut content = vec![0; CHUNK];
            let fd = open(&work.path("large"), libc::O_RDONLY);
            let answer = timed(chunks as u64, || (0..chunks).for_each(|_| read(fd, &mut content)));
            close(fd);
            answer
        }
        _ => return None,
    }))
}

fn write_all(work: &Work, prefix: &str, files: usize, sync: bool, size: fn(usize) -> usize) -> Answer {
    let files = work.count(files);
    let paths = work.paths(prefix, files);
    for path in &paths {
        // Not there the first time.
        unlink(path);
    }
    let content = vec![b'x'; CHUNK];
    timed(files as u64, || {
        paths.iter().enumerate().for_each(|(n, path)| put(path, &content[..size(n)], sync));
    })
}

fn read_all(work: &Work, prefix: &str, files: usize, size: fn(usize) -> usize) -> Answer {
    let files = work.count(files);
    let paths = work.paths(prefix, files);
    let mut content = vec![0; CHUNK];
    timed(files as u64, || {
        paths.iter().enumerate().for_each(|(n, path)| take(path, &mut content[..size(n)]));
    })
}

/// Spread evenly over the powers of two from 64 bytes to 128 KiB.
fn mixed_size(n: usize) -> usize {
    let step = n * 7 % 12;
    let low = 64 << step.min(10);
    (low + n * 977 % low).min(CHUNK)
}
