//! Plans as bytes, so that one process scans and many patch.

use super::site::{Fixup, FixupKind, ORIGINAL_MAX, Pattern, Plan, Reason, Rewind, Site, Unpatchable};

/// First bytes of a list; the last is the version.
const MAGIC: [u8; 8] = *b"siteslt\x02";
/// Magic, number of sites, number of what is left, length of the key.
const HEADER: usize = 8 + 4 + 4 + 4;
pub(super) const SITE: usize = 26 + ORIGINAL_MAX;
const LEFT: usize = 9;
/// Stands for "none".
const NONE: u32 = u32::MAX;

impl Plan {
    /// The plan as bytes. `key` says what it was made for (see [`super::LoadedObject::key`]); who reads it must name the
    /// same. All numbers are little-endian; the form may change between versions of this crate, which then refuse it.
    pub fn to_bytes(&self, key: &[u8]) -> Vec<u8> {
        let size = HEADER + key.len() + self.sites.len() * SITE + self.unpatchable.len() * LEFT;
        let mut out = Vec::with_capacity(size);
        out.extend(MAGIC);
        for len in [self.sites.len(), self.unpatchable.len(), key.len()] {
            out.extend((len as u32).to_le_bytes());
        }
        out.extend(key);
        for site in &self.sites {
            write_site(site, &mut out);
        }
        for left in &self.unpatchable {
            out.extend(left.offset.to_le_bytes());
            out.extend(left.number.unwrap_or(NONE).to_le_bytes());
            out.push(left.reason as u8);
        }
        out
    }

    /// Reads what [`Plan::to_bytes`] wrote for the same `key`. `None` for another key, another version, or bytes that
    /// describe no possible plan. Whether the code in memory is the one planned for is checked by [`super::apply`].
    pub fn from_bytes(bytes: &[u8], key: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let (sites, left, key_len) = (input.word()? as usize, input.word()? as usize, input.word()? as usize);
        if input.take(key_len)? != key
            || input.0.len() != sites.checked_mul(SITE)?.checked_add(left.checked_mul(LEFT)?)?
        {
            return None;
        }
        let mut plan = Self { sites: Vec::with_capacity(sites), unpatchable: Vec::with_capacity(left) };
        let mut end = 0;
        for _ in 0..sites {
            let site = input.site()?;
            if !possible(&site) || site.start < end {
                return None;
            }
            end = site.start.checked_add(site.len() as u32)?;
            plan.sites.push(site);
        }
        for _ in 0..left {
            plan.unpatchable.push(input.left()?);
        }
        Some(plan)
    }
}

/// Appends a site's [`SITE`] bytes.
pub(super) fn write_site(site: &Site, out: &mut Vec<u8>) {
    for word in [site.start, site.syscall, site.number.unwrap_or(NONE), site.hole.unwrap_or(NONE)] {
        out.extend(word.to_le_bytes());
    }
    out.extend([site.before, site.after, site.pattern as u8, site.rewind as u8]);
    for fixup in site.fixups {
        out.extend(fixup.map_or([u8::MAX; 3], |fixup| [fixup.kind as u8, fixup.at, fixup.end]));
    }
    out.extend(site.original);
}

/// The site at the start of `bytes`. Allocates nothing.
pub(super) fn site_at(bytes: &[u8]) -> Option<Site> {
    Input(bytes).site().filter(possible)
}

/// What every site made by a scan keeps to.
fn possible(site: &Site) -> bool {
    let (before, len) = (usize::from(site.before), site.len());
    let room = match site.pattern {
        Pattern::Hole => before >= 2 && site.hole.is_some(),
        Pattern::Single | Pattern::Run | Pattern::RunWithBranch => before >= 5 && site.hole.is_none(),
        Pattern::Overwrite => len >= 5 && site.hole.is_none(),
    };
    let mut position = 0;
    let fixups = site.fixups.into_iter().flatten().all(|fixup| {
        let size = match fixup.kind {
            FixupKind::Relative32 => 4,
            FixupKind::ShortBranch => 2,
        };
        let in_order = position <= fixup.at && fixup.at.saturating_add(size) <= fixup.end;
        position = fixup.end;
        in_order && usize::from(fixup.end) <= len
    });
    room && fixups
        && len <= ORIGINAL_MAX
        && (site.after == 0 || site.pattern == Pattern::Overwrite)
        && site.start.checked_add(u32::from(site.before)) == Some(site.syscall)
        && site.original[before..].starts_with(&[0x0f, 0x05])
}

/// Too short, or no known value.
struct Cut;

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A word of which one value stands for "none".
    fn optional(&mut self) -> Result<Option<u32>, Cut> {
        Ok(Some(self.word().ok_or(Cut)?).filter(|&word| word != NONE))
    }

    fn site(&mut self) -> Option<Site> {
        Some(Site {
            start: self.word()?,
            syscall: self.word()?,
            number: self.optional().ok()?,
            hole: self.optional().ok()?,
            before: self.byte()?,
            after: self.byte()?,
            pattern: match self.byte()? {
                0 => Pattern::Single,
                1 => Pattern::Run,
                2 => Pattern::Hole,
                3 => Pattern::RunWithBranch,
                4 => Pattern::Overwrite,
                _ => return None,
            },
            rewind: match self.byte()? {
                0 => Rewind::Plain,
                1 => Rewind::ReloadR11,
                2 => Rewind::Never,
                _ => return None,
            },
            fixups: [self.fixup().ok()?, self.fixup().ok()?],
            original: self.take(ORIGINAL_MAX)?.try_into().ok()?,
        })
    }

    fn fixup(&mut self) -> Result<Option<Fixup>, Cut> {
        let Some(&[kind, at, end]) = self.take(3) else { return Err(Cut) };
        let kind = match kind {
            0 => FixupKind::Relative32,
            1 => FixupKind::ShortBranch,
            u8::MAX => return Ok(None),
            _ => return Err(Cut),
        };
        Ok(Some(Fixup { kind, at, end }))
    }

    fn left(&mut self) -> Option<Unpatchable> {
        Some(Unpatchable {
            offset: self.word()?,
            number: self.optional().ok()?,
            reason: *Reason::ALL.get(usize::from(self.byte()?))?,
        })
    }
}
