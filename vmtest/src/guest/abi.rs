//! The Rust side of `kmod/defuse_ioctl.h`; the layout is checked at compile time.

use std::mem::{offset_of, size_of};

/// `statfs` type of a mount and its shadows.
pub const SUPER_MAGIC: u64 = 0x4446_5553;
/// Version that `DEFUSE_IOC_MOUNT` answers.
pub const ABI_VERSION: u32 = 2;
/// Longest path that `DEFUSE_IOC_OPEN` takes, in bytes.
pub const PATH_MAX: usize = 4094;
/// Most tokens in one `DEFUSE_IOC_LIVE`.
pub const LIVE_MAX: usize = 65536;

/// `struct defuse_open`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_field_names, reason = "the header's names")]
pub struct Open {
    pub dev: u64,
    pub ino: u64,
    pub token: u64,
    pub path: u64,
    pub user: u64,
    pub path_len: u32,
    pub open_flags: u32,
    pub flags: u32,
    pub uid: u32,
}

/// `DEFUSE_OPEN_DIR`.
pub const OPEN_DIR: u32 = 1;

/// `struct defuse_ident`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Ident {
    pub dev: u64,
    pub ino: u64,
    pub token: u64,
    pub user: u64,
    pub mount: [u8; 16],
    pub path: u64,
    pub path_len: u32,
    pub kind: u32,
    pub open_flags: u32,
    pub reserved: u32,
}

/// `DEFUSE_KIND_ROOT`: the root as `open(2)` gives it.
pub const KIND_ROOT: u32 = 0;
/// `DEFUSE_KIND_FILE`.
pub const KIND_FILE: u32 = 1;
/// `DEFUSE_KIND_DIR`.
pub const KIND_DIR: u32 = 2;

/// `struct defuse_mount`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MountInfo {
    pub mount: [u8; 16],
    pub abi: u32,
    pub reserved: u32,
    pub backend: u64,
    pub library: u64,
    pub backend_len: u32,
    pub library_len: u32,
}

/// `struct defuse_live`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_field_names, reason = "the header's names")]
pub struct Live {
    pub tokens: u64,
    pub live: u64,
    pub user: u64,
    pub closed: u64,
    pub count: u32,
    pub reserved: u32,
}

/// `struct defuse_cache`, also of `DEFUSE_IOC_ARENA`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cache {
    pub size: u64,
    pub flags: u32,
    pub created: u32,
}

/// `DEFUSE_CACHE_CLOEXEC`.
pub const CACHE_CLOEXEC: u32 = 1;

/// Largest arena, in bytes.
pub const ARENA_MAX: u64 = 64 << 10;

const WRITE: u64 = 1;
const READ_WRITE: u64 = 3;

/// `_IOC(dir, 0xDF, nr, size)`.
pub const fn request(dir: u64, nr: u64, size: usize) -> u64 {
    dir << 30 | (size as u64) << 16 | 0xDF << 8 | nr
}

/// `DEFUSE_IOC_OPEN`.
pub const IOC_OPEN: u64 = request(WRITE, 0x10, size_of::<Open>());
/// `DEFUSE_IOC_IDENT`.
pub const IOC_IDENT: u64 = request(READ_WRITE, 0x11, size_of::<Ident>());
/// `DEFUSE_IOC_MOUNT`.
pub const IOC_MOUNT: u64 = request(READ_WRITE, 0x12, size_of::<MountInfo>());
/// `DEFUSE_IOC_LIVE`.
pub const IOC_LIVE: u64 = request(READ_WRITE, 0x13, size_of::<Live>());
/// `DEFUSE_IOC_CACHE`.
pub const IOC_CACHE: u64 = request(READ_WRITE, 0x14, size_of::<Cache>());
/// `DEFUSE_IOC_ARENA`.
pub const IOC_ARENA: u64 = request(READ_WRITE, 0x15, size_of::<Cache>());

const _: () = {
    assert!(size_of::<Open>() == 56 && offset_of!(Open, user) == 32 && offset_of!(Open, uid) == 52);
    assert!(size_of::<Ident>() == 72 && offset_of!(Ident, mount) == 32 && offset_of!(Ident, path) == 48);
    assert!(size_of::<MountInfo>() == 48 && offset_of!(MountInfo, backend) == 24);
    assert!(size_of::<Live>() == 40 && offset_of!(Live, closed) == 24);
    assert!(size_of::<Cache>() == 16 && offset_of!(Cache, created) == 12);
    assert!(IOC_OPEN == 0x4038_DF10 && IOC_IDENT == 0xC048_DF11 && IOC_MOUNT == 0xC030_DF12);
    assert!(IOC_LIVE == 0xC028_DF13 && IOC_CACHE == 0xC010_DF14 && IOC_ARENA == 0xC010_DF15);
};
