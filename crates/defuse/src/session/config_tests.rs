use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use interpose::DispatchPolicy;
use proptest::prelude::*;
use rstest::rstest;

use super::{Mount, Nofile, SessionConfig, Shadows};
use crate::log::{Inode, Level, LogTarget, RunnerStderr};

fn bytes() -> impl Strategy<Value = OsString> {
    proptest::collection::vec(1_u8.., 0..20).prop_map(OsString::from_vec)
}

fn path() -> impl Strategy<Value = PathBuf> {
    bytes().prop_map(|name| {
        let mut path = OsString::from("/");
        path.push(name);
        PathBuf::from(path)
    })
}

fn inode() -> impl Strategy<Value = Inode> {
    (any::<u64>(), any::<u64>()).prop_map(|(dev, ino)| Inode { dev, ino })
}

fn mount() -> impl Strategy<Value = Mount> {
    let hidden = proptest::option::of(inode());
    let shadows = proptest::sample::select(vec![Shadows::Folder, Shadows::Module]);
    (path(), path(), bytes(), bytes(), hidden, shadows).prop_map(
        |(point, library, backend, options, hidden, shadows)| Mount {
            point,
            library,
            backend,
            options,
            hidden,
            shadows,
        },
    )
}

fn log_target() -> impl Strategy<Value = LogTarget> {
    let stderr = (any::<u32>(), inode()).prop_map(|(runner, inode)| RunnerStderr { runner, inode });
    let level = proptest::sample::select(Level::ALL.to_vec());
    (level, proptest::option::of(path()), proptest::option::of(stderr))
        .prop_map(|(level, file, stderr)| LogTarget { level, file, stderr })
}

fn config() -> impl Strategy<Value = SessionConfig> {
    let mounts = proptest::collection::vec(mount(), 0..4);
    let dispatch = proptest::sample::select(DispatchPolicy::ALL.to_vec());
    let one_state = any::<[bool; 4]>();
    (any::<u32>(), any::<u64>(), any::<u64>(), dispatch, log_target(), mounts, one_state).prop_map(
        |(private_fd_base, soft, hard, dispatch, log, mounts, one_state)| SessionConfig {
            private_fd_base,
            nofile: Nofile { soft, hard },
            dispatch,
            log,
            one_state: (0..mounts.len()).filter(|&number| one_state[number]).collect(),
            mounts,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(config in config()) {
        prop_assert_eq!(SessionConfig::parse(config.to_text().as_bytes()), Ok(config));
    }

    #[test]
    fn a_text_cut_short_anywhere_is_refused(config in config(), cut in any::<prop::sample::Index>()) {
        let text = config.to_text();
        prop_assert!(SessionConfig::parse(&text.as_bytes()[..cut.index(text.len())]).is_err());
    }

    #[test]
    fn a_text_has_one_form(config in config(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = config.to_text().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(read) = SessionConfig::parse(&text) {
            prop_assert_eq!(read.to_text().into_bytes(), text);
        }
    }
}

const GOOD: &str = "defuse-session 1\nprivate-fd-base 10\nnofile 10 20\ndispatch auto\nlog warn - 5:a:7\nmount /m /l.so b o 1:2 folder\none-state 0\nend\n";

#[test]
fn the_example_is_good() {
    assert!(SessionConfig::parse(GOOD.as_bytes()).is_ok());
}

#[rstest]
#[case("defuse-session 1", "defuse-session 2", "line 1")]
#[case("private-fd-base 10", "private-fd-base -1", "line 2")]
#[case("private-fd-base 10", "private-fd-base 010", "line 2")]
#[case("private-fd-base 10", "private-fd-base 4294967296", "line 2")]
#[case("nofile 10 20", "nofile 10", "line 3")]
#[case("nofile 10 20\n", "", "line 3")]
#[case("dispatch auto", "dispatch often", "line 4")]
#[case("log warn -", "log loud -", "line 5")]
#[case("log warn -", "log warn x", "line 5")]
#[case("5:a:7", "5:A:7", "line 5")]
#[case("5:a:7", "a:7", "line 5")]
#[case("5:a:7", "5:a:7:7", "line 5")]
#[case("mount /m", "mount m", "line 6")]
#[case("mount /m", "mount  /m", "line 6")]
#[case("/l.so", "l.so", "line 6")]
#[case("/l.so", "/l%00.so", "line 6")]
#[case("1:2", "1:02", "line 6")]
#[case("1:2", "1", "line 6")]
#[case("mount", "mound", "line 6")]
#[case("one-state 0", "one-state", "line 7")]
#[case("one-state 0", "one-state 1", "line 7")]
#[case("one-state 0", "one-state 0 0", "line 7")]
#[case("one-state 0", "one-state 0\none-state 0", "line 8")]
#[case("end\n", "end", "cut short")]
#[case("end\n", "", "cut short")]
#[case("end\n", "end\n\n", "after its end")]
fn a_wrong_line_is_named(#[case] from: &str, #[case] to: &str, #[case] named: &str) {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD);
    let message = SessionConfig::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(message.contains(named), "{message}");
}
