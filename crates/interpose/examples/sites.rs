//! `sites FILE...`: which system call sites of an object can be diverted, and how.

use std::time::Instant;

use interpose::rewrite::{Image, Pattern, Reason};

fn main() {
    for path in std::env::args().skip(1) {
        let file = std::fs::read(&path).expect("readable file");
        let Some(image) = Image::from_file(&file) else {
            println!("{path}: not an x86-64 ELF object");
            continue;
        };
        for text in image.texts() {
            let start = Instant::now();
            let plan = image.scan(&text, &|_| true);
            println!("{path}: {} sites, {:?}", plan.sites.len(), start.elapsed());
            for pattern in
                [Pattern::Single, Pattern::Run, Pattern::Hole, Pattern::RunWithBranch, Pattern::Overwrite]
            {
                println!("  {:4} {pattern:?}", plan.count(pattern));
            }
            for reason in [
                Reason::Restorer,
                Reason::BranchInto,
                Reason::NotMovable,
                Reason::NotAnInstruction,
                Reason::UnknownFunction,
                Reason::OutsideFunctions,
            ] {
                println!("  {:4} left: {reason}", plan.left(reason));
            }
            for site in plan.sites.iter().filter(|site| site.pattern != Pattern::Single) {
                let address = text.address + u64::from(site.syscall);
                println!("    {address:#x} {:?} {:?} {:?}", site.number, site.pattern, site.rewind);
            }
            for left in plan.missed() {
                println!(
                    "    {:#x} {:?} {}",
                    text.address + u64::from(left.offset),
                    left.number,
                    left.reason
                );
            }
        }
    }
}
