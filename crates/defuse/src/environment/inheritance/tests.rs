use super::{INHERITANCE, Inheritance, ProcessId};
use proptest::prelude::*;

proptest! {
    #[test]
    fn what_is_left_is_found(cwd in "(/[a-z /]{0,20})?", executable in "(/[a-z /]{0,20})?", soft: u64, hard: u64, process: u32, pid: u32) {
        let left = Inheritance {
            process: (process != 0).then(|| ProcessId::from_bits(process)),
            child_of: (pid % 2 == 1).then(|| (ProcessId::from_bits(process | 1), pid)),
            arena: (hard % 3 == 0).then_some((hard % 1000) as i32),
            serving: soft % 2 == 1,
            locking: soft % 3 == 1,
            token: None,
            nofile: (soft, hard),
            cwd: cwd.into_bytes(),
            name: executable.as_bytes().iter().rev().copied().collect(),
            guest: executable.bytes().filter(|byte| *byte != b' ').collect(),
            executable: executable.into_bytes(),
        };
        let text = left.to_variable();
        let value = text.strip_prefix(INHERITANCE).unwrap().strip_suffix(b"\0").unwrap();
        prop_assert_eq!(Inheritance::parse(value), Some(left));
    }
}

#[test]
fn who_made_a_process_is_told_to_that_one_only() {
    let parent = ProcessId::from_bits(65537);
    let left = Inheritance { child_of: Some((parent, 7)), ..Inheritance::default() };
    assert_eq!([7, 8].map(|pid| left.made_by(pid)), [Some(parent), None]);
    assert_eq!(Inheritance::default().made_by(0), None);
}

#[test]
fn nonsense_is_no_inheritance() {
    for text in [
        "",
        "-",
        "1 0 0 0 0 -",
        "1 0 0 0 0 - a b 0 0 0 ",
        "1 0 0 0 0 x-y-z 1 2 0 0 0 ",
        "1 0 0 0 0 - 1 2 9 0 0 /",
        "1 0 0 0 0 - 1 2 0 9 0 /",
        "1 0 0 0 0 - 1 2 0 0 9 /",
        "1 0 0 0 0 - 1 2 0 0 ",
    ] {
        assert_eq!(Inheritance::parse(text.as_bytes()), None, "{text}");
    }
}
