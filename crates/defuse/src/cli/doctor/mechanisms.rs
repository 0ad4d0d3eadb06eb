//! What the kernel lets a process do to itself.

use std::fs;
use std::path::Path;

use rustix::mm::UserfaultfdFlags;

use super::Finding;

/// `PR_SET_SYSCALL_USER_DISPATCH` and its argument "off" (`include/uapi/linux/prctl.h`, Linux 5.11).
const SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
/// Faults of the kernel are not handled (`include/uapi/linux/userfaultfd.h`, Linux 5.11).
const UFFD_USER_MODE_ONLY: u32 = 1;

pub fn text_rewriting() -> Finding {
    let subject = "rewriting of code";
    match make_executable() {
        Ok(()) => Finding::ok(subject, "written memory may become executable"),
        Err(error) => {
            let (why, mend) = if selinux_enforces() {
                ("SELinux forbids it", "setsebool -P selinuxuser_execmod on; setsebool -P deny_execmem off")
            } else {
                (
                    "some policy forbids it (PR_SET_MDWE, or a security module)",
                    "start the shell without that policy",
                )
            };
            Finding::note(
                subject,
                format!("{error}: {why}; each call is caught by dispatch, which is slower"),
                mend,
            )
        }
    }
}

/// Makes a page executable after writing it, as rewriting does.
fn make_executable() -> std::io::Result<()> {
    const PAGE: usize = 4096;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let page =
        unsafe { libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, private, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the page is ours, and writable.
    unsafe { page.cast::<u8>().write(0xc3) };
    // SAFETY: the page is ours, and nobody has a reference to it.
    let changed = unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_EXEC) };
    let result = if changed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: as above.
    unsafe { libc::munmap(page, PAGE) };
    result
}

fn selinux_enforces() -> bool {
    fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1")
}

pub fn dispatch() -> Finding {
    let subject = "system call user dispatch";
    // SAFETY: turning off what is not on changes nothing.
    if unsafe { libc::prctl(SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) } == 0 {
        Finding::ok(subject, "there")
    } else {
        let why = std::io::Error::last_os_error();
        let mend = "boot a kernel with CONFIG_GENERIC_ENTRY for x86 (Linux 5.11 or newer)";
        Finding::note(subject, format!("{why}: code that cannot be rewritten is not served"), mend)
    }
}

pub fn seccomp() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match status_field(&status, "Seccomp") {
        Some("0") => Finding::ok("seccomp", "no filter"),
        Some("2") => Finding::note(
            "seccomp",
            "a filter is installed; it may forbid calls that serving needs",
            "in a container: --security-opt seccomp=unconfined",
        ),
        Some(_) => Finding::lack("seccomp", "strict mode", "leave strict mode"),
        None => Finding::ok("seccomp", "not in this kernel"),
    }
}

/// The value of a line `NAME:\tVALUE`.
fn status_field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

pub fn userfaultfd() -> Finding {
    let subject = "userfaultfd (mapped files)";
    let kernel_faults = open_userfaultfd(UserfaultfdFlags::CLOEXEC);
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/userfaultfd").is_ok();
    if kernel_faults.is_ok() || device {
        return Finding::ok(subject, "there, for faults of the kernel too");
    }
    match open_userfaultfd(
        UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY) | UserfaultfdFlags::CLOEXEC,
    ) {
        Ok(()) => Finding::note(
            subject,
            "for faults of programs only",
            "sysctl vm.unprivileged_userfaultfd=1, or chmod a+rw /dev/userfaultfd",
        ),
        Err(errno) => Finding::note(
            subject,
            format!("{}: files on a mount cannot be mapped", defuse::errno::describe(errno)),
            "boot a kernel with CONFIG_USERFAULTFD; in a container, let seccomp pass userfaultfd",
        ),
    }
}

fn open_userfaultfd(flags: UserfaultfdFlags) -> Result<(), rustix::io::Errno> {
    // SAFETY: it is closed again without having been given any memory.
    unsafe { rustix::mm::userfaultfd(flags) }.map(drop)
}

pub fn ptrace() -> Finding {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "3" => Finding::note(
            "ptrace",
            "forbidden to everybody: debuggers cannot attach",
            "boot with another kernel.yama.ptrace_scope",
        ),
        "" => Finding::ok("ptrace", "not restricted by Yama"),
        scope => Finding::ok("ptrace", format!("kernel.yama.ptrace_scope is {scope}; nothing here needs it")),
    }
}

pub fn module() -> Finding {
    let subject = "kernel module";
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "defuse") {
        return Finding::ok(subject, "loaded");
    }
    Finding::note(
        subject,
        "not loaded: shadows are directories on a tmpfs, which works as well",
        "as root: insmod kmod/defuse.ko",
    )
}

pub fn fuse() -> Finding {
    let subject = "FUSE (to compare with)";
    let device = Path::new("/dev/fuse");
    if !device.exists() {
        return Finding::note(subject, "there is no /dev/fuse", "as root: modprobe fuse");
    }
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Finding::ok(subject, "there"),
        Err(error) => Finding::note(subject, format!("/dev/fuse: {error}"), "as root: chmod a+rw /dev/fuse"),
    }
}

#[cfg(test)]
mod tests {
    use super::status_field;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Seccomp_filters:\t3\nSeccomp:\t2\n";
        assert_eq!(status_field(status, "Seccomp"), Some("2"));
        assert_eq!(status_field(status, "Sec"), None);
    }
}
