//! Finds the `syscall` instructions of loaded code and diverts them to an entry.
//!
//! Three steps, strictly separated:
//!
//! 1. [`scan`] reads code and answers a [`Plan`]: which sites can be diverted, how, and why others cannot. Pure:
//!    bytes in, plan out. A plan is kept as a [`SiteList`] so that later processes need not scan again.
//! 2. [`Stub`] turns one site and the addresses involved into machine code. Pure, too.
//! 3. [`apply`] takes memory near the code from [`NearMemory`], writes the stubs and then the jumps. All that is
//!    unsafe is here. The [`Patched`] it returns tells signal code what an interrupted stub stands for.
//!
//! # The stub contract
//!
//! What the entry may rely on, and must keep, is in [`contract`].

mod apply;
pub mod contract;
mod effects;
mod error;
mod function;
mod functions;
mod image;
mod instruction;
mod jumps;
mod maps;
mod near;
mod number;
mod patched;
mod scan;
mod signals;
mod site;
mod stub;
mod window;

pub use apply::{Threads, apply};
pub use error::Error;
pub use functions::FunctionTable;
pub use image::{Image, Segment};
pub use maps::{AddressMap, LoadedObject, Mapping};
pub use near::{NearMemory, Region};
pub use patched::{Patched, Skip};
pub use scan::scan;
pub use site::{Fixup, FixupKind, ORIGINAL_MAX, Pattern, Plan, Reason, Rewind, Site, Unpatchable};
pub use stub::{Addresses, OutOfReach, Patch, Phase, STUB_ALIGN, Stub, StubInfo};
