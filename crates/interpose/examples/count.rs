//! Counts system calls by number and prints the counts when the process ends.
//!
//! ```text
//! cargo build -p interpose --example count
//! LD_PRELOAD=target/debug/examples/libcount.so ls
//! ```

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use interpose::{Call, Config, Handler, Interest, NUMBERS, Outcome};

const SYS_EXIT_GROUP: u32 = 231;

struct Count([AtomicU64; NUMBERS]);

impl Handler for Count {
    fn call(&self, call: &mut Call) -> Outcome {
        self.0[call.nr as usize].fetch_add(1, Relaxed);
        if call.nr == SYS_EXIT_GROUP {
            self.print();
        }
        Outcome::PassThrough
    }
}

impl Count {
    fn print(&self) {
        let mut text = String::from("number  calls\n");
        for (nr, count) in self.0.iter().enumerate() {
            match count.load(Relaxed) {
                0 => {}
                count => _ = writeln!(text, "{nr:6} {count:6}"),
            }
        }
        eprint!("{text}");
    }
}

static COUNT: Count = Count([const { AtomicU64::new(0) }; NUMBERS]);

extern "C" fn begin() {
    let mut config = Config::new();
    for nr in 0..NUMBERS as u32 {
        config = config.interest(nr, Interest::Always);
    }
    // SAFETY: a constructor of a preloaded library: nobody else loads anything.
    if let Err(error) = unsafe { interpose::install(config, &COUNT) } {
        eprintln!("{error}");
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;
