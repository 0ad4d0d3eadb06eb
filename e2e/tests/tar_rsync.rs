//! Archives and copies of whole trees, both ways.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::env;
use std::time::Duration;

use defuse_e2e::{Case, requirement, same_as_plain, script};

/// A tree with directories, links, modes, times, holes and a large file.
const TREE: &str = r#"
    mkdir tree; cd tree
    for i in $(seq 1 12); do mkdir -p "src/mod$i/inner"; for j in $(seq 1 10); do seq "$i" $((i * j + 40)) >"src/mod$i/f$j.c"; done; echo "$i" >"src/mod$i/inner/x"; done
    ln -s src/mod1 link; ln -s gone dangling; ln src/mod2/f2.c hard; mkfifo pipe; mkdir empty
    truncate -s 200000 sparse; printf x >>sparse; head -c 700000 /dev/zero | tr '\0' q >large
    chmod 600 src/mod3/f3.c; chmod 4711 src/mod4/f4.c; chmod 1777 empty; touch "$(printf 'sp ace\nline')"
    find . -depth -exec touch -h -d '2015-05-05 05:05:05.5' {} +
"#;

same_as_plain! {
    tar_packs_and_unpacks: script(r#"
        cd "$MNT"
        tar --sort=name -cf a.tar tree; tar -tvf a.tar | wc -l; tar -tf a.tar | sort | md5sum; md5sum a.tar
        mkdir x; tar -xf a.tar -C x; tar -df a.tar && echo no difference; tar -xpf a.tar -C "$OUT"; tar --sort=name -C "$OUT" -cf b.tar tree; cmp a.tar b.tar && echo same
        tar --sort=name -Scf sparse.tar tree/sparse; mkdir s; tar -xf sparse.tar -C s; stat -c '%s' s/tree/sparse; cmp tree/sparse s/tree/sparse
    "#).setup(TREE).needs(&["tar"]);

    tar_through_pipes_and_compressors: script(r#"
        cd "$MNT"
        mkdir x y z; tar --sort=name -cf - tree | tar -xpf - -C x; tar -C tree -cf - . | (cd "$OUT" && tar -xpf -); (cd "$OUT" && tar -cf - .) | tar -xpf - -C y
        tar --sort=name -cJf a.tar.xz tree; xz -t a.tar.xz; tar --sort=name -cf - tree | gzip -n >a.tar.gz; tar -xzf a.tar.gz -C z; tar -tzf a.tar.gz | wc -l; diff -r --no-dereference x/tree/src z/tree/src && echo same
        rm -rf z/*; tar -xJf a.tar.xz -C z tree/src/mod5; find z | sort; gzip -cd a.tar.gz | tar -xOf - tree/src/mod7/f7.c | md5sum
    "#).setup(TREE).needs(&["tar", "gzip", "xz"]);

    tar_appends_updates_and_deletes: script(r#"
        cd "$MNT"
        tar --sort=name -cf a.tar tree/src/mod1; tar -rf a.tar tree/src/mod2; tar -uf a.tar tree/src/mod1 tree/src/mod3; tar --delete -f a.tar tree/src/mod2/f1.c; tar -tf a.tar | sort | uniq -c | sort | head -n 5; tar -tf a.tar | wc -l
        tar --sort=name -cf b.tar tree/src/mod4; tar -Af a.tar b.tar; head -c 3000 a.tar >cut.tar; tar -tf cut.tar >/dev/null || echo "rc $?"; tar -xf gone.tar || echo "rc $?"; tar -cf - gone >/dev/null || echo "rc $?"; echo junk | tar -xf - || echo "rc $?"
        mkdir keep; tar -xf a.tar -C keep; tar -xkf a.tar -C keep || echo "rc $?"; tar --overwrite -xf a.tar -C keep; rm a.tar b.tar; rm -r keep/tree/src/mod2
    "#).setup(TREE).needs(&["tar"]);

    tar_keeps_extended_attributes: script(r#"
        cd "$MNT"; python3 -c 'import os; os.setxattr("tree/large", "user.test", b"value"); os.setxattr("tree", "user.dir", b"d" * 100)' || { echo 'no user attributes here'; exit 0; }
        tar --xattrs -cf a.tar tree; mkdir x; tar --xattrs -xf a.tar -C x; python3 -c 'import os; print(os.listxattr("x/tree/large"), os.getxattr("x/tree", "user.dir"))'; cp -a tree copy; python3 -c 'import os; print(os.getxattr("copy/large", "user.test"))'; rm a.tar
    "#).setup(TREE).needs(&["tar", "python3"]);

    rsync_a_copies_in_every_direction: script(r#"
        cd "$MNT"
        rsync -a tree/ copy; rsync -aH tree "$OUT/"; rsync -aH "$OUT/tree" back; rsync -aHAXS --numeric-ids tree/ full; diff -r --no-dereference tree/src back/tree/src && echo same
        rsync -ai tree/ copy; rsync -aic tree/ copy; echo change >>tree/src/mod1/f1.c; rm tree/src/mod2/f1.c; rsync -ai --delete tree/ copy; rsync -an --stats tree/ copy | grep 'files transferred'
        rsync -a --inplace --no-whole-file tree/large copy/; printf y | dd of=tree/large bs=1 seek=350000 conv=notrunc status=none; rsync -a --no-whole-file --inplace tree/large copy/; cmp tree/large copy/large && echo patched
        rsync -a --link-dest="$MNT/copy" tree/ linked; stat -c %h linked/src/mod5/f5.c; rsync -a --remove-source-files back/tree/src/mod1/ moved; find back/tree/src/mod1 | sort; rsync gone x 2>/dev/null || echo "rc $?"
        touch -d '2016-06-06' tree/src/mod1/f1.c copy/src/mod1/f1.c tree copy full/src linked/src/mod1/f1.c; find . -newermt 2017-01-01 -name f1.c | sort
    "#).setup(TREE).needs(&["rsync"]);

    zip_and_cpio: script(r#"
        cd "$MNT/tree"; find src | sort | cpio -o --quiet >"$MNT/a.cpio"; mkdir "$MNT/x"; cd "$MNT/x"; cpio -id --quiet <../a.cpio; diff -r src ../tree/src && echo same; cpio -t --quiet <../a.cpio | wc -l; rm ../a.cpio
    "#).setup(TREE).needs(&["cpio"]);

    real_source_tree: real_source_tree();
}

/// Debian's kernel source when `DEFUSE_LINUX_SOURCE` names the archive, or else a generated one of some 2,400 files.
/// The parts taken from the kernel are those that take seconds, not minutes.
fn real_source_tree() -> Case {
    let given = env::var("DEFUSE_LINUX_SOURCE").is_ok();
    if !given {
        requirement::note(
            "DEFUSE_LINUX_SOURCE is not set: a generated tree stands in for the kernel's source",
        );
    }
    script(
        r#"
        cd "$MNT"
        if [ -n "${DEFUSE_LINUX_SOURCE:-}" ]; then
            tar -xf "$DEFUSE_LINUX_SOURCE" --wildcards 'linux-source-*/fs' 'linux-source-*/kernel' 'linux-source-*/include' 'linux-source-*/scripts' 'linux-source-*/Documentation/filesystems'
        else
            mkdir linux-source-0; cd linux-source-0
            for d in fs kernel include scripts; do for i in $(seq 1 40); do mkdir -p "$d/part$i"; done; done
            awk 'BEGIN { split("fs kernel include scripts", d); for (k = 1; k <= 4; k++) for (i = 1; i <= 40; i++) for (j = 1; j <= 15; j++) { f = d[k] "/part" i "/file" j ".c"; for (l = 1; l <= 20 + i; l++) print "int function_" i "_" j "_" l "(void) { return " i * j * l "; }" >f; close(f) } }'
            ln -s ../include/part1 fs/include; chmod +x scripts/part1/file1.c; find . -depth -exec touch -h -d @1600000000 {} +
            cd ..
        fi
        cd linux-source-*; find . | wc -l; du -s --apparent-size --block-size=1 . | cut -f1
        grep -rl return . | wc -l; grep -rch 'int ' . | awk '{s += $1} END {print s}'; find . -name '*.c' -size +4k | wc -l; find . -name '*.c' -print0 | sort -z | xargs -0 cat | sha256sum
        tar --sort=name --mtime=@0 -cf - . | sha256sum; cp -a fs "$OUT/fs"; diff -r --no-dereference fs "$OUT/fs" && echo same; sed -i 's/return/RETURN/' $(find kernel -name '*.c' | sort | head -n 200); grep -rl RETURN kernel | wc -l
        rm -r include; mv scripts moved-scripts; find . | sort | sha256sum; rm -rf "$OUT/fs"; cd ..; mv linux-source-* source; rm -rf source/fs/part[1-3]*
        "#,
    )
    .needs(&["tar", "xz"])
    .limit(Duration::from_secs(600))
}
