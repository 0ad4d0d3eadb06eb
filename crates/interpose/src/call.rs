//! One system call of the program, and what became of it.

/// Number of arguments a system call can have on x86-64.
pub const ARGS: usize = 6;

/// A system call the program is making, as its registers held it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// System call number, always below [`crate::NUMBERS`].
    pub nr: u32,
    /// `rdi rsi rdx r10 r8 r9`. May be edited before [`Outcome::PassThrough`]; the program's own
    /// registers keep what they held whatever is written here.
    pub args: [u64; ARGS],
    original: [u64; ARGS],
    stack_pointer: u64,
    site: u64,
    /// An errno or an FD, or [`GUESSED`]; 0 when it was not made.
    tried: i32,
}

/// Stands for the result of a call that was not made since its path is likely to be absent. No errno is so large.
pub(crate) const GUESSED: i32 = -4096;

impl Call {
    /// A call as a test or a benchmark would make it, from no particular place.
    pub fn new(nr: u32, args: [u64; ARGS]) -> Self {
        Self::from_site(nr, args, 0, 0)
    }

    pub(crate) fn from_site(nr: u32, args: [u64; ARGS], site: u64, stack_pointer: u64) -> Self {
        Self { nr, args, original: args, stack_pointer, site, tried: 0 }
    }

    /// Address where the program makes this call (the start of the rewritten instructions, or the
    /// `syscall` instruction itself for a dispatched call); 0 when unknown.
    pub fn site(&self) -> u64 {
        self.site
    }

    /// The program's stack pointer at the call.
    pub fn stack_pointer(&self) -> u64 {
        self.stack_pointer
    }

    /// What came out when the entry made this very call; it was offered as that may not be all. See [`crate::PathFilter`].
    pub fn tried(&self) -> Option<i64> {
        (!matches!(self.tried, 0 | GUESSED)).then_some(i64::from(self.tried))
    }

    /// Whether the entry, finding that the path can only be of interest by way of a symbolic link, did not make the call since it is
    /// likely to find nothing. See [`crate::absence`].
    pub fn guessed_absent(&self) -> bool {
        self.tried == GUESSED
    }

    /// 0: it was not made.
    pub(crate) fn set_tried(&mut self, result: i32) {
        self.tried = result;
    }

    /// The arguments as the program gave them.
    pub fn original_args(&self) -> &[u64; ARGS] {
        &self.original
    }

    /// Whether an argument was changed since the program made the call.
    pub fn is_edited(&self) -> bool {
        self.args != self.original
    }
}

/// What a handler decided about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The call is done: a value, or `-errno` (-4095..=-1), as the kernel would return it in `rax`.
    ///
    /// [`RESTART`] is special: the program's signal handler runs first and then the program makes
    /// the call again.
    Return(i64),
    /// The kernel is to do it. Unedited, it is made by the program's own `syscall` instruction, so
    /// that blocking, cancellation and restarts are those of the kernel. Edited, it is made from our text
    /// with no state of ours held; memory that edited arguments name must stay valid and
    /// unchanged until this thread's next call (a thread's own static buffer, not a local).
    ///
    /// When a signal arrives before the kernel has begun the call, the program's handler runs and
    /// the same call is offered again.
    PassThrough,
}

/// `Return(RESTART)`: a signal interrupted the call before it had an effect and the program asked
/// (`SA_RESTART`) that such calls be made again. [`crate::raw::interruptible`] returns it when the kernel would have
/// restarted the call; a handler hands it on unchanged. (`ERESTARTNOINTR` of the kernel, never
/// seen by programs.)
pub const RESTART: i64 = -513;
