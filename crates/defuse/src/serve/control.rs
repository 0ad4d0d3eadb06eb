//! Control data of messages (cmsg(3)), as far as it passes descriptors on.

use std::os::fd::RawFd;

use rustix::io::Errno;

use crate::user;

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_PIDFD: i32 = 4;
/// Bytes of a `struct cmsghdr`.
const HEADER: usize = 16;
/// Bytes of a descriptor.
const FD: usize = size_of::<RawFd>();

/// Calls `each` with every FD of the `SCM_RIGHTS` messages in the control buffer of the program. What is malformed is the kernel's to
/// refuse. Returns where the next message would begin, if all of it is well-formed.
pub fn for_each_passed(
    control: u64,
    length: u64,
    mut each: impl FnMut(RawFd) -> Result<(), Errno>,
) -> Result<Option<u64>, Errno> {
    const HEADER: u64 = self::HEADER as u64;
    // The kernel takes no more than that.
    if length > i32::MAX as u64 {
        return Ok(None);
    }
    let mut at = 0;
    while control != 0 && at + HEADER <= length {
        let size = user::read::<u64>(control + at)?;
        let [level, kind] = user::read::<[i32; 2]>(control + at + 8)?;
        if size < HEADER || size > length - at {
            return Ok(None);
        }
        if level == SOL_SOCKET && kind == SCM_RIGHTS {
            for index in 0..(size - HEADER) / FD as u64 {
                each(user::read::<i32>(control + at + HEADER + index * FD as u64)?)?;
            }
        }
        at += size.next_multiple_of(8);
    }
    Ok(Some(at))
}

/// Control data that was received in a buffer with more room than the program's has, as the program is to see it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fitted {
    /// What goes into the program's buffer.
    pub bytes: Vec<u8>,
    /// Not all had room there (`MSG_CTRUNC`).
    pub truncated: bool,
    /// The descriptors in it.
    pub fds: Vec<RawFd>,
    /// Those that had no room.
    pub excess: Vec<RawFd>,
    /// The one behind the program's, if there was one that `is_parcel`.
    pub parcel: Option<RawFd>,
    /// The one of the sender (`SCM_PIDFD`, since Linux 6.5) that came behind a parcel: in `bytes` it has the parcel's number, which it
    /// would have had without.
    pub renumbered: Option<RawFd>,
}

/// Fits `received` into `room` bytes, as the kernel does (`put_cmsg`, `scm_detach_fds`, `scm_pidfd_recv`). Descriptors at and above `limit` were
/// received in excess of the limit of open files.
pub fn fit(received: &[u8], room: usize, limit: u64, is_parcel: impl Fn(RawFd) -> bool) -> Fitted {
    let mut fitted = Fitted::default();
    let mut rest = received;
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let size = u64::from_ne_bytes(header[..8].try_into().unwrap_or_default()) as usize;
        if size < HEADER {
            break;
        }
        let message = &rest[..size.min(rest.len())];
        let [level, kind] = [8, 12].map(|at| number(&header[at..]));
        match kind {
            SCM_RIGHTS if level == SOL_SOCKET => fitted.put_rights(message, room, limit, &is_parcel),
            SCM_PIDFD if level == SOL_SOCKET && message.len() == HEADER + FD => {
                fitted.put_pidfd(message, room, limit);
            }
            _ => fitted.put(message, room),
        }
        rest = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
    }
    fitted
}

impl Fitted {
    fn put_rights(&mut self, message: &[u8], room: usize, limit: u64, is_parcel: impl Fn(RawFd) -> bool) {
        let mut fds: Vec<RawFd> = message[HEADER..].chunks_exact(FD).map(number).collect();
        self.parcel = self.parcel.or(fds.pop_if(|last| is_parcel(*last)));
        let below = fds.iter().take_while(|&&fd| (fd as u64) < limit).count();
        let fits = (room.saturating_sub(self.bytes.len() + HEADER) / FD).min(below);
        if fds.len() > fits {
            self.truncated = true;
            self.excess.extend(fds.drain(fits..));
        }
        if !fds.is_empty() {
            self.put(&message[..HEADER + FD * fds.len()], room);
        }
        self.fds.append(&mut fds);
    }

    /// One that has no room is not made at all. Where it cannot be made there is an error in place of the number.
    fn put_pidfd(&mut self, message: &[u8], room: usize, limit: u64) {
        const NO_NUMBER: i32 = -Errno::MFILE.raw_os_error();
        let mut pidfd = number(&message[HEADER..]);
        if room - self.bytes.len() < message.len() {
            self.truncated = true;
            self.excess.extend((pidfd >= 0).then_some(pidfd));
            return;
        }
        if pidfd >= 0 {
            match self.parcel.filter(|&parcel| parcel < pidfd && (parcel as u64) < limit) {
                Some(parcel) => {
                    self.renumbered = Some(pidfd);
                    pidfd = parcel;
                }
                None if pidfd as u64 >= limit => {
                    self.excess.push(pidfd);
                    pidfd = NO_NUMBER;
                }
                None => {}
            }
        }
        let mut message = message.to_vec();
        message[HEADER..].copy_from_slice(&pidfd.to_ne_bytes());
        self.put(&message, room);
    }

    fn put(&mut self, message: &[u8], room: usize) {
        let left = room - self.bytes.len();
        let size = message.len().min(left);
        self.truncated |= size < message.len();
        if left < HEADER {
            return;
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&message[..size]);
        self.bytes[at..at + 8].copy_from_slice(&(size as u64).to_ne_bytes());
        self.bytes.resize(at + size.next_multiple_of(8).min(left), 0);
    }
}

fn number(bytes: &[u8]) -> i32 {
    bytes.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARCEL: RawFd = 1000;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + data.len()) as u64).to_ne_bytes().to_vec();
        message.extend_from_slice(&level.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(data);
        message
    }

    fn rights(fds: &[RawFd]) -> Vec<u8> {
        message(SOL_SOCKET, SCM_RIGHTS, &fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect::<Vec<_>>())
    }

    fn fitted(received: &[u8], room: usize) -> Fitted {
        fit(received, room, u64::MAX, |fd| fd == PARCEL)
    }

    #[test]
    fn the_parcel_is_taken_off_and_the_rest_is_as_without() {
        let space = |mut bytes: Vec<u8>, room: usize| {
            bytes.resize(bytes.len().next_multiple_of(8).min(room), 0);
            bytes
        };
        for room in [20, 24] {
            let expected = Fitted {
                bytes: space(rights(&[5]), room),
                fds: vec![5],
                parcel: Some(PARCEL),
                ..Fitted::default()
            };
            assert_eq!(fitted(&rights(&[5, PARCEL]), room), expected);
        }
        // Two have room in the second, as the kernel counts.
        assert_eq!(fitted(&rights(&[5, 6]), 24).fds, [5, 6]);
        assert_eq!(fitted(&rights(&[5, 6]), 20).excess, [6]);
    }

    #[test]
    fn what_has_no_room_is_told() {
        let got = fitted(&rights(&[5, 6, 7]), 25);
        assert_eq!((got.truncated, got.fds.as_slice(), got.excess.as_slice()), (true, &[5, 6][..], &[7][..]));
        assert_eq!(got.bytes.len(), 24);
        for room in [0, 15, 16, 19] {
            let got = fitted(&rights(&[5]), room);
            assert_eq!((got.truncated, got.bytes.len(), got.excess.as_slice()), (true, 0, &[5][..]));
        }
    }

    #[test]
    fn other_messages_are_cut_as_the_kernel_cuts_them() {
        let credentials = [message(SOL_SOCKET, 2, &[9; 12]), vec![0; 4], rights(&[5, PARCEL])].concat();
        let got = fitted(&credentials, 32 + 20);
        assert_eq!((got.truncated, got.fds.as_slice(), got.bytes.len()), (false, &[5][..], 52));
        let got = fitted(&credentials, 26);
        assert_eq!((got.truncated, got.bytes.len(), got.excess.as_slice()), (true, 26, &[5][..]));
        assert_eq!(got.bytes[..8], 26_u64.to_ne_bytes());
    }

    #[test]
    fn the_senders_descriptor_has_the_parcels_number_or_is_not_there() {
        let pidfd = |fd: RawFd| message(SOL_SOCKET, SCM_PIDFD, &fd.to_ne_bytes());
        let both = [rights(&[5, PARCEL]), pidfd(1001)].concat();
        let got = fitted(&both, 48);
        assert_eq!(
            (got.truncated, got.parcel, got.renumbered, got.bytes.len()),
            (false, Some(PARCEL), Some(1001), 48)
        );
        assert_eq!(got.bytes[40..44], PARCEL.to_ne_bytes());
        for room in [24, 43] {
            let got = fitted(&both, room);
            assert_eq!((got.truncated, got.bytes.len(), got.renumbered), (true, 24, None));
            assert_eq!((got.fds, got.excess), (vec![5], vec![1001]));
        }
        // One that came alone keeps its number; one that the kernel could not make has none.
        for (fd, shown) in [(7, 7), (-24, -24)] {
            let got = fitted(&pidfd(fd), 24);
            assert_eq!((got.renumbered, &got.bytes[16..20]), (None, &i32::to_ne_bytes(shown)[..]));
        }
    }

    #[test]
    fn what_came_above_the_limit_is_not_the_programs() {
        let both = [
            rights(&[8, 9, 10, PARCEL]),
            vec![0; 0],
            message(SOL_SOCKET, SCM_PIDFD, &1001_i32.to_ne_bytes()),
        ]
        .concat();
        let at_limit = |limit| fit(&both, 100, limit, |fd| fd == PARCEL);
        let got = at_limit(10);
        assert_eq!((got.truncated, &got.fds[..], &got.excess[..]), (true, &[8, 9][..], &[10, 1001][..]));
        assert_eq!(got.bytes[40..44], (-24_i32).to_ne_bytes());
        let got = at_limit(8);
        assert_eq!((got.truncated, &got.fds[..], &got.excess[..]), (true, &[][..], &[8, 9, 10, 1001][..]));
    }
}
