//! The objects whose sites were rewritten.

use crate::signals::Context;

/// If the PC is in a stub, shows what it stands for.
pub fn settle(_context: &mut Context) {}

/// The program changed executable memory.
pub fn changed(_nr: u32, _args: &[u64; 6], _result: i64) {}
