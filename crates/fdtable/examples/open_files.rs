//! A tiny "open files" table: files that exist only in this process, under FD numbers chosen by the kernel.
//!
//! `cargo run -p fdtable --example open_files`

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

use fdtable::{FdState, FdStates, FdTable};

/// An open file description: `dup`ed FDs share the file position.
struct OpenFile {
    path: &'static str,
    content: &'static [u8],
    position: Mutex<usize>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        println!("  (closed {} for good)", self.path);
    }
}

static OPEN: FdTable<OpenFile> = FdTable::new();
static STATES: FdStates = FdStates::new();

/// `open`: the kernel gives a placeholder, so that the number is taken for everybody else too.
fn open(path: &'static str, content: &'static [u8]) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let fd = OwnedFd::from(std::fs::File::open("/dev/null")?);
    let file = OpenFile { path, content, position: Mutex::new(0) };
    let stale = OPEN.insert(fd.as_raw_fd(), file, true)?;
    assert!(stale.is_none(), "somebody closed an FD past this table");
    STATES.set(fd.as_raw_fd(), FdState::Served);
    Ok(fd)
}

fn dup(fd: &OwnedFd) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let copy = fd.try_clone()?;
    drop(OPEN.dup(fd.as_raw_fd(), copy.as_raw_fd(), true)?);
    STATES.set(copy.as_raw_fd(), FdState::Served);
    Ok(copy)
}

fn read(fd: &OwnedFd, length: usize) -> io::Result<String> {
    // From here on the file stays valid, even if another thread closes the FD.
    let file = OPEN.get(fd.as_raw_fd()).ok_or(io::ErrorKind::NotFound)?;
    let mut position = file.position.lock().expect("no reader panics");
    let rest = &file.content[*position..];
    let part = &rest[..length.min(rest.len())];
    *position += part.len();
    Ok(String::from_utf8_lossy(part).into_owned())
}

/// `close`: leaves the table before the number is free for others.
fn close(fd: OwnedFd) {
    STATES.forget(fd.as_raw_fd());
    let released = OPEN.remove(fd.as_raw_fd());
    drop(fd);
    if let Some(file) = released {
        println!("close: {}, last FD of it: {}", file.path, file.is_last_fd());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let greeting = open("/virtual/greeting", b"Hello, open file descriptions!")?;
    let copy = dup(&greeting)?;
    println!("read {:?}", read(&greeting, 7)?);
    println!("read {:?} by the other FD: one position", read(&copy, 9)?);
    close(greeting);
    println!("read {:?}: still open", read(&copy, 100)?);
    close(copy);
    assert!(OPEN.is_empty());
    Ok(())
}
