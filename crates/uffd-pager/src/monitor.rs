//! Faults served by a thread, so that system calls can use mapped memory like any other.

use crate::error::{Error, Result};
use crate::fault::Handled;
use crate::memory;
use crate::page::PAGE;
use crate::pager::{Mode, Pager};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::io::Errno;
use std::sync::Arc;
use std::thread::JoinHandle;
use userfaultfd::{Event, FaultKind, ReadWrite, Uffd};

/// The thread that serves a pager's faults; dropping it ends the thread. **A fault that nobody serves
/// waits for ever**: drop it after the last use of mapped memory.
#[derive(Debug)]
pub struct Monitor {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts the thread. EINVAL: the pager was not made with [`Mode::Monitor`].
    pub fn start(pager: Arc<Pager>) -> Result<Self> {
        const ACTION: &str = "starting the pager's monitor";
        if pager.mode != Mode::Monitor {
            return Err(Error::new(ACTION, Errno::INVAL));
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::on(ACTION))?;
        let stopped = rustix::io::fcntl_dupfd_cloexec(&stop, 0).map_err(Error::on(ACTION))?;
        let uffd = pager
            .uffd
            .fd()
            .and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0))
            .map_err(Error::on(ACTION))?;
        // SAFETY: an FD of our own, handed over.
        let uffd = unsafe { Uffd::from_raw_fd(uffd.into_raw_fd()) };
        let thread = std::thread::Builder::new()
            .name("uffd-pager".into())
            .spawn(move || serve(&pager, &uffd, &stopped))
            .map_err(|error| Error::new(ACTION, Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            // A panic of a source was reported on standard error.
            let _ = thread.join();
        }
    }
}

fn serve(pager: &Pager, uffd: &Uffd, stop: &OwnedFd) {
    loop {
        let mut waiting =
            [PollFd::from_borrowed_fd(uffd.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if !waiting[1].revents().is_empty() {
            return;
        }
        if let Ok(Some(Event::Pagefault { kind, rw, addr, .. })) = uffd.read_event() {
            let store = rw == ReadWrite::Write || kind == FaultKind::WriteProtected;
            answer(pager, uffd, addr.addr(), store);
        }
    }
}

fn answer(pager: &Pager, uffd: &Uffd, address: usize, store: bool) {
    let page = address / PAGE * PAGE..address / PAGE * PAGE + PAGE;
    if let Handled::Failed(_) = pager.handle_fault(address, store) {
        // The page gives SIGBUS from now on, until it is unmapped.
        let poisoned = if pager.features.poison() { pager.uffd.poison(&page) } else { Err(Errno::NOSYS) };
        if poisoned.is_err() && memory::put_failing_page(page.start).is_ok() {
            let _ = pager.replace(page.clone(), || Ok::<(), Errno>(()));
        }
    }
    // The page may have come through the pager's window, which wakes nobody here. ENOENT: unmapped
    // meanwhile, and with that awake.
    let _ = uffd.wake(memory::pointer(page.start), PAGE);
}
