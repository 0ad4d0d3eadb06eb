//! What an interrupted PC in the entry means.
//!
//! | from | to | a signal there |
//! |---|---|---|
//! | `interpose_entry` | `interpose_committed` | nothing has happened: back to the site |
//! | `interpose_tail_done` | `interpose_tail_pass` | all is restored: forward to `done` |
//! | `interpose_tail_pass` | `interpose_tail_edited` | back to the site |
//! | `interpose_tail_edited` | `interpose_edited_after` | back to the site, with the program's arguments |
//! | `interpose_edited_after` | `interpose_pass_32_bit` | forward to `done`, with the program's arguments |
//! | `interpose_pass_32_bit` | `interpose_after_32_bit` | back to the `int 0x80` |
//! | `interpose_after_32_bit` | `interpose_pass_dispatching` | forward to behind it |
//! | `interpose_pass_dispatching` | `interpose_pass_after` | back to the site |
//! | `interpose_pass_after` | `interpose_tail_clone` | forward to `done` |
//! | `interpose_tail_clone` | `interpose_clone_after` | the clone is given up and made again |
//! | `interpose_clone_after` | `interpose_clone_end` | the child, forward to `done`; the caller is inside |
//! | `interpose_quick` | `interpose_quick_after` | back to the site, with the program's arguments |
//! | `interpose_quick_after` | `interpose_quick_end` | forward to `done` with them, or back if the call is to be offered; or inside |
//!
//! Everywhere else in our text the thread is inside, and the signal is held back.

/// See the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Back to the site; `rcx` of the context is `resume`.
    Back,
    /// Forward to `done`; `rcx` of the context is `resume`.
    Forward,
    /// Back to the site, with the arguments and `resume` that the thread's block holds.
    BackEdited,
    /// Forward to `done`, with the arguments and `resume` that the thread's block holds.
    ForwardEdited,
    /// Back to the site; the block holds `resume`.
    BackPassed,
    /// Forward to `done`; the block holds `resume`.
    ForwardPassed,
    /// Back to the program's `int 0x80`; the stack pointer of the context leads to the way back.
    Back32,
    /// Forward to behind the `int 0x80`, in the same way.
    Forward32,
    /// A clone that was not made yet.
    BeforeClone,
    /// After a clone, in the caller or the child.
    AfterClone,
    /// Back to the site, with the arguments, number and `resume` that the thread's block holds.
    BackQuick,
    /// The entry has made the call: back if it has to be offered, else forward; the block holds all that is needed.
    AfterQuick,
    /// Anywhere else.
    Elsewhere,
}

unsafe extern "C" {
    fn interpose_entry();
    fn interpose_committed();
    fn interpose_tail_done();
    fn interpose_tail_pass();
    fn interpose_tail_again();
    fn interpose_tail_edited();
    fn interpose_edited_after();
    fn interpose_pass_dispatching();
    fn interpose_pass_syscall();
    fn interpose_pass_after();
    fn interpose_pass_32_bit();
    fn interpose_after_32_bit();
    fn interpose_sigreturn();
    fn interpose_tail_clone();
    fn interpose_clone_after();
    fn interpose_clone_back();
    fn interpose_clone_end();
    fn interpose_quick();
    fn interpose_quick_after();
    fn interpose_quick_end();
    fn interpose_entry_end();
}

fn at(label: unsafe extern "C" fn()) -> u64 {
    label as usize as u64
}

/// Where stubs jump to.
pub fn entry() -> u64 {
    at(interpose_entry)
}

/// Where a dispatched 32-bit call is made: all registers are the program's, but for `rsp`, which leads to the way back.
pub fn pass_32_bit() -> u64 {
    at(interpose_pass_32_bit)
}

/// Whether the last instructions of a call begin before `pc`. (What lies behind them passes calls that were made inside, too.)
pub fn is_tail(pc: u64) -> bool {
    (at(interpose_committed)..at(interpose_pass_32_bit)).contains(&pc)
}

/// The instruction that looks for signals held back, in the last instructions of a call before the thread is outside.
pub fn tail_start(pc: u64) -> Option<u64> {
    let tails = [
        (at(interpose_quick), at(interpose_quick_after)),
        (at(interpose_tail_edited), at(interpose_edited_after)),
        (at(interpose_tail_again), at(interpose_tail_edited)),
        (at(interpose_tail_pass), at(interpose_tail_again)),
        (at(interpose_tail_done), at(interpose_tail_pass)),
    ];
    tails.into_iter().find(|(start, end)| (*start..*end).contains(&pc)).map(|(start, _)| start)
}

/// Where a dispatched `rt_sigreturn` is made.
pub fn sigreturn() -> u64 {
    at(interpose_sigreturn)
}

/// Where a clone that is given up is continued, `rax` holding the result.
pub fn clone_back() -> u64 {
    at(interpose_clone_back)
}

/// What a PC means. Reads nothing but its argument.
pub fn place(pc: u64) -> Place {
    if pc < at(interpose_entry) || pc >= at(interpose_entry_end) {
        return Place::Elsewhere;
    }
    // By falling address: the first label at or below the PC says it.
    let labels: [(unsafe extern "C" fn(), Place); 16] = [
        (interpose_quick_end, Place::Elsewhere),
        (interpose_quick_after, Place::AfterQuick),
        (interpose_quick, Place::BackQuick),
        (interpose_clone_end, Place::Elsewhere),
        (interpose_clone_after, Place::AfterClone),
        (interpose_tail_clone, Place::BeforeClone),
        (interpose_pass_after, Place::ForwardPassed),
        (interpose_pass_syscall, Place::BackPassed),
        (interpose_pass_dispatching, Place::Back),
        (interpose_after_32_bit, Place::Forward32),
        (interpose_pass_32_bit, Place::Back32),
        (interpose_edited_after, Place::ForwardEdited),
        (interpose_tail_edited, Place::BackEdited),
        (interpose_tail_pass, Place::Back),
        (interpose_tail_done, Place::Forward),
        (interpose_committed, Place::Elsewhere),
    ];
    labels.iter().find(|(label, _)| pc >= at(*label)).map_or(Place::Back, |(_, place)| *place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_lie_in_the_order_the_table_assumes() {
        let order = [
            interpose_entry,
            interpose_committed,
            interpose_tail_done,
            interpose_tail_pass,
            interpose_tail_again,
            interpose_tail_edited,
            interpose_edited_after,
            interpose_pass_32_bit,
            interpose_after_32_bit,
            interpose_pass_dispatching,
            interpose_pass_syscall,
            interpose_pass_after,
            interpose_tail_clone,
            interpose_clone_after,
            interpose_clone_back,
            interpose_clone_end,
            interpose_quick,
            interpose_quick_after,
            interpose_quick_end,
            interpose_entry_end,
        ];
        assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
    }

    #[test]
    fn a_place_begins_at_its_label() {
        assert_eq!(place(at(interpose_entry) - 1), Place::Elsewhere);
        assert_eq!(place(at(interpose_entry)), Place::Back);
        assert_eq!(place(at(interpose_committed) - 1), Place::Back);
        assert_eq!(place(at(interpose_committed)), Place::Elsewhere);
        assert_eq!(place(at(interpose_tail_done)), Place::Forward);
        assert_eq!(place(at(interpose_edited_after) - 2), Place::BackEdited);
        assert_eq!(place(at(interpose_edited_after)), Place::ForwardEdited);
        assert_eq!(place(at(interpose_clone_end)), Place::Elsewhere);
    }
}
