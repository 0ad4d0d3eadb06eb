//! Nothing is left behind: the measurements run in a process of their own, whose mounts, processes and files end with it.
//!
//! As root that process is the first of a new process namespace, in a mount namespace of its own, and works on a tmpfs that is
//! mounted there only. When it ends, however it ends, the kernel kills what it started and takes away what it mounted; what is
//! left is an empty folder, which the process that waits for it removes. Without the right to do so there are no mounts, and
//! the group of processes is killed, and waited for.

use std::env;
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

/// Tells the inner process where to work, and whether it may mount.
const FOLDER: &str = "DEFUSE_EVALUATION_FOLDER";
const NAMESPACES: &str = "DEFUSE_EVALUATION_NAMESPACES";

/// The inner process, and the signal that ended the run.
static INNER: AtomicI32 = AtomicI32::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// What the inner process may use.
pub struct Enclosure {
    /// Where to work.
    pub folder: PathBuf,
    /// Why nothing can be mounted, if so.
    pub mounts: Result<(), String>,
}

/// Returns in the inner process.
///
/// In the outer one it waits for that and returns how it ended. Only one thread may run yet.
pub fn enter(scratch: &Path) -> io::Result<Result<Enclosure, ExitCode>> {
    match env::var_os(FOLDER) {
        Some(folder) => Ok(Ok(inside(folder.into()))),
        None => outside(scratch).map(Err),
    }
}

fn outside(scratch: &Path) -> io::Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("defuse-evaluation-").tempdir_in(scratch)?;
    // SAFETY: concerns the children of this process only.
    let apart = unsafe { libc::unshare(libc::CLONE_NEWPID) } == 0;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores and kills, which a handler may.
        unsafe { libc::signal(signal, end_inner as *const () as libc::sighandler_t) };
    }
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1)).env(FOLDER, folder.path());
    if apart {
        command.env(NAMESPACES, "1");
    }
    // SAFETY: two system calls.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // A terminal's interrupt is for the outer process.
            libc::setpgid(0, 0);
            Ok(())
        });
    }
    if !apart {
        // What is left of the group when its leader has ended becomes this process's, which then can wait for it.
        // SAFETY: concerns the children of this process only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    }
    let mut inner = command.spawn()?;
    INNER.store(inner.id() as i32, SeqCst);
    if SIGNAL.load(SeqCst) != 0 {
        end_inner(SIGNAL.load(SeqCst));
    }
    let status = inner.wait()?;
    INNER.store(0, SeqCst);
    if !apart {
        end_group(inner.id() as i32);
    }
    folder.close()?;
    let code = match SIGNAL.load(SeqCst) {
        0 => status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1),
        signal => 128 + signal,
    };
    Ok(ExitCode::from(code as u8))
}

/// Kills what the inner process started and has left, and waits until it has ended.
fn end_group(group: i32) {
    loop {
        // SAFETY: no memory is involved; a group lives as long as any of its processes.
        let waited = unsafe {
            libc::kill(-group, libc::SIGKILL);
            libc::waitpid(-group, std::ptr::null_mut(), 0)
        };
        if waited < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

extern "C" fn end_inner(signal: libc::c_int) {
    SIGNAL.store(signal, SeqCst);
    let inner = INNER.load(SeqCst);
    if inner != 0 {
        // SAFETY: no memory is involved; the process is not waited for yet, so the number is its own.
        unsafe { libc::kill(inner, libc::SIGKILL) };
    }
}

fn inside(folder: PathBuf) -> Enclosure {
    let mounts = match env::var_os(NAMESPACES) {
        Some(_) => own_mounts(&folder).map_err(|error| format!("no mounts of our own: {error}")),
        None => Err("mounting needs root".to_owned()),
    };
    Enclosure { folder, mounts }
}

fn own_mounts(folder: &Path) -> io::Result<()> {
    // SAFETY: the only thread of this process.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, c"")?;
    // The numbers of the new process namespace.
    mount(Some(c"proc"), Path::new("/proc"), Some(c"proc"), 0, c"")?;
    mount(Some(c"defuse-evaluation"), folder, Some(c"tmpfs"), 0, c"mode=755")
}

/// mount(2).
pub fn mount(
    source: Option<&CStr>,
    point: &Path,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: &CStr,
) -> io::Result<()> {
    let point_string = CString::new(point.as_os_str().as_bytes())?;
    let pointer = |string: Option<&CStr>| string.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: C strings that live through the call, or null.
    let result = unsafe {
        let (source, kind) = (pointer(source), pointer(kind));
        libc::mount(source, point_string.as_ptr(), kind, flags, options.as_ptr().cast())
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("mount on {}: {error}", point.display())))
}

/// Takes a mount away, as soon as nobody is there any more.
pub fn unmount(point: &Path) {
    if let Ok(point) = CString::new(point.as_os_str().as_bytes()) {
        // SAFETY: a C string. What fails goes with the namespace.
        unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) };
    }
}
