//! An in-process strace: prints every system call of the program it is preloaded into, with its result.
//!
//! ```text
//! cargo build -p interpose --example tracer
//! LD_PRELOAD=target/debug/examples/libtracer.so ls
//! ```
//!
//! Calls that end, replace or fork the process are printed without result, as are those that may wait.

use std::io::{Cursor, Write};
use std::mem::MaybeUninit;

use interpose::{Call, Config, Handler, Interest, NUMBERS, Outcome, raw, usercopy};

const SYS_WRITE: u32 = 1;
const SYS_OPENAT: u32 = 257;
// Waiting calls, exit_group, rt_sigreturn.
const PASSED: [u32; 14] = [0, 7, 15, 23, 35, 45, 47, 61, 202, 230, 231, 232, 247, 288];

struct Tracer;

impl Handler for Tracer {
    fn call(&self, call: &mut Call) -> Outcome {
        let mut line = Cursor::new([0_u8; 512]);
        let [a, b, c, d, ..] = call.args;
        let mut path = [MaybeUninit::uninit(); 256];
        let named = if call.nr == SYS_OPENAT { usercopy::read_cstr(b, &mut path).ok() } else { None };
        let _ = write!(line, "{}({a:#x}, {b:#x}, {c:#x}, {d:#x})", call.nr);
        if let Some(named) = named {
            let _ = write!(line, " {}", String::from_utf8_lossy(named));
        }
        let outcome = if PASSED.contains(&call.nr) || call.nr > 255 && call.nr != SYS_OPENAT {
            let _ = writeln!(line);
            Outcome::PassThrough
        } else {
            // SAFETY: what the program asked; its signals are held back until it returns.
            let result = unsafe { raw::interruptible(call.nr, call.args) };
            let _ = writeln!(line, " = {result}");
            Outcome::Return(result)
        };
        let text = &line.get_ref()[..line.position() as usize];
        // SAFETY: a buffer of ours.
        unsafe { raw::syscall3(SYS_WRITE, 2, text.as_ptr() as u64, text.len() as u64) };
        outcome
    }
}

extern "C" fn begin() {
    let mut config = Config::new();
    for nr in 0..NUMBERS as u32 {
        config = config.interest(nr, Interest::Always);
    }
    // SAFETY: a constructor of a preloaded library: nobody else loads anything.
    if let Err(error) = unsafe { interpose::install(config, &Tracer) } {
        eprintln!("{error}");
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;
