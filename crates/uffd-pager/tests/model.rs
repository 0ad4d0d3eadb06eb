//! Random programs against plain memory: two shared mappings and a private one of a file, with syncs,
//! truncations, dropped pages and forks in between.

mod common;

use common::{End, FileSource, Mapped, attach, in_child, pager, pattern};
use proptest::prelude::*;
use std::collections::BTreeMap;
use uffd_pager::{MapRequest, PAGE, Pager, Source};

const PAGES: usize = 40;

#[derive(Debug, Clone)]
enum Step {
    Load { mapping: usize, offset: usize },
    Store { mapping: usize, offset: usize, length: usize, value: u8 },
    StorePrivate { offset: usize, value: u8 },
    LoadPrivate { offset: usize },
    Sync { pages: std::ops::Range<usize> },
    SetLen { length: usize },
    Drop { write_back: bool },
    Prefault { pages: std::ops::Range<usize>, write: bool },
    ChildStores { mapping: usize, offset: usize, value: u8, killed: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || 0..PAGES * PAGE;
    let pages = || (0..PAGES, 1..PAGES).prop_map(|(start, length)| start..(start + length).min(PAGES));
    prop_oneof![
        6 => (0..2_usize, offset()).prop_map(|(mapping, offset)| Step::Load { mapping, offset }),
        6 => (0..2_usize, offset(), 1..3 * PAGE, any::<u8>())
            .prop_map(|(mapping, offset, length, value)| Step::Store { mapping, offset, length, value }),
        2 => (offset(), any::<u8>()).prop_map(|(offset, value)| Step::StorePrivate { offset, value }),
        2 => offset().prop_map(|offset| Step::LoadPrivate { offset }),
        2 => pages().prop_map(|pages| Step::Sync { pages }),
        1 => offset().prop_map(|length| Step::SetLen { length }),
        2 => any::<bool>().prop_map(|write_back| Step::Drop { write_back }),
        1 => (pages(), any::<bool>()).prop_map(|(pages, write)| Step::Prefault { pages, write }),
        1 => (0..2_usize, offset(), any::<u8>(), any::<bool>())
            .prop_map(|(mapping, offset, value, killed)| Step::ChildStores { mapping, offset, value, killed }),
    ]
}

struct World {
    pager: &'static Pager,
    handle: Source,
    source: std::sync::Arc<FileSource>,
    shared: [Mapped; 2],
    private: Mapped,
    /// What the file holds, with every store so far.
    file: Vec<u8>,
    /// Pages that the private mapping has of its own.
    own: BTreeMap<usize, Vec<u8>>,
}

impl World {
    fn new(pager: &'static Pager) -> Self {
        let file = pattern(PAGES);
        let source = FileSource::new(&file);
        let handle = attach(pager, &source);
        let map = |request| Mapped::new(pager, &handle, &request);
        let shared = [map(MapRequest::shared(PAGES * PAGE)), map(MapRequest::shared(PAGES * PAGE))];
        let private = map(MapRequest::private(PAGES * PAGE));
        Self { pager, handle, source, shared, private, file, own: BTreeMap::new() }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Load { mapping, offset } if offset < self.file.len() => {
                assert_eq!(self.shared[mapping].get(offset), self.file[offset]);
            }
            Step::Store { mapping, offset, length, value } => {
                for offset in offset..(offset + length).min(self.file.len()) {
                    self.shared[mapping].set(offset, value);
                    self.file[offset] = value;
                }
            }
            Step::StorePrivate { offset, value } if offset < self.file.len() => {
                self.private.set(offset, value);
                let page = offset / PAGE;
                let file = &self.file;
                let own = self.own.entry(page).or_insert_with(|| {
                    let mut copy = file[page * PAGE..file.len().min((page + 1) * PAGE)].to_vec();
                    copy.resize(PAGE, 0);
                    copy
                });
                own[offset % PAGE] = value;
            }
            Step::LoadPrivate { offset } if offset < self.file.len() => {
                let own = self.own.get(&(offset / PAGE)).map(|page| page[offset % PAGE]);
                assert_eq!(self.private.get(offset), own.unwrap_or(self.file[offset]));
            }
            Step::Sync { pages } => {
                let at = |page: usize| self.shared[0].address + page * PAGE;
                self.pager.sync(at(pages.start)..at(pages.end)).expect("synced");
                let end = (pages.end * PAGE).min(self.file.len());
                let bytes = (pages.start * PAGE).min(end)..end;
                assert!(
                    self.source.contents()[bytes.clone()] == self.file[bytes],
                    "what was synced is in the source"
                );
            }
            Step::SetLen { length } => {
                self.pager.set_len(&self.handle, length as u64).expect("length set");
                self.file.resize(length, 0);
                self.own.retain(|&page, _| page < length.div_ceil(PAGE));
            }
            Step::Drop { write_back } => {
                self.pager.drop_pages(&self.handle, write_back).expect("dropped");
            }
            Step::Prefault { pages, write } => {
                let at = |page: usize| self.shared[1].address + page * PAGE;
                drop(self.pager.prefault(at(pages.start)..at(pages.end), write).expect("read"));
            }
            Step::ChildStores { mapping, offset, value, killed } if offset < self.file.len() => {
                let private = self.own.first_key_value().map(|(page, bytes)| (page * PAGE, bytes[0]));
                let end = in_child(self.pager, || {
                    let before = self.shared[mapping].get(offset) == self.file[offset];
                    let own = private.is_none_or(|(offset, byte)| self.private.get(offset) == byte);
                    self.shared[mapping].set(offset, value);
                    if killed {
                        // SAFETY: ends this process.
                        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                    }
                    i32::from(!before) + 2 * i32::from(!own)
                });
                assert_eq!(end, if killed { End::Signal(libc::SIGKILL) } else { End::Exit(0) });
                self.file[offset] = value;
                assert_eq!(self.shared[1 - mapping].get(offset), value);
            }
            // Past the end.
            _ => {}
        }
    }
}

/// More by `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mapped_memory_is_memory(steps in prop::collection::vec(step(), 1..40)) {
        let Some(pager) = pager() else { return Ok(()) };
        let mut world = World::new(pager);
        for step in steps {
            world.take(step);
        }
        pager.sync_source(&world.handle).expect("synced");
        prop_assert!(world.source.contents() == world.file, "everything is in the source at the end");
    }
}
