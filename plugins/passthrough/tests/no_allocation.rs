//! An operation may run where the program's allocator is locked: neither the host's side of the table nor this
//! plugin allocates.

use passthrough::Passthrough;
use plugin_abi::{Errno, Host, MountPath, Open, Plugin, Result, SetAttr, SetTime};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn operations_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let backend = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
    let fs = Plugin::built_in::<Passthrough>().instantiate(c"/mnt", &backend, c"", Host::STDERR).unwrap();
    let path = MountPath::from_normalised;
    // Longer than what rustix and others keep on the stack for short strings.
    let long = CString::new(format!("/d{}", format!("/{}", "n".repeat(200)).repeat(3))).unwrap();
    let mut list = [0; 4096];

    let before = ALLOCATIONS.get();
    let done = (|| -> Result<()> {
        fs.mkdir(path(c"/d"), 0o755)?;
        let Open::Served { handle, .. } = fs.open(path(c"/d/f"), libc::O_CREAT | libc::O_RDWR, 0o644)? else {
            return Err(Errno::EINVAL);
        };
        fs.write(&handle, b"some bytes", 0, false)?;
        fs.write(&handle, b"more", 0, true)?;
        fs.read(&handle, &mut list, 0)?;
        fs.fgetattr(&handle)?;
        // More than once: then its directory is kept.
        for _ in 0..3 {
            fs.getattr(path(c"/d/f"))?;
        }
        fs.access(path(c"/d/f"), libc::R_OK, 0)?;
        let attr =
            SetAttr { mode: Some(0o600), size: Some(4), mtime: Some(SetTime::Now), ..SetAttr::default() };
        fs.setattr(path(c"/d/f"), &attr)?;
        fs.fsetattr(&handle, &attr)?;
        fs.fsync(&handle, true)?;
        fs.flush(&handle)?;
        fs.symlink(c"target", path(c"/d/l"))?;
        fs.readlink(path(c"/d/l"), &mut list)?;
        fs.link(path(c"/d/f"), path(c"/d/g"))?;
        fs.rename(path(c"/d/g"), path(c"/d/h"), 0)?;
        fs.statfs(path(c"/d"))?;
        assert_eq!(fs.getattr(path(&long)).map(|_| ()), Err(Errno::ENOENT));
        let _ = fs.listxattr(path(c"/d/f"), &mut list);
        fs.close(handle)?;
        let Open::Served { handle, .. } = fs.open(path(c"/d"), libc::O_RDONLY | libc::O_DIRECTORY, 0)? else {
            return Err(Errno::EINVAL);
        };
        fs.readdir(&handle, 0, &mut |_| false)?;
        fs.close(handle)?;
        fs.fork_prepare();
        fs.fork_parent();
        fs.unlink(path(c"/d/f"))
    })();
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!((done, allocations), (Ok(()), 0));
}
