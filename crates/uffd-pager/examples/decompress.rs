//! A compressed file, mapped: each page is decompressed when it is first touched.
//!
//! The format is run-length coding, a row of (count, byte) per page, with an index of the rows. The
//! mapping looks like the decompressed file; only what is touched is decompressed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uffd_pager::{Cache, Errno, MapRequest, Mode, PAGE, PageSource, Pager, Protection, signal};

/// Each page's runs follow each other in `runs`; `index[page]` is the first one's place.
struct RunLength {
    runs: Vec<(u16, u8)>,
    index: Vec<usize>,
    length: u64,
    decompressed: AtomicU64,
}

impl RunLength {
    fn compress(data: &[u8]) -> Self {
        let (mut runs, mut index) = (Vec::new(), Vec::new());
        for page in data.chunks(PAGE) {
            index.push(runs.len());
            runs.extend(page.chunk_by(|a, b| a == b).map(|run| (run.len() as u16, run[0])));
        }
        index.push(runs.len());
        Self { runs, index, length: data.len() as u64, decompressed: AtomicU64::new(0) }
    }

    fn size(&self) -> usize {
        self.runs.len() * 3 + self.index.len() * size_of::<usize>()
    }
}

// Reads run in the handler of SIGBUS: no allocation, no locks.
impl PageSource for RunLength {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        for (page, bytes) in (offset as usize / PAGE..).zip(buffer.chunks_mut(PAGE)) {
            let mut rest = bytes;
            for &(count, byte) in &self.runs[self.index[page]..self.index[page + 1]] {
                let (run, after) = rest.split_at_mut(usize::from(count));
                run.fill(byte);
                rest = after;
            }
            self.decompressed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(buffer.len())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }

    fn len(&self) -> Result<u64, Errno> {
        Ok(self.length)
    }
}

fn main() -> uffd_pager::Result<()> {
    let pager = match Pager::new(Mode::Signal) {
        Ok(pager) => &*Box::leak(Box::new(pager)),
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    signal::install(pager)?;

    let original: Vec<u8> = (0..4000 * PAGE).map(|byte| (byte / 700 % 256) as u8).collect();
    let compressed = Arc::new(RunLength::compress(&original));
    println!("{} bytes compressed to {}", original.len(), compressed.size());

    let source = pager.attach(compressed.clone(), Cache::new(compressed.length)?)?;
    let request = MapRequest { protection: Protection::READ, ..MapRequest::shared(original.len()) };
    // SAFETY: no fixed place; nobody else maps this source.
    let address = unsafe { pager.map(&source, &request) }?;
    // SAFETY: mapped just now with this length, and never changed: the source cannot be written.
    let mapped = unsafe {
        std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(address), original.len())
    };

    for offset in [0, 5_000_000, 16_000_000, 9_999_999] {
        assert_eq!(mapped[offset], original[offset]);
        println!(
            "byte {offset:>8} is {:>3}; {} pages decompressed",
            mapped[offset],
            compressed.decompressed.load(Ordering::Relaxed)
        );
    }
    assert_eq!(mapped, original);
    println!("all bytes agree; {} pages decompressed", compressed.decompressed.load(Ordering::Relaxed));
    Ok(())
}
