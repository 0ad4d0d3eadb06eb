//! Libraries on a mount that a program needs at its start: the dynamic linker opens them before anything of ours runs.
//!
//! Before exec we look for them as it will. If a directory that it would search lies on a mount, that directory gets a *mirror*
//! in the session's folder, `exec/on/MOUNT/PATH`, with links to copies of the libraries that are found there, and
//! `LD_LIBRARY_PATH` leads there. The constructor takes the mirrors out of the program's environment again; the linker goes on
//! searching them, and finds the directories themselves, as the mount table knows the mirrors for what they are.
//!
//! A program whose directories all lie elsewhere pays for a look at its headers.

mod directories;

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;

use arrayvec::ArrayVec;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use self::directories::{Directories, Directory, list};
pub use self::directories::{MIRRORS, without_mirrors};
use crate::dynamic::{self, Dynamic, Headers, START};
use crate::namei::{self, Located, PathArgument, Spot};
use crate::native;
use crate::process::Process;
use crate::program;
use crate::resolve::{PathBytes, Walk};
use crate::serve::{attributes, paths};

/// The linker's own directories, searched last.
const DEFAULT: [&[u8]; 4] =
    [b"/lib/x86_64-linux-gnu", b"/usr/lib/x86_64-linux-gnu", b"/lib64", b"/usr/lib64"];
/// What `$LIB` stands for on Debian.
const LIB: &[u8] = b"lib/x86_64-linux-gnu";
/// More libraries than any program has; a limit, as a program's own files say how many there are.
const LIBRARIES_MAX: usize = 4096;

/// An ELF file whose libraries are looked for.
struct Object {
    dynamic: Dynamic,
    /// The directory it lies in, for the program's eyes.
    origin: Vec<u8>,
}

/// What a path leads to.
#[allow(clippy::large_enum_variant, reason = "paths live on the stack: nothing is allocated for a look-up")]
enum Place {
    Served(Spot, plugin_abi::stat),
    /// The kernel's file at this path.
    Native(Vec<u8>),
}

/// The value of `LD_LIBRARY_PATH` for the program `file` (a path of the kernel's), which the program knows as
/// `name`; `None` if that stays `library_path`.
pub fn arrange(
    process: &'static Process,
    file: &[u8],
    name: &[u8],
    library_path: Option<&[u8]>,
) -> Option<Vec<u8>> {
    let program = Object { dynamic: dynamic_of(file)?, origin: directory_of(name).to_vec() };
    let Dynamic { rpath, runpath, .. } = &program.dynamic;
    let given = library_path.unwrap_or_default();
    if rpath.is_empty() && runpath.is_empty() && given.is_empty() {
        return None;
    }
    let mut search = Search { process, directories: Directories::default() };
    search.directories.given = list(given).map(|text| search.directory(text, &program.origin)).collect();
    search.learn(&program);
    if !search.directories.all().any(|directory| directory.mirror.is_some()) {
        return None;
    }
    search.find_all(program);
    Some(search.directories.to_value(given))
}

struct Search {
    process: &'static Process,
    directories: Directories,
}

impl Search {
    /// Takes in the directories that an object names. Those of one serve for all: more than the linker does, never less.
    fn learn(&mut self, object: &Object) {
        for text in list(&object.dynamic.rpath) {
            let directory = self.directory(text, &object.origin);
            if !self.directories.first.iter().any(|known| known.path == directory.path) {
                self.directories.first.push(directory);
            }
        }
        for text in list(&object.dynamic.runpath) {
            let directory = self.directory(text, &object.origin);
            if !self.directories.last.iter().any(|known| known.path == directory.path) {
                self.directories.last.push(directory);
            }
        }
    }

    fn directory(&self, text: &[u8], origin: &[u8]) -> Directory {
        let text = if text.is_empty() { b"." } else { text };
        let path = replaced(&replaced(text, b"ORIGIN", origin), b"LIB", LIB);
        let mirror = match look(self.process, &path) {
            Some(Place::Served(spot, stat)) if stat.st_mode & sys::S_IFMT == sys::S_IFDIR => {
                self.mirror(&spot).ok()
            }
            _ => None,
        };
        Directory { path, mirror }
    }

    /// Makes the mirror of a directory.
    fn mirror(&self, spot: &Spot) -> Result<Vec<u8>, Errno> {
        let mut path = program::copies(self.process)?;
        let cut = |_| Errno::NAMETOOLONG;
        path.write_all(MIRRORS).map_err(cut)?;
        let parts = path.len() - 1;
        write!(path, "{}", spot.mount.number).map_err(cut)?;
        if spot.path().as_bytes() != b"/" {
            path.write_all(spot.path().as_bytes()).map_err(cut)?;
        }
        let whole: Vec<u8> = path.to_vec();
        let ends = (parts..=whole.len()).filter(|&at| at == whole.len() || whole[at] == b'/');
        for end in ends {
            let name = [&whole[..end], b"\0"].concat();
            match native::checked(sys::__NR_mkdir, [name.as_ptr() as u64, 0o711, 0, 0, 0, 0]) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(whole)
    }

    /// Puts every library that is found on a mount into a mirror.
    fn find_all(&mut self, program: Object) {
        let mut seen = BTreeSet::new();
        let mut objects = VecDeque::from([program]);
        while let Some(object) = objects.pop_front() {
            for name in &object.dynamic.needed {
                if name.contains(&b'/') || seen.len() >= LIBRARIES_MAX || !seen.insert(name.clone()) {
                    continue;
                }
                if let Some(library) = self.find(name) {
                    self.learn(&library);
                    objects.push_back(library);
                }
            }
        }
    }

    /// Finds one library, and copies it if it lies on a mount.
    fn find(&self, name: &[u8]) -> Option<Object> {
        for directory in self.directories.all() {
            let path = [&directory.path, b"/".as_slice(), name].concat();
            let file = match look(self.process, &path) {
                Some(Place::Served(spot, stat)) => match program::stage(self.process, &spot, &stat, name) {
                    Ok((copy, _)) => copy.to_vec(),
                    Err(_) => continue,
                },
                Some(Place::Native(path)) => path,
                None => continue,
            };
            // The linker goes on searching when it finds something that is no library.
            let Some(dynamic) = dynamic_of(&file) else { continue };
            if let Some(mirror) = &directory.mirror {
                link(&file, &[mirror, b"/".as_slice(), name].concat());
            }
            return Some(Object { dynamic, origin: directory.path.clone() });
        }
        DEFAULT.iter().find_map(|&directory| {
            let file = [directory, b"/", name].concat();
            Some(Object { dynamic: dynamic_of(&file)?, origin: directory.to_vec() })
        })
    }
}

/// What `path` leads to, through all links.
fn look(process: &'static Process, path: &[u8]) -> Option<Place> {
    let text = PathBytes::try_from(path).ok()?;
    let argument = PathArgument { dirfd: sys::AT_FDCWD, text };
    let located = match paths::locate_for_sure(process, &argument, Walk::plain(true)).ok()? {
        Located::Served(spot) => match attributes::attributes_at(&spot, true) {
            Ok(stat) => return Some(Place::Served(spot, stat)),
            Err(Errno::LOOP) => argument.walk(process, true).ok()?,
            Err(_) => return None,
        },
        native @ Located::Native(_) => native,
    };
    match located {
        Located::Served(spot) => {
            let stat = attributes::attributes_at(&spot, true).ok()?;
            Some(Place::Served(spot, stat))
        }
        Located::Native(elsewhere) => {
            let path = elsewhere.map_or_else(|| path.to_vec(), |path| path.to_vec());
            let name = [path.as_slice(), b"\0"].concat();
            native::checked(sys::__NR_access, [name.as_ptr() as u64, 4, 0, 0, 0, 0]).ok()?;
            Some(Place::Native(path))
        }
    }
}

/// The dynamic section of the kernel's file at `path`.
fn dynamic_of(path: &[u8]) -> Option<Dynamic> {
    let flags = u64::from(sys::O_RDONLY | sys::O_CLOEXEC | sys::O_NONBLOCK | sys::O_NOCTTY);
    let how = namei::OpenHow { flags, mode: 0, resolve: 0 };
    let fd = namei::look_how(sys::AT_FDCWD, path, &how).ok()?;
    let mut start = [0; START];
    let count = dynamic::read_at(fd, &mut start, 0);
    let found = Headers::parse(&start[..count]).and_then(|headers| headers.dynamic(fd));
    native::close(fd);
    found
}

/// Makes `name` a link to `target`, unless it is.
fn link(target: &[u8], name: &[u8]) {
    let c_string = |text: &[u8]| [text, b"\0"].concat();
    let mut present = ArrayVec::<u8, 4096>::from([0; 4096]);
    let (target, name) = (c_string(target), c_string(name));
    let (to, at) = (target.as_ptr() as u64, name.as_ptr() as u64);
    let read = [at, present.as_mut_ptr() as u64, present.len() as u64, 0, 0, 0];
    if let Ok(length) = native::checked(sys::__NR_readlink, read)
        && present[..length as usize] == target[..target.len() - 1]
    {
        return;
    }
    // Others may be looking for the old one.
    let mut temporary = name[..name.len() - 1].to_vec();
    temporary.extend_from_slice(format!("~{}\0", crate::thread::id()).as_bytes());
    let new = temporary.as_ptr() as u64;
    native::raw_call(sys::__NR_unlink, [new, 0, 0, 0, 0, 0]);
    native::raw_call(sys::__NR_symlink, [to, new, 0, 0, 0, 0]);
    native::raw_call(sys::__NR_rename, [new, at, 0, 0, 0, 0]);
}

fn directory_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => b"/",
        Some(slash) => &path[..slash],
        None => b".",
    }
}

/// `text` with `$name` and `${name}` replaced by `value`.
fn replaced(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut result = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.iter().position(|&byte| byte == b'$') {
        result.extend_from_slice(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        let braced = after.strip_prefix(b"{").and_then(|inner| inner.strip_prefix(name)?.strip_prefix(b"}"));
        let bare = after
            .strip_prefix(name)
            .filter(|next| !next.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'));
        if let Some(next) = braced.or(bare) {
            result.extend_from_slice(value);
            rest = next;
        } else {
            result.push(b'$');
            rest = after;
        }
    }
    result.extend_from_slice(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("$ORIGIN/../lib", "/d/../lib")]
    #[case("${ORIGIN}", "/d")]
    #[case("a$ORIGINAL$", "a$ORIGINAL$")]
    #[case("x/$LIB/$ORIGIN/$ORIGIN", "x/$LIB//d//d")]
    fn origin_is_replaced(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(replaced(text.as_bytes(), b"ORIGIN", b"/d"), expected.as_bytes());
    }
}
