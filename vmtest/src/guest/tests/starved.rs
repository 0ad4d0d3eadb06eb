//! Allocations fail, one after the other: each request says so and leaves nothing. Needs the kernel's fault injection, which the debug kernel has.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::mount::UnmountFlags;

use super::super::mount::{Mount, mount2, new_directory};
use super::super::shadow::{self, Request};

super::tests![requests_survive_each_failing_allocation: 120, mounts_survive_each_failing_allocation: 120];

/// More allocations than any request has.
const MOST: u32 = 2_000;

/// Lets one allocation of this thread fail.
struct Starving(File);

impl Starving {
    /// None, which is said, where the kernel cannot.
    fn new() -> Option<Starving> {
        let settings = "/sys/kernel/debug/failslab";
        let file = File::options().read(true).write(true).open("/proc/thread-self/fail-nth");
        let (Ok(file), true) = (file, fs::exists(settings).is_ok_and(|there| there)) else {
            println!("skipped: the kernel has no fault injection");
            return None;
        };
        // Also those that may wait, which are nearly all; and without a trace of each in the log.
        fs::write(format!("{settings}/ignore-gfp-wait"), "N").expect("set as root");
        fs::write(format!("{settings}/verbose"), "0").expect("set as root");
        Some(Starving(file))
    }

    /// Runs `request`, in which the allocation `number` fails, and whether there was one.
    fn run<T>(&self, number: u32, request: impl FnOnce() -> T) -> (T, bool) {
        let text = number.to_string();
        self.0.write_all_at(text.as_bytes(), 0).expect("say which is to fail");
        let result = request();
        let mut left = [0; 16];
        let length = self.0.read_at(&mut left, 0).expect("read what is left");
        self.0.write_all_at(b"0", 0).expect("let no more fail");
        (result, left[..length].trim_ascii() == b"0")
    }

    /// Runs `request`, which gets the number of the round, until each of its allocations has failed once; `undo`, with memory, when it was done.
    fn each<T>(&self, name: &str, mut request: impl FnMut(u32) -> io::Result<T>, mut undo: impl FnMut(T)) {
        let mut refused = 0;
        for number in 1..MOST {
            let (result, failed) = self.run(number, || request(number));
            match result {
                // Some memory can be done without.
                Ok(made) => undo(made),
                Err(error) if failed && error.raw_os_error().is_some_and(is_shortage) => refused += 1,
                Err(error) => panic!("{name}, allocation {number} (failed: {failed}): {error}"),
            }
            if !failed {
                println!("measured: {name}: {} allocations, {refused} refusals", number - 1);
                assert!(refused > 0, "no allocation of {name} has failed");
                return;
            }
        }
        panic!("{name} has {MOST} allocations");
    }
}

/// tmpfs says `ENOSPC` when it cannot have an inode.
fn is_shortage(errno: i32) -> bool {
    matches!(errno, libc::ENOMEM | libc::ENOSPC)
}

fn requests_survive_each_failing_allocation() {
    let Some(starving) = Starving::new() else { return };
    let mount = Mount::new();
    let deep = ["directory"; 40].join("/");
    let token = |number: u32| u64::from(number) | 1 << 40;
    let file = |number: u32| Request::file(u64::from(number), &deep).token(token(number));
    let dir = |number: u32| Request::dir(u64::from(number), &deep).token(token(number));
    starving.each("open", |number| mount.open(&file(number)), drop);
    starving.each("open of a directory", |number| mount.open(&dir(number)), drop);
    // A token that was given to a request that failed is free.
    let all: Vec<u64> = (1..MOST).map(token).collect();
    let (alive, _) = shadow::live(mount.root(), mount.user(), &all).expect("live");
    assert!(alive.iter().all(|alive| !alive));

    let file = mount.shadow(&Request::file(1, "f"));
    starving.each("pages", |_| shadow::cache(&file, 1 << 20), drop);
    starving.each("arena", |_| shadow::arena(&file, 4096), drop);
    assert!(shadow::cache(&file, 1 << 20).expect("the pages").created);
}

fn mounts_survive_each_failing_allocation() {
    let Some(starving) = Starving::new() else { return };
    let point = new_directory("starved");
    let options = "backend=/src/dst,library=/usr/lib/usfs.so,options=some,mode=0711";
    let unmount = |()| rustix::mount::unmount(&point, UnmountFlags::empty()).expect("unmount");
    starving.each("mount", |_| mount2(&point, 0, options), unmount);
    mount2(&point, 0, options).expect("mount when there is memory");
    let mount = Mount::at(point);
    starving.each("remount", |_| mount.remount(0, "mode=0700,uid=3"), drop);
}
