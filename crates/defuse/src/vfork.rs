//! Children of vfork(2). They run on our memory until they end or have their own, but working directory, umask, limits and FD table are theirs: what is
//! known of these is kept apart for them.

use std::any::Any;
use std::os::fd::RawFd;

use plugin_abi::Instance;
use rustix::io::Errno;
use stash::SlotId;

use crate::process::Cwd;
use crate::sync::{Guard, Lock};
use crate::thread;

/// Those that are now, each by the thread of ours that waits for it; a child's own child follows it.
static CHILDREN: Lock<Vec<Child>> = Lock::new(Vec::new());

/// A plugin that was started, or why not.
pub type Started = Result<Instance, Errno>;

struct Child {
    thread: u32,
    /// How many plugins had been started when it got an FD table of its own, if it has one.
    own_table: Option<u64>,
    cwd: Option<Cwd>,
    /// Its umask, unless it has that in common with its parent.
    umask: Option<u32>,
    /// `RLIMIT_NOFILE` as it is shown.
    limits: (u64, u64),
    /// Kept until the child has its own memory.
    exec: Option<Box<dyn Any + Send>>,
    /// Plugins started by the child, with the number of their mount: their descriptors are in its table only. They stay in
    /// memory when it is gone, as a plugin's end would close numbers that are not its own.
    started: Vec<(usize, &'static Started)>,
    /// What its exec may leave open although the parent's table says otherwise.
    handed_on: HandedOn,
    /// Files that its parent has closed since, each with the descriptors of its handle. The child has these, too.
    left_open: Vec<LeftOpen>,
}

/// A file that a vfork child may have open when its parent does not.
#[derive(Clone)]
pub struct LeftOpen {
    /// Whose shadow it is.
    pub slot: SlotId,
    /// What its handle consisted of, in the order in which the plugin named them.
    pub fds: Vec<RawFd>,
    /// What carries its locks, if the session keeps these.
    pub companion: Option<RawFd>,
}

/// Files of a vfork child whose every FD of the parent has the flag close-on-exec.
#[derive(Default)]
struct HandedOn {
    /// Any may be handed on.
    all: bool,
    slots: Vec<SlotId>,
}

/// What an ended child leaves to its parent.
#[derive(Default)]
pub struct Left {
    /// Its working directory, if it changed that.
    pub cwd: Option<Cwd>,
    /// Mounts whose plugin it needed and had to start for itself.
    pub mounts: Vec<usize>,
}

/// The plugin of a mount, as a vfork child has it.
pub enum Plugin {
    /// Its parent's, whose descriptors it has as well.
    Parents,
    /// One that was started for it alone, if there is one yet.
    Own(Option<&'static Started>),
}

/// What a vfork child begins with.
pub struct Beginning {
    /// How many plugins have been started so far, if it has an FD table of its own.
    pub own_table: Option<u64>,
    /// Its umask, unless it has that in common with its parent.
    pub umask: Option<u32>,
    /// `RLIMIT_NOFILE` as it is shown: soft and hard.
    pub limits: (u64, u64),
}

/// This thread is about to make a vfork child. The caller holds `Process::descriptors`: whoever closes an FD, or has
/// exec close it, does so in the table, here and in the kernel while it has that, so a child is told or has its FDs as they are then.
pub fn begin(Beginning { own_table, umask, limits }: Beginning) {
    CHILDREN.lock().push(Child {
        thread: thread::id(),
        own_table,
        cwd: None,
        umask,
        limits,
        exec: None,
        started: Vec::new(),
        handed_on: HandedOn::default(),
        left_open: Vec::new(),
    });
}

/// The vfork child of this thread has ended or has its own memory, or there was none.
pub fn end() -> Left {
    let mut children = CHILDREN.lock();
    let Some(position) = children.iter().rposition(mine) else { return Left::default() };
    let child = children.remove(position);
    drop(children);
    Left { cwd: child.cwd, mounts: child.started.iter().map(|(mount, _)| *mount).collect() }
}

/// This process closes an FD, or sets its flag close-on-exec: of the file in `slot`, or of any. Children that are now have theirs as it was. The
/// caller holds `Process::descriptors`.
pub fn closes_on_exec(slot: Option<SlotId>) {
    for child in &mut *CHILDREN.lock() {
        child.handed_on.all |= slot.is_none();
        child.handed_on.slots.extend(slot);
    }
}

/// Whether there are children that keep what this process closes.
pub fn any_has_own_table() -> bool {
    CHILDREN.lock().iter().any(|child| child.own_table.is_some())
}

/// This process closes its last FD of a file. The caller holds `Process::descriptors`.
pub fn leave_open(left: &LeftOpen) {
    for child in CHILDREN.lock().iter_mut().filter(|child| child.own_table.is_some()) {
        child.left_open.push(left.clone());
    }
}

/// Before a fork, and [`after_fork`] on both sides.
pub fn before_fork() {
    CHILDREN.acquire();
}

/// See [`before_fork`].
pub fn after_fork() {
    CHILDREN.release();
}

/// In a forked child, after the lock was released; its only thread was `parents_thread` before. If its parent is a vfork child, it has what
/// that had of its own.
pub fn in_forked_child(parents_thread: u32) {
    let mut children = CHILDREN.lock();
    children.retain(|child| child.thread == parents_thread);
    children.iter_mut().for_each(|child| child.thread = thread::id());
}

/// In a vfork child: what is known of it, and of those of other threads.
pub fn children() -> Children {
    Children(CHILDREN.lock())
}

/// See [`children`].
pub struct Children(Guard<'static, Vec<Child>>);

impl Children {
    /// The working directory of the child that this is, if it has changed that.
    pub fn cwd(&self) -> Option<&Cwd> {
        self.0.iter().rev().filter(|child| mine(child)).find_map(|child| child.cwd.as_ref())
    }

    /// Sets it.
    pub fn set_cwd(&mut self, cwd: Cwd) {
        if let Some(child) = self.innermost() {
            child.cwd = Some(cwd);
        }
    }

    /// The umask of the child that this is, if it has one of its own.
    pub fn umask(&self) -> Option<u32> {
        self.0.iter().rev().filter(|child| mine(child)).find_map(|child| child.umask)
    }

    /// Sets it; false if there is none.
    pub fn set_umask(&mut self, umask: u32) -> bool {
        let own = self.0.iter_mut().rev().filter(|child| mine(child)).find_map(|child| child.umask.as_mut());
        own.map(|own| *own = umask).is_some()
    }

    /// `RLIMIT_NOFILE` of the child that this is, as it is shown.
    pub fn limits(&self) -> Option<(u64, u64)> {
        self.0.iter().rev().find(|child| mine(child)).map(|child| child.limits)
    }

    /// Sets it.
    pub fn set_limits(&mut self, limits: (u64, u64)) {
        if let Some(child) = self.innermost() {
            child.limits = limits;
        }
    }

    /// Keeps `garbage` until the child has ended or has its own memory.
    pub fn leave_to_parent(&mut self, garbage: Box<dyn Any + Send>) {
        if let Some(child) = self.innermost() {
            child.exec = Some(garbage);
        }
    }

    /// Whose plugin serves mount number `mount`, if the parent's was the `turn`th that was started, from 1 on; 0 if it was not.
    pub fn plugin(&self, mount: usize, turn: u64) -> Plugin {
        let Some(since) = self.0.iter().filter(|child| mine(child)).find_map(|child| child.own_table) else {
            return Plugin::Parents;
        };
        if (1..=since).contains(&turn) {
            return Plugin::Parents;
        }
        let mut started = self.0.iter().filter(|child| mine(child)).flat_map(|child| &child.started);
        Plugin::Own(started.find(|(number, _)| *number == mount).map(|(_, started)| *started))
    }

    /// The child has started the plugin of mount number `mount`.
    pub fn keep(&mut self, mount: usize, started: &'static Started) {
        if let Some(child) = self.innermost() {
            child.started.push((mount, started));
        }
    }

    /// The child has one more FD of the file in `slot`, or one without the flag close-on-exec.
    pub fn hand_on(&mut self, slot: SlotId) {
        if let Some(child) = self.innermost() {
            child.handed_on.slots.push(slot);
        }
    }

    /// Whether exec may leave an FD of the file in `slot` open, if it closes all that the parent has. Of an FD that has the flag already: it is
    /// told of here before the table says so.
    pub fn hands_on(&self, slot: SlotId) -> bool {
        let mut own = self.0.iter().filter(|child| mine(child)).map(|child| &child.handed_on);
        own.any(|handed_on| handed_on.all || handed_on.slots.contains(&slot))
    }

    /// What the parent has closed since the child is there.
    pub fn left_open(&self) -> impl Iterator<Item = &LeftOpen> {
        self.0.iter().filter(|child| mine(child)).flat_map(|child| &child.left_open)
    }

    fn innermost(&mut self) -> Option<&mut Child> {
        self.0.iter_mut().rev().find(|child| mine(child))
    }
}

fn mine(child: &Child) -> bool {
    child.thread == thread::id()
}
