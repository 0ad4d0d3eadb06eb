//! The objects whose sites were rewritten: at install all that are loaded, later those that are mapped.

use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};
use std::path::Path;
use std::sync::OnceLock;

use crate::entry::regions;
use crate::plans::Ahead;
use crate::rewrite::{
    AddressMap, Error, LoadedObject, NearMemory, Patched, Phase, Plan, Reason, Rewind, Segment, Threads,
    apply,
};
use crate::signals::Context;
use crate::spin::{self, Spin};
use crate::{Config, DispatchPolicy, PlanStore, dispatch, plans, runtime_code, serve, table};

const SYS_MPROTECT: u32 = 10;
const PROT_EXEC: u64 = 4;

/// One rewritten text. Never freed: signal handlers walk the list, and stubs stay for ever.
struct Record {
    patched: Patched,
    /// Something else was mapped over the text.
    gone: AtomicBool,
    next: *const Record,
}

static RECORDS: AtomicPtr<Record> = AtomicPtr::new(core::ptr::null_mut());

struct Settings {
    ignored: &'static [&'static str],
    plans: Option<&'static dyn PlanStore>,
    dispatch: DispatchPolicy,
}
static SETTINGS: OnceLock<Settings> = OnceLock::new();

fn records() -> impl Iterator<Item = &'static Record> {
    let mut next = RECORDS.load(Acquire).cast_const();
    core::iter::from_fn(move || {
        // SAFETY: records are leaked boxes, published complete.
        let record = unsafe { next.as_ref() }?;
        next = record.next;
        Some(record)
    })
}

/// If the PC is in a stub, shows what it stands for. Reads only records, for signal handlers.
pub fn settle(context: &mut Context) {
    let pc = context.rip;
    let Some(info) =
        records().filter(|record| !record.gone.load(Relaxed)).find_map(|r| r.patched.find_stub(pc))
    else {
        return;
    };
    match (info.phase, info.rewind) {
        (Phase::Before, Rewind::Plain) => context.rip = info.site,
        (Phase::Before, Rewind::ReloadR11) => {
            // SAFETY: the displaced code just wrote there.
            context.r11 = unsafe { ((context.rsp + 8) as *const u64).read() };
            context.rip = info.site;
        }
        // What the jump there leads to, unless the stub makes the call itself.
        (Phase::Resumed, _) if info.done == info.original + 2 => context.rip = info.original,
        _ => {}
    }
}

/// Held while objects are rewritten, and around fork.
static LOCK: Spin = Spin::new();

pub fn lock() -> spin::Guard<'static> {
    LOCK.lock()
}

/// What rewriting did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub objects: u32,
    pub sites: u32,
    pub missed: u32,
}

/// What objects to leave alone, and so on. Called once.
pub fn configure(config: &Config) {
    let settings =
        Settings { ignored: config.ignored_objects, plans: config.plans, dispatch: config.dispatch };
    let _ = SETTINGS.set(settings);
}

/// Rewrites all loaded objects that were not yet, or those that overlap `range`.
///
/// # Safety
/// Nobody loads or unloads objects meanwhile (or, for a range, touches that object); called inside.
pub unsafe fn rewrite(range: Option<&Range<u64>>, threads: Threads) -> Result<Tally, Error> {
    let map = match range {
        Some(range) => AddressMap::read_around(range),
        None => AddressMap::read_of_files(),
    };
    let map = map.map_err(|errno| Error::System { attempt: "read /proc/self/maps", errno })?;
    let mut memory = NearMemory::new(&map);
    let own = regions::entry()..regions::entry() + 1;
    let mut tally = Tally::default();
    let policy = SETTINGS.get().map_or(DispatchPolicy::Never, |settings| settings.dispatch);
    let mut planned = Vec::new();
    for object in map.objects(core::slice::from_ref(&own)) {
        let overlaps = |range: &Range<u64>| {
            object
                .mappings()
                .iter()
                .any(|m| m.execute && m.range.start < range.end && range.start < m.range.end)
        };
        if range.is_some_and(|range| !overlaps(range)) || ignored(object.path()) {
            continue;
        }
        // SAFETY: the caller's promise.
        let texts = unsafe { texts(&object, range.is_none(), threads == Threads::Quiet) };
        planned.push((object, texts));
    }
    let missed = |(_, texts): &(_, Vec<(How, _)>)| {
        texts.iter().any(|(how, _)| match how {
            How::Plan(plan) => plan.missed().any(|left| interesting(left.number)),
            How::Ahead(_) => false,
        })
    };
    let dispatches = match policy {
        DispatchPolicy::Never => false,
        DispatchPolicy::Auto => planned.iter().any(missed),
        DispatchPolicy::Always => true,
    };
    if dispatches && !table::ALL_SITES.swap(true, Relaxed) {
        for (object, texts) in &mut planned {
            // SAFETY: the caller's promise; nothing was changed yet.
            *texts = unsafe { self::texts(object, range.is_none(), false) };
        }
    }
    for (object, texts) in planned {
        let mut rewritten = false;
        for (how, text) in texts {
            let plan = match how {
                How::Plan(plan) => plan,
                How::Ahead(ahead) => {
                    // SAFETY: the mapping it was found for, of a loaded object; nobody else runs, and this code is in an object
                    // that is left out.
                    if let Some(patched) = unsafe { ahead.put_over(&text, regions::entry()) } {
                        rewritten = true;
                        tally.sites += patched.len() as u32;
                        publish(patched);
                        continue;
                    }
                    // SAFETY: the caller's promise; nothing was changed.
                    let Some(plan) = (unsafe { plan(&object, &text) }) else { continue };
                    plan
                }
            };
            let thirty_two_bit = plan.left(Reason::ThirtyTwoBit) as u32;
            if thirty_two_bit > 0 {
                serve::handler().thirty_two_bit_calls(object.path(), thirty_two_bit);
            }
            if plan.sites.is_empty() && plan.missed().next().is_none() {
                continue;
            }
            // SAFETY: a mapping of a loaded object, planned just now; our entry keeps the contract, and this code is in
            // an object that is left out.
            let patched = unsafe { apply(&plan, text.clone(), regions::entry(), &mut memory, threads) };
            let patched = match patched {
                Ok(patched) => patched,
                // Code may not be changed here, or there is no room for stubs: all is left to dispatch.
                Err(Error::Forbidden { .. } | Error::NoRoom { .. }) => {
                    let missed = plan.missed().map(|site| site.number);
                    let all = plan.sites.iter().map(|site| site.number).chain(missed);
                    tally.missed += all.filter(|number| interesting(*number)).count() as u32;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let missed = patched.left(&plan).iter().filter(|left| interesting(left.number)).count() as u32;
            rewritten |= !patched.is_empty();
            tally.sites += patched.len() as u32;
            tally.missed += missed;
            publish(patched);
        }
        tally.objects += u32::from(rewritten);
    }
    if let Some(range) = range
        && !dispatch::armed()
    {
        // SAFETY: the caller's promise.
        tally.missed += u32::from(unsafe { runtime_code::has_sites(&map, range) });
    }
    Ok(tally)
}

fn interesting(number: Option<u32>) -> bool {
    number.is_none_or(table::must_be_caught)
}

/// How a text is to be rewritten.
enum How {
    /// By changing it.
    Plan(Plan),
    /// By mapping one over it that was rewritten before.
    Ahead(Ahead),
}

/// Those texts of an object that were not rewritten yet. `loaded`: nobody is in the middle of loading it; `quiet`: and nobody
/// else runs.
unsafe fn texts(object: &LoadedObject, loaded: bool, quiet: bool) -> Vec<(How, Range<u64>)> {
    // SAFETY: the caller keeps the object mapped; nothing is changed before the image is dropped.
    let image = unsafe { if loaded { object.image_when_loaded() } else { object.image() } };
    let Some(image) = image else { return Vec::new() };
    let ahead = loaded && quiet;
    let store = SETTINGS.get().and_then(|settings| settings.plans);
    let how = |text: &Segment| match Ahead::find(store.filter(|_| ahead), object, &image, text) {
        Some(found) => How::Ahead(found),
        None => How::Plan(plans::plan(store, object, &image, text)),
    };
    image
        .texts()
        .map(|text| (text, text.address..text.address + text.bytes.len() as u64))
        .filter(|(_, range)| !known(range))
        .map(|(text, range)| (how(&text), range))
        .collect()
}

/// The plan for one text.
unsafe fn plan(object: &LoadedObject, range: &Range<u64>) -> Option<Plan> {
    // SAFETY: as above.
    let image = unsafe { object.image() }?;
    let store = SETTINGS.get().and_then(|settings| settings.plans);
    let text = image.texts().find(|text| text.address == range.start)?;
    Some(plans::plan(store, object, &image, &text))
}

fn known(text: &Range<u64>) -> bool {
    records().any(|record| record.patched.text() == *text && !record.gone.load(Relaxed))
}

fn publish(patched: Patched) {
    let next = RECORDS.load(Acquire);
    let record = Box::leak(Box::new(Record { patched, gone: AtomicBool::new(false), next }));
    // The lock is held: nobody else publishes.
    RECORDS.store(record, Release);
}

fn ignored(path: &[u8]) -> bool {
    let path = String::from_utf8_lossy(path);
    let name = Path::new(&*path).file_name().and_then(|name| name.to_str()).unwrap_or("");
    SETTINGS.get().is_some_and(|settings| {
        settings.ignored.iter().any(|o| if o.contains('/') { *o == path } else { *o == name })
    })
}

static FAILURES: AtomicU32 = AtomicU32::new(0);

/// The program mapped memory or changed its protection, as these arguments say. Called inside.
pub fn changed(nr: u32, args: &[u64; 6], result: i64) {
    if result < 0 || args[2] & PROT_EXEC == 0 {
        return;
    }
    let start = if nr == SYS_MPROTECT || nr == 329 { args[0] } else { result as u64 };
    let range = start..start.saturating_add(args[1]);
    let _guard = lock();
    let fresh = nr == 9;
    if fresh {
        // What was there before is not there any more.
        for record in records() {
            let text = record.patched.text();
            if text.start < range.end && range.start < text.end {
                record.gone.store(true, Relaxed);
            }
        }
    }
    let threads = if fresh || threads() == 1 { Threads::Quiet } else { Threads::Running };
    // SAFETY: the program is in the middle of loading this; it cannot unload it before the call returns.
    match unsafe { rewrite(Some(&range), threads) } {
        Ok(tally) => {
            let policy = SETTINGS.get().map_or(DispatchPolicy::Never, |settings| settings.dispatch);
            dispatch::arm_if_needed(policy, tally.missed);
            if tally.sites > 0 {
                serve::handler().mapped_executable(range.start, range.end - range.start);
            }
        }
        Err(_) => {
            FAILURES.fetch_add(1, Relaxed);
        }
    }
}

/// How many threads this process has; more than one when that cannot be told.
pub fn threads() -> u32 {
    // The directory has a link for each, besides its own two.
    rustix::fs::stat("/proc/self/task").map_or(2, |stat| (stat.st_nlink as u32).saturating_sub(2).max(1))
}
