//! Every system call of x86-64 Linux, and what becomes of it.
//!
//! One row for each number, also for those that concern no FD and no path: a number without a row is one that nobody has thought about, and a
//! test fails. `docs/system-calls.md` is made from these rows.
//!
//! # What goes with a row
//!
//! The dispatcher (`serve::server`) has a function for a number exactly if its treatment is [`Treatment::Served`],
//! [`Treatment::Refused`] or [`Treatment::RefusedOnMount`]; its tests compare the two. The interposer is told each number's
//! [`Interest`]. Which memory a call names matters to mapped files: pages of theirs must be there before the kernel touches them.

mod call;
mod rows_descriptors;
mod rows_files;
mod rows_memory;
mod rows_mounts;
mod rows_network;
mod rows_paths;
mod rows_processes;
mod rows_signals;
mod rows_system;

use std::ops::RangeInclusive;

pub use call::{Call, call, calls, transfers};
pub use interpose::Interest;
use rustix::io::Errno;

/// One system call.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number.
    pub nr: u16,
    /// Its name in the kernel's headers.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// When the dispatcher is asked.
    pub interest: Interest,
    /// The arguments, from 0, that are FDs, but for those that `paths` names.
    pub fds: &'static [u8],
    /// The arguments that are paths.
    pub paths: &'static [PathArg],
    /// The arguments that point to memory. Each may be null.
    pub memory: &'static [MemArg],
    /// Why it is treated so.
    pub why: &'static str,
}

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Done by us where it concerns a mount or a served FD, passed to the kernel otherwise.
    Served,
    /// Done, or changed before the kernel sees it, by crate `interpose`, which keeps signals, threads and code in order. The
    /// dispatcher has no function for it.
    Interposed,
    /// Passed to the kernel as it is.
    Passed,
    /// Fails with this error, whatever it concerns.
    Refused(Errno),
    /// Fails with this error where it concerns a mount or a served FD, and is passed to the kernel otherwise.
    RefusedOnMount(Errno),
}

/// An argument that is a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathArg {
    /// This argument, relative to the working directory.
    Cwd(u8),
    /// The second argument named, relative to the directory whose FD is the first.
    At(u8, u8),
}

/// An argument that points to memory, and how much of it. Numbers of arguments count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemArg {
    /// The kernel reads it.
    In(u8, Length),
    /// The kernel writes it.
    Out(u8, Length),
    /// The kernel does both.
    InOut(u8, Length),
}

/// How much memory an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// This many bytes.
    Fixed(u32),
    /// As many bytes as this argument says.
    Arg(u8),
    /// As many items as the first argument named says, each of the given number of bytes.
    Items(u8, u32),
    /// As many bytes as the 32-bit number says that this argument points to.
    Pointed(u8),
    /// An array of `struct iovec`, as many as this argument says, which the kernel reads; the direction is that of what they name.
    Iovec(u8),
    /// One `struct msghdr`, and what it names: address, vector, control data.
    Message,
    /// An array of `struct mmsghdr`, as many as this argument says.
    Messages(u8),
    /// Up to a NUL byte.
    Text,
    /// An array of pointers to texts, up to a null pointer.
    Texts,
    /// A set of FDs: as many bits as this argument says, in whole words of 8 bytes.
    FdSet(u8),
    /// On what the other arguments ask for; may not be a pointer at all.
    Depends,
}

/// Numbers that no kernel gives to a call of 64-bit programs. They are passed, and the kernel answers ENOSYS.
pub const UNASSIGNED: RangeInclusive<u16> = 337..=423;

/// The newest number that has a row (Linux 7.3). Newer ones are passed, too, until they have been thought about.
pub const NEWEST: u16 = 472;

/// Of [`FAMILIES`], those whose calls move data: files and sockets.
const TRANSFERS: [usize; 2] = [0, 4];

/// All rows, by what they are about.
pub static FAMILIES: &[(&str, &[Row])] = &[
    ("Reading, writing and what belongs to an open file", rows_files::ROWS),
    ("Names", rows_paths::ROWS),
    ("Mounts, and files that the kernel uses itself", rows_mounts::ROWS),
    ("Other FDs", rows_descriptors::ROWS),
    ("Sockets", rows_network::ROWS),
    ("The address space", rows_memory::ROWS),
    ("Signals", rows_signals::ROWS),
    ("Processes and threads", rows_processes::ROWS),
    ("The machine", rows_system::ROWS),
];

/// The row of system call `nr`, for who wants its reason, too; [`call`] is quicker. `None` for numbers that are unassigned or newer than
/// this table.
pub fn row(nr: impl Into<u32>) -> Option<&'static Row> {
    let nr = nr.into();
    rows().find(|row| u32::from(row.nr) == nr)
}

/// All rows, family by family.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    FAMILIES.iter().flat_map(|(_, rows)| rows.iter())
}

impl Row {
    /// A call that names no FD, path or memory; see the methods below.
    const fn new(
        nr: u16,
        name: &'static str,
        treatment: Treatment,
        interest: Interest,
        why: &'static str,
    ) -> Self {
        Self { nr, name, treatment, interest, fds: &[], paths: &[], memory: &[], why }
    }

    /// The same call with these arguments being FDs.
    const fn fds(self, fds: &'static [u8]) -> Self {
        Self { fds, ..self }
    }

    /// The same call with these arguments being paths.
    const fn paths(self, paths: &'static [PathArg]) -> Self {
        Self { paths, ..self }
    }

    /// The same call with these arguments pointing to memory.
    const fn memory(self, memory: &'static [MemArg]) -> Self {
        Self { memory, ..self }
    }
}

impl MemArg {
    /// The number of the argument.
    pub const fn argument(self) -> u8 {
        match self {
            Self::In(argument, _) | Self::Out(argument, _) | Self::InOut(argument, _) => argument,
        }
    }

    /// How much memory it names.
    pub const fn length(self) -> Length {
        match self {
            Self::In(_, length) | Self::Out(_, length) | Self::InOut(_, length) => length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FAMILIES, Interest, Length, NEWEST, PathArg, Treatment, UNASSIGNED, call, calls, row, rows};

    #[test]
    fn every_number_has_a_row_or_is_known_to_be_unassigned() {
        for nr in 0..=NEWEST {
            match row(nr) {
                Some(row) => assert_eq!(row.nr, nr),
                None => assert!(UNASSIGNED.contains(&nr), "{nr}"),
            }
        }
        assert!(row(u32::from(NEWEST) + 1).is_none() && row(u32::MAX).is_none());
        assert_eq!(rows().count(), usize::from(NEWEST) + 1 - UNASSIGNED.count());
    }

    #[test]
    fn what_is_looked_up_is_what_the_row_says() {
        assert_eq!(calls().count(), rows().count());
        for row in rows() {
            let call = call(row.nr).unwrap();
            assert_eq!((call.treatment, call.interest), (row.treatment, row.interest), "{row:?}");
            assert_eq!((call.name(), call.fds(), call.paths()), (row.name, row.fds, row.paths), "{row:?}");
            assert_eq!(call.memory(), row.memory, "{row:?}");
        }
        assert!(call(u32::from(NEWEST) + 1).is_none() && call(u32::MAX).is_none());
    }

    #[test]
    fn who_is_not_asked_does_nothing_and_who_does_something_is_asked() {
        for row in rows() {
            let asked = row.interest != Interest::Never;
            let does = matches!(
                row.treatment,
                Treatment::Served | Treatment::Refused(_) | Treatment::RefusedOnMount(_)
            );
            assert_eq!(asked, does, "{row:?}");
        }
    }

    #[test]
    fn a_call_with_a_path_is_never_missed() {
        for row in rows().filter(|row| !row.paths.is_empty()) {
            assert_eq!(row.interest, Interest::Always, "{row:?}");
        }
    }

    #[test]
    fn a_call_that_is_asked_by_fd_has_one_in_its_first_argument_only() {
        for row in rows().filter(|row| row.interest == Interest::ByFd) {
            assert_eq!(row.fds, [0], "{row:?}");
        }
    }

    #[test]
    fn arguments_are_named_once_and_exist() {
        for row in rows() {
            let mut used: Vec<u8> = row.fds.to_vec();
            for path in row.paths {
                match *path {
                    PathArg::Cwd(_) => {}
                    PathArg::At(directory, _) => used.push(directory),
                }
            }
            used.extend(row.memory.iter().map(|memory| memory.argument()));
            let count = used.len();
            used.sort_unstable();
            used.dedup();
            assert!(used.len() == count && used.iter().all(|&argument| argument < 6), "{row:?}");
            for memory in row.memory {
                if let Length::Arg(other)
                | Length::Items(other, _)
                | Length::Pointed(other)
                | Length::Iovec(other)
                | Length::Messages(other)
                | Length::FdSet(other) = memory.length()
                {
                    assert!(other < 6 && other != memory.argument(), "{row:?}");
                }
            }
        }
    }

    #[test]
    fn a_path_is_text_in_memory() {
        for row in rows() {
            for &(PathArg::Cwd(path) | PathArg::At(_, path)) in row.paths {
                let text = row.memory.iter().find(|memory| memory.argument() == path);
                assert!(text.is_some_and(|memory| memory.length() == Length::Text), "{row:?}");
            }
        }
    }

    #[test]
    fn rows_have_a_reason_and_fit_their_index() {
        assert!(rows().all(|row| !row.why.is_empty() && !row.name.is_empty()));
        assert!(FAMILIES.iter().all(|(_, rows)| rows.len() <= 255));
    }
}
