//! Kernel, libc, and what is installed.

use std::ffi::CStr;

use super::Finding;
use crate::cli::{library, plugin};

/// The oldest kernel that works.
const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// The versions of glibc that this is tested with.
const TESTED_GLIBC: [&str; 2] = ["2.36", "2.41"];
/// A session's memory grows with the number of open files; this much is enough for thousands of processes.
const ENOUGH_SPACE: u64 = 64 << 20;

pub fn kernel() -> Finding {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    match version(&release) {
        Some(version) if version >= OLDEST_KERNEL => Finding::ok("kernel", release),
        _ => Finding::lack("kernel", release, "boot Linux 6.1 or newer"),
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub fn libc() -> Finding {
    // SAFETY: the function returns a string that lives for ever.
    let found = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy();
    if TESTED_GLIBC.contains(&found.as_ref()) {
        return Finding::ok("glibc", format!("{found}, which is understood"));
    }
    let tested = TESTED_GLIBC.join(" and ");
    let mend = format!(
        "tested with {tested}; see what 'defuse run --log info' says about sites that are not understood"
    );
    Finding::note("glibc", found, mend)
}

pub fn library() -> Finding {
    match library::find() {
        Ok(path) => Finding::ok("interposer", path.display().to_string()),
        Err(failure) => Finding::lack("interposer", failure.to_string(), "cargo build --release --workspace"),
    }
}

pub fn plugins() -> Finding {
    let list = plugin::list();
    let names: Vec<_> = list.lines().filter_map(|line| line.split(' ').next()).collect();
    if names.is_empty() {
        return Finding::note(
            "plugins",
            "none is found by name",
            "put libNAME.so beside this command, or set DEFUSE_PLUGIN_PATH",
        );
    }
    Finding::ok("plugins", names.join(", "))
}

pub fn run_directory() -> Finding {
    let subject = "run directory";
    let chosen = crate::cli::run_directory::of_runs();
    let path = chosen.path.display();
    let another = "set DEFUSE_RUN_DIR to a directory on a tmpfs without noexec, or mount one: mount -t tmpfs tmpfs DIRECTORY";
    let Ok(space) = rustix::fs::statvfs(&chosen.path) else {
        return Finding::lack(subject, format!("{path} cannot be used"), another);
    };
    if rustix::fs::access(&chosen.path, rustix::fs::Access::WRITE_OK).is_err() {
        return Finding::lack(subject, format!("{path} cannot be written"), another);
    }
    if !chosen.is_tmpfs {
        return Finding::note(
            subject,
            format!("{path} is not on a tmpfs, which makes opening files slower"),
            another,
        );
    }
    if !chosen.may_execute {
        return Finding::note(
            subject,
            format!("{path} is mounted noexec: programs on a mount do not start by name"),
            another,
        );
    }
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < ENOUGH_SPACE {
        let mend = format!("mount -o remount,size=256M {path}");
        return Finding::note(subject, format!("{path} has only {} KiB left", free / 1024), mend);
    }
    Finding::ok(subject, format!("{path}, tmpfs, {} MiB free", free >> 20))
}

#[cfg(test)]
mod tests {
    use super::version;
    use rstest::rstest;

    #[rstest]
    #[case("6.18.44-fc-v595", Some((6, 18)))]
    #[case("6.1.0-49-amd64", Some((6, 1)))]
    #[case("7.3-rc1", Some((7, 3)))]
    #[case("next", None)]
    #[case("6", None)]
    fn versions_are_two_numbers(#[case] text: &str, #[case] found: Option<(u32, u32)>) {
        assert_eq!(version(text), found);
    }
}
