//! What the loader takes, what it refuses, and what it says then.

mod common;

use common::{Library, compile, load, names, open, path};
use plugin_abi::{Errno, Form, Host, LoadError, Plugin, SetAttr};
use rstest::rstest;
use std::path::Path;

const NO_ATTRIBUTES: &str = "-DENODATA_OF_FIXTURE=61";

fn refusal(library: &Library) -> String {
    let message = Plugin::load(&library.path).unwrap_err().to_string();
    assert!(message.contains(library.path.to_str().unwrap()), "{message} does not name the file");
    message
}

#[test]
fn a_table_in_c_is_loaded_and_works() {
    let plugin = load(&["examples/hello.c"], &[]);
    assert_eq!((plugin.form(), plugin.name(), plugin.abi_version()), (Form::Table, "hello", (1, 1)));
    let fs = plugin.instantiate(c"/mnt", c"hello, world\n", c"", Host::STDERR).unwrap();
    assert_eq!(names(&fs, c"/").unwrap(), [".", "..", "hello"]);
    let file = open(&fs, c"/hello", libc::O_RDONLY).unwrap();
    let mut buf = [0; 64];
    assert_eq!(fs.read(&file, &mut buf, 7), Ok(6));
    assert_eq!(&buf[..6], b"world\n");
    assert_eq!(fs.fgetattr(&file).unwrap().st_size, 13);
    assert_eq!(fs.write(&file, b"x", 0, false), Err(Errno::ENOSYS));
    fs.close(file).unwrap();
    assert_eq!(open(&fs, c"/hello", libc::O_WRONLY), Err(Errno::EROFS));
    assert_eq!(open(&fs, c"/none", libc::O_RDONLY), Err(Errno::ENOENT));
}

#[test]
fn the_example_in_rust_is_loaded_and_works() {
    let examples = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples");
    let library = examples.join("libupper.so");
    if !library.exists() {
        println!("skipped: the examples are not built (`cargo test` with --test builds none)");
        return;
    }
    let plugin = Plugin::load(&library).unwrap();
    assert_eq!((plugin.form(), plugin.name()), (Form::Table, "upper"));
    let fs = plugin.instantiate(c"/mnt", c"hello", c"", Host::STDERR).unwrap();
    assert_eq!(names(&fs, c"/").unwrap(), [".", "..", "shout"]);
    let file = open(&fs, c"/shout", libc::O_RDONLY).unwrap();
    let mut buf = [0; 64];
    assert_eq!(fs.read(&file, &mut buf, 1), Ok(4));
    assert_eq!(&buf[..4], b"ELLO");
    assert_eq!(fs.mkdir(path(c"/d"), 0o755), Err(Errno::ENOSYS));
    fs.close(file).unwrap();
}

#[rstest]
#[case::magic("-DMAGIC=0x12345678", &["`defuse_plugin`", "0x12345678", "0x4c504644"])]
#[case::major("-DMAJOR=9", &["`defuse_plugin`", "9.7", "1.1"])]
#[case::tiny("-DSIZE=8", &["`defuse_plugin`", "8 bytes"])]
#[case::claims_too_much("-DSIZE=100000", &["`defuse_plugin`", "100000", "symbol has"])]
fn a_wrong_table_is_refused_with_what_was_found(#[case] define: &str, #[case] texts: &[&str]) {
    let message = refusal(&compile(&["tests/fixtures/bad_table.c"], &[define, NO_ATTRIBUTES]));
    for text in texts {
        assert!(message.contains(text), "{message} lacks {text}");
    }
}

#[test]
fn the_same_table_with_nothing_wrong_is_taken() {
    let plugin = load(&["tests/fixtures/bad_table.c"], &[NO_ATTRIBUTES]);
    assert_eq!(plugin.abi_version(), (1, 7));
    let fs = plugin.instantiate(c"/m", c"", c"", Host::STDERR).unwrap();
    assert_eq!(fs.getattr(path(c"/x")).map(|_| ()), Err(Errno::ENODATA));
}

#[test]
fn a_newer_table_is_used_as_far_as_it_is_known() {
    let plugin = load(&["tests/fixtures/newer_table.c"], &[]);
    assert_eq!((plugin.abi_version(), plugin.name()), ((1, 99), "plugin"));
    assert_eq!(plugin.capabilities(), plugin_abi::Capabilities::all());
    let fs = plugin.instantiate(c"/m", c"", c"", Host::STDERR).unwrap();
    assert_eq!(fs.getattr(path(c"/")).unwrap().st_size, 77);
}

#[test]
fn a_shorter_table_misses_what_is_beyond_its_end() {
    let fs = load(&["tests/fixtures/short_table.c"], &[]).instantiate(c"/m", c"", c"", Host::STDERR).unwrap();
    let file = open(&fs, c"/f", libc::O_RDONLY).unwrap();
    assert_eq!(fs.fgetattr(&file).unwrap().st_size, 5);
    // `read` is there by half, so it is not there.
    assert_eq!(fs.read(&file, &mut [0; 4], 0), Err(Errno::ENOSYS));
    assert_eq!(fs.mkdir(path(c"/d"), 0o755), Err(Errno::ENOSYS));
    assert_eq!(fs.setattr(path(c"/f"), &SetAttr::default()), Err(Errno::ENOSYS));
    assert_eq!(fs.save(&file, &mut [], &mut [], &mut plugin_abi::Saved::default()), Err(Errno::ENOSYS));
    // And what has a sensible default has it.
    assert_eq!(fs.flush(&file), Ok(()));
    assert_eq!(fs.fsync(&file, true), Ok(()));
    assert_eq!(fs.syncfs(), Ok(()));
    assert_eq!(fs.lseek(&file, 1, libc::SEEK_DATA), Ok(1));
    assert_eq!(fs.lseek(&file, 1, libc::SEEK_HOLE), Ok(5));
    assert_eq!(fs.lseek(&file, 5, libc::SEEK_DATA), Err(Errno::ENXIO));
    assert_eq!(fs.getxattr(path(c"/f"), c"user.a", &mut []), Err(Errno::EOPNOTSUPP));
    assert_eq!(fs.fallocate(&file, 0, 0, 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(fs.statfs(path(c"/")).unwrap().f_namelen, 255);
    assert_eq!(fs.access(path(c"/f"), libc::F_OK, 0), Ok(()));
    assert_eq!(fs.access(path(c"/f"), libc::X_OK, 0), Err(Errno::EACCES));
    fs.close(file).unwrap();
}

#[test]
fn a_library_that_is_no_plugin_is_refused() {
    let library = compile(&["tests/fixtures/listing1_libc.c"], &[]);
    let message = refusal(&library);
    assert!(message.contains("`defuse_plugin`") && message.contains("usfs_open"), "{message}");
}

#[test]
fn libraries_with_functions_of_these_names_are_no_plugins() {
    for name in ["libc.so.6", "libm.so.6"] {
        let path = Path::new("/lib/x86_64-linux-gnu").join(name);
        if !path.exists() {
            println!("skipped: no {}", path.display());
            continue;
        }
        assert!(matches!(Plugin::load(&path), Err(LoadError::NotAPlugin { .. })), "{name}");
    }
}

#[test]
fn what_is_no_shared_library_is_refused() {
    let missing = Plugin::load(Path::new("/does/not/exist.so")).unwrap_err();
    assert!(matches!(missing, LoadError::Unreadable { .. }), "{missing}");
    assert!(missing.to_string().contains("/does/not/exist.so"));
    let directory = Plugin::load(Path::new("/")).unwrap_err().to_string();
    assert!(directory.contains("not a regular file"), "{directory}");
    let library = compile(&["examples/hello.c"], &[]);
    for (bytes, text) in
        [(&b""[..], "not an ELF file"), (b"#!/bin/sh\n", "not an ELF file"), (b"\x7fELF\x02", "truncated")]
    {
        std::fs::write(&library.path, bytes).unwrap();
        let message = refusal(&library);
        assert!(message.contains(text), "{message} lacks {text}");
    }
}

#[test]
fn a_library_cut_anywhere_is_refused() {
    let library = compile(&["examples/hello.c"], &[]);
    let whole = std::fs::read(&library.path).unwrap();
    // The segments end before the section headers do; what lies between is not loaded.
    let loaded = loaded_bytes(&whole);
    for len in (0..loaded).step_by(97).chain([63, 64, 65, loaded - 1]) {
        std::fs::write(&library.path, &whole[..len]).unwrap();
        let message = refusal(&library);
        assert!(
            message.contains("truncated") || message.contains("not an ELF file"),
            "{len} bytes: {message}"
        );
    }
}

/// The end of the last segment that is loaded.
fn loaded_bytes(elf: &[u8]) -> usize {
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap()) as usize;
    let (table, count) = (word(32), usize::from(elf[56]));
    let entries = (0..count).map(|index| table + 56 * index);
    entries
        .filter(|&at| elf[at] == 1 && elf[at + 1] == 0)
        .map(|at| word(at + 8) + word(at + 32))
        .max()
        .unwrap()
}

#[rstest]
#[case::aarch64(18, &[183, 0], "AArch64")]
#[case::i386(18, &[3, 0], "built for x86 ")]
#[case::bits(4, &[1], "32-bit")]
#[case::endian(5, &[2], "big-endian")]
#[case::executable(16, &[2, 0], "an executable, not a shared library")]
#[case::object(16, &[1, 0], "an object file, not a shared library")]
fn another_kind_of_elf_is_named(#[case] at: usize, #[case] bytes: &[u8], #[case] text: &str) {
    let library = compile(&["examples/hello.c"], &[]);
    let mut elf = std::fs::read(&library.path).unwrap();
    elf[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(&library.path, elf).unwrap();
    let message = refusal(&library);
    assert!(message.contains(text), "{message}");
}

#[test]
fn a_library_that_misses_a_symbol_is_refused_with_its_name() {
    let library = compile(&["tests/fixtures/listing1.c"], &[]);
    let message = refusal(&library);
    assert!(message.contains("libc_is_libc"), "{message}");
}
