//! The directories that the dynamic linker searches, and `LD_LIBRARY_PATH` with mirrors in it.

/// Where the mirrors are, in the folder of copies.
pub const MIRRORS: &[u8] = b"/on/";
/// A directory that the linker searches.
pub struct Directory {
    /// As the program knows it.
    pub path: Vec<u8>,
    /// If it lies on a mount.
    pub mirror: Option<Vec<u8>>,
}

/// The directories of a list such as `LD_LIBRARY_PATH`.
pub fn list(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| is_separator(byte)).filter(move |_| !text.is_empty())
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b':' | b';')
}

/// In the order in which they are searched.
#[derive(Default)]
pub struct Directories {
    /// Of `DT_RPATH`s.
    pub first: Vec<Directory>,
    /// Of the program's `LD_LIBRARY_PATH`.
    pub given: Vec<Directory>,
    /// Of `DT_RUNPATH`s.
    pub last: Vec<Directory>,
}

impl Directories {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Directory> {
        self.first.iter().chain(&self.given).chain(&self.last)
    }

    /// `given` with the mirrors in it: each in front of its directory.
    pub fn to_value(&self, given: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn directories(mirrors: &[Option<&str>]) -> Vec<Directory> {
        mirrors.iter().map(|mirror| Directory { path: Vec::new(), mirror: mirror.map(Into::into) }).collect()
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
