//! Landlock: a program that gives up access to files, but for some directories.
//!
//! The kernel judges what it sees: what a plugin does in the back end, and what serving needs in the session's folder. So a rule for something on a mount
//! is one for what the plugin lends of it, a rule for a directory above a mount is one for the mount's root as well, and the session's folder, the
//! shadows of the kernel module, the library, the plugins, and `/proc` for reading, stay allowed. A plugin that lends nothing is judged by what it does.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use interpose::Call;
use linux_raw_sys::general as sys;
use plugin_abi::{Handle, Instance, MountPath, Open, Purpose};

use super::{Reply, Served, sandbox};
use crate::file::{self, Owner};
use crate::mount::Mount;
use crate::process::Process;
use crate::{namei, native, user};

/// linux/landlock.h
const RULE_PATH_BENEATH: u32 = 1;
const ACCESS_FS_EXECUTE: u64 = 1 << 0;
const ACCESS_FS_READ_FILE: u64 = 1 << 2;
const ACCESS_FS_READ_DIR: u64 = 1 << 3;
/// As many rights to files as there may be one day; those that a rule set does not handle are refused one by one.
const RIGHTS: u32 = 24;

/// A rule lets something on a mount be executed, which means its copy in the session's folder.
static EXECUTES: AtomicBool = AtomicBool::new(false);

/// A `struct landlock_path_beneath_attr`, which is packed.
fn rule(allowed: u64, parent: RawFd) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&allowed.to_ne_bytes());
    bytes[8..].copy_from_slice(&parent.to_ne_bytes());
    bytes
}

/// Adds a rule about something on a mount, of which the plugin lends this.
fn add_lent(rules: u64, allowed: u64, lent: RawFd) -> i64 {
    if allowed & ACCESS_FS_EXECUTE != 0 {
        EXECUTES.store(true, Ordering::Relaxed);
    }
    add(rules, allowed, lent)
}

/// Adds a rule of the kernel's.
fn add(rules: u64, allowed: u64, parent: RawFd) -> i64 {
    let rule = rule(allowed, parent);
    let args = [rules, RULE_PATH_BENEATH.into(), rule.as_ptr() as u64, 0, 0, 0];
    native::raw_call(sys::__NR_landlock_add_rule, args)
}

pub fn add_rule(process: &'static Process, call: &Call) -> Served {
    let [rules, kind, attributes, flags, ..] = call.args;
    if kind as u32 != RULE_PATH_BENEATH || flags as u32 != 0 {
        return Ok(Reply::Pass);
    }
    let Ok([low, high, parent]) = user::read::<[i32; 3]>(attributes) else { return Ok(Reply::Pass) };
    let allowed = u64::from(low as u32) | u64::from(high as u32) << 32;
    match file::owner(process, parent) {
        Owner::Served(file) => {
            let lent = file.with_handle(lent);
            Ok(lent.map_or(Reply::Pass, |lent| Reply::Value(add_lent(rules, allowed, lent))))
        }
        Owner::Ancestor => {
            let result = native::call(call);
            if result >= 0 {
                allow_mounts_below(process, rules, allowed, parent);
            }
            Ok(Reply::Value(result))
        }
        Owner::Foreign | Owner::Closed => Ok(Reply::Pass),
    }
}

/// The descriptor of what is behind the handle.
fn lent(instance: &Instance, handle: &Handle) -> plugin_abi::Result<RawFd> {
    let lent = instance.backing_fd(handle, Purpose::Map);
    lent.or_else(|_| instance.backing_fd(handle, Purpose::Exec)).map(|fd| fd.as_raw_fd())
}

/// What lies below the directory `parent` is allowed on mounts, too.
fn allow_mounts_below(process: &'static Process, rules: u64, allowed: u64, parent: RawFd) {
    let Ok(above) = namei::fd_path(parent) else { return };
    let is_below = |mount: &&Mount| {
        let rest = mount.point().to_bytes().strip_prefix(above.as_slice());
        rest.is_some_and(|rest| above.ends_with(b"/") || rest.starts_with(b"/"))
    };
    for mount in process.mounts.iter().filter(is_below) {
        let (Ok(instance), Some(root)) = (mount.instance(), MountPath::new(c"/")) else { continue };
        let flags = (sys::O_PATH | sys::O_DIRECTORY | sys::O_CLOEXEC) as i32;
        let Ok(Open::Served { handle, .. }) = instance.open(root, flags, 0) else { continue };
        if let Ok(root) = lent(instance, &handle) {
            add_lent(rules, allowed, root);
        }
        let _ = instance.close(handle);
    }
}

/// Before the program restricts itself: what needs other files once is done, and what serving needs later is allowed.
pub fn restrict_self(process: &'static Process, call: &Call) -> Served {
    let rules = call.args[0];
    if !interpose::in_vfork_child() {
        sandbox::load(process);
    }
    let executes = EXECUTES.load(Ordering::Relaxed);
    let rights = (0..RIGHTS).map(|right| 1 << right).filter(|&right| right != ACCESS_FS_EXECUTE || executes);
    allow(rules, &process.folder, rights);
    // Where the module makes the shadows there is nothing to be had but them.
    for mount in process.mounts.iter().filter(|mount| mount.shadows.has_native_locks()) {
        allow(rules, mount.point().to_bytes(), (0..RIGHTS).map(|right| 1 << right));
    }
    // The address map and the FDs of each image and child.
    allow(rules, b"/proc", [ACCESS_FS_READ_FILE, ACCESS_FS_READ_DIR].into_iter());
    let libraries = process.mounts.iter().map(|mount| mount.library().as_os_str().as_bytes());
    for library in libraries.chain([process.library.as_slice()]) {
        allow(rules, library, [ACCESS_FS_EXECUTE, ACCESS_FS_READ_FILE].into_iter());
    }
    Ok(Reply::Pass)
}

/// Allows these rights, as far as the rules are about them, to what is at `path` and below.
fn allow(rules: u64, path: &[u8], rights: impl Iterator<Item = u64>) {
    let name = [path, b"\0"].concat();
    let flags = u64::from(sys::O_PATH | sys::O_CLOEXEC);
    let Ok(fd) = native::new_fd(sys::__NR_open, [name.as_ptr() as u64, flags, 0, 0, 0, 0]) else { return };
    for right in rights {
        add(rules, right, fd);
    }
    native::close(fd);
}
