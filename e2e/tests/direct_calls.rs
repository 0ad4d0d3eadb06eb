//! System calls that libc has no part in.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use defuse_e2e::process::End;
use defuse_e2e::{Serving, Session, requirement, same_as_plain, script};

/// What Go has compiled, so that it need not do it every time.
const GO_CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/go-build");

same_as_plain! {
    by_instructions_of_the_program: script(r#"cd "$MNT"; "$FIX/direct" inline f; "$FIX/direct" libc f"#).fixture("direct");

    by_code_made_at_run_time: script(r#"cd "$MNT"; "$FIX/direct" runtime f; "$FIX/direct" fork f; "$FIX/direct" threads f"#)
        .fixture("direct");

    /// Its runtime makes system calls and signal frames of its own, and goroutines have small stacks.
    go_with_cgo: script(r#"
        mkdir "$OUT/go"; cat >"$OUT/go/main.go" <<'END'
package main

// #include <stdlib.h>
import "C"

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

func main() {
	C.srand(1)
	var group sync.WaitGroup
	for i := 0; i < 20; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			name := fmt.Sprintf("f%02d", i)
			for j := 0; j < 50; j++ {
				text := fmt.Sprint(i, j)
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					fmt.Println(err)
				}
				if read, err := os.ReadFile(name); err != nil || string(read) != text {
					fmt.Println("wrong:", string(read), err)
				}
			}
		}(i)
	}
	group.Wait()
	filepath.WalkDir(".", func(path string, entry os.DirEntry, err error) error {
		fmt.Println(path, entry.IsDir(), err)
		return nil
	})
	output, err := exec.Command("cat", "f07", "missing").CombinedOutput()
	fmt.Println(string(output), err)
}
END
        (cd "$OUT/go" && HOME="$OUT/go" GOFLAGS=-mod=mod GO111MODULE=off go build -o program main.go)
        cd "$MNT"; "$OUT/go/program"; mv "$OUT/go/program" p; ./p | tail -n 3; rm -rf p "$OUT/go"
    "#).needs(&["go", "cc"]).env("GOCACHE", GO_CACHE).limit(std::time::Duration::from_secs(600));
}

/// What `FIXTURE [WHAT] FILE` says, run with these options: standard output and error.
fn direct(options: &[&str], fixture: &str, what: &[&str]) -> Option<(String, String)> {
    let session = Session::new()?.fixture(fixture, &[]).fixture("legacy", &[]);
    let place = &session.place;
    std::fs::write(place.backend().join("f"), "content").expect("write to the back end");
    let mount = format!("{}=passthrough:{}", place.mnt().display(), place.backend().display());
    let program = place.root().join("fixtures").join(fixture).display().to_string();
    let file = place.mnt().join("f").display().to_string();
    if matches!(fixture, "legacy" | "entry32") {
        let probe = place.root().join("fixtures/legacy");
        let alone = Command::new(probe).arg("/nowhere").output().expect("run the fixture");
        let said = String::from_utf8_lossy(&alone.stdout);
        if alone.status.signal() == Some(rustix::process::Signal::SEGV.as_raw())
            || said == "open by int80: -38\n"
        {
            requirement::skip("the kernel has no 32-bit system calls");
            return None;
        }
        assert_eq!(said, "open by int80: -2\n", "{}", alone.status);
    }
    let words = [&["run", "-m", &mount], options, &["--", &program], what, &[&file]].concat();
    let outcome = session.defuse(words);
    assert_eq!(outcome.end, End::Exit(0), "{}", outcome.stderr_text());
    session.assert_nothing_left();
    Some((outcome.stdout_text(), outcome.stderr_text()))
}

/// The kernel looks for what the program names and finds the empty directory under the mount.
#[test]
fn the_32_bit_entry_is_detected_and_said() {
    let Some((said, complained)) = direct(&[], "legacy", &[]) else { return };
    assert_eq!(said, "open by int80: -2\n");
    assert!(complained.contains("makes 32-bit system calls (int $0x80) at 1 place(s)"), "{complained}");
}

/// Its arguments are in other registers, and it keeps those that a `syscall` does not.
#[test]
fn the_32_bit_entry_keeps_all_registers_while_dispatch_is_armed() {
    for dispatch in ["--dispatch=never", "--dispatch=always"] {
        let Some((said, _)) = direct(&[dispatch], "entry32", &[]) else { return };
        assert_eq!(
            said,
            "six arguments: 1 second, kept 1\n\
             signal behind it: 0, struck 1 strayed 0 kept 1\n\
             begun again: 1 x, struck 2 strayed 0 kept 1\n\
             among signals: wrong 0 strayed 0\n",
            "{dispatch}"
        );
    }
}

#[test]
fn every_call_is_caught_by_dispatch_if_asked_for() {
    for what in ["inline", "libc", "runtime", "fork", "threads"] {
        let rewritten = direct(&["--dispatch=auto"], "direct", &[what]);
        let caught = direct(&["--dispatch=always"], "direct", &[what]);
        let (Some((rewritten, _)), Some((caught, complained))) = (rewritten, caught) else { return };
        assert_eq!(caught, rewritten, "{what}: {complained}");
        assert!(caught.contains("read 12"), "{caught}");
    }
}

/// What a fixture says in a plain directory, and on a mount where every call is caught.
fn says_the_same_where_every_call_is_caught(fixture: &str, serving: Serving) {
    let Some(session) = Session::new() else { return };
    let session = session.fixture(fixture, &[]);
    let place = &session.place;
    let program = place.root().join("fixtures").join(fixture).display().to_string();
    let plain = Command::new(&program).current_dir(place.out()).output().expect("run the fixture");
    assert!(plain.status.success(), "{}", plain.status);
    let mount = serving.mount_argument(&place.mnt(), &place.backend());
    let within = format!("cd \"$MNT\"; exec {program}");
    let caught = session.defuse(["run", "-m", &mount, "--dispatch=always", "--", "bash", "-c", &within]);
    assert_eq!(caught.end, End::Exit(0), "{}", caught.stderr_text());
    assert_eq!(caught.stdout_text(), String::from_utf8_lossy(&plain.stdout), "{}", caught.stderr_text());
    session.assert_nothing_left();
}

/// The signal by which a call is caught comes in what becomes of another, too, and where a call that was caught is being made.
#[test]
fn signals_strike_in_what_becomes_of_others_where_every_call_is_caught() {
    says_the_same_where_every_call_is_caught("nested", Serving::Plugin);
}

/// It has an alternate stack for its own, or one on which a fault is being served.
#[test]
fn faults_are_served_on_small_stacks_where_every_call_is_caught() {
    says_the_same_where_every_call_is_caught("small_stacks", Serving::Paged);
}
