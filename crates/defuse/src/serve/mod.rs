//! The system calls that are served, one module for each family.

#![allow(clippy::unnecessary_wraps, reason = "all serving functions have one type")]
#![allow(clippy::large_enum_variant, reason = "paths live on the stack: nothing is allocated for a look-up")]

mod absent;
mod address_space;
mod asynchronous;
pub mod attributes;
mod beside;
mod busy;
mod comparing;
mod control;
mod copying;
mod descriptors;
mod directory;
pub mod ending;
mod enter;
mod exec;
pub mod extended;
mod file_size;
pub mod fork;
pub mod inner;
mod landlock;
mod last_numbers;
mod limits;
mod lingering;
pub mod locks;
mod mapping;
mod metadata;
mod names;
mod namespaces;
mod native_locks;
mod open;
mod other_end;
mod outsider;
pub mod paths;
mod peers;
mod pinned;
mod piping;
mod places;
mod read_only;
mod receiving;
mod refused;
mod reserved;
mod sandbox;
mod scoped;
mod sending;
mod sockets;
#[cfg(test)]
mod table_tests;
mod together;
mod transfer;
mod transfer_flags;
mod two_names;
mod xattr;

use std::os::fd::RawFd;

use interpose::{Call, End, Fault, ForkCall, Handler, Outcome};
use linux_raw_sys::general as sys;
use rustix::io::Errno;
use uffd_pager::Prefaulted;

use crate::log::Quoted;
use crate::native;
use crate::paging::prefault;
use crate::process::Process;
use crate::table::{self, Interest};
use crate::{private_fd, thread, trace};

pub use inner::INNER;
pub use transfer::size_of_file;

/// What a served call gives back.
pub enum Reply {
    /// The result of the call.
    Value(i64),
    /// The kernel is to do it as the program said.
    Pass,
    /// The kernel is to do it with these arguments.
    PassWith([u64; 6]),
}

/// The result of a serving function.
pub type Served = Result<Reply, Errno>;

/// Serves one system call.
pub type Server = fn(&'static Process, &Call) -> Served;

/// Success without a value.
pub const DONE: Served = Ok(Reply::Value(0));

/// Whether the call is about an FD that the program does not have.
fn is_about_private_fd(call: &Call) -> bool {
    private_fd::is_hidden(call.args[0] as RawFd)
        && table::call(call.nr)
            .is_some_and(|known| matches!(known.interest, Interest::ByFd | Interest::Closes))
}

/// The function that serves system call `nr`, if it is served.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn server(nr: u32) -> Option<Server> {
    let server: Server = match nr {
        sys::__NR_open => open::open,
        sys::__NR_openat => open::openat,
        sys::__NR_openat2 => open::openat2,
        sys::__NR_creat => open::creat,

        sys::__NR_read => transfer::read,
        sys::__NR_pread64 => transfer::pread,
        sys::__NR_readv => transfer::readv,
        sys::__NR_preadv => transfer::preadv,
        sys::__NR_preadv2 => transfer::preadv2,
        sys::__NR_write => transfer::write,
        sys::__NR_pwrite64 => transfer::pwrite,
        sys::__NR_writev => transfer::writev,
        sys::__NR_pwritev => transfer::pwritev,
        sys::__NR_pwritev2 => transfer::pwritev2,
        sys::__NR_lseek => transfer::lseek,

        sys::__NR_io_submit => asynchronous::io_submit,
        sys::__NR_sendfile => copying::sendfile,
        sys::__NR_splice => copying::splice,
        sys::__NR_tee => copying::tee,
        sys::__NR_vmsplice => copying::vmsplice,
        sys::__NR_copy_file_range => copying::copy_file_range,

        sys::__NR_stat => attributes::stat,
        sys::__NR_lstat => attributes::lstat,
        sys::__NR_fstat => attributes::fstat,
        sys::__NR_newfstatat => attributes::newfstatat,
        sys::__NR_statx => attributes::statx,
        sys::__NR_access => attributes::access,
        sys::__NR_faccessat => attributes::faccessat,
        sys::__NR_faccessat2 => attributes::faccessat2,
        sys::__NR_statfs => attributes::statfs,
        sys::__NR_fstatfs => attributes::fstatfs,

        sys::__NR_chmod => metadata::chmod,
        sys::__NR_fchmod => metadata::fchmod,
        sys::__NR_fchmodat => metadata::fchmodat,
        sys::__NR_fchmodat2 => metadata::fchmodat2,
        sys::__NR_chown => metadata::chown,
        sys::__NR_lchown => metadata::lchown,
        sys::__NR_fchown => metadata::fchown,
        sys::__NR_fchownat => metadata::fchownat,
        sys::__NR_utime => metadata::utime,
        sys::__NR_utimes => metadata::utimes,
        sys::__NR_futimesat => metadata::futimesat,
        sys::__NR_utimensat => metadata::utimensat,
        sys::__NR_truncate => metadata::truncate,
        sys::__NR_ftruncate => metadata::ftruncate,
        sys::__NR_fallocate => metadata::fallocate,
        sys::__NR_fsync => metadata::fsync,
        sys::__NR_fdatasync => metadata::fdatasync,
        sys::__NR_sync_file_range => metadata::sync_file_range,
        sys::__NR_syncfs => metadata::syncfs,
        sys::__NR_sync => metadata::sync_all,
        sys::__NR_fadvise64 => metadata::fadvise,
        sys::__NR_readahead => metadata::readahead,
        sys::__NR_ioctl => metadata::ioctl,

        sys::__NR_mkdir => names::mkdir,
        sys::__NR_mkdirat => names::mkdirat,
        sys::__NR_mknod => names::mknod,
        sys::__NR_mknodat => names::mknodat,
        sys::__NR_rmdir => names::rmdir,
        sys::__NR_unlink => names::unlink,
        sys::__NR_unlinkat => names::unlinkat,
        sys::__NR_symlink => names::symlink,
        sys::__NR_symlinkat => names::symlinkat,
        sys::__NR_readlink => names::readlink,
        sys::__NR_readlinkat => names::readlinkat,
        sys::__NR_link => two_names::link,
        sys::__NR_linkat => two_names::linkat,
        sys::__NR_rename => two_names::rename,
        sys::__NR_renameat => two_names::renameat,
        sys::__NR_renameat2 => two_names::renameat2,
        sys::__NR_name_to_handle_at => names::name_to_handle_at,
        sys::__NR_inotify_add_watch => names::inotify_add_watch,

        sys::__NR_setxattr => xattr::setxattr,
        sys::__NR_lsetxattr => xattr::lsetxattr,
        sys::__NR_fsetxattr => xattr::fsetxattr,
        sys::__NR_getxattr => xattr::getxattr,
        sys::__NR_lgetxattr => xattr::lgetxattr,
        sys::__NR_fgetxattr => xattr::fgetxattr,
        sys::__NR_listxattr => xattr::listxattr,
        sys::__NR_llistxattr => xattr::llistxattr,
        sys::__NR_flistxattr => xattr::flistxattr,
        sys::__NR_removexattr => xattr::removexattr,
        sys::__NR_lremovexattr => xattr::lremovexattr,
        sys::__NR_fremovexattr => xattr::fremovexattr,
        sys::__NR_setxattrat => xattr::setxattrat,
        sys::__NR_getxattrat => xattr::getxattrat,
        sys::__NR_listxattrat => xattr::listxattrat,
        sys::__NR_removexattrat => xattr::removexattrat,

        sys::__NR_getdents => directory::getdents,
        sys::__NR_getdents64 => directory::getdents64,
        sys::__NR_chdir => directory::chdir,
        sys::__NR_fchdir => directory::fchdir,
        sys::__NR_getcwd => directory::getcwd,
        sys::__NR_chroot => directory::chroot,

        sys::__NR_close => descriptors::close,
        sys::__NR_close_range => descriptors::close_range,
        sys::__NR_kcmp => comparing::kcmp,
        sys::__NR_dup => descriptors::dup,
        sys::__NR_dup2 => descriptors::dup2,
        sys::__NR_dup3 => descriptors::dup3,
        sys::__NR_fcntl => descriptors::fcntl,
        sys::__NR_poll | sys::__NR_ppoll => places::poll,
        sys::__NR_select | sys::__NR_pselect6 => places::select,
        sys::__NR_epoll_ctl
        | sys::__NR_epoll_wait
        | sys::__NR_epoll_pwait
        | sys::__NR_epoll_pwait2
        | sys::__NR_signalfd
        | sys::__NR_signalfd4
        | sys::__NR_timerfd_settime
        | sys::__NR_timerfd_gettime
        | sys::__NR_inotify_rm_watch
        | sys::__NR_listen
        | sys::__NR_shutdown
        | sys::__NR_setsockopt
        | sys::__NR_getsockopt
        | sys::__NR_fsconfig
        | sys::__NR_fsmount => places::not_of_places,
        sys::__NR_sendmsg | sys::__NR_sendmmsg => sending::send_message,
        sys::__NR_socket => sockets::socket,
        sys::__NR_bind => sockets::bind,
        sys::__NR_connect => sockets::connect,
        sys::__NR_sendto => sockets::sendto,
        sys::__NR_getsockname | sys::__NR_getpeername => sockets::name,
        sys::__NR_accept | sys::__NR_accept4 => peers::accept,
        sys::__NR_recvfrom => peers::recvfrom,
        sys::__NR_recvmsg => receiving::recvmsg,
        sys::__NR_recvmmsg => receiving::recvmmsg,
        sys::__NR_pidfd_getfd => receiving::pidfd_getfd,

        sys::__NR_flock => locks::flock,

        sys::__NR_mmap => mapping::mmap,
        sys::__NR_munmap => address_space::munmap,
        sys::__NR_mremap => address_space::mremap,
        sys::__NR_mprotect | sys::__NR_pkey_mprotect => address_space::mprotect,
        sys::__NR_msync => address_space::msync,
        sys::__NR_madvise => address_space::madvise,
        sys::__NR_mlock | sys::__NR_mlock2 => address_space::mlock,
        sys::__NR_remap_file_pages => address_space::remap_file_pages,
        sys::__NR_shmat => address_space::shmat,
        sys::__NR_exit_group => ending::exit_group,

        sys::__NR_execve => exec::execve,
        sys::__NR_execveat => exec::execveat,

        sys::__NR_umask => limits::umask,
        sys::__NR_getrlimit => limits::getrlimit,
        sys::__NR_setrlimit => limits::setrlimit,
        sys::__NR_prlimit64 => limits::prlimit64,
        sys::__NR_unshare => namespaces::unshare,
        sys::__NR_setns => namespaces::setns,
        sys::__NR_prctl => sandbox::prctl,
        sys::__NR_seccomp => sandbox::seccomp,
        sys::__NR_landlock_add_rule => landlock::add_rule,
        sys::__NR_landlock_restrict_self => landlock::restrict_self,
        _ => return refused::server(nr),
    };
    Some(server)
}

/// From <asm-generic/signal.h>.
const SIGBUS: u32 = 7;

/// The call is the kernel's. Where its arguments are in memory that was made ready, that has to stay so until it is done: calls that move data
/// are made here, others by the program, for which the memory is held until the thread's next call.
fn pass(call: &Call, ready: prefault::Ready) -> Outcome {
    if ready.is_empty() {
        return Outcome::PassThrough;
    }
    if table::transfers(call.nr) {
        return Outcome::Return(native::interruptible(call.nr, call.args));
    }
    thread::keep(ready.into_iter().map(Prefaulted::keep).collect());
    Outcome::PassThrough
}

/// Calls that may wait in a plugin before they have any effect.
const WAITING: [u32; 6] =
    [sys::__NR_open, sys::__NR_openat, sys::__NR_openat2, sys::__NR_creat, sys::__NR_fcntl, sys::__NR_flock];

impl Handler for &'static Process {
    fn call(&self, call: &mut Call) -> Outcome {
        ending::before_call(self, call);
        thread::let_go();
        let ready = prefault::arguments(self, call);
        let Some(server) = server(call.nr) else { return pass(call, ready) };
        let span = trace::Span::begin();
        let served = if is_about_private_fd(call) {
            Err(Errno::BADF)
        } else if let Some(answer) = absent::answer(self, call) {
            Ok(Reply::Value(answer))
        } else {
            absent::steadily(self, call, || {
                if WAITING.contains(&call.nr) {
                    thread::waiting(|| server(self, call))
                } else {
                    server(self, call)
                }
            })
        };
        span.end(call, &served);
        ending::after_call(self);
        match served {
            Ok(Reply::Value(value)) => Outcome::Return(value),
            Ok(Reply::Pass) => pass(call, ready),
            Ok(Reply::PassWith(args)) => {
                call.args = args;
                pass(call, ready)
            }
            Err(error) => Outcome::Return(-i64::from(error.raw_os_error())),
        }
    }

    fn considers(&self, fault: &Fault) -> bool {
        fault.signal == SIGBUS && self.paging.pager().is_some()
    }

    fn fault(&self, fault: &Fault) -> bool {
        let Some(pager) = self.paging.pager() else { return false };
        fault.signal == SIGBUS
            && pager.handle_fault(fault.address as usize, fault.write) == uffd_pager::Handled::Retry
    }

    fn inner_call(&self, call: &mut Call) -> Outcome {
        inner::call(self, call)
    }

    fn before_fork(&self, fork: &ForkCall) -> Result<(), i32> {
        fork::before(self, fork).map_err(Errno::raw_os_error)
    }

    fn at_fork(&self, _fork: &ForkCall) {
        fork::at_last();
    }

    fn after_fork_parent(&self, fork: &ForkCall, result: i64) {
        fork::after_in_parent(self, fork, result);
        // A call as others are: the next one may be one that waits, and none of ours.
        ending::after_call(self);
    }

    fn after_fork_child(&self, fork: &ForkCall) {
        fork::after_in_child(self, fork);
    }

    fn thread_exit(&self) {
        // It may be the one that was struck, and the others make no call that is ours.
        ending::after_call(self);
    }

    fn struck(&self, signal: u32) -> End {
        ending::struck(self, signal)
    }

    fn thirty_two_bit_calls(&self, path: &[u8], sites: u32) {
        let path = Quoted(path);
        trace::warn(format_args!(
            "{path} makes 32-bit system calls (int $0x80) at {sites} place(s): they do not see the mounts"
        ));
    }
}
