//! A mount of the kernel module that is read-only refuses what a read-only tmpfs refuses, with the same errors, and the backend keeps all that it has.
//! `cargo vmtest run --with defuse-e2e read_only` runs this; where the module is not loaded it is skipped.

use std::fs;
use std::process::Command;

use defuse_e2e::module::{Detach, session_with_module};
use defuse_e2e::process::End;
use defuse_e2e::{Serving, Session, need_programs, requirement};

/// Lays a small tree in the directory that is the argument.
const LAY: &str = r#"cd "$1"; mkdir d full; echo kept >f; echo x >full/x; ln -s f lf; ln -s gone lgone; mkfifo p; setfattr -n user.a -v b f 2>/dev/null || :"#;

/// Tries in the working directory all that would change something, some things that do not exist, and some that change nothing.
const TRY: &str = r#"
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def tell(name, call):
    try:
        result = call()
        print(name, "done" if result is None or isinstance(result, int) else result)
    except OSError as error:
        print(name, errno.errorcode[error.errno])
def opened(path, flags):
    os.close(os.open(path, flags, 0o644))
names = ["f", "d", "lf", "lgone", "gone", "gone/x", "f/x", "full", "d/", "f/", ".", "p"]
modes = {name: getattr(os, name) for name in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_EXCL", "O_TMPFILE", "O_NOFOLLOW", "O_PATH", "O_APPEND")}
ways = ["O_RDONLY", "O_WRONLY", "O_RDWR O_TRUNC", "O_RDONLY O_TRUNC", "O_WRONLY O_CREAT", "O_RDONLY O_CREAT", "O_WRONLY O_CREAT O_TRUNC", "O_RDWR O_CREAT O_EXCL",
    "O_RDWR O_TMPFILE", "O_WRONLY O_NOFOLLOW", "O_PATH", "O_WRONLY O_APPEND"]
for name in names:
    for way in ways:
        flags = os.O_NONBLOCK
        for word in way.split():
            flags |= modes[word]
        tell(f"open {name} {way}", lambda: opened(name, flags))
    for call in ("mkdir", "unlink", "rmdir", "mkfifo"):
        tell(f"{call} {name}", lambda: getattr(os, call)(name))
    tell(f"symlink {name}", lambda: os.symlink("t", name))
    tell(f"link from {name}", lambda: os.link(name, "new"))
    tell(f"link to {name}", lambda: os.link("f", name))
    tell(f"rename from {name}", lambda: os.rename(name, "new"))
    tell(f"rename to {name}", lambda: os.rename("f", name))
    tell(f"truncate {name}", lambda: os.truncate(name, 1))
    tell(f"chmod {name}", lambda: os.chmod(name, 0o600))
    tell(f"chown {name}", lambda: os.chown(name, 1, 1))
    tell(f"lchown {name}", lambda: os.lchown(name, 1, 1))
    tell(f"utime {name}", lambda: os.utime(name, (1, 1)))
    tell(f"setxattr {name}", lambda: os.setxattr(name, "user.c", b"d"))
    tell(f"removexattr {name}", lambda: os.removexattr(name, "user.a"))
    for mode in (os.R_OK, os.W_OK, os.R_OK | os.W_OK, os.F_OK):
        ctypes.set_errno(0)
        result = libc.access(name.encode(), mode)
        print("access", name, mode, errno.errorcode[ctypes.get_errno()] if result else "done")
    tell(f"bind {name}", lambda: socket.socket(socket.AF_UNIX).bind(name))
for name in ("f", "d"):
    fd = os.open(name, os.O_RDONLY)
    tell(f"fchmod {name}", lambda: os.fchmod(fd, 0o600))
    tell(f"fchown {name}", lambda: os.fchown(fd, 1, 1))
    tell(f"futimens {name}", lambda: os.utime(fd, (1, 1)))
    tell(f"fsetxattr {name}", lambda: os.setxattr(fd, "user.c", b"d"))
    tell(f"ftruncate {name}", lambda: os.ftruncate(fd, 1))
    tell(f"again {name}", lambda: opened(f"/proc/self/fd/{fd}", os.O_WRONLY))
    tell(f"again and cut {name}", lambda: opened(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC))
    tell(f"fsync {name}", lambda: os.fsync(fd))
    print("fstatvfs", os.fstatvfs(fd).f_flag & os.ST_RDONLY)
    os.close(fd)
print("statvfs", os.statvfs(".").f_flag & os.ST_RDONLY, open("f").read(), sorted(os.listdir()))
"#;

/// Shell commands that try it in the directory that is the argument.
fn attempt(session: &Session, directory: &str) -> String {
    let run = ["run", "--", "bash", "-c", r#"cd "$1" && exec python3 -c "$2""#, "bash", directory, TRY];
    let outcome = session.defuse(run);
    assert_eq!(outcome.end, End::Exit(0), "{}{}", outcome.stdout_text(), outcome.stderr_text());
    outcome.stdout_text()
}

#[track_caller]
fn done(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("start it");
    assert!(status.success(), "{program} {arguments:?}");
}

#[test]
fn a_read_only_mount_refuses_what_changes_something() {
    need_programs!("python3", "mount");
    let Some(session) = session_with_module() else { return };
    if !requirement::is_root() {
        return requirement::skip("needs root to mount");
    }
    let (mnt, out) = (session.place.mnt().display().to_string(), session.place.out().display().to_string());
    done("mount", &["-t", "tmpfs", "tmpfs", &out]);
    let _plain = Detach(out.clone());
    let argument = Serving::Plugin.mount_argument(&session.place.mnt(), &session.place.backend());
    assert_eq!(session.defuse(["mount", &argument]).end, End::Exit(0));
    let _served = Detach(mnt.clone());
    let backend = session.place.backend().display().to_string();
    for directory in [&out, &backend] {
        done("bash", &["-c", LAY, "bash", directory]);
    }
    // Of the file system, and then of this mount alone.
    for (make, undo) in [("remount,ro", "remount,rw"), ("remount,bind,ro", "remount,bind,rw")] {
        for directory in [&out, &mnt] {
            done("mount", &["-i", "-o", make, directory]);
        }
        let (served, plain) = (attempt(&session, &mnt), attempt(&session, &out));
        let differ: Vec<_> = served.lines().zip(plain.lines()).filter(|(one, other)| one != other).collect();
        assert!(differ.is_empty() && served.lines().count() == plain.lines().count(), "{make}: {differ:#?}");
        assert_eq!(fs::read(session.place.backend().join("f")).unwrap(), b"kept\n");
        for directory in [&out, &mnt] {
            done("mount", &["-i", "-o", undo, directory]);
        }
        let written = session.defuse(["run", "--", "sh", "-c", r#"echo kept >"$MNT/f""#]);
        assert_eq!(written.end, End::Exit(0), "{}", written.stderr_text());
    }
    session.assert_nothing_left();
}
