//! openat2(2) of a path that must not leave a directory, or not meet what it might on the way.

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::open::{Asked, by_kernel, open_spot};
use super::{Reply, Served};
use crate::namei::{self, Located, OpenHow, PathArgument};
use crate::process::Process;
use crate::resolve::{Above, PathBytes, Walk};

/// Opens it where the words of `asked` allow it to lead.
pub fn open(process: &'static Process, call: &Call, mut argument: PathArgument, asked: Asked) -> Served {
    let Asked { flags, mode, .. } = asked;
    let above = if asked.resolves(sys::RESOLVE_IN_ROOT) {
        argument.text = relative(&argument.text)?;
        Above::Itself
    } else if asked.resolves(sys::RESOLVE_BENEATH) {
        Above::Forbidden
    } else {
        Above::Open
    };
    if above == Above::Forbidden && argument.is_absolute() {
        return Err(Errno::XDEV);
    }
    let walk = Walk {
        links: !asked.resolves(sys::RESOLVE_NO_SYMLINKS),
        magic: match above {
            _ if asked.resolves(sys::RESOLVE_NO_SYMLINKS) => Some(Errno::LOOP),
            Above::Open => asked.magic(),
            Above::Forbidden | Above::Itself => asked.magic().or(Some(Errno::XDEV)),
        },
        mounts: !asked.resolves(sys::RESOLVE_NO_XDEV),
        above,
        ..asked.walk(&argument)
    };
    // Where there is no `..`, the text says whether a mount comes into it as long as there is no link.
    if !namei::has_dot_dot(&argument.text) && !argument.is_magic() {
        let tried = match argument.locate(process)? {
            Located::Served(spot) if walk.mounts => open_spot(process, &spot, flags, mode),
            Located::Served(_) => Err(Errno::LOOP),
            Located::Native(_) => {
                let resolve = asked.resolve | namei::NO_SYMLINKS;
                let how = OpenHow { flags: flags.into(), mode: mode.into(), resolve };
                namei::open_waiting(argument.dirfd, &argument.text, &how)
                    .and_then(|fd| process.check_limit(fd))
            }
        };
        match tried {
            Err(Errno::LOOP) if walk.links || !walk.mounts => {}
            done => return done.map(|fd| Reply::Value(fd.into())),
        }
    }
    match argument.walk_with(process, walk)? {
        Located::Served(spot) => Ok(Reply::Value(open_spot(process, &spot, flags, mode)?.into())),
        Located::Native(None) => by_kernel(process, call),
        // It has led through a mount, and no link is left in it.
        Located::Native(Some(path)) => {
            let how = OpenHow { flags: flags.into(), mode: mode.into(), resolve: namei::NO_SYMLINKS };
            let fd = namei::open_waiting(sys::AT_FDCWD, &path, &how)?;
            Ok(Reply::Value(process.check_limit(fd)?.into()))
        }
    }
}

/// The path without the slashes that it begins with.
fn relative(text: &PathBytes) -> Result<PathBytes, Errno> {
    let begin = text.iter().position(|&byte| byte != b'/').unwrap_or(text.len());
    let rest: &[u8] = if begin > 0 && begin == text.len() { b"." } else { &text[begin..] };
    PathBytes::try_from(rest).map_err(|_| Errno::NAMETOOLONG)
}
