//! File systems written against the trait, called through the table.

mod common;

use common::{Log, names, open, path};
use plugin_abi::{
    CStr, Capabilities, DirEntry, DirSink, Errno, FileSystem, Host, InitError, Instance, Level, MountPath,
    Open, Plugin, Result, SaveSink, Saved, SetAttr, SetTime, Setup, Written, stat, timespec,
};
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

fn instance<F: FileSystem>(host: Host) -> Instance {
    Plugin::built_in::<F>().instantiate(c"/m", c"backend", c"", host).unwrap()
}

/// Panics in every operation.
struct Panics;

impl FileSystem for Panics {
    type Handle = Box<()>;
    const NAME: &'static CStr = c"panics";
    const CAPABILITIES: Capabilities = Capabilities::FORK_HOOKS;

    fn init(setup: &Setup<'_>) -> Result<Self, InitError> {
        assert!(setup.backend != c"panic", "init of no use");
        Ok(Self)
    }
    fn finalize(self) {
        panic!("finalize of no use")
    }
    fn getattr(&self, path: &MountPath) -> Result<stat> {
        panic!("no attributes of {path}")
    }
    fn open(&self, _: &MountPath, _: i32, _: u32) -> Result<Open<Box<()>>> {
        Ok(Open::served(Box::new(())))
    }
    fn close(&self, _: Box<()>) -> Result<()> {
        panic!("close of no use")
    }
    fn read(&self, _: &Box<()>, buf: &mut [u8], _: u64) -> Result<usize> {
        let nothing: [u8; 0] = [];
        Ok(nothing[buf.len()] as usize)
    }
    fn fork_prepare(&self) {
        panic!("a hook")
    }
}

#[test]
fn a_panic_is_eio_and_a_line_in_the_log() {
    let log = Log::new();
    let fs = instance::<Panics>(log.host);
    assert_eq!(fs.getattr(path(c"/some/file")).map(|_| ()), Err(Errno::EIO));
    assert!(
        log.contains("panics: getattr panicked, reported as EIO: no attributes of /some/file"),
        "{:?}",
        log.lines
    );
    let file = open(&fs, c"/f", 0).unwrap();
    assert_eq!(fs.read(&file, &mut [0; 3], 0), Err(Errno::EIO));
    assert!(log.contains("index out of bounds"));
    assert_eq!(fs.close(file), Err(Errno::EIO));
    fs.fork_prepare();
    assert!(log.contains("fork_prepare panicked"));
    drop(fs);
    assert!(log.contains("finalize panicked"));
}

#[test]
fn a_panic_in_init_is_an_error_with_a_message() {
    let log = Log::new();
    let error = Plugin::built_in::<Panics>().instantiate(c"/m", c"panic", c"", log.host).unwrap_err();
    assert_eq!(error.errno, Errno::EIO);
    assert!(error.message.contains("init panicked"), "{error}");
    assert!(log.contains("init of no use"));
}

/// Refuses to start, with a message longer than the host's buffer.
struct Refuses;

impl FileSystem for Refuses {
    type Handle = Box<()>;
    const NAME: &'static CStr = c"refuses";
    fn init(setup: &Setup<'_>) -> Result<Self, InitError> {
        let message = if setup.options.is_empty() { String::new() } else { "é".repeat(1000) };
        Err(InitError::new(Errno::EACCES, message))
    }
    fn getattr(&self, _: &MountPath) -> Result<stat> {
        Err(Errno::ENOENT)
    }
    fn open(&self, _: &MountPath, _: i32, _: u32) -> Result<Open<Box<()>>> {
        Err(Errno::ENOENT)
    }
    fn close(&self, _: Box<()>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn init_says_why_it_fails() {
    let plugin = Plugin::built_in::<Refuses>();
    let silent = plugin.instantiate(c"/m", c"", c"", Host::STDERR).unwrap_err();
    assert_eq!((silent.errno, silent.message.as_str()), (Errno::EACCES, "plugin refuses does not start"));
    let wordy = plugin.instantiate(c"/m", c"", c"x", Host::STDERR).unwrap_err();
    assert!(wordy.message.len() > 200 && wordy.message.chars().all(|c| c == 'é'), "{}", wordy.message);
}

/// Opens nothing, and says whether it was to append.
struct Told;

impl FileSystem for Told {
    type Handle = Box<()>;
    const NAME: &'static CStr = c"told";
    fn init(_: &Setup<'_>) -> Result<Self, InitError> {
        Ok(Self)
    }
    fn getattr(&self, _: &MountPath) -> Result<stat> {
        Err(Errno::ENOENT)
    }
    fn open(&self, _: &MountPath, flags: i32, _: u32) -> Result<Open<Box<()>>> {
        Err(if flags & libc::O_APPEND == 0 { Errno::ENOENT } else { Errno::EPERM })
    }
    fn close(&self, _: Box<()>) -> Result<()> {
        Ok(())
    }
}

/// A descriptor with this flag is written to at the end, wherever pwrite(2) is told to write.
#[test]
fn who_is_told_where_to_write_is_not_told_to_append() {
    let fs = Plugin::built_in::<Told>().instantiate(c"/m", c"", c"", Host::STDERR).unwrap();
    let path = MountPath::new(c"/f").unwrap();
    assert_eq!(fs.open(path, libc::O_RDWR | libc::O_APPEND, 0).err(), Some(Errno::ENOENT));
    // Never mapped for writing.
    assert_eq!(fs.open(path, libc::O_WRONLY | libc::O_APPEND, 0).err(), Some(Errno::EPERM));
}

/// Writes down what it is called with.
struct Recorder(Host);

impl Recorder {
    fn note(&self, line: std::fmt::Arguments<'_>) {
        self.0.log(Level::Debug, line);
    }
}

impl FileSystem for Recorder {
    type Handle = Box<u64>;
    const NAME: &'static CStr = c"recorder";
    const CAPABILITIES: Capabilities = Capabilities::APPEND;

    fn init(setup: &Setup<'_>) -> Result<Self, InitError> {
        let fs = Self(setup.host);
        let options: Vec<_> = setup.options().map(|o| String::from_utf8_lossy(o).into_owned()).collect();
        fs.note(format_args!("init {:?} {:?} {options:?}", setup.mount_point, setup.backend));
        Ok(fs)
    }
    fn getattr(&self, _: &MountPath) -> Result<stat> {
        Err(Errno::ENOENT)
    }
    fn setattr(&self, path: &MountPath, attr: &SetAttr) -> Result<()> {
        let time = |time| match time {
            Some(SetTime::Now) => "now".to_owned(),
            Some(SetTime::At(timespec { tv_sec, tv_nsec })) => format!("{tv_sec}.{tv_nsec}"),
            None => "-".to_owned(),
        };
        let SetAttr { mode, uid, gid, size, atime, mtime, no_link } = *attr;
        let (atime, mtime) = (time(atime), time(mtime));
        self.note(format_args!("{path} {mode:?} {uid:?} {gid:?} {size:?} {atime} {mtime} {no_link}"));
        Ok(())
    }
    fn open(&self, path: &MountPath, flags: i32, mode: u32) -> Result<Open<Box<u64>>> {
        self.note(format_args!("open {path} {flags:#o} {mode:#o}"));
        Ok(Open::served(Box::new(7)))
    }
    fn close(&self, handle: Box<u64>) -> Result<()> {
        self.note(format_args!("close {handle}"));
        Err(Errno::EDQUOT)
    }
    fn write(&self, _: &Box<u64>, buf: &[u8], offset: u64, append: bool) -> Result<Written> {
        self.note(format_args!("write {} at {offset} {append}", buf.len()));
        let start = if append { 100 } else { offset };
        Ok(Written { count: buf.len().min(3), end: start + buf.len().min(3) as u64 })
    }
    fn read(&self, _: &Box<u64>, buf: &mut [u8], offset: u64) -> Result<usize> {
        if offset >= 6 {
            return Err(Errno::EIO);
        }
        buf.fill(b'r');
        Ok(buf.len().min(4))
    }
    fn readdir(&self, _: &Box<u64>, cookie: u64, emit: &mut DirSink<'_>) -> Result<()> {
        for at in cookie..5 {
            let name = format!("n{at}");
            if emit(DirEntry {
                name: name.as_bytes(),
                ino: at + 1,
                d_type: libc::DT_REG,
                next_cookie: at + 1,
            }) {
                break;
            }
        }
        Ok(())
    }
    fn save(&self, handle: &Box<u64>, sink: &mut SaveSink<'_>) -> Result<()> {
        sink.write(&handle.to_le_bytes());
        Ok(())
    }
    fn restore(&self, blob: &[u8], fds: &[i32]) -> Result<Open<Box<u64>>> {
        assert!(fds.is_empty());
        let number = u64::from_le_bytes(blob.try_into().map_err(|_| Errno::EINVAL)?);
        Ok(Open::Served {
            handle: Box::new(number),
            backing_fd: None,
            mode_type: libc::S_IFREG,
            locks: false,
        })
    }
}

#[test]
fn arguments_arrive_as_they_were_given() {
    let (plugin, log) = (Plugin::built_in::<Recorder>(), Log::new());
    let fs = plugin.instantiate(c"/mount", c"back", c",one,,two=2", log.host).unwrap();
    let file = open(&fs, c"/a/b", libc::O_CREAT | libc::O_CLOEXEC | libc::O_APPEND).unwrap();
    let at = timespec { tv_sec: 5, tv_nsec: 6 };
    let all = SetAttr {
        mode: Some(0o600),
        uid: Some(1),
        gid: Some(2),
        size: Some(3),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(at)),
        no_link: true,
    };
    fs.setattr(path(c"/a"), &all).unwrap();
    fs.setattr(path(c"/a"), &SetAttr::default()).unwrap();
    assert_eq!(fs.write(&file, b"12", 9, true).unwrap(), Written { count: 2, end: 102 });
    assert_eq!(fs.close(file), Err(Errno::EDQUOT));
    let expected = [
        r#"4 init "/mount" "back" ["one", "two=2"]"#,
        "4 open /a/b 0o2100 0o644",
        "4 /a Some(384) Some(1) Some(2) Some(3) now 5.6 true",
        "4 /a None None None None - - false",
        "4 write 2 at 9 true",
        "4 close 7",
    ];
    assert_eq!(*log.lines.lock().unwrap(), expected);
}

#[test]
fn vectors_without_readv_and_writev_go_piece_by_piece() {
    let fs = instance::<Recorder>(Host::STDERR);
    let file = open(&fs, c"/f", libc::O_RDWR).unwrap();
    let (mut one, mut two, mut three) = ([0; 4], [0; 6], [0; 4]);
    let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two), IoSliceMut::new(&mut three)];
    // The second piece comes back short, so the third is not tried.
    assert_eq!(fs.readv(&file, &mut bufs, 0), Ok(8));
    assert_eq!((one, &two[..4], three), ([b'r'; 4], &b"rrrr"[..], [0; 4]));
    let pieces = [IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defg"), IoSlice::new(b"never")];
    assert_eq!(fs.writev(&file, &pieces, 10, false), Ok(Written { count: 6, end: 16 }));
    assert_eq!(fs.close(file), Err(Errno::EDQUOT));
}

#[test]
fn an_append_of_several_pieces_is_one_write() {
    let (plugin, log) = (Plugin::built_in::<Recorder>(), Log::new());
    let fs = plugin.instantiate(c"/mount", c"", c"", log.host).unwrap();
    let file = open(&fs, c"/f", libc::O_RDWR).unwrap();
    let pieces = [IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"b"), IoSlice::new(b"cd")];
    assert_eq!(fs.writev(&file, &pieces, 0, true), Ok(Written { count: 3, end: 103 }));
    assert_eq!(fs.writev(&file, &pieces[..2], 0, true), Ok(Written { count: 1, end: 101 }));
    assert_eq!(fs.close(file), Err(Errno::EDQUOT));
    assert_eq!(log.lines.lock().unwrap()[2..4], ["4 write 4 at 0 true", "4 write 1 at 0 true"]);
}

#[test]
fn a_handle_is_saved_and_restored_by_its_blob() {
    let fs = instance::<Recorder>(Host::STDERR);
    let file = open(&fs, c"/f", libc::O_RDWR).unwrap();
    let (mut blob, mut saved) = ([0; 32], Saved::default());
    assert_eq!(fs.save(&file, &mut blob[..7], &mut [], &mut saved), Err(Errno::ERANGE));
    assert_eq!(saved, Saved { len: 8, kept: 0 });
    fs.save(&file, &mut blob, &mut [], &mut saved).unwrap();
    let Open::Served { handle, locks, mode_type, .. } = fs.restore(&blob[..saved.len], &[]).unwrap() else {
        panic!("restored as native")
    };
    assert_eq!((locks, mode_type), (false, libc::S_IFREG));
    for handle in [file, handle] {
        assert_eq!(fs.close(handle), Err(Errno::EDQUOT));
    }
}

#[test]
fn a_directory_goes_on_at_its_cookie() {
    let fs = instance::<Recorder>(Host::STDERR);
    let dir = open(&fs, c"/", libc::O_RDONLY).unwrap();
    let mut seen = Vec::new();
    fs.readdir(&dir, 3, &mut |entry| {
        seen.push(entry.next_cookie);
        false
    })
    .unwrap();
    assert_eq!(seen, [4, 5]);
    assert_eq!(fs.close(dir), Err(Errno::EDQUOT));
    assert_eq!(names(&fs, c"/"), Err(Errno::EDQUOT));
}

static ENDED: AtomicUsize = AtomicUsize::new(0);

struct CountsEnds;

impl FileSystem for CountsEnds {
    type Handle = Box<()>;
    const NAME: &'static CStr = c"counts";
    fn init(_: &Setup<'_>) -> Result<Self, InitError> {
        Ok(Self)
    }
    fn finalize(self) {
        ENDED.fetch_add(1, SeqCst);
    }
    fn getattr(&self, _: &MountPath) -> Result<stat> {
        Err(Errno::ENOENT)
    }
    fn open(&self, _: &MountPath, _: i32, _: u32) -> Result<Open<Box<()>>> {
        Err(Errno::ENOENT)
    }
    fn close(&self, _: Box<()>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn an_instance_is_finalised_once_and_many_may_live() {
    let (one, two) = (instance::<CountsEnds>(Host::STDERR), instance::<CountsEnds>(Host::STDERR));
    assert!(one.capabilities().contains(Capabilities::THREAD_SAFE));
    drop(one);
    drop(two);
    assert_eq!(ENDED.load(SeqCst), 2);
}
