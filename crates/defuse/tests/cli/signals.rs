//! Signals and job control through the command.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use rstest::rstest;

use super::lab::{Lab, stdout};

/// Starts `script` and waits until it has said `ready`.
fn start(lab: &Lab, script: &str) -> Child {
    let mut command = lab.run_script(script);
    // A shell cannot trap what was ignored before it began, as under nohup or in the background of a script.
    let heed = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: one system call.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: what runs between fork and exec is a system call.
    unsafe { command.pre_exec(heed) };
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn send(child: &Child, signal: i32) {
    // SAFETY: no memory is involved; the child has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[rstest]
#[case(libc::SIGTERM, "TERM")]
#[case(libc::SIGHUP, "HUP")]
#[case(libc::SIGINT, "INT")]
#[case(libc::SIGUSR1, "USR1")]
fn a_signal_sent_to_the_command_reaches_the_program(#[case] signal: i32, #[case] name: &str) {
    let lab = Lab::new();
    let script = format!("sleep 1000 & trap \"kill $!; exit 42\" {name}; echo ready; wait");
    let mut child = start(&lab, &script);
    send(&child, signal);
    assert_eq!(child.wait().unwrap().code(), Some(42));
    assert!(lab.sessions().is_empty());
}

#[test]
fn a_signal_that_the_program_does_not_catch_ends_both() {
    let lab = Lab::new();
    let mut child = start(&lab, "echo ready; exec sleep 1000");
    send(&child, libc::SIGTERM);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn the_command_stops_and_goes_on_with_the_program() {
    let lab = Lab::new();
    let mut child = lab.run_script("kill -STOP $$; exit 5").spawn().unwrap();
    let mut status = 0;
    // SAFETY: `status` is there for the call to write.
    let waited = unsafe { libc::waitpid(child.id() as i32, &raw mut status, libc::WUNTRACED) };
    assert_eq!(waited, child.id() as i32);
    assert!(libc::WIFSTOPPED(status));
    send(&child, libc::SIGCONT);
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn masks_and_dispositions_are_inherited_as_without_the_command() {
    let lab = Lab::new();
    let run = lab.run(&["grep", "^Sig[BI]", "/proc/self/status"]);
    let signals = |setup: &str, through: bool| {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{setup}; exec \"$@\""), "bash"]);
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if through {
            command.arg(run.get_program()).args(run.get_args());
        } else {
            command.args(run.get_args().skip(3));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let mut different = std::collections::BTreeSet::new();
    for setup in [":", "trap '' PIPE", "trap '' CHLD HUP", "trap '' INT QUIT"] {
        let direct = signals(setup, false);
        assert_eq!(signals(setup, true), direct, "{setup}");
        different.insert(direct);
    }
    assert_eq!(different.len(), 4);
}

#[test]
fn a_status_is_handed_on_where_sigchld_is_ignored() {
    let lab = Lab::new();
    let run = lab.run_script("exit 9");
    let mut command = Command::new("bash");
    command.args(["-c", "trap '' CHLD; exec \"$@\"", "bash"]).arg(run.get_program()).args(run.get_args());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_eq!(command.status().unwrap().code(), Some(9));
}
