//! Plans that somebody keeps, so that not every process has to scan its libraries.

use core::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::io::Result;

use crate::private_copy::PrivateCopy;
use crate::rewrite::{
    AddressMap, Image, LoadedObject, Origin, Patched, Plan, PreparedText, Reason, Segment, prepare, untouched,
};
use crate::{Config, table};

/// Keeps plans from one process to the next: scanning the C library takes over a millisecond, reading its plan 10 us.
/// Called inside, under a lock, so one at a time.
pub trait PlanStore: Sync + 'static {
    /// What was stored under this key (at most 120 bytes). The bytes must come from a trusted place: rewriting by a wrong plan is refused
    /// where the code differs from it, but not where a branch leads that it does not mention.
    fn load(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Keeps `plan`, if it can.
    fn store(&self, key: &[u8], plan: &[u8]);

    /// The file that [`store_text`](Self::store_text) has made for this key, and its size. It must come from a trusted place, as it is
    /// run.
    fn open_text(&self, _key: &[u8]) -> Option<(OwnedFd, u64)> {
        None
    }

    /// Keeps a file with this content, one part behind the other, if it can: an object whose sites are rewritten already. Processes map
    /// it over theirs, which saves each of them copying and changing the pages with sites.
    fn store_text(&self, _key: &[u8], _content: [&[u8]; 2]) {}
}

/// Pages with sites from which on a text is prepared: for few, copies cost no more than mapping another file.
const PAGES_WORTH_IT: usize = 4;
const PAGE: u32 = 4096;

/// A text that was rewritten ahead.
#[derive(Debug)]
pub struct Ahead {
    text: PreparedText,
    offset: u64,
    key: Vec<u8>,
}

impl Ahead {
    /// That for `text`, if the store has it and what is loaded is what it was made from.
    pub fn find(
        store: Option<&dyn PlanStore>,
        object: &LoadedObject,
        image: &Image,
        text: &Segment,
    ) -> Option<Self> {
        let store = store?;
        let range = text.address..text.address + text.bytes.len() as u64;
        let mapping = object.mappings().iter().find(|mapping| mapping.range == range && !mapping.write)?;
        let key = key(object, image, text)?;
        let (file, size) = store.open_text(&key)?;
        let state = stat(object.path()).ok().filter(|state| state.st_ino == object.file().1)?;
        let prepared = PreparedText::new(file, size, Origin::of(&state))?;
        untouched(&range).then_some(Self { text: prepared, offset: mapping.offset, key })
    }

    /// See [`PreparedText::put_over`].
    ///
    /// # Safety
    /// As there; `text` is the one it was found for.
    pub unsafe fn put_over(&self, text: &Range<u64>, entry: u64) -> Option<Patched> {
        // SAFETY: the caller's promise; it was untouched when it was found.
        unsafe { self.text.put_over(text, self.offset, &self.key, entry) }
    }

    /// Has `store` keep the plan for `text`, and one of these if it is worth it. Made from the object's file, as code in memory may have
    /// been rewritten. `None` if the file is not what was loaded.
    fn make(store: &dyn PlanStore, object: &LoadedObject, image: &Image, text: &Segment) -> Option<()> {
        let key = key(object, image, text)?;
        let first = object.mappings()[0].range.start;
        let mapping = object.mappings().iter().find(|mapping| mapping.range.start == text.address)?;
        let file = open(object.path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let state = fstat(&file).ok().filter(|state| state.st_ino == object.file().1)?;
        let mut content = PrivateCopy::of(&file, state.st_size.try_into().ok()?)?;
        let in_file = Image::from_file(content.bytes())?;
        let of_file = in_file.texts().find(|found| {
            found.address - in_file.start() == text.address - first && found.bytes.len() == text.bytes.len()
        })?;
        if in_file.build_id() != image.build_id() {
            return None;
        }
        let plan = scan_and_store(store, &in_file, &of_file, &key);
        let mut pages: Vec<u32> = plan.sites.iter().map(|site| site.start / PAGE).collect();
        pages.dedup();
        if pages.len() >= PAGES_WORTH_IT {
            let range = mapping.offset..mapping.offset + text.bytes.len() as u64;
            if let Some(rest) = prepare(content.bytes_mut(), &Origin::of(&state), &range, &plan, &key) {
                store.store_text(&key, [content.bytes(), &rest]);
            }
        }
        Some(())
    }
}

/// Whether a site of this number, if the code tells it, is to be rewritten.
fn wanted(number: Option<u32>) -> bool {
    number.is_none_or(table::rewritten)
}

/// The plan for `text`, which is of `image`: from the store if it has it, else by a scan.
pub fn plan(store: Option<&dyn PlanStore>, object: &LoadedObject, image: &Image, text: &Segment) -> Plan {
    let scan = || image.scan(text, &wanted);
    let Some(store) = store else { return scan() };
    let Some(key) = key(object, image, text) else { return scan() };
    if let Some(plan) = store.load(&key).and_then(|bytes| Plan::from_bytes(&bytes, &key)) {
        return plan;
    }
    scan_and_store(store, image, text, &key)
}

fn scan_and_store(store: &dyn PlanStore, image: &Image, text: &Segment, key: &[u8]) -> Plan {
    let mut plan = image.scan(text, &wanted);
    // Most of what is left; nobody asks about it, and there is less to read.
    plan.unpatchable.retain(|left| left.reason != Reason::NoInterest);
    // While ld.so maps an object, what tells its functions may not be in its place, and fewer sites are understood.
    if image.tells_functions() {
        store.store(key, &plan.to_bytes(key));
    }
    plan
}

/// What a plan depends on: the object's content, which part of it was read as text, and the numbers of interest.
fn key(object: &LoadedObject, image: &Image, text: &Segment) -> Option<Vec<u8>> {
    let mut key = object.key(image)?;
    let offset = text.address - object.mappings()[0].range.start;
    for part in [offset, text.bytes.len() as u64, table::numbers_rewritten()] {
        key.extend(part.to_le_bytes());
    }
    (key.len() <= 120).then_some(key)
}

/// Stores the plans of the libraries that are loaded into this process, and the rewritten texts of those with many sites, and changes
/// nothing: for the parent of processes that will use the same C library. Returns how many texts there are.
///
/// `config` is the one that [`crate::install`] will be given there; where that was called, this must not be.
///
/// # Safety
/// Nobody loads or unloads objects meanwhile.
///
/// # Errors
/// `/proc/self/maps` cannot be read.
pub unsafe fn store_plans(config: &Config, store: &dyn PlanStore) -> Result<usize> {
    table::fill(config);
    let map = AddressMap::read()?;
    // Its text is not in other programs, and large.
    let program = stat(c"/proc/self/exe").map_or(0, |state| state.st_ino);
    let mut texts = 0;
    for object in map.objects(&[]).filter(|object| object.file().1 != program) {
        // SAFETY: the caller's promise.
        let Some(image) = (unsafe { object.image() }) else { continue };
        for text in image.texts() {
            if Ahead::make(store, &object, &image, &text).is_none() {
                plan(Some(store), &object, &image, &text);
            }
            texts += 1;
        }
    }
    Ok(texts)
}
