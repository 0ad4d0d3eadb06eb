//! `defuse_setattr` and [`SetAttr`] say the same.

use crate::abi::{self, RawSetAttr};
use crate::types::{SetAttr, SetTime};

impl From<&RawSetAttr> for SetAttr {
    fn from(raw: &RawSetAttr) -> Self {
        let has = |bit| raw.valid & bit != 0;
        let time = |now, at, value| match (has(now), has(at)) {
            (true, _) => Some(SetTime::Now),
            (false, true) => Some(SetTime::At(value)),
            (false, false) => None,
        };
        Self {
            mode: has(abi::DEFUSE_SET_MODE).then_some(raw.mode),
            uid: has(abi::DEFUSE_SET_UID).then_some(raw.uid),
            gid: has(abi::DEFUSE_SET_GID).then_some(raw.gid),
            size: has(abi::DEFUSE_SET_SIZE).then_some(raw.size),
            atime: time(abi::DEFUSE_SET_ATIME_NOW, abi::DEFUSE_SET_ATIME, raw.atime),
            mtime: time(abi::DEFUSE_SET_MTIME_NOW, abi::DEFUSE_SET_MTIME, raw.mtime),
            no_link: has(abi::DEFUSE_SET_NO_LINK),
        }
    }
}

impl From<&SetAttr> for RawSetAttr {
    fn from(attr: &SetAttr) -> Self {
        const ZERO: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let mut valid = 0;
        let mut take = |bit, value: Option<u32>| {
            valid |= if value.is_some() { bit } else { 0 };
            value.unwrap_or(0)
        };
        let mode = take(abi::DEFUSE_SET_MODE, attr.mode);
        let uid = take(abi::DEFUSE_SET_UID, attr.uid);
        let gid = take(abi::DEFUSE_SET_GID, attr.gid);
        valid |= if attr.size.is_some() { abi::DEFUSE_SET_SIZE } else { 0 };
        valid |= if attr.no_link { abi::DEFUSE_SET_NO_LINK } else { 0 };
        let mut time = |value: Option<SetTime>, now, at| match value {
            None => ZERO,
            Some(SetTime::Now) => {
                valid |= now;
                ZERO
            }
            Some(SetTime::At(value)) => {
                valid |= at;
                value
            }
        };
        let atime = time(attr.atime, abi::DEFUSE_SET_ATIME_NOW, abi::DEFUSE_SET_ATIME);
        let mtime = time(attr.mtime, abi::DEFUSE_SET_MTIME_NOW, abi::DEFUSE_SET_MTIME);
        Self { valid, mode, uid, gid, size: attr.size.unwrap_or(0), atime, mtime }
    }
}
