//! The ends of the FD range, and calls that meet an FD that is not in the table.
#![cfg(not(loom))]

use fdtable::{Error, FdState, FdStates, FdTable, Ref};
use rstest::rstest;

#[rstest]
fn numbers_that_are_no_fd_are_never_open(#[values(-1, -100, i32::MIN)] fd: i32) {
    let table = FdTable::new();
    table.insert(0, 'a', false).unwrap();
    assert_eq!(table.insert(fd, 'b', false).map(drop), Err(Error::NegativeFd { fd }));
    assert_eq!(table.dup(0, fd, false).map(drop), Err(Error::NegativeFd { fd }));
    assert_eq!(table.dup(fd, 0, false).map(drop), Err(Error::NotOpen { from: fd, to: 0 }));
    assert!(table.get(fd).is_none() && table.remove(fd).is_none());
    assert_eq!((table.cloexec(fd), table.set_cloexec(fd, true)), (None, None));
    assert_eq!(table.len(), 1);
}

#[rstest]
fn every_number_that_can_be_an_fd_works(
    #[values(0, 1023, 1024, (1 << 20) - 1, 1 << 20, 1 << 30, i32::MAX - 1, i32::MAX)] fd: i32,
) {
    let table = FdTable::new();
    assert!(table.insert(fd, 'a', true).unwrap().is_none());
    assert_eq!(table.get(fd).as_deref(), Some(&'a'));
    assert!(table.get(fd ^ 1).is_none());
    assert_eq!(table.cloexec(fd), Some(true));
    let mut closed = Vec::new();
    table.close_range(fd as u32, fd as u32, |fd, released| closed.push((fd, *released)));
    assert_eq!(closed, [(fd, 'a')]);
    assert!(table.is_empty());
}

#[rstest]
#[case::all(0, u32::MAX, &[])]
#[case::but_the_standard_ones(3, u32::MAX, &[0])]
#[case::empty_range(5, 4, &[0, 3, i32::MAX])]
#[case::above_every_fd(1 << 31, u32::MAX, &[0, 3, i32::MAX])]
#[case::the_last(i32::MAX as u32, i32::MAX as u32, &[0, 3])]
fn close_range_and_cloexec_range_take_the_bounds_of_the_system_call(
    #[case] first: u32,
    #[case] last: u32,
    #[case] left: &[i32],
) {
    let table = FdTable::new();
    for fd in [0, 3, i32::MAX] {
        table.insert(fd, (), false).unwrap();
    }
    table.cloexec_range(first, last);
    table.for_each(|fd, _, cloexec| assert_eq!(cloexec, !left.contains(&fd)));
    table.close_range(first, last, |_, _| ());
    let mut found = Vec::new();
    table.for_each(|fd, _, _| found.push(fd));
    assert_eq!(found, left);
}

#[test]
fn the_flag_belongs_to_the_fd_and_not_to_the_description() {
    let table = FdTable::new();
    table.insert(3, (), true).unwrap();
    table.dup(3, 4, false).unwrap();
    assert_eq!((table.cloexec(3), table.cloexec(4)), (Some(true), Some(false)));
    // dup2(3, 3) changes nothing, not even the flag.
    table.dup(3, 3, false).unwrap();
    assert_eq!(table.cloexec(3), Some(true));
}

#[test]
fn a_new_file_under_an_old_number_does_not_inherit_the_flag() {
    let table = FdTable::new();
    table.insert(3, 'a', true).unwrap();
    let replaced = table.insert(3, 'b', false).unwrap().expect("was open");
    assert_eq!((*replaced, replaced.is_last_fd()), ('a', true));
    assert_eq!(table.cloexec(3), Some(false));
}

#[test]
fn dup_over_an_fd_of_the_same_description_is_not_its_last_close() {
    let table = FdTable::new();
    table.insert(3, (), false).unwrap();
    table.dup(3, 4, false).unwrap();
    let replaced = table.dup(3, 4, true).unwrap().expect("was open");
    assert!(!replaced.is_last_fd());
    drop(replaced);
    let description = table.get(4).expect("open");
    assert_eq!(Ref::fds(&description), 2);
    assert!(Ref::same(&description, &table.get(3).expect("open")));
}

#[test]
fn a_closure_and_a_drop_may_use_the_table() {
    struct ClosesAnother(&'static FdTable<ClosesAnother>, i32);
    impl Drop for ClosesAnother {
        fn drop(&mut self) {
            drop(self.0.remove(self.1));
        }
    }
    static TABLE: FdTable<ClosesAnother> = FdTable::new();
    for fd in 0..10 {
        TABLE.insert(fd, ClosesAnother(&TABLE, fd + 1), false).unwrap();
    }
    TABLE.for_each(|fd, _, _| {
        if fd < 10 {
            drop(TABLE.dup(fd, fd + 2000, false));
        }
    });
    assert_eq!(TABLE.len(), 20);
    TABLE.close_range(2000, u32::MAX, |fd, released| {
        assert!(!released.is_last_fd() && TABLE.get(fd).is_none());
    });
    drop(TABLE.remove(0));
    assert!(TABLE.is_empty());
}

#[test]
fn an_error_names_what_was_attempted() {
    let table = FdTable::<()>::new();
    let error = table.dup(3, 7, false).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "duplicating FD 3 to FD 7: FD 3 is not in the table");
    let error = table.insert(-1, (), false).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "entering FD -1: negative number");
}

static STATES: FdStates = FdStates::new();

#[rstest]
#[case(-1, false)]
#[case(i32::MIN, false)]
#[case(100, true)]
#[case(65_535, true)]
#[case(65_536, false)]
#[case(i32::MAX, false)]
fn states_exist_for_the_first_65536_fds(#[case] fd: i32, #[case] has_byte: bool) {
    assert_eq!(STATES.get(fd), FdState::Unknown);
    assert_eq!(STATES.learn(fd, FdState::Foreign), has_byte);
    assert_eq!(STATES.get(fd), if has_byte { FdState::Foreign } else { FdState::Unknown });
    assert!(!STATES.learn(fd, FdState::Served), "known already, or without a byte");
    STATES.set(fd, FdState::Served);
    assert_eq!(STATES.get(fd), if has_byte { FdState::Served } else { FdState::Unknown });
    STATES.forget(fd);
    assert_eq!(STATES.get(fd), FdState::Unknown);
}

#[rstest]
#[case(0, u32::MAX, &[])]
#[case(3, u32::MAX, &[0, 2])]
#[case(3, 3, &[0, 2, 65_535])]
#[case(4, 3, &[0, 2, 3, 65_535])]
#[case(65_536, u32::MAX, &[0, 2, 3, 65_535])]
#[case(u32::MAX, 0, &[0, 2, 3, 65_535])]
fn forgetting_a_range_leaves_the_others(#[case] first: u32, #[case] last: u32, #[case] left: &[i32]) {
    let states: Box<FdStates> = Box::default();
    let all = [0, 2, 3, 65_535];
    for fd in all {
        states.set(fd, FdState::Served);
    }
    states.forget_range(first, last);
    assert_eq!(all.into_iter().filter(|fd| states.get(*fd) == FdState::Served).collect::<Vec<_>>(), left);
}

#[test]
fn assembly_finds_the_byte_of_an_fd_at_that_offset() {
    let states: Box<FdStates> = Box::default();
    states.set(0, FdState::Foreign);
    states.set(77, FdState::Served);
    // SAFETY: both offsets are below LEN, and no thread writes.
    let bytes = [0, 1, 77].map(|fd| unsafe { *states.as_ptr().add(fd) });
    assert_eq!(bytes, [FdState::Foreign as u8, FdState::Unknown as u8, FdState::Served as u8]);
    assert_eq!(bytes, [1, 0, 2], "the numbers are part of the interface");
    assert_eq!(size_of::<FdStates>(), FdStates::LEN);
}
