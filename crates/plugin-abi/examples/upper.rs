//! A file system in Rust: `/shout` is the backend string in capital letters.
//!
//! A plugin is a crate with `crate-type = ["cdylib"]`; this one is built by
//! `cargo build -p plugin-abi --example upper` as `target/debug/examples/libupper.so`.

use plugin_abi::{
    CStr, DirEntry, DirSink, Errno, FileSystem, InitError, MountPath, Open, Result, Setup, empty_stat, stat,
};

struct Upper(Vec<u8>);

#[derive(Clone, Copy, PartialEq)]
enum File {
    Root,
    Shout,
}

fn find(path: &MountPath) -> Result<File> {
    match path.as_bytes() {
        b"/" => Ok(File::Root),
        b"/shout" => Ok(File::Shout),
        _ => Err(Errno::ENOENT),
    }
}

impl FileSystem for Upper {
    type Handle = Box<File>;
    const NAME: &'static CStr = c"upper";

    fn init(setup: &Setup<'_>) -> Result<Self, InitError> {
        Ok(Self(setup.backend.to_bytes().to_ascii_uppercase()))
    }
    fn getattr(&self, path: &MountPath) -> Result<stat> {
        self.fgetattr(&Box::new(find(path)?))
    }
    fn fgetattr(&self, file: &Box<File>) -> Result<stat> {
        let mut st = empty_stat();
        (st.st_ino, st.st_mode, st.st_size) = match **file {
            File::Root => (1, libc::S_IFDIR | 0o555, 0),
            File::Shout => (2, libc::S_IFREG | 0o444, self.0.len() as i64),
        };
        st.st_nlink = 1;
        Ok(st)
    }
    fn open(&self, path: &MountPath, flags: i32, _mode: u32) -> Result<Open<Box<File>>> {
        if flags & (libc::O_ACCMODE | libc::O_CREAT) == libc::O_RDONLY {
            Ok(Open::served(Box::new(find(path)?)))
        } else {
            Err(Errno::EROFS)
        }
    }
    fn close(&self, _file: Box<File>) -> Result<()> {
        Ok(())
    }
    fn read(&self, _file: &Box<File>, buf: &mut [u8], offset: u64) -> Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn readdir(&self, _dir: &Box<File>, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        let names = [(".", libc::DT_DIR), ("..", libc::DT_DIR), ("shout", libc::DT_REG)];
        for (at, (name, d_type)) in (1..).zip(names).skip(cookie as usize) {
            if emit(DirEntry { name: name.as_bytes(), ino: 1 + at / 3, d_type, next_cookie: at }) {
                break;
            }
        }
        Ok(())
    }
}

plugin_abi::export_plugin!(Upper);
