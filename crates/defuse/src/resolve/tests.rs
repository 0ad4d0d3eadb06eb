//! The resolver against the kernel itself: a directory stands where the mount would be, so that the kernel can
//! resolve the same paths, and both must arrive at the same place.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use rstest::rstest;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::*;
use crate::mounts::MountPoint;

struct RealLinks;

impl Links for RealLinks {
    fn read(&self, path: &[u8], _: Option<(usize, &[u8])>, target: &mut PathBytes) -> Result<(), Errno> {
        let text = rustix::fs::readlinkat(CWD, path, Vec::new())?;
        target.try_extend_from_slice(text.as_bytes()).map_err(|_| Errno::NAMETOOLONG)
    }

    fn leads_on(&self, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn expect_directory(&self, path: &[u8], _: Option<(usize, &[u8])>) -> Result<(), Errno> {
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map(drop)
    }
}

/// `root/mnt` is "the mount", with `d/e/f`; links of every kind lead in, out and round.
fn tree() -> (tempfile::TempDir, PathBuf, MountTable) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("mnt/d/e")).unwrap();
    std::fs::create_dir_all(root.join("out/p")).unwrap();
    std::fs::write(root.join("mnt/d/e/f"), "").unwrap();
    std::fs::write(root.join("out/f"), "").unwrap();
    symlink("../out", root.join("mnt/up")).unwrap();
    symlink(root.join("out"), root.join("mnt/abs")).unwrap();
    symlink("d/e", root.join("mnt/in")).unwrap();
    symlink("../../mnt/d", root.join("out/p/back")).unwrap();
    symlink("../mnt", root.join("out/m")).unwrap();
    symlink("loop", root.join("out/loop")).unwrap();
    symlink("loop", root.join("mnt/loop")).unwrap();
    symlink("nowhere", root.join("mnt/dangling")).unwrap();
    symlink("e/", root.join("mnt/d/slash")).unwrap();
    symlink("../mnt/d/e/f", root.join("out/tofile")).unwrap();
    let table = MountTable::new(vec![MountPoint {
        point: root.join("mnt").as_os_str().as_bytes().to_vec(),
        hidden: (0, 0),
    }]);
    (dir, root, table)
}

/// The kernel's answer: the path of the object, or its error.
fn kernel(base: &Path, path: &str, follow: bool) -> Result<Vec<u8>, Errno> {
    restricted_kernel(base, path, follow, ResolveFlags::empty())
}

fn restricted_kernel(base: &Path, path: &str, follow: bool, words: ResolveFlags) -> Result<Vec<u8>, Errno> {
    let base = rustix::fs::open(base, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let file = rustix::fs::openat2(&base, path, OFlags::PATH | nofollow, Mode::empty(), words)?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    Ok(std::fs::read_link(link).unwrap().into_os_string().into_encoded_bytes())
}

fn absolute(place: &Place, table: &MountTable) -> Vec<u8> {
    match place {
        Place::Inside { mount, path, .. } => {
            let below: &[u8] = if path.as_slice() == b"/" { b"" } else { path };
            [table.point(*mount), below].concat()
        }
        Place::Outside { path, .. } if path.len() > 1 => path.strip_suffix(b"/").unwrap_or(path).to_vec(),
        Place::Outside { path, .. } => path.to_vec(),
        Place::Unclear => b"unclear".to_vec(),
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "mnt", "d", "e", "f", "up", "abs", "in", "out", "p", "back", "m", "loop", "dangling", "slash",
        "tofile", "..", ".", "", "new",
    ])
}

/// Runs `check` on generated cases, all in one tree.
fn for_cases<S: Strategy>(
    cases: u32,
    strategy: S,
    check: impl Fn(&Path, &MountTable, S::Value) -> TestCaseResult,
) {
    let (_dir, root, table) = tree();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let tried = TestRunner::new(config).run(&strategy, |case| check(&root, &table, case));
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..8)
        .prop_map(|names| names.join("/"))
        .prop_filter("an empty path", |path| !path.is_empty())
}

#[test]
fn a_walk_ends_where_the_kernel_does() {
    let base = prop::sample::select(vec!["", "mnt", "mnt/d", "mnt/d/e", "out", "out/p"]);
    let above = prop::sample::select(vec![Above::Open, Above::Forbidden, Above::Itself]);
    let restricted = (above, prop::bool::weighted(0.8));
    for_cases(
        4000,
        (base, path(), any::<bool>(), restricted),
        |root, table, (base, path, follow, restricted)| {
            let (above, links) = restricted;
            let base = root.join(base).canonicalize().unwrap();
            // Who calls it does so with a relative path.
            let path = if above == Above::Open { &path } else { path.trim_start_matches('/') };
            prop_assume!(!path.is_empty());
            let words = match above {
                Above::Open => ResolveFlags::empty(),
                Above::Forbidden => ResolveFlags::BENEATH,
                Above::Itself => ResolveFlags::IN_ROOT,
            };
            let words = if links { words } else { words | ResolveFlags::NO_SYMLINKS };
            let how = Walk { links, above, ..Walk::plain(follow) };
            let mine = walk(table, &RealLinks, base.as_os_str().as_bytes(), path.as_bytes(), how);
            match (restricted_kernel(&base, path, follow, words), mine) {
                (Ok(theirs), Ok(place)) => prop_assert_eq!(
                    String::from_utf8_lossy(&theirs).into_owned(),
                    String::from_utf8_lossy(&absolute(&place, table)).into_owned()
                ),
                // Whether the last component exists, or is a directory, is for the operation to find out.
                (Err(_), Ok(_)) => {}
                (Err(theirs), Err(mine)) => prop_assert_eq!(theirs, mine),
                (Ok(theirs), Err(mine)) => prop_assert!(false, "kernel found {:?}, walk said {mine}", theirs),
            }
            Ok(())
        },
    );
}

/// Where the text alone gives an answer and no link lies on the way, it is the kernel's answer.
#[test]
fn the_text_is_enough_where_there_are_no_links() {
    let base = prop::sample::select(vec!["", "mnt", "mnt/d", "out"]);
    for_cases(1000, (base, path()), |root, table, (base, path)| {
        let base = root.join(base).canonicalize().unwrap();
        let directory = rustix::fs::open(&base, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let resolve = ResolveFlags::NO_SYMLINKS;
        let linkless = rustix::fs::openat2(&directory, path.as_str(), OFlags::PATH, Mode::empty(), resolve);
        let place = lexical(table, base.as_os_str().as_bytes(), path.as_bytes()).unwrap();
        if let (Ok(_), false) = (&linkless, place == Place::Unclear) {
            let theirs = String::from_utf8(kernel(&base, &path, true).unwrap()).unwrap();
            prop_assert_eq!(theirs, String::from_utf8(absolute(&place, table)).unwrap());
        }
        Ok(())
    });
}

fn one_mount() -> MountTable {
    MountTable::new(vec![MountPoint { point: b"/m/n".to_vec(), hidden: (0, 0) }])
}

#[rstest]
#[case("/m/n", "/", false)]
#[case("/m/n/", "/", true)]
#[case("//m///n/./a", "/a", false)]
#[case("/m/n/a/.", "/a", true)]
#[case("/m/n/a//", "/a", true)]
fn text_on_the_mount_is_normalised(#[case] path: &str, #[case] below: &str, #[case] is_directory: bool) {
    let expected = Place::Inside {
        mount: 0,
        path: PathBytes::try_from(below.as_bytes()).unwrap(),
        directory: is_directory,
    };
    assert_eq!(lexical(&one_mount(), b"/", path.as_bytes()), Ok(expected));
}

#[rstest]
#[case("/a", true)]
#[case("a", true)]
#[case("/a/.b/c..d/...", true)]
#[case("..a/b.", true)]
#[case("/", false)]
#[case("", false)]
#[case("/a/", false)]
#[case("//a", false)]
#[case("/a//b", false)]
#[case("/.", false)]
#[case("./a", false)]
#[case("/a/./b", false)]
#[case("/a/..", false)]
#[case("..", false)]
#[case("/a/../b", false)]
fn plain_is_what_needs_no_normalising(#[case] path: &str, #[case] plain: bool) {
    assert_eq!(is_plain(path.as_bytes()), plain);
}

#[rstest]
#[case("/", "/m/nx")]
#[case("/m", "/m/n.d")]
fn names_that_only_begin_alike_are_outside(#[case] base: &str, #[case] path: &str) {
    let place = lexical(&one_mount(), base.as_bytes(), path.as_bytes()).unwrap();
    assert!(matches!(place, Place::Outside { rewritten: false, .. }), "{place:?}");
}

#[test]
fn leaving_a_mount_by_dot_dot_rewrites_the_path() {
    let place = lexical(&one_mount(), b"/m/n/sub", b"../../x/").unwrap();
    let path = PathBytes::try_from(b"/m/x/".as_slice()).unwrap();
    assert_eq!(place, Place::Outside { path, rewritten: true });
}

#[test]
fn limits_are_the_kernels() {
    assert_eq!(lexical(&one_mount(), b"/m/n", &b"a/".repeat(2048)), Err(Errno::NAMETOOLONG));
    assert_eq!(lexical(&one_mount(), b"/m/n", b""), Err(Errno::NOENT));
}

proptest! {
    /// The quick look never finds plain what is not, and finds most of what is.
    #[test]
    fn plain_paths_are_found_quickly(text in "/[/.a]{0,40}", names in "(/[a-z]{1,12}){1,6}") {
        prop_assert_eq!(is_plain(text.as_bytes()), is_plain_by_bytes(text.as_bytes()));
        prop_assert!(is_plainly_plain(names.as_bytes()));
    }
}
