//! The address space.

use super::Interest::{Never, WhileAlert, WhileServing};
use super::Length::{Depends, Fixed, Iovec, Items};
use super::MemArg::{In, InOut, Out};
use super::Row;
use super::Treatment::{Passed, Served};

/// The rows.
pub static ROWS: &[Row] = &[
    Row::new(
        9,
        "mmap",
        Served,
        WhileServing,
        "a served FD is mapped by us; new code is searched for system calls",
    )
    .fds(&[4]),
    Row::new(
        10,
        "mprotect",
        Served,
        WhileAlert,
        "of mapped files ours; memory that becomes executable is searched for system calls",
    ),
    Row::new(
        329,
        "pkey_mprotect",
        Served,
        WhileAlert,
        "of mapped files ours; memory that becomes executable is searched for system calls",
    ),
    Row::new(11, "munmap", Served, WhileAlert, "files that are not mapped any more are written back"),
    Row::new(12, "brk", Passed, Never, "anonymous memory"),
    Row::new(25, "mremap", Served, WhileAlert, "of mapped files ours"),
    Row::new(26, "msync", Served, WhileAlert, "what was stored is handed to the plugin"),
    Row::new(27, "mincore", Passed, Never, "one byte for each page").memory(&[Out(2, Depends)]),
    Row::new(28, "madvise", Served, WhileAlert, "of mapped files ours, where the advice changes anything"),
    Row::new(
        440,
        "process_madvise",
        Passed,
        Never,
        "the kernel's; the vector names memory of another process",
    )
    .fds(&[0])
    .memory(&[In(1, Items(2, 16))]),
    Row::new(149, "mlock", Served, WhileAlert, "pages of mapped files are read before"),
    Row::new(325, "mlock2", Served, WhileAlert, "as mlock"),
    Row::new(150, "munlock", Passed, Never, "pages in memory need not stay there"),
    Row::new(151, "mlockall", Passed, Never, "pages in memory stay there"),
    Row::new(152, "munlockall", Passed, Never, "pages in memory need not stay there"),
    Row::new(216, "remap_file_pages", Served, WhileAlert, "of mapped files refused (EINVAL)"),
    Row::new(237, "mbind", Passed, Never, "where pages are; a mask of bits").memory(&[In(3, Depends)]),
    Row::new(238, "set_mempolicy", Passed, Never, "where pages are; a mask of bits")
        .memory(&[In(1, Depends)]),
    Row::new(239, "get_mempolicy", Passed, Never, "where pages are; a mask of bits")
        .memory(&[Out(0, Fixed(4)), Out(1, Depends)]),
    Row::new(450, "set_mempolicy_home_node", Passed, Never, "where pages are"),
    Row::new(256, "migrate_pages", Passed, Never, "where pages are; masks of bits")
        .memory(&[In(2, Depends), In(3, Depends)]),
    Row::new(279, "move_pages", Passed, Never, "where pages are").memory(&[
        In(2, Items(1, 8)),
        In(3, Items(1, 4)),
        Out(4, Items(1, 4)),
    ]),
    Row::new(330, "pkey_alloc", Passed, Never, "protection keys"),
    Row::new(331, "pkey_free", Passed, Never, "protection keys"),
    Row::new(453, "map_shadow_stack", Passed, Never, "a new mapping without a file"),
    Row::new(
        462,
        "mseal",
        Passed,
        Never,
        "what is sealed is not unmapped; text of libraries is rewritten before",
    ),
    Row::new(
        310,
        "process_vm_readv",
        Passed,
        Never,
        "between processes; of this one, the other vector is memory, too",
    )
    .memory(&[Out(1, Iovec(2)), In(3, Iovec(4))]),
    Row::new(
        311,
        "process_vm_writev",
        Passed,
        Never,
        "between processes; of this one, the other vector is memory, too",
    )
    .memory(&[In(1, Iovec(2)), Out(3, Iovec(4))]),
    Row::new(448, "process_mrelease", Passed, Never, "of a process that is dying").fds(&[0]),
    Row::new(29, "shmget", Passed, Never, "System V shared memory has a name space of its own"),
    Row::new(30, "shmat", Served, WhileAlert, "with SHM_REMAP it may replace a mapped file"),
    Row::new(31, "shmctl", Passed, Never, "System V shared memory has a name space of its own")
        .memory(&[InOut(2, Depends)]),
    Row::new(67, "shmdt", Passed, Never, "of shared memory only"),
];
