//! Generated code, run as it is and rewritten: both must leave the same registers and memory. Then rewritten and single-stepped,
//! with one step in the stub after the other turned back to the site as signal code may do.

mod machine;
mod program;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use interpose::rewrite::{FunctionTable, Patched, Pattern, Phase, Rewind, Threads, scan};
use proptest::prelude::*;

use machine::{ALONE, ARRIVALS, SERVE, State, TRAP_FLAG, Text, rewrite_jit_entry};
use program::{Item, Program, program, uses_addresses};

thread_local! {
    /// For the trap handler: the rewritten code, which of its steps to turn back, and how many were counted.
    static STEPPED: Cell<*const Patched> = const { Cell::new(std::ptr::null()) };
    static TURN_BACK: Cell<u64> = const { Cell::new(u64::MAX) };
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static TURNED: Cell<bool> = const { Cell::new(false) };
}

/// Counts the steps in stubs (and at the entry) and turns one of them back.
extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext; the record outlives the run.
    let (context, patched) = unsafe { (&mut *context.cast::<libc::ucontext_t>(), STEPPED.get().as_ref()) };
    let registers = &mut context.uc_mcontext.gregs;
    let pc = registers[libc::REG_RIP as usize] as u64;
    let rsp = registers[libc::REG_RSP as usize] as u64;
    let at_entry = pc == rewrite_jit_entry as *const () as u64;
    let info = patched.and_then(|patched| {
        let resume = registers[libc::REG_RCX as usize] as u64;
        // At the entry rcx tells which stub it was; the stub's jump to it is directly before the data.
        if at_entry {
            patched.find_stub(resume).map(|info| (info.site, entry_rewind(resume)))
        } else {
            patched
                .find_stub(pc)
                .filter(|info| info.phase == Phase::Before)
                .map(|info| (info.site, info.rewind))
        }
    });
    let Some((site, rewind)) = info else { return };
    let step = STEPS.replace(STEPS.get() + 1);
    if step != TURN_BACK.get() || rewind == Rewind::Never {
        return;
    }
    TURNED.set(true);
    let started =
        patched.is_some_and(|patched| patched.find_stub(pc).is_none_or(|info| info.original != info.site));
    registers[libc::REG_RIP as usize] = site as i64;
    if at_entry || started {
        // Lost by the time a signal code looks, except where the stub says how to get it back.
        registers[libc::REG_RCX as usize] = 0x0bad;
        registers[libc::REG_R11 as usize] = 0x0bad;
        if rewind == Rewind::ReloadR11 {
            // SAFETY: the scratch of the code that runs.
            registers[libc::REG_R11 as usize] = unsafe { *((rsp + 8) as *const i64) };
        }
    }
}

fn entry_rewind(resume: u64) -> Rewind {
    // SAFETY: the data before resume.
    match unsafe { *((resume - 24) as *const u8) } {
        0 => Rewind::Plain,
        1 => Rewind::ReloadR11,
        _ => Rewind::Never,
    }
}

/// Checks one program; tells the pattern that was used.
fn check(program: &Program) -> Option<Pattern> {
    let code = program.code();
    let plan = scan(&code, &FunctionTable::default(), &|_| true);
    let original = Text::new(&code);
    let expected = State::new().after(&original);
    if let Some(number) = plan.sites.first().and_then(|site| site.number) {
        let result = expected.registers[0];
        let ever_39 = [39, 102, 104, 0].contains(&number);
        assert!(ever_39, "number {number}, result {result}: {code:x?}");
    }
    // The same code, at another address: what it reads relative to itself is in the page with it.
    let text = Text::new(&code);
    let relative = (text.start as u64).wrapping_sub(original.start as u64);
    let patched = text.rewrite(&plan, Threads::Quiet);
    assert_eq!(patched.len(), plan.sites.len());
    let same = |left: &State, right: &State, what: &str| {
        let equal = |left: &u64, right: &u64| left == right || left.wrapping_sub(*right) == relative;
        let pairs =
            left.registers.iter().zip(&right.registers).chain(left.scratch.iter().zip(&right.scratch));
        let vectors = left.vector.iter().zip(&right.vector);
        // What was computed from an address may differ in any way; such programs compare only themselves.
        assert!(
            pairs.chain(vectors).all(|(l, r)| equal(l, r)),
            "{what}: {left:x?}\n{right:x?}\n{code:x?}\n{plan:x?}"
        );
    };
    for serve in [0, 1] {
        SERVE.store(serve, Ordering::SeqCst);
        ARRIVALS.store(0, Ordering::SeqCst);
        let state = State::new().after(&text);
        same(&state, &expected, "rewritten");
        let arrivals = ARRIVALS.load(Ordering::SeqCst);
        let left = arrivals == 0 && program.before.iter().any(|item| matches!(item, Item::Leave(..)));
        assert!(left || arrivals == plan.sites.len() as u64, "{arrivals} {code:x?} {plan:?}");
    }
    SERVE.store(0, Ordering::SeqCst);
    let pattern = plan.sites.first()?.pattern;

    STEPPED.set(&raw const patched);
    for turn_back in 0.. {
        TURN_BACK.set(turn_back);
        STEPS.set(0);
        TURNED.set(false);
        let state = State { flags: TRAP_FLAG, ..State::new() }.after(&text);
        same(&state, &expected, &format!("turned back at step {turn_back}"));
        if STEPS.get() <= turn_back {
            break;
        }
    }
    STEPPED.set(std::ptr::null());
    Some(pattern)
}

#[test]
fn rewritten_code_does_what_the_original_does() {
    let _alone = ALONE.lock();
    // SAFETY: the handler is async-signal-safe (thread-locals without destructors, no allocation).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()), 0);
    }
    let mut seen = std::collections::BTreeMap::new();
    let default = ProptestConfig::default();
    let config = ProptestConfig { cases: default.cases.max(400), failure_persistence: None, ..default };
    let counts = std::cell::RefCell::new(&mut seen);
    proptest::test_runner::TestRunner::new(config)
        .run(&program(), |program| {
            prop_assume!(!uses_addresses(&program));
            *counts.borrow_mut().entry(check(&program)).or_insert(0) += 1;
            Ok(())
        })
        .unwrap();
    for pattern in [Pattern::Single, Pattern::Run, Pattern::Hole, Pattern::RunWithBranch, Pattern::Overwrite]
    {
        assert!(seen.contains_key(&Some(pattern)), "{pattern:?} never came up: {seen:?}");
    }
}

/// Code that is at the same address before and after may be compared whatever it computes.
#[test]
fn addresses_are_corrected() {
    let _alone = ALONE.lock();
    // lea 0x10(%rip),%rsi; mov $39,%eax; syscall and its relatives, one relative operand per site.
    for (code, pattern) in [
        (&[0xb8, 39, 0, 0, 0, 0x48, 0x8d, 0x35, 0x10, 0, 0, 0, 0x0f, 0x05, 0xc3][..], Pattern::Single),
        (
            &[0xb8, 39, 0, 0, 0, 0x48, 0x8d, 0x1d, 0xf0, 0xff, 0xff, 0xff, 0x31, 0xd2, 0x0f, 0x05, 0xc3],
            Pattern::Run,
        ),
        (&[0x0f, 0x05, 0x48, 0x8b, 0x35, 0xf7, 0xff, 0xff, 0xff, 0xc3], Pattern::Overwrite),
    ] {
        let plan = scan(code, &FunctionTable::default(), &|_| true);
        assert_eq!(plan.sites[0].pattern, pattern);
        let text = Text::new(code);
        let expected = State::new().after(&text);
        // The last one reads its own bytes, so it is compared with the bytes it finds.
        let own = pattern == Pattern::Overwrite;
        drop(text.rewrite(&plan, Threads::Quiet));
        let mut state = State::new().after(&text);
        if own {
            // SAFETY: our own page.
            let found = unsafe { text.start.cast::<u64>().read_unaligned() };
            assert_eq!(state.registers[6], found);
            state.registers[6] = expected.registers[6];
        }
        assert_eq!(state, expected, "{code:x?}");
    }
}

/// A thread is in the code all the time while it changes under it.
#[test]
fn code_is_rewritten_under_a_running_thread() {
    const ROUNDS: usize = 30;
    let _alone = ALONE.lock();
    SERVE.store(0, Ordering::SeqCst);
    // mov $39,%eax; syscall; mov %rax,%rbx; xor %eax,%eax; syscall; ret, and padding; somewhere in the page.
    let calls = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x89, 0xc3, 0x31, 0xc0, 0x0f, 0x05, 0xc3];
    for round in 0..ROUNDS {
        let mut code = vec![0x90; 16 + round % 15];
        code.extend(calls);
        code.extend([0x90; 8]);
        let plan = scan(&code, &FunctionTable::default(), &|_| true);
        assert_eq!(
            plan.sites.iter().map(|site| site.pattern).collect::<Vec<_>>(),
            [Pattern::Single, Pattern::Hole]
        );
        let text = Text::new(&code);
        let expected = State::new().after(&text);
        let (stop, entered) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = text.start as usize;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let text = std::mem::ManuallyDrop::new(Text { start: start as *mut u8 });
                while stop.load(Ordering::Relaxed) == 0 {
                    assert_eq!(State::new().after(&text), expected);
                    entered.fetch_add(1, Ordering::Relaxed);
                }
            });
            let runs = |more: u64| {
                let seen = entered.load(Ordering::Relaxed);
                while entered.load(Ordering::Relaxed) < seen + more {
                    std::thread::yield_now();
                }
            };
            runs(10);
            ARRIVALS.store(0, Ordering::SeqCst);
            let patched = text.rewrite(&plan, Threads::Running);
            assert!(patched.len() + patched.skipped().len() == 2);
            // The thread may have been in a call when the last byte was written.
            runs(10);
            let arrivals = ARRIVALS.load(Ordering::SeqCst);
            assert!(arrivals >= 8 * patched.len() as u64, "{arrivals} arrivals");
            stop.store(1, Ordering::Relaxed);
        });
    }
}
