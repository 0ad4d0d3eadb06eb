//! Whether the kernel has found fault with itself since one last asked: by its log, and by the marks that it sets on itself.

use std::fs;
use std::io;

use super::kmsg::Kmsg;

/// One letter for each mark (Documentation/admin-guide/tainted-kernels.rst), from bit 0 on.
const MARKS: &[u8] = b"PFSRMBUDAWCIOELKXTN";
/// No faults: a module from outside the tree, without a signature, which is ours; and what distributions mark for reasons of their own (Debian, that somebody listens by fanotify
/// for permissions).
const EXPECTED: u64 = 1 << 12 | 1 << 13 | 1 << 16;

/// From when it was made on.
pub struct Watch {
    log: Kmsg,
    taint: u64,
}

impl Watch {
    /// From now on.
    pub fn from_now() -> io::Result<Watch> {
        Ok(Watch { log: Kmsg::from_now()?, taint: taint()? })
    }

    /// What the kernel complained of since the last call.
    pub fn complaints(&mut self) -> Option<String> {
        let log = self.log.alarms().map(|log| format!("the kernel complained:\n{log}"));
        // A mark stays, so that a second fault of its kind is told by the log alone.
        let taint = taint().expect("read the kernel's marks");
        let new = taint & !self.taint & !EXPECTED;
        self.taint = taint;
        let marks = (new != 0).then(|| format!("the kernel has marked itself as tainted: {}", letters(new)));
        let all: Vec<_> = log.into_iter().chain(marks).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

fn taint() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/kernel/tainted")?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn letters(marks: u64) -> String {
    let letter = |bit: usize| MARKS.get(bit).map_or('?', |letter| char::from(*letter));
    (0..64).filter(|bit| marks >> bit & 1 == 1).map(letter).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn marks_have_the_letters_of_the_kernels_log() {
        assert_eq!(super::letters(1 << 5 | 1 << 9 | 1 << 40), "BW?");
        assert_eq!(super::letters(super::EXPECTED), "OEX");
    }
}
