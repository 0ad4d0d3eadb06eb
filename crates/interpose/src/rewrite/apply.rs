//! Writes the stubs of a plan and then the jumps to them.
//!
//! # How the text is written
//!
//! The text's mapping is made readable, writable and executable, changed, and made as it was; only the pages that hold
//! sites are copied. It stays executable throughout: where policy forbids that, the first step fails and nothing was
//! changed. All signals are blocked meanwhile, so no handler of this thread meets a site half written.
//!
//! While other threads run ([`Threads::Running`]) the order is: (1) the jumps in holes, which nobody reaches; (2) over
//! each site of five bytes a two-byte jump to itself, by one atomic store, and for each hole's site its final two-byte
//! jump; (3) the other three bytes; (4) the first two of the final jump. Between the steps, `membarrier` makes every
//! core drop what it has fetched. A thread that comes by waits on the spot for some microseconds. Sites that need more
//! than one instruction, or whose first two bytes lie in two 16-byte fetch blocks, are skipped: a thread might stand
//! between, and no store to both bytes would be seen as one.

use core::ops::Range;
use core::sync::atomic::{AtomicU16, Ordering};

use rustix::mm::{Advice, MprotectFlags, madvise, mprotect};
use rustix::thread::{MembarrierCommand, membarrier};

use super::error::Error;
use super::near::{NearMemory, PAGE};
use super::patched::{Patched, Sites, Skip};
use super::signals::SignalsBlocked;
use super::site::{Pattern, Plan, Site};
use super::stub::{Addresses, HoleJump, Patch, STUB_ALIGN, Stub};

/// `jmp` to itself.
const WAIT_HERE: [u8; 2] = [0xeb, 0xfe];
/// Length of a jump, in bytes.
const JUMP: u64 = 5;
/// Size of the blocks instructions are fetched in.
const FETCH: u64 = 16;

/// Who else may be executing the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Nobody: the process has one thread, or the text was mapped just now.
    Quiet,
    /// Other threads.
    Running,
}

/// Diverts the sites of `plan`, which was made for the code at `text`, to `entry`.
///
/// Sites whose bytes differ from the plan's are skipped, so a plan from a cache does no harm. With nothing to change, no
/// memory is mapped. On an error nothing was changed.
///
/// # Safety
///
/// - `text` is a readable private mapping that begins and ends at page boundaries, stays mapped while this runs, and is
///   mapped `r-x` (it is so afterwards). Nobody else changes it now, and no reference to its bytes is alive.
/// - The plan was made by [`super::scan`] for an object of which this is the text, so that what it says about branches is true.
/// - `entry` keeps the [`super::contract`].
/// - With [`Threads::Quiet`], no other thread runs code in `text` or is blocked in it.
/// - This code itself, and what it calls, is not in `text`.
pub unsafe fn apply(
    plan: &Plan,
    text: Range<u64>,
    entry: u64,
    memory: &mut NearMemory,
    threads: Threads,
) -> Result<Patched, Error> {
    let mut patched = Patched { text: text.clone(), entry, ..Patched::default() };
    if plan.sites.is_empty() {
        return Ok(patched);
    }
    // SAFETY: the caller's text.
    let _writable = unsafe { Writable::new(&text, &plan.sites) }?;
    // The entry's address comes first, for stubs that cannot reach it directly.
    let mut size = STUB_ALIGN;
    let mut chosen = Vec::with_capacity(plan.sites.len());
    for site in &plan.sites {
        // SAFETY: text is readable, says the caller.
        if let Some(skip) = unsafe { obstacle(site, &text, threads) } {
            patched.skipped.push((*site, skip));
        } else {
            chosen.push((size, site));
            size += Stub::len(site).next_multiple_of(STUB_ALIGN);
        }
    }
    if chosen.is_empty() {
        return Ok(patched);
    }
    let mut region = memory.map(&text, size)?;
    let base = region.start();
    patched.stubs = base..base + size;
    region.fill(0, &entry.to_le_bytes());
    let at = |stub| Addresses { text: text.start, stub, entry, cell: base };
    let mut writes = Vec::with_capacity(chosen.len());
    let (mut sites, mut holes) = (Vec::with_capacity(chosen.len()), Vec::new());
    for (offset, site) in chosen {
        let stub = Stub::new(site, at(base + offset));
        match stub.code().and_then(|code| Ok((code, stub.jumps()?))) {
            Ok((code, (hole, patch))) => {
                region.fill(offset, &code);
                holes.extend(hole.map(|hole| (text.start + u64::from(hole.at), sites.len())));
                writes.push(Write { hole, start: site.start, patch });
                sites.push((base + offset, *site));
            }
            Err(_) => patched.skipped.push((*site, Skip::OutOfReach)),
        }
    }
    holes.sort_unstable();
    patched.sites = Sites::Written { sites, holes };
    region.seal()?;
    if threads == Threads::Running {
        membarrier(MembarrierCommand::RegisterPrivateExpeditedSyncCore)
            .map_err(|errno| Error::System { attempt: "register for membarrier", errno })?;
    }
    // SAFETY: the caller's promises, and the stubs are in place.
    unsafe { write_all(&text, &writes, threads) };
    Ok(patched)
}

/// The bytes of one site to write.
struct Write {
    hole: Option<HoleJump>,
    start: u32,
    patch: Patch,
}

/// What speaks against changing `site` here and now.
///
/// # Safety
///
/// `text` is readable.
unsafe fn obstacle(site: &Site, text: &Range<u64>, threads: Threads) -> Option<Skip> {
    // SAFETY: `bytes_at` checks the bounds, text is readable.
    let same =
        |offset: u32, expected: &[u8]| unsafe { bytes_at(text, offset, expected.len()) == Some(expected) };
    if !same(site.start, &site.original[..site.len()]) {
        return Some(Skip::Changed);
    }
    if let Some(hole) = site.hole {
        // SAFETY: as above.
        let room = unsafe { bytes_at(text, hole, 5) };
        if !room.is_some_and(super::function::may_be_padding) {
            return Some(Skip::Changed);
        }
    }
    if threads == Threads::Quiet {
        return None;
    }
    let one_block = u64::from(site.start) % FETCH != FETCH - 1;
    let one_instruction = matches!(site.pattern, Pattern::Single | Pattern::Hole);
    (!one_block || !one_instruction).then_some(Skip::ThreadsRunning)
}

/// # Safety
///
/// `text` is readable and does not change while the result is used.
unsafe fn bytes_at<'a>(text: &Range<u64>, offset: u32, len: usize) -> Option<&'a [u8]> {
    let start = text.start.checked_add(u64::from(offset))?;
    let inside = start.checked_add(len as u64)? <= text.end;
    // SAFETY: within the text, says the line above.
    inside.then(|| unsafe { core::slice::from_raw_parts(pointer(start).cast_const(), len) })
}

/// The pages of a text from the first that holds a site to the last: writable, and no signal arrives, while this lives.
struct Writable {
    range: Range<u64>,
    _blocked: SignalsBlocked,
}

impl Writable {
    const NORMAL: MprotectFlags = MprotectFlags::READ.union(MprotectFlags::EXEC);

    /// # Safety
    ///
    /// `text` is as [`apply`] demands it.
    unsafe fn new(text: &Range<u64>, sites: &[Site]) -> Result<Self, Error> {
        let in_text = |offset: u32| (text.start + u64::from(offset)).min(text.end);
        let places = || sites.iter().flat_map(|site| [Some(site.start), site.hole]).flatten();
        // One range: mapping entries are split and merged only once.
        let start = in_text(places().min().unwrap_or(0)) & !(PAGE - 1);
        let end = (in_text(places().max().unwrap_or(0)) + JUMP).next_multiple_of(PAGE).min(text.end);
        let blocked = SignalsBlocked::new();
        let range = start..end.max(start);
        // SAFETY: the range is the caller's text; what executes there can go on.
        unsafe { mprotect(pointer(start).cast(), Self::len(&range), Self::NORMAL | MprotectFlags::WRITE) }
            .map_err(|errno| Error::of("make code writable", errno))?;
        let writable = Self { range, _blocked: blocked };
        writable.copy_pages(sites.iter().map(|site| in_text(site.start)));
        Ok(writable)
    }

    /// Gives the process its own copy of the pages with sites, which rise, at once: quicker than to read a page and to take a fault
    /// for it, then to write it and to take another.
    fn copy_pages(&self, sites: impl Iterator<Item = u64>) {
        let copy = |run: &Range<u64>| {
            // SAFETY: the range is writable; its content stays the same.
            unsafe { madvise(pointer(run.start).cast(), Self::len(run), Advice::LinuxPopulateWrite) }.is_ok()
        };
        let mut run = self.range.start..self.range.start;
        for page in sites.map(|site| site & !(PAGE - 1)).filter(|page| self.range.contains(page)) {
            if page >= run.end + PAGE {
                // What fails (before Linux 5.14) is done by faults.
                if !run.is_empty() && !copy(&run) {
                    return;
                }
                run.start = page;
            }
            run.end = page + PAGE;
        }
        copy(&run);
    }

    fn len(range: &Range<u64>) -> usize {
        (range.end - range.start) as usize
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        // Fails at worst for want of kernel memory; the code is right then, only still writable.
        // SAFETY: as it was before.
        let _ = unsafe { mprotect(pointer(self.range.start).cast(), Self::len(&self.range), Self::NORMAL) };
    }
}

/// # Safety
///
/// As for [`apply`]; `writes` lie in `text`, which is writable, and lead to finished stubs.
unsafe fn write_all(text: &Range<u64>, writes: &[Write], threads: Threads) {
    // SAFETY: writable now; the rest is the caller's promise.
    unsafe { write_holes(text, writes) };
    match threads {
        // SAFETY: nobody executes the text.
        Threads::Quiet => unsafe { write_quiet(text, writes) },
        // SAFETY: registered for membarrier; `obstacle` let only sites through that the steps suit.
        Threads::Running => unsafe { write_running(text, writes) },
    }
}

unsafe fn write_holes(text: &Range<u64>, writes: &[Write]) {
    for hole in writes.iter().filter_map(|write| write.hole) {
        // SAFETY: padding in the text, which is writable and not executed here.
        unsafe { copy(text, hole.at, &hole.jump) };
    }
}

unsafe fn write_quiet(text: &Range<u64>, writes: &[Write]) {
    for write in writes {
        match &write.patch {
            // SAFETY: within the text, writable, and not executed now.
            Patch::Long(jump) => unsafe { copy(text, write.start, jump) },
            // SAFETY: as above.
            Patch::Short(jump) => unsafe { copy(text, write.start, jump) },
        }
    }
}

/// # Safety
///
/// The text is writable, the process registered for core-synchronising membarriers, and each write replaces the
/// beginning of one instruction, its first two bytes in one fetch block.
unsafe fn write_running(text: &Range<u64>, writes: &[Write]) {
    let sync = || {
        // Registered before; cannot fail after that.
        let _ = membarrier(MembarrierCommand::PrivateExpeditedSyncCore);
    };
    sync();
    for write in writes {
        match write.patch {
            // SAFETY: the function's preconditions.
            Patch::Long(_) => unsafe { store_two(text, write.start, WAIT_HERE) },
            // SAFETY: the function's preconditions.
            Patch::Short(jump) => unsafe { store_two(text, write.start, jump) },
        }
    }
    sync();
    for write in writes {
        if let Patch::Long(jump) = &write.patch {
            // SAFETY: nobody gets past the two bytes before these.
            unsafe { copy(text, write.start + 2, &jump[2..]) };
        }
    }
    sync();
    for write in writes {
        if let Patch::Long([a, b, ..]) = write.patch {
            // SAFETY: the function's preconditions.
            unsafe { store_two(text, write.start, [a, b]) };
        }
    }
    sync();
}

unsafe fn copy(text: &Range<u64>, offset: u32, bytes: &[u8]) {
    // SAFETY: the caller's: writable, and nobody executes or reads these bytes now.
    unsafe { pointer(text.start + u64::from(offset)).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

unsafe fn store_two(text: &Range<u64>, offset: u32, bytes: [u8; 2]) {
    let at = pointer(text.start + u64::from(offset));
    let value = u16::from_le_bytes(bytes);
    if at.addr().is_multiple_of(2) {
        // SAFETY: aligned, writable.
        unsafe { AtomicU16::from_ptr(at.cast()) }.store(value, Ordering::SeqCst);
    } else {
        // SAFETY: a locked exchange is atomic within a cache line, aligned or not. Writable, says the caller.
        unsafe {
            core::arch::asm!("xchg [{at}], {value:x}", at = in(reg) at, value = inout(reg) value => _, options(nostack));
        }
    }
}

fn pointer(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address as usize)
}
