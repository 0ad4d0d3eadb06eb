//! Arguments that no program means: every one is answered with an error, or does what it says.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::super::abi;
use super::super::mount::{Mount, mount2, new_directory};
use super::super::runner::SEED_VARIABLE;
use super::super::shadow::{self, Request};

super::tests![
    unknown_commands_and_sizes_are_no_ioctls,
    bad_pointers_give_efault,
    random_arguments_are_answered: 180,
    random_mount_options_are_answered: 180,
    random_remounts_are_answered: 120,
    random_fsconfig_is_answered: 180,
];

/// xorshift64*. The numbers follow from `$VMTEST_SEED`, which `vmtest run` hands on: the same on each run if it is not set, since what was found must
/// be found again; `random` for other ones.
struct Random(u64);

impl Random {
    /// For one test, whose name tells it from the others.
    fn new(test: &str) -> Random {
        let seed: u64 = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        // Shown if the test fails.
        println!("{SEED_VARIABLE}={seed}");
        // FNV-1a; zero, from which nothing else comes, is left out.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        let bytes = seed.to_ne_bytes().into_iter().chain(test.bytes());
        Random(bytes.fold(0xCBF2_9CE4_8422_2325, mix) | 1)
    }

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
    const SECOND: u64 = 4096;
    let mount = Mount::new();
    let subjects = subjects(&mount);
    let mut random = Random::new("arguments");
    // From both addresses that are given below, all that a request may read or write: a word for each token.
    let mut memory = vec![0u64; SECOND as usize / 8 + abi::LIVE_MAX];
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30_000 {
        let base = memory.as_mut_ptr() as u64;
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
            base + SECOND,
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

/// Parts of option strings, of the module and of nobody.
const PIECES: [&str; 21] = [
    "backend=", "library=", "mode=", "uid=", "gid=", "/a", ",", "\\", "\\,", "\\\\", "\\054", "\\9", "=",
    "0755", "x", "/", " ", "\t", "rw", "source=", "\u{ff}",
];

/// Up to `most` pieces; now and then many of one letter among them.
fn random_options(random: &mut Random, most: u64) -> String {
    let mut options = String::new();
    for _ in 0..random.below(most) {
        if random.below(20) == 0 {
            let long = random.pick(&[254, 255, 256, 4000, 4094, 5000]);
            options.push_str(&"y".repeat(long));
        }
        options.push_str(random.pick(&PIECES));
    }
    options
}

fn random_mount_options_are_answered() {
    let mut random = Random::new("mount");
    let point = new_directory("fuzz");
    let (mut mounted, mut refused) = (0, 0);
    for round in 0..3000 {
        let begin = if round % 2 == 0 { "backend=/b,library=/l," } else { "" };
        let options = format!("{begin}{}", random_options(&mut random, 12));
        match mount2(&point, 0, &options) {
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

fn random_remounts_are_answered() {
    let mut random = Random::new("remount");
    let mount = Mount::new();
    let identity = |mount: &Mount| {
        let (info, backend, library) = shadow::mount_info(mount.root()).expect("mount info");
        (info.mount, backend, library)
    };
    let before = identity(&mount);
    let (mut done, mut refused) = (0, 0);
    for _ in 0..3000 {
        let known = ["mode=0711", "uid=7", "gid=8", "backend=/src/dst", "library=/usr/lib/usfs.so", "", ""];
        let options = format!("{},{}", random.pick(&known), random_options(&mut random, 4));
        let flags = random.pick(&[0, 0, libc::MS_RDONLY]);
        match mount.remount(flags, &options) {
            Ok(()) => done += 1,
            Err(error) => {
                refused += 1;
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "remount {options:?}: {error}");
            }
        }
        assert!(identity(&mount) == before, "a remount with {options:?} made another mount of it");
    }
    assert!(done > 100 && refused > 100, "{done} done, {refused} refused");
}

/// `fsconfig(2)`, of whatever kind.
fn fsconfig(
    context: BorrowedFd<'_>,
    command: u32,
    key: Option<&CStr>,
    value: Option<&CStr>,
    aux: i32,
) -> i32 {
    let [key, value] = [key, value].map(|text| text.map_or(std::ptr::null(), CStr::as_ptr));
    let context = context.as_raw_fd();
    // SAFETY: strings that live across the call, or none. Of a value that is binary the kernel reads `aux` bytes, which the callers keep below 256 and
    // the string's length, or gives an error.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, aux) };
    if result == 0 {
        0
    } else {
        std::io::Error::last_os_error().raw_os_error().expect("an error of the kernel")
    }
}

fn random_fsconfig_is_answered() {
    const FLAG: u32 = 0;
    const STRING: u32 = 1;
    const BINARY: u32 = 2;
    const PATH: u32 = 3;
    const PATH_EMPTY: u32 = 4;
    const FD: u32 = 5;
    const CREATE: u32 = 6;
    const RECONFIGURE: u32 = 7;
    let allowed = [
        0,
        libc::EINVAL,
        libc::EOPNOTSUPP,
        libc::EBADF,
        libc::ENOENT,
        libc::ENOTDIR,
        libc::ENAMETOOLONG,
        libc::EBUSY,
    ];
    let mut random = Random::new("fsconfig");
    let keys =
        [c"backend", c"library", c"options", c"mode", c"uid", c"gid", c"source", c"colour", c"", c"ro"];
    let file = std::fs::File::open("/proc/self/status").expect("open some file");
    let mount = Mount::new();
    let (mut made, mut changed) = (0, 0);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3000 {
        let pick = random.below(4) == 0;
        let context = if pick {
            rustix::mount::fspick(mount.root(), "", rustix::mount::FsPickFlags::FSPICK_EMPTY_PATH)
        } else {
            rustix::mount::fsopen("defuse", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)
        }
        .expect("a context");
        if !pick && random.below(2) == 0 {
            for (key, value) in [(c"backend", c"/b"), (c"library", c"/l")] {
                assert_eq!(fsconfig(context.as_fd(), STRING, Some(key), Some(value), 0), 0);
            }
        }
        for _ in 0..random.below(4) {
            let value = CString::new(random_options(&mut random, 4)).expect("no NUL in the pieces");
            let length = value.as_bytes().len().min(255) as i32;
            let command = random.pick(&[FLAG, STRING, STRING, BINARY, PATH, PATH_EMPTY, FD, 8, 99]);
            let key = random.pick(&keys);
            let aux = match command {
                BINARY => length,
                _ => random.pick(&[0, 0, 0, -1, libc::AT_FDCWD, file.as_raw_fd(), 1 << 20]),
            };
            let value = (random.below(6) != 0).then_some(&*value);
            // Without a value there are no bytes.
            let aux = if command == BINARY && value.is_none() { 0 } else { aux };
            let key = (random.below(10) != 0).then_some(key);
            seen.insert(fsconfig(context.as_fd(), command, key, value, aux));
        }
        let finish = if pick { RECONFIGURE } else { CREATE };
        let finished = fsconfig(context.as_fd(), finish, None, None, 0);
        seen.insert(finished);
        if finished == 0 {
            *if pick { &mut changed } else { &mut made } += 1;
        }
        assert!(seen.iter().all(|error| allowed.contains(error)), "errors {seen:?}");
    }
    assert!(made > 100 && changed > 100, "{made} made, {changed} changed: {seen:?}");
}
