//! A process that executes another program while its threads are at work on what others share.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use uffd_pager::{Cache, Changed, Errno, PAGE, View, before_exec};

fn view(cache: &Cache) -> View {
    View::open(cache.try_clone().expect("FDs")).expect("a view")
}

/// Changes nothing, and says so when nobody else can any more.
fn change(view: &View, meanwhile: impl FnOnce()) {
    let nothing = Changed { bytes: 0..0, length: PAGE as u64 };
    view.change(
        |_, _| Ok::<_, Errno>(0),
        || {
            meanwhile();
            Ok::<_, Errno>(((), nothing))
        },
    )
    .expect("nothing can fail");
}

/// Executes a program that waits for its input's end, in a thread, while another one is inside a change until it is told to go on.
fn child(cache: &Cache, mut go_on: PipeReader, mut ready: PipeWriter) -> ! {
    let view = view(cache);
    let (mut is_inside, mut inside) = pipe().expect("a pipe");
    std::thread::spawn(move || {
        change(&view, || {
            inside.write_all(b"i").expect("a reader");
            go_on.read_exact(&mut [0]).expect("a writer");
        });
    });
    is_inside.read_exact(&mut [0]).expect("the other thread");
    ready.write_all(b"r").expect("a reader");
    let _alone = before_exec();
    panic!("{}", Command::new("sleep").arg("1000").exec());
}

fn program(pid: Pid) -> String {
    let name = format!("/proc/{}/comm", pid.as_raw_nonzero());
    std::fs::read_to_string(name).expect("a child that is there").trim().to_owned()
}

#[test]
fn exec_ends_no_thread_that_others_wait_for() {
    let cache = Cache::new(PAGE as u64).expect("a cache");
    let own = view(&cache);
    let (go_on, mut tell) = pipe().expect("a pipe");
    let (mut is_ready, ready) = pipe().expect("a pipe");
    // SAFETY: this process has the one thread of the test and the harness's, which holds nothing that the child needs: libc keeps malloc whole.
    let forked = unsafe { libc::fork() };
    if forked == 0 {
        child(&cache, go_on, ready);
    }
    let pid = Pid::from_raw(forked).expect("a child");
    drop(ready);
    is_ready.read_exact(&mut [0]).expect("the child");
    let before = program(pid);
    // Long enough for an exec that does not wait.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert_eq!(program(pid), before, "executed over a change");
        std::thread::sleep(Duration::from_millis(5));
    }
    tell.write_all(b"g").expect("a reader");
    while program(pid) != "sleep" {
        std::thread::sleep(Duration::from_millis(1));
    }
    // As the process that was inside lives, only its own leaving can have ended that.
    change(&own, || ());
    kill_process(pid, Signal::KILL).expect("a child");
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).expect("a child");
}
