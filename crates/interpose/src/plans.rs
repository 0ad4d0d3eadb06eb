//! Plans that somebody keeps, so that not every process has to scan its libraries.

use rustix::io;

use crate::rewrite::{AddressMap, Image, LoadedObject, Plan, Reason, Segment};
use crate::{Config, table};

/// Keeps plans from one process to the next: scanning the C library takes over a millisecond, reading its plan 10 us.
/// Called inside, under a lock, so one at a time.
pub trait PlanStore: Sync + 'static {
    /// What was stored under this key (at most 120 bytes). The bytes must come from a trusted place: rewriting by a wrong plan is refused
    /// where the code differs from it, but not where a branch leads that it does not mention.
    fn load(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Keeps `plan`, if it can.
    fn store(&self, key: &[u8], plan: &[u8]);
}

/// The plan for `text`, which is of `image`: from the store if it has it, else by a scan.
pub fn plan(store: Option<&dyn PlanStore>, object: &LoadedObject, image: &Image, text: &Segment) -> Plan {
    let scan = || image.scan(text, &|number| number.is_none_or(table::rewritten));
    let Some(store) = store else { return scan() };
    let Some(key) = key(object, image, text) else { return scan() };
    if let Some(plan) = store.load(&key).and_then(|bytes| Plan::from_bytes(&bytes, &key)) {
        return plan;
    }
    let mut plan = scan();
    // Most of what is left; nobody asks about it, and there is less to read.
    plan.unpatchable.retain(|left| left.reason != Reason::NoInterest);
    // While ld.so maps an object, what tells its functions may not be in its place, and fewer sites are understood.
    if image.tells_functions() {
        store.store(&key, &plan.to_bytes(&key));
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

/// Stores the plans of all objects that are loaded into this process, unless `store` has them, and changes nothing: for
/// the parent of processes that will use the same C library. Returns how many texts there are.
///
/// `config` is the one that [`crate::install`] will be given there; where that was called, this must not be.
///
/// # Safety
/// Nobody loads or unloads objects meanwhile.
///
/// # Errors
/// `/proc/self/maps` cannot be read.
pub unsafe fn store_plans(config: &Config, store: &dyn PlanStore) -> io::Result<usize> {
    table::fill(config);
    let map = AddressMap::read()?;
    let mut texts = 0;
    for object in map.objects(&[]) {
        // SAFETY: the caller's promise.
        let Some(image) = (unsafe { object.image() }) else { continue };
        for text in image.texts() {
            plan(Some(store), &object, &image, &text);
            texts += 1;
        }
    }
    Ok(texts)
}
