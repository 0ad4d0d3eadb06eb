//! The grammar of `-m`: `POINT=LIB[,OPTION]...:BACKEND`.
//!
//! The first `=` ends POINT, the first `,` or `:` after it ends LIB, the first `:` ends the options; BACKEND is the rest, whatever it has in it.
//! In POINT and LIB a backslash takes the next character as it is, so that every path can be written. In the options only `\:` means something
//! to us (a colon); everything else reaches the plugin as it stands.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::error::SessionError;

/// A mount as the user asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// Where, as it was written.
    pub point: PathBuf,
    /// What serves it.
    pub plugin: PluginSpec,
}

/// A plugin and what it is to serve: `LIB[,OPTION]...:BACKEND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginSpec {
    /// The plugin: a name, or a path when there is a slash in it.
    pub library: OsString,
    /// Options for the plugin, separated by commas; may be empty.
    pub options: OsString,
    /// What the plugin is to serve; may be empty.
    pub backend: OsString,
}

impl MountSpec {
    /// Reads the argument of `-m`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Mount`] says which part is missing.
    pub fn parse(text: &OsStr) -> Result<Self, SessionError> {
        let read = || {
            let (point, rest, ended) = take_word(text.as_bytes(), b"=")?;
            if ended.is_none() {
                return Err("there is no '='");
            }
            if point.is_empty() {
                return Err("there is no mount point before the '='");
            }
            Ok(Self { point: OsString::from_vec(point).into(), plugin: PluginSpec::from_bytes(rest)? })
        };
        read().map_err(|why| wrong(text, why, "POINT=LIBRARY[,OPTION...]:BACKEND"))
    }
}

impl PluginSpec {
    /// Reads a plugin without a mount point.
    ///
    /// # Errors
    ///
    /// [`SessionError::Mount`] says which part is missing.
    pub fn parse(text: &OsStr) -> Result<Self, SessionError> {
        Self::from_bytes(text.as_bytes()).map_err(|why| wrong(text, why, "LIBRARY[,OPTION...]:BACKEND"))
    }

    fn from_bytes(text: &[u8]) -> Reading<Self> {
        let (library, rest, ended) = take_word(text, b",:")?;
        if library.is_empty() {
            return Err("there is no library");
        }
        let (options, backend) = match ended {
            None => return Err("there is no ':' with a back end after the library"),
            Some(b':') => (Vec::new(), rest),
            Some(_) => take_options(rest)?,
        };
        if backend.contains(&0) {
            return Err(NUL);
        }
        Ok(Self {
            library: OsString::from_vec(library),
            options: OsString::from_vec(options),
            backend: OsStr::from_bytes(backend).into(),
        })
    }
}

impl std::fmt::Display for MountSpec {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} on '{}'", self.plugin.library.display(), self.point.display())
    }
}

const NUL: &str = "there is a NUL byte in it";

fn wrong(text: &OsStr, why: &str, expected: &str) -> SessionError {
    SessionError::Mount { spec: format!("'{}'", text.display()), why: format!("{why}; expected {expected}") }
}

/// What was read, or why it cannot be.
type Reading<T> = Result<T, &'static str>;

/// The word up to one of `ends`, backslashes taken away; what follows; and which end it was, `None` at the end of the text.
fn take_word<'t>(text: &'t [u8], ends: &[u8]) -> Reading<(Vec<u8>, &'t [u8], Option<u8>)> {
    let mut word = Vec::new();
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        if ends.contains(first) {
            return Ok((word, rest, Some(*first)));
        }
        if *first == 0 {
            return Err(NUL);
        }
        if *first == b'\\' {
            let [literal, after @ ..] = after else { return Err("a backslash ends it") };
            word.push(*literal);
            rest = after;
        } else {
            word.push(*first);
        }
    }
    Ok((word, rest, None))
}

/// The options up to a colon that has no backslash, and what follows it.
fn take_options(text: &[u8]) -> Reading<(Vec<u8>, &[u8])> {
    let mut options = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            [] => return Err("there is no ':' with a back end after the options"),
            [0, ..] => return Err(NUL),
            [b':', after @ ..] => return Ok((options, after)),
            [b'\\', b':', after @ ..] => {
                options.push(b':');
                rest = after;
            }
            [first, after @ ..] => {
                options.push(*first);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MountSpec, PluginSpec};
    use proptest::prelude::*;
    use rstest::rstest;
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    #[rstest]
    #[case("/tmp/mnt=passthrough:/tmp/src", "/tmp/mnt", "passthrough", "", "/tmp/src")]
    #[case("/tmp/mnt=passthrough,backing-fd:/tmp/src", "/tmp/mnt", "passthrough", "backing-fd", "/tmp/src")]
    #[case("m=l,a=1,b:host:/x,y=z", "m", "l", "a=1,b", "host:/x,y=z")]
    #[case("m=./l.so:", "m", "./l.so", "", "")]
    #[case(r"a\=b=c\:d\,e:f\:g", "a=b", "c:d,e", "", r"f\:g")]
    #[case(r"m=l,u=http\://x\,y:b", "m", "l", r"u=http://x\,y", "b")]
    #[case("m=l,:b", "m", "l", "", "b")]
    fn mounts_are_read(
        #[case] text: &str,
        #[case] point: &str,
        #[case] library: &str,
        #[case] options: &str,
        #[case] backend: &str,
    ) {
        let plugin = PluginSpec { library: library.into(), options: options.into(), backend: backend.into() };
        let wanted = MountSpec { point: point.into(), plugin };
        assert_eq!(MountSpec::parse(OsStr::new(text)), Ok(wanted));
    }

    #[rstest]
    #[case("", "no '='")]
    #[case("/tmp/mnt", "no '='")]
    #[case("/tmp/mnt:passthrough", "no '='")]
    #[case("=passthrough:/x", "no mount point")]
    #[case("/tmp/mnt=", "no library")]
    #[case("/tmp/mnt=:/x", "no library")]
    #[case("/tmp/mnt=passthrough", "no ':'")]
    #[case("/tmp/mnt=passthrough,opt", "no ':'")]
    #[case(r"/tmp/mnt\=passthrough:x", "no '='")]
    #[case(r"/tmp/mnt\", "backslash")]
    #[case("/tmp\0/mnt=p:x", "NUL")]
    #[case("/mnt=p\0:x", "NUL")]
    #[case("/mnt=p,\0:x", "NUL")]
    #[case("/mnt=p:x\0", "NUL")]
    fn nonsense_is_refused_with_the_reason(#[case] text: &str, #[case] reason: &str) {
        let message = MountSpec::parse(OsStr::new(text)).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
        assert!(message.contains("POINT=LIBRARY"), "{message}");
    }

    #[test]
    fn a_plugin_can_stand_alone() {
        let spec = PluginSpec::parse(OsStr::new("l,o:b=c")).unwrap();
        assert_eq!((spec.library, spec.options, spec.backend), ("l".into(), "o".into(), "b=c".into()));
        let message = PluginSpec::parse(OsStr::new("l")).unwrap_err().to_string();
        assert!(message.contains("expected LIBRARY[,OPTION...]:BACKEND"), "{message}");
    }

    fn escaped(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().flat_map(|&byte| [b'\\', byte]).collect()
    }

    proptest! {
        #[test]
        fn every_path_can_be_written(
            point in proptest::collection::vec(1_u8.., 1..20),
            library in proptest::collection::vec(1_u8.., 1..20),
            backend in proptest::collection::vec(1_u8.., 0..20),
        ) {
            let text = [&escaped(&point), &b"="[..], &escaped(&library), b":", &backend].concat();
            let spec = MountSpec::parse(OsStr::from_bytes(&text)).unwrap();
            prop_assert_eq!(spec.point.into_os_string(), OsString::from_vec(point));
            prop_assert_eq!(spec.plugin.library, OsString::from_vec(library));
            prop_assert_eq!(spec.plugin.backend, OsString::from_vec(backend));
        }
    }
}
