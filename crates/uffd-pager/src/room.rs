//! How much room there is for pages: what the cache may hold, the file system that it lies on, and memory.

use crate::cache::Cache;
use crate::ledger::Ledger;
use crate::page::PAGE;
use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Pages in all, and free ones, of what is scarcest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

impl Room {
    /// Of this cache, now.
    pub(crate) fn of(cache: &Cache, ledger: &Ledger, memory: &Memory) -> Self {
        let limit = ledger.limit();
        let limited = (limit != 0).then(|| {
            let resident = fstat(&cache.pages).map_or(0, |stat| stat.st_blocks as u64 * 512 / PAGE as u64);
            Self { total: limit, free: limit.saturating_sub(resident) }
        });
        let file_system = fstatfs(&cache.pages).ok().filter(|stat| stat.f_blocks != 0).map(|stat| {
            let pages = |blocks: u64| (blocks as u128 * stat.f_bsize as u128 / PAGE as u128) as u64;
            Self { total: pages(stat.f_blocks), free: pages(stat.f_bavail) }
        });
        let all = [limited, file_system, memory.room()];
        all.into_iter().flatten().min_by_key(|room| room.free).unwrap_or(Self::ENDLESS)
    }

    const ENDLESS: Self = Self { total: 1 << 40, free: 1 << 40 };

    /// What is left free, for other processes, and for other files where the pages are.
    pub(crate) fn reserve(self) -> u64 {
        self.total / 8
    }

    /// How many pages to give back so that `needed` fit, and some more; 0 if they do.
    pub(crate) fn lacks(self, needed: u64) -> u64 {
        if self.free >= self.reserve() + needed {
            return 0;
        }
        self.reserve() + needed + self.total / 16 - self.free
    }

    /// Pages that may come in before it is to be looked at again.
    pub(crate) fn credit(self) -> i64 {
        (self.free.saturating_sub(self.reserve()) / 4) as i64
    }

    /// Most pages of one fill, and of one system call's argument.
    pub(crate) fn most_at_once(self) -> u64 {
        (self.total / 16).max(1)
    }
}

/// The machine's memory. Looked at once in a while: it takes the kernel some 20 us to tell.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Pages to be filled before the next look.
    credit: AtomicI64,
    total: AtomicU64,
    free: AtomicU64,
}

/// Filled pages between two looks: 8 MiB.
const INTERVAL: i64 = 2048;
/// Part of the memory that is left to others.
const LEFT: u64 = 16;

impl Memory {
    /// Tells that pages were filled.
    pub(crate) fn filled(&self, pages: u64) {
        self.credit.fetch_sub(pages as i64, Ordering::Relaxed);
        let _ = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| Some(free.saturating_sub(pages)));
    }

    /// What is left of it, beyond a part that is others'. `None`: the kernel does not tell.
    fn room(&self) -> Option<Room> {
        if self.credit.load(Ordering::Relaxed) <= 0 {
            let (total, available) = available()?;
            self.total.store(total, Ordering::Relaxed);
            self.free.store(available.saturating_sub(total / LEFT), Ordering::Relaxed);
            self.credit.store(INTERVAL, Ordering::Relaxed);
        }
        // Others' part is taken off already: what is called all of it is what makes for a small reserve.
        let free = self.free.load(Ordering::Relaxed);
        Some(Room { total: self.total.load(Ordering::Relaxed).min(free.saturating_mul(4).max(64)), free })
    }
}

/// Memory in all, and what can be had without swapping, in pages.
fn available() -> Option<(u64, u64)> {
    let file = open(c"/proc/meminfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 256];
    let length = rustix::io::read(&file, &mut text).ok()?;
    parse(&text[..length])
}

fn parse(text: &[u8]) -> Option<(u64, u64)> {
    let field = |name: &[u8]| {
        let line = text.split(|&byte| byte == b'\n').find(|line| line.starts_with(name))?;
        let digits = line[name.len()..].split(|&byte| byte == b' ').find(|word| !word.is_empty())?;
        std::str::from_utf8(digits).ok()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024 / PAGE as u64)
    };
    Some((field(b"MemTotal:")?, field(b"MemAvailable:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_tells_its_memory() {
        let (total, free) = available().expect("/proc/meminfo");
        assert!(0 < free && free <= total);
        let text =
            b"MemTotal:       24571904 kB\nMemFree:         3108244 kB\nMemAvailable:   23404332 kB\nBuf";
        assert_eq!(parse(text), Some((6_142_976, 5_851_083)));
    }

    #[test]
    fn what_is_lacking_restores_the_reserve_and_a_little_more() {
        assert_eq!(Room { total: 800, free: 200 }.lacks(100), 0);
        assert_eq!(Room { total: 800, free: 100 }.lacks(10), 100 + 10 + 50 - 100);
        assert_eq!(
            (Room { total: 800, free: 100 }.credit(), Room { total: 800, free: 500 }.credit()),
            (0, 100)
        );
    }
}
