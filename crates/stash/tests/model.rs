//! The arena behaves as a plain map from identifiers to values, through one mapping or two.

mod session;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use session::{SMALL, two_mappings};
use stash::{Arena, BLOB_MAX_LEN, Description, ExecEntry, Holder, PATH_MAX_LEN, SlotId, StashError, Swept};

#[derive(Debug, Clone)]
enum Step {
    Alloc {
        path: Vec<u8>,
        flags: u32,
    },
    Free(usize),
    /// A change of the n-th live slot.
    Change(usize, Change),
    ExecMap,
    Sweep,
}

#[derive(Debug, Clone)]
enum Change {
    Path(Vec<u8>),
    Blob(Vec<u8>),
    ClearBlob,
    Advance(u16),
    Seek(i64),
    Flags(u32),
    Shadow,
    Share,
}

fn bytes(lengths: &'static [usize]) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(lengths), any::<u8>())
        .prop_map(|(len, first)| (0..len).map(|i| first.wrapping_add(i as u8)).collect())
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    bytes(&[0, 1, 7, 8, 9, 100, 127, 128, 129, 1000, PATH_MAX_LEN, PATH_MAX_LEN + 1])
}

fn blob() -> impl Strategy<Value = Vec<u8>> {
    bytes(&[0, 1, 63, 64, 65, 4096, 4097, 20_000, BLOB_MAX_LEN, BLOB_MAX_LEN + 1])
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => path().prop_map(Change::Path),
        3 => blob().prop_map(Change::Blob),
        1 => Just(Change::ClearBlob),
        2 => any::<u16>().prop_map(Change::Advance),
        1 => any::<i64>().prop_map(Change::Seek),
        1 => any::<u32>().prop_map(Change::Flags),
        1 => Just(Change::Shadow),
        1 => Just(Change::Share),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (path(), any::<u32>()).prop_map(|(path, flags)| Step::Alloc { path, flags }),
        2 => (0..80_usize).prop_map(Step::Free),
        13 => (0..80_usize, change()).prop_map(|(at, change)| Step::Change(at, change)),
        1 => Just(Step::ExecMap),
        1 => Just(Step::Sweep),
    ]
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Expected {
    path: Vec<u8>,
    blob: Option<Vec<u8>>,
    offset: i64,
    flags: u32,
    shared: bool,
}

type Checked = Result<(), TestCaseError>;

/// The arena, and what it should hold.
struct World {
    mappings: (Arena, Arena),
    me: Holder,
    model: BTreeMap<SlotId, Expected>,
    freed: BTreeSet<SlotId>,
    shadows: BTreeMap<u32, u64>,
}

impl World {
    fn new() -> Self {
        let mappings = two_mappings(&SMALL);
        let me = Holder::current(mappings.0.register_process().unwrap());
        Self { mappings, me, model: BTreeMap::new(), freed: BTreeSet::new(), shadows: BTreeMap::new() }
    }

    fn apply(&mut self, step: Step, through_second: bool) -> Checked {
        let arena = if through_second { &self.mappings.1 } else { &self.mappings.0 };
        let (me, process) = (self.me, self.me.process());
        let pick = |at: usize| self.model.keys().nth(at % self.model.len().max(1)).copied();
        match step {
            Step::Alloc { path, flags } => {
                let description = Description { path: &path, status_flags: flags, ..Description::default() };
                match arena.alloc_slot(process, &description) {
                    Ok(slot) => {
                        prop_assert!(!self.freed.contains(&slot.id()), "identifiers are never given twice");
                        prop_assert_eq!(
                            slot.shadow(),
                            self.shadows.get(&slot.id().index).copied().unwrap_or(0)
                        );
                        let expected = Expected { path, flags, ..Expected::default() };
                        prop_assert!(self.model.insert(slot.id(), expected).is_none());
                    }
                    Err(StashError::Full("slots")) => prop_assert_eq!(self.model.len(), 64),
                    Err(StashError::TooLong { .. }) => prop_assert!(path.len() > PATH_MAX_LEN),
                    Err(error) => prop_assert_eq!(error, StashError::Full("blocks")),
                }
            }
            Step::Free(at) => {
                let Some(id) = pick(at) else { return Ok(()) };
                arena.free_slot(process, id).unwrap();
                prop_assert_eq!(arena.free_slot(process, id), Err(StashError::StaleSlot(id)));
                self.model.remove(&id);
                self.freed.insert(id);
            }
            Step::ExecMap => {
                let entries = self.model.keys().enumerate();
                let entries: Vec<_> = entries
                    .map(|(n, &slot)| ExecEntry {
                        fd: n as u32,
                        slot,
                        cloexec: n % 3 == 0,
                        tag: n as u8,
                        following: n as u16,
                    })
                    .collect();
                let Ok(token) = arena.put_exec_map(process, entries.clone()) else { return Ok(()) };
                let token = token.to_string().parse().unwrap();
                let mut taken = Vec::new();
                self.mappings.0.take_exec_map(token, &mut taken).unwrap();
                prop_assert_eq!(taken, entries);
                let again = self.mappings.0.take_exec_map(token, &mut Vec::new());
                prop_assert_eq!(again, Err(StashError::Absent("exec map")));
            }
            Step::Sweep => {
                let swept = arena.sweep(me, usize::MAX, |slot| self.model[&slot.id()].shared);
                prop_assert_eq!(swept, Swept::default(), "nothing here is lost");
            }
            Step::Change(at, change) => {
                let Some(id) = pick(at) else { return Ok(()) };
                if matches!(change, Change::Shadow) {
                    self.shadows.insert(id.index, shadow_of(id));
                }
                self.model.get_mut(&id).unwrap().apply(arena, id, me, change)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Checked {
        let (first, second) = &self.mappings;
        for arena in [first, second] {
            compare(arena, &self.model, self.me)?;
        }
        for id in &self.freed {
            prop_assert!(second.slot(*id).is_err());
        }
        for (&index, &inode) in &self.shadows {
            let expected = self.model.keys().find(|id| id.index == index).copied();
            prop_assert_eq!(second.find_by_shadow(inode), expected);
        }
        for &id in self.model.keys() {
            second.free_slot(self.me.process(), id).unwrap();
        }
        let empty = stash::Stats { slots: 0, processes: 1, blocks: 0 };
        prop_assert_eq!(first.stats(), empty, "nothing leaks");
        Ok(())
    }
}

fn shadow_of(id: SlotId) -> u64 {
    1_000_000 + id.index as u64 * 7
}

impl Expected {
    fn apply(&mut self, arena: &Arena, id: SlotId, me: Holder, change: Change) -> Checked {
        let slot = arena.slot(id).unwrap();
        match change {
            Change::Path(path) => match slot.lock(me).unwrap().set_path(&path) {
                Ok(()) => self.path = path,
                Err(StashError::TooLong { .. }) => prop_assert!(path.len() > PATH_MAX_LEN),
                Err(error) => prop_assert_eq!(error, StashError::Full("blocks")),
            },
            Change::Blob(blob) => match slot.lock(me).unwrap().set_blob(&blob) {
                Ok(()) => self.blob = Some(blob),
                Err(StashError::TooLong { .. }) => prop_assert!(blob.len() > BLOB_MAX_LEN),
                Err(error) => {
                    prop_assert_eq!(error, StashError::Full("blocks"));
                    self.blob = None;
                }
            },
            Change::ClearBlob => {
                slot.lock(me).unwrap().clear_blob().unwrap();
                self.blob = None;
            }
            Change::Advance(count) => {
                let answer = slot.advance_read::<StashError>(me, |offset| {
                    assert_eq!(offset, self.offset);
                    Ok(count.into())
                });
                let end = self.offset.checked_add(count.into());
                prop_assert_eq!(answer, end.map(|_| count.into()).ok_or(StashError::OffsetOverflow));
                self.offset = end.unwrap_or(self.offset);
            }
            Change::Seek(to) => {
                let guard = slot.lock(me).unwrap();
                prop_assert_eq!(guard.pin_offset(), self.offset);
                prop_assert_eq!(guard.set_offset(to).is_ok(), to >= 0);
                self.offset = if to >= 0 { to } else { self.offset };
            }
            Change::Flags(flags) => {
                slot.set_status_flags(flags);
                self.flags = flags;
            }
            Change::Shadow => slot.set_shadow(shadow_of(id)).unwrap(),
            Change::Share => {
                slot.mark_shared().unwrap();
                self.shared = true;
            }
        }
        Ok(())
    }
}

fn compare(arena: &Arena, model: &BTreeMap<SlotId, Expected>, me: Holder) -> Checked {
    let mut live = Vec::new();
    arena.for_each_live(|slot| live.push(slot.id()));
    prop_assert_eq!(live, model.keys().copied().collect::<Vec<_>>());
    let mut path = vec![0; PATH_MAX_LEN];
    let mut blob = vec![0; BLOB_MAX_LEN];
    for (&id, expected) in model {
        let slot = arena.slot(id).unwrap();
        let found = Expected {
            path: slot.path(&mut path).unwrap().to_vec(),
            blob: slot.blob(&mut blob).ok().map(<[u8]>::to_vec),
            offset: slot.offset(),
            flags: slot.status_flags(),
            shared: slot.is_shared().unwrap(),
        };
        prop_assert_eq!(&found, expected);
        prop_assert_eq!(slot.blob_len().unwrap(), expected.blob.as_ref().map(Vec::len));
        prop_assert_eq!(slot.owner().unwrap(), me.process());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_map(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for (count, step) in steps.into_iter().enumerate() {
            world.apply(step, count % 2 == 1)?;
        }
        world.check()?;
    }
}
