//! `defuse_more` and [`MoreAttributes`] say the same.

use crate::abi::{self, RawMore};
use crate::types::MoreAttributes;

impl RawMore {
    /// What the host puts there before the call.
    pub const EMPTY: Self = Self {
        valid: 0,
        reserved: 0,
        btime: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        attributes: 0,
        attributes_mask: 0,
    };
}

impl From<RawMore> for MoreAttributes {
    fn from(raw: RawMore) -> Self {
        Self {
            birth: (raw.valid & abi::DEFUSE_MORE_BTIME != 0).then_some(raw.btime),
            attributes: raw.attributes & raw.attributes_mask,
            attributes_mask: raw.attributes_mask,
        }
    }
}

impl From<MoreAttributes> for RawMore {
    fn from(more: MoreAttributes) -> Self {
        Self {
            valid: if more.birth.is_some() { abi::DEFUSE_MORE_BTIME } else { 0 },
            btime: more.birth.unwrap_or(Self::EMPTY.btime),
            attributes: more.attributes,
            attributes_mask: more.attributes_mask,
            ..Self::EMPTY
        }
    }
}
