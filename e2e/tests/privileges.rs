//! A program that drops its privileges keeps what it holds and can open what it may.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{same_as_plain, script};

same_as_plain! {
    another_user_is_bound_by_modes_and_owners: script(r#"
        cd "$MNT"; chmod 755 .; mkdir open closed; chmod 1777 open; chmod 700 closed; echo secret >closed/f; echo mine >mine; chmod 600 mine; echo shared >shared; echo w >writable; chmod 666 writable
        setpriv --reuid=65534 --regid=65534 --clear-groups bash -c '
            id -u; cat shared; cat mine; cat closed/f; ls closed; echo x >new; echo x >open/new; echo x >>writable; echo x >>shared; rm shared; rm writable; mv shared open/; chmod 777 shared; chown 65534 shared; mkdir open/d; touch -d @5 open/new; touch -d @5 shared; ln -s x open/l; truncate -s 0 mine; cd closed; cd open && pwd; cat ../shared; test -r ../mine || echo unreadable; test -w ../writable && echo writable
            /bin/true; echo "rc $?"; cp ../shared copy; stat -c "%u %g %a" copy; python3 -c "import os; print(os.access(\"../mine\", os.R_OK))"; exit 0'
        ls -ln --time-style=+ open | cut -d' ' -f1,3-; cat writable; setpriv --reuid=65534 --clear-groups rm open/copy; chown 65534 mine; setpriv --reuid=65534 --clear-groups cat mine
    "#).needs(&["setpriv", "python3"]).needs_root();

    held_descriptors_stay_usable: script(r#"
        cd "$MNT"; echo held >f; chmod 600 f; exec 3<>f 4>>f; setpriv --reuid=65534 --regid=65534 --clear-groups bash -c 'cat <&3; echo more >&4; cat f; cat /dev/fd/3; exec 5<&3; echo "rc $?"; exit 0'; cat f
        setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs bash -c 'echo again >&4; (exec 3<&-; echo sub >&4); /bin/echo program >&4'; cat f
        chmod 755 .; python3 -c '
import os
open("g", "w").write("before"); os.chmod("g", 0o600); f = open("g"); os.setgroups([]); os.setregid(65534, 65534); os.setreuid(65534, 65534); print(f.read())
for p in "g", "f", "new":
    try: open(p, "a")
    except OSError as e: print(p, e.strerror)
print(os.path.exists("g"), os.stat("g").st_size, os.fork() == 0 or os.wait()[1])'
    "#).needs(&["setpriv", "python3"]).needs_root();

    /// Nor do those who come later get into its place.
    what_another_user_closes_stays_open_to_others: script(r#"
        cd "$MNT"; chmod 755 .; exec 3>>f; setpriv --reuid=65534 --clear-groups bash -c 'exec 3>&-; exit 0'
        exec 4>>g; echo mine >&3; /bin/echo mine, too >&3; /bin/echo other >&4; bash -c 'echo "child of $1" >&3' - f; cat f; echo; cat g; exec 3>&- 4>&-
        python3 -c '
import ctypes, os, subprocess
def in_child(change):
    pid = os.fork()
    if pid == 0:
        change()
        for file in opened: os.close(file)
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
def user(): os.setgroups([]); os.setresuid(65534, 65534, 65534)
def effective(): os.seteuid(65534)
def namespace():
    if ctypes.CDLL(None).unshare(0x10000000) != 0: effective()
def root(): os.chroot(os.environ["OUT"])
for change in user, effective, namespace, root:
    name = change.__name__
    opened = [os.open(name, os.O_RDWR | os.O_CREAT), os.open(".", os.O_RDONLY)]
    os.write(opened[0], b"a")
    in_child(change)
    later = os.open(name + "2", os.O_RDWR | os.O_CREAT)
    print(os.write(opened[0], b"b"), os.path.samestat(os.fstat(opened[1]), os.stat(".")), "f" in os.listdir(opened[1]))
    subprocess.run(["sh", "-c", "echo c >&%d; echo d >&%d" % (opened[0], later)], pass_fds=[opened[0], later])
    print(open(name).read(), open(name + "2").read())
f = open("h", "w"); f.write("a"); f.flush(); subprocess.run(["true"], user=65534); f.write("b"); f.flush(); print(open("h").read())'
    "#).needs(&["setpriv", "python3"]).needs_root();

    /// Of the files that nobody has any more, which are looked for as there are many.
    what_another_user_has_open_is_left_to_it: script(r#"
        cd "$MNT"; chmod 777 .; ulimit -n 6000; umask 077; python3 -c '
import os
ready, begin, done = os.pipe(), os.pipe(), os.pipe()
mine = os.open("mine", os.O_WRONLY | os.O_CREAT)
def other():
    os.setgroups([]); os.setresuid(65534, 65534, 65534)
    files = [os.open("other%d" % n, os.O_RDWR | os.O_CREAT) for n in range(20)] + [os.open(".", os.O_RDONLY)]
    pid = os.fork()  # So that others may have them.
    os.write(ready[1], b"x")
    os.read(begin[0], 1)
    for file in files[:-1]: os.write(file, b"written")
    if pid: os.waitpid(pid, 0)
    print("mine" in os.listdir(files[-1]), flush=True)
    os._exit(0)
pid = os.fork()
if pid == 0: other()
for _ in range(2): os.read(ready[0], 1)
many = [os.open("many", os.O_RDONLY | os.O_CREAT) for n in range(4500)]
last = [os.open("last%d" % n, os.O_WRONLY | os.O_CREAT) for n in range(50)]
os.write(begin[1], b"xx")
os.waitpid(pid, 0)
print([open("other%d" % n).read() for n in (0, 7, 19)], os.stat("last3").st_size)
# And the other way round.
pid = os.fork()
if pid == 0:
    os.setgroups([]); os.setresuid(65534, 65534, 65534)
    for file in many + last: os.close(file)
    os._exit(0)
os.waitpid(pid, 0)
new = [os.open("new%d" % n, os.O_WRONLY | os.O_CREAT) for n in range(20)]
print(sum(os.write(file, b"written") for file in last), os.write(mine, b"x"), os.stat("new3").st_size)'
    "#).needs(&["setpriv", "python3"]).needs_root();

    /// A container's root, which has inherited files, is not who opened them.
    what_another_user_of_the_same_number_closes_stays_open: script(r#"
        cd "$MNT"; chmod 777 .; python3 -c '
import ctypes, os
def contained(inside):
    unshared, mapped = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        result = ctypes.CDLL(None).unshare(0x10000000)
        os.write(unshared[1], b"x"); os.read(mapped[0], 1)
        if result == 0: os.setresuid(0, 0, 0)
        inside(); os._exit(0)
    os.read(unshared[0], 1)
    try:
        with open("/proc/%d/uid_map" % pid, "w") as map: map.write("0 100000 65536")
    except OSError: pass
    os.write(mapped[1], b"x")
    return os.waitpid(pid, 0)[1]
held = [os.open("f%d" % n, os.O_RDWR | os.O_CREAT) for n in range(20)]
def close():
    for file in held: os.close(file)
print(contained(close))
later = [os.open("g%d" % n, os.O_RDWR | os.O_CREAT) for n in range(20)]
for n in range(20): os.write(held[n], b"held"); os.write(later[n], b"later")
print([(open("f%d" % n).read(), open("g%d" % n).read()) for n in range(20)])
# Many are opened there: slots that nobody has are looked for.
def many():
    files = [os.open("f0", os.O_RDONLY) for n in range(300)]
    print(os.pread(files[299], 9, 0), os.read(held[1], 9), os.pread(held[1], 9, 0), flush=True)
print(contained(many))
for n in range(20): os.write(held[n], b"held")
print([open("f%d" % n).read() for n in range(20)])'
    "#).needs(&["python3"]).needs_root();

    programs_on_the_mount_run_for_another_user: script(r#"
        cd "$MNT"; chmod 755 .; cp /bin/cat own; cp /bin/echo closed; chmod 750 closed; printf '#!%s/own\nshown\n' "$MNT" >shown; chmod 755 own shown; own=$MNT/own; mkdir d; chmod 777 d
        setpriv --reuid=65534 --regid=65534 --clear-groups bash -c '
            echo in | ./own; ./shown; ./closed x; echo "rc $?"; cd d; cp /usr/bin/id mine; ./mine -u; chmod 700 mine; ./mine -g; exec "$0" ../shown' "$own" | sed "s,$MNT,MNT,"
        echo again | ./own; d/mine -u
    "#).needs(&["setpriv"]).needs_root();

    /// Nothing of us is loaded into it; what it inherits of the mount is in the tests of unintercepted programs.
    set_user_id_program_runs_with_the_mount_as_working_directory: script(r#"
        cd "$MNT"; chmod 755 .; cp /usr/bin/id "$OUT/id"; chmod 755 "$(dirname "$OUT")" "$OUT"; chown 65534 "$OUT/id"; chmod 4755 "$OUT/id"; "$OUT/id" -u | tee f; cat f
    "#).needs_root().env("DEFUSE_LOG", "error");
}
