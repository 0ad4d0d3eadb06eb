//! Calls on what is not served, one kind again and again: beside FOREIGN, in its directory, of which all names but that one are ours.

use std::ffi::{CStr, CString};
use std::path::Path;

use crate::calls::{close, open, read, size, stat, unlink, write};
use crate::{Answer, Done, Work};

pub fn run(work: &Work, name: &str) -> Done {
    let mut byte = [0; 1];
    let repeated = |call: &mut dyn FnMut()| work.repeated(call);
    Some(Ok(match name {
        // SAFETY: no preconditions.
        "getppid" => repeated(&mut || assert!(unsafe { libc::getppid() } > 0)),
        "read-foreign" => repeated(&mut || read(work.zero, &mut byte)),
        "write-foreign" => repeated(&mut || write(work.null, &byte)),
        "stat-foreign" => repeated(&mut || stat(&work.foreign)),
        "open-foreign" => repeated(&mut || close(open(&work.foreign, libc::O_RDONLY))),
        "stat-missing" => {
            let path = beside(work, "missing");
            repeated(&mut || absent(&path))
        }
        "access-missing" => {
            let path = beside(work, "missing");
            // SAFETY: a C string.
            repeated(&mut || assert_eq!(unsafe { libc::access(path.as_ptr(), libc::R_OK) }, -1))
        }
        "open-missing" => {
            let path = beside(work, "missing");
            // SAFETY: a C string.
            repeated(&mut || assert_eq!(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }, -1))
        }
        // As a shell looks for a command: in three directories that do not have it, and in one that has.
        "stat-search" => {
            let directories = ["search-1", "search-2", "search-3"].map(|name| beside(work, name));
            for path in &directories {
                crate::calls::mkdir(path);
            }
            let missing = directories
                .map(|path| CString::new([path.as_bytes(), b"/command"].concat()).expect("no NUL"));
            repeated(&mut || {
                for path in &missing {
                    absent(path);
                }
                stat(&work.foreign);
            })
        }
        "stat-relative" => in_directory(work, &mut || repeated(&mut || stat(name_of(&work.foreign)))),
        "stat-relative-missing" => in_directory(work, &mut || repeated(&mut || absent(c"missing"))),
        "open-relative" => {
            in_directory(work, &mut || repeated(&mut || close(open(name_of(&work.foreign), libc::O_RDONLY))))
        }
        "chmod-foreign" => {
            // SAFETY: a C string.
            repeated(&mut || assert_eq!(unsafe { libc::chmod(work.foreign.as_ptr(), 0o640) }, 0))
        }
        "rename-foreign" => {
            let [one, other] = [own(work, "one"), own(work, "other")];
            close(open(&one, libc::O_CREAT | libc::O_WRONLY));
            let answer = repeated(&mut || {
                rename(&one, &other);
                rename(&other, &one);
            });
            unlink(&one);
            answer
        }
        "mkdir-foreign" => {
            let path = own(work, "directory");
            repeated(&mut || {
                crate::calls::mkdir(&path);
                // SAFETY: a C string.
                assert_eq!(unsafe { libc::rmdir(path.as_ptr()) }, 0);
            })
        }
        _ => return None,
    }))
}

fn beside(work: &Work, name: &str) -> CString {
    let foreign = Path::new(work.foreign.to_str().expect("a path in UTF-8"));
    CString::new(foreign.with_file_name(name).to_str().expect("a path in UTF-8")).expect("no NUL")
}

/// A name that no other process uses.
fn own(work: &Work, name: &str) -> CString {
    beside(work, &format!("{name}-{}", std::process::id()))
}

fn name_of(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let name = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    CStr::from_bytes_with_nul(&bytes[name..]).expect("the end of a C string")
}

fn absent(path: &CStr) {
    assert_eq!(size(path), None);
}

fn rename(from: &CStr, to: &CStr) {
    // SAFETY: C strings.
    assert_eq!(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) }, 0);
}

/// Done with FOREIGN's directory as the working directory. All paths of other work are absolute.
fn in_directory(work: &Work, calls: &mut dyn FnMut() -> Answer) -> Answer {
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::chdir(beside(work, "").as_ptr()) }, 0);
    calls()
}
