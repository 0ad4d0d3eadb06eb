//! When things end: descriptions, mounts, the module.

use std::path::PathBuf;

use rustix::mount::UnmountFlags;

use super::super::mount::Mount;
use super::super::process::{Gate, fork, receive_fd, send_fd, socket_pair};
use super::super::shadow::{self, Request};
use super::super::{abi, module};
use super::errno;
use super::locks::record_lock;

super::tests![
    the_last_close_ends_a_description,
    a_killed_holder_ends_its_descriptions,
    a_description_lives_in_a_socket,
    many_tokens_are_asked_at_once,
    an_open_shadow_keeps_the_mount_busy,
    a_detached_mount_serves_who_holds_it,
    the_module_stays_while_mounted,
    the_module_loads_and_unloads_again_and_again,
];

fn is_live(mount: &Mount, token: u64) -> bool {
    shadow::live(mount.root(), mount.user(), &[token]).expect("live").0[0]
}

fn the_last_close_ends_a_description() {
    let mount = Mount::new();
    let closed = || shadow::live(mount.root(), mount.user(), &[]).expect("live").1;
    assert_eq!(closed(), 0);
    let file = mount.shadow(&Request::file(1, "f").token(5));
    let copy = rustix::io::dup(&file).expect("dup");
    assert!(is_live(&mount, 5));
    drop(file);
    assert!(is_live(&mount, 5));
    let (held, done) = (Gate::new(), Gate::new());
    let child = fork(|| {
        held.open();
        done.pass();
    });
    held.pass();
    drop(copy);
    assert!(is_live(&mount, 5), "a child's copy is an FD like any other");
    assert_eq!(closed(), 0);
    done.open();
    child.join();
    assert!(!is_live(&mount, 5));
    assert_eq!(closed(), 1);
}

fn a_killed_holder_ends_its_descriptions() {
    let mount = Mount::new();
    let held = Gate::new();
    let child = fork(|| {
        let _files: Vec<_> =
            (0..100).map(|ino| mount.shadow(&Request::file(ino, "f").token(1000 + ino))).collect();
        held.open();
        Gate::new().pass();
    });
    held.pass();
    assert!((1000..1100).all(|token| is_live(&mount, token)));
    child.kill();
    assert!((1000..1100).all(|token| !is_live(&mount, token)));
}

fn a_description_lives_in_a_socket() {
    let mount = Mount::new();
    let (here, there) = socket_pair();
    send_fd(&here, mount.shadow(&Request::file(1, "f").token(5)));
    assert!(is_live(&mount, 5));
    let file = receive_fd(&there);
    assert_eq!(shadow::ident(&file).expect("identify").0.token, 5);
    send_fd(&here, file);
    drop((here, there));
    assert!(!is_live(&mount, 5));
}

fn many_tokens_are_asked_at_once() {
    let mount = Mount::new();
    let _files: Vec<_> =
        (0..50).map(|ino| mount.shadow(&Request::file(ino, "f").token(ino * 1000))).collect();
    let tokens: Vec<u64> = (0..abi::LIVE_MAX as u64).collect();
    let (alive, _) = shadow::live(mount.root(), mount.user(), &tokens).expect("live");
    for (token, alive) in tokens.iter().zip(alive) {
        assert_eq!(alive, token % 1000 == 0 && *token < 50_000, "token {token}");
    }
    assert_eq!(errno(shadow::live(mount.root(), mount.user(), &vec![0; abi::LIVE_MAX + 1])), libc::EINVAL);
}

fn an_open_shadow_keeps_the_mount_busy() {
    let mut mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "f"));
    mount.let_root_go();
    assert_eq!(mount.unmount(UnmountFlags::empty()), Err(rustix::io::Errno::BUSY));
    drop(file);
    mount.unmount(UnmountFlags::empty()).expect("unmount");
}

fn a_detached_mount_serves_who_holds_it() {
    let mut mount = Mount::new();
    let file = mount.shadow(&Request::file(1, "dir/f").token(5));
    let dir = mount.shadow(&Request::dir(2, "dir"));
    mount.let_root_go();
    mount.unmount(UnmountFlags::DETACH).expect("detach");
    let (ident, path) = shadow::ident(&file).expect("identify");
    assert_eq!((ident.token, path.as_slice()), (5, &b"dir/f"[..]));
    record_lock(&file, libc::F_WRLCK).expect("lock");
    let other = shadow::open(&file, &Request::file(1, "dir/g")).expect("open another");
    drop((file, dir));
    assert!(shadow::cache(&other, 4096).expect("cache").created);
    assert_eq!(errno(module::unload()), libc::EAGAIN, "a held shadow must keep the module");
}

/// The module of this run, from what the kernel was told to load.
fn module_file() -> PathBuf {
    std::env::var_os(super::super::runner::MODULE_VARIABLE).expect("the runner names the module").into()
}

fn the_module_stays_while_mounted() {
    let mount = Mount::new();
    assert_eq!(errno(module::unload()), libc::EAGAIN);
    drop(mount);
    module::unload().expect("unload once unmounted");
    assert!(!module::is_loaded());
    module::load(&module_file()).expect("load again");
}

fn the_module_loads_and_unloads_again_and_again() {
    for _ in 0..20 {
        module::unload().expect("unload");
        module::load(&module_file()).expect("load");
        let mount = Mount::new();
        let file = mount.shadow(&Request::file(1, "f"));
        let _memory = shadow::cache(&file, 4096).expect("cache");
        shadow::arena(&file, 4096).expect("arena");
    }
    assert_eq!(errno(module::load(&module_file())), libc::EEXIST);
}
