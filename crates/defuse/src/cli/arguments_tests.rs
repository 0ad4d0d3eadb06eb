use std::ffi::OsString;
use std::path::PathBuf;

use defuse::log::Level;
use rstest::rstest;

use super::super::failure::{RUN_FAILED, USAGE};
use super::super::help;
use super::{Request, RunRequest, parse, parse_log_variable};

fn words(line: &str) -> impl Iterator<Item = OsString> {
    line.split_whitespace().map(OsString::from).collect::<Vec<_>>().into_iter()
}

fn run(line: &str) -> RunRequest {
    match parse(words(line)).unwrap() {
        Request::Run(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_end_where_the_program_begins() {
    for line in
        ["run -m /a=l:b -- ls -l --help", "run -m /a=l:b ls -l --help", "run --mount=/a=l:b ls -l --help"]
    {
        let request = run(line);
        assert_eq!(request.command, ["ls", "-l", "--help"]);
        assert_eq!(request.mounts.len(), 1);
    }
    assert_eq!(run("run -m/a=l:b -- ls -- x").command, ["ls", "--", "x"]);
    assert_eq!(run("run -m /a=l:b -- -odd").command, ["-odd"]);
}

#[test]
fn mounts_keep_their_order() {
    let points: Vec<_> =
        run("run -m /b=l:x -m /a=l:y true").mounts.into_iter().map(|mount| mount.point).collect();
    assert_eq!(points, [PathBuf::from("/b"), PathBuf::from("/a")]);
}

#[test]
fn logging_is_asked_for_in_two_ways() {
    let request = run("run --trace -m /a=l:b true");
    assert_eq!((request.log_level, request.log_file), (Some(Level::Trace), None));
    let request = run("run --trace=/tmp/x -m /a=l:b true");
    assert_eq!((request.log_level, request.log_file), (Some(Level::Trace), Some("/tmp/x".into())));
    let request = run("run --log debug --log-file y -m /a=l:b true");
    assert_eq!((request.log_level, request.log_file), (Some(Level::Debug), Some("y".into())));
}

#[rstest]
#[case("", USAGE, "no command given")]
#[case("walk", USAGE, "no command 'walk'")]
#[case("--fast", USAGE, "--fast")]
#[case("doctor twice", USAGE, "twice")]
#[case("plugin", USAGE, "'list' or 'check' expected")]
#[case("plugin burn", USAGE, "'plugin burn'")]
#[case("plugin list all", USAGE, "all")]
#[case("plugin check", USAGE, "LIBRARY:BACKEND")]
#[case("plugin check x", USAGE, "no ':'")]
#[case("plugin check --seed x l:b", USAGE, "invalid digit")]
#[case("plugin list --seed 1", USAGE, "--seed")]
#[case("run", RUN_FAILED, "no program")]
#[case("run -m /a=l:b", RUN_FAILED, "no program")]
#[case("run true", RUN_FAILED, "no mount given")]
#[case("run -m", RUN_FAILED, "-m")]
#[case("run -m nonsense true", RUN_FAILED, "'nonsense': there is no '='")]
#[case("run --log loud -m /a=l:b true", RUN_FAILED, "off, error, warn")]
#[case("run --dispatch often -m /a=l:b true", RUN_FAILED, "never, auto, always")]
#[case("run --frob -m /a=l:b true", RUN_FAILED, "--frob")]
fn a_wrong_line_is_refused(#[case] line: &str, #[case] status: i32, #[case] named: &str) {
    let failure = parse(words(line)).unwrap_err();
    assert_eq!(failure.status, status);
    assert!(failure.to_string().contains(named), "{failure}");
    assert!(failure.to_string().contains("--help'."), "{failure}");
}

#[rstest]
#[case("--help", help::COMMAND)]
#[case("-h", help::COMMAND)]
#[case("help", help::COMMAND)]
#[case("run --help", help::RUN)]
#[case("run -m /a=l:b -h", help::RUN)]
#[case("plugin --help", help::PLUGIN)]
#[case("plugin check --help", help::PLUGIN)]
#[case("doctor -h", help::DOCTOR)]
fn help_is_where_it_is_asked_for(#[case] line: &str, #[case] text: &'static str) {
    assert_eq!(parse(words(line)).unwrap(), Request::Help(text));
}

#[test]
fn a_check_can_be_told_what_to_try() {
    let Request::PluginCheck(request) = parse(words("plugin check l:b --seed 7 --sequences=9")).unwrap()
    else {
        panic!("another request");
    };
    assert_eq!((request.seed, request.sequences), (Some(7), Some(9)));
    assert_eq!(request.plugin.library, "l");
}

#[test]
fn the_log_variable_has_a_level_and_may_have_a_file() {
    assert_eq!(parse_log_variable("info".as_ref()).unwrap(), (Level::Info, None));
    assert_eq!(parse_log_variable("debug:/a:b".as_ref()).unwrap(), (Level::Debug, Some("/a:b".into())));
    assert!(parse_log_variable("loud".as_ref()).unwrap_err().to_string().contains("DEFUSE_LOG"));
}
