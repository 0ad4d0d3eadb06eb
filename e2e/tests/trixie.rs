//! The product on the glibc of Debian trixie (2.41), whose calls go through one helper: in the root that `DEFUSE_TRIXIE_ROOT` names.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::path::PathBuf;
use std::process::Command;

use defuse_e2e::Session;
use defuse_e2e::process::End;
use defuse_e2e::requirement::{is_root, skip};

/// Goes into the root, with the product at /mnt. The mounts end with the namespace.
const ENTER: &str = r#"
    set -e; root=$1; product=$2; shift 2
    mount -t tmpfs none "$root/tmp"; mount --bind "$product" "$root/mnt"; mount --rbind /proc "$root/proc"; mount --rbind /dev "$root/dev"
    mkdir "$root/tmp/m" "$root/tmp/s" "$root/tmp/run" "$root/tmp/out"
    exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp/out DEFUSE_RUN_DIR=/tmp/run "$@"
"#;

/// Runs a program in the root.
fn inside(session: &Session, root: &PathBuf, words: &[&str]) -> String {
    let defuse = PathBuf::from(session.command([] as [&str; 0]).get_program());
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", ENTER, "sh"]).arg(root);
    command.arg(defuse.parent().expect("a folder")).args(words).current_dir(session.place.root());
    let outcome = session.finish(&mut command);
    let text = outcome.stdout_text();
    assert_eq!(outcome.end, End::Exit(0), "{text}{}", outcome.stderr_text());
    assert_eq!(outcome.stderr_text(), "", "{text}");
    text
}

/// The same output on a plain directory of the root and on a mount.
fn same_as_plain(needs: &str, script: &str) {
    let Some(session) = Session::new() else { return };
    let Some(root) = std::env::var_os("DEFUSE_TRIXIE_ROOT").map(PathBuf::from) else {
        return skip("glibc 2.41: DEFUSE_TRIXIE_ROOT is not set");
    };
    if !is_root() {
        return skip("chroot needs root");
    }
    if !root.join(needs).exists() {
        return skip(&format!("the root of trixie has no {needs}"));
    }
    let script = format!("set -eu; cd /tmp/m\n{script}");
    let plain = inside(&session, &root, &["bash", "-c", &script]);
    let mount = "/tmp/m=/mnt/libpassthrough.so:/tmp/s";
    let served = inside(&session, &root, &["/mnt/defuse", "run", "-m", mount, "--", "bash", "-c", &script]);
    assert!(!plain.is_empty());
    assert_eq!(served, plain);
    session.assert_nothing_left();
}

#[test]
fn bash_and_coreutils() {
    same_as_plain(
        "bin/bash",
        r#"
        echo one >a; printf '2\n3\n' | tee b | wc -l; cat a b | sort -r >c; exec 3<>c 4>>a; read -r x <&3; echo "$x"; cat <&3; echo two >&4
        mkdir -p d/e; cp a d/e/; mv b d/; ln -s d/e/a l; ln a h; stat -c '%F %s %h' a l d h; readlink l; ls -R; (cd d/e; pwd; cat a)
        cat <<<here; cat <(sort a) | head -n 1; for n in 1 2 3; do echo $n; done | while read -r n; do echo "$n" >>n; done & wait; cat n
        cp /bin/cat own; ./own a; printf '#!/tmp/m/own\nscript\n' >s; chmod +x s; ./s; touch -d @5 t; stat -c %Y t; du -b a; rm -r d; ls; test ! -e gone
        dd if=/dev/zero of=z bs=4k count=3 status=none; truncate -s 5000 z; cksum z; sed -i s/one/ONE/ a; grep -n ONE a; find . -type f | sort; exec cat a c
        "#,
    );
}

/// A blocked read in the helper of 2.41 is ended by a signal, and what the shell reads next is whole.
#[test]
fn signals_and_blocked_reads() {
    same_as_plain(
        "bin/bash",
        r#"
        mkfifo p; trap 'echo caught' USR1; (read -r _ <p; kill -USR1 $$; echo done >q) & exec 5>p; echo go >&5; exec 5>&-; wait || true; wait; cat q
        timeout 20 cat p & sleep 0 >p; wait; { sh -c 'kill -TERM $$' || echo "rc $?"; } 2>>"$HOME/err"
        "#,
    );
}

#[test]
fn python() {
    same_as_plain(
        "usr/bin/python3",
        r#"
        cat >p.py <<'END'
import os, sys
with open("f", "w+") as f:
    f.write("x" * 100000); f.seek(10); print(len(f.read()))
os.rename("f", "g"); print(os.stat("g").st_size, sorted(os.listdir(".")))
pid = os.fork()
if pid == 0:
    os.execvp("cat", ["cat", "p.py"])
os.waitpid(pid, 0)
r, w = os.pipe(); os.write(w, b"end"); print(os.read(r, 9))
fd = os.open("g", os.O_RDONLY); os.lseek(fd, 5, 0); os.set_inheritable(fd, True)
sys.stdout.flush(); os.execvp(sys.executable, [sys.executable, "-c", f"import os; print(os.read({fd}, 3), os.lseek({fd}, 0, 1))"])
END
        python3 p.py
        "#,
    );
}
