//! `mount.defuse SOURCE POINT [-fnsv] [-o OPTIONS]`: what mount(8) calls for `mount -t defuse` and for lines of fstab, so that `library=` may be a
//! plugin's name.
//!
//! It is this command, called by that name; by that of [`UMOUNT`] it is the helper of umount(8). Options of the module pass as they are, those of the kernel become flags, and those that are
//! for mount(8) and its like are left out. There is no fallback here: what mount(8) says is mounted must be a mount.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use defuse::errno::describe;
use defuse::session::{PluginSearch, escape_option, find_plugin};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::arguments::UmountRequest;
use super::failure::Failure;
use super::{run, standing};

/// The name under which this command is mount(8)'s helper.
pub const NAME: &str = "mount.defuse";
/// The name under which it is umount(8)'s.
pub const UMOUNT: &str = "umount.defuse";
/// mount(8): wrong invocation.
const USAGE: i32 = 1;
/// mount(8): mount failure.
const MOUNT_FAILED: i32 = 32;

/// What mount(8) asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HelperRequest {
    /// Where to mount.
    pub point: PathBuf,
    /// What stands behind `-o`.
    pub options: OsString,
    /// Do all but the mount itself.
    pub fake: bool,
    /// Pass over options that nobody knows.
    pub sloppy: bool,
}

/// Reads the arguments, without the program's name.
///
/// # Errors
///
/// When they are not what mount(8) passes.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<HelperRequest, Failure> {
    use lexopt::Arg;
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut request = HelperRequest::default();
    let mut words = Vec::new();
    let usage = |error: String| {
        Failure::new(USAGE, format!("{error}\nusage: {NAME} SOURCE POINT [-fnsv] [-o OPTION,...]"))
    };
    while let Some(argument) = parser.next().map_err(|error| usage(error.to_string()))? {
        match argument {
            Arg::Short('o') => {
                if !request.options.is_empty() {
                    request.options.push(",");
                }
                request.options.push(parser.value().map_err(|error| usage(error.to_string()))?);
            }
            // The type is known.
            Arg::Short('t') => drop(parser.value().map_err(|error| usage(error.to_string()))?),
            Arg::Short('f') => request.fake = true,
            Arg::Short('s') => request.sloppy = true,
            Arg::Short('n' | 'v') => {}
            Arg::Value(word) => words.push(word),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    match words.as_slice() {
        [_source, point] => request.point = point.into(),
        _ => return Err(usage("SOURCE and POINT expected".into())),
    }
    Ok(request)
}

/// Reads the arguments of umount(8)'s helper, `POINT [-flnrv]`, without the program's name.
///
/// # Errors
///
/// When they are not what umount(8) passes.
pub fn parse_umount(arguments: impl Iterator<Item = OsString>) -> Result<UmountRequest, Failure> {
    use lexopt::Arg;
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut request = UmountRequest::default();
    let usage = |error: String| Failure::new(USAGE, format!("{error}\nusage: {UMOUNT} POINT [-flnrv]"));
    while let Some(argument) = parser.next().map_err(|error| usage(error.to_string()))? {
        match argument {
            Arg::Short('l') => request.lazy = true,
            // No server to be given up, no mtab to be kept; a mount that is busy is not made read-only, but said to be busy.
            Arg::Short('f' | 'n' | 'r' | 'v') => {}
            // The type is known.
            Arg::Short('t') => drop(parser.value().map_err(|error| usage(error.to_string()))?),
            Arg::Value(point) if request.point.as_os_str().is_empty() => request.point = point.into(),
            other => return Err(usage(other.unexpected().to_string())),
        }
    }
    if request.point.as_os_str().is_empty() {
        return Err(usage("POINT expected".into()));
    }
    Ok(request)
}

/// Mounts.
///
/// # Errors
///
/// Says what is wrong with the options or what the kernel said.
pub fn mount(request: &HelperRequest) -> Result<i32, Failure> {
    let KernelOptions { remount, flags, data } =
        kernel_options(&request.options, request.sloppy, &run::plugin_search())
            .map_err(|error| Failure::new(USAGE, error))?;
    if request.fake {
        return Ok(0);
    }
    let done = if remount {
        rustix::mount::mount_remount(&request.point, flags, data.as_os_str())
    } else {
        standing::mount_as(&request.point, flags, data)
    };
    done.map(|()| 0).map_err(|errno| {
        let hint = match errno {
            Errno::NODEV => ": the kernel module is not loaded ('defuse mount' does without)",
            Errno::INVAL => ": the kernel's log says what is wrong with the options (dmesg)",
            _ => "",
        };
        let point = request.point.display();
        Failure::new(MOUNT_FAILED, format!("cannot mount {point}: {}{hint}", describe(errno)))
    })
}

/// What the kernel is told.
#[derive(Debug, PartialEq, Eq)]
struct KernelOptions {
    /// A mount that is there is changed.
    remount: bool,
    /// Its flags.
    flags: MountFlags,
    /// The module's options.
    data: OsString,
}

/// Splits options into the kernel's flags and the module's options.
fn kernel_options(options: &OsStr, sloppy: bool, search: &PluginSearch) -> Result<KernelOptions, String> {
    let (mut remount, mut flags) = (false, MountFlags::empty());
    let mut data: Vec<Vec<u8>> = Vec::new();
    for option in split(options.as_bytes()) {
        let equals = option.iter().position(|&byte| byte == b'=');
        let (name, value) = option.split_at(equals.unwrap_or(option.len()));
        let name = String::from_utf8_lossy(name);
        match &*name {
            "library" => {
                let value = value.strip_prefix(b"=").unwrap_or_default();
                data.push([b"library=", library(value, search)?.as_bytes()].concat());
            }
            "backend" | "options" | "mode" | "uid" | "gid" => data.push(option.to_vec()),
            "" => {}
            "remount" => remount = true,
            name if is_for_user_space(name) => {}
            name => match flag(name) {
                Some((bits, true)) => flags |= bits,
                Some((bits, false)) => flags &= !bits,
                None if sloppy => {}
                None => return Err(format!("there is no option '{}'", String::from_utf8_lossy(option))),
            },
        }
    }
    Ok(KernelOptions { remount, flags, data: OsString::from_vec(data.join(&b","[..])) })
}

/// The options of a list; a comma behind a backslash does not end one.
fn split(options: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut escaped = false;
    options.split(move |&byte| {
        let ends = byte == b',' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// The value of `library=` as the module takes it: a name becomes the path of the plugin that is found by it.
fn library(value: &[u8], search: &PluginSearch) -> Result<OsString, String> {
    if value.contains(&b'/') {
        return Ok(OsString::from_vec(value.to_vec()));
    }
    let path = find_plugin(OsStr::from_bytes(value), search).map_err(|error| error.to_string())?;
    Ok(escape_option(path.as_os_str()))
}

/// Options of fstab that are not the kernel's (mount(8)).
fn is_for_user_space(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner", "group",
        "nogroup", "nofail", "_netdev", "comment", "loop",
    ];
    NAMES.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// `MS_I_VERSION` of linux/mount.h, which rustix does not name.
const I_VERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);

/// A flag of mount(2), and whether the option sets or clears it.
fn flag(name: &str) -> Option<(MountFlags, bool)> {
    Some(match name {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "nosymfollow" => (MountFlags::NOSYMFOLLOW, true),
        "symfollow" => (MountFlags::NOSYMFOLLOW, false),
        "iversion" => (I_VERSION, true),
        "noiversion" => (I_VERSION, false),
        "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        _ => return None,
    })
}

/// Whether this command was called as the helper `helper`: by the last component of its name.
pub fn is_called(helper: &str, name: &OsStr) -> bool {
    Path::new(name).file_name() == Some(OsStr::new(helper))
}

#[cfg(test)]
mod tests {
    use super::{HelperRequest, KernelOptions, MountFlags, is_called, kernel_options, parse, parse_umount};
    use defuse::session::PluginSearch;
    use rstest::rstest;
    use std::ffi::OsString;

    fn words(line: &str) -> impl Iterator<Item = OsString> {
        line.split_whitespace().map(OsString::from).collect::<Vec<_>>().into_iter()
    }

    fn options(text: &str) -> Result<KernelOptions, String> {
        kernel_options(text.as_ref(), false, &PluginSearch::default())
    }

    #[test]
    fn it_is_called_as_mount_8_calls_it() {
        let wanted =
            HelperRequest { point: "/mnt".into(), options: "rw,backend=b".into(), fake: true, sloppy: false };
        assert_eq!(parse(words("defuse /mnt -f -v -o rw,backend=b -t defuse")).unwrap(), wanted);
        let called = |name: &str| is_called(super::NAME, name.as_ref());
        assert!(called("/sbin/mount.defuse") && called("mount.defuse"));
        assert!(!called("/mount.defuse/defuse") && !called("umount.defuse"));
    }

    #[test]
    fn it_is_called_as_umount_8_calls_it() {
        let request = parse_umount(words("/mnt -l -v -t defuse")).unwrap();
        assert_eq!((request.point.to_str(), request.lazy), (Some("/mnt"), true));
        for wrong in ["", "/mnt /more", "/mnt -x", "-l"] {
            assert_eq!(parse_umount(words(wrong)).unwrap_err().status, super::USAGE, "{wrong}");
        }
    }

    #[rstest]
    #[case("")]
    #[case("defuse")]
    #[case("defuse /mnt more")]
    #[case("defuse /mnt -o")]
    #[case("defuse /mnt --frob")]
    fn a_wrong_call_is_refused(#[case] line: &str) {
        let failure = parse(words(line)).unwrap_err();
        assert_eq!(failure.status, super::USAGE);
        assert!(failure.to_string().contains("usage: mount.defuse"), "{failure}");
    }

    #[test]
    fn options_go_where_they_belong() {
        let KernelOptions { remount, flags, data } = options(
            r"rw,ro,nosuid,noauto,x-systemd.automount,backend=/a\,b,library=/l.so,options=c\\,mode=700,",
        )
        .unwrap();
        assert_eq!((remount, flags), (false, MountFlags::RDONLY | MountFlags::NOSUID));
        assert_eq!(data, r"backend=/a\,b,library=/l.so,options=c\\,mode=700");
    }

    #[test]
    fn a_mount_is_changed_by_its_options() {
        // As libmount passes it: with those of the mount that is there.
        let text = r"rw,relatime,library=/l.so,backend=/a\134b,remount,ro,nosymfollow,nostrictatime,nolazytime,iversion,nomand";
        let KernelOptions { remount, flags, data } = options(text).unwrap();
        let wanted = MountFlags::RDONLY | MountFlags::RELATIME | MountFlags::NOSYMFOLLOW | super::I_VERSION;
        assert_eq!((remount, flags), (true, wanted));
        assert_eq!(data, r"library=/l.so,backend=/a\134b");
    }

    #[test]
    fn an_option_that_nobody_knows_is_refused_unless_sloppy() {
        assert_eq!(options("backend=b,colour=red").unwrap_err(), "there is no option 'colour=red'");
        let sloppy = kernel_options("backend=b,colour=red".as_ref(), true, &PluginSearch::default());
        let wanted = KernelOptions { remount: false, flags: MountFlags::empty(), data: "backend=b".into() };
        assert_eq!(sloppy, Ok(wanted));
    }

    #[test]
    fn a_plugin_is_found_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libmine.so");
        std::fs::write(&path, "").unwrap();
        let search = PluginSearch { directories: vec![directory.path().into()] };
        let KernelOptions { data, .. } = kernel_options("library=mine".as_ref(), false, &search).unwrap();
        let path = std::fs::canonicalize(&path).unwrap();
        assert_eq!(data, format!("library={}", path.display()).as_str());
        let missing = kernel_options("library=other".as_ref(), false, &search).unwrap_err();
        assert!(missing.contains("libother.so"), "{missing}");
    }
}
