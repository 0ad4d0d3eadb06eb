//! `sites FILE...`: which system call sites of an object can be rewritten, and how.

use std::time::Instant;

use interpose::rewrite::{Image, Libc, Pattern, Rewind};

fn main() {
    for path in std::env::args().skip(1) {
        let file = match std::fs::read(&path) {
            Ok(file) => file,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let Some(image) = Image::from_file(&file) else {
            println!("{path}: not an x86-64 ELF object");
            continue;
        };
        if let Some(libc) = Libc::identify(&image) {
            println!("{path}: {libc}{}", if libc.is_tested() { "" } else { ", which is not tested" });
        }
        for text in image.texts() {
            let start = Instant::now();
            let plan = image.scan(&text, &|_| true);
            println!("{path}: {plan} ({:?})", start.elapsed());
            let special = |pattern, rewind| pattern == Pattern::Overwrite || rewind == Rewind::Never;
            for site in plan.sites.iter().filter(|site| special(site.pattern, site.rewind)) {
                let address = text.address + u64::from(site.syscall);
                println!(
                    "  {address:#x} {:?}, rewind {:?}, number {:?}",
                    site.pattern, site.rewind, site.number
                );
            }
            for left in plan.missed() {
                let address = text.address + u64::from(left.offset);
                println!("  {address:#x} not rewritten: {}, number {:?}", left.reason, left.number);
            }
        }
    }
}
