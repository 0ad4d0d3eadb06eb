//! One name, relative to a directory that is nobody's: only the name itself can be a symbolic link. So what is not there is not there
//! for a call that does not follow it, and one that does can ask so first.
//!
//! [`super::super::tls::Tls::one_name`] is 1 for such a path, and 2 while a `stat` that follows is made as one that does not. It is while
//! the last that met something out of the ordinary met a missing name, and not a link. What that finds is written below the top of the handler
//! stack, and given to the program if it is no link: one that leads nowhere leaves the program's buffer as it was, and does not look whether there is one.

/// Before the call. `r8d` is its class, or `rax` its number and the other registers its arguments.
macro_rules! one_name {
    () => {
        concat!(
            ".Lbp_one_name:\n",
            "mov byte ptr fs:[r11 + {one_name}], 1\n",
            "cmp r8d, {path_stat}\n",
            "jb .Lbp_sure\n",
            "cmp byte ptr [rip + {name_absent}], 0\n",
            "je .Lbp_sure\n",
            // The program may have forbidden itself what it does not ask for.
            "cmp byte ptr [rip + {restrained}], 0\n",
            "jne .Lbp_sure\n",
            "mov byte ptr fs:[r11 + {one_name}], 2\n",
            "jmp .Lbp_sure\n",
            // stat as lstat, the others with AT_SYMLINK_NOFOLLOW; unless that is what was asked. rcx is the top of the handler stack.
            ".Lbp_do_not_follow:\n",
            "sub rcx, {own_buffer}\n",
            "cmp eax, 4\n",
            "je .Lbp_as_lstat\n",
            "cmp eax, 6\n",
            "je .Lbp_does_not_anyway\n",
            "cmp eax, 262\n",
            "je .Lbp_in_r10\n",
            "bts edx, 8\n",
            "jc .Lbp_does_not_anyway\n",
            "mov r8, rcx\n",
            "jmp interpose_quick\n",
            ".Lbp_does_not_anyway:\n",
            "mov byte ptr fs:[r11 + {one_name}], 1\n",
            "jmp interpose_quick\n",
            ".Lbp_in_r10:\n",
            "bts r10d, 8\n",
            "jc .Lbp_does_not_anyway\n",
            "mov rdx, rcx\n",
            "jmp interpose_quick\n",
            ".Lbp_as_lstat:\n",
            "mov eax, 6\n",
            "mov rsi, rcx\n",
            "jmp interpose_quick\n",
        )
    };
}

/// After it. `rax` is the result, `ecx` the class.
macro_rules! one_name_done {
    () => {
        concat!(
            ".Lbp_one_name_done:\n",
            "cmp byte ptr fs:[r11 + {one_name}], 2\n",
            "je .Lbp_not_followed\n",
            "cmp rax, -2\n",
            "je .Lbp_one_absent\n",
            "cmp rax, -20\n",
            "jne .Lbp_result\n",
            ".Lbp_one_absent:\n",
            "cmp ecx, {path_stat}\n",
            "jb .Lbp_one_by_number\n",
            // As it was asked: perhaps without following.
            "mov ecx, fs:[r11 + {number}]\n",
            "cmp ecx, 6\n",
            "je .Lbp_not_there\n",
            "cmp ecx, 262\n",
            "je .Lbp_flags_r10\n",
            "cmp ecx, 332\n",
            "jne .Lbp_one_followed\n",
            "bt edx, 8\n",
            "jc .Lbp_not_there\n",
            "jmp .Lbp_one_followed\n",
            ".Lbp_flags_r10:\n",
            "bt r10d, 8\n",
            "jc .Lbp_not_there\n",
            ".Lbp_one_followed:\n",
            "mov byte ptr [rip + {name_absent}], 1\n",
            "jmp .Lbp_tried\n",
            // readlink, readlinkat, unlink, unlinkat, lchown never follow.
            ".Lbp_one_by_number:\n",
            "mov ecx, fs:[r11 + {number}]\n",
            ".irp number, 89, 267, 87, 263, 94\n",
            "cmp ecx, \\number\n",
            "je .Lbp_not_there\n",
            ".endr\n",
            "jmp .Lbp_tried\n",
        )
    };
}

/// After a call that was made so as not to follow a link, unasked. `rax` is the result, `ecx` the class.
macro_rules! not_followed {
    () => {
        concat!(
            ".Lbp_not_followed:\n",
            "cmp rax, -2\n",
            "je .Lbp_not_there\n",
            "cmp rax, -20\n",
            "je .Lbp_not_there\n",
            "cmp rax, -121\n",
            "je .Lbp_tried\n",
            "cmp rax, -95\n",
            "je .Lbp_tried\n",
            "test rax, rax\n",
            "jne .Lbp_open_done\n",
            // There. rdx: the attributes; rdi: how many bytes; rsi: where to; r10d: the mode.
            "mov rdx, fs:[r11 + {top}]\n",
            "sub rdx, {own_buffer}\n",
            "mov edi, 144\n",
            "mov r10d, [rdx + 24]\n",
            "mov rsi, fs:[r11 + {original} + 8]\n",
            "cmp ecx, {path_stat_at}\n",
            "jb .Lbp_own_kind\n",
            "mov rsi, fs:[r11 + {original} + 16]\n",
            "je .Lbp_own_kind\n",
            "mov rsi, fs:[r11 + {original} + 32]\n",
            "mov edi, 256\n",
            "movzx r10d, word ptr [rdx + 28]\n",
            ".Lbp_own_kind:\n",
            "and r10d, 0xf000\n",
            "cmp r10d, 0xa000\n",
            "je .Lbp_one_link\n",
            ".Lbp_own_copy:\n",
            "mov r10, [rdx + rdi - 8]\n",
            // A fault here is continued at `interpose_quick_give_failed`.
            "interpose_label interpose_quick_give\n",
            "mov [rsi + rdi - 8], r10\n",
            "sub edi, 8\n",
            "jne .Lbp_own_copy\n",
            "cmp ecx, {path_stat_at}\n",
            "mov rcx, [rdx + 8]\n",
            "jbe .Lbp_own_given\n",
            "mov rcx, [rdx + 32]\n",
            ".Lbp_own_given:\n",
            "mov rdi, fs:[r11 + {original}]\n",
            "mov rsi, fs:[r11 + {original} + 8]\n",
            "mov rdx, fs:[r11 + {original} + 16]\n",
            "mov r10, fs:[r11 + {original} + 24]\n",
            "mov r8, fs:[r11 + {original} + 32]\n",
            "jmp .Lbp_inode\n",
            "interpose_label interpose_quick_give_failed\n",
            "mov r11, [rip + interpose_tls@gottpoff]\n",
            "mov rax, -14\n",
            "jmp .Lbp_open_done\n",
            // A link, to be followed after all.
            ".Lbp_one_link:\n",
            "mov byte ptr [rip + {name_absent}], 0\n",
            "jmp .Lbp_commit\n",
        )
    };
}
pub(super) use {not_followed, one_name, one_name_done};
