//! Room for pages when this process has none to give back: other files that the session has mapped have some.

use uffd_pager::View;

use super::store;
use crate::nofile;
use crate::process::Process;

/// Gives back `wanted` pages of the session's caches, or as many as are clean, and returns how many. In the handler of a fault,
/// of a thread that holds no lock of ours. A process that may not list the caches, as it has dropped its privileges, gives back none.
pub fn from_session(process: &'static Process, wanted: u64) -> u64 {
    let mut given = 0;
    let listed = store::each_cache(&process.shared_folder, |cache| {
        let view = nofile::with_room(|| View::open(cache));
        given += view.and_then(|view| view.give_back(wanted - given)).unwrap_or(0);
        given >= wanted
    });
    if let Err(error) = listed {
        crate::trace::debug(format_args!("the session's mapped files cannot be listed: {error}"));
    }
    given
}
