//! Descriptors that are only a place in the tree (`O_PATH`): calls that want more of an FD say EBADF, and poll(2) POLLNVAL, though what stands there is
//! open to the kernel. Asked once the process has had such a file ([`interpose::offer_late`]).

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::{Reply, Served};
use crate::process::Process;
use crate::{file, native, table, user};

/// poll.h
const POLLNVAL: u16 = 0x20;

/// A `struct pollfd`: the FD, and in the upper half of the other word what was found.
type Entry = [i32; 2];

/// Whether `fd` is served, and only a place.
fn is_place(process: &'static Process, fd: RawFd) -> bool {
    fd >= 0 && file::served(process, fd).is_some_and(|file| file.is_place())
}

/// `EBADF` if `fd` is only a place.
pub fn check(process: &'static Process, fd: RawFd) -> Result<(), Errno> {
    if is_place(process, fd) { Err(Errno::BADF) } else { Ok(()) }
}

/// Calls that are the kernel's, about FDs that are something else than a file.
pub fn not_of_places(process: &'static Process, call: &Call) -> Served {
    let fds = table::call(call.nr).map(|known| known.fds().to_vec()).unwrap_or_default();
    fds.iter().try_for_each(|&argument| check(process, call.args[usize::from(argument)] as RawFd))?;
    Ok(Reply::Pass)
}

/// poll(2), ppoll(2). What is invalid is ready, so nobody waits, whatever the signal mask.
pub fn poll(process: &'static Process, call: &Call) -> Served {
    let [address, count, timeout, ..] = call.args;
    if count > process.fd_limit() || call.nr == sys::__NR_ppoll && !is_time(timeout, 1_000_000_000) {
        return Ok(Reply::Pass); // The kernel says what is wrong.
    }
    let entry = |index: u64| user::read::<Entry>(address.wrapping_add(index * size_of::<Entry>() as u64));
    let Ok(mut entries) = (0..count).map(entry).collect::<Result<Vec<Entry>, Errno>>() else {
        return Ok(Reply::Pass);
    };
    let places: Vec<bool> = entries.iter().map(|&[fd, _]| is_place(process, fd)).collect();
    if !places.contains(&true) {
        return Ok(Reply::Pass);
    }
    for ([fd, _], _) in entries.iter_mut().zip(&places).filter(|(_, place)| **place) {
        *fd = -1;
    }
    let args = [entries.as_mut_ptr() as u64, count, 0, 0, 0, 0];
    let ready = native::checked(sys::__NR_poll, args)?;
    for (index, ([_, events], place)) in entries.iter().zip(&places).enumerate() {
        let found = if *place { POLLNVAL } else { (*events as u32 >> 16) as u16 };
        let field = address.wrapping_add((index * size_of::<Entry>()) as u64 + 6);
        user::write_bytes(field, &found.to_ne_bytes())?;
    }
    Ok(Reply::Value((ready + places.iter().filter(|place| **place).count() as u64) as i64))
}

/// select(2), pselect6(2): such an FD is ready for everything.
pub fn select(process: &'static Process, call: &Call) -> Served {
    let [count, .., timeout, _] = call.args;
    let parts = if call.nr == sys::__NR_select { 1_000_000 } else { 1_000_000_000 };
    let Ok(count) = u32::try_from(count as i32) else { return Ok(Reply::Pass) };
    if !is_time(timeout, parts) {
        return Ok(Reply::Pass);
    }
    // FDs beyond are not open, and not looked at.
    let count = u64::from(count).min(process.fd_limit());
    let word = |set: u64, index: u64| user::read::<u64>(set.wrapping_add(index * 8));
    let read = |&set: &u64| match set {
        0 => Ok(Vec::new()),
        set => (0..count.div_ceil(64)).map(|index| word(set, index)).collect::<Result<Vec<u64>, Errno>>(),
    };
    let addresses = &call.args[1..4];
    let Ok(mut sets) = addresses.iter().map(read).collect::<Result<Vec<_>, Errno>>() else {
        return Ok(Reply::Pass);
    };
    let has =
        |set: &Vec<u64>, fd: u64| set.get(fd as usize / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0);
    let places: Vec<u64> = (0..count)
        .filter(|&fd| sets.iter().any(|set| has(set, fd)) && is_place(process, fd as RawFd))
        .collect();
    if places.is_empty() {
        return Ok(Reply::Pass);
    }
    let asked = sets.clone();
    for set in &mut sets {
        for &place in &places {
            if let Some(word) = set.get_mut(place as usize / 64) {
                *word &= !(1 << (place % 64));
            }
        }
    }
    let mut now = [0_i64; 2];
    let pointer = |set: &mut Vec<u64>| if set.is_empty() { 0 } else { set.as_mut_ptr() as u64 };
    let [first, second, third] = &mut sets[..] else { return Ok(Reply::Pass) };
    let args = [count, pointer(first), pointer(second), pointer(third), now.as_mut_ptr() as u64, 0];
    let mut ready = native::checked(sys::__NR_select, args)?;
    for ((set, asked), &address) in sets.iter_mut().zip(&asked).zip(addresses) {
        for &place in places.iter().filter(|&&place| has(asked, place)) {
            set[place as usize / 64] |= 1 << (place % 64);
            ready += 1;
        }
        for (index, word) in set.iter().enumerate() {
            user::write(address.wrapping_add(index as u64 * 8), word)?;
        }
    }
    Ok(Reply::Value(ready as i64))
}

/// Whether there is no time at the address, or a valid one, whose second word has so many parts of a second.
fn is_time(address: u64, parts: i64) -> bool {
    address == 0
        || user::read::<[i64; 2]>(address)
            .is_ok_and(|[seconds, rest]| seconds >= 0 && (0..parts).contains(&rest))
}
