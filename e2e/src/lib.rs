//! End-to-end tests of defuse: a script that runs on a plain directory and on a mount must not be able to
//! tell the two apart.
//!
//! A [`Case`] is a bash script. It runs twice, under the same path: first on a plain directory on tmpfs, then
//! on a mount whose backend is a fresh directory on tmpfs. Output, exit status and the resulting trees are
//! compared; after that nothing of the session may be left (see [`leftover`]). Because the path is the same
//! text in both runs, nothing in the output needs to be rewritten before it is compared.
//!
//! The script sees these variables:
//!
//! | variable | meaning |
//! |---|---|
//! | `MNT` | the directory under test, empty at the start (but for what [`Case::setup`] made) |
//! | `OUT` | an empty directory that is never on the mount, on another device than `MNT` where there is one |
//! | `FIX` | the directory with the compiled [`fixture`]s the case asked for |
//! | `HOME`, `TMPDIR` | fresh, not on the mount |
//!
//! It runs under `set -eu` with `MNT`'s parent as the working directory, and must succeed on the plain directory: a test that
//! compares two equal failures proves nothing.
//!
//! `DEFUSE_E2E_RUNNER=plain` runs the second pass on a plain directory, too: it tells whether a script is
//! deterministic at all. `DEFUSE_E2E_MOUNT=module` makes the mount with `mount -t defuse` instead of `-m`, which needs root and the loaded
//! kernel module (`cargo vmtest run --with defuse-e2e` does all that). `DEFUSE_E2E_KEEP=1` keeps the folders of failed cases.
//! `DEFUSE_E2E_LIMIT=SECONDS` shortens the time after which a run is killed.

#![forbid(unsafe_code)]

pub mod case;
pub mod diff;
pub mod fixture;
pub mod leftover;
pub mod module;
pub mod mounted;
pub mod place;
pub mod process;
pub mod product;
pub mod requirement;
pub mod session;
pub mod tree;

pub use case::{Case, Serving, script};
pub use session::Session;

/// Defines two tests for each named [`Case`]: `NAME::served` with the plugin's own read and write, and
/// `NAME::native` with the backing FD handed to the program.
#[macro_export]
macro_rules! same_as_plain {
    ($($cases:tt)+) => { $crate::same_as_plain_by! { [served: Plugin, native: BackingFd] $($cases)+ } };
}

/// As [`same_as_plain`], with `NAME::served` only: for what shows where an FD leads. A backing FD is the file itself, so
/// `/proc/self/fd` names the file in the back end (see the limits in the README).
#[macro_export]
macro_rules! same_as_plain_served {
    ($($cases:tt)+) => { $crate::same_as_plain_by! { [served: Plugin] $($cases)+ } };
}

/// As [`same_as_plain`], with one test for each listed [`Serving`]: `[TEST: SERVING, ...]`, then the cases.
#[macro_export]
macro_rules! same_as_plain_by {
    (@case [$($test:ident: $serving:ident),+] $attributes:tt $case:expr) => {
        $($crate::same_as_plain_by! { @test $test $serving $attributes $case })+
    };
    (@test $test:ident $serving:ident [$(#[$meta:meta])*] $case:expr) => {
        $(#[$meta])*
        #[test]
        fn $test() {
            let case: $crate::Case = $case;
            case.compare($crate::Serving::$serving);
        }
    };
    ($servings:tt $($(#[$meta:meta])* $name:ident: $case:expr;)+) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::same_as_plain_by! { @case $servings [$(#[$meta])*] $case }
        }
    )+};
}

/// As [`same_as_plain`], and `NAME::paged`, where the plugin lends no pages and the pager maps the files: for what maps them.
#[macro_export]
macro_rules! same_as_plain_mapped {
    ($($(#[$meta:meta])* $name:ident: $case:expr;)+) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $(#[$meta])*
            #[test]
            fn served() {
                let case: $crate::Case = $case;
                case.compare($crate::Serving::Plugin);
            }

            $(#[$meta])*
            #[test]
            fn native() {
                let case: $crate::Case = $case;
                case.compare($crate::Serving::BackingFd);
            }

            $(#[$meta])*
            #[test]
            fn paged() {
                let case: $crate::Case = $case;
                case.compare($crate::Serving::Paged);
            }
        }
    )+};
}
