//! What is decided for which code, how plans are kept, and what makes rewriting refuse.

use interpose::rewrite::{
    AddressMap, Error, FunctionTable, NearMemory, Pattern, Plan, Reason, Rewind, Skip, Threads, apply, scan,
};
use proptest::prelude::*;
use rstest::rstest;

fn plan(code: &[u8]) -> Plan {
    scan(code, &FunctionTable::default(), &|_| true)
}

#[rstest]
#[case::mov("b8 01 00 00 00 0f 05 c3", Pattern::Single, Rewind::Plain, Some(1))]
#[case::wide_mov("48 c7 c0 03 00 00 00 0f 05 c3", Pattern::Single, Rewind::Plain, Some(3))]
#[case::argument_last("b8 27 00 00 00 bf 01 00 00 00 0f 05 c3", Pattern::Single, Rewind::Plain, Some(39))]
#[case::from_register("41 b8 ca 00 00 00 44 89 c0 0f 05 c3", Pattern::Run, Rewind::Plain, Some(202))]
#[case::read_with_padding("31 c0 0f 05 c3 90 90 90 90 90 31 c0 c3", Pattern::Hole, Rewind::Plain, Some(0))]
#[case::read_with_compare("31 c0 0f 05 48 3d 00 f0 ff ff c3", Pattern::Overwrite, Rewind::Plain, Some(0))]
#[case::cancellable("4c 89 5c 24 08 0f 05 c3", Pattern::Single, Rewind::ReloadR11, None)]
#[case::from_stack("48 8b 44 24 10 0f 05 c3", Pattern::Single, Rewind::Plain, None)]
#[case::not_repeatable("81 e6 7f 00 00 00 0f 05 c3", Pattern::Single, Rewind::Never, None)]
#[case::reads_rcx("b8 27 00 00 00 49 89 ca 89 cb 0f 05 c3", Pattern::Run, Rewind::Never, Some(39))]
// cmpb $0,(%rip); je far; xor %eax,%eax; syscall: read of glibc 2.36 without its padding
#[case::after_branch(
    "80 3d 00 01 00 00 00 74 7f 31 c0 0f 05 c3",
    Pattern::RunWithBranch,
    Rewind::Plain,
    Some(0)
)]
// The loop comes back to the first byte: it meets the jump.
#[case::loop_to_start("b8 27 00 00 00 0f 05 eb f7", Pattern::Single, Rewind::Plain, Some(39))]
// In a loop that comes back to the syscall itself: only overwriting it catches both.
#[case::loop_to_syscall("b8 27 00 00 00 0f 05 48 85 c0 75 f9 c3", Pattern::Overwrite, Rewind::Plain, None)]
fn chooses(
    #[case] code: &str,
    #[case] pattern: Pattern,
    #[case] rewind: Rewind,
    #[case] number: Option<u32>,
) {
    let plan = plan(&bytes(code));
    assert_eq!(plan.unpatchable, []);
    let site = plan.sites[0];
    assert_eq!((site.pattern, site.rewind, site.number), (pattern, rewind, number), "{site:x?}");
}

#[rstest]
#[case::restorer("48 c7 c0 0f 00 00 00 0f 05", Reason::Restorer)]
#[case::restorer_by_number("b8 0f 00 00 00 0f 05 f4", Reason::Restorer)]
#[case::immediate("48 b8 0f 05 0f 05 0f 05 90 90 c3", Reason::NotAnInstruction)]
// A branch into the middle of a run, and no room behind.
#[case::branch_between("74 03 44 89 f0 31 d2 0f 05 c3", Reason::BranchInto)]
#[case::branch_to_syscall("74 05 b8 27 00 00 00 0f 05 c3", Reason::BranchInto)]
#[case::call_around("e8 00 00 00 00 0f 05 c3", Reason::NotMovable)]
#[case::locked("f0 48 ff 07 0f 05 c3", Reason::NotMovable)]
#[case::garbage("b8 27 00 00 00 0f 05 c3 06 06", Reason::UnknownFunction)]
fn leaves_alone(#[case] code: &str, #[case] reason: Reason) {
    let plan = plan(&bytes(code));
    assert_eq!(plan.sites, []);
    assert!(plan.unpatchable.iter().all(|left| left.reason == reason), "{plan:?}");
    assert!(!plan.unpatchable.is_empty());
}

#[rstest]
#[case::instruction("b8 27 00 00 00 cd 80 c3", 1)]
#[case::immediate("b8 00 cd 80 00 0f 1f 00 c3", 0)]
fn the_32_bit_entry_is_found(#[case] code: &str, #[case] expected: usize) {
    let mut code = bytes(code);
    code.resize(0x40, 0x90);
    let header = functions(&[0]);
    let table = FunctionTable::parse(&header, 0x1000, 0x1000, 0x2000);
    let plan = scan(&code, &table.expect("a table"), &|_| true);
    assert_eq!(plan.left(Reason::ThirtyTwoBit), expected, "{plan:?}");
    assert_eq!(plan.missed().count(), 0);
}

/// Bytes that look like `mov $39,%eax; syscall` at the end of something else.
#[test]
fn an_immediate_is_not_taken_for_a_number() {
    let plan = plan(&bytes("b8 01 00 00 00 c7 44 24 b8 27 00 00 00 0f 05 c3"));
    assert_eq!(plan.sites[0].number, Some(1));
    assert_eq!(plan.sites[0].before, 8, "the whole movl is displaced");
    let plan = self::plan(&bytes("b8 01 00 00 00 41 b8 27 00 00 00 0f 05 c3"));
    assert_eq!((plan.sites[0].number, plan.sites[0].before), (Some(1), 6));
}

/// A table that says where functions begin, as linkers write it; without frame descriptions.
fn functions(starts: &[u32]) -> Vec<u8> {
    let mut header = vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0];
    header.extend((starts.len() as u32).to_le_bytes());
    for start in starts {
        header.extend((start + 0x1000).to_le_bytes());
        header.extend(i32::MIN.to_le_bytes());
    }
    header
}

#[rstest]
#[case::into_the_jump("e9 f5 ff ff ff", 1)]
#[case::past_the_jump("e9 f8 ff ff ff", 1)]
#[case::conditional("0f 84 f7 ff ff ff", 1)]
#[case::to_the_start("e9 f3 ff ff ff", 0)]
#[case::behind("e9 fa ff ff ff", 0)]
#[case::call_of_the_start("e8 f3 ff ff ff", 0)]
fn a_jump_from_another_function_is_seen(#[case] jump: &str, #[case] refused: usize) {
    let mut code = bytes("b8 27 00 00 00 0f 05 c3");
    code.extend(bytes(jump));
    let header = functions(&[0, 8]);
    let table = FunctionTable::parse(&header, 0x1000, 0x1000, 0x2000).unwrap();
    assert_eq!(table.around(3, code.len()).range, 0..8);
    assert_eq!(table.around(8, code.len()).range, 8..code.len());
    let plan = scan(&code, &table, &|_| true);
    assert_eq!((plan.sites.len(), plan.left(Reason::BranchInto)), (1 - refused, refused), "{plan:?}");
    // Wherever it stands in the chunks the search works in.
    for shift in 1..40 {
        let mut code = code.clone();
        code.splice(8..8, vec![0x90; shift]);
        let at = code.len() - 4;
        let relative = i32::from_le_bytes(code[at..].try_into().unwrap()) - shift as i32;
        code.splice(at.., relative.to_le_bytes());
        assert_eq!(scan(&code, &table, &|_| true).sites.len(), 1 - refused, "{shift}");
    }
}

#[test]
fn a_table_of_unknown_form_is_none() {
    let good = functions(&[0, 8]);
    for at in 0..4 {
        let mut header = good.clone();
        header[at] ^= 0x40;
        assert!(FunctionTable::parse(&header, 0x1000, 0x1000, 0x2000).is_none());
    }
    assert!(FunctionTable::parse(&good[..good.len() - 1], 0x1000, 0x1000, 0x2000).is_none());
    assert!(FunctionTable::parse(&good, 0x1000, 0xfff, 0x2000).is_none());
}

#[test]
fn two_sites_share_no_byte_and_no_hole() {
    let mut code = Vec::new();
    for _ in 0..20 {
        code.extend(bytes("31 c0 0f 05 c3 90 90 90 90 90 90"));
    }
    let plan = plan(&code);
    assert_eq!(plan.count(Pattern::Hole), 20);
    let mut taken = vec![false; code.len()];
    for site in &plan.sites {
        let hole = site.hole.unwrap() as usize;
        for at in (hole..hole + 5).chain(site.start as usize..site.start as usize + 2) {
            assert!(!std::mem::replace(&mut taken[at], true), "byte {at} is used twice");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Scanning any bytes ends without a panic, and its plan survives being kept.
    #[test]
    fn plans_survive_as_bytes(pieces in prop::collection::vec((any::<[u8; 6]>(), 0..3_usize), 0..60), key: Vec<u8>) {
        let mut code = Vec::new();
        for (random, kind) in pieces {
            match kind {
                0 => code.extend(random),
                1 => code.extend([0xb8, random[0], 0, 0, 0, 0x0f, 0x05]),
                _ => code.extend([0x90, 0x0f, 0x05, 0xc3]),
            }
        }
        let plan = plan(&code);
        let kept = plan.to_bytes(&key);
        prop_assert_eq!(Plan::from_bytes(&kept, &key), Some(plan));
        let mut other = key.clone();
        other.push(1);
        prop_assert_eq!(Plan::from_bytes(&kept, &other), None);
        for cut in 0..kept.len() {
            prop_assert_eq!(Plan::from_bytes(&kept[..cut], &key), None);
        }
    }

    /// A damaged list is refused or describes sites in order, of the size they say, around a syscall.
    #[test]
    fn damaged_lists_describe_possible_plans(at in any::<prop::sample::Index>(), value: u8) {
        let plan = plan(&bytes("b8 01 00 00 00 0f 05 c3 90 90 90 90 90 31 c0 0f 05 c3 90 90 90 90 90"));
        let mut kept = plan.to_bytes(b"key");
        let at = at.index(kept.len());
        kept[at] = value;
        if let Some(plan) = Plan::from_bytes(&kept, b"key") {
            let mut end = 0;
            for site in &plan.sites {
                prop_assert!(site.start >= end && site.len() <= site.original.len());
                prop_assert_eq!(&site.original[usize::from(site.before)..][..2], [0x0f, 0x05]);
                end = site.start + site.len() as u32;
            }
        }
    }
}

#[test]
fn the_address_map_is_read_as_the_kernel_writes_it() {
    let text =
        b"55d0c0a00000-55d0c0a02000 r--p 00001000 08:0a 1234                       /tmp/a b (deleted)\n\
                 7ffe6d9d2000-7ffe6d9f3000 rw-p 00000000 00:00 0                          [stack]\n\
                 not a mapping\n\
                 ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
    let map = AddressMap::parse(text.to_vec());
    let [file, stack, vsyscall] = map.mappings() else { panic!("{map:?}") };
    assert_eq!(file.range, 0x55d0_c0a0_0000..0x55d0_c0a0_2000);
    assert_eq!((file.read, file.write, file.execute), (true, false, false));
    assert_eq!((file.offset, file.device, file.inode), (0x1000, (8, 10), 1234));
    assert_eq!(map.path(file), b"/tmp/a b (deleted)");
    assert_eq!((map.path(stack), stack.inode, stack.write), (&b"[stack]"[..], 0, true));
    assert!(vsyscall.execute && !vsyscall.read);
    assert_eq!(map.objects(&[]).count(), 0, "nothing executable from a file");
    let code =
        |sharing| format!("1000-2000 r-x{sharing} 00000000 08:01 7 /a\n2000-3000 r--p 00001000 08:01 7 /a\n");
    assert_eq!(AddressMap::parse(code('p').into_bytes()).objects(&[]).count(), 1);
    assert_eq!(
        AddressMap::parse(code('s').into_bytes()).objects(&[]).count(),
        0,
        "code that others see, too"
    );
}

#[test]
fn the_map_of_this_process_has_its_objects() {
    let map = AddressMap::read().unwrap();
    let here = the_map_of_this_process_has_its_objects as *const () as u64;
    let own = here..here + 1;
    let has = |except: &[_], wanted: &str| {
        map.objects(except).any(|object| String::from_utf8_lossy(object.path()).contains(wanted))
    };
    assert!(has(&[], "libc.so.6") && has(&[], "rewrite_plan"));
    assert!(has(std::slice::from_ref(&own), "libc.so.6"));
    assert!(!has(std::slice::from_ref(&own), "rewrite_plan"));
    assert!(!has(&[], "vdso"));
}

/// ld.so maps an object's first pages over all its addresses before it maps the parts: also behind the file's end.
#[test]
fn a_mapping_behind_the_end_of_its_file_is_read_as_far_as_the_file_goes() {
    use std::os::fd::AsRawFd;
    let map = AddressMap::read().unwrap();
    let is_libc = |object: &interpose::rewrite::LoadedObject| object.path().ends_with(b"/libc.so.6");
    let path = String::from_utf8(map.objects(&[]).find(is_libc).unwrap().path().to_vec()).unwrap();
    let file = std::fs::File::open(path).unwrap();
    let pages = file.metadata().unwrap().len().div_ceil(4096) as usize;
    for extra in [0, 1, 100] {
        let len = (pages + extra) * 4096;
        // SAFETY: a new mapping.
        let start = unsafe {
            let prot = libc::PROT_READ | libc::PROT_EXEC;
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        let map = AddressMap::read().unwrap();
        let object =
            map.objects(&[]).find(|object| object.mappings()[0].range.start == start as u64).unwrap();
        // SAFETY: mapped until after the last use.
        let image = unsafe { object.image() }.unwrap();
        assert_eq!(image.texts().next().unwrap().bytes.len(), pages * 4096);
        assert!(image.build_id().is_some());
        // SAFETY: mapped above, no longer used.
        unsafe { libc::munmap(start, len) };
    }
}

/// Some pages of code of our own.
fn mapped(code: &[u8]) -> std::ops::Range<u64> {
    // SAFETY: a new mapping, filled before it is executable.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let start = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        start.cast::<u8>().copy_from_nonoverlapping(code.as_ptr(), code.len());
        assert_eq!(libc::mprotect(start, 4096, libc::PROT_READ | libc::PROT_EXEC), 0);
        start as u64..start as u64 + 4096
    }
}

fn content(text: &std::ops::Range<u64>, len: usize) -> Vec<u8> {
    // SAFETY: mapped by `mapped`.
    unsafe { std::slice::from_raw_parts(text.start as *const u8, len) }.to_vec()
}

#[test]
fn code_that_is_not_the_planned_one_is_not_touched() {
    let planned = plan(&bytes("b8 27 00 00 00 0f 05 c3 90 90 90 b8 01 00 00 00 0f 05 c3"));
    let code = bytes("b8 27 00 00 00 0f 05 c3 90 90 90 b8 02 00 00 00 0f 05 c3");
    let text = mapped(&code);
    let mut memory = NearMemory::new(&AddressMap::read().unwrap());
    // SAFETY: our own page, not executed; the entry is never reached.
    let patched = unsafe { apply(&planned, text.clone(), text.start, &mut memory, Threads::Quiet) }.unwrap();
    assert_eq!(patched.len(), 1);
    assert_eq!(patched.skipped().len(), 1);
    assert_eq!(patched.skipped()[0].1, Skip::Changed);
    let now = content(&text, code.len());
    assert_eq!(now[0], 0xe9);
    assert_eq!(now[5..], code[5..]);
    // Once more: the bytes are not the planned ones any longer.
    // SAFETY: as above.
    let again = unsafe { apply(&planned, text.clone(), text.start, &mut memory, Threads::Quiet) }.unwrap();
    assert_eq!((again.len(), again.skipped().len()), (0, 2));
    assert_eq!(content(&text, code.len()), now);
}

#[test]
fn a_plan_for_more_text_than_there_is_reads_nothing_behind() {
    let mut code = vec![0x90; 8192];
    code.extend(bytes("b8 27 00 00 00 0f 05 c3"));
    let planned = plan(&code);
    let text = mapped(&[0x90; 16]);
    let mut memory = NearMemory::new(&AddressMap::read().unwrap());
    // SAFETY: our own page.
    let patched = unsafe { apply(&planned, text.clone(), text.start, &mut memory, Threads::Quiet) }.unwrap();
    assert_eq!(patched.skipped()[0].1, Skip::Changed);
}

#[test]
fn with_threads_running_only_single_stores_are_made() {
    // An instruction that lies across two fetch blocks with its first two bytes, a run, and a good one.
    let mut code = vec![0x90; 15];
    code.extend(bytes("b8 27 00 00 00 0f 05"));
    code.extend(bytes("4c 89 f0 31 d2 0f 05"));
    code.extend(bytes("90 b8 27 00 00 00 0f 05 c3"));
    let planned = plan(&code);
    assert_eq!(planned.sites.len(), 3);
    let text = mapped(&code);
    let mut memory = NearMemory::new(&AddressMap::read().unwrap());
    // SAFETY: our own page.
    let patched =
        unsafe { apply(&planned, text.clone(), text.start, &mut memory, Threads::Running) }.unwrap();
    assert_eq!(patched.sites().map(|site| site.start).collect::<Vec<_>>(), [30]);
    assert!(patched.skipped().iter().all(|(_, skip)| *skip == Skip::ThreadsRunning));
    assert_eq!(patched.left(&planned).len(), 2);
    assert_eq!(content(&text, 30), code[..30]);
    assert_eq!(content(&text, 31)[30], 0xe9);
}

/// Where memory must not be executable once it was writable, nothing changes and the error says so.
#[test]
fn a_policy_against_it_is_reported() {
    const PR_SET_MDWE: i32 = 65;
    const MDWE_REFUSE_EXEC_GAIN: u64 = 1;
    let code = bytes("b8 27 00 00 00 0f 05 c3");
    let planned = plan(&code);
    let text = mapped(&code);
    let mut memory = NearMemory::new(&AddressMap::read().unwrap());
    // SAFETY: the child only uses memory mapped before and exits at once.
    let status = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            if libc::prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0 {
                libc::_exit(2);
            }
            let result = apply(&planned, text.clone(), text.start, &mut memory, Threads::Quiet);
            let refused = matches!(result, Err(Error::Forbidden { .. }));
            let same = std::slice::from_raw_parts(text.start as *const u8, code.len()) == code;
            libc::_exit(i32::from(!(refused && same)));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        libc::WEXITSTATUS(status)
    };
    match status {
        2 => println!("skipped: this kernel (before 6.3) has no PR_SET_MDWE"),
        status => assert_eq!(status, 0),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}
