//! Process records: who shares the arena, and who of them is still alive.

use core::fmt;
use core::sync::atomic::Ordering;

use rustix::time::ClockId;

use crate::layout::RawProcess;
use crate::{Arena, StashError, bitmap, process_status};

/// A process record's number, valid until it is unregistered (index and generation in 32 bits).
///
/// It names one *registration*: a forked child and a vfork child register anew. So does the new image after an
/// exec, which inherits no lock and so must not be taken for the holder of one; or it goes on with the registration as another [`Image`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(u32);

impl ProcessId {
    fn new(index: usize, generation: u32) -> Self {
        Self((index as u32) << 16 | generation)
    }

    /// The identifier as a number, for storing it elsewhere.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The reverse of [`ProcessId::to_bits`]; any number is safe to pass.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    fn index(self) -> usize {
        (self.0 >> 16) as usize
    }

    fn generation(self) -> u32 {
        self.0 & 0xffff
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}.{}", self.index(), self.generation())
    }
}

/// Which of the programs that a process executes one after the other, under one registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Image(u32);

impl Image {
    /// As many bits of the number are kept in the word of a lock.
    pub(crate) const BITS: u32 = 9;

    pub(crate) fn new(number: u64) -> Self {
        Self(number as u32 & ((1 << Self::BITS) - 1))
    }

    /// The image as a number, for storing it elsewhere.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The reverse of [`Image::to_bits`].
    pub fn from_bits(bits: u32) -> Self {
        Self::new(bits.into())
    }
}

/// What a record says of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// The record's identifier.
    pub id: ProcessId,
    /// The process's pid, in its own pid namespace.
    pub pid: u32,
    /// `CLOCK_BOOTTIME` at registration, in nanoseconds.
    pub registered_at: u64,
    /// Inode number of the process's pid namespace; 0 if it could not be told.
    pub pid_namespace: u64,
}

const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const LIVE: u64 = 2;

/// A record's control word: state in bits 0-1, generation in 2-17, pid in 32-63. In state `CLAIMED` the pid is that
/// of whoever prepares or clears the record, so that a claim outlives nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Control(u64);

impl Control {
    fn new(state: u64, generation: u32, pid: u32) -> Self {
        Self(state | (generation as u64) << 2 | (pid as u64) << 32)
    }

    fn state(self) -> u64 {
        self.0 & 3
    }

    fn generation(self) -> u32 {
        (self.0 >> 2 & 0xffff) as u32
    }

    fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn replace(self, raw: &RawProcess, new: Self) -> bool {
        raw.control.compare_exchange(self.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn of(raw: &RawProcess) -> Self {
        Self(raw.control.load(Ordering::Acquire))
    }
}

impl Arena {
    /// Registers the calling process. Most of what it takes is a look at `/proc/self/ns/pid`, for which the kernel makes three entries
    /// of `/proc` that this process alone has: 30 to 50 us.
    pub fn register_process(&self) -> Result<ProcessId, StashError> {
        self.register_in(process_status::own_pid_namespace())
    }

    /// The same for a child of the process `parent`, without that look. Who made a process sees it in its own pid namespace, and the child
    /// is told the pid of its parent only if that is in the same one. Where `parent` is not who the kernel says it is, or gone, this looks
    /// as [`Arena::register_process`] does.
    pub fn register_child(&self, parent: ProcessId) -> Result<ProcessId, StashError> {
        let real = rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid() as u32);
        let parent = self.process(parent).ok().filter(|parent| parent.pid == real);
        let namespace = parent.map_or(0, |parent| parent.pid_namespace);
        self.register_in(if namespace == 0 { process_status::own_pid_namespace() } else { namespace })
    }

    fn register_in(&self, namespace: u64) -> Result<ProcessId, StashError> {
        // Who looks at one record after the other may have passed this one before it is taken, and come to the maker's after that has ended.
        self.begin_birth();
        let registered = self.claim_record(namespace);
        self.end_birth();
        registered
    }

    fn claim_record(&self, namespace: u64) -> Result<ProcessId, StashError> {
        let pid = own_pid();
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let records = self.map.processes();
        let mut generation = 0;
        let index = bitmap::claim(self.map.process_bits(), &self.process_cursor, |index| {
            self.cover_process(index)?;
            let raw = &records[index];
            let old = Control::of(raw);
            generation = match old.generation() {
                0xffff => 1,
                before => before + 1,
            };
            let claimed = Control::new(CLAIMED, generation, pid);
            if old.state() != FREE || !old.replace(raw, claimed) {
                return Ok(false);
            }
            raw.registered_at.store(now, Ordering::Relaxed);
            raw.pid_namespace.store(namespace, Ordering::Relaxed);
            raw.exec_map.store(0, Ordering::Relaxed);
            raw.image.store(0, Ordering::Relaxed);
            Ok(claimed.replace(raw, Control::new(LIVE, generation, pid)))
        })?
        .ok_or(StashError::Full("process records"))?;
        Ok(ProcessId::new(index, generation))
    }

    /// To be called by the image that goes on with the registration of the one before it, before it takes a lock ([`Holder::of_image`](crate::Holder::of_image)):
    /// what the threads held that exec has ended is a dead holder's from now on, also what the main thread held, whose number
    /// is in use again.
    pub fn begin_image(&self, me: ProcessId) -> Result<Image, StashError> {
        let (raw, control) = self.live_record(me)?;
        if control.pid() != own_pid() {
            return Err(StashError::NoSuchProcess(me));
        }
        Ok(Image::new(raw.image.fetch_add(1, Ordering::AcqRel) + 1))
    }

    pub(crate) fn image_of(&self, id: ProcessId) -> Option<Image> {
        self.live_record(id).ok().map(|(raw, _)| Image::new(raw.image.load(Ordering::Acquire)))
    }

    /// Gives a record of the calling process back: its own, or that of the image it was before an exec. What it owns
    /// exclusively (private slots) is then swept like a dead process's.
    pub fn unregister_process(&self, id: ProcessId) -> Result<(), StashError> {
        let (raw, control) = self.live_record(id)?;
        if control.pid() != own_pid() {
            return Err(StashError::NoSuchProcess(id));
        }
        self.retire(id, raw, control).then_some(()).ok_or(StashError::NoSuchProcess(id))
    }

    /// Whether the registered process still runs. Uses kill(2) and `/proc`: microseconds. A process of another pid
    /// namespace counts as alive; so does one whose state cannot be told. A zombie is dead.
    pub fn process_is_alive(&self, id: ProcessId) -> bool {
        self.process(id).is_ok_and(|process| process_status::is_alive(&process))
    }

    /// The record behind an identifier.
    pub fn process(&self, id: ProcessId) -> Result<Process, StashError> {
        let (raw, control) = self.live_record(id)?;
        let process = Process {
            id,
            pid: control.pid(),
            registered_at: raw.registered_at.load(Ordering::Relaxed),
            pid_namespace: raw.pid_namespace.load(Ordering::Acquire),
        };
        if Control::of(raw) != control {
            return Err(StashError::NoSuchProcess(id));
        }
        Ok(process)
    }

    /// All records in use, of dead processes too.
    pub fn live_processes(&self) -> impl Iterator<Item = Process> + '_ {
        let records = &self.map.processes()[..self.processes_top()];
        records.iter().enumerate().filter_map(|(index, raw)| {
            let control = Control::of(raw);
            let id = ProcessId::new(index, control.generation());
            if control.state() == LIVE { self.process(id).ok() } else { None }
        })
    }

    fn live_record(&self, id: ProcessId) -> Result<(&RawProcess, Control), StashError> {
        let records = &self.map.processes()[..self.processes_top()];
        let raw = records.get(id.index()).ok_or(StashError::NoSuchProcess(id))?;
        let control = Control::of(raw);
        if control.state() != LIVE || control.generation() != id.generation() {
            return Err(StashError::NoSuchProcess(id));
        }
        Ok((raw, control))
    }

    pub(crate) fn record(&self, id: ProcessId) -> Result<&RawProcess, StashError> {
        Ok(self.live_record(id)?.0)
    }

    /// Frees the record of a process that is dead, or of the caller; false if somebody else was faster.
    fn retire(&self, id: ProcessId, raw: &RawProcess, control: Control) -> bool {
        let claimed = Control::new(CLAIMED, id.generation(), own_pid());
        control.replace(raw, claimed) && self.finish_retiring(id, raw, claimed)
    }

    fn finish_retiring(&self, id: ProcessId, raw: &RawProcess, claimed: Control) -> bool {
        self.drop_exec_map_of(id, raw);
        let freed = claimed.replace(raw, Control::new(FREE, id.generation(), 0));
        if freed {
            bitmap::clear(self.map.process_bits(), id.index());
        }
        freed
    }

    /// Frees the record at `index` if its process is dead. Returns whether it did.
    pub(crate) fn sweep_process(&self, index: usize) -> bool {
        let raw = &self.map.processes()[index];
        let control = Control::of(raw);
        let id = ProcessId::new(index, control.generation());
        match control.state() {
            FREE => {
                bitmap::heal(self.map.process_bits(), index);
                false
            }
            LIVE => {
                let dead = self.process(id).is_ok_and(|process| !process_status::is_alive(&process));
                dead && self.retire(id, raw, control)
            }
            // Killed between claiming and publishing, or between claiming and freeing. The pid's namespace is not
            // known: should the claimer live in another one, its next step fails and it takes another record.
            _ => !process_status::pid_exists(control.pid()) && self.retire(id, raw, control),
        }
    }
}

fn own_pid() -> u32 {
    rustix::process::getpid().as_raw_pid() as u32
}
