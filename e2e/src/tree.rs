//! A directory tree as data that can be compared.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Everything about one file that a program could see and that two equal runs have in common.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Entry {
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `device`.
    pub kind: &'static str,
    /// Permission bits with set-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names; of a directory, subdirectories plus two.
    pub nlink: u64,
    /// Bytes; 0 for a directory, whose size is the file system's own business.
    pub size: u64,
    /// Modification time in seconds and nanoseconds, when it was set on purpose: when it is more than an hour old.
    pub set_mtime: Option<(i64, i64)>,
    /// The first path, in order, that is the same inode.
    pub same_inode_as: Option<PathBuf>,
    /// Content, or where a symbolic link points.
    pub content: Content,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Content of a file: itself when short, for the report, else its hash.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Content {
    /// Not a file nor a symbolic link.
    None,
    /// Up to 4 KiB.
    Short(Vec<u8>),
    /// More.
    Hash(u64),
}

/// Entries by path relative to the root, which is the empty path.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads the whole tree below `root`.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut first_names = BTreeMap::new();
    let recent = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() as i64 - 3600);
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path)?;
        let mut entry = describe(&path, &metadata, recent)?;
        if metadata.is_dir() {
            let mut names =
                fs::read_dir(&path)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
            // The last one pushed is visited first, and the first name of an inode is to be the smallest.
            names.sort_by(|a, b| b.cmp(a));
            pending.extend(names.into_iter().map(|name| relative.join(name)));
        } else if metadata.nlink() > 1 {
            let first = first_names.entry(metadata.ino()).or_insert_with(|| relative.clone());
            entry.same_inode_as = Some(first.clone());
        }
        tree.insert(relative, entry);
    }
    Ok(tree)
}

fn describe(path: &Path, metadata: &Metadata, recent: i64) -> io::Result<Entry> {
    let kind = metadata.file_type();
    let content = if kind.is_file() {
        read_content(path)?
    } else if kind.is_symlink() {
        Content::Short(fs::read_link(path)?.as_os_str().as_bytes().to_vec())
    } else {
        Content::None
    };
    Ok(Entry {
        kind: match () {
            () if kind.is_file() => "file",
            () if kind.is_dir() => "directory",
            () if kind.is_symlink() => "symlink",
            () if kind.is_fifo() => "fifo",
            () if kind.is_socket() => "socket",
            () => "device",
        },
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        nlink: metadata.nlink(),
        size: if kind.is_dir() { 0 } else { metadata.size() },
        set_mtime: (metadata.mtime() < recent).then(|| (metadata.mtime(), metadata.mtime_nsec())),
        same_inode_as: None,
        content,
        xattrs: if kind.is_symlink() { BTreeMap::new() } else { xattrs(path)? },
    })
}

fn read_content(path: &Path) -> io::Result<Content> {
    const SHORT: usize = 4096;
    const PIECE: usize = 1 << 18;
    let mut file = match File::open(path) {
        // Root reads everything; for others an unreadable file has its mode compared only.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Content::None),
        other => other?,
    };
    let mut piece = vec![0_u8; SHORT];
    let mut length = fill(&mut file, &mut piece)?;
    if length < SHORT {
        return Ok(Content::Short(piece[..length].to_vec()));
    }
    let mut hasher = DefaultHasher::new();
    while length > 0 {
        piece[..length].hash(&mut hasher);
        piece.resize(PIECE, 0);
        length = fill(&mut file, &mut piece)?;
    }
    Ok(Content::Hash(hasher.finish()))
}

/// Reads until `piece` is full or the file is at its end.
fn fill(file: &mut File, piece: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    loop {
        match file.read(&mut piece[length..])? {
            0 => return Ok(length),
            n => length += n,
        }
    }
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // Most files have none.
    let length = match rustix::fs::listxattr(path, &mut [0_u8; 0][..]) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ACCESS) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut names = vec![0_u8; length];
    let length = rustix::fs::listxattr(path, &mut names[..])?;
    let names = &names[..length];
    let mut found = BTreeMap::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 65536];
        let length = rustix::fs::getxattr(path, name, &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_are_named_by_their_first_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), "x").unwrap();
        fs::hard_link(dir.path().join("b"), dir.path().join("a")).unwrap();
        let tree = read(dir.path()).unwrap();
        assert_eq!(tree[Path::new("b")].same_inode_as, Some("a".into()));
        assert_eq!(tree[Path::new("b")].nlink, 2);
        assert_eq!(tree.len(), 3);
    }

    #[test]
    fn long_content_that_differs_in_one_byte_differs() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![7_u8; 100_000];
        fs::write(dir.path().join("f"), &bytes).unwrap();
        let before = read(dir.path()).unwrap();
        bytes[99_999] = 8;
        fs::write(dir.path().join("f"), &bytes).unwrap();
        assert_ne!(before, read(dir.path()).unwrap());
    }
}
