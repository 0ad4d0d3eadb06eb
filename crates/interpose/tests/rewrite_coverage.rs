//! What is found in real libraries: nothing that matters may be left out.

use std::path::{Path, PathBuf};

use interpose::rewrite::{AddressMap, Image, Libc, Pattern, Plan, Reason, Rewind};

const DIRECTORY: &str = "usr/lib/x86_64-linux-gnu";

/// Calls that a program blocks in, or that a thread is cancelled in: unwinders and glibc look at their PC.
const BLOCKING: [u32; 13] = [0, 1, 7, 19, 20, 23, 35, 44, 45, 46, 47, 202, 232];

/// Build IDs, and how many sites of each pattern there are: single, run, hole, branch, overwrite. Another build of the
/// same version, a security update say, may have other numbers.
const GOLDEN: [(&str, [usize; 5]); 2] = [
    // Debian's 2.36-9+deb12u14
    ("93ac61ec5a8eb1396f9fbd350e3169a558528a40", [451, 28, 44, 0, 2]),
    // Debian's 2.41-12+deb13u4
    ("5e5b51f4c39af9ac589408c1dc432ba390a273cc", [360, 29, 31, 0, 2]),
];

fn scan_file(path: &Path) -> Option<(Option<Libc>, Plan)> {
    let file = std::fs::read(path).ok()?;
    let image = Image::from_file(&file)?;
    let mut whole = Plan::default();
    for text in image.texts() {
        let plan = image.scan(&text, &|_| true);
        whole.sites.extend(plan.sites);
        whole.unpatchable.extend(plan.unpatchable);
    }
    println!("{}: {whole}", path.display());
    Some((Libc::identify(&image), whole))
}

/// The roots whose libraries are looked at.
fn roots() -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/")];
    match std::env::var_os("DEFUSE_TRIXIE_ROOT") {
        Some(root) => roots.push(root.into()),
        None => println!("skipped: glibc 2.41: DEFUSE_TRIXIE_ROOT is not set"),
    }
    roots
}

#[test]
fn every_site_of_glibc_can_be_rewritten() {
    for root in roots() {
        let libc = root.join(DIRECTORY).join("libc.so.6");
        let Some((version, plan)) = scan_file(&libc) else {
            println!("skipped: no {}", libc.display());
            continue;
        };
        assert_eq!(plan.missed().count(), 0);
        assert_eq!(plan.left(Reason::Restorer), 1, "there is one signal return trampoline");
        let id = build_id(&libc);
        match GOLDEN.iter().find(|(known, _)| *known == id) {
            Some((_, golden)) => assert_eq!(counts(&plan), *golden, "single, run, hole, branch, overwrite"),
            None => println!("skipped: golden counts: {version:?} of build {id} has none"),
        }
        for site in &plan.sites {
            if site.pattern == Pattern::Overwrite {
                // Process and thread exit, in endless loops.
                assert!(site.number.is_none(), "{site:?} would lose its syscall instruction");
            }
            let file_call = site.number.is_some_and(|number| number < 14 || (16..=22).contains(&number));
            assert!(!file_call || site.rewind != Rewind::Never || site.number == Some(20), "{site:?}");
        }
    }
}

fn build_id(path: &Path) -> String {
    let file = std::fs::read(path).unwrap();
    let image = Image::from_file(&file).unwrap();
    let bytes = image.build_id().unwrap_or_default().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn counts(plan: &Plan) -> [usize; 5] {
    [Pattern::Single, Pattern::Run, Pattern::Hole, Pattern::RunWithBranch, Pattern::Overwrite]
        .map(|pattern| plan.count(pattern))
}

#[test]
fn the_loader_is_rewritten_whole() {
    for root in roots() {
        let Some((_, plan)) = scan_file(&root.join(DIRECTORY).join("ld-linux-x86-64.so.2")) else { continue };
        assert!(plan.sites.len() > 40);
        assert_eq!(plan.missed().count(), 0);
        assert_eq!(plan.left(Reason::Restorer), 1);
    }
}

#[test]
fn blocking_calls_keep_their_syscall_instruction() {
    for root in roots() {
        let Some((_, plan)) = scan_file(&root.join(DIRECTORY).join("libc.so.6")) else { continue };
        let blocking = plan.sites.iter().filter(|site| site.number.is_some_and(|n| BLOCKING.contains(&n)));
        let mut seen = 0;
        for site in blocking {
            assert_ne!(site.pattern, Pattern::Overwrite, "{site:?}");
            seen += 1;
        }
        assert!(seen > 20, "only {seen} sites");
    }
}

/// glibc 2.41's and musl's cancellable calls go through one place, whose PC the signal handler compares.
#[test]
fn the_cancellation_helper_is_diverted_before_its_last_instruction() {
    for root in roots() {
        for (name, helpers) in [("x86_64-linux-gnu/libc.so.6", 1), ("x86_64-linux-musl/libc.so", 1)] {
            let Some((libc, plan)) = scan_file(&root.join("usr/lib").join(name)) else { continue };
            let found: Vec<_> = plan.sites.iter().filter(|site| site.rewind == Rewind::ReloadR11).collect();
            let old = matches!(libc, Some(Libc::Glibc { minor: ..41, .. }));
            assert_eq!(found.len(), if old { 0 } else { helpers }, "{libc:?}");
            assert!(found.iter().all(|site| site.pattern == Pattern::Single && site.before == 5));
        }
    }
}

#[test]
fn other_libraries_have_nothing_that_is_missed() {
    for root in roots() {
        for name in ["liburing.so.2", "libaio.so.1", "libjemalloc.so.2", "libstdc++.so.6", "libcrypto.so.3"] {
            let Some((_, plan)) = scan_file(&root.join(DIRECTORY).join(name)) else { continue };
            assert_eq!(plan.missed().count(), 0, "{name}");
        }
    }
}

#[test]
fn only_the_numbers_of_interest_are_planned() {
    let file = std::fs::read(Path::new("/").join(DIRECTORY).join("libc.so.6")).unwrap();
    let image = Image::from_file(&file).unwrap();
    let text = image.texts().next().unwrap();
    let all = image.scan(&text, &|_| true);
    let reads = image.scan(&text, &|number| number == Some(0));
    assert!(reads.sites.len() >= 3);
    assert!(reads.sites.iter().all(|site| site.number == Some(0)));
    assert_eq!(reads.sites.len() + reads.left(Reason::NoInterest), all.sites.len());
    let none = image.scan(&text, &|_| false);
    assert!(none.sites.is_empty());
    assert_eq!(none.missed().count(), 0);
}

/// The same answer from the object in memory as from its file, though its addresses differ.
#[test]
fn memory_and_file_give_one_plan() {
    let map = AddressMap::read().unwrap();
    let mut compared = 0;
    for object in map.objects(&[]) {
        let path = String::from_utf8_lossy(object.path()).into_owned();
        // SAFETY: the objects of this test stay loaded, and nobody rewrites them.
        let (Ok(file), Some(loaded)) = (std::fs::read(&path), (unsafe { object.image() })) else { continue };
        let image = Image::from_file(&file).unwrap();
        assert_eq!(image.build_id(), loaded.build_id());
        assert_eq!(object.key(&loaded), object.key(&image));
        for (in_file, in_memory) in image.texts().zip(loaded.texts()) {
            let (one, other) = (image.scan(&in_file, &|_| true), loaded.scan(&in_memory, &|_| true));
            assert_eq!(one.sites, other.sites, "{path}");
            compared += one.sites.len();
        }
    }
    assert!(compared > 400, "only {compared} sites");
}
