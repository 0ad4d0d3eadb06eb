//! Programs that are not alone, or that trust nobody: other libraries in the process, second C libraries, allocators, sandboxes.

use defuse_e2e::requirement::{has_mount_namespaces, is_root, skip};
use defuse_e2e::session::same_beside_the_mount;
use defuse_e2e::{Case, Serving, Session, need_programs, same_as_plain, script};

/// Runs one fixture in the mount's root.
fn transcript(name: &'static str) -> Case {
    script(format!("cd \"$MNT\"; \"$FIX/{name}\"")).fixture(name)
}

same_as_plain! {
    /// seccomp in both modes, prctl, code that may not be changed.
    sandboxes: transcript("hostile");

    /// Landlock: rules for the mount's root, for what is on it, for what is above it.
    confined_to_directories: script(r#"cp "$FIX/fenced" "$MNT/program"; mkdir "$MNT/d" "$MNT/e"; for f in f g d/x e/y; do echo "in $f" >"$MNT/$f"; done; echo outside >"$OUT/x"; cd "$MNT"; "$FIX/fenced""#).fixture("fenced");

    /// A C library in a link-map namespace of its own.
    second_c_library: transcript("namespaces");

    /// Another library that wraps open and read, and works on files before main.
    another_preloaded_library: script(r#"
        cd "$MNT"; echo hello >config; export LD_PRELOAD=$FIX/preloaded
        cat config; cat <config; bash -c 'cat config; exec cat <config'; (exec 5<config; env -u LD_PRELOAD cat <&5); echo $LD_PRELOAD | sed 's/.*\///'
        env LD_PRELOAD="$LD_PRELOAD:$FIX/preloaded" cat config
        # A program that is on the mount, and a script there.
        cp /bin/cat copy; ./copy config; printf '#!%s/copy\nscript\n' "$MNT" >script; chmod +x script; ./script"#)
        .fixture_with("preloaded", &["-shared", "-fPIC", "-ldl"]);

    /// An allocator that makes system calls, and takes its locks, before any constructor of ours has run.
    another_allocator: script(r#"
        cd "$MNT"; seq 1 20000 >f; export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2
        sort -R f | sort -n | cksum; bash -c 'exec 3<f; read line <&3; echo $line; (read line <&3; echo $line) | cat; declare -a a; for i in {1..5000}; do a[i]=$i$i; done; echo ${#a[@]} >g; cat g'
        "$FIX/mixed"; cp /bin/sort copy; ./copy -r f | cksum"#).fixture("mixed").needs(&["/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"]);

    /// An allocator that works on files under its own lock is not asked for memory by what serves them.
    allocator_that_records: script(r#"cd "$MNT"; "$FIX/own_malloc"; cksum <record.old"#).fixture("own_malloc");

    /// A program that clears its environment keeps its files and its session.
    cleared_environment: script(r#"
        cd "$MNT"; echo first >f; echo second >>f; exec 3<f; read line <&3; echo $line
        env -i /bin/cat <&3; env -i /bin/bash -c 'echo made >g; exec env -i /bin/cat g'; env -i LD_PRELOAD= DEFUSE_SESSION=nowhere /bin/cat g; env -u LD_PRELOAD -u DEFUSE_SESSION cat g
        env -i LD_PRELOAD=/nowhere.so LD_LIBRARY_PATH=/nowhere /bin/cat g 2>/dev/null; (unset LD_PRELOAD DEFUSE_SESSION PATH; /bin/cat g; exec -c /bin/cat g)"#);

    /// In a new root without /proc nothing tells the path of a directory that is open: what is below is found all the same. bubblewrap goes
    /// by a descriptor of /proc there, in which `self` is a link.
    root_without_proc: script(r#"
        cd "$MNT"; echo served >f; mkdir -p "$OUT/new/d"; echo below >"$OUT/new/d/x"; ln -s x "$OUT/new/d/link"
        python3 -c '
import os, sys
proc, top, mount, d = (os.open(name, os.O_RDONLY) for name in ("/proc", "/", os.environ["MNT"], os.environ["OUT"] + "/new/d"))
passwd = os.stat("/etc/passwd").st_ino
os.chroot(os.environ["OUT"] + "/new")
def text(name, directory): return os.read(os.open(name, os.O_RDONLY, dir_fd=directory), 100)
print(text("self/comm", proc), text("x", d), text("link", d), text("../d/link", d), text("f", mount), text("../d/x", d))
print(os.stat("etc/passwd", dir_fd=top).st_ino == passwd, os.stat("etc/../etc/passwd", dir_fd=top).st_ino == passwd, os.listdir("/"))
os.mkdir("made", dir_fd=d); os.rename("made", "renamed", src_dir_fd=d, dst_dir_fd=d); print(sorted(os.listdir("/d")))
for name, directory in ("nothing", d), ("x/y", d), ("x", 99):
    try: text(name, directory)
    except OSError as error: print(error)
'"#).needs(&["python3"]).needs_root();

    /// A name that was absent again and again is found as soon as a link leads from there to where it is, whoever made that.
    links_made_later: script(r#"
        echo served >"$MNT/f"; mkdir -p "$MNT/sub" "$OUT/search/dir" "$OUT/here/below"; echo deep >"$MNT/sub/f"
        env python3 -c '
import os, subprocess
mount, out = os.environ["MNT"], os.environ["OUT"]
def ask(name, follow=True, at=None):
    try: return oct(os.stat(name, follow_symlinks=follow, dir_fd=at).st_mode)
    except OSError as error: return error.strerror
def read(name, at=None):
    try: return os.readlink(name, dir_fd=at).replace(mount, "MNT")
    except OSError as error: return error.strerror
def another(*command): subprocess.run(command, check=True)
looks = [lambda: ask(out + "/search/dir/f"), lambda: ask(out + "/search/dir/f", False), lambda: read(out + "/search/dir/f"),
    lambda: ask(out + "/search/dir/f/x"), lambda: os.access(out + "/search/dir/f", os.R_OK), lambda: ask(out + "/search/dir/nothing")]
def again(looks):
    for time in range(6): answers = [look() for look in looks]
    print(answers)
again(looks)
os.rmdir(out + "/search/dir"); os.symlink(mount, out + "/search/dir"); print([look() for look in looks]); again(looks)
os.unlink(out + "/search/dir"); os.mkdir(out + "/search/dir"); again(looks)
os.rename(out + "/search", out + "/apart"); another("ln", "-s", mount, out + "/search"); again(looks)
os.rename(mount + "/sub", mount + "/dir"); print([look() for look in looks]); again(looks)
# One name, relative to a directory beside.
os.chdir(out + "/here"); at = os.open(".", os.O_RDONLY)
looks = [look for at in (None, at) for look in (lambda at=at: ask("n", at=at), lambda at=at: ask("n", False, at), lambda at=at: read("n", at),
    lambda at=at: os.access("n", os.F_OK, dir_fd=at), lambda at=at: ask("below/n", at=at), lambda at=at: ask("below/n/f", at=at))]
again(looks)
os.symlink(mount + "/f", "n"); os.symlink(mount + "/dir", "below/n"); print([look() for look in looks]); again(looks)
os.unlink("n"); os.unlink("below/n"); another("ln", "-s", mount + "/nothing", "n"); another("ln", "-s", mount + "/nothing", "below/n"); again(looks)
os.mkdir(mount + "/nothing"); print([look() for look in looks]); again(looks)
# New names in one directory, whichever it is.
os.symlink(mount, out + "/link"); os.symlink(os.path.dirname(mount), out + "/above"); os.symlink(mount, "link"); name = os.path.basename(mount)
for made in out + "/link", "link": os.rename(made + "/f", made + "/g"); os.link(made + "/g", made + "/h"); os.rename(made + "/h", made + "/f"); os.unlink(made + "/g")
print(sorted(os.listdir(mount)))
for old, new in (out + "/link/missing", out + "/link/x"), (out + "/none/x", out + "/none/y"), (out + "/link/f/x", out + "/link/f/y"), (out + "/link/f", out + "/link/dir"):
    try: os.rename(old, new)
    except OSError as error: print(error.strerror)
print(sorted(os.listdir(mount)), sorted(os.listdir(out + "/here")))
# A mount point stays where it is, by whatever name; another directory has its files wherever it is.
for directory in os.path.dirname(mount), out + "/above", out + "/../" + os.path.basename(out) + "/above":
    moved = directory + "/moved"
    try: os.rename(directory + "/" + name, moved)
    except OSError as error: moved = mount
    print(sorted(os.listdir(moved)))
    if moved != mount: os.rename(moved, directory + "/" + name)'"#).needs(&["python3"]);

    /// bubblewrap is in an empty root for a moment, in which the working directory is on a mount, or files on it are open, and no plugin can be found.
    empty_root_for_a_moment: script(r#"
        echo text >"$MNT/f"; mkdir "$MNT/d"; into="bwrap --dev-bind / /"
        $into --unshare-pid --chdir "$MNT" cat f; exec 5<"$MNT/f"; $into --chdir "$MNT/d" bash -c 'cat ../f; cat <&5; echo made >n'; cat "$MNT/d/n"
        cd "$MNT/d"; $into --unshare-pid cat ../f; $into --unshare-pid --chdir "$MNT" cat f; $into --chdir / cat "$MNT/f" "$OLDPWD/mnt/f"
        # A root in which there is nothing, and back.
        mkdir "$OUT/empty"; python3 -c '
import os
old = os.open("/", os.O_RDONLY); os.chroot(os.environ["OUT"] + "/empty"); print(os.listdir("/"))
os.fchdir(old); os.chroot("."); print(open(os.environ["MNT"] + "/f").read(), os.listdir(os.environ["MNT"] + "/d"))'
        "#)
        .needs(&["bwrap", "python3"]).needs_root().needs_mount_namespaces();

    /// What is known of the working directory is forgotten when the root becomes another, by chroot or in another mount name space.
    new_root: script(r#"
        cd "$MNT/.."; mkdir -p "$MNT/d" new/mnt; echo on the mount >"$MNT/f"; echo in the new root >new/mnt/f
        cd new; python3 -c '
import os
def text(): return open("../mnt/f").read()
print(text()); os.chroot("."); print(os.getcwd(), text())'
        # The outer shell is in another name space than the one that is entered, whose root is where nsenter ends.
        rm -r ../new; cd "$MNT"; unshare -m sh -c 'cd d; nsenter --mount=/proc/$$/ns/mnt sh -c pwd'"#)
        .needs(&["python3", "nsenter", "unshare"]).needs_root().needs_mount_namespaces();
}

/// That a plugin does not find what it needs in one root is not held against it in the next.
#[test]
fn a_plugin_is_tried_again_in_another_root() {
    need_programs!("python3", "unshare");
    if !is_root() || !has_mount_namespaces() {
        return skip("mount namespaces need root");
    }
    let Some(session) = Session::new() else { return };
    let backend = session.place.out().join("covered/backend");
    std::fs::create_dir_all(&backend).expect("make the backend");
    let mount = Serving::Plugin.mount_argument(&session.place.mnt(), &backend);
    let script = r#"
        set -eu; cd "$OUT"; echo served >covered/backend/f; exec 9</proc/self/ns/mnt
        unshare -m bash -c 'mount -t tmpfs none covered; exec python3 -c "
import ctypes, os
def text():
    try: return open(os.environ[\"MNT\"] + \"/f\").read()
    except OSError as error: return error.strerror
print(text()); print(text(), ctypes.CDLL(None).setns(9, 0), text())"'
        "#;
    let outcome = session.defuse(["run", "-m", &mount, "--", "bash", "-c", script]);
    assert_eq!(outcome.stdout_text(), "No such file or directory\nNo such file or directory 0 served\n\n");
    assert_eq!(outcome.stderr_text().matches("cannot use").count(), 1, "{}", outcome.stderr_text());
    session.assert_nothing_left();
}

/// Serving a plugin that needs no system calls makes none that the program's filter may not know.
#[test]
fn few_calls_around_a_plugin_in_memory() {
    let Some(session) = Session::new() else { return };
    let session = session.fixture("few_calls", &[]);
    same_beside_the_mount(&session, "memory:", r#"cd "$1"; "$FIX/few_calls"; echo "$?""#);
}
