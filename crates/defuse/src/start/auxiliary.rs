//! The auxiliary vector (getauxval(3)), read before libc can be asked.

unsafe extern "C" {
    /// The beginning of the object that this code is linked into.
    static __ehdr_start: u8;
}

/// Where the object begins that this code is linked into.
pub fn own_start() -> *const u8 {
    &raw const __ehdr_start
}

/// What the kernel says about this image.
pub struct Auxiliary {
    /// The program has privileges that whoever started it has not.
    pub secure: bool,
    program_headers: u64,
}

impl Auxiliary {
    /// # Safety
    /// `envp` is the array that the kernel laid out, or a copy that ends like it.
    pub unsafe fn behind(envp: *mut *mut u8) -> Self {
        let mut at = envp;
        // SAFETY: the array ends with a null, and pairs of words follow, the last of type AT_NULL.
        unsafe {
            while !(*at).is_null() {
                at = at.add(1);
            }
            let mut entry = at.add(1).cast::<[u64; 2]>();
            let mut found = Self { secure: false, program_headers: 0 };
            loop {
                match *entry {
                    [0, _] => return found,
                    [23, value] => found.secure = value != 0,
                    [3, value] => found.program_headers = value,
                    _ => {}
                }
                entry = entry.add(1);
            }
        }
    }

    /// Whether this code is part of the program itself (the command, a test), not of the library.
    pub fn program_is_here(&self) -> bool {
        let start = own_start() as u64;
        (start..start + 4096).contains(&self.program_headers)
    }
}
