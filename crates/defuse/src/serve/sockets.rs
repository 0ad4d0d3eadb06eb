//! Unix sockets that are named by a path on a mount.
//!
//! The name is the plugin's: a node of type socket, made by `mknod`. The kernel, which joins the two ends, cannot look there. So it binds the
//! socket to a *rendezvous* in the session's folder, named by mount, device and inode of the node; whoever connects to the
//! node is led there. Renames and links of the node change nothing about that. Beside it lies a symbolic link whose target
//! is the name that the program gave, for getsockname(2).
//!
//! A node without a rendezvous was made by somebody outside of the session: the kernel gets there if the plugin lends it.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Instance, Open, Purpose};
use rustix::io::Errno;

use super::attributes::{access_itself, attributes_at};
use super::names::{exists_or, masked};
use super::{Reply, Served, paths, read_only};
use crate::namei::{self, Last, Located, OpenHow, PathArgument, Performed, Spot};
use crate::process::Process;
use crate::resolve::{PathBytes, Walk};
use crate::session::names::SOCKETS;
use crate::{native, user};

/// linux/socket.h and linux/net.h
const AF_UNIX: u32 = 1;
const SOCK_STREAM: u32 = 1;
/// Bytes of a `struct sockaddr_un`, and of the family before the path in it.
pub const ADDRESS_MAX: usize = 110;
const FAMILY: usize = 2;
/// Bits of socket(2)'s second argument that are the type (`SOCK_TYPE_MASK`).
const TYPE: u32 = 0xf;
/// After a rendezvous' name in that of the link with the program's name.
const CALLED: &[u8] = b"~";

type Name = ArrayVec<u8, 4096>;

/// socket(2): datagrams may be sent to a path on a mount, by calls that are looked at only while something is served.
pub fn socket(process: &'static Process, call: &Call) -> Served {
    let [family, kind, ..] = call.args;
    if family as u32 == AF_UNIX && kind as u32 & TYPE != SOCK_STREAM {
        process.serving.store(1, Ordering::Release);
    }
    Ok(Reply::Pass)
}

pub fn bind(process: &'static Process, call: &Call) -> Served {
    let [fd, address, length, ..] = call.args;
    let Some(argument) = path_in(address, length) else { return Ok(Reply::Pass) };
    let Some(mode) = mode_of_unix_socket(fd as RawFd) else { return Ok(Reply::Pass) };
    let mut operation = |spot: &Spot| make_name(process, spot, &argument, fd, mode);
    let native = |path: Option<PathBytes>| match path {
        None => Ok(Reply::Pass),
        Some(path) => {
            let address = Address::of(&path)?;
            Ok(Reply::Value(native::raw_call(call.nr, [fd, address.pointer(), address.length(), 0, 0, 0])))
        }
    };
    match argument.perform_with(process, Walk::name(), &mut operation)? {
        Performed::Served(()) => super::DONE,
        Performed::Native(Some(path)) => native(Some(path)),
        Performed::Native(None) => match paths::settle(process, &argument, Walk::name())? {
            Located::Served(spot) => operation(&spot).map(|()| Reply::Value(0)),
            Located::Native(path) => native(path),
        },
    }
}

/// The mode that a name for the socket `fd` is made with; nothing if it is no Unix socket.
fn mode_of_unix_socket(fd: RawFd) -> Option<u32> {
    is_unix_socket(fd).then(|| native::fstat(fd).ok()).flatten().map(|stat| stat.st_mode & 0o7777)
}

/// Whether `fd` is a Unix socket.
pub fn is_unix_socket(fd: RawFd) -> bool {
    const SO_DOMAIN: u32 = 39;
    native::socket_option(fd, SO_DOMAIN) == Ok(AF_UNIX)
}

fn make_name(
    process: &Process,
    spot: &Spot,
    argument: &PathArgument,
    fd: u64,
    mode: u32,
) -> Result<(), Errno> {
    let taken = |error| if error == Errno::EXIST { Errno::ADDRINUSE } else { error };
    if spot.is_root() || argument.last() != Last::Name {
        return Err(Errno::ADDRINUSE);
    }
    if spot.directory {
        return Err(taken(exists_or(spot, Errno::NOENT)));
    }
    if own_name(fd)?.text().is_some() {
        return Err(taken(exists_or(spot, Errno::INVAL)));
    }
    read_only::check_new(process, spot).map_err(taken)?;
    let mode = masked(process, spot, mode)? | sys::S_IFSOCK;
    spot.call(|instance, path| instance.mknod(path, mode, 0)).map_err(taken)?;
    let bound = Rendezvous::of(process, spot).and_then(|place| place.bind(fd, &argument.text));
    if bound.is_err() {
        let _ = spot.call(Instance::unlink);
    }
    bound
}

/// The name that the kernel has for the socket.
fn own_name(fd: u64) -> Result<Address, Errno> {
    Address::asked(sys::__NR_getsockname, fd)
}

pub fn connect(process: &'static Process, call: &Call) -> Served {
    let [fd, address, length, ..] = call.args;
    match target(process, address, length)? {
        None => Ok(Reply::Pass),
        Some(target) => waiting(call.nr, [fd, target.pointer(), target.length(), 0, 0, 0]),
    }
}

pub fn sendto(process: &'static Process, call: &Call) -> Served {
    let [fd, data, count, flags, address, length] = call.args;
    match target(process, address, length)? {
        None => Ok(Reply::Pass),
        Some(target) => waiting(call.nr, [fd, data, count, flags, target.pointer(), target.length()]),
    }
}

/// Where a message with this `struct msghdr` goes, if that is a path on a mount.
pub fn destination(process: &'static Process, header: &[u64; 7]) -> Result<Option<Address>, Errno> {
    target(process, header[0], header[1])
}

/// A call that may wait.
fn waiting(nr: u32, args: [u64; 6]) -> Served {
    native::checked_interruptible(nr, args).map(|value| Reply::Value(value as i64))
}

/// getsockname and getpeername: by the name that the program gave, not that of the rendezvous.
pub fn name(process: &'static Process, call: &Call) -> Served {
    let [fd, buffer, length, ..] = call.args;
    let Ok(address) = Address::asked(call.nr, fd) else { return Ok(Reply::Pass) };
    let Some(shown) = shown(process, &address.bytes) else { return Ok(Reply::Pass) };
    let room = user::read::<i32>(length)?;
    let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
    user::write_bytes(buffer, &shown.bytes[..room.min(shown.bytes.len())])?;
    user::write(length, &(shown.bytes.len() as i32))?;
    super::DONE
}

/// The address that a program gave the socket which the kernel knows by `address`, if that is a rendezvous. Not known to a process whose
/// filter may end it for a call that it does not make itself.
pub fn shown(process: &Process, address: &[u8]) -> Option<Address> {
    if process.restricted.load(Ordering::Relaxed) {
        return None;
    }
    let called = text_in(address).and_then(|text| name_at(process, text))?;
    Address::of(&called).ok()
}

/// The name by which a program bound the socket that the kernel knows by `text`, if that is a rendezvous.
fn name_at(process: &Process, text: &[u8]) -> Option<PathBytes> {
    let slash = text.iter().rposition(|&byte| byte == b'/')?;
    let (directory, key) = (&text[..slash], &text[slash + 1..]);
    let ours = directory.strip_prefix(process.folder.as_slice()).and_then(|rest| rest.strip_prefix(b"/"));
    if ours != Some(SOCKETS.as_bytes()) && !directory.starts_with(b"/proc/self/fd/") {
        return None;
    }
    let mut link = Name::new();
    for piece in [process.folder.as_slice(), b"/", SOCKETS.as_bytes(), b"/", key, CALLED, b"\0"] {
        link.try_extend_from_slice(piece).ok()?;
    }
    let mut target = [0; ADDRESS_MAX];
    let args = [link.as_ptr() as u64, target.as_mut_ptr() as u64, target.len() as u64, 0, 0, 0];
    let length = native::checked(sys::__NR_readlink, args).ok()? as usize;
    PathBytes::try_from(&target[..length]).ok()
}

/// The path in the socket address at `address`. What is no path, or wrong, is the kernel's.
fn path_in(address: u64, length: u64) -> Option<PathArgument> {
    let length = length as u32 as usize;
    if address == 0 || !(FAMILY + 1..=ADDRESS_MAX).contains(&length) {
        return None;
    }
    let mut bytes = [0; ADDRESS_MAX];
    user::read_bytes(address, &mut bytes[..length]).ok()?;
    let text =
        Address { bytes: ArrayVec::from(bytes), directory: None }.text().map(PathBytes::try_from)?.ok()?;
    Some(PathArgument { dirfd: sys::AT_FDCWD, text })
}

/// What the kernel is to be given in place of an address that leads to a mount.
fn target(process: &'static Process, address: u64, length: u64) -> Result<Option<Address>, Errno> {
    let Some(argument) = path_in(address, length) else { return Ok(None) };
    let mut operation = |spot: &Spot| socket_at(process, spot);
    let native = |path: Option<PathBytes>| path.map(|path| Address::of(&path)).transpose();
    Ok(match argument.perform(process, true, &mut operation)? {
        Performed::Served(address) => Some(address),
        Performed::Native(Some(path)) => native(Some(path))?,
        Performed::Native(None) => match paths::settle(process, &argument, Walk::plain(true))? {
            Located::Served(spot) => Some(operation(&spot)?),
            Located::Native(path) => native(path)?,
        },
    })
}

/// The address of the socket at `spot`, with the errors that connect(2) has for what is none.
fn socket_at(process: &Process, spot: &Spot) -> Result<Address, Errno> {
    const W_OK: u32 = 2;
    let attributes = attributes_at(spot, true)?;
    access_itself(spot, W_OK, sys::AT_EACCESS)?;
    if attributes.st_mode & sys::S_IFMT != sys::S_IFSOCK {
        return Err(Errno::CONNREFUSED);
    }
    let place = Rendezvous::of(process, spot)?;
    if place.is_trusted(process, attributes.st_uid) { place.address() } else { lent(spot) }
}

/// The socket of somebody else at `spot`, if the plugin lends it.
fn lent(spot: &Spot) -> Result<Address, Errno> {
    let instance = spot.mount.instance()?;
    let flags = (sys::O_PATH | sys::O_NOFOLLOW | sys::O_CLOEXEC) as i32;
    let opened = spot.call(|instance, path| instance.open(path, flags, 0));
    let Ok(Open::Served { handle, .. }) = opened else { return Err(Errno::CONNREFUSED) };
    let duplicate = match instance.backing_fd(&handle, Purpose::Map) {
        Ok(backing) => {
            let args = [backing.as_raw_fd() as u64, u64::from(sys::F_DUPFD_CLOEXEC), 0, 0, 0, 0];
            native::new_fd(sys::__NR_fcntl, args)
        }
        Err(_) => Err(Errno::CONNREFUSED),
    };
    let _ = instance.close(handle);
    Address::below(duplicate?, b"")
}

/// Where the kernel has the socket of a node on a mount.
struct Rendezvous {
    /// Path of the directory, its last slash, and the name.
    path: Name,
    /// Where in `path` the name begins.
    key: usize,
}

impl Rendezvous {
    fn of(process: &Process, spot: &Spot) -> Result<Self, Errno> {
        let attributes = spot.call(Instance::getattr)?;
        let cut = |_| Errno::NAMETOOLONG;
        let mut path = Name::new();
        path.try_extend_from_slice(&process.folder).map_err(|_| Errno::NAMETOOLONG)?;
        write!(path, "/{SOCKETS}/").map_err(cut)?;
        let key = path.len();
        write!(path, "{:x}-{:x}-{:x}", spot.mount.number, attributes.st_dev, attributes.st_ino)
            .map_err(cut)?;
        Ok(Self { path, key })
    }

    /// The name in the session's folder, with something after it, as the kernel takes it.
    fn with(&self, tail: &[u8]) -> Result<Name, Errno> {
        let mut name = self.path.clone();
        name.try_extend_from_slice(tail).map_err(|_| Errno::NAMETOOLONG)?;
        name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
        Ok(name)
    }

    /// Whether there is a socket, of the node's owner or of somebody trusted anyway: everybody may make names here.
    fn is_trusted(&self, process: &Process, owner: u32) -> bool {
        let Ok(name) = self.with(b"") else { return false };
        let flags = sys::O_PATH | sys::O_NOFOLLOW | sys::O_CLOEXEC;
        let Ok(found) = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags.into(), 0, 0, 0, 0])
        else {
            return false;
        };
        let stat = native::fstat(found);
        native::close(found);
        let own = native::raw_call(sys::__NR_geteuid, [0; 6]) as u32;
        stat.is_ok_and(|stat| {
            stat.st_mode & sys::S_IFMT == sys::S_IFSOCK
                && [owner, process.owner, own, 0].contains(&stat.st_uid)
        })
    }

    /// Binds the socket `fd` here, which was called `text`.
    fn bind(&self, fd: u64, text: &[u8]) -> Result<(), Errno> {
        let (name, called) = (self.with(b"")?, self.with(CALLED)?);
        let mut text = PathBytes::try_from(text).map_err(|_| Errno::NAMETOOLONG)?;
        text.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
        for old in [&name, &called] {
            // Of a node that had this inode number before.
            native::raw_call(sys::__NR_unlink, [old.as_ptr() as u64, 0, 0, 0, 0, 0]);
        }
        let address = self.address()?;
        native::checked(sys::__NR_bind, [fd, address.pointer(), address.length(), 0, 0, 0])?;
        let link = [text.as_ptr() as u64, called.as_ptr() as u64, 0, 0, 0, 0];
        native::checked(sys::__NR_symlink, link)?;
        // Who may connect is what the node says.
        native::checked(sys::__NR_chmod, [name.as_ptr() as u64, 0o777, 0, 0, 0, 0]).map(drop)
    }

    /// The socket address that leads here.
    fn address(&self) -> Result<Address, Errno> {
        if self.path.len() < ADDRESS_MAX - FAMILY {
            return Address::of(&self.path);
        }
        let flags = u64::from(sys::O_PATH | sys::O_DIRECTORY | sys::O_CLOEXEC);
        let how = OpenHow { flags, mode: 0, resolve: 0 };
        let directory = namei::look_how(sys::AT_FDCWD, &self.path[..self.key], &how)?;
        Address::below(directory, &self.path[self.key..])
    }
}

/// A `struct sockaddr_un`.
pub struct Address {
    bytes: ArrayVec<u8, ADDRESS_MAX>,
    /// A descriptor that the path goes through, closed with it.
    directory: Option<RawFd>,
}

impl Address {
    /// The address that `path` (without NUL) is in.
    fn of(path: &[u8]) -> Result<Self, Errno> {
        let mut address = Self { bytes: ArrayVec::new(), directory: None };
        address.fill(path)?;
        Ok(address)
    }

    fn fill(&mut self, path: &[u8]) -> Result<(), Errno> {
        let family = (AF_UNIX as u16).to_ne_bytes();
        for piece in [family.as_slice(), path, b"\0"] {
            self.bytes.try_extend_from_slice(piece).map_err(|_| Errno::NAMETOOLONG)?;
        }
        Ok(())
    }

    /// That of `name` in the directory that the descriptor is of, or of what it is of itself. Closes it.
    fn below(directory: RawFd, name: &[u8]) -> Result<Self, Errno> {
        let mut path = ArrayVec::<u8, ADDRESS_MAX>::new();
        let written = write!(path, "/proc/self/fd/{directory}")
            .and_then(|()| if name.is_empty() { Ok(()) } else { path.write_all(b"/") })
            .and_then(|()| path.write_all(name));
        let mut address = Self { bytes: ArrayVec::new(), directory: Some(directory) };
        written.map_err(|_| Errno::NAMETOOLONG)?;
        address.fill(&path)?;
        Ok(address)
    }

    /// What getsockname(2) or getpeername(2) says about `fd`.
    fn asked(nr: u32, fd: u64) -> Result<Self, Errno> {
        let mut bytes = [0; ADDRESS_MAX];
        let mut length = ADDRESS_MAX as u32;
        native::checked(nr, [fd, bytes.as_mut_ptr() as u64, &raw mut length as u64, 0, 0, 0])?;
        let mut bytes = ArrayVec::from(bytes);
        bytes.truncate(length as usize);
        Ok(Self { bytes, directory: None })
    }

    /// The path in it.
    fn text(&self) -> Option<&[u8]> {
        text_in(&self.bytes)
    }

    /// As a `struct sockaddr_un`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it is, for the kernel.
    pub fn pointer(&self) -> u64 {
        self.bytes.as_ptr() as u64
    }

    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The path in the bytes of a `struct sockaddr_un`.
fn text_in(address: &[u8]) -> Option<&[u8]> {
    let (family, text) = address.split_at_checked(FAMILY)?;
    let text = &text[..text.iter().position(|&byte| byte == 0).unwrap_or(text.len())];
    (family == (AF_UNIX as u16).to_ne_bytes() && !text.is_empty()).then_some(text)
}

impl Drop for Address {
    fn drop(&mut self) {
        if let Some(fd) = self.directory {
            native::close(fd);
        }
    }
}
