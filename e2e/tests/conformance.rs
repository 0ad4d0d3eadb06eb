//! Public suites of POSIX conformance: [pjdfstest] asks what each call does and says, [fsx] writes, cuts, maps and reads one file at random
//! and compares with what it should hold. `.ci/run` installs them; they are found on PATH.
//!
//! [pjdfstest]: https://crates.io/crates/pjdfstest
//! [fsx]: https://crates.io/crates/fsx

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::process::Command;

use defuse_e2e::case::set_environment;
use defuse_e2e::process::{self, End, LIMIT};
use defuse_e2e::product::Product;
use defuse_e2e::{Case, Session, need_programs, requirement, same_as_plain, script};

/// Writes pjdfstest's configuration to `$OUT/pjdfstest.toml`. Its two users are ones that every machine has.
const CONFIGURATION: &str = r#"
: "${OUT:?}" "${MNT:?}"
cat >"$OUT/pjdfstest.toml" <<CONFIGURATION
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
secondary_fs = "$OUT/second"
[settings]
naptime = 0.02
allow_remount = ${REMOUNT:-false}
[dummy_auth]
entries = [["nobody", "$(id -gn nobody)"], ["daemon", "$(id -gn daemon)"]]
CONFIGURATION
mkdir -p "$OUT/second"; chmod 755 "$OUT" "$OUT/second"
"#;

/// All of pjdfstest. What is left out is in docs/posix.md, with the reason.
fn pjdfstest() -> Case {
    script(format!(
        r#"{CONFIGURATION}
        left_out='^rmdir::ebusy$'
        # On a plain directory all others pass.
        RUST_BACKTRACE=0 NO_COLOR=1 pjdfstest -c "$OUT/pjdfstest.toml" -p "$MNT" >"$OUT/all" 2>/dev/null || :
        awk -v left_out="$left_out" '$1 ~ "::" {{ on = $1 !~ left_out }} /^Summary/ {{ on = 0 }} on' "$OUT/all"
        test "$(grep -c ' ok$' "$OUT/all")" -gt 350; rm "$OUT/all"; ls -A "$MNT"
    "#
    ))
    .needs(&["pjdfstest", "id", "awk"])
    .needs_root()
}

/// fsx with these weights beside those of reads and writes: one process, then four at once that share nothing but the mount. Which operations
/// it makes depends on the seed alone, so the files must be equal in the end.
fn fsx(weights: &str) -> Case {
    script(format!(
        r#"
        cat >"$OUT/fsx.toml" <<CONFIGURATION
flen = 262144
[weights]
read = 10
write = 10
truncate = 5
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 3
punch_hole = 3
sendfile = 3
posix_fadvise = 1
copy_file_range = 3
{weights}
CONFIGURATION
        cd "$MNT"; export RUST_BACKTRACE=0
        fsx -f "$OUT/fsx.toml" -N 20000 -S 1 -P "$OUT" one
        for seed in 2 3 4 5; do fsx -f "$OUT/fsx.toml" -N 5000 -S $seed -P "$OUT" "file$seed" & done; wait
        cksum *
    "#
    ))
    .needs(&["fsx"])
}

same_as_plain! {
    pjdfstest_passes: pjdfstest();

    random_operations_on_one_file: fsx("close_open = 1\nmapread = 0\nmapwrite = 0");

    random_operations_and_mappings: fsx("close_open = 1\nmapread = 5\nmapwrite = 5\ninvalidate = 0.5");
}

/// The cases about a read-only file system. pjdfstest remounts what it finds the mount to be; `mount` is made to remount the file
/// system of the back end in its place.
#[test]
fn read_only_file_systems_are_read_only() {
    need_programs!("pjdfstest", "unshare", "mount", "id");
    if !requirement::is_root() || !requirement::has_mount_namespaces() {
        return requirement::skip("needs root, and mount namespaces");
    }
    let Some(session) = Session::new() else { return };
    let text = format!(
        r#"set -eu; REMOUNT=true; : "${{BACKEND:?}}" "${{DEFUSE:?}}"
        {CONFIGURATION}
        mount -t tmpfs none "$BACKEND"; chmod 755 "$BACKEND"
        mkdir "$OUT/bin"
        printf '#!/bin/sh\nexec "%s" "$1" "$2" "%s"\n' "$(command -v mount)" "$BACKEND" >"$OUT/bin/mount"
        chmod +x "$OUT/bin/mount"; export PATH="$OUT/bin:$PATH" RUST_BACKTRACE=0 NO_COLOR=1
        "$DEFUSE" run -m "$MNT=passthrough:$BACKEND" -- pjdfstest -c "$OUT/pjdfstest.toml" -p "$MNT" erofs
    "#
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-c", &text]).current_dir(session.place.root());
    set_environment(&mut command, &session.place);
    command.env("BACKEND", session.place.backend()).env("DEFUSE", Product::get().defuse());
    let outcome = process::run(&mut command, session.place.root(), LIMIT).expect("run unshare");
    let said = outcome.stdout_text();
    assert_eq!(outcome.end, End::Exit(0), "{said}{}", outcome.stderr_text());
    assert!(said.contains("Summary: 0 failed, 0 skipped, 13 passed"), "{said}");
    session.assert_nothing_left();
}
