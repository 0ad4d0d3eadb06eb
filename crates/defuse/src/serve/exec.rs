//! execve and execveat: programs and scripts that lie on a mount, and what the next image needs from this one.

use std::mem;
use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::attributes::{access_itself, attributes_at};
use super::paths::{self, At};
use super::{Reply, Served, descriptors, ending, outsider};
use crate::common;
use crate::environment::{self, Environment, NextImage};
use crate::file;
use crate::guest::decide::{self as guest, Hosted};
use crate::handover;
use crate::image;
use crate::lending;
use crate::libraries;
use crate::namei::{self, Located, PathArgument, Spot};
use crate::native;
use crate::next_image;
use crate::paging;
use crate::process::Process;
use crate::program::{self, Header};
use crate::resolve::{PathBytes, Walk};
use crate::running;
use crate::user;
use crate::vfork;

/// Files that the kernel looks at in one exec: as many scripts but one, and the program that the last of them names.
const NESTED: usize = 6;

pub fn execve(process: &'static Process, call: &Call) -> Served {
    let [_, argv, envp, ..] = call.args;
    let argument = At::cwd(0, true).argument(call)?;
    if let Some(file) = crate::proc_links::proc_fd(process, &argument.text) {
        return execute_file(process, &file, argument.text.to_vec(), argv, envp);
    }
    execute(process, Vec::new(), argument, argv, envp, true)
}

pub fn execveat(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, argv, envp, flags, _] = call.args;
    let flags = flags as u32;
    if flags & !(sys::AT_EMPTY_PATH | sys::AT_SYMLINK_NOFOLLOW) != 0 {
        return Ok(Reply::Pass);
    }
    if flags & sys::AT_EMPTY_PATH != 0 && user::read::<u8>(path)? == 0 {
        return execute_descriptor(process, dirfd as RawFd, call, argv, envp);
    }
    let argument = PathArgument::read(dirfd as RawFd, path)?;
    execute(process, Vec::new(), argument, argv, envp, flags & sys::AT_SYMLINK_NOFOLLOW == 0)
}

/// What is handed to the kernel.
struct Plan {
    /// The path by which the program was called, for `comm`; empty: the kernel finds the name itself.
    called: Vec<u8>,
    program: Program,
    /// Words that replace the program's `argv[0]`; empty: argv as it is.
    argv: Vec<Vec<u8>>,
}

enum Program {
    /// By this path; on a mount it lies at the other, empty if it does not.
    Path(PathBytes, PathBytes),
    /// By the arguments of an execveat.
    Call([u64; 6]),
}

impl Plan {
    /// The program's name, for people.
    fn name(&self) -> &[u8] {
        match &self.program {
            Program::Path(path, executable) if executable.is_empty() => path,
            Program::Path(_, executable) => executable,
            Program::Call(_) => b"a program",
        }
    }
}

/// `words`: what comes before the rest of argv, if `argument` is the interpreter of a script already.
fn execute(
    process: &'static Process,
    mut words: Vec<Vec<u8>>,
    mut argument: PathArgument,
    argv: u64,
    envp: u64,
    follow: bool,
) -> Served {
    let called = argument.text.to_vec();
    for _ in usize::from(!words.is_empty())..NESTED {
        let (program, header, executable) = look_up(process, &argument, follow)?;
        match header {
            // A script of the kernel's with an interpreter that is the kernel's to start: permissions and all are its business.
            Header::Script { ref interpreter, .. }
                if executable.is_empty()
                    && !is_served(process, interpreter)?
                    && !guest::may_be_guest(process, interpreter) =>
            {
                let program = Program::Path(program, executable);
                return run(process, &Plan { called: Vec::new(), program, argv: words }, argv, envp);
            }
            Header::Script { interpreter, option } => {
                if executable.is_empty() {
                    next_image::check_executable(&program)?;
                }
                // The name by which the interpreter is to find the script.
                let script = argument_for_interpreter(&argument);
                if let Some(first) = words.first_mut() {
                    *first = script;
                } else {
                    words.push(script);
                }
                if let Some(option) = option {
                    words.insert(0, option);
                }
                words.insert(0, interpreter.clone());
                let text = PathBytes::try_from(interpreter.as_slice()).map_err(|_| Errno::NAMETOOLONG)?;
                argument = PathArgument { dirfd: sys::AT_FDCWD, text };
            }
            Header::Other => {
                let program = Program::Path(program, executable);
                return run(process, &Plan { called, program, argv: words }, argv, envp);
            }
        }
    }
    Err(Errno::LOOP)
}

/// Whether the interpreter at `path` lies on a mount.
fn is_served(process: &'static Process, path: &[u8]) -> Result<bool, Errno> {
    let text = PathBytes::try_from(path).map_err(|_| Errno::NAMETOOLONG)?;
    let argument = PathArgument { dirfd: sys::AT_FDCWD, text };
    Ok(matches!(paths::locate_for_sure(process, &argument, Walk::plain(true))?, Located::Served(_)))
}

/// Where the program is for the kernel, what it begins with, and where it lies on a mount.
type Found = (PathBytes, Header, PathBytes);

fn argument_for_interpreter(argument: &PathArgument) -> Vec<u8> {
    if argument.dirfd == sys::AT_FDCWD || argument.is_absolute() {
        return argument.text.to_vec();
    }
    [b"/dev/fd/", argument.dirfd.to_string().as_bytes(), b"/", &argument.text].concat()
}

/// Finds the program that `argument` names.
fn look_up(process: &'static Process, argument: &PathArgument, follow: bool) -> Result<Found, Errno> {
    let spot = match paths::locate_for_sure(process, argument, Walk::plain(follow))? {
        Located::Served(spot) => match attributes_at(&spot, true) {
            Err(Errno::LOOP) => match argument.walk(process, follow)? {
                Located::Served(spot) => spot,
                Located::Native(path) => return native_program(argument, path),
            },
            Err(error) => return Err(error),
            Ok(_) => spot,
        },
        Located::Native(path) => return native_program(argument, path),
    };
    served_program(process, &spot, &argument.text)
}

/// A program of the kernel's: only a script whose interpreter may lie on a mount needs a look.
fn native_program(argument: &PathArgument, path: Option<PathBytes>) -> Result<Found, Errno> {
    let (dirfd, path) = match path {
        Some(path) => (sys::AT_FDCWD, path),
        None => (argument.dirfd, argument.text.clone()),
    };
    let header = program::header_of(dirfd, &path);
    let path = if dirfd == sys::AT_FDCWD || path.first() == Some(&b'/') {
        path
    } else {
        // By the path that follows it would be missing.
        native::checked(sys::__NR_fcntl, [dirfd as u64, u64::from(sys::F_GETFD), 0, 0, 0, 0])?;
        let prefixed = [b"/proc/self/fd/", dirfd.to_string().as_bytes(), b"/", &path].concat();
        PathBytes::try_from(prefixed.as_slice()).map_err(|_| Errno::NAMETOOLONG)?
    };
    Ok((path, header, PathBytes::new()))
}

/// A program on a mount: the kernel runs a copy of it in the session's folder.
fn served_program(process: &'static Process, spot: &Spot, name: &[u8]) -> Result<Found, Errno> {
    let attributes = attributes_at(spot, false)?;
    match attributes.st_mode & sys::S_IFMT {
        sys::S_IFREG => {}
        sys::S_IFLNK => return Err(Errno::LOOP),
        _ => return Err(Errno::ACCESS),
    }
    access_itself(spot, 1, sys::AT_EACCESS)?;
    if attributes.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    let (copy, header) = program::stage(process, spot, &attributes, name)?;
    Ok((copy, header, namei::absolute(process, spot.mount.number, spot.path().as_bytes())?))
}

/// What `called` names is the open file `file`.
fn execute_file(
    process: &'static Process,
    file: &file::OpenFile,
    called: Vec<u8>,
    argv: u64,
    envp: u64,
) -> Served {
    let spot = Spot::new(&process.mounts[file.mount], file.path()?, false)?;
    let (program, header, executable) = served_program(process, &spot, &file.absolute_path()?)?;
    match header {
        Header::Other => {
            let program = Program::Path(program, executable);
            run(process, &Plan { called, program, argv: Vec::new() }, argv, envp)
        }
        Header::Script { interpreter, option } => interpret(process, interpreter, option, called, argv, envp),
    }
}

/// fexecve(3): the kernel calls the program `/dev/fd/N`.
fn execute_descriptor(process: &'static Process, fd: RawFd, call: &Call, argv: u64, envp: u64) -> Served {
    let called = [b"/dev/fd/", fd.to_string().as_bytes()].concat();
    let file = file::served(process, fd);
    let (header, executable) = match &file {
        Some(file) => {
            let spot = Spot::new(&process.mounts[file.mount], file.path()?, false)?;
            let (program, header, executable) = served_program(process, &spot, &file.absolute_path()?)?;
            (header, Program::Path(program, executable))
        }
        None => (program::header_of(sys::AT_FDCWD, &called), Program::Call(*call.original_args())),
    };
    match header {
        Header::Script { interpreter, option }
            if file.is_some()
                || is_served(process, &interpreter)?
                || guest::may_be_guest(process, &interpreter) =>
        {
            if descriptors::is_cloexec(process, fd) {
                return Err(Errno::NOENT); // The interpreter could not open it.
            }
            interpret(process, interpreter, option, called, argv, envp)
        }
        _ => run(process, &Plan { called: Vec::new(), program: executable, argv: Vec::new() }, argv, envp),
    }
}

/// Runs the interpreter of a script, which is to find that at `script`.
fn interpret(
    process: &'static Process,
    interpreter: Vec<u8>,
    option: Option<Vec<u8>>,
    script: Vec<u8>,
    argv: u64,
    envp: u64,
) -> Served {
    let text = PathBytes::try_from(interpreter.as_slice()).map_err(|_| Errno::NAMETOOLONG)?;
    let words = [interpreter].into_iter().chain(option).chain([script]).collect();
    execute(process, words, PathArgument { dirfd: sys::AT_FDCWD, text }, argv, envp, true)
}

/// Prepares what the next image inherits, and asks the kernel. Comes back only if that fails.
fn run(process: &'static Process, plan: &Plan, argv: u64, envp: u64) -> Served {
    match run_as(process, plan, argv, envp, true)? {
        // A security module lets the program be executed, but not its host.
        Attempt::HostRefused => match run_as(process, plan, argv, envp, false)? {
            Attempt::Failed(result) => Ok(Reply::Value(result)),
            Attempt::HostRefused => Err(Errno::ACCESS),
        },
        Attempt::Failed(result) => Ok(Reply::Value(result)),
    }
}

/// What came of an exec that came back.
enum Attempt {
    Failed(i64),
    /// The kernel would not execute the host.
    HostRefused,
}

fn run_as(
    process: &'static Process,
    plan: &Plan,
    argv: u64,
    envp: u64,
    may_be_hosted: bool,
) -> Result<Attempt, Errno> {
    let words = Words::new(plan, argv)?;
    if !interpose::in_vfork_child() {
        paging::live::write_back_all(process);
        ending::flush_all(process);
    }
    let outsider = match &plan.program {
        Program::Path(path, _) => image::look(sys::AT_FDCWD, path),
        Program::Call(args) => image::look_at(args[0] as RawFd),
    };
    let leaves = process.leaves_session();
    let mut hosted = match (&plan.program, outsider) {
        (_, None) => None,
        _ if leaves || !may_be_hosted => None,
        (Program::Path(path, _), Some(why)) => guest::decide(process, why, path),
        (Program::Call(args), Some(why)) => guest::decide_by_fd(process, why, args[0] as RawFd),
    };
    let library_path = match &plan.program {
        // It looks for its libraries by itself, through the mounts.
        _ if hosted.is_some() => None,
        Program::Path(file, name) => {
            let given = environment::library_path(envp)?;
            let name = if name.is_empty() { file } else { name };
            libraries::arrange(process, file, name, given.as_deref())
        }
        Program::Call(_) => None,
    };
    let outsider = outsider.filter(|_| hosted.is_none());
    if let Some(why) = outsider {
        outsider::tell(process, why, plan.name(), words.as_ref().map_or(argv, Words::pointer));
    }
    let surely = outsider.is_none() && is_intercepted(process, &plan.program, hosted.is_some());
    if !interpose::in_vfork_child() {
        common::own_table(process);
    }
    let prepared =
        if leaves { handover::prepare_to_leave(process)? } else { handover::prepare_exec(process, surely)? };
    lending::give_up_all(process);
    let on_mount = match &plan.program {
        Program::Path(_, executable) => executable.as_slice(),
        Program::Call(_) => b"",
    };
    let (executable, guest) = match &hosted {
        Some(hosted) if on_mount.is_empty() => (hosted.shown.as_slice(), hosted.file.as_slice()),
        Some(hosted) => (on_mount, hosted.file.as_slice()),
        None => (on_mount, b"".as_slice()),
    };
    // Where the kernel takes it from the file that it executes.
    let name = if plan.called.is_empty() { guest } else { &plan.called };
    let arena = if leaves { None } else { handover::carry_arena(process) };
    let next = NextImage {
        outsider,
        registered: prepared.registered,
        token: prepared.token,
        arena,
        executable,
        guest,
        name: base_name(name),
        library_path: library_path.as_deref(),
        leaves,
    };
    let result = Environment::for_next_image(process, envp, &next).map(|environment| {
        let argv = words.as_ref().map_or(argv, Words::pointer);
        let envp = environment.pointer();
        if interpose::in_vfork_child() {
            // All that is ours on the heap: after exec nobody is here to free it.
            let shown = hosted.as_mut().map(|hosted| mem::take(&mut hosted.shown));
            vfork::children().leave_to_parent(Box::new((words, environment, shown, library_path)));
        }
        let _alone = paging::before_exec();
        match (&plan.program, &hosted) {
            (Program::Path(path, _), _) | (_, Some(Hosted { host: path, .. })) => {
                let mut name = hosted.as_ref().map_or(path, |hosted| &hosted.host).clone();
                if name.try_push(0).is_err() {
                    return -i64::from(Errno::NAMETOOLONG.raw_os_error());
                }
                let args = [name.as_ptr() as u64, argv, envp, 0, 0, 0];
                if on_mount.is_empty() || hosted.is_some() {
                    native::exec(sys::__NR_execve, args)
                } else {
                    running::exec(path, args)
                }
            }
            (Program::Call(args), None) => {
                let mut args = *args;
                args[3] = envp;
                native::exec(sys::__NR_execveat, args)
            }
        }
    });
    lending::keep_all(process);
    prepared.undo(process);
    if arena.is_some() {
        handover::keep_arena(process);
    }
    Ok(match result? {
        result if hosted.is_some() && is_refusal(result) => Attempt::HostRefused,
        result => Attempt::Failed(result),
    })
}

/// Whether an exec came to this because the file may not be executed.
fn is_refusal(result: i64) -> bool {
    [Errno::ACCESS, Errno::PERM].iter().any(|errno| -result == i64::from(errno.raw_os_error()))
}

/// Whether it is worth knowing that the next image is intercepted for sure, and so it is.
fn is_intercepted(process: &'static Process, program: &Program, hosted: bool) -> bool {
    if interpose::in_vfork_child() || process.files.is_empty() && process.carried.is_empty() {
        return false;
    }
    match program {
        _ if hosted => true,
        Program::Path(path, _) => next_image::is_intercepted(process, path),
        // execveat of the FD itself.
        Program::Call(args) => next_image::is_intercepted(process, &next_image::path_of_fd(args[0] as RawFd)),
    }
}

fn base_name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(path, |slash| &path[slash + 1..])
}

/// An argv of our own.
struct Words {
    pointers: Vec<u64>,
    _strings: Vec<Vec<u8>>,
}

impl Words {
    /// The next image's argv, if it is not the program's own array.
    fn new(plan: &Plan, argv: u64) -> Result<Option<Self>, Errno> {
        if plan.argv.is_empty() {
            return Ok(None);
        }
        let strings: Vec<Vec<u8>> = plan.argv.iter().map(|word| [word, b"\0".as_slice()].concat()).collect();
        let mut pointers: Vec<u64> = strings.iter().map(|string| string.as_ptr() as u64).collect();
        pointers.extend(environment::pointers(argv)?.into_iter().skip(1));
        pointers.push(0);
        Ok(Some(Self { pointers, _strings: strings }))
    }

    fn pointer(&self) -> u64 {
        self.pointers.as_ptr() as u64
    }
}
