//! What is said to the kernel module: the structures of `kmod/defuse_ioctl.h`.

/// `DEFUSE_IOC_OPEN`.
pub const OPEN: u64 = request(WRITES, 0x10, size_of::<Open>());
/// `DEFUSE_IOC_IDENT`.
pub const IDENT: u64 = request(WRITES | READS, 0x11, size_of::<Ident>());
/// `DEFUSE_IOC_LIVE`.
pub const LIVE: u64 = request(WRITES | READS, 0x13, size_of::<Live>());
/// `DEFUSE_IOC_ARENA`.
pub const ARENA: u64 = request(WRITES | READS, 0x15, size_of::<Cache>());
/// `DEFUSE_CACHE_CLOEXEC`.
pub const CACHE_CLOEXEC: u32 = 1;
/// `DEFUSE_OPEN_DIR`: a directory is opened.
pub const OPEN_DIR: u32 = 1;
/// `DEFUSE_KIND_ROOT`: the root of a mount, opened by its path; there is no description.
pub const KIND_ROOT: u32 = 0;

const WRITES: u64 = 1;
const READS: u64 = 2;

/// The number of a request, as `asm-generic/ioctl.h` makes it.
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | 0xDF << 8 | number
}

/// `struct defuse_open`: which shadow to open.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Open {
    /// With `ino` the key: equal keys of one kind on one mount are one inode to locks and leases.
    pub dev: u64,
    /// See `dev`.
    pub ino: u64,
    /// Names the description among the user's.
    pub token: u64,
    /// Address of the path below the mount point.
    pub path: u64,
    /// Where it is written who opens it, before there is a description: the address of a [`u64`].
    pub user: u64,
    /// Its length; 0 for the root.
    pub path_len: u32,
    /// `O_*`.
    pub o_flags: u32,
    /// [`OPEN_DIR`] or 0.
    pub flags: u32,
    /// The file's owner.
    pub uid: u32,
}

/// `struct defuse_ident`: what an FD is.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Ident {
    /// The key.
    pub dev: u64,
    /// The key.
    pub ino: u64,
    /// The description.
    pub token: u64,
    /// Who opened it.
    pub user: u64,
    /// Which mount.
    pub mount: [u8; 16],
    /// Where the path goes.
    pub path: u64,
    /// Room at `path`.
    pub path_len: u32,
    /// `DEFUSE_KIND_*`.
    pub kind: u32,
    /// `F_GETFL`.
    pub open_flags: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct defuse_live`: which descriptions are open somewhere.
#[repr(C)]
#[derive(Debug)]
pub struct Live {
    /// Address of the tokens.
    pub tokens: u64,
    /// Address of a byte for each: 0 or 1.
    pub answers: u64,
    /// Who opened them.
    pub user: u64,
    /// Descriptions gone so far.
    pub closed: u64,
    /// How many.
    pub count: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct defuse_cache`: memory of the module's.
#[repr(C)]
#[derive(Debug)]
pub struct Cache {
    /// Bytes, if it is made now; 0: it is not to be made.
    pub size: u64,
    /// [`CACHE_CLOEXEC`] or 0.
    pub flags: u32,
    /// 1 if it was made now.
    pub created: u32,
}

const _: () = assert!(size_of::<Cache>() == 16);
const _: () = assert!(size_of::<Open>() == 56 && size_of::<Ident>() == 72 && size_of::<Live>() == 40);

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::process::{Command, Stdio};

    /// The C compiler says what the header's requests are.
    #[test]
    fn the_requests_are_those_of_the_header() {
        let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kmod/defuse_ioctl.h");
        let mut source = format!("#include \"{header}\"\n");
        for (name, value) in
            [("OPEN", super::OPEN), ("IDENT", super::IDENT), ("LIVE", super::LIVE), ("ARENA", super::ARENA)]
        {
            let _ = writeln!(source, "_Static_assert(DEFUSE_IOC_{name} == {value}u, \"{name}\");");
        }
        let child = Command::new("cc").args(["-x", "c", "-fsyntax-only", "-"]).stdin(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            println!("skipped: cc is not installed");
            return;
        };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), source.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
