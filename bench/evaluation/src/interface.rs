//! The ways to a file that are compared.

use std::fmt;
use std::str::FromStr;

/// A way to a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Interface {
    /// The plain file system.
    Direct,
    /// The passthrough plugin on a mount of DEFUSE; shadows are directories on tmpfs.
    Defuse,
    /// The same, and regular files are handed to the program as they are.
    DefuseBacking,
    /// The same as `Defuse`, with shadows of the kernel module.
    DefuseModule,
    /// The same as `Defuse`, and the plugin lends no pages: files are mapped by the pager.
    DefusePager,
    /// The memory plugin on a mount of DEFUSE.
    Memory,
    /// The passthrough plugin behind wrapped symbols of libc.
    Preload,
    /// The passthrough plugin behind FUSE, with the kernel's page cache.
    Fuse,
    /// The same, and the kernel collects writes.
    FuseWriteback,
    /// The same without the page cache.
    FuseDirectIo,
    /// The same, and the kernel goes to the plugin's descriptors by itself.
    FusePassthrough,
    /// FUSE over io_uring.
    FuseUring,
    /// The example file systems of libfuse.
    LibfuseLl,
    LibfuseFh,
    LibfuseHp,
}

use Interface::{
    Defuse, DefuseBacking, DefuseModule, DefusePager, Direct, Fuse, FuseDirectIo, FusePassthrough, FuseUring,
    FuseWriteback, LibfuseFh, LibfuseHp, LibfuseLl, Memory, Preload,
};

impl Interface {
    /// In the order of the tables.
    pub const ALL: [Self; 15] = [
        Direct,
        Defuse,
        DefuseBacking,
        DefuseModule,
        DefusePager,
        Memory,
        Preload,
        Fuse,
        FuseWriteback,
        FuseDirectIo,
        FusePassthrough,
        FuseUring,
        LibfuseLl,
        LibfuseFh,
        LibfuseHp,
    ];

    /// All kinds of FUSE.
    pub const FUSE: [Self; 8] =
        [Fuse, FuseWriteback, FuseDirectIo, FusePassthrough, FuseUring, LibfuseLl, LibfuseFh, LibfuseHp];

    /// For files and results.
    pub fn id(self) -> &'static str {
        match self {
            Direct => "direct",
            Defuse => "defuse",
            DefuseBacking => "defuse-backing",
            DefuseModule => "defuse-module",
            DefusePager => "defuse-pager",
            Memory => "memory",
            Preload => "preload",
            Fuse => "fuse",
            FuseWriteback => "fuse-writeback",
            FuseDirectIo => "fuse-direct-io",
            FusePassthrough => "fuse-passthrough",
            FuseUring => "fuse-uring",
            LibfuseLl => "libfuse-ll",
            LibfuseFh => "libfuse-fh",
            LibfuseHp => "libfuse-hp",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Direct => "direct",
            Defuse => "DEFUSE",
            DefuseBacking => "DEFUSE, backing FD",
            DefuseModule => "DEFUSE, module",
            DefusePager => "DEFUSE, pager",
            Memory => "DEFUSE, memory",
            Preload => "LD_PRELOAD",
            Fuse => "FUSE",
            FuseWriteback => "FUSE, write-back",
            FuseDirectIo => "FUSE, direct I/O",
            FusePassthrough => "FUSE, passthrough",
            FuseUring => "FUSE, io_uring",
            LibfuseLl => "passthrough_ll",
            LibfuseFh => "passthrough_fh",
            LibfuseHp => "passthrough_hp",
        }
    }

    /// What it is.
    pub fn description(self) -> &'static str {
        match self {
            Direct => "the plain file system, no interface between",
            Defuse => {
                "the passthrough plugin on a mount of `defuse run`, read and written by the plugin; no module, no root"
            }
            DefuseBacking => {
                "the same with `passthrough,backing-fd`: regular files are handed to the program as they are"
            }
            DefuseModule => "the same as DEFUSE, with the kernel module's shadows",
            DefusePager => "the same as DEFUSE with `passthrough,map=pager`: the plugin lends no pages",
            Memory => "the memory plugin on a mount of `defuse run`",
            Preload => {
                "the same plugin behind wrapped symbols of libc with FD numbers of its own (`bench/preload`)"
            }
            Fuse => {
                "the same plugin behind FUSE (`bench/fuse`: the `fuser` crate, no libfuse, one thread per processor, each with \
                 its own channel); page cache kept, names and attributes for 1 s"
            }
            FuseWriteback => "the same with FUSE's write-back cache",
            FuseDirectIo => "the same with FOPEN_DIRECT_IO, as the paper's \"FUSE direct-io\"",
            FusePassthrough => "the same with FUSE's kernel passthrough to the plugin's descriptors",
            FuseUring => "FUSE over io_uring",
            LibfuseLl => "libfuse's example `passthrough_ll` of this distribution, as it comes",
            LibfuseFh => "libfuse's example `passthrough_fh` of this distribution, as it comes",
            LibfuseHp => "libfuse's example `passthrough_hp`",
        }
    }

    /// Why a piece of work is beyond it by design.
    pub fn cannot(self, work: &str) -> Option<&'static str> {
        match (self, work) {
            (Preload, "readdir") => Some("opendir is not wrapped: its streams are libc's own"),
            (Preload, work) if work.starts_with("map-") => Some("its FD numbers cannot be mapped"),
            (Preload, work) if work.starts_with("exec-") => Some("its FD numbers end at exec"),
            (Preload, "programs") => Some("libc's own calls (opendir, fopen, posix_spawn) pass it by"),
            _ => None,
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

impl FromStr for Interface {
    type Err = String;
    fn from_str(id: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|interface| interface.id() == id);
        found.ok_or_else(|| format!("no interface is called {id:?}"))
    }
}

/// A file system below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Store {
    /// Memory.
    Tmpfs,
    /// On a loop device, whose file is in memory.
    Ext4,
}

impl Store {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tmpfs, Self::Ext4];

    /// As the paper calls it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
        }
    }
}
