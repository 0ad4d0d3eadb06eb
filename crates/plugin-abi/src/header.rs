//! Writes the C header from the Rust declarations.

use crate::abi::{CONSTANTS, STRUCTS};
use crate::declare::{Item, Kind};
use std::fmt::Write;

/// The text of `include/defuse_plugin.h`.
///
/// # Panics
/// When a declaration in [`crate::abi`] uses a type this generator has no C spelling for; the test that
/// compares the committed header would show it.
pub fn text() -> String {
    let mut out = String::from(PREAMBLE);
    for item in CONSTANTS {
        let Item::Constant { docs, name, value, unsigned } = *item else { continue };
        comment(&mut out, "", docs);
        let suffix = if unsigned { "u" } else { "" };
        let _ = writeln!(out, "#define {name} {value}{suffix}");
    }
    out.push_str(EMIT);
    for item in STRUCTS {
        let Item::Struct { docs, name, fields } = *item else { continue };
        out.push('\n');
        comment(&mut out, "", docs);
        let _ = writeln!(out, "struct {name} {{");
        for field in fields {
            comment(&mut out, "    ", field.docs);
            let _ = match field.kind {
                Kind::Data(ty) => writeln!(out, "    {};", declaration(ty, field.name)),
                Kind::Function(parameters) => {
                    let list: Vec<_> = parameters.iter().map(|(name, ty)| declaration(ty, name)).collect();
                    writeln!(out, "    int (*{})({});", field.name, list.join(", "))
                }
            };
        }
        out.push_str("};\n");
    }
    out.push_str(POSTAMBLE);
    out
}

/// C source that fails to compile unless a C compiler lays the structs out as Rust did.
pub fn layout_check() -> String {
    let mut out = String::from("#include \"defuse_plugin.h\"\n");
    for item in STRUCTS {
        let Item::Struct { name, fields, .. } = *item else { continue };
        for field in fields {
            let (member, offset) = (field.name, field.offset);
            let _ = writeln!(
                out,
                "_Static_assert(__builtin_offsetof(struct {name}, {member}) == {offset}, \"{name}.{member}\");"
            );
        }
    }
    for (name, size) in [
        ("defuse_plugin", size_of::<crate::abi::Table>()),
        ("defuse_host", size_of::<crate::abi::Host>()),
        ("defuse_setattr", size_of::<crate::abi::RawSetAttr>()),
        ("defuse_more", size_of::<crate::abi::RawMore>()),
        ("defuse_opened", size_of::<crate::abi::Opened>()),
    ] {
        let _ = writeln!(out, "_Static_assert(sizeof(struct {name}) == {size}, \"sizeof {name}\");");
    }
    for (name, size) in [
        ("stat", size_of::<libc::stat>()),
        ("statfs", size_of::<libc::statfs>()),
        ("flock", size_of::<libc::flock>()),
        ("iovec", size_of::<libc::iovec>()),
    ] {
        let _ = writeln!(out, "_Static_assert(sizeof(struct {name}) == {size}, \"sizeof {name}\");");
    }
    out
}

fn comment(out: &mut String, indent: &str, docs: &[&str]) {
    match docs {
        [] => {}
        [line] => {
            let _ = writeln!(out, "{indent}/*{line} */");
        }
        lines => {
            let _ = writeln!(out, "{indent}/*");
            for line in lines {
                let _ = writeln!(out, "{indent} *{line}");
            }
            let _ = writeln!(out, "{indent} */");
        }
    }
}

/// A parameter or member in C's spelling.
fn declaration(ty: &str, name: &str) -> String {
    let c = |ty: &str| {
        let spelling = match ty {
            "c_char" => "char",
            "c_int" | "libc::c_int" => "int",
            "c_uint" => "unsigned int",
            "c_ulong" => "unsigned long",
            "c_void" => "void",
            "u16" => "uint16_t",
            "u32" => "uint32_t",
            "u64" => "uint64_t",
            "i32" => "int32_t",
            "size_t" => "size_t",
            "off_t" => "off_t",
            "mode_t" => "mode_t",
            "dev_t" => "dev_t",
            "stat" => "struct stat",
            "statfs" => "struct statfs",
            "flock" => "struct flock",
            "iovec" => "struct iovec",
            "libc::timespec" => "struct timespec",
            "Host" => "struct defuse_host",
            "RawSetAttr" => "struct defuse_setattr",
            "RawMore" => "struct defuse_more",
            "Opened" => "struct defuse_opened",
            "Emit" => "defuse_emit",
            other => panic!("no C spelling for {other}"),
        };
        spelling.to_owned()
    };
    if let Some(target) = ty.strip_prefix("*mut *mut ") {
        format!("{} **{name}", c(target))
    } else if let Some(target) = ty.strip_prefix("*mut ") {
        format!("{} *{name}", c(target))
    } else if let Some(target) = ty.strip_prefix("*const ") {
        format!("const {} *{name}", c(target))
    } else {
        format!("{} {name}", c(ty))
    }
}

const PREAMBLE: &str = "\
/*
 * The plugin ABI of DEFUSE. Generated from crates/plugin-abi/src/abi.rs: do not edit.
 *
 *     cargo run -p plugin-abi --example header > crates/plugin-abi/include/defuse_plugin.h
 */
#ifndef DEFUSE_PLUGIN_H
#define DEFUSE_PLUGIN_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#ifdef __cplusplus
extern \"C\" {
#endif

";

const EMIT: &str = "
/* Takes one directory entry; non-zero means \"enough, stop and return 0\". */
typedef int (*defuse_emit)(void *ctx, const char *name, size_t name_len, uint64_t ino, uint32_t d_type,
                           uint64_t next_cookie);
";

const POSTAMBLE: &str = "
/* What the plugin defines. */
extern const struct defuse_plugin defuse_plugin;

/* The first members of every table. */
#define DEFUSE_PLUGIN_HEADER \\
    .magic = DEFUSE_MAGIC, .abi_major = DEFUSE_ABI_MAJOR, .abi_minor = DEFUSE_ABI_MINOR, \\
    .size = sizeof(struct defuse_plugin)

#ifdef __cplusplus
}
#endif

#endif
";
