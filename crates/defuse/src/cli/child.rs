//! Starting a program and standing in for it: whoever waits for this process sees what it would see of the program.
//!
//! - A signal that somebody sends to this process is passed on; one that the terminal or the kernel sends is not, since the
//!   whole foreground process group gets it.
//! - When the program stops (Ctrl-Z), so does this process; when it is continued, so is the program.
//! - When a signal kills the program, the same signal kills this process.

use std::ffi::CString;
use std::io::{PipeWriter, Read, Write, pipe};

use super::failure::Failure;
use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, raise, sigaction, sigprocmask,
};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, execvpe, fork};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

/// What to start.
pub struct Program {
    /// The file to execute, looked for along `$PATH` if there is no slash in it.
    pub file: CString,
    /// Its arguments, the zeroth included.
    pub arguments: Vec<CString>,
    /// Its environment.
    pub environment: Vec<CString>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By the signal of this number.
    Killed(i32),
}

/// Why a program did not start: the system call that failed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartError {
    /// There could be no process for it.
    Fork(Errno),
    /// It could not be executed.
    Exec(Errno),
}

/// Signals that are held back from this process while it stands in for a program.
///
/// Made before anything that must be undone at the end, such as a session's folder: from then on nothing but SIGKILL ends this process
/// against its will.
pub struct Signals {
    inherited_mask: SigSet,
    inherited_chld: SigAction,
    arriving: SignalFd,
}

impl Signals {
    /// Holds back all signals from now on.
    pub fn hold() -> Result<Self, Errno> {
        let held = SigSet::all();
        let mut inherited_mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&held), Some(&mut inherited_mask))?;
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // Were SIGCHLD ignored, as it may be by inheritance, the kernel would not keep the program's status for us.
        // SAFETY: the default action installs no handler.
        let inherited_chld = unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        let arriving = SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { inherited_mask, inherited_chld, arriving })
    }

    /// Gives this process the signal mask and dispositions back that it was started with.
    fn restore(&self) -> Result<(), Errno> {
        // SAFETY: what this process was started with can only be the default action or to ignore the signal: there is no handler.
        unsafe { sigaction(Signal::SIGCHLD, &self.inherited_chld) }?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.inherited_mask), None)
    }

    /// Starts `program` with the signals as they were, and returns its process.
    pub fn start(&self, program: &Program) -> Result<Pid, StartError> {
        let (mut failure, report) =
            pipe().map_err(|error| StartError::Fork(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
        // SAFETY: this process has one thread only, so its child may do whatever it could.
        match unsafe { fork() }.map_err(StartError::Fork)? {
            ForkResult::Child => {
                let error = self.restore().and_then(|()| {
                    execvpe(&program.file, &program.arguments, &program.environment)
                        .map(|never| match never {})
                });
                report_and_leave(report, error.err().unwrap_or(Errno::EIO))
            }
            ForkResult::Parent { child } => {
                drop(report);
                let child = Pid::from_raw(child.as_raw()).ok_or(StartError::Fork(Errno::ESRCH))?;
                let mut errno = [0; 4];
                // The pipe closes without a word when the program is executed.
                if failure.read_exact(&mut errno).is_err() {
                    return Ok(child);
                }
                let _ = waitpid(Some(child), WaitOptions::empty());
                Err(StartError::Exec(Errno::from_raw(i32::from_ne_bytes(errno))))
            }
        }
    }

    /// Waits for the end of `child`, passing signals on meanwhile.
    pub fn wait(&self, child: Pid) -> End {
        loop {
            while let Some(status) = changed(child) {
                if let Some(status) = status.exit_status() {
                    return End::Exited(status);
                }
                if let Some(signal) = status.terminating_signal() {
                    return End::Killed(signal);
                }
                if status.stopped() {
                    // We go on when somebody continues us, who means the program as well.
                    let _ = raise(Signal::SIGSTOP);
                    send(child, libc::SIGCONT);
                }
            }
            // An interrupted wait looks at the child again, as SIGCHLD does.
            if let Ok(Some(signal)) = self.arriving.read_signal()
                && signal.ssi_signo != libc::SIGCHLD as u32
                && was_sent_by_a_process(signal.ssi_code)
            {
                send(child, signal.ssi_signo as i32);
            }
        }
    }
}

/// Does `work` in a process of its own, reports its failure there, and tells how the process ended. For code that may crash.
pub fn run_apart(work: impl FnOnce() -> Result<i32, Failure>) -> Result<End, Errno> {
    // Where SIGCHLD is ignored, nobody can be told how a child ended.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action, and then what was there before, install no handler of ours.
    let before = unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    let ended = run_and_wait(work);
    // SAFETY: as above.
    unsafe { sigaction(Signal::SIGCHLD, &before) }?;
    ended
}

fn run_and_wait(work: impl FnOnce() -> Result<i32, Failure>) -> Result<End, Errno> {
    // SAFETY: this process has one thread only, so its child may do whatever it could.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            // How it ends is all that is wanted, not a core.
            let _ = set_dumpable(false);
            std::process::exit(work().unwrap_or_else(|failure| super::report(&failure)))
        }
        ForkResult::Parent { child } => Pid::from_raw(child.as_raw()).ok_or(Errno::ESRCH)?,
    };
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(status) = status.exit_status() {
                    return Ok(End::Exited(status));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(End::Killed(signal));
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
        }
    }
}

/// Ends this process as the program ended. Returns the exit status if the signal does not kill us (process 1 of a PID namespace is not killed).
pub fn end_like(end: End) -> i32 {
    let signal = match end {
        End::Exited(status) => return status,
        End::Killed(signal) => signal,
    };
    // The program's core may be wanted, ours is not.
    let _ = set_dumpable(false);
    // SAFETY: the default action installs no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: no memory is involved; the signal becomes pending for this thread, as all are held back.
    unsafe { libc::raise(signal) };
    // Only this one: others may have arrived meanwhile. Real-time signals have no name; they come last of those that arrived.
    let freed = Signal::try_from(signal).map_or_else(|_| SigSet::all(), SigSet::from);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&freed), None);
    128 + signal
}

/// What happened to `child` since it was last asked; `None` if nothing did.
fn changed(child: Pid) -> Option<WaitStatus> {
    waitpid(Some(child), WaitOptions::NOHANG | WaitOptions::UNTRACED).ok().flatten().map(|(_, status)| status)
}

/// Whether `code`, the `si_code` of a signal, means `kill`, `tgkill` or `sigqueue`, not the kernel or the terminal.
fn was_sent_by_a_process(code: i32) -> bool {
    code <= 0
}

fn send(child: Pid, signal: i32) {
    // SAFETY: no memory is involved. The child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.as_raw_nonzero().get(), signal) };
}

/// Ends a child that could not execute the program.
fn report_and_leave(mut report: PipeWriter, errno: Errno) -> ! {
    let _ = report.write_all(&(errno as i32).to_ne_bytes());
    // SAFETY: ends this process at once; what the parent has in its buffers is not written a second time.
    unsafe { libc::_exit(super::failure::NOT_FOUND) }
}
