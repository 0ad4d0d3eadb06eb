//! Attributes of files as the plugin, and as FUSE has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use plugin_abi::{SetTime, stat, timespec};

/// Of a node.
pub fn of(node: u64, st: &stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(node),
        size: st.st_size as u64,
        blocks: st.st_blocks as u64,
        atime: time(st.st_atime, st.st_atime_nsec),
        mtime: time(st.st_mtime, st.st_mtime_nsec),
        ctime: time(st.st_ctime, st.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(st.st_mode),
        perm: (st.st_mode & 0o7777) as u16,
        nlink: st.st_nlink as u32,
        uid: st.st_uid,
        gid: st.st_gid,
        rdev: st.st_rdev as u32,
        blksize: st.st_blksize as u32,
        flags: 0,
    }
}

/// The type in `st_mode`.
pub fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// A time to be set.
pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => {
                timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) }
            }
            // The second before, and what is left of it.
            Err(before) => {
                let before = before.duration();
                let nanos = i64::from(before.subsec_nanos());
                let borrow = i64::from(nanos > 0);
                timespec {
                    tv_sec: -(before.as_secs() as i64) - borrow,
                    tv_nsec: borrow * 1_000_000_000 - nanos,
                }
            }
        }),
    }
}

fn time(seconds: i64, nanos: i64) -> SystemTime {
    let part = Duration::from_nanos(nanos as u64);
    if seconds >= 0 {
        UNIX_EPOCH + Duration::from_secs(seconds as u64) + part
    } else {
        UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + part
    }
}

#[cfg(test)]
mod tests {
    use super::{set_time, time};
    use fuser::TimeOrNow;
    use plugin_abi::SetTime;

    #[test]
    fn times_before_1970_come_back() {
        for (seconds, nanos) in [(0, 0), (1_700_000_000, 5), (-1, 999_999_999), (-7, 1)] {
            let SetTime::At(back) = set_time(TimeOrNow::SpecificTime(time(seconds, nanos))) else {
                panic!("a time")
            };
            assert_eq!((back.tv_sec, back.tv_nsec), (seconds, nanos));
        }
    }
}
