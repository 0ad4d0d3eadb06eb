//! Which part of the name space is served, and by what.

/// One mount: a directory of the program's name space that a plugin serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Canonical absolute path (no symbolic link, no trailing slash); never `/`.
    pub point: Vec<u8>,
    /// Device and inode of the directory that the mount hides, to recognise it when the kernel meets it.
    pub hidden: (u64, u64),
}

/// The mounts of a session. A path belongs to the longest mount point that is a prefix of it by whole components.
#[derive(Debug, Default)]
pub struct MountTable {
    mounts: Vec<MountPoint>,
    /// Indices into `mounts` of those that stand, longest point first, so that a nested mount is found before the one around it.
    by_length: Vec<usize>,
    /// What comes before a mount's number in the path of a second place where it is seen; empty: there is none.
    mirrors: Vec<u8>,
}

impl MountTable {
    /// A table of `mounts`; a mount keeps its position in the list as its number.
    pub fn new(mounts: Vec<MountPoint>) -> Self {
        let mut by_length: Vec<usize> = (0..mounts.len()).collect();
        by_length.sort_by_key(|&index| std::cmp::Reverse(mounts[index].point.len()));
        Self { mounts, by_length, mirrors: Vec::new() }
    }

    /// The same table without the places of those mounts that `stands` denies. Their numbers stay theirs: what was opened on them is open.
    #[must_use]
    pub fn only(mut self, stands: impl Fn(usize) -> bool) -> Self {
        self.by_length.retain(|&index| stands(index));
        self
    }

    /// The same table, in which `mirrors` followed by a mount's number is one more name of its point.
    #[must_use]
    pub fn with_mirrors(self, mirrors: Vec<u8>) -> Self {
        Self { mirrors, ..self }
    }

    /// The mount that `path` (canonical, absolute) lies on, and the rest of the path, `""` at the point itself,
    /// else beginning with `/`.
    pub fn find<'p>(&self, path: &'p [u8]) -> Option<(usize, &'p [u8])> {
        let found = self.by_length.iter().find_map(|&index| {
            let rest = path.strip_prefix(self.mounts[index].point.as_slice())?;
            (rest.is_empty() || rest[0] == b'/').then_some((index, rest))
        });
        found.or_else(|| self.mirrored(path))
    }

    fn mirrored<'p>(&self, path: &'p [u8]) -> Option<(usize, &'p [u8])> {
        if self.mirrors.is_empty() {
            return None;
        }
        let named = path.strip_prefix(self.mirrors.as_slice())?;
        let end = named.iter().position(|&byte| byte == b'/').unwrap_or(named.len());
        let number: usize = std::str::from_utf8(&named[..end]).ok()?.parse().ok()?;
        self.by_length.contains(&number).then_some((number, &named[end..]))
    }

    /// Whether a mount point lies below the directory at `path` (canonical, absolute).
    pub fn is_above(&self, path: &[u8]) -> bool {
        let path = if path == b"/" { b"" } else { path };
        self.points().any(|point| point.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/')))
    }

    /// The mount whose hidden directory is the inode (`dev`, `ino`).
    pub fn hidden_by(&self, dev: u64, ino: u64) -> Option<usize> {
        self.by_length.iter().copied().find(|&index| self.mounts[index].hidden == (dev, ino))
    }

    /// What the paths begin with that lead to a mount by their text: its point, or a mirror.
    pub fn beginnings(&self) -> impl Iterator<Item = &[u8]> {
        self.points().chain(Some(self.mirrors.as_slice()).filter(|mirrors| !mirrors.is_empty()))
    }

    /// The points of the mounts that stand.
    pub fn points(&self) -> impl Iterator<Item = &[u8]> {
        self.by_length.iter().map(|&index| self.mounts[index].point.as_slice())
    }

    /// The inode numbers of the directories that the mounts hide.
    pub fn hidden_inodes(&self) -> impl Iterator<Item = u64> {
        self.by_length.iter().map(|&index| self.mounts[index].hidden.1)
    }

    /// The mount point of mount number `index`.
    pub fn point(&self, index: usize) -> &[u8] {
        &self.mounts[index].point
    }

    /// Number of mounts.
    pub fn len(&self) -> usize {
        self.mounts.len()
    }

    /// Whether nothing is mounted.
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{MountPoint, MountTable};
    use rstest::rstest;

    fn table() -> MountTable {
        let mount = |point: &str, ino| MountPoint { point: point.into(), hidden: (1, ino) };
        MountTable::new(vec![mount("/mnt/a", 10), mount("/mnt/a/deep/b", 11), mount("/x", 12)])
    }

    #[rstest]
    #[case("/mnt/a", Some((0, "")))]
    #[case("/mnt/a/f", Some((0, "/f")))]
    #[case("/mnt/ab", None)]
    #[case("/mnt/ab/a", None)]
    #[case("/mnt", None)]
    #[case("/mnt/a/deep", Some((0, "/deep")))]
    #[case("/mnt/a/deep/b/f", Some((1, "/f")))]
    #[case("/mnt/a/deep/bb", Some((0, "/deep/bb")))]
    #[case("/x/mnt/a", Some((2, "/mnt/a")))]
    #[case("/", None)]
    fn the_longest_point_by_whole_components_wins(#[case] path: &str, #[case] found: Option<(usize, &str)>) {
        assert_eq!(table().find(path.as_bytes()), found.map(|(index, rest)| (index, rest.as_bytes())));
    }

    #[rstest]
    #[case("/s/on/1/f", Some((1, "/f")))]
    #[case("/s/on/0", Some((0, "")))]
    #[case("/s/on/9/f", None)]
    #[case("/s/on/1x/f", None)]
    #[case("/s/on/", None)]
    #[case("/mnt/a/f", Some((0, "/f")))]
    fn a_mirror_is_the_mount_by_its_number(#[case] path: &str, #[case] found: Option<(usize, &str)>) {
        let table = table().with_mirrors(b"/s/on/".to_vec());
        assert_eq!(table.find(path.as_bytes()), found.map(|(index, rest)| (index, rest.as_bytes())));
    }

    #[rstest]
    #[case("/", true)]
    #[case("/mnt", true)]
    #[case("/mnt/a/deep", true)]
    #[case("/mn", false)]
    #[case("/mnt/a/deep/b", false)]
    #[case("/etc", false)]
    fn directories_above_are_known(#[case] path: &str, #[case] above: bool) {
        assert_eq!(table().is_above(path.as_bytes()), above);
    }

    #[test]
    fn a_mount_that_does_not_stand_is_nowhere_and_keeps_its_number() {
        let table = table().with_mirrors(b"/s/on/".to_vec()).only(|number| number != 1);
        assert_eq!(table.find(b"/mnt/a/deep/b/f"), Some((0, &b"/deep/b/f"[..])));
        assert_eq!(table.find(b"/s/on/1/f"), None);
        assert_eq!(table.find(b"/x/f"), Some((2, &b"/f"[..])));
        assert_eq!(table.hidden_by(1, 11), None);
        assert!(!table.is_above(b"/mnt/a/deep") && table.is_above(b"/mnt"));
        assert_eq!(table.points().count(), 2);
        assert_eq!((table.len(), table.point(1)), (3, &b"/mnt/a/deep/b"[..]));
    }

    #[test]
    fn a_hidden_directory_names_its_mount() {
        assert_eq!(table().hidden_by(1, 11), Some(1));
        assert_eq!(table().hidden_by(2, 11), None);
    }
}
