//! execve and execveat: programs and scripts that lie on a mount, and what the next image needs from this one.

use std::os::fd::RawFd;

use interpose::Call;
use linux_raw_sys::general as sys;
use rustix::io::Errno;

use super::attributes::attributes_at;
use super::paths::{self, At};
use super::{Reply, Served, outsider};
use crate::environment::{self, Environment};
use crate::file;
use crate::handover;
use crate::image;
use crate::namei::{self, Located, PathArgument, Spot};
use crate::native;
use crate::paging;
use crate::process::Process;
use crate::program::{self, Header};
use crate::resolve::PathBytes;
use crate::user;

/// The kernel's limit of interpreters that are scripts themselves (`BINPRM_MAX_RECURSION` and one).
const NESTED: usize = 5;

pub fn execve(process: &'static Process, call: &Call) -> Served {
    let [_, argv, envp, ..] = call.args;
    let argument = At::cwd(0, true).argument(call)?;
    if let Some(file) = namei::proc_fd(process, &argument.text) {
        return execute_file(process, &file, argument.text.to_vec(), argv, envp);
    }
    execute(process, argument, argv, envp, true)
}

pub fn execveat(process: &'static Process, call: &Call) -> Served {
    let [dirfd, path, argv, envp, flags, _] = call.args;
    let flags = flags as u32;
    if flags & !(sys::AT_EMPTY_PATH | sys::AT_SYMLINK_NOFOLLOW) != 0 {
        return Ok(Reply::Pass);
    }
    if flags & sys::AT_EMPTY_PATH != 0 && user::read::<u8>(path)? == 0 {
        let Some(file) = file::served(process, dirfd as RawFd) else {
            let program = Program::Call(*call.original_args());
            let plan = Plan { called: Vec::new(), program, argv: Vec::new() };
            return run(process, &plan, argv, envp);
        };
        return execute_file(process, &file, Vec::new(), argv, envp);
    }
    let argument = PathArgument::read(dirfd as RawFd, path)?;
    execute(process, argument, argv, envp, flags & sys::AT_SYMLINK_NOFOLLOW == 0)
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

fn execute(process: &'static Process, argument: PathArgument, argv: u64, envp: u64, follow: bool) -> Served {
    let called = argument.text.to_vec();
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut argument = argument;
    for _ in 0..NESTED {
        let (program, header, executable) = look_up(process, &argument, follow)?;
        match header {
            // A script of the kernel's with an interpreter of the kernel's: permissions and all are the kernel's business.
            Header::Script { ref interpreter, .. }
                if executable.is_empty() && !is_served(process, interpreter)? =>
            {
                let program = Program::Path(program, executable);
                return run(process, &Plan { called: Vec::new(), program, argv: words }, argv, envp);
            }
            Header::Script { interpreter, option } => {
                if executable.is_empty() {
                    check_executable(&program)?;
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
    Ok(matches!(paths::locate_for_sure(process, &argument, true)?, Located::Served(_)))
}

/// `EACCES` unless this process may execute the kernel's file at `path`.
fn check_executable(path: &PathBytes) -> Result<(), Errno> {
    let mut name = path.clone();
    name.try_push(0).map_err(|_| Errno::NAMETOOLONG)?;
    let args = [sys::AT_FDCWD as u64, name.as_ptr() as u64, 1, u64::from(sys::AT_EACCESS), 0, 0];
    native::checked(sys::__NR_faccessat2, args).map(drop)
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
    let spot = match paths::locate_for_sure(process, argument, follow)? {
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
        _ => return Err(Errno::ACCESS),
    }
    spot.call(|instance, path| instance.access(path, 1, sys::AT_EACCESS as i32))?;
    if attributes.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    let (copy, header) = program::stage(process, spot, &attributes, name)?;
    Ok((copy, header, namei::absolute(process, spot.mount.number, spot.path().as_bytes())?))
}

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
        Header::Script { .. } => {
            let named = PathArgument { dirfd: sys::AT_FDCWD, text: file.absolute_path()? };
            execute(process, named, argv, envp, true)
        }
    }
}

/// Prepares what the next image inherits, and asks the kernel. Comes back only if that fails.
fn run(process: &'static Process, plan: &Plan, argv: u64, envp: u64) -> Served {
    let words = Words::new(plan, argv)?;
    if !interpose::in_vfork_child() {
        paging::live::write_back_all(process);
    }
    let outsider = match &plan.program {
        Program::Path(path, _) => image::look(sys::AT_FDCWD, path),
        Program::Call(args) => image::look_at(args[0] as RawFd),
    };
    if let Some(why) = outsider {
        outsider::tell(process, why, plan.name(), words.as_ref().map_or(argv, Words::pointer));
    }
    let prepared = handover::prepare_exec(process)?;
    let executable = match &plan.program {
        Program::Path(_, executable) => executable.as_slice(),
        Program::Call(_) => b"",
    };
    let arena = handover::carry_arena(process);
    let result = Environment::for_next_image(
        process,
        envp,
        outsider,
        prepared.token,
        arena,
        executable,
        base_name(&plan.called),
    )
    .map(|environment| {
        let argv = words.as_ref().map_or(argv, Words::pointer);
        let envp = environment.pointer();
        if interpose::in_vfork_child() {
            process.leave_to_parent(Box::new((words, environment)));
        }
        match &plan.program {
            Program::Path(path, _) => {
                let mut name = path.clone();
                if name.try_push(0).is_err() {
                    return -i64::from(Errno::NAMETOOLONG.raw_os_error());
                }
                native::exec(sys::__NR_execve, [name.as_ptr() as u64, argv, envp, 0, 0, 0])
            }
            Program::Call(args) => {
                let mut args = *args;
                args[3] = envp;
                native::exec(sys::__NR_execveat, args)
            }
        }
    });
    prepared.undo(process);
    if arena.is_some() {
        handover::keep_arena(process);
    }
    result.map(Reply::Value)
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
