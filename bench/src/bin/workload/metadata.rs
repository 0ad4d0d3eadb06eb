//! The paper's Figure 10, and what else programs do with many files: 10,000 of them in one directory. To be asked for in the
//! order of the names here.

use std::ffi::{CStr, CString};
use std::io;

use crate::calls::{close, mkdir, open, stat, unlink};
use crate::{Answer, Done, Work, timed};

const FILES: usize = 10_000;

pub fn run(work: &Work, name: &str) -> Done {
    let files = work.count(FILES);
    let paths = || work.paths("meta/f", files);
    Some(Ok(match name {
        "create" => {
            mkdir(&work.path("meta"));
            // What a run that was cut short left.
            for path in paths().iter().chain(&work.paths("meta/r", files)) {
                unlink(path);
            }
            each(&paths(), |path| close(open(path, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY)))
        }
        // SAFETY: a C string.
        "access" => each(&paths(), |path| assert_eq!(unsafe { libc::access(path.as_ptr(), libc::R_OK) }, 0)),
        // SAFETY: a C string.
        "chmod" => each(&paths(), |path| assert_eq!(unsafe { libc::chmod(path.as_ptr(), 0o640) }, 0)),
        "stat" => each(&paths(), stat),
        "readdir" => list(&work.path("meta"), files),
        "rename" => {
            let (from, to) = (paths(), work.paths("meta/r", files));
            timed(files as u64, || {
                for (from, to) in from.iter().zip(&to) {
                    // SAFETY: C strings.
                    assert_eq!(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) }, 0);
                }
            })
        }
        "unlink" => each(&work.paths("meta/r", files), |path| assert!(unlink(path))),
        _ => return None,
    }))
}

fn each(paths: &[CString], call: impl Fn(&CStr)) -> Answer {
    timed(paths.len() as u64, || paths.iter().for_each(|path| call(path)))
}

/// One pass over the directory; per entry, as the others are per file.
fn list(path: &CStr, files: usize) -> Answer {
    timed(files as u64, || {
        // SAFETY: a C string; the stream is used and closed here only.
        unsafe {
            let directory = libc::opendir(path.as_ptr());
            assert!(!directory.is_null(), "opendir: {}", io::Error::last_os_error());
            let mut entries = 0;
            while !libc::readdir(directory).is_null() {
                entries += 1;
            }
            libc::closedir(directory);
            assert_eq!(entries, files + 2);
        }
    })
}
