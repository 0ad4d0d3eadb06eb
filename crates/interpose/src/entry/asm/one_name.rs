//! One name, relative to a directory that is nobody's: only the name itself can be a symbolic link. So what is not there is not there
//! for a call that does not follow it, and one that does can ask so first.
//!
//! [`super::super::tls::Tls::one_name`] is 1 for such a path, and 2 while a `stat` that follows is made as one that does not. It is while
//! the last that met something out of the ordinary met a missing name, and not a link.

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
            "mov byte ptr fs:[r11 + {one_name}], 2\n",
            "jmp .Lbp_sure\n",
            // stat as lstat, the others with AT_SYMLINK_NOFOLLOW; unless that is what was asked.
            ".Lbp_do_not_follow:\n",
            "cmp eax, 4\n",
            "je .Lbp_as_lstat\n",
            "cmp eax, 262\n",
            "je .Lbp_in_r10\n",
            "bts edx, 8\n",
            "jnc interpose_quick\n",
            ".Lbp_does_not_anyway:\n",
            "mov byte ptr fs:[r11 + {one_name}], 1\n",
            "jmp interpose_quick\n",
            ".Lbp_in_r10:\n",
            "bts r10d, 8\n",
            "jnc interpose_quick\n",
            "jmp .Lbp_does_not_anyway\n",
            ".Lbp_as_lstat:\n",
            "mov eax, 6\n",
            "jmp interpose_quick\n",
        )
    };
}

/// After it. `rax` is the result, `ecx` the class.
macro_rules! one_name_done {
    () => {
        concat!(
            ".Lbp_one_name_done:\n",
            "mov rdx, fs:[r11 + {original} + 16]\n",
            "mov r10, fs:[r11 + {original} + 24]\n",
            "cmp rax, -2\n",
            "je .Lbp_one_absent\n",
            "cmp rax, -20\n",
            "je .Lbp_one_absent\n",
            "test rax, rax\n",
            "jne .Lbp_result\n",
            "cmp byte ptr fs:[r11 + {one_name}], 2\n",
            "jne .Lbp_result\n",
            // There. A link is to be followed after all.
            "cmp ecx, {path_stat_at}\n",
            "je .Lbp_kind_rdx\n",
            "ja .Lbp_kind_extended\n",
            "mov r11d, [rsi + 24]\n",
            "jmp .Lbp_kind\n",
            ".Lbp_kind_rdx:\n",
            "mov r11d, [rdx + 24]\n",
            "jmp .Lbp_kind\n",
            ".Lbp_kind_extended:\n",
            "movzx r11d, word ptr [r8 + 28]\n",
            ".Lbp_kind:\n",
            "and r11d, 0xf000\n",
            "cmp r11d, 0xa000\n",
            "mov r11, [rip + interpose_tls@gottpoff]\n",
            "jne .Lbp_result\n",
            "mov byte ptr [rip + {name_absent}], 0\n",
            "jmp .Lbp_commit\n",
            ".Lbp_one_absent:\n",
            "cmp ecx, {path_stat}\n",
            "jb .Lbp_one_by_number\n",
            "cmp byte ptr fs:[r11 + {one_name}], 2\n",
            "je .Lbp_not_there\n",
            // As it was asked: perhaps without following.
            "mov ecx, fs:[r11 + {number}]\n",
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
            // lstat, readlink, readlinkat, rmdir, unlink, unlinkat, lchown never follow.
            ".Lbp_one_by_number:\n",
            "mov ecx, fs:[r11 + {number}]\n",
            ".irp number, 6, 89, 267, 84, 87, 263, 94\n",
            "cmp ecx, \\number\n",
            "je .Lbp_not_there\n",
            ".endr\n",
            "jmp .Lbp_tried\n",
        )
    };
}
pub(super) use {one_name, one_name_done};
