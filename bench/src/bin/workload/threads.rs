//! `threads-{read,write}-{one,many}-N`: N threads, on one file or on a file each.

use std::thread;

use crate::calls::{close, open, pread, pwrite};
use crate::{Done, Random, Work, timed};

/// All threads together.
const CALLS: usize = 20_000;
const SIZE: usize = 1 << 20;
const BLOCK: usize = 4096;

pub fn run(work: &Work, name: &str) -> Done {
    let mut words = name.strip_prefix("threads-")?.split('-');
    let (operation, spread, count) = (words.next()?, words.next()?, words.next()?.parse::<usize>().ok()?);
    let writes = operation == "write";
    let file = |n| if spread == "many" { format!("t{n}") } else { "t".into() };
    let fds: Vec<i32> = (0..count).map(|n| open(&work.file(&file(n), SIZE), libc::O_RDWR)).collect();
    let each = (work.count(CALLS) / count).max(1);
    let answer = timed((each * count) as u64, || {
        thread::scope(|scope| {
            for &fd in &fds {
                scope.spawn(move || {
                    let (mut random, mut content) = (Random::new(), [b'y'; BLOCK]);
                    for _ in 0..each {
                        let offset = random.below(SIZE / BLOCK) * BLOCK;
                        if writes {
                            pwrite(fd, &content, offset);
                        } else {
                            pread(fd, &mut content, offset);
                        }
                    }
                });
            }
        });
    });
    fds.into_iter().for_each(close);
    Some(Ok(answer))
}
