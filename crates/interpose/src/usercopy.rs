//! Access to memory that the program named, which may not be there.

/// The program's pointer is bad: what the kernel reports as EFAULT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Efault;
