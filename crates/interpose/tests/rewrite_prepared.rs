//! Files that are mapped over a text: what is in them, and when they are refused.

use std::arch::global_asm;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use interpose::rewrite::{FunctionTable, Origin, Patched, Phase, Plan, PreparedText, prepare, scan};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

const PAGE: usize = 4096;
/// The text is the second of three pages.
const TEXT: u64 = PAGE as u64;
const KEY: &[u8] = b"a key";
/// Where in the text the code is: `mov $39,%eax; syscall; ret`.
const CODE: usize = 16;
const GETPID: [u8; 8] = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3];

global_asm!(
    ".globl rewrite_prepared_entry",
    "rewrite_prepared_entry:",
    "mov eax, 424242",
    "jmp qword ptr [rcx - 8]",
);

unsafe extern "C" {
    fn rewrite_prepared_entry();
}

/// An object's file, mapped.
struct Object {
    content: Vec<u8>,
    origin: Origin,
    plan: Plan,
    text: std::ops::Range<u64>,
}

impl Object {
    fn new() -> Self {
        let mut content = vec![0x90; 3 * PAGE - 100];
        content[PAGE + CODE..][..GETPID.len()].copy_from_slice(&GETPID);
        let file = kept(&content);
        let origin = Origin::of(&rustix::fs::fstat(&file).unwrap());
        let plan = scan(&content[PAGE..2 * PAGE], &FunctionTable::default(), &|_| true);
        assert_eq!(plan.sites.len(), 1);
        let protection = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: new memory.
        let text =
            unsafe { mmap(std::ptr::null_mut(), PAGE, protection, MapFlags::PRIVATE, file.as_fd(), TEXT) };
        let text = text.unwrap() as u64;
        Self { content, origin, plan, text: text..text + PAGE as u64 }
    }

    fn prepared(&self) -> Vec<u8> {
        let mut content = self.content.clone();
        let rest = self.prepare(&mut content, &self.plan).unwrap();
        [content, rest].concat()
    }

    fn prepare(&self, content: &mut [u8], plan: &Plan) -> Option<Vec<u8>> {
        prepare(content, &self.origin, &(TEXT..TEXT + PAGE as u64), plan, KEY)
    }

    fn put(&self, prepared: &[u8], origin: Origin, offset: u64, key: &[u8]) -> Option<Patched> {
        let text = PreparedText::new(OwnedFd::from(kept(prepared)), prepared.len() as u64, origin)?;
        let entry = rewrite_prepared_entry as *const () as u64;
        // SAFETY: this test's own mapping, which nobody else knows; the entry keeps the contract.
        unsafe { text.put_over(&self.text, offset, key, entry) }
    }

    /// What the code answers.
    fn call(&self) -> u32 {
        // SAFETY: a function without arguments is there.
        unsafe {
            let code = std::mem::transmute::<u64, extern "C" fn() -> u32>(self.text.start + CODE as u64);
            code()
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { munmap(self.text.start as *mut _, PAGE).unwrap() };
    }
}

/// Takes away what would be in the way of another test, whose text may come to the same place as soon as the object is gone.
fn without_stubs(put: &Patched) {
    let stubs = put.stubs();
    // SAFETY: this test's own; its text, which leads there, is not run any more.
    unsafe { munmap(stubs.start as *mut _, (stubs.end - stubs.start) as usize).unwrap() };
}

fn kept(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn the_call_comes_to_the_entry() {
    let object = Object::new();
    assert_eq!(object.call(), std::process::id());
    let prepared = object.prepared();
    assert_eq!(prepared[..PAGE], object.content[..PAGE], "what is no text stays");
    assert_eq!(prepared[2 * PAGE..object.content.len()], object.content[2 * PAGE..]);
    let put = object.put(&prepared, object.origin, TEXT, KEY).unwrap();
    assert_eq!(object.call(), 424_242);
    assert_eq!(
        (put.text(), put.sites().collect::<Vec<_>>()),
        (object.text.clone(), object.plan.sites.clone())
    );
    let found: Vec<_> = put.stubs().filter_map(|pc| put.find_stub(pc)).collect();
    let start = object.text.start + CODE as u64;
    assert!(!found.is_empty());
    for stub in found {
        assert_eq!((stub.site, stub.done, stub.number), (start, start + 7, Some(39)));
        assert!(matches!(stub.phase, Phase::Before | Phase::Resumed));
    }
    without_stubs(&put);
}

#[test]
fn what_was_prepared_for_something_else_is_refused() {
    let object = Object::new();
    let prepared = object.prepared();
    let other = Origin::of(&rustix::fs::fstat(kept(&object.content)).unwrap());
    assert_ne!(other, object.origin);
    let section = 3 * PAGE;
    let damaged = |at: usize| {
        let mut copy = prepared.clone();
        copy[at] ^= 0x40;
        copy
    };
    assert!(object.put(&prepared, other, TEXT, KEY).is_none(), "another file");
    assert!(object.put(&prepared, object.origin, 0, KEY).is_none(), "another part of it");
    assert!(object.put(&prepared, object.origin, TEXT, b"other").is_none(), "another key");
    assert!(object.put(&prepared, object.origin, TEXT, b"a keys").is_none(), "a longer key");
    for length in [0, section - 1, section, section + 64, section + 120, prepared.len() - 64] {
        assert!(object.put(&prepared[..length], object.origin, TEXT, KEY).is_none(), "cut at {length}");
    }
    // Everything in the header but the place of the entry's address.
    for at in (8..8 * 14).step_by(4) {
        assert!(object.put(&damaged(section + at), object.origin, TEXT, KEY).is_none(), "header at {at}");
    }
    assert_eq!(object.call(), std::process::id(), "nothing was changed");
    let put = object.put(&prepared, object.origin, TEXT, KEY).expect("nothing is in the way");
    without_stubs(&put);
}

#[test]
fn stubs_need_their_place() {
    let object = Object::new();
    let place = (object.text.start - (1 << 30)) as *mut _;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: takes nothing away from anybody.
    unsafe { mmap_anonymous(place, PAGE, ProtFlags::READ, flags).unwrap() };
    assert!(object.put(&object.prepared(), object.origin, TEXT, KEY).is_none());
    assert_eq!(object.call(), std::process::id());
    // SAFETY: ours.
    unsafe { munmap(place, PAGE).unwrap() };
}

#[test]
fn code_that_is_not_as_planned_is_not_prepared() {
    let object = Object::new();
    let mut content = object.content.clone();
    content[PAGE + CODE + 1] = 40;
    assert!(object.prepare(&mut content, &object.plan).is_none(), "another number");
    content[PAGE + CODE + 1] = 39;
    assert!(object.prepare(&mut content[1..], &object.plan).is_none(), "a shorter file");
    assert!(object.prepare(&mut content, &Plan::default()).is_none(), "no sites");
    assert!(object.prepare(&mut content, &object.plan).is_some());
}
