//! The decoder and what it says of effects, against iced-x86: on every function of the libraries at hand, and on
//! random bytes.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction as Iced, InstructionInfoFactory, OpAccess,
    OpKind, Register,
};
use proptest::prelude::*;

use super::effects::{Effects, FLAGS, MEMORY, Source, Touched, VECTORS, effects, source_of};
use super::image::Image;
use super::instruction::{Flow, Instruction, decode};

/// What every process here has loaded (this test's libc, its loader, unwinder), and, where installed, libraries with
/// much vector code.
fn libraries() -> Vec<(String, Vec<u8>)> {
    let loaded = super::AddressMap::read().unwrap();
    let loaded = loaded.objects(&[]).map(|object| String::from_utf8_lossy(object.path()).into_owned());
    let directory = "/usr/lib/x86_64-linux-gnu";
    let more = ["libcrypto.so.3", "libm.so.6", "libstdc++.so.6"].map(|name| format!("{directory}/{name}"));
    let files: Vec<_> =
        loaded.chain(more).filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect();
    assert!(files.iter().any(|(path, _)| path.contains("libc.so")), "no libc among {files:?}");
    files
}

fn iced(bytes: &[u8]) -> Iced {
    Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()
}

#[test]
fn decodes_every_instruction_of_the_libraries_as_iced_does() {
    let mut factory = InstructionInfoFactory::new();
    let mut total = 0;
    let mut known = 0;
    for (path, file) in libraries() {
        let Some(image) = Image::from_file(&file) else { continue };
        for text in image.texts() {
            let functions = image.functions(&text);
            let mut at = 0;
            while at < text.bytes.len() {
                let bounds = functions.around(at, text.bytes.len());
                let end = bounds.range.end.max(at + 1);
                while bounds.known && at < end {
                    let bytes = &text.bytes[at..];
                    let expected = iced(bytes);
                    if expected.is_invalid() {
                        break;
                    }
                    let place = || format!("{path} {:#x} {expected:?}", text.address + at as u64);
                    let it = decode(bytes).unwrap_or_else(|| panic!("not decoded: {}", place()));
                    assert_eq!(usize::from(it.len), expected.len(), "{}", place());
                    compare_flow(&it, &expected, &place);
                    known += compare_effects(&it, &expected, &mut factory, &place);
                    total += 1;
                    at += expected.len();
                }
                at = at.max(end);
            }
        }
    }
    assert!(total > 300_000, "only {total} instructions compared");
    assert!(known > total / 2, "the effects of only {known} of {total} instructions are known");
}

fn compare_flow(it: &Instruction, expected: &Iced, place: &dyn Fn() -> String) {
    let target = || expected.near_branch_target() as i64 - expected.len() as i64;
    let relative = match it.flow {
        Flow::Branch(relative) | Flow::Jump(relative) => Some(i64::from(relative)),
        Flow::Next | Flow::Stop => None,
    };
    let near = matches!(expected.op0_kind(), OpKind::NearBranch64);
    // Not in programs. Taking them to go on is the careful choice: what follows is no padding.
    if expected.code() == Code::Uiret || expected.is_privileged() && expected.code() != Code::Hlt {
        return;
    }
    match expected.flow_control() {
        FlowControl::UnconditionalBranch => assert!(matches!(it.flow, Flow::Jump(_)), "{}", place()),
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend if near => {
            assert!(matches!(it.flow, Flow::Branch(_)), "{}", place());
        }
        FlowControl::Return | FlowControl::IndirectBranch => assert_eq!(it.flow, Flow::Stop, "{}", place()),
        FlowControl::Call | FlowControl::IndirectCall | FlowControl::Next => {
            let stops = matches!(expected.code(), Code::Hlt);
            assert_eq!(it.flow, if stops { Flow::Stop } else { Flow::Next }, "{}", place());
        }
        _ => {}
    }
    if let Some(relative) = relative {
        assert_eq!(relative, target(), "{}", place());
    }
    let relative_memory = expected.is_ip_rel_memory_operand();
    assert_eq!(it.rip_relative.is_some(), relative_memory, "{}", place());
}

/// What is said must cover what iced says, and what is said to be overwritten must be so entirely.
fn compare_effects(
    it: &Instruction,
    expected: &Iced,
    factory: &mut InstructionInfoFactory,
    place: &dyn Fn() -> String,
) -> usize {
    let Some(Effects { reads, writes }) = effects(it) else { return 0 };
    assert!(!expected.is_stack_instruction() || reads & 1 << 4 != 0, "{}", place());
    let info = factory.info(expected);
    for used in info.used_registers() {
        let Some(bit) = bit(used.register()) else { continue };
        let (read, write) = access(used.access());
        assert!(!read || reads & bit != 0, "reads {:?}: {}", used.register(), place());
        assert!(!write || writes & bit != 0, "writes {:?}: {}", used.register(), place());
        let whole = used.access() == OpAccess::Write && used.register().size() >= 4;
        let claimed_whole = write && bit < VECTORS && writes & bit != 0 && reads & bit == 0;
        assert!(!claimed_whole || whole, "only partly writes {:?}: {}", used.register(), place());
    }
    for used in info.used_memory() {
        let (read, write) = access(used.access());
        assert!(!read || reads & MEMORY != 0, "reads memory: {}", place());
        assert!(!write || writes & MEMORY != 0, "writes memory: {}", place());
    }
    assert!(expected.rflags_read() == 0 || reads & FLAGS != 0, "reads flags: {}", place());
    assert!(expected.rflags_modified() == 0 || writes & FLAGS != 0, "writes flags: {}", place());
    1
}

fn access(access: OpAccess) -> (bool, bool) {
    match access {
        OpAccess::Read | OpAccess::CondRead => (true, false),
        OpAccess::Write | OpAccess::CondWrite => (false, true),
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
        _ => (false, false),
    }
}

fn bit(register: Register) -> Option<Touched> {
    if register.is_vector_register() {
        return Some(VECTORS);
    }
    let full = register.full_register();
    full.is_gpr64().then(|| 1 << full.number())
}

/// Executes the claim about constants and copies: iced must name the same operands.
#[test]
fn sources_are_what_the_operands_say() {
    for (path, file) in libraries() {
        let Some(image) = Image::from_file(&file) else { continue };
        let Some(text) = image.texts().next() else { continue };
        let bounds = image.functions(&text).around(text.bytes.len() / 2, text.bytes.len());
        let mut at = bounds.range.start;
        while at < text.bytes.len().min(bounds.range.start + 200_000) {
            let bytes = &text.bytes[at..];
            let (Some(it), expected) = (decode(bytes), iced(bytes)) else { break };
            for register in 0..16 {
                let named = |r: Register| r.is_gpr() && r.full_register().number() == usize::from(register);
                match source_of(&it, register, bytes) {
                    Source::Constant(number) => {
                        assert!(named(expected.op0_register()), "{path} {at:#x} {expected:?}");
                        let cleared = expected.op1_kind() == OpKind::Register;
                        let value = if cleared { 0 } else { expected.immediate(1) as u32 };
                        assert_eq!(value, number, "{path} {at:#x} {expected:?}");
                    }
                    Source::Register(other) => {
                        assert!(named(expected.op0_register()), "{path} {at:#x} {expected:?}");
                        let source = expected.op1_register().full_register().number();
                        assert_eq!(source, usize::from(other), "{path} {at:#x} {expected:?}");
                    }
                    Source::Unchanged | Source::Unknown => {}
                }
            }
            at += usize::from(it.len);
        }
    }
}

/// `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(20_000), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    /// On any bytes: what both decode has one length, and effects are claimed only for what iced decodes, too.
    #[test]
    fn agrees_on_random_bytes(bytes in proptest::collection::vec(any::<u8>(), 16), prefix in any::<[bool; 4]>()) {
        let mut code = Vec::new();
        for (present, byte) in prefix.into_iter().zip([0x66, 0xf3, 0x48, 0x0f]) {
            if present { code.push(byte); }
        }
        code.extend(bytes);
        let expected = iced(&code);
        if let Some(it) = decode(&code) && !expected.is_invalid() {
                prop_assert_eq!(usize::from(it.len), expected.len(), "{:?} {:x?}", expected, code);
                compare_effects(&it, &expected, &mut InstructionInfoFactory::new(), &|| format!("{expected:?} {code:x?}"));
                compare_flow(&it, &expected, &|| format!("{expected:?} {code:x?}"));
        }
    }
}
