use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::{Mount, MountSpec, PluginSpec, SessionError};
use super::{PluginSearch, find_plugin, resolve_mounts};

/// A directory with plugins `one` and `two_parts`, and the empty directories `a`, `b` and `full`, which has a file in it.
struct Place {
    folder: tempfile::TempDir,
    search: PluginSearch,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["plugins", "a", "b", "full"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["plugins/libone.so", "plugins/libtwo_parts.so", "full/file"] {
            fs::write(at(name), b"").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let search = PluginSearch { directories: vec![at("nowhere"), at("plugins")] };
        Self { folder, search }
    }

    fn at(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join(name)
    }

    /// Resolves mounts of plugin `one` at `points`.
    fn mount(&self, points: &[PathBuf]) -> Result<Vec<Mount>, SessionError> {
        let specs: Vec<_> = points.iter().map(|point| spec(point, "/")).collect();
        resolve_mounts(&specs, &self.search, Path::new("/dev/shm"))
    }

    fn refusal(&self, points: &[PathBuf]) -> String {
        self.mount(points).unwrap_err().to_string()
    }
}

fn spec(point: &Path, backend: &str) -> MountSpec {
    let plugin = PluginSpec { library: "one".into(), options: "o".into(), backend: backend.into() };
    MountSpec { point: point.into(), plugin }
}

#[test]
fn a_point_is_made_canonical_and_its_inode_noted() {
    let place = Place::new();
    symlink(place.at("a"), place.at("link")).unwrap();
    let mounts = place.mount(&[place.at("b/../link/")]).unwrap();
    assert_eq!(mounts[0].point, place.at("a"));
    assert_eq!(mounts[0].library, place.at("plugins/libone.so"));
    let hidden = fs::metadata(place.at("a")).unwrap();
    assert_eq!(mounts[0].hidden.unwrap().ino, std::os::unix::fs::MetadataExt::ino(&hidden));
}

#[test]
fn what_cannot_be_a_point_is_refused_with_the_reason() {
    let place = Place::new();
    assert!(
        place.refusal(&[place.at("missing")]).contains("no such file or directory (ENOENT) (mkdir it first)")
    );
    assert!(place.refusal(&[place.at("full")]).contains("not empty"));
    assert!(place.refusal(&[place.at("full/file")]).contains("not a directory"));
    assert!(place.refusal(&["/".into()]).contains("root directory"));
    symlink(place.at("a"), place.at("link")).unwrap();
    assert!(place.refusal(&[place.at("a"), place.at("link")]).contains("mount point already"));
}

#[test]
fn a_point_inside_an_earlier_mount_is_taken_as_it_is() {
    let place = Place::new();
    symlink(place.at("a"), place.at("link")).unwrap();
    let mounts = place.mount(&[place.at("a"), place.at("link/deep/inside")]).unwrap();
    assert_eq!(mounts[1].point, place.at("a/deep/inside"));
    assert_eq!(mounts[1].hidden, None);
    // Not without the mount around it, not beside it, and not by way of `..`.
    assert!(place.refusal(&[place.at("a/deep")]).contains("ENOENT"));
    assert!(place.refusal(&[place.at("a"), place.at("ab/deep")]).contains("ENOENT"));
    assert!(place.refusal(&[place.at("a"), place.at("a/x/../y")]).contains("ENOENT"));
    let twice = [place.at("a"), place.at("a/deep"), place.at("a/deep")];
    assert!(place.refusal(&twice).contains("mount point already"));
}

#[test]
fn the_run_directory_must_not_be_hidden() {
    let place = Place::new();
    let error = resolve_mounts(&[spec(&place.at("a"), "/")], &place.search, &place.at("a")).unwrap_err();
    assert!(error.to_string().contains("DEFUSE_RUN_DIR"), "{error}");
}

#[test]
fn the_point_cannot_serve_itself() {
    let place = Place::new();
    let point = place.at("a");
    let error = resolve_mounts(&[spec(&point, point.to_str().unwrap())], &place.search, Path::new("/tmp"));
    assert!(error.unwrap_err().to_string().contains("mount point itself"));
}

#[test]
fn a_back_end_that_is_no_path_is_left_alone() {
    let place = Place::new();
    let backend = |text| {
        let mounts = resolve_mounts(&[spec(&place.at("a"), text)], &place.search, Path::new("/tmp")).unwrap();
        mounts[0].backend.clone()
    };
    assert_eq!(backend("memory:64M"), "memory:64M");
    assert_eq!(backend(""), "");
    // Tests run in the folder of their crate.
    assert_eq!(backend("src"), std::env::current_dir().unwrap().join("src"));
}

#[test]
fn plugins_are_found_by_name_or_path() {
    let place = Place::new();
    let find = |name: &str| find_plugin(OsStr::new(name), &place.search);
    assert_eq!(find("one").unwrap(), place.at("plugins/libone.so"));
    assert_eq!(find("two-parts").unwrap(), place.at("plugins/libtwo_parts.so"));
    let path = place.at("plugins/libone.so");
    assert_eq!(find(path.to_str().unwrap()).unwrap(), path);

    let message = find("three").unwrap_err().to_string();
    assert!(
        message.contains("libthree.so")
            && message.contains("nowhere")
            && message.contains("DEFUSE_PLUGIN_PATH")
    );
    assert!(find("/no/such.so").unwrap_err().to_string().contains("/no/such.so"));
}

#[test]
fn a_plugin_that_others_may_write_is_refused() {
    let place = Place::new();
    let path = place.at("plugins/libone.so");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let error = find_plugin(OsStr::new("one"), &place.search).unwrap_err();
    assert!(error.to_string().contains("may be written by others"), "{error}");
}

#[test]
fn the_environment_s_directories_come_first() {
    let search = PluginSearch::new(Some(OsStr::new("/x:/y")), Some(Path::new("/usr/bin/defuse")));
    let wanted = ["/x", "/y", "/usr/bin", "/usr/bin/deps", "/usr/lib/defuse"];
    assert_eq!(search.directories, wanted.map(PathBuf::from));
}
