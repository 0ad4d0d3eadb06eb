//! Finds the `syscall` instructions of loaded code and diverts them to an entry.
//!
//! Three steps, strictly separated:
//!
//! 1. [`scan`] (or [`Image::scan`]) reads code and answers a [`Plan`]: which sites can be diverted, how, and why others
//!    cannot. Pure: bytes in, plan out. [`Plan::to_bytes`] keeps it, so that later processes need not scan.
//! 2. [`Stub`] turns one site and the addresses involved into machine code. Pure, too.
//! 3. [`apply`] takes memory near the code from [`NearMemory`], writes the stubs and then the jumps. With
//!    [`LoadedObject::image`] all that is unsafe. The [`Patched`] it returns tells signal code what an interrupted stub
//!    stands for.
//!
//! What the entry may rely on, and must keep, is in [`contract`].
//!
//! # Which instruction makes the call
//!
//! Wherever possible (all patterns but [`Pattern::Overwrite`]) the jump replaces only what stands *before* the `syscall`, and a
//! call that is passed on is made by that very instruction. So a thread that blocks, is cancelled or gets a signal there has
//! a PC that unwind tables cover; glibc 2.41 and musl, which compare the PC of a thread to be cancelled with the bounds of
//! their helper, see what they expect; the kernel restarts an interrupted call as ever; and a thread that was blocked
//! while the code was changed comes back to unchanged bytes. All sites of glibc 2.36 and 2.41 are of this kind but two in
//! each (the endless loops around process and thread exit), and `read` in ld.so, which is not cancellable.
//!
//! Never touched: `mov $15,%rax; syscall`, by whose bytes unwinders know a signal frame ([`Reason::Restorer`]). Who wants to see
//! `rt_sigreturn` installs a restorer of their own.
//!
//! # What it costs
//!
//! On libc 2.36: scanning 1.2 ms, once per object and session; reading the kept plan 10 us; applying it 130 us for the
//! 216 sites that concern files, 230 us for all 525, nearly all of it the kernel's copies of the pages changed.
//!
//! # Where it may run
//!
//! In any thread, also under the program's locks: nothing here calls libc except by way of the global allocator, which
//! therefore must not be the program's. System calls are made past libc. Nothing is kept in static or thread-local
//! memory, so fork needs no care. Only one thread at a time may apply plans to one text.
//!
//! ```
//! use interpose::rewrite::{FunctionTable, Pattern, scan};
//!
//! // mov $1,%eax; syscall; ret
//! let code = [0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0xc3];
//! let plan = scan(&code, &FunctionTable::default(), &|number| number == Some(1));
//! assert_eq!(plan.sites[0].pattern, Pattern::Single);
//! assert_eq!(plan.sites[0].number, Some(1));
//! ```

mod apply;
pub mod contract;
mod effects;
mod error;
mod function;
mod functions;
mod image;
mod instruction;
mod jumps;
mod libc;
mod list;
mod maps;
mod near;
mod number;
mod patched;
mod prepared;
mod query;
mod scan;
mod signals;
mod site;
mod stub;
mod untouched;
mod window;

pub use apply::{Threads, apply};
pub use error::Error;
pub use functions::FunctionTable;
pub use image::{Image, Segment};
pub use libc::Libc;
pub use maps::{AddressMap, LoadedObject, Mapping};
pub use near::NearMemory;
pub use patched::{Patched, Skip};
pub use prepared::{Origin, PreparedText, prepare};
pub use scan::scan;
pub use site::{Fixup, FixupKind, ORIGINAL_MAX, Pattern, Plan, Reason, Rewind, Site, Unpatchable};
pub use stub::{Addresses, HoleJump, OutOfReach, Patch, Phase, STUB_ALIGN, Stub, StubInfo};
pub use untouched::untouched;

#[cfg(test)]
mod oracle;
