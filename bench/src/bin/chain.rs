//! A program that executes itself again and again with files open. It knows nothing of DEFUSE.
//!
//! `defuse-bench-chain SERVED PLAIN FILES STEPS`: the two directories are used in turn; with FILES files of one open, just opened and
//! then untouched since the last exec, the next image is executed. Each image prints a line `served|plain opened|untouched
//! CPU-NANOSECONDS WALL-NANOSECONDS`: from before execve to its own `main`.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;

fn main() {
    let cpu = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    let wall = clock(libc::CLOCK_MONOTONIC);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map_or(0, |text| text.parse::<u64>().expect("a number"));
    let [served, plain, ..] = &arguments[..] else {
        eprintln!("usage: defuse-bench-chain SERVED PLAIN FILES STEPS");
        std::process::exit(2);
    };
    let (files, steps, step) = (number(2), number(3), number(4));
    if step > 0 {
        let kind = ["served opened", "served untouched", "plain opened", "plain untouched"];
        println!("{} {} {}", kind[(step - 1) as usize % 4], cpu - number(5), wall - number(6));
    }
    if step == steps {
        return;
    }
    if step == 0 {
        // Whatever came from whoever started this.
        // SAFETY: nothing here uses them.
        unsafe { libc::close_range(3, u32::MAX, 0) };
    }
    if step % 2 == 0 {
        if step > 0 {
            // SAFETY: closes what the image before has opened: from the lowest free number on.
            (0..files).for_each(|n| assert_eq!(unsafe { libc::close(3 + n as i32) }, 0));
        }
        open(if step % 4 == 0 { served } else { plain }, files);
    }
    let mut next = std::process::Command::new(std::env::current_exe().expect("this program"));
    next.args(&arguments[..4]).arg((step + 1).to_string());
    next.arg(clock(libc::CLOCK_PROCESS_CPUTIME_ID).to_string());
    next.arg(clock(libc::CLOCK_MONOTONIC).to_string());
    panic!("{}", next.exec());
}

fn open(directory: &str, files: u64) {
    for n in 0..files {
        let path = CString::new(format!("{directory}/{n}")).expect("a path");
        // SAFETY: a C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600) };
        assert_eq!(fd, 3 + n as i32, "{}", std::io::Error::last_os_error());
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call fills the structure, and these clocks exist.
    let now = unsafe {
        assert_eq!(libc::clock_gettime(id, now.as_mut_ptr()), 0);
        now.assume_init()
    };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
