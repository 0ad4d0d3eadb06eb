//! Mapped memory as an argument of system calls: it is made ready before the kernel or a plugin touches it.
//!
//! A fault of the kernel's own on memory that the pager serves is EFAULT, and a fault inside a plugin may find the plugin's locks
//! taken. So while anything is mapped, all calls with pointers are offered to us (`Config::alert`), and what their arguments name is
//! read before, by the table's memory column.

use interpose::{Call, usercopy};
use linux_raw_sys::general as sys;
use uffd_pager::{Pager, Prefaulted};

use crate::native;
use crate::process::Process;
use crate::table::{self, Length, MemArg};
use crate::user;

/// Memory made ready. Stays so until it is dropped.
pub type Ready = Vec<Prefaulted<'static>>;

/// `UIO_MAXIOV`; more is EINVAL.
const VECTOR_MAX: u64 = 1024;
/// What is made ready where the table does not know how much the kernel touches, bytes.
const UNKNOWN: u64 = 4096;
/// `struct msghdr`, `struct mmsghdr`, bytes.
const MESSAGE: u64 = 56;
const MESSAGES: u64 = 64;

/// Makes the memory ready that the arguments of `call` name, as far as files are mapped there.
pub fn arguments(process: &'static Process, call: &Call) -> Ready {
    let Some(pager) = process.paging.pager().filter(|pager| pager.is_mapping()) else { return Vec::new() };
    let Some(known) = table::call(call.nr) else { return Vec::new() };
    let mut made = Arguments { pager, ready: Vec::new() };
    // The second vector of such a call between processes names memory of the other one.
    let remote = matches!(call.nr, sys::__NR_process_vm_readv | sys::__NR_process_vm_writev)
        && i64::from(call.args[0] as i32) != native::raw_call(sys::__NR_getpid, [0; 6]);
    for memory in known.memory() {
        if remote && memory.argument() == 3 {
            made.range(call.args[3], call.args[4].min(VECTOR_MAX) * 16, false);
            continue;
        }
        let address = call.args[usize::from(memory.argument())];
        if address != 0 {
            made.argument(&call.args, *memory, address);
        }
    }
    made.ready
}

struct Arguments {
    pager: &'static Pager,
    ready: Ready,
}

impl Arguments {
    fn argument(&mut self, args: &[u64; 6], memory: MemArg, address: u64) {
        let write = !matches!(memory, MemArg::In(..));
        let value = |argument: u8| args[usize::from(argument)];
        let length = match memory.length() {
            Length::Fixed(bytes) => bytes.into(),
            Length::Arg(argument) => value(argument),
            Length::Items(argument, size) => {
                (value(argument) & u64::from(u32::MAX)).saturating_mul(size.into())
            }
            Length::Pointed(argument) => {
                self.range(value(argument), 4, true);
                user::read::<i32>(value(argument)).unwrap_or(0).max(0) as u64
            }
            Length::FdSet(argument) => (value(argument) & u64::from(u32::MAX)).div_ceil(64) * 8,
            Length::Iovec(argument) => return self.vector(address, value(argument), write),
            Length::Message => return self.message(address, write),
            Length::Messages(argument) => {
                let count = value(argument).min(VECTOR_MAX);
                return (0..count).for_each(|index| self.message(address + index * MESSAGES, write));
            }
            Length::Text => return self.text(address),
            Length::Texts => return self.texts(address),
            Length::Depends => UNKNOWN,
        };
        self.range(address, length, write);
    }

    fn vector(&mut self, address: u64, count: u64, write: bool) {
        let count = count.min(VECTOR_MAX);
        self.range(address, count * 16, false);
        for index in 0..count {
            let Ok([base, length]) = user::read::<[u64; 2]>(address + index * 16) else { return };
            self.range(base, length, write);
        }
    }

    fn message(&mut self, address: u64, write: bool) {
        self.range(address, MESSAGES.max(MESSAGE), true);
        let Ok([name, name_length, vector, count, control, control_length]) = user::read::<[u64; 6]>(address)
        else {
            return;
        };
        self.range(name, name_length & u64::from(u32::MAX), write);
        self.vector(vector, count, write);
        self.range(control, control_length, write);
    }

    fn range(&mut self, address: u64, length: u64, write: bool) {
        let Some(end) = address.checked_add(length) else { return };
        let memory = address as usize..end as usize;
        if memory.is_empty() || !self.pager.serves(memory.clone()) {
            return;
        }
        // What cannot be read is EFAULT for the call, as on a kernel file system.
        if let Ok(ready) = self.pager.prefault(memory, write) {
            self.ready.push(ready);
        }
    }

    /// Texts are short and end where they say: reading one tells how long it is.
    fn text(&mut self, address: u64) {
        let mut text = [std::mem::MaybeUninit::uninit(); 4096];
        if let Ok(text) = usercopy::read_cstr(address, &mut text) {
            self.range(address, text.len() as u64 + 1, false);
        }
    }

    fn texts(&mut self, address: u64) {
        let mut at = address;
        while let Ok(text) = user::read::<u64>(at)
            && text != 0
        {
            self.range(at, 8, false);
            self.text(text);
            at += 8;
        }
    }
}
