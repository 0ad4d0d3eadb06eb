//! A program that cannot be intercepted does not see the mounts: who gives it something of theirs is told.

use std::fmt;
use std::os::fd::RawFd;

use linux_raw_sys::general as sys;

use crate::environment;
use crate::file;
use crate::image::Outsider;
use crate::log::Quoted;
use crate::namei::{Located, PathArgument};
use crate::process::{Cwd, Process};
use crate::resolve::{PATH_MAX, PathBytes};
use crate::{native, trace};

/// What of a mount a program gets.
enum Gift {
    Fd(RawFd),
    Argument(PathBytes),
    WorkingDirectory,
}

impl fmt::Display for Gift {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fd(fd) => write!(to, "using its FD {fd} will fail"),
            Self::Argument(path) => write!(to, "it will not find {}", Quoted(path)),
            Self::WorkingDirectory => to.write_str("it will not find its working directory"),
        }
    }
}

/// Says in one line what `program` is given, if anything; `argv` is its array of arguments.
pub fn tell(process: &'static Process, why: Outsider, program: &[u8], argv: u64) {
    let gift = working_directory(process)
        .or_else(|| descriptor(process).map(Gift::Fd))
        .or_else(|| argument(process, argv).map(Gift::Argument));
    if let Some(gift) = gift {
        let program = Quoted(program);
        trace::warn(format_args!("{program} {why}, so it runs without the mounts: {gift}"));
    }
}

fn working_directory(process: &'static Process) -> Option<Gift> {
    process.with_cwd(|cwd| matches!(cwd, Cwd::Served { .. })).then_some(Gift::WorkingDirectory)
}

/// The lowest FD of a served file that exec leaves open.
fn descriptor(process: &'static Process) -> Option<RawFd> {
    let mut lowest = None;
    process.files.for_each(|fd, _, _| {
        let flags = native::raw_call(sys::__NR_fcntl, [fd as u64, u64::from(sys::F_GETFD), 0, 0, 0, 0]);
        let stays = flags >= 0 && flags & i64::from(sys::FD_CLOEXEC) == 0;
        if stays && lowest.is_none_or(|lowest| fd < lowest) {
            lowest = Some(fd);
        }
    });
    // A vfork child may have something else there.
    lowest.filter(|&fd| file::served(process, fd).is_some())
}

/// The first argument that is a path on a mount, also after an equals sign (`--output=PATH`).
fn argument(process: &'static Process, argv: u64) -> Option<PathBytes> {
    let words = environment::pointers(argv).ok()?;
    words.into_iter().skip(1).find_map(|word| {
        let mut buffer = [std::mem::MaybeUninit::uninit(); PATH_MAX];
        let word = interpose::usercopy::read_cstr(word, &mut buffer).ok()?;
        let value = word.iter().position(|&byte| byte == b'=').map(|at| &word[at + 1..]);
        [Some(word), value].into_iter().flatten().find_map(|text| {
            let text = PathBytes::try_from(text).ok().filter(|text| !text.is_empty())?;
            let path = PathArgument { dirfd: sys::AT_FDCWD, text };
            matches!(path.locate(process), Ok(Located::Served(_))).then_some(path.text)
        })
    })
}
