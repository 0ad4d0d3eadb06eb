//! Calls of the guest about what in this process is not the guest's: thread pointer, program break, what happens as a thread ends.

use super::{is_made_thread, program_break, tid};
use crate::entry::tls::Tls;
use crate::usercopy;

const EPERM: i64 = -1;
const EFAULT: i64 = -14;
const SYS_BRK: u32 = 12;
const SYS_ARCH_PRCTL: u32 = 158;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
/// What user addresses are below.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// The guest's call; `None` when it is the kernel's business after all.
pub fn serve(tls: &mut Tls, nr: u32, args: [u64; 6]) -> Option<i64> {
    let tell = |value: u64| if usercopy::write(args[1], &value).is_err() { EFAULT } else { 0 };
    Some(match (nr, args[0] & 0xffff_ffff) {
        (SYS_BRK, _) => program_break::change(args[0]) as i64,
        (SYS_ARCH_PRCTL, ARCH_SET_FS) if args[1] < TASK_SIZE => {
            tls.guest_pointer = args[1];
            0
        }
        // GS is ours: it says where our own thread pointer is.
        (SYS_ARCH_PRCTL, ARCH_SET_FS | ARCH_SET_GS) => EPERM,
        (SYS_ARCH_PRCTL, ARCH_GET_FS) => tell(tls.guest_pointer),
        (SYS_ARCH_PRCTL, ARCH_GET_GS) => tell(0),
        (SYS_ARCH_PRCTL, _) => return None,
        // set_tid_address.
        _ if is_made_thread(tls) => {
            tls.clear_tid = args[0];
            tid()
        }
        _ => return None,
    })
}
