//! `defuse run`: a session from its beginning to its end.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use defuse::log::{self, Inode, Level, LogTarget, RunnerStderr};
use defuse::session::{
    Mount, PluginSearch, SESSION_VARIABLE, Session, SessionConfig, SessionSpec, is_standing, names,
    resolve_mounts_over, sweep_stale,
};
use defuse::site_lists::SessionLists;
use interpose::DispatchPolicy;
use nix::errno::Errno;
use stash::Arena;

use super::arguments::{EXEC_INSIDE, RunRequest, log_variable};
use super::child::{self, Program, Signals, StartError};
use super::failure::{CANNOT_START, Failure, NOT_FOUND, RUN_FAILED};
use super::outer::{self, Outer};
use super::plugin::Tried;
use super::write_back::write_back;
use super::{arena, environment, library, nofile, plugin, reaper, run_directory, standing};

/// Programs that do not load the library are run as guests (docs/decisions/hosted-programs.md): with 0 none, with 1 static ones, too, else those linked
/// with musl.
const GUESTS: &str = "DEFUSE_GUESTS";

/// Runs a program in a session of its own and returns its exit status.
///
/// # Errors
///
/// Whatever kept the program from being started.
pub fn run(request: &RunRequest) -> Result<i32, Failure> {
    let outer = outer::leave()?.unwrap_or_default();
    let log = log_target(request)?;
    log::init(log.clone());
    outer.tell_of_standard_files();
    let run_directory = run_directory::of_runs().path;
    let mut mounts = resolve_mounts_over(&request.mounts, &outer.mounts, &plugin_search(), &run_directory)?;
    take_along(&mut mounts, &outer);
    let mut tried = Vec::new();
    for mount in &mounts {
        tried.push(plugin::try_mount(mount)?);
    }
    standing::add_to(&mut mounts, &mut tried, &run_directory);
    if mounts.is_empty() {
        let hint = "no mount given (-m POINT=LIBRARY:BACKEND), and none stands (defuse mount)";
        return Err(Failure::new(RUN_FAILED, format!("{hint}\nTry 'defuse run --help'.")));
    }
    let points: Vec<PathBuf> = mounts.iter().map(|mount| mount.point.clone()).collect();
    let preloaded = library::find()?;

    // From here on there is something to undo, so signals wait.
    let signals = Signals::hold().map_err(|errno| failed("hold back signals", errno))?;
    sweep(&run_directory, &preloaded);
    let (session, arena) = create_session(
        run_directory,
        mounts,
        &tried,
        request.dispatch.unwrap_or(DispatchPolicy::Auto),
        log,
        false,
    )?;
    let ended = library::preload(&preloaded, env::var_os("LD_PRELOAD"), session.path())
        .and_then(|preload| program(request, &points, outer.directory.as_deref(), &session, &preload))
        .and_then(|program| signals.start(&program).map_err(|error| cannot_start(&request.command[0], error)))
        .map(|child| signals.wait(child));
    finish(session, arena, &preloaded);
    ended.map(child::end_like)
}

/// Adds the mounts of the session outside that no mount of this one covers.
fn take_along(mounts: &mut Vec<Mount>, outer: &Outer) {
    let own: Vec<PathBuf> = mounts.iter().map(|mount| mount.point.clone()).collect();
    let covered = |mount: &Mount| own.iter().any(|point| mount.point.starts_with(point));
    mounts.extend(outer.mounts.iter().filter(|mount| !covered(mount)).cloned());
}

/// Becomes the program of `words`, a working directory (empty: it is the one) and a command. This process is in the session already, so that
/// both are looked for through the mounts.
///
/// Returns the exit status when it cannot.
pub fn exec_inside(words: &[OsString]) -> i32 {
    let Some((directory, command)) = words.split_first().filter(|(_, command)| !command.is_empty()) else {
        return RUN_FAILED;
    };
    if !directory.is_empty()
        && let Err(error) = env::set_current_dir(directory)
    {
        eprintln!("defuse: cannot enter the working directory {}: {error}", directory.display());
        return RUN_FAILED;
    }
    let words: Result<Vec<CString>, _> = command.iter().map(|word| CString::new(word.as_bytes())).collect();
    let errno = match &words {
        Ok(words) => nix::unistd::execvp(&words[0], words).map_or_else(|errno| errno, |never| match never {}),
        Err(_) => Errno::EINVAL,
    };
    let failure = cannot_start(&command[0], StartError::Exec(errno));
    eprintln!("defuse: {failure}");
    failure.status
}

/// Where plugins are looked for.
pub fn plugin_search() -> PluginSearch {
    PluginSearch::new(env::var_os("DEFUSE_PLUGIN_PATH").as_deref(), env::current_exe().ok().as_deref())
}

/// What the options and `$DEFUSE_LOG` say about logging; a file is made absolute and created.
fn log_target(request: &RunRequest) -> Result<LogTarget, Failure> {
    let (mut level, mut file) = log_variable()?;
    level = request.log_level.unwrap_or(level);
    file = request.log_file.clone().or(file);
    if let Some(file) = &mut file {
        *file = create_log_file(file).map_err(|error| {
            Failure::new(RUN_FAILED, format!("cannot log to {}: {error}", file.display()))
        })?;
    }
    let stderr =
        Inode::of(rustix::stdio::stderr()).map(|inode| RunnerStderr { runner: std::process::id(), inode });
    Ok(LogTarget { level, file, stderr })
}

fn create_log_file(file: &Path) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    // Symbolic links are followed now, once; the processes of the session do not follow any.
    fs::canonicalize(file)
}

/// Removes what killed runners left; that this fails keeps nobody from working.
pub fn sweep(run_directory: &Path, library: &Path) {
    let is_alive = |folder: BorrowedFd<'_>| {
        if arena::any_alive(folder)? {
            return Ok(true);
        }
        let Ok(path) = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())) else {
            return Ok(false);
        };
        if is_standing(&path) && standing::is_wanted(&path)? {
            return Ok(true);
        }
        write_back(&path, library);
        Ok(false)
    };
    match sweep_stale(run_directory, is_alive) {
        Ok(swept) => {
            for path in swept.removed {
                log::line(Level::Info, format_args!("removed the stale session {}", path.display()));
            }
            for error in swept.failed {
                log::line(Level::Warn, format_args!("{error}"));
            }
        }
        Err(error) => log::line(Level::Warn, format_args!("{error}")),
    }
}

/// Makes a session and its arena; `tried` says what is known of the plugins of its mounts, `standing` of which kind it is.
///
/// # Errors
///
/// What kept it from being made.
pub fn create_session(
    base: PathBuf,
    mounts: Vec<Mount>,
    tried: &[Tried],
    dispatch: DispatchPolicy,
    log: LogTarget,
    standing: bool,
) -> Result<(Session, MappedArena), Failure> {
    let division = nofile::divide()?;
    let pages = tried.iter().any(|tried| tried.paged);
    let config = SessionConfig {
        private_fd_base: division.private_fd_base,
        nofile: division.shown,
        dispatch,
        log,
        mounts,
        one_state: (0..tried.len()).filter(|&number| tried[number].one_state).collect(),
    };
    let mut made = None;
    let session = Session::create(&SessionSpec { base, config, standing, pages }, |file| {
        let inode = Inode::of(file).unwrap_or(Inode { dev: 0, ino: 0 });
        let arena = arena::create(file)?;
        let id = arena.session_id();
        made = Some(MappedArena { arena, inode });
        Ok(id)
    })?;
    let arena = made.ok_or_else(|| Failure::new(RUN_FAILED, "the session has no arena"))?;
    log::line(Level::Info, format_args!("session {}", session.path().display()));
    // Where nobody runs this command, a process whose program it is is one that must stay outside.
    if !standing {
        make_hosts(session.path());
    }
    // The runner has the libc and the ld.so of most programs.
    if let Err(errno) = SessionLists::new(session.path(), pages).make() {
        log::line(Level::Warn, format_args!("cannot list the system call sites of libc: {errno}"));
    }
    Ok((session, arena))
}

/// A mapped arena and the file it is.
pub struct MappedArena {
    arena: Arena,
    inode: Inode,
}

/// What to start: the program itself, or this command in its place when the program, or the working directory `directory`, has to be looked for through the mounts.
fn program(
    request: &RunRequest,
    points: &[PathBuf],
    directory: Option<&Path>,
    session: &Session,
    preload: &OsStr,
) -> Result<Program, Failure> {
    let changes = [("LD_PRELOAD", preload), (SESSION_VARIABLE, session.path().as_os_str())];
    let inherited = env::vars_os().filter(|(name, _)| !outer::is_ours(name));
    let environment = environment::with(inherited, &changes);
    let mut words: Vec<OsString> = Vec::new();
    let file = &request.command[0];
    let file = if directory.is_some() || may_lie_on_a_mount(file, points) || is_outsider(file) {
        let directory = directory.map(OsString::from).unwrap_or_default();
        words.extend(["defuse".into(), EXEC_INSIDE.into(), directory]);
        OsString::from("/proc/self/exe")
    } else {
        file.clone()
    };
    words.extend(request.command.iter().cloned());
    let c_string = |word: OsString| {
        CString::new(word.into_vec())
            .map_err(|_| Failure::new(RUN_FAILED, "there is a NUL byte in the command"))
    };
    Ok(Program {
        file: c_string(file)?,
        arguments: words.into_iter().map(c_string).collect::<Result<_, _>>()?,
        environment,
    })
}

/// Whether `file`, or a directory of `$PATH` when `file` has no slash, lies on one of `points`, or at the end of a path that goes through one.
fn may_lie_on_a_mount(file: &OsStr, points: &[PathBuf]) -> bool {
    let touches = |path: &Path| {
        let Ok(path) = std::path::absolute(path) else { return false };
        let goes_through =
            |ancestor: &Path| fs::canonicalize(ancestor).is_ok_and(|real| points.contains(&real));
        path.ancestors().any(goes_through)
    };
    if file.as_bytes().contains(&b'/') {
        return touches(Path::new(file));
    }
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|directory| touches(&directory)))
}

/// Whether the program is one that does not load the library: who is in the session already knows what to say and do then.
fn is_outsider(file: &OsStr) -> bool {
    let outsider = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes());
        path.is_ok_and(|path| defuse::image::look(libc::AT_FDCWD, path.as_bytes()).is_some())
    };
    if file.as_bytes().contains(&b'/') {
        return outsider(Path::new(file));
    }
    let found = env::var_os("PATH").and_then(|path| {
        let candidates = env::split_paths(&path).map(|directory| directory.join(file));
        candidates.into_iter().find(|candidate| candidate.is_file())
    });
    found.is_some_and(|path| outsider(&path))
}

/// Removes the session, now or when its last process has ended.
fn finish(session: Session, mapped: MappedArena, library: &Path) {
    let live = move || arena::live_processes(&mapped.arena, mapped.inode);
    let left = if live().is_empty() {
        write_back(session.path(), library);
        session.remove().map_err(|error| error.to_string())
    } else {
        reaper::leave_behind(session, live, |folder| write_back(folder, library))
            .map_err(|errno| format!("cannot leave a reaper behind: {}", errno.desc()))
    };
    if let Err(error) = left {
        log::line(Level::Warn, format_args!("{error}; the next run will try again"));
    }
}

fn cannot_start(file: &OsStr, error: StartError) -> Failure {
    match error {
        StartError::Fork(errno) => failed("start a process", errno),
        StartError::Exec(errno) => {
            let status = if errno == Errno::ENOENT { NOT_FOUND } else { CANNOT_START };
            Failure::new(status, format!("cannot run '{}': {}", file.display(), errno.desc()))
        }
    }
}

fn failed(attempted: &str, errno: Errno) -> Failure {
    Failure::new(RUN_FAILED, format!("cannot {attempted}: {}", errno.desc()))
}

/// Links to this command, as which guests are executed. Without them programs that do not load the library run without the mounts.
fn make_hosts(session: &Path) {
    let guests = env::var_os(GUESTS).unwrap_or_default();
    let hosts: &[&str] = match guests.as_bytes() {
        b"0" => &[],
        b"1" => &[names::HOST, names::HOST_OF_STATIC],
        _ => &[names::HOST],
    };
    for name in hosts {
        if let Err(error) = env::current_exe().and_then(|command| symlink(command, session.join(name))) {
            log::line(Level::Warn, format_args!("cannot link to this command from the session: {error}"));
        }
    }
}
