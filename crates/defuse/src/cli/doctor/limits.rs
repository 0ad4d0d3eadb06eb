//! Limits of this process, which those of a session inherit.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::Finding;

/// What a session's arena takes of a file's size and of each process's address space, in bytes.
const ARENA: u64 = 200 << 20;
/// Numbers that should be left at least for FDs that the program does not see.
const PRIVATE_FDS: u64 = 256;

pub fn open_files() -> Finding {
    let subject = "open files";
    let limit = getrlimit(Resource::Nofile);
    // No limit at all is more than any number.
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let detail = format!("{soft}, at most {hard}");
    let may_raise = rustix::process::geteuid().is_root();
    if hard.saturating_sub(soft) >= soft.max(PRIVATE_FDS) || may_raise {
        return Finding::ok(subject, detail);
    }
    let mend = format!("ulimit -Sn {} (or a higher hard limit in /etc/security/limits.conf)", hard / 2);
    Finding::note(subject, format!("{detail}: programs meet EMFILE at half, to leave room for plugins"), mend)
}

pub fn file_size() -> Finding {
    enough("file size", Resource::Fsize, "ulimit -f unlimited")
}

pub fn address_space() -> Finding {
    enough("address space", Resource::As, "ulimit -v unlimited")
}

fn enough(subject: &'static str, resource: Resource, mend: &str) -> Finding {
    match getrlimit(resource).current {
        Some(limit) if limit < ARENA => Finding::lack(
            subject,
            format!("limited to {} MiB, less than a session's memory", limit >> 20),
            mend,
        ),
        Some(limit) => Finding::ok(subject, format!("limited to {} MiB", limit >> 20)),
        None => Finding::ok(subject, "not limited"),
    }
}

pub fn overcommit() -> Finding {
    let subject = "vm.overcommit_memory";
    let value = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    match value.trim() {
        "2" => Finding::note(
            subject,
            "2: memory is promised strictly, and each process of a session asks for some more",
            "sysctl vm.overcommit_memory=0",
        ),
        "" => Finding::ok(subject, "not told"),
        value => Finding::ok(subject, value),
    }
}
