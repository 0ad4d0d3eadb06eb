//! Arguments that no program means: every one is answered with an error, or does what it says.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use super::super::abi;
use super::super::mount::{Mount, new_directory};
use super::super::shadow::{self, Request};

super::tests![
    unknown_commands_and_sizes_are_no_ioctls,
    bad_pointers_give_efault,
    random_arguments_are_answered: 180,
    random_mount_options_are_answered: 180,
];

/// xorshift64*: the same numbers on each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const COMMANDS: [(u64, usize); 6] = [
    (abi::IOC_OPEN, 56),
    (abi::IOC_IDENT, 72),
    (abi::IOC_MOUNT, 48),
    (abi::IOC_LIVE, 40),
    (abi::IOC_CACHE, 16),
    (abi::IOC_ARENA, 16),
];

fn subjects(mount: &Mount) -> [OwnedFd; 3] {
    let root = mount.root().try_clone_to_owned().expect("dup");
    [root, mount.shadow(&Request::file(1, "f")), mount.shadow(&Request::dir(2, "d"))]
}

fn call(fd: BorrowedFd<'_>, command: u64, argument: *mut u64) -> i32 {
    match shadow::ioctl(fd, command, argument) {
        Ok(new @ 3..) => {
            // SAFETY: the ioctls answer 0 or an FD that they made.
            drop(unsafe { OwnedFd::from_raw_fd(new) });
            0
        }
        Ok(_) => 0,
        Err(error) => error.raw_os_error().expect("an error of the kernel"),
    }
}

fn unknown_commands_and_sizes_are_no_ioctls() {
    let mount = Mount::new();
    let mut argument = vec![0u64; 4096];
    for fd in subjects(&mount) {
        for nr in 0x10..=0x30 {
            for direction in 0..4 {
                for size in [0, 1, 8, 15, 16, 17, 32, 47, 48, 49, 64, 72, 128, 4096, 16383] {
                    let command = abi::request(direction, nr, size);
                    if COMMANDS.iter().any(|(known, _)| *known == command) {
                        continue;
                    }
                    let error = call(fd.as_fd(), command, argument.as_mut_ptr());
                    assert_eq!(error, libc::ENOTTY, "command {command:#x}");
                }
            }
        }
    }
}

fn bad_pointers_give_efault() {
    let mount = Mount::new();
    // The last page below a hole: structures that begin inside and end outside.
    // SAFETY: a new mapping of two pages, whose second one is unmapped again.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        assert_eq!(libc::munmap(at.byte_add(4096), 4096), 0);
        at.cast::<u8>()
    };
    let kernel = 0xFFFF_8000_0000_0000u64 as *mut u64;
    for fd in subjects(&mount) {
        for (command, size) in COMMANDS {
            let across = page.wrapping_add(4096 - size / 2).cast();
            for pointer in
                [std::ptr::null_mut(), std::ptr::dangling_mut(), kernel, u64::MAX as *mut u64, across]
            {
                assert_eq!(call(fd.as_fd(), command, pointer), libc::EFAULT, "{command:#x} at {pointer:?}");
            }
        }
    }
    // Read-only memory: asked, but not answered. The first word is the size of a cache or an arena.
    // SAFETY: the page is ours.
    unsafe {
        page.write(1);
        assert_eq!(libc::mprotect(page.cast(), 4096, libc::PROT_READ), 0);
    }
    for (command, _) in &COMMANDS[1..] {
        assert_eq!(call(mount.shadow(&Request::file(1, "f")).as_fd(), *command, page.cast()), libc::EFAULT);
    }
}

fn random_arguments_are_answered() {
    let mount = Mount::new();
    let subjects = subjects(&mount);
    let mut random = Random(0x00D3_F05E);
    let mut memory = vec![0u64; 1024];
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30_000 {
        let base = memory.as_ptr() as u64;
        let interesting = [
            0,
            1,
            2,
            3,
            16,
            4094,
            4095,
            65536,
            65537,
            1 << 31,
            u64::from(u32::MAX),
            1 << 63,
            u64::MAX,
            base,
            base + 4096,
            8,
        ];
        let mut argument = [0u64; 9];
        for word in &mut argument {
            *word = match random.below(4) {
                0 => random.next(),
                1 => u64::from(random.next() as u8) << 32 | u64::from(random.next() as u8),
                _ => random.pick(&interesting),
            };
        }
        for _ in 0..8 {
            let at = random.below(memory.len() as u64) as usize;
            memory[at] = random.pick(&[random.0, 0x2F61_2F62_2F63_2F64, 0x6162_6364_6566_6768]);
        }
        let (command, _) = random.pick(&COMMANDS);
        let fd = random.below(3) as usize;
        seen.insert(call(subjects[fd].as_fd(), command, argument.as_mut_ptr()));
    }
    let allowed = [
        0,
        libc::EINVAL,
        libc::EFAULT,
        libc::EISDIR,
        libc::ENOTDIR,
        libc::EFBIG,
        libc::EEXIST,
        libc::ENOENT,
        libc::ENOMEM,
        libc::ENAMETOOLONG,
    ];
    assert!(seen.iter().all(|error| allowed.contains(error)), "errors {seen:?}");
    assert!([0, libc::EINVAL, libc::EFAULT].iter().all(|error| seen.contains(error)), "only {seen:?}");
}

fn random_mount_options_are_answered() {
    let mut random = Random(0x000B_7105);
    let pieces = [
        "backend=", "library=", "mode=", "uid=", "gid=", "/a", ",", "\\", "\\,", "\\\\", "\\054", "\\9", "=",
        "0755", "x", "/", " ", "\t", "rw", "source=", "\u{ff}",
    ];
    let point = new_directory("fuzz");
    let (mut mounted, mut refused) = (0, 0);
    for round in 0..3000 {
        let mut options = String::new();
        if round % 2 == 0 {
            options.push_str("backend=/b,library=/l,");
        }
        for _ in 0..random.below(12) {
            options.push_str(random.pick(&pieces));
        }
        match super::super::mount::mount2(&point, 0, &options) {
            Ok(()) => {
                mounted += 1;
                rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).expect("unmount");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "mount -o {options:?}: {error}");
            }
        }
    }
    assert!(mounted > 100 && refused > 100, "{mounted} mounted, {refused} refused");
}
