//! One call again and again: calls on one open file, and what single layers cost.

use std::ffi::CStr;
use std::hint::black_box;

use crate::calls::{close, mkdir, open, pread, put, read, rewind, stat, write};
use crate::{Answer, CALLS, Done, Work, timed};

/// Bytes of the file that single reads and writes go through.
const STREAM: usize = 1 << 20;
/// Five directories deep.
const DEEP: [&str; 5] = ["1", "1/2", "1/2/3", "1/2/3/4", "1/2/3/4/5"];

pub fn run(work: &Work, name: &str) -> Done {
    let mut byte = [0; 1];
    let repeated = |call: &mut dyn FnMut()| work.repeated(call);
    Some(Ok(match name {
        "write-128" => stream(work, 128, |fd, content| write(fd, content)),
        "read-128" => stream(work, 128, read),
        "write-4096" => stream(work, 4096, |fd, content| write(fd, content)),
        "read-4096" => stream(work, 4096, read),
        // Needs nothing of the plugin: entry, table look-up, description.
        "lseek" => {
            let fd = open(&work.file("one", 4096), libc::O_RDONLY);
            // SAFETY: no memory is involved.
            let answer = repeated(&mut || assert_eq!(unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }, 0));
            close(fd);
            answer
        }
        "pread-1" => {
            let fd = open(&work.file("one", 4096), libc::O_RDONLY);
            let answer = repeated(&mut || pread(fd, &mut byte, 0));
            close(fd);
            answer
        }
        "memcpy-1" => {
            let from = [1; 1];
            repeated(&mut || byte.copy_from_slice(black_box(&from)))
        }
        "stat-shallow" => {
            let path = work.file("one", 4096);
            repeated(&mut || stat(&path))
        }
        "stat-deep" => {
            for directory in DEEP {
                mkdir(&work.path(directory));
            }
            let path = work.file("1/2/3/4/5/one", 4096);
            repeated(&mut || stat(&path))
        }
        "open-close" => {
            let path = work.file("one", 4096);
            repeated(&mut || close(open(&path, libc::O_RDONLY)))
        }
        "dup-close" => repeated(&mut || close(duplicate(work.zero))),
        _ => return None,
    }))
}

fn duplicate(fd: i32) -> i32 {
    // SAFETY: no memory is involved.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD, 0) };
    assert!(new >= 0);
    new
}

/// Calls on one open file, from its beginning to its end, again and again.
fn stream(work: &Work, size: usize, call: impl Fn(i32, &mut [u8])) -> Answer {
    let path = work.path("stream");
    put(&path, &vec![b'x'; STREAM], false);
    let fd = open(&path as &CStr, libc::O_RDWR);
    let mut content = vec![0; size];
    let per_pass = STREAM / size;
    let passes = work.count(CALLS).div_ceil(per_pass);
    let answer = timed((passes * per_pass) as u64, || {
        for _ in 0..passes {
            rewind(fd);
            (0..per_pass).for_each(|_| call(fd, &mut content));
        }
    });
    close(fd);
    answer
}
