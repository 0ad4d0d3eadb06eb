//! struct statx, from what plugins tell.

use linux_raw_sys::general as sys;
use plugin_abi::{Instance, MoreAttributes, MountPath};
use rustix::io::Errno;

use crate::file::{self, OpenFile};
use crate::namei::Spot;
use crate::user;

type Stat = plugin_abi::stat;

/// What statx(2) is about.
#[derive(Clone, Copy)]
pub enum What<'a> {
    /// A path on a mount.
    Spot(&'a Spot),
    /// An open file.
    File(&'a OpenFile),
    /// The root of the plugin's mount.
    Root(&'a Instance),
}

impl What<'_> {
    fn more(self) -> Result<MoreAttributes, Errno> {
        match self {
            Self::Spot(spot) => spot.call(Instance::getmore),
            Self::File(file) => file.with_handle(Instance::fgetmore),
            Self::Root(instance) => instance.getmore(MountPath::ROOT).map_err(file::plugin_errno),
        }
    }

    fn is_root(self, attributes: &Stat) -> bool {
        attributes.st_mode & sys::S_IFMT == sys::S_IFDIR
            && match self {
                Self::Spot(spot) => spot.path().as_c_str().to_bytes() == b"/",
                Self::File(file) => file.path().is_ok_and(|path| path.as_slice() == b"/"),
                Self::Root(_) => true,
            }
    }
}

/// What statx(2) says of `what`, whose attributes are `from`, when it is asked for `mask`. What only some ask for costs another call of the plugin.
pub fn extended(from: &Stat, mask: u32, what: What<'_>) -> sys::statx {
    let time = |seconds: i64, nanoseconds: i64| sys::statx_timestamp {
        tv_sec: seconds,
        tv_nsec: nanoseconds as u32,
        __reserved: 0,
    };
    // SAFETY is not involved: every field that is not named is zero by construction.
    let mut statx = user::zeroed::<sys::statx>();
    statx.stx_mask = sys::STATX_BASIC_STATS;
    statx.stx_blksize = from.st_blksize as u32;
    statx.stx_nlink = from.st_nlink as u32;
    statx.stx_uid = from.st_uid;
    statx.stx_gid = from.st_gid;
    statx.stx_mode = from.st_mode as u16;
    statx.stx_ino = from.st_ino;
    statx.stx_size = from.st_size as u64;
    statx.stx_blocks = from.st_blocks as u64;
    statx.stx_atime = time(from.st_atime, from.st_atime_nsec);
    statx.stx_mtime = time(from.st_mtime, from.st_mtime_nsec);
    statx.stx_ctime = time(from.st_ctime, from.st_ctime_nsec);
    (statx.stx_rdev_major, statx.stx_rdev_minor) = (major(from.st_rdev), minor(from.st_rdev));
    (statx.stx_dev_major, statx.stx_dev_minor) = (major(from.st_dev), minor(from.st_dev));
    let more = if mask & sys::STATX_BTIME == 0 { None } else { what.more().ok() };
    let MoreAttributes { birth, attributes, attributes_mask } = more.unwrap_or_default();
    if let Some(birth) = birth {
        statx.stx_mask |= sys::STATX_BTIME;
        statx.stx_btime = time(birth.tv_sec, birth.tv_nsec);
    }
    let root = if what.is_root(from) { u64::from(sys::STATX_ATTR_MOUNT_ROOT) } else { 0 };
    statx.stx_attributes = attributes | root;
    statx.stx_attributes_mask = attributes_mask | u64::from(sys::STATX_ATTR_MOUNT_ROOT);
    statx
}

/// makedev(3) and its parts, as glibc encodes a `dev_t`.
pub fn makedev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

fn major(device: u64) -> u32 {
    ((device >> 8 & 0xfff) | (device >> 32 & !0xfff)) as u32
}

fn minor(device: u64) -> u32 {
    ((device & 0xff) | (device >> 12 & !0xff)) as u32
}

#[cfg(test)]
mod tests {
    use super::{major, makedev, minor};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn device_numbers_survive_the_round_trip(high: u32, low: u32) {
            let device = makedev(high, low);
            prop_assert_eq!((major(device), minor(device)), (high, low));
            prop_assert_eq!(device, libc_makedev(high, low));
        }
    }

    fn libc_makedev(high: u32, low: u32) -> u64 {
        rustix::fs::makedev(high, low)
    }
}
