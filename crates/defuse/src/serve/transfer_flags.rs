//! The flags of preadv2(2) and pwritev2(2).

use linux_raw_sys::general as sys;
use rustix::io::Errno;

use crate::namei::{self, OpenHow};
use crate::native;

/// `RWF_NOAPPEND`, since Linux 6.9.
pub const NOAPPEND: u32 = 0x20;
/// `RWF_NOWAIT` is not among them: plugins know nothing of waiting.
const SERVED: u32 = sys::RWF_HIPRI | sys::RWF_DSYNC | sys::RWF_SYNC | sys::RWF_APPEND | NOAPPEND;

/// `EOPNOTSUPP` for flags that are not served, or that this kernel does not know; `EINVAL` for two that contradict each other.
pub fn check(flags: u32) -> Result<(), Errno> {
    if flags & !SERVED != 0 || flags & NOAPPEND != 0 && !kernel_knows(NOAPPEND) {
        return Err(Errno::OPNOTSUPP);
    }
    if flags & (NOAPPEND | sys::RWF_APPEND) == NOAPPEND | sys::RWF_APPEND {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// Writes a byte to /dev/null with these flags.
fn kernel_knows(flags: u32) -> bool {
    let how = OpenHow { flags: u64::from(sys::O_WRONLY | sys::O_CLOEXEC), mode: 0, resolve: 0 };
    let Ok(null) = namei::look_how(sys::AT_FDCWD, b"/dev/null", &how) else { return true };
    let byte = [0_u8];
    let vector = [byte.as_ptr() as u64, 1];
    let args = [null as u64, vector.as_ptr() as u64, 1, 0, 0, flags.into()];
    let result = native::checked(sys::__NR_pwritev2, args);
    native::close(null);
    result != Err(Errno::OPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_about_single_flags() {
        assert!(kernel_knows(sys::RWF_APPEND));
        assert!(!kernel_knows(1 << 30));
    }
}
