//! Libraries on a mount that a program needs at its start: the dynamic linker opens them before anything of ours runs.
//!
//! Before exec we look for them as it will. If a directory that it would search lies on a mount, that directory gets a *mirror*
//! in the session's folder, `exec/on/MOUNT/PATH`, with links to copies of the libraries that are found there, and
//! `LD_LIBRARY_PATH` leads there. The constructor takes the mirrors out of the program's environment again; the linker goes on
//! searching them, and finds the directories themselves, as the mount table knows the mirrors for what they are.
//!
//! A program whose directories all lie elsewhere pays for a look at its headers.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;

use arrayvec::ArrayVec;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::dynamic::{self, Dynamic, Headers, START};
use crate::namei::{self, Located, PathArgument, Spot};
use crate::native;
use crate::process::Process;
use crate::program;
use crate::resolve::PathBytes;
use crate::serve::{attributes, paths};

/// Where the mirrors are, in the folder of copies.
pub const MIRRORS: &[u8] = b"/on/";
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
enum Place {
    Served(Spot, plugin_abi::stat),
    /// The kernel's file at this path.
    Native(Vec<u8>),
}

/// A directory that the linker searches.
struct Directory {
    path: Vec<u8>,
    /// If it lies on a mount.
    mirror: Option<Vec<u8>>,
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

/// The directories of a list such as `LD_LIBRARY_PATH`.
fn list(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| is_separator(byte)).filter(move |_| !text.is_empty())
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b':' | b';')
}

/// In the order in which they are searched.
#[derive(Default)]
struct Directories {
    /// Of `DT_RPATH`s.
    first: Vec<Directory>,
    /// Of the program's `LD_LIBRARY_PATH`.
    given: Vec<Directory>,
    /// Of `DT_RUNPATH`s.
    last: Vec<Directory>,
}

impl Directories {
    fn all(&self) -> impl Iterator<Item = &Directory> {
        self.first.iter().chain(&self.given).chain(&self.last)
    }

    /// `given` with the mirrors in it: each in front of its directory.
    fn to_value(&self, given: &[u8]) -> Vec<u8> {
        let mut value = Vec::new();
        let before = |value: &mut Vec<u8>, directory: &Directory| {
            if let Some(mirror) = &directory.mirror {
                value.extend_from_slice(mirror);
                value.push(b':');
            }
        };
        self.first.iter().for_each(|directory| before(&mut value, directory));
        let mut rest = given;
        for directory in &self.given {
            before(&mut value, directory);
            let end = rest.iter().position(|&byte| is_separator(byte)).map_or(rest.len(), |at| at + 1);
            value.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
        for mirror in self.last.iter().filter_map(|directory| directory.mirror.as_ref()) {
            if !given.is_empty() || value.last().is_some_and(|&byte| byte != b':') {
                value.push(b':');
            }
            value.extend_from_slice(mirror);
        }
        if given.is_empty() && value.last() == Some(&b':') {
            value.pop();
        }
        value
    }
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

/// Takes the directories below `folder` out of a value that [`arrange`] has made.
pub fn without_mirrors(value: &[u8], folder: &[u8]) -> Vec<u8> {
    let is_ours = |entry: &[u8]| {
        entry.strip_prefix(folder).is_some_and(|rest| {
            rest.first() == Some(&b'/') && rest.windows(MIRRORS.len()).any(|part| part == MIRRORS)
        })
    };
    let mut plain = Vec::new();
    let mut rest = value;
    loop {
        let end = rest.iter().position(|&byte| is_separator(byte));
        let (entry, next) = match end {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        if !is_ours(entry) {
            plain.extend_from_slice(entry);
            if let Some(end) = end {
                plain.push(rest[end]);
            }
        } else if next.is_none() {
            // The separator before the last one was ours too.
            plain.pop();
        }
        match next {
            Some(next) => rest = next,
            None => return plain,
        }
    }
}

/// What `path` leads to, through all links.
fn look(process: &'static Process, path: &[u8]) -> Option<Place> {
    let text = PathBytes::try_from(path).ok()?;
    let argument = PathArgument { dirfd: sys::AT_FDCWD, text };
    let located = match paths::locate_for_sure(process, &argument, true).ok()? {
        Located::Served(spot) => match attributes::attributes_at(&spot, true) {
            Ok(stat) => return Some(Place::Served(spot, stat)),
            Err(Errno::LOOP) => argument.walk(process, true).ok()?,
            Err(_) => return None,
        },
        native => native,
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

    fn directories(mirrors: &[Option<&str>]) -> Vec<Directory> {
        mirrors
            .iter()
            .map(|mirror| Directory { path: Vec::new(), mirror: mirror.map(|text| text.into()) })
            .collect()
    }

    /// Whatever goes in comes out at the other end as it was.
    #[rstest]
    #[case("", &[], &[Some("/s/exec/on/0")])]
    #[case("", &[Some("/s/exec/on/1/a")], &[Some("/s/exec/on/0"), Some("/s/exec/on/0/b")])]
    #[case("/a:/m", &[], &[])]
    #[case("/a;/m:", &[Some("/s/exec/on/2")], &[Some("/s/exec/on/3")])]
    #[case("/m", &[None], &[Some("/s/exec/on/3")])]
    #[case("/s/else", &[Some("/s/guests/7/on/2")], &[None])]
    fn mirrors_are_taken_out_again(
        #[case] given: &str,
        #[case] first: &[Option<&str>],
        #[case] last: &[Option<&str>],
    ) {
        let middle: Vec<_> =
            list(given.as_bytes()).map(|text| (text == b"/m").then_some("/s/exec/on/0/m")).collect();
        let all =
            Directories { first: directories(first), given: directories(&middle), last: directories(last) };
        let value = all.to_value(given.as_bytes());
        let mirrors = first.iter().chain(&middle).chain(last).flatten();
        for mirror in mirrors {
            assert!(list(&value).any(|entry| entry == mirror.as_bytes()));
        }
        assert_eq!(without_mirrors(&value, b"/s"), given.as_bytes());
    }
}
