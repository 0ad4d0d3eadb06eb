//! Memory for mapped pages, and the session's arena.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::mount::UnmountFlags;

use super::super::mount::Mount;
use super::super::process::{become_user, fork};
use super::super::shadow::{self, Request};
use super::super::uffd::Uffd;
use super::errno;

super::tests![
    processes_that_open_the_key_share_pages,
    pages_outlive_the_fds_while_mapped,
    pages_go_with_the_last_user,
    users_do_not_share_pages,
    other_files_have_other_pages,
    the_size_is_set_and_changed,
    missing_pages_are_caught,
    a_mapping_keeps_the_mount_busy,
    a_mapping_is_shown_by_its_path,
    directories_have_no_pages,
    bad_requests_are_refused,
    the_arena_is_one_per_mount_and_user,
    the_arena_does_not_keep_the_mount_busy,
    the_arena_has_one_size,
];

const PAGE: usize = 4096;

struct Map(*mut u8, usize);

impl Map {
    fn of(fd: &OwnedFd, len: usize) -> Map {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, fd, 0) };
        Map(at.expect("map the pages").cast(), len)
    }

    fn byte(&self, at: usize) -> u8 {
        assert!(at < self.1);
        // SAFETY: inside the mapping, which lives as long as `self`; other processes only write bytes.
        unsafe { self.0.add(at).read_volatile() }
    }

    fn set(&self, at: usize, value: u8) {
        assert!(at < self.1);
        // SAFETY: as above.
        unsafe { self.0.add(at).write_volatile(value) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: made by `of`, and nobody keeps its address.
        unsafe { munmap(self.0.cast(), self.1) }.expect("munmap");
    }
}

fn processes_that_open_the_key_share_pages() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let memory = shadow::cache(&file, 2 * PAGE as u64).expect("cache");
    assert!(memory.created);
    let map = Map::of(&memory.fd, 2 * PAGE);
    map.set(PAGE, 42);
    fork(|| {
        let file = mount.shadow(&Request::file(1, "other/name").flags(libc::O_RDONLY));
        let memory = shadow::cache(&file, 0).expect("cache");
        assert_eq!((memory.created, memory.size), (false, 2 * PAGE as u64));
        let map = Map::of(&memory.fd, 2 * PAGE);
        assert_eq!(map.byte(PAGE), 42);
        map.set(0, 43);
    })
    .join();
    assert_eq!(map.byte(0), 43);
}

fn pages_outlive_the_fds_while_mapped() {
    let mount = Mount::new();
    let map = {
        let file = mount.shadow(&Request::file(1, "f"));
        let memory = shadow::cache(&file, PAGE as u64).expect("cache");
        Map::of(&memory.fd, PAGE)
    };
    map.set(0, 42);
    let file = mount.shadow(&Request::file(1, "f"));
    let memory = shadow::cache(&file, 0).expect("cache");
    assert!(!memory.created, "a mapping's pages were lost with its FDs");
    assert_eq!(Map::of(&memory.fd, PAGE).byte(0), 42);
}

fn pages_go_with_the_last_user() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    for _ in 0..3 {
        let memory = shadow::cache(&file, PAGE as u64).expect("cache");
        assert!(memory.created);
        let map = Map::of(&memory.fd, PAGE);
        assert_eq!(map.byte(0), 0);
        map.set(0, 1);
    }
}

fn users_do_not_share_pages() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let memory = shadow::cache(&file, PAGE as u64).expect("cache");
    let map = Map::of(&memory.fd, PAGE);
    map.set(0, 42);
    fork(|| {
        become_user(1000);
        // Also through the FD that root opened.
        for file in [&file, &mount.shadow(&Request::file(1, "f"))] {
            let memory = shadow::cache(file, PAGE as u64).expect("cache");
            assert!(memory.created);
            assert_eq!(Map::of(&memory.fd, PAGE).byte(0), 0);
        }
    })
    .join();
}

fn other_files_have_other_pages() {
    let (mount, other_mount) = (Mount::new(), Mount::new());
    let files = [
        mount.shadow(&Request::file(1, "f")),
        mount.shadow(&Request::file(2, "f")),
        mount.shadow(&Request::file(1, "f").dev(8)),
        other_mount.shadow(&Request::file(1, "f")),
    ];
    let memories = files.each_ref().map(|file| shadow::cache(file, 0).expect("cache"));
    assert!(memories.iter().all(|memory| memory.created));
}

fn the_size_is_set_and_changed() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    let memory = shadow::cache(&file, 5000).expect("cache");
    assert_eq!(memory.size, 5000);
    rustix::fs::ftruncate(&memory.fd, 1 << 40).expect("grow");
    let again = shadow::cache(&file, 0).expect("cache");
    assert_eq!(again.size, 1 << 40);
    // Write back reads it like a file.
    assert_eq!(rustix::io::pwrite(&memory.fd, b"data", 1 << 30), Ok(4));
    assert_eq!(rustix::fs::seek(&again.fd, rustix::fs::SeekFrom::Data(0)), Ok(1 << 30));
}

fn missing_pages_are_caught() {
    let mount = Mount::new();
    // The program's file may be read-only: the pages are filled all the same.
    let file = mount.shadow(&Request::file(1, "f").flags(libc::O_RDONLY));
    let memory = shadow::cache(&file, 4 * PAGE as u64).expect("cache");
    let map = Map::of(&memory.fd, 4 * PAGE);
    let uffd = match Uffd::new() {
        Ok(uffd) => uffd,
        Err(error) => {
            println!("skipped: no userfaultfd: {error}");
            return;
        }
    };
    uffd.register(map.0, 4 * PAGE).expect("register the mapping");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let map = &map;
            map.byte(2 * PAGE + 7)
        });
        let address = uffd.fault();
        assert_eq!(address & !(PAGE as u64 - 1), map.0 as u64 + 2 * PAGE as u64);
        uffd.fill(address, &[77; PAGE]).expect("fill the page");
        assert_eq!(reader.join().expect("the reader"), 77);
    });
    let again = shadow::cache(mount.shadow(&Request::file(1, "f")), 0).expect("cache");
    assert_eq!(Map::of(&again.fd, 4 * PAGE).byte(2 * PAGE), 77);
}

// SAFETY: bytes of a shared mapping, read and written by volatile accesses only.
unsafe impl Sync for Map {}

fn a_mapping_keeps_the_mount_busy() {
    let mut mount = Mount::new();
    let map = {
        let file = mount.shadow(&Request::file(1, "f"));
        Map::of(&shadow::cache(&file, PAGE as u64).expect("cache").fd, PAGE)
    };
    mount.let_root_go();
    assert_eq!(mount.unmount(UnmountFlags::empty()), Err(rustix::io::Errno::BUSY));
    drop(map);
    mount.unmount(UnmountFlags::empty()).expect("unmount once unmapped");
}

fn a_mapping_is_shown_by_its_path() {
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "dir/lib.so"));
    let map = Map::of(&shadow::cache(&file, PAGE as u64).expect("cache").fd, PAGE);
    let maps = fs::read_to_string("/proc/self/maps").expect("read maps");
    let shown = format!("{}/dir/lib.so (deleted)", mount.point().display());
    assert!(maps.lines().any(|line| line.ends_with(&shown)), "{maps}");
    drop(map);
}

fn directories_have_no_pages() {
    let mount = Mount::new();
    let dir = mount.shadow(&Request::dir(1, "d"));
    assert_eq!(errno(shadow::cache(&dir, 0)), libc::EISDIR);
    assert_eq!(errno(shadow::cache(mount.root(), 0)), libc::EISDIR);
}

fn bad_requests_are_refused() {
    use super::super::abi::{Cache, IOC_CACHE};
    let mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    for bad in [Cache { flags: 2, ..Cache::default() }, Cache { created: 1, ..Cache::default() }] {
        let mut raw = bad;
        assert_eq!(errno(shadow::ioctl(file.as_fd(), IOC_CACHE, &raw mut raw)), libc::EINVAL);
    }
    assert_eq!(errno(shadow::cache(&file, u64::MAX)), libc::EFBIG);
    let unmapped: *mut Cache = ptr::null_mut();
    assert_eq!(errno(shadow::ioctl(file.as_fd(), IOC_CACHE, unmapped)), libc::EFAULT);
}

fn the_arena_is_one_per_mount_and_user() {
    let (mount, other_mount) = (Mount::new(), Mount::new());
    {
        let arena = shadow::arena(mount.root(), PAGE as u64).expect("arena");
        assert!(arena.created);
        Map::of(&arena.fd, PAGE).set(0, 42);
    }
    // Nobody holds it now, and it is still there, also for who has no more than a shadow.
    let file = mount.shadow(&Request::file(1, "f"));
    let arena = shadow::arena(&file, 0).expect("arena");
    assert_eq!((arena.created, arena.size), (false, PAGE as u64));
    assert_eq!(Map::of(&arena.fd, PAGE).byte(0), 42);
    assert!(shadow::arena(other_mount.root(), 1).expect("arena").created);
    fork(|| {
        become_user(1000);
        assert!(shadow::arena(&file, 1).expect("arena").created);
    })
    .join();
}

fn the_arena_does_not_keep_the_mount_busy() {
    let mut mount = Mount::new();
    let arena = shadow::arena(mount.root(), PAGE as u64).expect("arena");
    let map = Map::of(&arena.fd, PAGE);
    map.set(0, 42);
    mount.let_root_go();
    mount.unmount(UnmountFlags::empty()).expect("unmount");
    assert_eq!(map.byte(0), 42);
}

fn the_arena_has_one_size() {
    use super::super::abi::ARENA_MAX;
    let mount = Mount::new();
    assert_eq!(errno(shadow::arena(mount.root(), 0)), libc::ENOENT);
    assert_eq!(errno(shadow::arena(mount.root(), ARENA_MAX + 1)), libc::EFBIG);
    let arena = shadow::arena(mount.root(), ARENA_MAX).expect("arena");
    let again = shadow::arena(mount.root(), 5).expect("arena");
    assert_eq!((arena.size, again.size), (ARENA_MAX, ARENA_MAX));
    for size in [0, ARENA_MAX + 1] {
        assert_eq!(rustix::fs::ftruncate(&arena.fd, size), Err(rustix::io::Errno::PERM));
    }
    assert_eq!(rustix::io::pwrite(&arena.fd, b"x", ARENA_MAX), Err(rustix::io::Errno::PERM));
}
