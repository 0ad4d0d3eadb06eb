//! What is mounted with `mount -t defuse`: served by the kernel module's shadows, and known by `/proc/self/mountinfo`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::config::{Mount, Shadows};
use super::error::SessionError;
use crate::log::Inode;

/// Where the kernel tells what is mounted in this process's name space.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of mountinfo about a mount of type `defuse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelMount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// The option `library`.
    pub library: PathBuf,
    /// The option `backend`.
    pub backend: OsString,
    /// The option `options`; empty when absent.
    pub options: OsString,
}

/// The mounts of type `defuse` that can be reached: what another mount hides is left out, and what this process may not search.
///
/// # Errors
///
/// When the kernel's list cannot be read.
pub fn kernel_mounts() -> Result<Vec<Mount>, SessionError> {
    let text = fs::read(MOUNTINFO).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        SessionError::system("read", Path::new(MOUNTINFO), errno)
    })?;
    Ok(parse(&text).into_iter().filter_map(KernelMount::reachable).collect())
}

impl KernelMount {
    /// As a mount of a session, if this is what stands at the point.
    fn reachable(self) -> Option<Mount> {
        let metadata = fs::symlink_metadata(&self.point).ok()?;
        let device = metadata.dev();
        let here = metadata.is_dir() && (rustix::fs::major(device), rustix::fs::minor(device)) == self.device;
        here.then(|| Mount {
            point: self.point,
            library: self.library,
            backend: self.backend,
            options: self.options,
            hidden: Some(Inode { dev: device, ino: metadata.ino() }),
            shadows: Shadows::Module,
        })
    }
}

/// The mounts of type `defuse` that a text like `/proc/self/mountinfo` tells of (proc_pid_mountinfo(5)): of several at one point, the last.
pub fn parse(mountinfo: &[u8]) -> Vec<KernelMount> {
    let mut mounts: Vec<KernelMount> = Vec::new();
    for mount in mountinfo.split(|&byte| byte == b'\n').filter_map(parse_line) {
        mounts.retain(|earlier| earlier.point != mount.point);
        mounts.push(mount);
    }
    mounts
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG]... - TYPE SOURCE SUPER_OPTIONS`
fn parse_line(line: &[u8]) -> Option<KernelMount> {
    let mut words = line.split(|&byte| byte == b' ').skip(2);
    let device = std::str::from_utf8(words.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = words.next()?;
    let point = unescape(words.next()?)?;
    let mut words = words.skip_while(|&word| word != b"-").skip(1);
    if words.next()? != b"defuse" || root != b"/" {
        return None;
    }
    let options = words.nth(1)?;
    let option = |name: &[u8]| {
        let value = options
            .split(|&byte| byte == b',')
            .find_map(|option| option.strip_prefix(name)?.strip_prefix(b"="))?;
        unescape(value)
    };
    Some(KernelMount {
        point: OsString::from_vec(point).into(),
        device: (major.parse().ok()?, minor.parse().ok()?),
        library: OsString::from_vec(option(b"library")?).into(),
        backend: OsString::from_vec(option(b"backend")?),
        options: OsString::from_vec(option(b"options").unwrap_or_default()),
    })
}

/// `text` with each backslash and three octal digits made the byte they stand for.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        if *first == b'\\' {
            let (digits, after) = after.split_at_checked(3)?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 8).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

/// `value` as the module's mount options have it: commas and backslashes as octal escapes.
pub fn escape_option(value: &OsStr) -> OsString {
    let mut escaped = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        match byte {
            b',' | b'\\' => escaped.extend(format!("\\{byte:03o}").bytes()),
            _ => escaped.push(byte),
        }
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use super::{KernelMount, escape_option, parse};
    use proptest::prelude::*;
    use rstest::rstest;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    const OTHERS: &str = "22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw\n\
        28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,library=/x,backend=y\n";

    fn line(point: &str, options: &str) -> String {
        format!("40 28 0:51 / {point} rw,relatime shared:7 master:1 - defuse defuse rw,{options}\n")
    }

    #[test]
    fn mounts_are_found_among_others() {
        let text = format!(
            "{OTHERS}{}{OTHERS}",
            line(r"/mnt/with\040space", r"backend=/a\054b\134,library=/l.so,options=u\075v\054w,mode=700")
        );
        let wanted = KernelMount {
            point: "/mnt/with space".into(),
            device: (0, 51),
            library: "/l.so".into(),
            backend: r"/a,b\".into(),
            options: "u=v,w".into(),
        };
        assert_eq!(parse(text.as_bytes()), [wanted]);
    }

    #[test]
    fn the_last_mount_at_a_point_counts() {
        let text = line("/m", "backend=first,library=/l") + &line("/m", "backend=second,library=/l");
        let mounts = parse(text.as_bytes());
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].backend, "second");
        assert_eq!(mounts[0].options, "");
    }

    #[rstest]
    #[case("40 28 0:51 / /m rw - tmpfs defuse rw,backend=b,library=/l")]
    #[case("40 28 0:51 / /m rw - defuse defuse rw,library=/l")]
    #[case("40 28 0:51 / /m rw - defuse defuse")]
    #[case("40 28 0-51 / /m rw - defuse defuse rw,backend=b,library=/l")]
    #[case(r"40 28 0:51 / /m\04 rw - defuse defuse rw,backend=b,library=/l")]
    #[case("")]
    fn what_is_no_mount_of_ours_is_passed_over(#[case] line: &str) {
        assert_eq!(parse(line.as_bytes()), []);
    }

    proptest! {
        #[test]
        fn an_escaped_option_is_one_word_of_the_list(value in proptest::collection::vec(1_u8.., 0..30)) {
            let value = OsString::from_vec(value);
            let escaped = escape_option(&value).into_vec();
            prop_assert!(!escaped.contains(&b','));
            prop_assert_eq!(super::unescape(&escaped), Some(value.into_vec()));
        }
    }
}
