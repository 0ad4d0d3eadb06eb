//! Sequences from a seed.

use super::step::{Access, Step};

/// A small generator (splitmix64): the same numbers everywhere, for ever.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, number: u32) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ u64::from(number) << 32)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

pub(super) const SLOTS: usize = 3;
const NAMES: [&str; 4] = ["a", "b", "c", "a long name with \u{e9} and spaces"];
const OFFSETS: [u64; 9] = [0, 1, 10, 100, 4095, 4096, 4097, 9000, 65_536];
const LENGTHS: [usize; 7] = [0, 1, 7, 100, 4096, 5000, 20_000];
const XATTRS: [&str; 3] = ["user.a", "user.b", "user.longer.name"];

pub(super) fn sequence(random: Random, length: usize) -> Vec<Step> {
    let mut generator = Generator { random, made: Vec::new() };
    (0..length).map(|_| generator.next()).collect()
}

/// Names are few, and those that were made are used again, so that steps meet.
struct Generator {
    random: Random,
    made: Vec<String>,
}

impl Generator {
    fn next(&mut self) -> Step {
        let step = self.step();
        if let Step::Open { path, .. } | Step::Mkdir { path, .. } | Step::Rename { new: path, .. } = &step {
            self.made.push(path.clone());
        }
        step
    }

    fn path(&mut self) -> String {
        let name = if self.random.one_in(12) { NAMES[3] } else { NAMES[self.random.below(3)] };
        match (self.random.below(8), self.made.len()) {
            (0..4, made @ 1..) => self.made[self.random.below(made)].clone(),
            (4, made @ 1..) => format!("{}/{name}", self.made[self.random.below(made)]),
            (5, _) => format!("/{}/{name}", NAMES[self.random.below(3)]),
            _ => format!("/{name}"),
        }
    }

    fn step(&mut self) -> Step {
        let slot = self.random.below(SLOTS);
        let (offset, len) = (self.random.pick(&OFFSETS), self.random.pick(&LENGTHS));
        let fill = self.random.next() as u8;
        match self.random.below(100) {
            0..16 => Step::Open {
                slot,
                path: self.path(),
                access: self.random.pick(&[Access::Both, Access::Both, Access::Read, Access::Write]),
                create: !self.random.one_in(4),
                exclusive: self.random.one_in(4),
                truncate: self.random.one_in(6),
            },
            16..20 => Step::Close { slot },
            20..28 => Step::Read { slot, offset, len },
            28..38 => Step::Write { slot, offset, len, fill },
            38..41 => Step::Append { slot, len, fill },
            41..43 => {
                Step::ReadVector { slot, offset, lens: std::array::from_fn(|_| self.random.pick(&LENGTHS)) }
            }
            43..45 => Step::WriteVector {
                slot,
                offset,
                lens: std::array::from_fn(|_| self.random.pick(&LENGTHS)),
                fill,
            },
            45..48 => Step::Stat { path: self.path() },
            48..50 => Step::StatOpen { slot },
            50..52 => Step::Truncate { path: self.path(), size: offset },
            52..55 => Step::TruncateOpen { slot, size: offset },
            55..57 => {
                Step::Chmod { path: self.path(), mode: self.random.pick(&[0o600, 0o644, 0o700, 0o755]) }
            }
            57..59 => Step::Utime {
                path: self.path(),
                seconds: self.random.pick(&[0, 1, 1_000_000_000, 4_000_000_000]),
            },
            59..65 => Step::Mkdir { path: self.path(), mode: self.random.pick(&[0o700, 0o755]) },
            65..68 => Step::Rmdir { path: self.path() },
            68..72 => Step::Unlink { path: self.path() },
            72..78 => Step::Rename {
                old: self.path(),
                new: self.path(),
                flags: self.random.pick(&[0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]),
            },
            78..81 => Step::Link { old: self.path(), new: self.path() },
            81..84 => Step::Symlink {
                target: self.random.pick(&["a", "../b", "/x/y", "nowhere"]).into(),
                path: self.path(),
            },
            84..86 => Step::Readlink { path: self.path(), size: self.random.pick(&[1, 3, 4096]) },
            86..88 => Step::List { path: self.path(), at_once: self.random.pick(&[1, 2, 3, usize::MAX]) },
            88 => Step::Access { path: self.path(), mode: self.random.pick(&[0, 1, 2, 4, 6]) },
            89..91 => Step::SetXattr {
                path: self.path(),
                name: self.random.pick(&XATTRS),
                len: self.random.pick(&[0, 1, 100, 2000]),
                flags: self.random.pick(&[0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]),
            },
            91 => Step::GetXattr {
                path: self.path(),
                name: self.random.pick(&XATTRS),
                size: self.random.pick(&[0, 1, 4096]),
            },
            92 => match self.random.below(2) {
                0 => Step::ListXattr { path: self.path() },
                _ => Step::RemoveXattr { path: self.path(), name: self.random.pick(&XATTRS) },
            },
            93..95 => Step::Allocate {
                slot,
                mode: self.random.pick(&[
                    0,
                    libc::FALLOC_FL_KEEP_SIZE,
                    libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
                    libc::FALLOC_FL_ZERO_RANGE,
                ]),
                offset,
                len: len.max(1) as u64,
            },
            95..97 => Step::Seek { slot, offset, hole: self.random.one_in(2) },
            97 => Step::Copy {
                from: slot,
                from_at: offset,
                to: self.random.below(SLOTS),
                to_at: self.random.pick(&OFFSETS),
                len,
            },
            98 => Step::Sync { slot, datasync: self.random.one_in(2) },
            _ => Step::SaveRestore { slot },
        }
    }
}
