//! The beginning of a process: the constructor of the preloaded library finds the session and installs the interposer.

mod auxiliary;
mod inheriting;
mod stages;

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use interpose::{DispatchPolicy, PathFilter};
use linux_raw_sys::general as sys;
use rustix::fs::{AtFlags, Mode, OFlags, openat};
use rustix::io::Errno;
use stash::Arena;

use auxiliary::Auxiliary;
use stages::Stages;

use crate::carried::Carried;
use crate::common::Common;
use crate::environment::{self, Found};
use crate::mount::Mount;
use crate::mounts::{MountPoint, MountTable};
use crate::process::{Cwd, EXCHANGES, FILES, Process, RELATIVE_FOREIGN, STATES};
use crate::resolve::PathBytes;
use crate::session::{self, OpenedSession, SessionConfig, names};
use crate::shadow::{Module, ShadowProvider};
use crate::site_lists::SessionLists;
use crate::standing::{self, Joined};
use crate::sync::Lock;
use crate::{
    address_space, guest, helper_process, leaving, libraries, log, namei, native, nofile, private_fd, serve,
    site_lists, trace,
};

pub use inheriting::for_each_open_fd;

/// Runs when the library is loaded, before the program.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: unsafe extern "C" fn(i32, *mut *mut u8, *mut *mut u8) = constructor;

/// Not 0 once a file has been served.
static SERVING: AtomicU8 = AtomicU8::new(0);

unsafe extern "C" fn constructor(_argc: i32, _argv: *mut *mut u8, envp: *mut *mut u8) {
    // SAFETY: ld.so passes the environment, and behind it lies the auxiliary vector.
    let auxiliary = unsafe { Auxiliary::behind(envp) };
    if auxiliary.secure || auxiliary.program_is_here() {
        return;
    }
    // SAFETY: as below.
    let named = unsafe { environment::names_session(envp) };
    if !named && !standing::is_possible() {
        return;
    }
    // SAFETY: as `take` demands: it is the environment of the start, and there is one thread or others have not begun to look.
    let take = || unsafe { environment::take(envp, own_name()) };
    let found = if named { take() } else { Found::default() };
    match &found.session {
        // Either a session that `defuse run` made; or the command has started itself to work in this one, and no image was in it before.
        Some(folder) if !session::is_standing(folder) || found.inheritance.is_none() => {
            if let Err(reason) = start_in(folder, &found) {
                log::line(
                    log::Level::Error,
                    format_args!("cannot join the session {}: {reason}", folder.display()),
                );
                // Going on without the mounts would show the program an empty directory in their place.
                native::raw_call(sys::__NR_exit_group, [125, 0, 0, 0, 0, 0]);
            }
        }
        given => {
            // SAFETY: as `take` demands, and `run`.
            let run = |program: &CStr, words: &[&CStr]| unsafe {
                helper_process::run(program, words, &environment::without_preload(envp))
            };
            let started = standing::find(given.as_deref(), own_name(), run)
                .map_err(Into::into)
                .and_then(|joined| joined.map_or(Ok(()), |joined| start_standing(joined, found, take)));
            if let Err(reason) = started {
                // The program goes on: what it must not take for data is an error to it, with the module.
                log::line(log::Level::Error, format_args!("cannot join the standing session: {reason}"));
            }
        }
    }
}

/// Joins the session that the command named.
fn start_in(folder: &Path, found: &Found) -> Result<(), Box<dyn std::error::Error>> {
    let begin = trace::instant();
    let session = nofile::with_room(|| OpenedSession::open(folder))?;
    let inheritance = found.inheritance.as_ref();
    let nofile =
        inheritance.map_or((session.config.nofile.soft, session.config.nofile.hard), |left| left.nofile);
    nofile::begin(session.config.private_fd_base, session.config.nofile.soft);
    let mounts = &session.config.mounts;
    let stands = if session::is_standing(folder) {
        let there = session::kernel_mounts()?;
        mounts.iter().map(|mount| there.contains(mount)).collect()
    } else {
        vec![true; mounts.len()]
    };
    start(begin, folder, session, found, nofile, &stands)
}

/// Joins a session that nobody started this program in, unless the previous image was in it. `take` takes our variables out of the environment.
fn start_standing(
    joined: Joined,
    found: Found,
    take: impl Fn() -> Found,
) -> Result<(), Box<dyn std::error::Error>> {
    let begin = trace::instant();
    let Joined { session, folder, mounts, inherited, lock } = joined;
    let mut found = if found.session.is_some() { found } else { take() };
    if !inherited {
        found.inheritance = None;
    }
    let nofile = match &found.inheritance {
        Some(left) => left.nofile,
        None => standing::limits(session.config.private_fd_base)?,
    };
    nofile::begin(session.config.private_fd_base, nofile.0);
    let stands: Vec<bool> = session.config.mounts.iter().map(|mount| mounts.contains(mount)).collect();
    start(begin, &folder, session, &found, nofile, &stands)?;
    // Registered: from now on the arena says that the folder is in use.
    drop(lock);
    Ok(())
}

/// This library as the dynamic linker found it: the text in `LD_PRELOAD` or `/etc/ld.so.preload`.
fn own_name() -> &'static [u8] {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: asks about an address of our own; the answer's name lives as long as the library.
    unsafe {
        if libc::dladdr(auxiliary::own_start().cast(), found.as_mut_ptr()) == 0 {
            return b"";
        }
        CStr::from_ptr(found.assume_init().dli_fname).to_bytes()
    }
}

/// Becomes a process of `session`. `stands` says which of its mounts are there.
fn start(
    begin: u64,
    folder: &Path,
    session: OpenedSession,
    found: &Found,
    nofile: (u64, u64),
    stands: &[bool],
) -> Result<(), Box<dyn std::error::Error>> {
    let folder_stat = rustix::fs::fstat(&session.folder)?;
    log::init(session.config.log.clone());
    private_fd::set_base(session.config.private_fd_base);
    uffd_pager::change_masks_by(interpose::change_signal_mask);
    uffd_pager::judge_others_by(|pid, namespace| {
        stash::has_ended_elsewhere(pid, |inode| inode & uffd_pager::NAMESPACE_MASK == namespace)
    });
    let mut stages = Stages::since(begin);
    stages.end("session");
    let inherited = found.inheritance.as_ref().and_then(|left| left.arena);
    let (arena, arena_fd) = open_arena(&session, inherited)?;
    stages.end("arena");
    let OpenedSession { config, folder: folder_fd } = session;
    drop(folder_fd);
    let inheritance = found.inheritance.as_ref();
    // In a standing session a host would take itself for the command, which stays outside.
    let hosts = config.dispatch != DispatchPolicy::Never && !session::is_standing(folder);
    let guest = inheritance.map_or(b"".as_slice(), |left| &left.guest);
    let dispatch = if guest.is_empty() { config.dispatch } else { DispatchPolicy::Always };
    let (table, mounts, ancestors) = mounts_of(config)?;
    let shared_folder = folder.join(names::shared(arena.session_id())).into_os_string().into_vec();
    let mirrors = [folder.as_os_str().as_bytes(), b"/", names::EXEC.as_bytes(), libraries::MIRRORS].concat();
    let table = table.only(|number| stands[number]).with_mirrors(mirrors);
    let process: &'static Process = Box::leak(Box::new(Process {
        table,
        mounts,
        ancestors,
        arena,
        arena_fd,
        owner: folder_stat.st_uid,
        standing: session::is_standing(folder),
        me: AtomicU32::new(0),
        image: AtomicU32::new(0),
        folder: folder.as_os_str().as_bytes().to_vec(),
        shared_folder,
        folder_device: folder_stat.st_dev,
        proc_device: native::stat(c"/proc").map_or(0, |stat| stat.st_dev),
        files: &FILES,
        carried: Carried::none(),
        cwd: Lock::new(Cwd::Unknown),
        cwd_changes: AtomicU64::new(0),
        in_chdir: AtomicU32::new(0),
        common: Common::nothing(),
        umask: AtomicU32::new(current_umask()),
        nofile: (AtomicU64::new(nofile.0), AtomicU64::new(nofile.1)),
        serving: &SERVING,
        rebuilding: Lock::new(()),
        descriptors: Lock::new(()),
        staging: Lock::new(()),
        library: found.library.clone(),
        executable: inheritance.and_then(|left| path_if_any(&left.executable)),
        hosts,
        threaded: AtomicBool::new(false),
        restricted: AtomicBool::new(false),
        nowhere: AtomicBool::new(false),
        paging: crate::paging::Paging::default(),
        sweep_at: AtomicU32::new(4096),
    }));
    nofile::show(process, nofile.0);
    nofile::refresh(process);
    stages.end("mounts");
    inheriting::inherit(process, inheritance)?;
    stages.end("registration");
    install(process, dispatch)?;
    leaving::announce(&process.folder);
    if !guest.is_empty() {
        guest::announce(guest);
    }
    stages.end("interposer");
    stages.tell();
    Ok(())
}

/// The session's shared memory, and a private descriptor of it. A process that has dropped its privileges inherits that.
fn open_arena(
    session: &OpenedSession,
    inherited: Option<RawFd>,
) -> Result<(Arena, RawFd), Box<dyn std::error::Error>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match (
        nofile::with_room(|| openat(&session.folder, names::ARENA, flags, Mode::empty())),
        inherited,
    ) {
        (Err(Errno::ACCESS), Some(fd)) => {
            let expected = rustix::fs::statat(&session.folder, names::ARENA, AtFlags::SYMLINK_NOFOLLOW)?;
            let found = native::fstat(fd)?;
            if (found.st_dev, found.st_ino) != (expected.st_dev, expected.st_ino) {
                return Err("the arena that was inherited is another file".into());
            }
            // SAFETY: the previous image left the descriptor for us, and it is what it should be.
            unsafe { OwnedFd::from_raw_fd(fd) }
        }
        (opened, _) => opened?,
    };
    let arena = Arena::open(file.as_fd()).map_err(|error| address_space::explain(&error))?;
    Ok((arena, private_fd::take(file.into_raw_fd())?))
}

/// The mount table, what serves it, and the directories above the mount points.
type Mounts = (MountTable, Vec<Mount>, Vec<(u64, u64)>);

fn mounts_of(config: SessionConfig) -> Result<Mounts, Box<dyn std::error::Error>> {
    let mut points = Vec::new();
    let mut mounts = Vec::new();
    let mut ancestors = Vec::new();
    for (number, mount) in config.mounts.into_iter().enumerate() {
        let point = mount.point.into_os_string().into_vec();
        for above in Path::new(std::ffi::OsStr::from_bytes(&point)).ancestors().skip(1) {
            let above = CString::new(above.as_os_str().as_bytes())?;
            if let Ok(stat) = native::stat(&above) {
                ancestors.push((stat.st_dev, stat.st_ino));
            }
        }
        let hidden = mount.hidden.map_or((0, 0), |hidden| (hidden.dev, hidden.ino));
        points.push(MountPoint { point: point.clone(), hidden });
        let backend = CString::new(mount.backend.into_vec())?;
        let options = CString::new(mount.options.into_vec())?;
        let shadows = match mount.shadows {
            session::Shadows::Folder => ShadowProvider::Folder,
            session::Shadows::Module => ShadowProvider::Module(Module::new()),
        };
        let mount = Mount::new(number, shadows, CString::new(point)?, mount.library, backend, options);
        mounts.push(if config.one_state.contains(&number) { mount.with_one_state() } else { mount });
    }
    // And those above what is in /dev that leads to open files.
    for above in [c"/", c"/dev"] {
        if let Ok(stat) = native::stat(above) {
            ancestors.push((stat.st_dev, stat.st_ino));
        }
    }
    Ok((MountTable::new(points), mounts, ancestors))
}

fn path_if_any(path: &[u8]) -> Option<PathBytes> {
    if path.is_empty() { None } else { PathBytes::try_from(path).ok() }
}

/// umask(2) cannot be asked, only changed and changed back.
fn current_umask() -> u32 {
    let mask = native::raw_call(sys::__NR_umask, [0o077, 0, 0, 0, 0, 0]);
    native::raw_call(sys::__NR_umask, [mask as u64, 0, 0, 0, 0, 0]);
    mask as u32
}

fn install(process: &'static Process, dispatch: DispatchPolicy) -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(OsStr::from_bytes(&process.folder));
    // Made by the runner if a plugin may need it.
    let pages = Path::new(OsStr::from_bytes(&process.shared_folder)).join(names::PAGES);
    let pages = rustix::fs::stat(pages).is_ok();
    process.paging.possible.store(pages, Ordering::Relaxed);
    let lists = Box::leak(Box::new(SessionLists::new(folder, pages)));
    let paths = Box::leak(Box::new(PathFilter::new(
        process.table.beginnings().chain(namei::MAGIC_PREFIXES),
        process.table.hidden_inodes(),
        &RELATIVE_FOREIGN,
        nofile::limit(),
        &EXCHANGES,
    )));
    let config = site_lists::interests(pages)
        .dispatch(dispatch)
        .serving(process.serving)
        .fd_states(states())
        .plans(lists)
        .paths(paths);
    serve::fork::ahead::register(process);
    let handler: &'static &'static Process = Box::leak(Box::new(process));
    // SAFETY: we are in a constructor, where nobody loads or unloads objects at the same time; what the configuration names is
    // static, and `Process` is written to be called anywhere.
    let installed = unsafe { interpose::install(config, handler) }?;
    trace::debug(format_args!("{installed:?}"));
    Ok(())
}

/// The bytes of [`STATES`] as the entry reads them.
fn states() -> &'static [AtomicU8; FdStatesLength::LEN] {
    // SAFETY: `FdStates` is transparent over exactly this array, and static.
    unsafe { &*STATES.as_ptr().cast() }
}

type FdStatesLength = fdtable::FdStates;
