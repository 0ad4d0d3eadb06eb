//! From a path as the program wrote it to the place it means, as the kernel would find it.
//!
//! Two steps. [`lexical`] looks at the text alone and costs no system call: it is exact as long as no component
//! is a symbolic link and no `..` follows a component that might be one. Whoever acts on its answer learns of
//! links by `ELOOP` (the plugin's contract, and `RESOLVE_NO_SYMLINKS` outside) and then calls [`walk`], which reads
//! every link on the way (path_resolution(7)), in the mounts and outside.

use rustix::io::Errno;

use crate::mounts::MountTable;

/// `PATH_MAX`, with the terminating NUL.
pub const PATH_MAX: usize = 4096;
/// The kernel's `MAXSYMLINKS`.
const MAX_LINKS: u32 = 40;

pub use crate::path_bytes::PathBytes;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On mount number `mount`, at `path` below its point (begins with `/`; the point itself is `/`).
    Inside {
        /// Number in the [`MountTable`].
        mount: usize,
        /// Normalised: no `.`, `..` or empty component, no trailing slash.
        path: PathBytes,
        /// The path ended in a slash (or `/.`), so only a directory will do.
        directory: bool,
    },
    /// Elsewhere: the kernel's.
    Outside {
        /// Absolute, where the text leads.
        path: PathBytes,
        /// The kernel would not get there by the program's own text: it led through a mount.
        rewritten: bool,
    },
    /// The text alone cannot tell: ask [`walk`].
    Unclear,
}

/// What [`walk`] may meet on the way; openat2(2) has words for it.
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the call")]
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// A link in the last component is followed.
    pub follow: bool,
    /// Unless it is, the last component is a name that is made or taken away: itself, whatever slashes come after it.
    pub name: bool,
    /// Links are. Not with `RESOLVE_NO_SYMLINKS`.
    pub links: bool,
    /// What a link of /proc that only the kernel can read is refused with: `ELOOP` with `RESOLVE_NO_MAGICLINKS`, `EXDEV` where the path must not
    /// leave its directory.
    pub magic: Option<Errno>,
    /// Other mounts are. Not with `RESOLVE_NO_XDEV`.
    pub mounts: bool,
    /// What is above the directory that the path begins in.
    pub above: Above,
}

/// What `..` in the directory that a path begins in means, and a slash at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Above {
    /// The directory above, and the root.
    Open,
    /// `EXDEV`: `RESOLVE_BENEATH`.
    Forbidden,
    /// That directory itself: `RESOLVE_IN_ROOT`.
    Itself,
}

impl Walk {
    /// As calls without these words do.
    pub const fn plain(follow: bool) -> Self {
        Self { follow, name: false, links: true, magic: None, mounts: true, above: Above::Open }
    }

    /// As calls do that make a name or take one away.
    pub const fn name() -> Self {
        Self { name: true, ..Self::plain(false) }
    }

    /// Whether a link is followed that the last name of `path` is: also without a word if a slash comes after it.
    pub fn follows(self, path: &[u8]) -> bool {
        self.follow || !self.name && ends_in_directory(path)
    }
}

/// Reads symbolic links, wherever they lie.
pub trait Links {
    /// The target of the link at the canonical absolute `path`, which lies on mount `inside` at the given path
    /// below its point, or outside. `EINVAL` where there is something that is no link.
    fn read(&self, path: &[u8], inside: Option<(usize, &[u8])>, target: &mut PathBytes) -> Result<(), Errno>;

    /// `ENOTDIR` if the link at the canonical absolute `path` is one of those in /proc, which are not followed by their text, and what it stands for
    /// is no directory: then nothing may come after it.
    fn leads_on(&self, path: &[u8]) -> Result<(), Errno>;

    /// `ENOTDIR` (or why it cannot be known) unless the canonical absolute `path` is a directory.
    fn expect_directory(&self, path: &[u8], inside: Option<(usize, &[u8])>) -> Result<(), Errno>;
}

/// What `path` means relative to the canonical absolute directory `base`, going by the text alone.
pub fn lexical(mounts: &MountTable, base: &[u8], path: &[u8]) -> Result<Place, Errno> {
    let mut current = start(base, path)?;
    if is_plain(path) {
        if path[0] != b'/' {
            append(&mut current, b"/")?;
        }
        append(&mut current, path)?;
        return place(mounts, current, false, path[0] != b'/' && mounts.find(base).is_some());
    }
    // How much of `current` is known to be free of links: `..` may only take away that.
    let mut canonical = current.len();
    for name in components(path) {
        if name == b".." {
            if current.len() > canonical {
                return Ok(Place::Unclear);
            }
            pop(&mut current);
            canonical = current.len();
        } else {
            push(&mut current, name)?;
        }
    }
    let rewritten = path[0] != b'/' && mounts.find(base).is_some();
    place(mounts, current, ends_in_directory(path), rewritten)
}

/// Whether the text is normalised already: names, with one slash between two of them.
pub fn is_plain(path: &[u8]) -> bool {
    is_plainly_plain(path) || is_plain_by_bytes(path)
}

/// Whether no name begins with a dot or is empty, which is so for most paths and is found eight bytes at a time.
fn is_plainly_plain(path: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // The top bit of each byte that is `byte`, and perhaps of others, but of none if there is no such byte.
    let found = |word: u64, byte: u8| {
        let zero_there = word ^ (ONES * u64::from(byte));
        zero_there.wrapping_sub(ONES) & !zero_there & (ONES << 7)
    };
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let [b'/', .., last] = path else { return false };
    let mut rest = path;
    while let [_, after @ ..] = rest
        && after.len() >= 8
    {
        let next = word(after);
        if found(word(rest), b'/') & (found(next, b'/') | found(next, b'.')) != 0 {
            return false;
        }
        rest = &rest[8..];
    }
    *last != b'/' && !rest.windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'))
}

fn is_plain_by_bytes(path: &[u8]) -> bool {
    // A slash comes before the first name, whether written or not, and after the last.
    let mut after_slash = true;
    let mut rest = path.strip_prefix(b"/").unwrap_or(path);
    loop {
        match rest {
            [] => return !after_slash,
            [b'/', ..] | [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..] if after_slash => {
                return false;
            }
            [byte, after @ ..] => {
                after_slash = *byte == b'/';
                rest = after;
            }
        }
    }
}

/// What `path` means relative to the canonical absolute directory `base`, with every link on the way read. The
/// last component is followed only if [`Walk::follows`]. With [`Above::Itself`] the path is not absolute.
pub fn walk(
    mounts: &MountTable,
    links: &impl Links,
    base: &[u8],
    path: &[u8],
    how: Walk,
) -> Result<Place, Errno> {
    let mut current = start(base, path)?;
    let top = current.len();
    let top_mount = located(mounts, &current).map(|(mount, _)| mount);
    let mut rest = PathBytes::new();
    append(&mut rest, path)?;
    let mut through_mount = path[0] != b'/' && mounts.find(base).is_some();
    let mut target = PathBytes::new();
    let mut links_left = MAX_LINKS;
    let mut directory = ends_in_directory(path);
    // The last component of `current` is there and is no link, but may be no directory either.
    let mut unverified = false;
    while let Some((begin, end)) = next_component(&rest) {
        let last = rest[end..].iter().all(|&byte| byte == b'/');
        let slash_after = end < rest.len();
        let name = PathBytes::try_from(&rest[begin..end]).map_err(|_| Errno::NAMETOOLONG)?;
        rest.remove_front(end);
        match name.as_slice() {
            b"." | b".." => {
                if unverified {
                    links.expect_directory(&current, located(mounts, &current))?;
                    unverified = false;
                }
                if name.as_slice() == b".." {
                    match how.above {
                        Above::Forbidden if current.len() == top => return Err(Errno::XDEV),
                        Above::Itself if current.len() == top => {}
                        _ => pop(&mut current),
                    }
                    stay(mounts, &current, top_mount, how)?;
                }
                continue;
            }
            _ => push(&mut current, &name)?,
        }
        unverified = false;
        stay(mounts, &current, top_mount, how)?;
        let inside = located(mounts, &current);
        through_mount |= inside.is_some();
        if last && !how.follow && (how.name || !slash_after) {
            break;
        }
        target.clear();
        if matches!(inside, Some((_, b"/"))) {
            continue; // A mount point is a directory, whatever lies under it.
        }
        match links.read(&current, inside, &mut target) {
            Ok(()) => {
                links_left = links_left.checked_sub(1).filter(|_| how.links).ok_or(Errno::LOOP)?;
                if !last {
                    links.leads_on(&current)?;
                }
                if target.is_empty() {
                    return Err(Errno::NOENT);
                }
                if target[0] == b'/' {
                    match how.above {
                        Above::Forbidden => return Err(Errno::XDEV),
                        Above::Itself => current.truncate(top),
                        Above::Open => current.clear(),
                    }
                    stay(mounts, &current, top_mount, how)?;
                } else {
                    pop(&mut current);
                }
                if last {
                    directory |= ends_in_directory(&target);
                }
                append(&mut target, &rest)?;
                std::mem::swap(&mut rest, &mut target);
            }
            Err(Errno::INVAL) => unverified = true,
            Err(Errno::NOENT) if last => {}
            // Outside, the kernel finds the same error by itself on the way.
            Err(_) if inside.is_none() && !through_mount => {
                append(&mut current, &rest)?;
                return Ok(Place::Outside { path: current, rewritten: false });
            }
            Err(error) => return Err(error),
        }
    }
    place(mounts, current, directory, through_mount)
}

/// `EXDEV` on another mount than the first, if that is forbidden. The kernel sees to its own.
fn stay(mounts: &MountTable, current: &[u8], first: Option<usize>, how: Walk) -> Result<(), Errno> {
    if how.mounts || located(mounts, current).map(|(mount, _)| mount) == first {
        Ok(())
    } else {
        Err(Errno::XDEV)
    }
}

fn start(base: &[u8], path: &[u8]) -> Result<PathBytes, Errno> {
    let mut current = PathBytes::new();
    match path {
        [] => return Err(Errno::NOENT),
        [b'/', ..] => {}
        _ if base == b"/" => {}
        _ => append(&mut current, base)?,
    }
    if path.len() >= PATH_MAX { Err(Errno::NAMETOOLONG) } else { Ok(current) }
}

fn place(mounts: &MountTable, path: PathBytes, directory: bool, rewritten: bool) -> Result<Place, Errno> {
    if let Some((mount, below)) = located(mounts, &path) {
        let path = PathBytes::try_from(below).map_err(|_| Errno::NAMETOOLONG)?;
        return Ok(Place::Inside { mount, path, directory });
    }
    let mut path = path;
    if path.is_empty() || directory {
        append(&mut path, b"/")?;
    }
    Ok(Place::Outside { path, rewritten })
}

/// The mount under `path` and the path below its point, `/` for the point itself.
pub fn located<'p>(mounts: &MountTable, path: &'p [u8]) -> Option<(usize, &'p [u8])> {
    let (mount, below) = mounts.find(path)?;
    Some((mount, if below.is_empty() { b"/" } else { below }))
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

fn next_component(rest: &[u8]) -> Option<(usize, usize)> {
    let begin = rest.iter().position(|&byte| byte != b'/')?;
    let end = rest[begin..].iter().position(|&byte| byte == b'/').map_or(rest.len(), |at| begin + at);
    Some((begin, end))
}

fn ends_in_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || path.ends_with(b"/.") || path == b"." || path.ends_with(b"/..") || path == b".."
}

/// Adds `/name`.
fn push(current: &mut PathBytes, name: &[u8]) -> Result<(), Errno> {
    append(current, b"/")?;
    append(current, name)
}

/// Takes the last component away; the root's parent is the root.
fn pop(current: &mut PathBytes) {
    let end = current.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    current.truncate(end);
}

fn append(path: &mut PathBytes, more: &[u8]) -> Result<(), Errno> {
    if path.len() + more.len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    path.try_extend_from_slice(more).map_err(|_| Errno::NAMETOOLONG)
}

#[cfg(test)]
mod tests;
