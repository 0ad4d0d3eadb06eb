//! Users are the same whatever numbers they have in the user namespace of who asks.

use super::super::mount::Mount;
use super::super::process::{Gate, become_user, fork, fork_into_user_namespace};
use super::super::shadow::{self, Request};
use super::errno;
use super::locks::set_lease;

super::tests![
    a_user_stays_who_he_is,
    another_user_of_the_same_number_is_another,
    users_without_a_number_are_told_apart,
    a_file_opens_whose_owner_has_no_number,
    its_lease_stays_its_owners,
    mounts_name_users_differently,
];

/// The owner that the kernel shows for who has no number in the namespace.
const NOBODY: u32 = 65534;

fn is_live(mount: &Mount, user: shadow::User, token: u64) -> bool {
    shadow::live(mount.root(), user, &[token]).expect("live").0[0]
}

/// `unshare -r` by an ordinary user.
fn a_user_stays_who_he_is() {
    let mount = Mount::new();
    let before = || (mount.user(), mount.shadow(&Request::file(1, "f").token(5)));
    fork_into_user_namespace(1000, "0 1000 1", before, |(me, file)| {
        assert_eq!(mount.user(), me);
        assert_eq!(shadow::opener(&file), me);
        assert!(is_live(&mount, me, 5));
        assert_eq!(errno(mount.open(&Request::file(2, "g").token(5))), libc::EEXIST);
        drop(file);
        assert!(!is_live(&mount, me, 5));
        let file = mount.shadow(&Request::file(2, "g").token(6));
        assert_eq!(shadow::opener(&file), me);
    })
    .join();
}

/// A container's root, whose processes have inherited a file of the machine's.
fn another_user_of_the_same_number_is_another() {
    let mount = Mount::new();
    let me = mount.user();
    let file = mount.shadow(&Request::file(1, "f").token(5));
    fork_into_user_namespace(
        0,
        "0 100000 65536",
        || (),
        |()| {
            for changed in [false, true] {
                if changed {
                    become_root_inside();
                }
                assert_eq!(shadow::opener(&file), me);
                assert!(is_live(&mount, me, 5), "a description that is open counts as closed");
            }
            assert_ne!(mount.user(), me);
            let mine = mount.shadow(&Request::file(2, "g").token(5));
            assert_eq!(shadow::opener(&mine), mount.user());
        },
    )
    .join();
}

fn become_root_inside() {
    // SAFETY: plain system calls without pointers; the child has one thread.
    assert_eq!(unsafe { libc::setresuid(0, 0, 0) }, 0);
}

fn users_without_a_number_are_told_apart() {
    let mount = Mount::new();
    let mine = mount.shadow(&Request::file(1, "f").token(5));
    let before = || mount.shadow(&Request::file(1, "f").token(5));
    fork_into_user_namespace(2000, "0 100000 1", before, |theirs| {
        assert_ne!(shadow::opener(&mine), shadow::opener(&theirs));
        assert_eq!(shadow::opener(&theirs), mount.user());
        for file in [mine, theirs] {
            assert!(is_live(&mount, shadow::opener(&file), 5));
        }
    })
    .join();
}

fn a_file_opens_whose_owner_has_no_number() {
    let mount = Mount::new();
    mount.shadow(&Request::file(1, "f").owner(u32::MAX));
    fork_into_user_namespace(
        1000,
        "0 1000 1",
        || (),
        |()| {
            for owner in [NOBODY, 4711, u32::MAX] {
                let file = mount.shadow(&Request::file(2, "g").owner(owner).flags(libc::O_RDONLY));
                assert_eq!(
                    errno(set_lease(&file, libc::F_RDLCK)),
                    libc::EACCES,
                    "a lease on somebody else's file"
                );
                mount.shadow(&Request::dir(3, "d").owner(owner));
            }
            let own = mount.shadow(&Request::file(4, "h").owner(0).flags(libc::O_RDONLY));
            set_lease(&own, libc::F_RDLCK).expect("a lease on one's own file");
        },
    )
    .join();
}

fn its_lease_stays_its_owners() {
    let mount = Mount::new();
    let (opened, leased) = (Gate::new(), Gate::new());
    let file = || Request::file(1, "f").flags(libc::O_RDONLY);
    let owner = fork(|| {
        become_user(1000);
        let held = mount.shadow(&file().owner(1000));
        opened.pass();
        set_lease(&held, libc::F_RDLCK).expect("a lease on one's own file");
        leased.open();
    });
    let other = fork_into_user_namespace(
        2000,
        "0 2000 1",
        || (),
        |()| {
            let _file = mount.shadow(&file().owner(NOBODY));
            opened.open();
            leased.pass();
        },
    );
    owner.join();
    other.join();
}

/// So that what is learnt on one of them is of no use on another.
fn mounts_name_users_differently() {
    let (one, other) = (Mount::new(), Mount::new());
    assert_ne!(one.user(), other.user());
    assert_eq!(one.user(), shadow::opener(one.root()));
}
