//! The table of system calls against the kernel's headers, and the document that is made from it.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use defuse::table::{FAMILIES, Interest, Length, MemArg, PathArg, Row, Treatment, UNASSIGNED, row, rows};

/// Numbers and names of Linux 7.3.
const NUMBERS: &str = include_str!("data/x86_64-system-calls.txt");
/// Where Debian and others keep the header of the machine that tests run on.
const HEADERS: [&str; 2] = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"];
/// Set to rewrite the document.
const UPDATE_VARIABLE: &str = "UPDATE_DOCS";

#[test]
fn every_number_of_the_kernel_has_a_row() {
    let numbers: BTreeMap<u32, &str> = NUMBERS
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(nr, name)| (nr.parse().unwrap(), name))
        .collect();
    assert!(numbers.len() > 380);
    assert_rows(&numbers);
    // And no row is about a number that there is not.
    assert_eq!(rows().count(), numbers.len());
}

#[test]
fn every_number_of_this_machine_s_headers_has_a_row() {
    let Some(header) = HEADERS.iter().find_map(|path| fs::read_to_string(path).ok()) else {
        println!("skipped: there are no kernel headers here");
        return;
    };
    let numbers: BTreeMap<u32, &str> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '))
        .map(|(name, nr)| (nr.trim().parse().unwrap(), name))
        .collect();
    assert!(numbers.len() > 350);
    assert_rows(&numbers);
}

#[track_caller]
fn assert_rows(numbers: &BTreeMap<u32, &str>) {
    for (&nr, &name) in numbers {
        let found = row(nr).unwrap_or_else(|| panic!("system call {nr} ({name}) has no row in src/table"));
        assert_eq!(found.name, name, "number {nr}");
    }
}

#[test]
fn the_document_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/system-calls.md");
    let text = document();
    if env::var_os(UPDATE_VARIABLE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let differs = committed.lines().zip(text.lines()).find(|(old, new)| old != new);
    assert!(
        committed == text,
        "docs/system-calls.md is not what the table says; run the test with {UPDATE_VARIABLE}=1. {differs:?}"
    );
}

fn document() -> String {
    let mut text = String::from(
        "# System calls\n\n\
         What becomes of each system call of x86-64 Linux in a process that `defuse` is loaded into. Made from the rows in\n\
         `crates/defuse/src/table`; a test compares, and `UPDATE_DOCS=1 cargo test -p defuse --test system_calls` rewrites it.\n\n\
         - **served**: done by us where it concerns a mount or a served FD, passed to the kernel otherwise\n\
         - **interposed**: changed before the kernel sees it, by crate `interpose`, which keeps signals, threads and code in order\n\
         - **passed**: left to the kernel as it is\n\
         - **refused**: fails with the error named; *on mount*: only where it concerns a mount or a served FD\n\n\
         *Asked* says when the dispatcher looks at a call: by FD (the first argument is not known to be none of ours), while serving (once the\n\
         process has served a file), with places (once it has had one opened with `O_PATH`), always, or not at all. Arguments count from 0. `3/4` is a path relative to the directory FD before\n\
         the slash. Memory is what the kernel reads (<), writes (>) or both (=); `n` is the value of an argument.\n",
    );
    let count = |wanted: fn(&Row) -> bool| rows().filter(|row| wanted(row)).count();
    let served = count(|row| row.treatment == Treatment::Served);
    let interposed = count(|row| row.treatment == Treatment::Interposed);
    let passed = count(|row| row.treatment == Treatment::Passed);
    let refused = rows().count() - served - interposed - passed;
    let (first, last) = (UNASSIGNED.start(), UNASSIGNED.end());
    let _ = writeln!(
        text,
        "\n{} calls: {served} served, {interposed} interposed, {passed} passed, {refused} refused. Numbers {first} to {last} are \
         assigned to none, and are passed.",
        rows().count(),
    );
    for (title, rows) in FAMILIES {
        let _ = writeln!(text, "\n## {title}\n");
        text.push_str("| Nr | Call | Treatment | Asked | FDs | Paths | Memory | Why |\n");
        text.push_str("|---:|------|-----------|-------|-----|-------|--------|-----|\n");
        let mut rows: Vec<_> = rows.iter().collect();
        rows.sort_by_key(|row| row.nr);
        for row in rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.nr,
                row.name,
                treatment(row.treatment),
                interest(row.interest),
                list(row.fds, ToString::to_string),
                list(row.paths, |&argument| path(argument)),
                list(row.memory, |&argument| memory(argument)),
                row.why,
            );
        }
    }
    text
}

fn list<T>(items: &[T], text: fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn treatment(treatment: Treatment) -> String {
    let error = |errno| defuse::errno::name(errno).unwrap_or("an error");
    match treatment {
        Treatment::Served => "served".into(),
        Treatment::Interposed => "interposed".into(),
        Treatment::Passed => "passed".into(),
        Treatment::Refused(errno) => format!("refused: {}", error(errno)),
        Treatment::RefusedOnMount(errno) => format!("refused on mount: {}", error(errno)),
    }
}

fn interest(interest: Interest) -> &'static str {
    match interest {
        Interest::Never => "",
        Interest::ByFd | Interest::Closes => "by FD",
        Interest::WhileServing => "while serving",
        Interest::WhileAlert => "while mapping",
        Interest::Late => "with places",
        Interest::Always => "always",
    }
}

fn path(path: PathArg) -> String {
    match path {
        PathArg::Cwd(path) => path.to_string(),
        PathArg::At(directory, path) => format!("{directory}/{path}"),
    }
}

fn memory(memory: MemArg) -> String {
    let sign = match memory {
        MemArg::In(..) => '<',
        MemArg::Out(..) => '>',
        MemArg::InOut(..) => '=',
    };
    let length = match memory.length() {
        Length::Fixed(bytes) => format!("{bytes} bytes"),
        Length::Arg(argument) => format!("n{argument} bytes"),
        Length::Items(argument, bytes) => format!("n{argument} × {bytes} bytes"),
        Length::Pointed(argument) => format!("as many bytes as {argument} points to"),
        Length::Iovec(argument) => format!("n{argument} iovecs"),
        Length::Message => "msghdr".into(),
        Length::Messages(argument) => format!("n{argument} mmsghdrs"),
        Length::Text => "text".into(),
        Length::Texts => "array of texts".into(),
        Length::FdSet(argument) => format!("n{argument} bits"),
        Length::Depends => "depends".into(),
    };
    format!("{}{sign} {length}", memory.argument())
}
