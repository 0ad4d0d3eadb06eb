//! The dispatcher does what the table says.

use super::{refused, server};
use crate::table::{NEWEST, Treatment, row, rows};

#[test]
fn a_call_has_a_function_exactly_if_its_row_says_that_we_do_something() {
    for row in rows() {
        let ours =
            matches!(row.treatment, Treatment::Served | Treatment::Refused(_) | Treatment::RefusedOnMount(_));
        assert_eq!(server(row.nr.into()).is_some(), ours, "{row:?}");
    }
}

/// What `interpose` does by itself, by its documentation.
const INTERPOSED: [&str; 9] = [
    "clone",
    "clone3",
    "exit",
    "fork",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigsuspend",
    "sigaltstack",
    "vfork",
];

#[test]
fn what_no_function_does_is_done_by_interpose() {
    let mut named: Vec<&str> =
        rows().filter(|row| row.treatment == Treatment::Interposed).map(|row| row.name).collect();
    named.sort_unstable();
    assert_eq!(named, INTERPOSED);
}

#[test]
fn numbers_without_a_row_are_the_kernels() {
    assert!((0..2 * u32::from(NEWEST)).filter(|&nr| row(nr).is_none()).all(|nr| server(nr).is_none()));
}

#[test]
fn nothing_that_is_served_is_refused_by_its_row() {
    for row in rows().filter(|row| row.treatment == Treatment::Served) {
        assert!(refused::server(row.nr.into()).is_none(), "{row:?}");
    }
}

#[test]
fn a_refused_call_names_what_it_may_concern() {
    for row in rows().filter(|row| matches!(row.treatment, Treatment::RefusedOnMount(_))) {
        assert!(!row.fds.is_empty() || !row.paths.is_empty(), "{row:?}");
        assert!(row.paths.len() <= 2, "{row:?}");
    }
}
