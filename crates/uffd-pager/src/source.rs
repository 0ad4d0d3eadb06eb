//! Where pages come from and go to.

use rustix::io::Errno;

/// What is mapped: the file that the pages are read from and written back to.
///
/// Reads are made wherever a page is touched: in a SIGBUS handler, with all signals blocked, while the
/// thread may hold any lock of the program (its allocator's too), in the child of a fork. So a source
/// must not take a lock that code touching its mapped memory can hold, and not use the program's
/// allocator unless the program never touches mapped memory inside it. With [`Mode::Monitor`](crate::Mode)
/// reads of faulting threads run in the monitor thread instead, without these limits.
///
/// Touching memory that another source serves is allowed to a depth of [`MAX_NESTING`](crate::MAX_NESTING);
/// beyond that the fault fails with EDEADLK. Calls for different ranges run at the same time.
pub trait PageSource: Send + Sync {
    /// Reads into `buffer` (whole pages, except that a buffer may end past the end of the file) from
    /// byte `offset`, a multiple of the page size. Returns the bytes read; the pager clears the rest
    /// past the end of the file and takes a short read before the end for EIO.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes all of `data` at byte `offset`, a multiple of the page size. The last page of the file
    /// comes without the bytes past the end. Called from [`Pager::sync`](crate::Pager::sync) and its
    /// kin, and, with a limit to resident pages, where pages are read.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// The length in bytes.
    fn len(&self) -> Result<u64, Errno>;

    /// Sets the length, as ftruncate(2) does; called from [`Pager::set_len`](crate::Pager::set_len)
    /// while no page of the source is being read. Touching memory served from this source fails with EDEADLK (SIGBUS).
    fn set_len(&self, _len: u64) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Whether there is nothing to map.
    fn is_empty(&self) -> Result<bool, Errno> {
        Ok(self.len()? == 0)
    }
}
