//! The way from a rewritten site to the handler and back.

mod asm;
pub use asm::OWN_BUFFER;
pub mod frame;
pub mod leave;
pub mod regions;
pub mod stack;
pub mod tls;
pub mod vector;
