//! How long single calls take, and the slowest of them.

use crate::calls::{close, open, pread, put, pwrite, size, stat};
use crate::{Answer, Done, Random, Work, clock, timed};

const CALLS: usize = 20_000;
const FILES: usize = 1000;
const SIZE: usize = 16 << 20;
const BLOCK: usize = 4096;

pub fn run(work: &Work, name: &str) -> Done {
    let operation = name.strip_prefix("latency-")?;
    let paths = work.paths("l", work.count(FILES));
    for path in paths.iter().filter(|path| size(path) != Some(1)) {
        put(path, b"x", false);
    }
    let blocks = work.count(SIZE / BLOCK);
    let fd = open(&work.file("latency", blocks * BLOCK), libc::O_RDWR);
    let mut random = Random::new();
    let mut content = [b'y'; BLOCK];
    let answer = match operation {
        "open" => each(work, || {
            let begin = clock(libc::CLOCK_MONOTONIC);
            let fd = open(&paths[random.below(paths.len())], libc::O_RDONLY);
            let time = clock(libc::CLOCK_MONOTONIC) - begin;
            close(fd);
            time
        }),
        "stat" => each(work, || one(|| stat(&paths[random.below(paths.len())]))),
        "read" => each(work, || one(|| pread(fd, &mut content, random.below(blocks) * BLOCK))),
        "write" => each(work, || one(|| pwrite(fd, &content, random.below(blocks) * BLOCK))),
        _ => return None,
    };
    close(fd);
    Some(Ok(answer))
}

fn one(call: impl FnOnce()) -> u64 {
    let begin = clock(libc::CLOCK_MONOTONIC);
    call();
    clock(libc::CLOCK_MONOTONIC) - begin
}

fn each(work: &Work, mut call: impl FnMut() -> u64) -> Answer {
    let calls = work.count(CALLS);
    let mut times = vec![0; calls];
    let mut answer = timed(calls as u64, || times.iter_mut().for_each(|time| *time = call()));
    times.sort_unstable();
    answer.percentiles = [500, 990, 999].map(|part| times[(calls - 1) * part / 1000]).to_vec();
    answer
}
