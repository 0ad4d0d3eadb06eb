//! What the library looks up of a row. Without pointers: those the dynamic linker would have to fill in in every process, on pages of
//! its own, before `main`. The rows themselves, with their reasons, are for the documentation and the tests.

use super::{FAMILIES, Interest, MemArg, NEWEST, PathArg, Row, TRANSFERS, Treatment};

/// A row in short.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// As in the row.
    pub treatment: Treatment,
    /// As in the row.
    pub interest: Interest,
    transfers: bool,
    name: Few<u8, 24>,
    fds: Few<u8, 2>,
    paths: Few<PathArg, 2>,
    memory: Few<MemArg, 5>,
}

/// Up to `N` items.
#[derive(Debug, Clone, Copy)]
struct Few<T, const N: usize> {
    length: u8,
    items: [T; N],
}

impl<T: Copy, const N: usize> Few<T, N> {
    const fn of(items: &[T], filler: T) -> Self {
        assert!(items.len() <= N, "a row with more than there is room for");
        let mut few = Self { length: items.len() as u8, items: [filler; N] };
        let mut index = 0;
        while index < items.len() {
            few.items[index] = items[index];
            index += 1;
        }
        few
    }

    fn get(&self) -> &[T] {
        &self.items[..usize::from(self.length)]
    }
}

impl Call {
    const fn of(row: &Row, transfers: bool) -> Self {
        Self {
            treatment: row.treatment,
            interest: row.interest,
            transfers,
            name: Few::of(row.name.as_bytes(), 0),
            fds: Few::of(row.fds, 0),
            paths: Few::of(row.paths, PathArg::Cwd(0)),
            memory: Few::of(row.memory, MemArg::In(0, super::Length::Text)),
        }
    }

    /// Its name in the kernel's headers.
    pub fn name(&self) -> &str {
        std::str::from_utf8(self.name.get()).unwrap_or("?")
    }

    /// See [`Row::fds`].
    pub fn fds(&self) -> &[u8] {
        self.fds.get()
    }

    /// See [`Row::paths`].
    pub fn paths(&self) -> &[PathArg] {
        self.paths.get()
    }

    /// See [`Row::memory`].
    pub fn memory(&self) -> &[MemArg] {
        self.memory.get()
    }

    /// The first path: the argument of the directory FD that it is relative to, if there is one, and its own.
    pub fn path_argument(&self) -> Option<(Option<usize>, usize)> {
        self.paths().first().map(|path| match *path {
            PathArg::Cwd(path) => (None, path.into()),
            PathArg::At(directory, path) => (Some(directory.into()), path.into()),
        })
    }
}

/// What is known of system call `nr`: one look-up. `None` for numbers that are unassigned or newer than the table.
pub fn call(nr: impl Into<u32>) -> Option<&'static Call> {
    CALLS.get(nr.into() as usize)?.as_ref()
}

/// All that there are, with their numbers.
pub fn calls() -> impl Iterator<Item = (u32, &'static Call)> {
    (0..).zip(&CALLS).filter_map(|(nr, call)| Some((nr, call.as_ref()?)))
}

/// Whether a call moves data between memory and an FD, which is where other threads' faults and write-backs meet it.
pub fn transfers(nr: u32) -> bool {
    call(nr).is_some_and(|call| call.transfers)
}

static CALLS: [Option<Call>; NEWEST as usize + 1] = all();

#[expect(clippy::large_stack_arrays, reason = "only the compiler runs it")]
const fn all() -> [Option<Call>; NEWEST as usize + 1] {
    let mut calls = [None; NEWEST as usize + 1];
    let mut family = 0;
    while family < FAMILIES.len() {
        let rows = FAMILIES[family].1;
        let transfers = family == TRANSFERS[0] || family == TRANSFERS[1];
        let mut index = 0;
        while index < rows.len() {
            let place = &mut calls[rows[index].nr as usize];
            assert!(place.is_none(), "a number has two rows");
            *place = Some(Call::of(&rows[index], transfers));
            index += 1;
        }
        family += 1;
    }
    calls
}
