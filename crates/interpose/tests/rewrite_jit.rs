//! Generated code, run as it is and rewritten: both must leave the same registers and memory. Then rewritten and single-stepped,
//! with one step in the stub after the other turned back to the site as signal code may do.

use std::arch::global_asm;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use interpose::rewrite::{
    AddressMap, FunctionTable, NearMemory, Patched, Pattern, Phase, Plan, Rewind, Threads, apply, scan,
};
use proptest::prelude::*;

global_asm!(
    // run(code, state): loads every register from the state, calls the code, stores every register.
    ".globl rewrite_jit_run",
    "rewrite_jit_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rsi",
    "sub rsp, 72",
    "mov [rsp + 64], rdi",
    "mov r11, rsi",
    "lea rsi, [r11 + 144]",
    "mov rdi, rsp",
    "mov ecx, 8",
    "rep movsq",
    // What the code finds in its red zone.
    "lea rdi, [rsp - 136]",
    "mov eax, 0x5ed",
    "mov ecx, 16",
    "rep stosq",
    "mov rax, [r11 + 208]",
    "pushfq",
    "or [rsp], rax",
    "popfq",
    "movups xmm0, [r11 + 128]",
    "mov rax, [r11]",
    "mov rcx, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov rbx, [r11 + 24]",
    "mov rbp, [r11 + 40]",
    "mov rsi, [r11 + 48]",
    "mov rdi, [r11 + 56]",
    "mov r8, [r11 + 64]",
    "mov r9, [r11 + 72]",
    "mov r10, [r11 + 80]",
    "mov r12, [r11 + 96]",
    "mov r13, [r11 + 104]",
    "mov r14, [r11 + 112]",
    "mov r15, [r11 + 120]",
    "mov r11, [r11 + 88]",
    "call [rsp + 64]",
    "mov r11, [rsp + 72]",
    "mov [r11], rax",
    "mov [r11 + 16], rdx",
    "mov [r11 + 24], rbx",
    "mov [r11 + 40], rbp",
    "mov [r11 + 48], rsi",
    "mov [r11 + 56], rdi",
    "mov [r11 + 64], r8",
    "mov [r11 + 72], r9",
    "mov [r11 + 80], r10",
    "mov [r11 + 96], r12",
    "mov [r11 + 104], r13",
    "mov [r11 + 112], r14",
    "mov [r11 + 120], r15",
    "movups [r11 + 128], xmm0",
    "pushfq",
    "and dword ptr [rsp], 0xfffffeff",
    "popfq",
    "lea rdi, [r11 + 144]",
    "mov rsi, rsp",
    "mov ecx, 8",
    "rep movsq",
    "add rsp, 72",
    "pop rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    // The entry: counts, then has the call made by the stub, or makes it and says it is done.
    ".globl rewrite_jit_entry",
    "rewrite_jit_entry:",
    "lock inc qword ptr [rip + {arrivals}]",
    "cmp qword ptr [rip + {serve}], 0",
    "jne 2f",
    "jmp rcx",
    "2:",
    "mov [rip + {resume}], rcx",
    "syscall",
    "mov rcx, [rip + {resume}]",
    "jmp [rcx - 8]",
    arrivals = sym ARRIVALS,
    serve = sym SERVE,
    resume = sym RESUME,
);

unsafe extern "C" {
    fn rewrite_jit_run(code: *const u8, state: *mut State);
    fn rewrite_jit_entry();
}

static ARRIVALS: AtomicU64 = AtomicU64::new(0);
static SERVE: AtomicU64 = AtomicU64::new(0);
/// One test at a time: the entry counts in one place.
static ALONE: Mutex<()> = Mutex::new(());
static RESUME: AtomicU64 = AtomicU64::new(0);

const TRAP_FLAG: u64 = 0x100;
const RCX: usize = 1;
const R11: usize = 11;

#[repr(C)]
#[derive(Clone, Debug, PartialEq)]
struct State {
    /// rax rcx rdx rbx (rsp) rbp rsi rdi r8 to r15
    registers: [u64; 16],
    vector: [u64; 2],
    /// At 8(%rsp) of the code.
    scratch: [u64; 8],
    /// Flags to set.
    flags: u64,
}

impl State {
    fn new() -> Self {
        let mut registers = core::array::from_fn(|n| 0x0101_0101_0101_0101 * (n as u64 + 0x11));
        registers[0] = 39;
        // An FD that is not open, for read; and a number that some code copies to rax.
        registers[7] = 0x7fff_ffff;
        registers[14] = 39;
        Self { registers, vector: [5, 6], scratch: core::array::from_fn(|n| 0xabc0 + n as u64), flags: 0 }
    }

    /// Runs `code` from this state.
    fn after(mut self, code: &Text) -> Self {
        // SAFETY: generated code, which ends in ret and writes only registers, its red zone and scratch.
        unsafe { rewrite_jit_run(code.start, &raw mut self) };
        // A system call leaves its own traces there.
        self.registers[RCX] = 0;
        self.registers[R11] = 0;
        self.flags = 0;
        self
    }
}

/// A page of code of our own.
struct Text {
    start: *mut u8,
}

const PAGE: usize = 4096;

impl Text {
    fn new(code: &[u8]) -> Self {
        // SAFETY: a new mapping, filled before it is executed.
        unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), PAGE, prot, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            // Behind the code something to read, different everywhere.
            let content: Vec<u8> =
                (0..PAGE).map(|at| code.get(at).copied().unwrap_or((at * 7) as u8)).collect();
            start.cast::<u8>().copy_from_nonoverlapping(content.as_ptr(), PAGE);
            assert_eq!(libc::mprotect(start, PAGE, libc::PROT_READ | libc::PROT_EXEC), 0);
            Self { start: start.cast() }
        }
    }

    fn rewrite(&self, plan: &Plan, threads: Threads) -> Patched {
        let start = self.start as u64;
        let mut memory = NearMemory::new(&AddressMap::read().unwrap());
        let entry = rewrite_jit_entry as *const () as u64;
        // SAFETY: our own mapping, planned for, not in use.
        unsafe { apply(plan, start..start + PAGE as u64, entry, &mut memory, threads) }.unwrap()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, no longer executed.
        unsafe { libc::munmap(self.start.cast(), PAGE) };
    }
}

/// Instructions without a branch that leave rax, rdi, r14, r15 and rsp alone.
const PLAIN: &[&[u8]] = &[
    &[0xbe, 1, 2, 3, 4],                            // mov $imm,%esi
    &[0x41, 0xba, 1, 0, 0, 0],                      // mov $1,%r10d
    &[0x31, 0xd2],                                  // xor %edx,%edx
    &[0x45, 0x31, 0xd2],                            // xor %r10d,%r10d
    &[0x48, 0x89, 0xde],                            // mov %rbx,%rsi
    &[0x49, 0x89, 0xca],                            // mov %rcx,%r10
    &[0x89, 0xcb],                                  // mov %ecx,%ebx
    &[0x40, 0x80, 0xf6, 0x81],                      // xor $0x81,%sil
    &[0x81, 0xe6, 0x7f, 0, 0, 0],                   // and $0x7f,%esi
    &[0xf7, 0xd6],                                  // not %esi
    &[0x48, 0xf7, 0xda],                            // neg %rdx
    &[0xc1, 0xe6, 7],                               // shl $7,%esi
    &[0x83, 0xc2, 1],                               // add $1,%edx
    &[0x48, 0x29, 0xde],                            // sub %rbx,%rsi
    &[0x48, 0x63, 0xd6],                            // movslq %esi,%rdx
    &[0x0f, 0xb6, 0xd3],                            // movzbl %bl,%edx
    &[0x49, 0x0f, 0x46, 0xf0],                      // cmovbe %r8,%rsi
    &[0x48, 0x39, 0xde],                            // cmp %rbx,%rsi
    &[0x48, 0x8b, 0x74, 0x24, 0x10],                // mov 0x10(%rsp),%rsi
    &[0x4c, 0x8b, 0x4c, 0x24, 0x08],                // mov 8(%rsp),%r9
    &[0x48, 0x89, 0x54, 0x24, 0x18],                // mov %rdx,0x18(%rsp)
    &[0x48, 0x89, 0x54, 0x24, 0xe0],                // mov %rdx,-0x20(%rsp): red zone
    &[0x48, 0x8b, 0x5c, 0x24, 0xe0],                // mov -0x20(%rsp),%rbx
    &[0x48, 0x8d, 0x54, 0x24, 0x20],                // lea 0x20(%rsp),%rdx
    &[0x48, 0xc7, 0x44, 0x24, 0x20, 0x40, 0, 0, 0], // movq $0x40,0x20(%rsp)
    &[0xc7, 0x44, 0x24, 0xb8, 0x27, 0, 0, 0],       // movl $39,-0x48(%rsp): looks like mov $39,%eax
    &[0x0f, 0x11, 0x44, 0x24, 0x20],                // movups %xmm0,0x20(%rsp)
    &[0x0f, 0x10, 0x44, 0x24, 0x20],                // movups 0x20(%rsp),%xmm0
    &[0x0f, 0x1f, 0x40, 0x00],                      // nopl 0(%rax)
    &[0x49, 0x89, 0xf3],                            // mov %rsi,%r11
    &[0x4c, 0x89, 0x5c, 0x24, 0x08],                // mov %r11,8(%rsp)
    &[0x48, 0x8d, 0x35, 0x10, 0, 0, 0],             // lea 0x10(%rip),%rsi
    &[0x80, 0x3d, 0x00, 0x02, 0, 0, 0x00],          // cmpb $0,0x200(%rip)
    &[0x66, 0x89, 0xda],                            // mov %bx,%dx
];

/// Ways to set rax to something harmless. All but the last need a site's own trick.
const NUMBERS: &[&[u8]] = &[
    &[0xb8, 39, 0, 0, 0], // mov $39,%eax
    &[0xb8, 102, 0, 0, 0],
    &[0x48, 0xc7, 0xc0, 104, 0, 0, 0], // mov $104,%rax
    &[0x31, 0xc0],                     // xor %eax,%eax: read of a closed FD
    &[0x44, 0x89, 0xf0],               // mov %r14d,%eax
    &[0x4c, 0x89, 0xf0],               // mov %r14,%rax
    &[0x41, 0x8d, 0x46, 0x3f],         // lea 0x3f(%r14),%eax: 102
    &[0x4c, 0x89, 0x74, 0x24, 0x10, 0x48, 0x8b, 0x44, 0x24, 0x10], // by way of 0x10(%rsp)
    &[],
];

/// What may follow: must not look at flags, rcx or r11 before setting them.
const AFTER: &[&[u8]] = &[
    &[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff], // cmp $-4096,%rax
    &[0x48, 0x89, 0xc3],                   // mov %rax,%rbx
    &[0x89, 0xc2],                         // mov %eax,%edx
    &[0x48, 0x8b, 0x35, 0x00, 0x02, 0, 0], // mov 0x200(%rip),%rsi
    &[0x48, 0x85, 0xc0],                   // test %rax,%rax
    &[0x58, 0x50],                         // pop %rax; push %rax: a call frame of its own
    &[0x90],
];

#[derive(Clone, Debug)]
enum Item {
    Plain(usize),
    Number(usize),
    /// cmp %esi,%edx and a short conditional jump over this many of the following items.
    Skip(u8, usize),
    /// The same with a long jump.
    FarSkip(u8, usize),
    /// The same to the code's very end, past the system call; near or far.
    Leave(u8, bool),
}

#[derive(Clone, Debug)]
struct Program {
    before: Vec<Item>,
    after: Vec<usize>,
    padding: usize,
}

fn program() -> impl Strategy<Value = Program> {
    let item = prop_oneof![
        8 => (0..PLAIN.len()).prop_map(Item::Plain),
        4 => (0..NUMBERS.len()).prop_map(Item::Number),
        1 => (0..16_u8, 0..3_usize).prop_map(|(condition, over)| Item::Skip(condition, over)),
        1 => (0..16_u8, 0..3_usize).prop_map(|(condition, over)| Item::FarSkip(condition, over)),
        1 => (0..16_u8, any::<bool>()).prop_map(|(condition, far)| Item::Leave(condition, far)),
    ];
    let after = prop::collection::vec(0..AFTER.len(), 0..4);
    (prop::collection::vec(item, 1..7), after, 0..16_usize).prop_map(|(before, after, padding)| Program {
        before,
        after,
        padding,
    })
}

impl Program {
    fn code(&self) -> Vec<u8> {
        const JUMP_MAX: usize = 8;
        // An address in the page for the relative operands, then the items one by one.
        let mut code = vec![0x90; 32];
        let body: Vec<Vec<u8>> = self
            .before
            .iter()
            .map(|item| match item {
                Item::Plain(n) => PLAIN[*n].to_vec(),
                Item::Number(n) => NUMBERS[*n].to_vec(),
                Item::Skip(..) | Item::Leave(_, false) => vec![0; 2 + 2],
                Item::FarSkip(..) | Item::Leave(_, true) => vec![0; 2 + 6],
            })
            .collect();
        for (index, item) in self.before.iter().enumerate() {
            let over = |count: usize| body[index + 1..].iter().take(count).map(Vec::len).sum::<usize>() as u8;
            match item {
                Item::Skip(condition, count) => code.extend([0x39, 0xf2, 0x70 + condition, over(*count)]),
                Item::FarSkip(condition, count) => {
                    code.extend([0x39, 0xf2, 0x0f, 0x80 + condition, over(*count), 0, 0, 0]);
                }
                Item::Leave(condition, far) => {
                    let after: usize = self.after.iter().map(|n| AFTER[*n].len()).sum();
                    let over = over(body.len()) + (2 + after + 1 + self.padding) as u8;
                    assert!(over < 128);
                    match far {
                        false => code.extend([0x39, 0xf2, 0x70 + condition, over]),
                        true => code.extend([0x39, 0xf2, 0x0f, 0x80 + condition, over, 0, 0, 0]),
                    }
                }
                _ => code.extend(&body[index]),
            }
        }
        code.extend([0x0f, 0x05]);
        for &index in &self.after {
            code.extend(AFTER[index]);
        }
        code.push(0xc3);
        code.extend(vec![0x90; self.padding]);
        code.extend([0x31, 0xdb, 0xc3]);
        assert!(code.len() < PAGE - JUMP_MAX);
        code
    }
}

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
    assert_eq!(patched.sites().len(), plan.sites.len());
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

fn uses_addresses(program: &Program) -> bool {
    program.before.iter().any(|item| matches!(item, Item::Plain(n) if PLAIN[*n].starts_with(&[0x48, 0x8d])))
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
            assert!(patched.sites().len() + patched.skipped().len() == 2);
            // The thread may have been in a call when the last byte was written.
            runs(10);
            let arrivals = ARRIVALS.load(Ordering::SeqCst);
            assert!(arrivals >= 8 * patched.sites().len() as u64, "{arrivals} arrivals");
            stop.store(1, Ordering::Relaxed);
        });
    }
}
