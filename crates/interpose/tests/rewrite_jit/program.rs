//! Programs made of what compilers put around a system call.

use proptest::prelude::*;

use crate::machine::PAGE;

/// Instructions without a branch that leave rax, rdi, r14, r15 and rsp alone.
pub const PLAIN: &[&[u8]] = &[
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
pub enum Item {
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
pub struct Program {
    pub before: Vec<Item>,
    pub after: Vec<usize>,
    pub padding: usize,
}

pub fn program() -> impl Strategy<Value = Program> {
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
    pub fn code(&self) -> Vec<u8> {
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

/// Whether it computes with its own address or that of its stack.
pub fn uses_addresses(program: &Program) -> bool {
    program.before.iter().any(|item| matches!(item, Item::Plain(n) if PLAIN[*n].starts_with(&[0x48, 0x8d])))
}
