//! python3 on the mount: its own files and the modules that use files hardest.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{Case, same_as_plain, script};

/// A Python program that lies outside the mount and runs in the mount's root.
fn python(text: &str) -> Case {
    script(format!(
        "cd \"$MNT\"\ncat >\"$OUT/program.py\" <<'PROGRAM'\n{text}\nPROGRAM\npython3 -B \"$OUT/program.py\"\n"
    ))
    .needs(&["python3"])
}

same_as_plain! {
    open_in_every_mode: python(r#"
import io, os
for mode in ['w', 'x', 'a', 'r', 'r+', 'w+', 'a+', 'x+', 'rb', 'wb', 'ab', 'rb+']:
    for name in ['f', 'new-' + mode, 'd/gone', '.']:
        try:
            with open(name, mode) as f:
                f.write('text\nlines\n' if 'b' not in mode else b'bytes\n') if f.writable() else None
                f.seek(0) if f.readable() else None
                print(mode, name, f.tell(), repr(f.read()) if f.readable() else '', f.fileno(), f.isatty(), f.seekable())
        except OSError as e:
            print(mode, name, type(e).__name__, e.errno)
        except io.UnsupportedOperation as e:
            print(mode, name, e)
with open('big', 'wb', buffering=0) as f:
    print(f.write(os.urandom(10) * 0 + b'abc' * 100000))
with open('big', 'rb') as f:
    f.seek(-5, 2); print(f.read(), f.tell()); f.seek(10); b = bytearray(7); print(f.readinto(b), b, f.peek(2)[:2])
with open('t', 'w', encoding='utf-16', newline='\r\n') as f: f.writelines(['ü\n', 'x\n'])
print(open('t', 'rb').read(), open('t', encoding='utf-16').read().splitlines())
with open('t', 'r+') as f: f.truncate(3); print(os.fstat(f.fileno()).st_size)
print(sum(1 for _ in open('big', 'rb', buffering=16)), [l for l in open('f', 'rb')])
fd = os.open('low', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600); print(fd, os.write(fd, b'12345'), os.lseek(fd, 1, 0), os.read(fd, 3), os.pread(fd, 2, 3), os.pwrite(fd, b'X', 0)); os.close(fd)
try: os.read(fd, 1)
except OSError as e: print(e)
"#);

    os_calls: python(r#"
import os, stat
def t(what, *args, **kw):
    try: r = getattr(os, what)(*args, **kw)
    except OSError as e: r = type(e).__name__ + ' ' + e.strerror
    print(what, args, kw, '->', r)
    return r
t('mkdir', 'd'); t('mkdir', 'd'); t('makedirs', 'x/y/z'); t('makedirs', 'x/y', exist_ok=True); t('rmdir', 'x'); t('removedirs', 'x/y/z'); t('symlink', 'd', 'l'); t('readlink', 'l'); t('readlink', 'd')
open('f', 'w').write('data'); t('link', 'f', 'h'); t('rename', 'f', 'd/f'); t('replace', 'h', 'd/f'); t('unlink', 'h'); t('unlink', 'gone'); t('truncate', 'd/f', 2); t('access', 'd/f', os.R_OK); t('access', 'gone', os.F_OK)
t('chmod', 'd/f', 0o600); t('utime', 'd/f', (1, 2)); t('utime', 'd/f', ns=(3, 4)); print(os.stat('d/f').st_mtime_ns, oct(os.stat('d/f').st_mode)); t('listdir', 'l'); t('listdir', 'd/f'); t('getcwd')
d = os.open('d', os.O_RDONLY); os.stat('f', dir_fd=d); t('mkdir', 'sub', dir_fd=d); t('rename', 'f', 'g', src_dir_fd=d, dst_dir_fd=d); print(sorted(os.listdir(d))); t('chdir', d); t('getcwd'); t('chdir', '..'); t('symlink', 'g', 's', dir_fd=d); t('readlink', 's', dir_fd=d); t('unlink', 's', dir_fd=d); t('link', 'g', 'h', src_dir_fd=d, dst_dir_fd=d)
print([(e.name, e.is_dir(), e.is_file(), e.is_symlink(), e.stat().st_size if e.is_file() else 0, e.inode() == os.stat(e.path).st_ino) for e in sorted(os.scandir('d'), key=lambda e: e.name)])
for root, dirs, files in os.walk('.'): dirs.sort(); print(root, dirs, sorted(files))
for root, dirs, files, fd in os.fwalk('.'): dirs.sort(); print(root, dirs, sorted(files))
t('setxattr', 'd', 'user.k', b'v'); t('getxattr', 'd', 'user.k'); t('removexattr', 'd', 'user.k'); print(os.statvfs('d').f_namemax, os.path.realpath('l/g'), os.path.samefile('l', 'd'), os.path.ismount('d'))
f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, b'unnamed'); t('link', f'/proc/self/fd/{f}', 'named', src_dir_fd=d, follow_symlinks=True); print(open('named').read())
a = os.open('a', os.O_CREAT | os.O_RDWR); b = os.open('b', os.O_CREAT | os.O_RDWR); os.write(a, b'0123456789'); print(os.sendfile(b, a, 2, 5), os.copy_file_range(a, b, 4, 0), os.lseek(b, 0, 1), os.posix_fallocate(b, 0, 20), os.posix_fadvise(a, 0, 0, os.POSIX_FADV_DONTNEED)); os.fsync(b); os.fdatasync(b); os.sync()
print(os.preadv(a, [bytearray(2), bytearray(3)], 1), os.pwritev(b, [b'xx', b'y'], 0), os.get_inheritable(a), os.dup(a) > a, os.dup2(a, 77), os.path.getsize('b')); t('mkfifo', 'p'); print(stat.S_ISFIFO(os.stat('p').st_mode)); os.closerange(70, 80); t('fstat', 77); t('memfd_create', 'm')
t('chdir', 'gone'); t('open', '.', os.O_WRONLY); t('open', 'n' * 256, os.O_RDONLY); t('lseek', a, -1, os.SEEK_SET); t('ftruncate', d, 1); t('fchdir', a); t('lockf', a, os.F_TLOCK, 0)
"#);

    shutil_and_pathlib: python(r#"
import shutil, pathlib, os, filecmp, glob, fnmatch
p = pathlib.Path('tree'); (p / 'a/b').mkdir(parents=True); (p / 'a/f').write_text('text'); (p / 'a/b/g').write_bytes(bytes(range(256)) * 100); (p / 'l').symlink_to('a/f'); os.chmod(p / 'a/f', 0o640); os.utime(p / 'a/f', (1e9, 1e9))
shutil.copytree(p, 'copy', symlinks=True); shutil.copytree(p, os.environ['OUT'] + '/tree'); shutil.copytree(os.environ['OUT'] + '/tree', 'back'); shutil.copy2('tree/a/f', 'f2'); shutil.copyfile('f2', 'f3'); shutil.copymode('tree/a/f', 'f3'); shutil.move('copy', 'moved'); shutil.move('moved', os.environ['OUT'] + '/moved'); shutil.move(os.environ['OUT'] + '/moved', 'again')
print(filecmp.dircmp('tree', 'again').left_only, filecmp.cmp('tree/a/b/g', 'back/a/b/g', shallow=False), oct(os.stat('f3').st_mode), os.stat('f2').st_mtime, sorted(map(str, p.rglob('*'))), sorted(glob.glob('**/g', recursive=True)), shutil.disk_usage('.').total > 0, shutil.which('true'))
shutil.make_archive('arch', 'gztar', 'tree'); shutil.make_archive('arch', 'zip', 'tree'); shutil.unpack_archive('arch.tar.gz', 'un1'); shutil.unpack_archive('arch.zip', 'un2'); print(sorted(str(x) for x in pathlib.Path('un1').rglob('*')), (pathlib.Path('un2') / 'a/f').read_text()); os.remove('arch.tar.gz'); os.remove('arch.zip'); shutil.rmtree('un1'); shutil.rmtree('un2')
q = pathlib.Path('x'); q.touch(0o600); print(q.exists(), q.stat().st_size, q.resolve(), q.absolute(), q.is_file(), (p / 'l').readlink(), (p / 'gone').exists(), q.owner() is not None); q.rename('y'); pathlib.Path('y').replace('z'); pathlib.Path('z').hardlink_to
pathlib.Path('hl').hardlink_to('z'); pathlib.Path('z').unlink(); pathlib.Path('z').unlink(missing_ok=True); print(os.stat('hl').st_nlink); shutil.rmtree('back')
try: shutil.rmtree('gone')
except FileNotFoundError as e: print(e)
try: shutil.copy('tree', 'nowhere')
except IsADirectoryError as e: print(e)
try: shutil.copytree('tree', 'tree')
except OSError as e: print(type(e).__name__)
shutil.chown('f3', os.geteuid()); print(sorted(os.listdir('.')))
"#);

    tempfile_in_all_forms: python(r#"
import tempfile, os
tempfile.tempdir = os.getcwd()
with tempfile.TemporaryFile() as f: f.write(b'x' * 1000); f.seek(0); print(len(f.read()), os.listdir('.'))
with tempfile.NamedTemporaryFile('w+', suffix='.t') as f: f.write('named'); f.flush(); print(open(f.name).read(), oct(os.stat(f.name).st_mode), os.path.dirname(f.name))
with tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').close(); os.mkdir(d + '/y'); print(sorted(os.listdir(d)), oct(os.stat(d).st_mode))
with tempfile.SpooledTemporaryFile(max_size=10) as f: f.write(b'y' * 100); f.seek(95); print(f.read())
fd, n = tempfile.mkstemp(); os.write(fd, b'1'); os.close(fd); os.unlink(n); print(os.listdir('.'), tempfile.gettempdir()); os.rmdir(tempfile.mkdtemp())
open('left', 'w').write('so that there is something')
"#);

    multiprocessing_by_spawn_and_fork: script(r#"
        cd "$MNT"; cat >work.py <<'END'
import multiprocessing as mp, os, sys
def work(n):
    with open(f'part{n}', 'w') as f: f.write(str(n) * n)
    with open('log', 'a') as f: f.write(f'{n}\n')
    return n * n, os.path.basename(os.getcwd())
def through(q, name): q.put(open(name).read())
def main():
    for method in ['fork', 'spawn', 'forkserver']:
        ctx = mp.get_context(method)
        with ctx.Pool(3) as pool: print(method, sorted(pool.map(work, range(1, 9))))
        q = ctx.Queue(); p = ctx.Process(target=through, args=(q, 'part3')); p.start(); print(q.get()); p.join(); print(p.exitcode)
    lines = open('log').read().split(); print(len(lines), sorted(set(lines)))
    open('log', 'w').write(''.join(sorted(l + '\n' for l in lines)))
if __name__ == '__main__': main()
END
        TMPDIR=$OUT python3 -B work.py; ls
    "#).needs(&["python3"]);

    subprocess_with_passed_descriptors: python(r#"
import subprocess, os, sys
open('f', 'w').write('0123456789abcdef'); fd = os.open('f', os.O_RDWR); os.read(fd, 2)
print(subprocess.run(['head', '-c', '3'], stdin=fd, capture_output=True, text=True).stdout, os.lseek(fd, 2, 0))
print(subprocess.run(['sh', '-c', f'dd bs=2 count=1 status=none <&{fd}'], pass_fds=[fd], capture_output=True, text=True)); print(os.read(fd, 2))
print(subprocess.run(['sh', '-c', f'cat <&{fd}'], capture_output=True, text=True).returncode, subprocess.run([sys.executable, '-c', f'import os; print(os.pread({fd}, 4, 0))'], pass_fds=[fd], capture_output=True, text=True).stdout)
with open('out', 'w') as o: subprocess.run('echo one; echo two >&2', shell=True, stdout=o, stderr=subprocess.STDOUT); o.write('three\n')
print(open('out').read().split()); p = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=open('piped', 'wb')); p.communicate(b'through cat'); print(open('piped').read())
print(subprocess.run(['pwd'], cwd='/', capture_output=True).stdout, os.path.basename(subprocess.run(['/bin/pwd'], cwd=os.getcwd(), capture_output=True, text=True).stdout)); os.mkdir('d'); print(subprocess.check_output(['sh', '-c', 'pwd | sed s,.*/,,'], cwd='d'), subprocess.run(['ls', 'gone'], stderr=subprocess.DEVNULL).returncode)
print(subprocess.run(['sh', '-c', 'ls /proc/self/fd | wc -l'], close_fds=True, capture_output=True).stdout, subprocess.run(['env', '-i', 'cat', 'f'], env={}, capture_output=True).stdout)
try: subprocess.run(['./f'])
except PermissionError as e: print(e)
try: subprocess.run(['./gone'])
except FileNotFoundError as e: print(e)
pid = os.posix_spawn('/bin/cat', ['cat'], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, 'f', os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, 'sp', os.O_WRONLY | os.O_CREAT, 0o644)]); print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), open('sp').read())
r = os.fork()
if r == 0: os.lseek(fd, 10, 0); os._exit(0)
os.waitpid(r, 0); print(os.read(fd, 2))
import socket; a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [fd]); _, got, _, _ = socket.recv_fds(b, 1, 1); print(os.read(got[0], 2), os.read(fd, 2))
"#);

    archives_and_databases: python(r#"
import zipfile, tarfile, gzip, lzma, bz2, sqlite3, shelve, dbm.dumb, pickle, json, csv, os, configparser, hashlib
with zipfile.ZipFile('z.zip', 'w', zipfile.ZIP_DEFLATED) as z: [z.writestr(zipfile.ZipInfo(f'n{i}'), str(i) * 1000) for i in range(50)]
with zipfile.ZipFile('z.zip', 'a') as z: z.writestr(zipfile.ZipInfo('added'), 'x')
print(zipfile.ZipFile('z.zip').testzip(), len(zipfile.ZipFile('z.zip').namelist()), zipfile.ZipFile('z.zip').read('n49')[:4]); zipfile.ZipFile('z.zip').extractall('un'); print(len(os.listdir('un')))
with tarfile.open('t.tar', 'w') as t: t.add('un')
print(len(tarfile.open('t.tar').getnames())); os.remove('t.tar')
for m, e in (gzip, 'gz'), (lzma, 'xz'), (bz2, 'bz2'):
    with m.open('c.' + e, 'wb') as f: f.write(b'data' * 50000)
    print(hashlib.md5(m.open('c.' + e).read()).hexdigest()); os.remove('c.' + e)
c = sqlite3.connect('s.db'); c.execute('create table t(a, b)'); c.executemany('insert into t values(?, ?)', [(i, str(i)) for i in range(3000)]); c.commit(); c.execute('delete from t where a % 2'); c.rollback(); print(c.execute('select count(*), sum(a) from t').fetchall()); c.execute('delete from t where a > 100'); c.commit(); c.execute('vacuum'); print(c.execute('pragma integrity_check').fetchall()); c.close()
c1 = sqlite3.connect('s.db', timeout=0, isolation_level=None); c2 = sqlite3.connect('s.db', timeout=0, isolation_level=None); c1.execute('begin immediate')
try: c2.execute('begin immediate')
except sqlite3.OperationalError as e: print(e)
c1.execute('commit'); print(c2.execute('select max(a) from t').fetchone()); c1.close(); c2.close()
db = dbm.dumb.open('dumb', 'c'); [db.__setitem__(str(i), 'v' * i) for i in range(100)]; db.close(); s = shelve.Shelf(dbm.dumb.open('dumb2', 'c')); s['k'] = {'a': [1, 2]}; s.close(); print(len(dbm.dumb.open('dumb').keys()), shelve.Shelf(dbm.dumb.open('dumb2'))['k'])
pickle.dump({'x': 1}, open('p', 'wb')); print(pickle.load(open('p', 'rb'))); json.dump([1, {'a': None}], open('j', 'w')); print(json.load(open('j'))); w = csv.writer(open('c.csv', 'w', newline='')); w.writerow([1, 'a,b']); del w; print(list(csv.reader(open('c.csv'))))
for n in os.listdir('.'):
    if n.startswith('dumb'): os.remove(n)
"#);

    modules_and_bytecode_on_the_mount: script(r#"
        cd "$MNT"; mkdir -p pkg/sub; echo 'from . import a; value = a.x + 1' >pkg/__init__.py; echo 'x = 41' >pkg/a.py; echo 'import os; print("sub", os.path.relpath(__file__))' >pkg/sub/__init__.py
        echo 'import pkg, pkg.sub, sys; print(pkg.value, sys.argv[0])' >main.py; python3 main.py; ls pkg pkg/__pycache__ | sed 's/cpython-[0-9]*/V/'; python3 main.py; python3 -m pkg.sub.gone || echo "rc $?"; python3 -c 'import pkg; print(pkg.value)'; cd pkg; PYTHONPATH=.. python3 -m pkg.a; cd ..
        printf '#!/usr/bin/env python3\nprint(__file__)\n' >s; chmod +x s; ./s; python3 -m zipfile -c app.zip pkg >/dev/null; PYTHONPATH=app.zip python3 -B -c 'import pkg; print(pkg.value, "zip" in pkg.__file__)'; echo 'print(1' >bad.py; python3 bad.py || echo "rc $?"; python3 gone.py || echo "rc $?"; python3 -m compileall -q pkg && echo compiled
        find . -name '*.pyc' -delete; find . -name __pycache__ -delete; rm app.zip
    "#).needs(&["python3"]);

    locks_and_selectors: python(r#"
import fcntl, os, select, selectors, signal, threading
f = open('l', 'w'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
pid = os.fork()
if pid == 0:
    g = open('l', 'w')
    try: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB); print('got', flush=True)
    except BlockingIOError: print('busy', flush=True)
    try: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB); print('record lock is another kind', flush=True)
    except OSError as e: print(e, flush=True)
    os._exit(0)
os.waitpid(pid, 0); fcntl.flock(f, fcntl.LOCK_UN); fcntl.lockf(f, fcntl.LOCK_EX, 10, 5); print(fcntl.fcntl(f, fcntl.F_GETFL) & os.O_ACCMODE)
r, w = os.pipe(); print(select.select([f, r], [f], [], 0)[1] == [f]); p = select.poll(); p.register(f, select.POLLIN | select.POLLOUT); print(p.poll(0))
try: s = selectors.EpollSelector(); s.register(f, selectors.EVENT_READ)
except PermissionError as e: print(e)
def add(n):
    for _ in range(100):
        with open('n', 'a') as a: a.write(n * 50 + '\n')
ts = [threading.Thread(target=add, args=(c,)) for c in 'abcd']; [t.start() for t in ts]; [t.join() for t in ts]; lines = open('n').read().split(); print(len(lines), sorted(set(lines)) == [c * 50 for c in 'abcd']); open('n', 'w').write('\n'.join(sorted(lines)))
rung = []; signal.signal(signal.SIGALRM, lambda *_: rung.append(print('alarm', open('n').read(3), flush=True))); signal.setitimer(signal.ITIMER_REAL, 0.01)
while not rung: open('n').read()
"#);

    a_signal_ends_an_open_that_waits: python(r#"
import os, signal
class Alarm(Exception): pass
def handler(*_):
    global waiting
    if waiting: waiting = False; raise Alarm
signal.signal(signal.SIGALRM, handler)
for place in os.environ['OUT'], '.':
    path = os.path.join(place, 'fifo'); os.mkfifo(path)
    try:
        # Again and again: one may come after Python has looked for it and before the call.
        waiting = True; signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2); os.open(path, os.O_RDONLY)
    except Alarm: print('ended', flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0); os.unlink(path)
"#);

    /// To a directory elsewhere by a descriptor that has been used before, and back (as the JVM does to make its hsperfdata).
    the_working_directory_is_left_by_a_descriptor: python(r#"
import os
here = os.open('.', os.O_RDONLY); there = os.open(os.environ['OUT'], os.O_RDONLY); os.fstat(there); os.listdir(there)
for round in 'ab':
    os.fchdir(there); print(os.getcwd(), os.path.exists('made-' + round)); open('made-' + round, 'w').close()
    os.fchdir(here); print(os.getcwd(), os.listdir('.')); open('on-mount-' + round, 'w').close()
os.chdir('..'); os.fchdir(there); print(os.getcwd(), sorted(os.listdir('.')))
"#);
}
