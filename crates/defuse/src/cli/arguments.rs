//! From the words of the command line to what is asked for.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use defuse::log::Level;
use defuse::session::{MountSpec, PluginSpec};
use defuse::standing;
use interpose::DispatchPolicy;
use lexopt::{Arg, Parser, ValueExt};

use super::failure::{Failure, RUN_FAILED, USAGE};
use super::help;
use super::plugin::CheckRequest;

/// The hidden command by which `run` starts a program that lies on a mount, see [`run::exec_inside`](super::run::exec_inside).
pub const EXEC_INSIDE: &str = "exec-inside";
/// The hidden command that opens files inside a session.
pub const WRITE_BACK_INSIDE: &str = "write-back-inside";

/// What the command is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Print this text.
    Help(&'static str),
    /// Print the version.
    Version,
    /// Run a program.
    Run(RunRequest),
    /// Become a program, which is looked for through the mounts: the working directory (empty: as it is), and the program with its arguments.
    ExecInside(Vec<OsString>),
    /// Mount for all sessions.
    Mount(MountRequest),
    /// Undo that.
    Umount(UmountRequest),
    /// List what is mounted for all sessions.
    List,
    /// Make or extend the standing session of this user.
    JoinStanding,
    /// Open these files, which writes back what was stored to their mapped pages.
    WriteBackInside(Vec<OsString>),
    /// List plugins.
    PluginList,
    /// Try a plugin.
    PluginCheck(CheckRequest),
    /// Tell about the machine.
    Doctor,
}

/// What `run` is given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RunRequest {
    /// The mounts in their order, beside those that stand.
    pub mounts: Vec<MountSpec>,
    /// When calls are caught that the rewritten sites do not make, if it is given.
    pub dispatch: Option<DispatchPolicy>,
    /// The level to log, if one is given.
    pub log_level: Option<Level>,
    /// The file to log to, if one is given.
    pub log_file: Option<PathBuf>,
    /// The program and its arguments; at least one word.
    pub command: Vec<OsString>,
}

/// What `mount` is given.
#[derive(Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// The mount.
    pub mount: MountSpec,
}

/// What `umount` is given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UmountRequest {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Detach it now, whoever uses it.
    pub lazy: bool,
}

/// Reads the arguments, without the program's name.
///
/// # Errors
///
/// Says what is wrong and where help is.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Request, Failure> {
    let mut parser = Parser::from_args(arguments);
    let usage = |error: String| Failure::new(USAGE, format!("{error}\nTry 'defuse --help'."));
    match parser.next().map_err(|error| usage(error.to_string()))? {
        None => Err(usage("no command given".into())),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Request::Help(help::COMMAND)),
        Some(Arg::Short('V') | Arg::Long("version")) => Ok(Request::Version),
        Some(Arg::Value(command)) => match command.to_str() {
            Some("run") => parse_run(&mut parser)
                .map_err(|error| Failure::new(RUN_FAILED, format!("{error}\nTry 'defuse run --help'."))),
            Some("plugin") => parse_plugin(&mut parser)
                .map_err(|error| Failure::new(USAGE, format!("{error}\nTry 'defuse plugin --help'."))),
            Some("mount") => parse_mount(&mut parser)
                .map_err(|error| Failure::new(USAGE, format!("{error}\nTry 'defuse mount --help'."))),
            Some("umount") => parse_umount(&mut parser)
                .map_err(|error| Failure::new(USAGE, format!("{error}\nTry 'defuse umount --help'."))),
            Some("list") => parse_list(&mut parser).map_err(|error| usage(error.to_string())),
            Some("doctor") => parse_doctor(&mut parser).map_err(|error| usage(error.to_string())),
            Some("help") => Ok(Request::Help(help::COMMAND)),
            Some(word) if standing::COMMAND.to_bytes() == word.as_bytes() => Ok(Request::JoinStanding),
            Some(EXEC_INSIDE) => {
                Ok(Request::ExecInside(rest(&mut parser).map_err(|error| usage(error.to_string()))?))
            }
            Some(WRITE_BACK_INSIDE) => {
                Ok(Request::WriteBackInside(rest(&mut parser).map_err(|error| usage(error.to_string()))?))
            }
            _ => Err(usage(format!("there is no command '{}'", command.display()))),
        },
        Some(other) => Err(usage(other.unexpected().to_string())),
    }
}

fn parse_run(parser: &mut Parser) -> Result<Request, lexopt::Error> {
    let mut request = RunRequest::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Short('m') | Arg::Long("mount") => {
                let text = parser.value()?;
                request.mounts.push(MountSpec::parse(&text).map_err(|error| error.to_string())?);
            }
            Arg::Long("dispatch") => request.dispatch = Some(policy(&parser.value()?)?),
            Arg::Long("log") => request.log_level = Some(level(&parser.value()?)?),
            Arg::Long("log-file") => request.log_file = Some(parser.value()?.into()),
            Arg::Long("trace") => {
                request.log_level = Some(Level::Trace);
                if let Some(file) = parser.optional_value() {
                    request.log_file = Some(file.into());
                }
            }
            Arg::Short('h') | Arg::Long("help") => return Ok(Request::Help(help::RUN)),
            // The program: what follows is its own, options too.
            Arg::Value(program) => {
                request.command.push(program);
                request.command.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    if request.command.is_empty() {
        return Err("no program given to run".into());
    }
    Ok(Request::Run(request))
}

fn parse_plugin(parser: &mut Parser) -> Result<Request, lexopt::Error> {
    let mut words = Vec::new();
    let (mut seed, mut sequences) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Request::Help(help::PLUGIN)),
            Arg::Long("seed") => seed = Some(parser.value()?.parse()?),
            Arg::Long("sequences") => sequences = Some(parser.value()?.parse()?),
            Arg::Value(word) => words.push(word),
            other => return Err(other.unexpected()),
        }
    }
    let verb = words.first().and_then(|word| word.to_str());
    match (verb, &words[words.len().min(1)..]) {
        (None, _) => Err("'list' or 'check' expected after 'plugin'".into()),
        (Some("list"), []) if seed.is_some() || sequences.is_some() => {
            Err("--seed and --sequences are for 'plugin check'".into())
        }
        (Some("list"), []) => Ok(Request::PluginList),
        (Some("check"), [spec]) => {
            let plugin = PluginSpec::parse(spec).map_err(|error| error.to_string())?;
            Ok(Request::PluginCheck(CheckRequest { plugin, seed, sequences }))
        }
        (Some("check"), []) => Err("LIBRARY:BACKEND expected after 'plugin check'".into()),
        (Some("list" | "check"), [.., extra]) => Err(lexopt::Error::UnexpectedArgument(extra.clone())),
        (Some(other), _) => Err(format!("'plugin {other}' is not a command").into()),
    }
}

fn parse_mount(parser: &mut Parser) -> Result<Request, lexopt::Error> {
    let mut mount = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Request::Help(help::MOUNT)),
            Arg::Value(text) if mount.is_none() => {
                mount = Some(MountSpec::parse(&text).map_err(|error| error.to_string())?);
            }
            other => return Err(other.unexpected()),
        }
    }
    let mount = mount.ok_or("POINT=LIBRARY:BACKEND expected after 'mount'")?;
    Ok(Request::Mount(MountRequest { mount }))
}

fn parse_umount(parser: &mut Parser) -> Result<Request, lexopt::Error> {
    let mut request = UmountRequest::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Request::Help(help::MOUNT)),
            Arg::Short('l') | Arg::Long("lazy") => request.lazy = true,
            Arg::Value(point) if request.point.as_os_str().is_empty() => request.point = point.into(),
            other => return Err(other.unexpected()),
        }
    }
    if request.point.as_os_str().is_empty() {
        return Err("POINT expected after 'umount'".into());
    }
    Ok(Request::Umount(request))
}

fn parse_list(parser: &mut Parser) -> Result<Request, lexopt::Error> {
    match parser.next()? {
        None => Ok(Request::List),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Request::Help(help::MOUNT)),
        Some(other) => Err(other.unexpected()),
    }
}

fn parse_doctor(parser: &mut Parser) -> Result<Request, lexopt::Error> {
    match parser.next()? {
        None => Ok(Request::Doctor),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Request::Help(help::DOCTOR)),
        Some(other) => Err(other.unexpected()),
    }
}

fn rest(parser: &mut Parser) -> Result<Vec<OsString>, lexopt::Error> {
    let words: Vec<OsString> = parser.raw_args()?.collect();
    if words.is_empty() { Err("no program given".into()) } else { Ok(words) }
}

fn policy(text: &OsStr) -> Result<DispatchPolicy, String> {
    let found = DispatchPolicy::ALL.into_iter().find(|policy| text == policy.name());
    found.ok_or_else(|| {
        let names = DispatchPolicy::ALL.map(DispatchPolicy::name).join(", ");
        format!("dispatch policy '{}' is not one of {names}", text.display())
    })
}

fn level(text: &OsStr) -> Result<Level, String> {
    text.to_str().and_then(Level::from_name).ok_or_else(|| {
        let names: Vec<_> = Level::ALL.iter().map(|level| level.name()).collect();
        format!("log level '{}' is not one of {}", text.display(), names.join(", "))
    })
}

/// Reads `$DEFUSE_LOG`: `LEVEL` or `LEVEL:FILE`.
///
/// # Errors
///
/// When there is no such level.
fn parse_log_variable(text: &OsStr) -> Result<(Level, Option<PathBuf>), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let mut parts = text.as_bytes().splitn(2, |&byte| byte == b':').map(OsStr::from_bytes);
    let level = level(parts.next().unwrap_or_default())
        .map_err(|error| Failure::new(RUN_FAILED, format!("the environment's DEFUSE_LOG: {error}")))?;
    Ok((level, parts.next().filter(|file| !file.is_empty()).map(PathBuf::from)))
}

/// What `$DEFUSE_LOG` says.
///
/// # Errors
///
/// As for [`parse_log_variable`].
pub fn log_variable() -> Result<(Level, Option<PathBuf>), Failure> {
    match std::env::var_os("DEFUSE_LOG").filter(|text| !text.is_empty()) {
        Some(text) => parse_log_variable(&text),
        None => Ok((Level::default(), None)),
    }
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
