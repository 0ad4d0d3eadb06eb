//! Any sequence of calls does what a plain map of reference-counted values does, drops included.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex};

use fdtable::{Error, FdTable, Ref};
use proptest::prelude::*;

/// Writes its number down when it is dropped.
struct Logged {
    id: usize,
    dropped: Arc<Mutex<Vec<usize>>>,
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.dropped.lock().unwrap().push(self.id);
    }
}

type Log = Arc<Mutex<Vec<usize>>>;

#[derive(Debug, Clone)]
enum Call {
    Open {
        fd: i32,
        cloexec: bool,
    },
    Dup {
        from: i32,
        to: i32,
        cloexec: bool,
    },
    Close {
        fd: i32,
    },
    CloseRange {
        first: u32,
        last: u32,
    },
    SetCloexec {
        fd: i32,
        cloexec: bool,
    },
    CloexecRange {
        first: u32,
        last: u32,
    },
    Exec,
    Fork,
    /// Look up and keep the handle.
    Keep {
        fd: i32,
        clone: bool,
    },
    /// Let the n-th kept handle go.
    LetGo {
        nth: usize,
    },
    /// One more FD for the n-th kept handle.
    Share {
        nth: usize,
        fd: i32,
        cloexec: bool,
    },
    /// Close and take the value.
    Take {
        fd: i32,
    },
}

/// At both sides of the borders of a chunk and of the levels above; few, so that calls meet.
const FDS: [i32; 8] = [0, 1, 3, 1023, 1024, (1 << 20) - 1, 1 << 20, i32::MAX];

fn fd() -> impl Strategy<Value = i32> {
    prop_oneof![30 => proptest::sample::select(&FDS[..]), 1 => Just(-1), 1 => Just(i32::MIN)]
}

fn bound() -> impl Strategy<Value = u32> {
    prop_oneof![proptest::sample::select(&FDS[..]).prop_map(|fd| fd as u32), Just(2), Just(u32::MAX)]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (fd(), any::<bool>()).prop_map(|(fd, cloexec)| Call::Open { fd, cloexec }),
        6 => (fd(), fd(), any::<bool>()).prop_map(|(from, to, cloexec)| Call::Dup { from, to, cloexec }),
        4 => fd().prop_map(|fd| Call::Close { fd }),
        1 => (bound(), bound()).prop_map(|(first, last)| Call::CloseRange { first, last }),
        2 => (fd(), any::<bool>()).prop_map(|(fd, cloexec)| Call::SetCloexec { fd, cloexec }),
        1 => (bound(), bound()).prop_map(|(first, last)| Call::CloexecRange { first, last }),
        1 => Just(Call::Exec),
        1 => Just(Call::Fork),
        6 => (fd(), any::<bool>()).prop_map(|(fd, clone)| Call::Keep { fd, clone }),
        4 => (0..8_usize).prop_map(|nth| Call::LetGo { nth }),
        2 => (0..8_usize, fd(), any::<bool>()).prop_map(|(nth, fd, cloexec)| Call::Share { nth, fd, cloexec }),
        2 => fd().prop_map(|fd| Call::Take { fd }),
    ]
}

/// What the table should be: the whole of it under `&mut`, with `Arc`.
#[derive(Default)]
struct Model {
    fds: BTreeMap<i32, (Arc<Logged>, bool)>,
    kept: Vec<Arc<Logged>>,
}

impl Model {
    fn fds_of(&self, id: usize) -> usize {
        self.fds.values().filter(|(value, _)| value.id == id).count()
    }

    fn in_range(&self, first: u32, last: u32) -> Vec<i32> {
        self.fds.keys().copied().filter(|fd| (first..=last).contains(&(*fd as u32))).collect()
    }

    /// Removes an FD; tells what a `Released` tells.
    fn remove(&mut self, fd: i32) -> Option<(usize, bool)> {
        let (value, _) = self.fds.remove(&fd)?;
        Some((value.id, self.fds_of(value.id) == 0))
    }

    fn enter(&mut self, fd: i32, value: Arc<Logged>, cloexec: bool) -> Option<(usize, bool)> {
        // The FD is replaced in one step: entering first matters if both are the same description.
        let before = self.fds.insert(fd, (value, cloexec))?;
        Some((before.0.id, self.fds_of(before.0.id) == 0))
    }
}

struct Run<'table> {
    table: &'table FdTable<Logged>,
    kept: Vec<Ref<'table, Logged>>,
    log: Log,
    model: Model,
    model_log: Log,
    opened: usize,
}

impl Run<'_> {
    fn call(&mut self, call: &Call) {
        match *call {
            Call::Open { fd, cloexec } => self.open(fd, cloexec),
            Call::Dup { from, to, cloexec } => self.dup(from, to, cloexec),
            Call::Close { fd } => {
                let released = self.table.remove(fd).map(|released| (released.id, released.is_last_fd()));
                assert_eq!(released, self.model.remove(fd));
            }
            Call::CloseRange { first, last } => {
                let mut closed = Vec::new();
                self.table
                    .close_range(first, last, |fd, it| closed.push((fd, Some((it.id, it.is_last_fd())))));
                let expected = self.model.in_range(first, last);
                assert_eq!(
                    closed,
                    expected.into_iter().map(|fd| (fd, self.model.remove(fd))).collect::<Vec<_>>()
                );
            }
            Call::SetCloexec { fd, cloexec } => {
                let former = self.model.fds.get_mut(&fd).map(|(_, flag)| mem::replace(flag, cloexec));
                assert_eq!(self.table.set_cloexec(fd, cloexec), former);
            }
            Call::CloexecRange { first, last } => {
                self.table.cloexec_range(first, last);
                for fd in self.model.in_range(first, last) {
                    self.model.fds.entry(fd).and_modify(|(_, flag)| *flag = true);
                }
            }
            Call::Exec => {
                let mut closed = Vec::new();
                self.table.close_on_exec(|fd, it| closed.push((fd, it.id)));
                let (gone, left) =
                    mem::take(&mut self.model.fds).into_iter().partition(|(_, (_, cloexec))| *cloexec);
                self.model.fds = left;
                let gone: BTreeMap<_, _> = gone;
                assert_eq!(closed, gone.iter().map(|(fd, (value, _))| (*fd, value.id)).collect::<Vec<_>>());
            }
            Call::Fork => self.fork(),
            Call::Keep { fd, clone } => {
                let kept = self.table.get(fd).map(|kept| if clone { kept.clone() } else { kept });
                assert_eq!(
                    kept.as_ref().map(|kept| kept.id),
                    self.model.fds.get(&fd).map(|(value, _)| value.id)
                );
                self.kept.extend(kept);
                self.model.kept.extend(self.model.fds.get(&fd).map(|(value, _)| value.clone()));
            }
            Call::LetGo { nth } => {
                if nth < self.kept.len() {
                    self.kept.swap_remove(nth);
                    self.model.kept.swap_remove(nth);
                }
            }
            Call::Share { nth, fd, cloexec } => self.share(nth, fd, cloexec),
            Call::Take { fd } => {
                let taken =
                    self.table.remove(fd).and_then(fdtable::Released::into_inner).map(|value| value.id);
                let expected = self.model.fds.remove(&fd).and_then(|(value, _)| Arc::into_inner(value));
                assert_eq!(taken, expected.map(|value| value.id));
            }
        }
    }

    fn open(&mut self, fd: i32, cloexec: bool) {
        let id = self.opened;
        self.opened += 1;
        let result = self.table.insert(fd, Logged { id, dropped: self.log.clone() }, cloexec);
        let value = Arc::new(Logged { id, dropped: self.model_log.clone() });
        if fd < 0 {
            assert_eq!(result.map(drop), Err(Error::NegativeFd { fd }));
        } else {
            assert_eq!(told(result), Ok(self.model.enter(fd, value, cloexec)));
        }
    }

    fn dup(&mut self, from: i32, to: i32, cloexec: bool) {
        let result = told(self.table.dup(from, to, cloexec));
        let Some((value, _)) = self.model.fds.get(&from) else {
            return assert_eq!(result, Err(Error::NotOpen { from, to }));
        };
        if to < 0 {
            assert_eq!(result, Err(Error::NegativeFd { fd: to }));
        } else if from == to {
            assert_eq!(result, Ok(None));
        } else {
            let value = value.clone();
            assert_eq!(result, Ok(self.model.enter(to, value, cloexec)));
        }
    }

    fn share(&mut self, nth: usize, fd: i32, cloexec: bool) {
        let Some(kept) = self.kept.get(nth) else { return };
        let result = told(self.table.insert_shared(fd, kept, cloexec));
        if fd < 0 {
            assert_eq!(result, Err(Error::NegativeFd { fd }));
        } else if self.model.fds_of(kept.id) == 0 {
            assert_eq!(result, Err(Error::Retired { fd }));
        } else {
            let value = self.model.kept[nth].clone();
            assert_eq!(result, Ok(self.model.enter(fd, value, cloexec)));
        }
    }

    /// The kept handles belong to threads that don't exist in the child.
    fn fork(&mut self) {
        self.kept.drain(..).for_each(mem::forget);
        // SAFETY: one thread, and no handle is left that will be used.
        unsafe { self.table.after_fork_in_child() };
        for value in mem::take(&mut self.model.kept) {
            if self.model.fds_of(value.id) == 0 {
                mem::forget(value); // never dropped in the child, as documented
            }
        }
    }

    fn check(&self) {
        let mut found = Vec::new();
        self.table
            .for_each(|fd, value, cloexec| found.push((fd, value.id, cloexec, Ref::fds(value) as usize)));
        let expected = self.model.fds.iter();
        let expected =
            expected.map(|(fd, (value, cloexec))| (*fd, value.id, *cloexec, self.model.fds_of(value.id)));
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert_eq!(self.table.len(), self.model.fds.len());
        assert_eq!(self.table.is_empty(), self.model.fds.is_empty());
        for fd in FDS {
            assert_eq!(self.table.cloexec(fd), self.model.fds.get(&fd).map(|(_, cloexec)| *cloexec));
            assert_eq!(
                self.table.get(fd).map(|value| value.id),
                self.model.fds.get(&fd).map(|(value, _)| value.id)
            );
        }
        for (kept, expected) in self.kept.iter().zip(&self.model.kept) {
            assert_eq!((kept.id, Ref::fds(kept) as usize), (expected.id, self.model.fds_of(expected.id)));
        }
        assert_eq!(sorted(&self.log), sorted(&self.model_log));
    }
}

type Told = Result<Option<(usize, bool)>, Error>;

fn told(result: Result<Option<fdtable::Released<Logged>>, Error>) -> Told {
    result.map(|released| released.map(|released| (released.id, released.is_last_fd())))
}

fn sorted(log: &Log) -> Vec<usize> {
    let mut ids = log.lock().unwrap().clone();
    ids.sort_unstable();
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map_of_arcs(calls in proptest::collection::vec(call(), 1..60)) {
        let table = FdTable::new();
        let (log, model_log) = (Log::default(), Log::default());
        {
            let mut run = Run {
                table: &table,
                kept: Vec::new(),
                log: log.clone(),
                model: Model::default(),
                model_log: model_log.clone(),
                opened: 0,
            };
            for call in &calls {
                run.call(call);
                run.check();
            }
        }
        drop(table);
        // Nothing is dropped twice, and nothing is left but what a fork has orphaned in both.
        prop_assert_eq!(sorted(&log), sorted(&model_log));
    }
}
