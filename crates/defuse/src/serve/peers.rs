//! The names of those who connect and send: of a socket that is named on a mount the kernel knows the rendezvous only.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use interpose::Call;

use super::sockets::{self, ADDRESS_MAX};
use super::{Reply, Served};
use crate::process::Process;
use crate::{native, user};

/// accept(2) and accept4(2).
pub fn accept(process: &'static Process, call: &Call) -> Served {
    with_name(process, call, 1)
}

pub fn recvfrom(process: &'static Process, call: &Call) -> Served {
    with_name(process, call, 4)
}

/// A call whose argument number `at` says where the peer's name goes, and the next where its length is.
fn with_name(process: &'static Process, call: &Call, at: usize) -> Served {
    let (place, length) = (call.args[at], call.args[at + 1]);
    // A filter of the program's may end it for a call that it does not make itself.
    if place == 0
        || process.restricted.load(Ordering::Relaxed)
        || !sockets::is_unix_socket(call.args[0] as RawFd)
    {
        return Ok(Reply::Pass);
    }
    let Ok(room) = user::read::<i32>(length).map(usize::try_from) else { return Ok(Reply::Pass) };
    let Ok(room) = room else { return Ok(Reply::Pass) };
    let mut name = Name::new();
    let mut args = call.args;
    [args[at], args[at + 1]] = name.for_kernel();
    let result = native::interruptible(call.nr, args);
    if result >= 0 {
        let put = name.put(process, name.length(), place, room).and_then(|known| user::write(length, &known));
        if let Err(error) = put {
            if at == 1 {
                native::close(result as RawFd); // accepted, and nobody knows
            }
            return Err(error);
        }
    }
    Ok(Reply::Value(result))
}

/// Room for the name of a peer.
pub struct Name {
    bytes: [u8; ADDRESS_MAX],
    length: u32,
}

impl Name {
    /// As much as any name needs.
    pub fn new() -> Self {
        Self { bytes: [0; ADDRESS_MAX], length: ADDRESS_MAX as u32 }
    }

    /// Where it is, and where its length is.
    pub fn for_kernel(&mut self) -> [u64; 2] {
        [self.bytes.as_mut_ptr() as u64, &raw mut self.length as u64]
    }

    /// Its length, as the kernel has said.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Gives the program the name, which is `length` bytes long for the kernel, as its owner gave it, or else as the kernel has it: as much as there is
    /// `room` for. Returns its whole length.
    pub fn put(
        &self,
        process: &Process,
        length: u32,
        place: u64,
        room: usize,
    ) -> Result<i32, rustix::io::Errno> {
        let bytes = &self.bytes[..(length as usize).min(ADDRESS_MAX)];
        let shown = sockets::shown(process, bytes);
        let shown = shown.as_ref().map_or(bytes, |address| address.bytes());
        user::write_bytes(place, &shown[..room.min(shown.len())])?;
        Ok(shown.len() as i32)
    }
}
