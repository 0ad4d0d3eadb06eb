//! Lists of sites that somebody keeps, so that not every process has to scan its libraries.

use std::sync::OnceLock;

use rustix::io;

use crate::rewrite::{AddressMap, Image, LoadedObject, Plan, Reason, Segment};
use crate::{Config, table};

/// Keeps lists of sites between processes. A list is trusted as code is: whoever can change one decides what is executed.
///
/// Called at [`crate::install`] and later when an object is mapped executable, inside, as [`crate::Handler`] is: on a small stack,
/// perhaps under the program's locks. That a list is damaged or was made by another version is noticed; the object is scanned then.
pub trait SiteLists: Sync {
    /// The list that was stored under `key` (at most 256 bytes), if there is one and it can be trusted.
    fn load(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Keeps `list` under `key`, if that can be done.
    fn store(&self, key: &[u8], list: &[u8]);
}

static LISTS: OnceLock<&'static dyn SiteLists> = OnceLock::new();

/// Sets what keeps the lists, once.
pub fn set(lists: Option<&'static dyn SiteLists>) {
    if let Some(lists) = lists {
        let _ = LISTS.set(lists);
    }
}

/// The plan for `text`, which lies in `object`: from a list if there is one, else by a scan.
pub fn plan(object: &LoadedObject, image: &Image, text: &Segment) -> Plan {
    plan_by(LISTS.get().copied(), object, image, text)
}

fn plan_by(lists: Option<&dyn SiteLists>, object: &LoadedObject, image: &Image, text: &Segment) -> Plan {
    let scan = || image.scan(text, &|number| number.is_none_or(table::of_interest));
    let Some(lists) = lists else { return scan() };
    let Some(key) = key(object, image, text) else { return scan() };
    if let Some(plan) = lists.load(&key).and_then(|list| Plan::from_bytes(&list, &key)) {
        return plan;
    }
    let mut plan = scan();
    // Most of what is left; nobody asks about it, and the list gets shorter.
    plan.unpatchable.retain(|left| left.reason != Reason::NoInterest);
    // While ld.so maps an object, what tells its functions may not be in its place, and fewer sites are understood.
    if image.tells_functions() {
        lists.store(&key, &plan.to_bytes(&key));
    }
    plan
}

/// What the plan depends on: the object's content, which part of it was read as text, and the numbers of interest.
fn key(object: &LoadedObject, image: &Image, text: &Segment) -> Option<Vec<u8>> {
    let mut key = object.key(image)?;
    let offset = text.address - object.mappings()[0].range.start;
    for part in [offset, text.bytes.len() as u64, table::numbers_of_interest()] {
        key.extend(part.to_le_bytes());
    }
    (key.len() <= 256).then_some(key)
}

/// Makes the lists of all objects that are loaded into this process, unless `lists` has them, and changes nothing: for the parent
/// of processes that will use the same C library. Returns how many texts there are.
///
/// `config` is the one that [`crate::install`] will be given; in a process where that was called, this must not be.
///
/// # Safety
/// Nobody loads or unloads objects meanwhile.
///
/// # Errors
/// `/proc/self/maps` cannot be read.
pub unsafe fn make_site_lists(config: &Config, lists: &dyn SiteLists) -> io::Result<usize> {
    table::fill(config);
    let map = AddressMap::read()?;
    let mut texts = 0;
    for object in map.objects(&[]) {
        // SAFETY: the caller's promise.
        let Some(image) = (unsafe { object.image() }) else { continue };
        for text in image.texts() {
            plan_by(Some(lists), &object, &image, &text);
            texts += 1;
        }
    }
    Ok(texts)
}
