//! `exec-N`: starts `/bin/true`, again and again, with N files open that it inherits (the paper's Figure 13). `exec-first-N`: the first
//! time only, when nothing was prepared for it yet.

use std::ffi::CStr;
use std::io;

use crate::calls::{close, open};
use crate::{Done, Work, timed};

const STARTS: usize = 20;
const TRUE: &CStr = c"/bin/true";

unsafe extern "C" {
    static environ: *const *mut libc::c_char;
}

pub fn run(work: &Work, name: &str) -> Done {
    let name = name.strip_prefix("exec-")?;
    let (first, name) = name.strip_prefix("first-").map_or((false, name), |name| (true, name));
    let files: usize = name.parse().ok()?;
    Some(allow(files + 100).map(|()| {
        let path = work.file("one", 4096);
        let fds: Vec<i32> = (0..files).map(|_| open(&path, libc::O_RDONLY)).collect();
        let starts = if first { 1 } else { work.count(STARTS) };
        if !first {
            start();
        }
        let answer = timed(starts as u64, || (0..starts).for_each(|_| start()));
        fds.into_iter().for_each(close);
        answer
    }))
}

fn start() {
    let arguments = [TRUE.as_ptr().cast_mut(), std::ptr::null_mut()];
    let (mut pid, mut status) = (0, 0);
    // SAFETY: null-terminated arrays of C strings; nobody changes the environment; our own child.
    unsafe {
        let error = libc::posix_spawn(
            &raw mut pid,
            TRUE.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            environ,
        );
        assert_eq!(error, 0, "posix_spawn: {}", io::Error::from_raw_os_error(error));
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
    }
    assert_eq!(status, 0, "/bin/true failed");
}

/// That many descriptors.
fn allow(files: usize) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through both calls.
    let set = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_cur.max(files as u64).min(limit.rlim_max);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    if set == 0 && limit.rlim_cur >= files as u64 {
        Ok(())
    } else {
        Err(io::Error::other(format!("no more than {} open files are allowed", limit.rlim_cur)))
    }
}
