//! coreutils, find, grep, sed and awk on the mount.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::session::same_beside_the_mount;
use defuse_e2e::{Session, same_as_plain, script};

/// A small tree with all kinds of files, names and modes.
const TREE: &str = r#"
    mkdir -p a/b/c d empty 'with space' .hidden
    seq 1 100 >a/numbers; printf 'no newline' >a/b/tail; : >a/b/c/zero
    head -c 300000 /dev/zero | tr '\0' z >d/large
    echo hidden >.hidden/f; echo dot >.dotfile; echo space >'with space/a file'
    printf 'x\n' >"$(printf 'new\nline')"; printf 'y\n' >"$(printf '\303\274mlaut')"
    ln -s a/numbers link; ln -s a dirlink; ln -s nowhere dangling; ln a/numbers hard
    mkfifo fifo
    chmod 600 a/numbers; chmod 755 a/b/tail; chmod 1777 d; chmod 2755 empty; chmod 4755 d/large
    touch -d '2001-02-03 04:05:06.123456789' a/b/tail .dotfile; touch -h -d '1999-09-09' link
    touch -d '2011-11-11' a/b/c a/b
"#;

same_as_plain! {
    ls_in_all_forms: script(r#"
        cd "$MNT"
        ls; ls -A; ls -1f | sort; ls -R; ls -F; ls -p; ls -S d a
        ls -lAR --time-style=+; ls -ln --time-style=+%s a/b; ls -s a; ls -d . .. a/ a/.
        ls link dirlink dirlink/ dangling hard -d; ls -L link; ls -l --time-style=+ dirlink/
        ls -t a/b; ls gone || echo "rc $?"; ls dangling/ || echo "rc $?"; ls a/numbers/ || echo "rc $?"
        ls "$MNT" "$MNT/" "$MNT//a" "$MNT/./a/../d"; ls -la --time-style=+ "$MNT/.hidden"
        ls --color=always -d *; ls -i a | awk '{print ($1 > 0)}'; ls -v; ls -X
    "#).setup(TREE);

    stat_in_all_forms: script(r#"
        cd "$MNT"
        for f in . a a/numbers link dirlink dirlink/ dangling fifo d/large empty; do
            stat -c '%n %F %a %u %g %h %s %b %B %t %T %N' "$f"; stat -L -c '%n %F %s' "$f" || echo "rc $?"
        done
        stat -c '%Y %y %X' a/b/tail; stat -c '%y' link
        stat -f -c '%s %S %l' "$MNT/a"; stat gone || echo "rc $?"
        stat -c %F - <a/numbers; stat -L -c '%F %s' /dev/fd/3 3<d/large
        test "$(stat -c %i hard)" = "$(stat -c %i a/numbers)" && echo 'same inode'
        test "$(stat -c %i a)" != "$(stat -c %i d)" && echo 'other inode'
        test "$(stat -c %d a)" = "$(stat -c %d d/large)" && echo 'same device'
        stat -c %m a; stat -c '%w' a | wc -l
    "#).setup(TREE);

    cp_a_keeps_everything: script(r#"
        cd "$MNT"
        cp -a a copy; cp -a "$MNT" "$OUT/out"; cp -a "$OUT/out" back
        cp -a link dangling fifo hard d; cp -L link followed; cp -r dirlink/ r; cp -al a linked; cp -as "$MNT/d" sym
        diff -r a copy && diff -r --no-dereference "$OUT/out/a" back/a && echo same
    "#).setup(TREE);

    cp_in_all_forms: script(r#"
        cd "$MNT"
        cp a/numbers n; cp a/numbers a/b/tail empty; cp -t empty .dotfile; cp -n .dotfile n; cat n | wc -l
        cp -f .dotfile n; cp -b .dotfile n; cp --backup=numbered .dotfile n; cp -u .dotfile n; cp -p a/b/tail p
        cp --sparse=always d/large sparse; cp --sparse=never sparse dense; cp --reflink=auto d/large ref
        cp a/numbers .; cp --remove-destination n link; cp --parents a/b/tail r 2>&1 || echo "rc $?"
        mkdir r; cp --parents a/b/tail r; cp -rT r t; cp r x || echo "rc $?"; cp gone x || echo "rc $?"; cp n n || echo "rc $?"
        cp -r a a/b || echo "rc $?"; cp /bin/true .; cp "$MNT/n" "$OUT/"; cp "$OUT/n" "$MNT/from-out"; cp /dev/null n
    "#).setup(TREE);

    sparse_files_keep_their_holes: script(r#"
        cd "$MNT"
        truncate -s 1M f; printf x | dd of=f bs=1 seek=524288 conv=notrunc status=none
        stat -c '%s %b' f; cp --sparse=auto f g; stat -c '%s %b' g; cmp f g && echo same
        du -k f g; du --apparent-size -k f; fallocate -d f; stat -c '%s %b' f
        fallocate -l 100000 new; stat -c '%s %b' new; fallocate -n -o 100000 -l 8192 new; stat -c '%s %b' new
        fallocate -p -o 0 -l 8192 new; stat -c '%s %b' new
    "#).needs(&["fallocate"]);

    mv_renames_replaces_and_crosses: script(r#"
        cd "$MNT"
        mv a/numbers n; mv n a/b; mv a/b/n .; mv a x; mv x/b .; mv b/c .; ls -R
        mv n .dotfile; cat .dotfile | wc -l; mv -n .dotfile link; mv -b .dotfile link; mv -T c empty || echo "rc $?"
        mv x x/inside || echo "rc $?"; mv gone y || echo "rc $?"; mv d/large empty/; mv empty d/
        mv dangling renamed; mv fifo pipe; mv dirlink l2; mv 'with space/a file' "$(printf 'a\tb')"
        mv d "$OUT/"; mv "$OUT/d" back; ls -R
    "#).setup(TREE).needs_other_device();

    rm_and_rmdir: script(r#"
        cd "$MNT"
        rm a/numbers link; rm dangling dirlink fifo; rm -f gone; rm gone || echo "rc $?"; rm a || echo "rc $?"
        rmdir a || echo "rc $?"; rmdir d/large || echo "rc $?"; rmdir empty; rmdir -p 'with space' || echo "rc $?"
        rm -rv d | sort; rm -r a .hidden; ls -A | cat -v; rm -rf ./* ./.dotfile; ls -A
        mkdir -p deep/1/2/3/4/5/6/7/8/9; touch deep/1/2/3/4/5/6/7/8/9/f; rm -r deep
        for i in $(seq 1 1500); do : >f$i; done; ls | wc -l; rm -f f*; ls | wc -l
        rm -r . || echo "rc $?"; rm -rf .. || echo "rc $?"
    "#).setup(TREE);

    unlinked_files_stay_readable: script(r#"
        cd "$MNT"
        echo before >f; exec 3<f 4>>f; rm f; ls -A
        echo after >&4; cat <&3; stat -L -c '%h %s' /dev/fd/3
        echo new >f; cat f; cat /dev/fd/3; exec 3<&- 4<&-
        echo one >g; exec 3<g; echo two >h; mv h g; cat <&3; cat g
        bash -c 'exec 5<g; rm g; exec cat <&5'
        (echo x >t; exec 6<>t; rm t; bash -c 'echo y >&6; cat /dev/fd/6')
        ls -A
    "#);

    links: script(r#"
        cd "$MNT"
        ln a/numbers h1; ln h1 d/h2; ln -s ../a/numbers d/s; ln -s /etc/passwd abs; ln -sf a link; ln -sfn d dirlink
        ln -r -s d/large rel; readlink rel link d/s abs; readlink a || echo "rc $?"; readlink -f d/s dirlink/large dangling
        readlink -e dangling || echo "rc $?"; readlink -m x/y/../z; realpath dirlink a/b/../.. "$MNT//d/./s"
        realpath --relative-to=a/b d/large; realpath -s d/s; realpath -e gone || echo "rc $?"; ln a b || echo "rc $?"
        ln gone x || echo "rc $?"; ln a/numbers h1 || echo "rc $?"; ln -L link2 x 2>&1 || echo "rc $?"; ln -P dangling hd; link h1 h9
        ln "$MNT/h1" "$OUT/x" || echo "rc $?"; ln -s "$MNT/h1" "$OUT/s"; cat "$OUT/s" | wc -l; unlink h9; stat -c %h h1
        cd a/b; readlink -f ../numbers; realpath .
        ln -s l2 "$MNT/l1"; ln -s l1 "$MNT/l2"; cat "$MNT/l1" || echo "rc $?"; ls -l --time-style=+ "$MNT/l1" | cut -c1-10
    "#).setup(TREE).needs_other_device();

    modes_owners_and_times: script(r#"
        cd "$MNT"
        for m in 0 644 4755 u+s,g-r o=u a-w; do chmod $m a/b/tail; stat -c %a a/b/tail; done
        chmod -R u+rwX,go-rwx a; chmod --reference=d empty; chmod 700 link; umask 077; touch t; mkdir m; umask 0; touch u; mkdir v
        mkdir -m 1770 w; chmod 644 gone || echo "rc $?"; chmod g+s w; touch w/f
        touch -d @1000000000.5 a/numbers; touch -a -d @1 t; touch -m -d @2 t; stat -c '%X %Y' t; touch -r a/numbers u v
        touch -c gone; touch -h -d @3 dangling; stat -c %Y dangling u v; touch -d '1960-01-01' old; stat -c %Y old
        touch new/f || echo "rc $?"; touch a/numbers/ || echo "rc $?"
    "#).setup(TREE);

    owners: script(r#"
        cd "$MNT"
        chown 12:34 a/numbers; chown -R 56 d; chgrp 78 link; chown -h 9:9 dangling; chown :10 empty; chown --from=12 13 a/numbers
        chown 1:1 d/large; stat -c '%n %u %g %a' a/numbers d/large link dangling empty
        chown 65534:65534 a; chmod 2775 a; touch a/inherits; mkdir a/sub; stat -c '%u %g %a' a/inherits a/sub
        chown gone gone || echo "rc $?"; cp -p a/numbers kept; stat -c '%u %g' kept; install -o 7 -g 8 -m 640 .dotfile inst; stat -c '%u %g %a' inst
    "#).setup(TREE).needs_root();

    directories: script(r#"
        cd "$MNT"
        mkdir -p x/y/z x/y/z; mkdir x || echo "rc $?"; mkdir x/y/z/../w; mkdir gone/f || echo "rc $?"; mkdir "$MNT" || echo "rc $?"
        mkdir trailing/; mkdir x/f/ && rmdir x/f/; mkdir -m 711 mode; mkdir ''  || echo "rc $?"; mkdir . || echo "rc $?"
        mkdir "$(printf 'n%.0s' {1..255})"; mkdir "$(printf 'n%.0s' {1..256})" || echo "rc $?"
        stat -c %h . x x/y; mktemp -d -p "$MNT" t.XXXX | grep -c /t; rmdir t.????; mktemp m.XXXXXX | wc -c; rm m.*
        TMPDIR=$MNT mktemp -u | grep -c "^$MNT/"
    "#);

    disk_usage: script(r#"
        cd "$MNT"
        du -sk .; du -ak | sort -k2 | cat -v; du -bs a; du -S a; du --inodes -s .; du -sh d/large; du -L dirlink | tail -1
        df . >/dev/null; df -k "$MNT/a" | wc -l; df -i . | wc -l; df gone || echo "rc $?"
        sync; sync a/numbers; sync -d a/numbers; sync -f a; sync gone || echo "rc $?"
    "#).setup(TREE);

    parts_of_files: script(r#"
        cd "$MNT"
        head -n 3 a/numbers; head -c 5 a/numbers; head -n -98 a/numbers; tail -n 2 a/numbers; tail -c 7 a/numbers; tail -n +99 a/numbers
        tail -c 3 <d/large; tac a/numbers | head -n 2; tail -q -n 1 a/numbers a/b/tail; nl a/numbers | sed -n 5p
        wc a/numbers a/b/tail d/large; wc <a/numbers; wc -c <d/large; cat /dev/stdin <a/b/tail; cat - <a/b/tail; cat <<<x - a/b/tail
        cat a/numbers a/b/tail >all; cat all >>a/b/tail; cat all all >x; cat x >>x || echo "rc $?"; od -c a/b/tail | tail -n 1
        split -l 30 a/numbers part.; split -n 3 -d d/large chunk; csplit -s a/numbers 20 50; cat part.* | cmp - a/numbers
        paste -s -d, a/b/tail; cut -c1 a/numbers | sort | uniq -c; join a/numbers a/numbers | wc -l; expand a/numbers | md5sum
        sha256sum a/numbers d/large >sums; sha256sum -c sums; cmp a/numbers d/large || echo "rc $?"; shuf -n 0 a/numbers; true & wait $!; tail -f --pid=$! a/b/tail 2>/dev/null # inotify is refused
    "#).setup(TREE);

    sort_onto_its_own_input: script(r#"
        cd "$MNT"
        seq 1 5000 | sort -R --random-source=/dev/zero >f; sort -n -o f f; head -n 3 f; sort -r f -o f; head -n 3 f
        sort -T "$MNT" -S 32k --parallel=2 -n f >g; sort -c -n g && echo sorted; ls -A; sort -m -n g g | wc -l; uniq g h; sort -u -o g g g
    "#);

    tee_and_install: script(r#"
        cd "$MNT"
        echo one | tee t u; echo two | tee -a t; cat t u; echo x | tee gone/f || echo "rc $?"
        install -m 640 t inst; install -D t p/q/r; install -d i/j k; install t u k; install -p t kept; install -b u inst
        install -s /bin/true stripped 2>/dev/null || echo "rc $?"; rm -f stripped; ls -lR --time-style=+
    "#);

    dd_seeks_and_keeps: script(r#"
        cd "$MNT"
        seq 1 100 >f; dd if=f of=g bs=7 skip=2 count=3 status=none; cat g; echo
        printf XYZ | dd of=f bs=1 seek=5 conv=notrunc status=none; head -c 20 f
        dd if=/dev/zero of=f bs=10 seek=2 count=1 status=none; wc -c f; dd if=f of=h conv=sparse,fsync bs=1k status=none
        dd if=/dev/zero of=s bs=1 count=0 seek=5000 status=none; stat -c '%s %b' s
        echo end | dd of=g oflag=append conv=notrunc status=none; cat g; dd if=f of=x conv=excl status=none; dd if=f of=x conv=excl status=none || echo "rc $?"
        dd if=gone || echo "rc $?"; dd of=nocreat conv=nocreat </dev/null || echo "rc $?"; dd if=f iflag=directory status=none || echo "rc $?"
        (dd bs=4 count=1 status=none; echo; dd bs=4 count=1 skip=1 status=none) <g | od -c; exec 3<>g; dd bs=2 seek=1 count=1 <&3 >&3 status=none conv=notrunc; cat g
        dd if=/dev/zero of=big bs=1M count=8 status=none; dd if=big bs=1M iflag=fullblock status=none | cksum; dd if=big of=big2 bs=64k iflag=nocache oflag=sync status=none; cmp big big2
    "#);

    truncate_sets_the_length: script(r#"
        cd "$MNT"
        echo hello >f; truncate -s 3 f; od -c f; truncate -s +5 f; od -c f; truncate -s -6 f; wc -c f; truncate -s %100 f; wc -c f
        truncate -s 0 new; truncate -c -s 5 gone; ls; truncate -r f new; wc -c new; truncate -s 1 . || echo "rc $?"; truncate -s 5 x/y || echo "rc $?"
        exec 3<>f; echo abc >&3; truncate -s 0 f; echo def >&3; od -c f
    "#);

    find_walks_filters_and_acts: script(r#"
        cd "$MNT"
        find . | sort | cat -v; find . -type d | sort; find "$MNT" -name '*.f' -o -name numbers | sort; find a -depth; find -L . -name tail | sort
        find . -type f -size +10k; find . -perm -4000; find . -perm /111 -type f | sort; find . -links +1 -type f | sort; find . -empty | sort
        find . -samefile hard | sort; find . -newer .dotfile -type f | sort | cat -v; find . ! -newermt 2002-01-01 -type f | sort; find . -type l -printf '%p -> %l\n' | sort
        find . -xtype l; find a -maxdepth 1 -mindepth 1 -printf '%f %s %m %y\n' | sort; find . -inum "$(stat -c %i hard)" | sort
        find a -type f -exec wc -c {} \; | sort; find a -type f -exec cksum {} + | sort; find a -execdir pwd \; | sort -u
        find . -name 'with*' -prune -o -type f -print | sort | cat -v; find . -type f -print0 | sort -z | xargs -0 cat | cksum; find a -delete; ls
        find . -type p -delete; find . -name gone -delete; find gone || echo "rc $?"; find . -xdev -type d | sort
    "#).setup(TREE);

    grep_r: script(r#"
        cd "$MNT"
        grep -r 1 . | sort | head; grep -rn '^5' a; grep -rl z . | sort; grep -rc . a | sort; grep -rL x . | sort | head -n 3; grep -rw dot .
        grep -R 42 . | sort; grep -r --include='num*' 7 . | wc -l; grep -q 99 a/numbers && echo found; grep gone a/numbers || echo "rc $?"
        grep x gone || echo "rc $?"; grep x a || echo "rc $?"; grep 50 <a/numbers; grep -c 1 a/numbers a/b/tail; grep -rZ hidden . | tr '\0' '#'
        printf '\0binary match\n' >bin; grep -r binary .; grep -m 2 1 a/numbers; (grep -m 1 2; cat) <a/numbers | head -n 3; fgrep -f .dotfile .dotfile
    "#).setup("mkdir -p a/b; seq 1 100 >a/numbers; echo zzz >a/b/tail; ln -s a/numbers link; echo dot >.dotfile; mkdir .hidden; echo hidden >.hidden/f");

    sed_in_place: script(r#"
        cd "$MNT"
        sed -i 's/1/one/' a/numbers; head -n 2 a/numbers; sed -i.bak -e 5d a/numbers; ls a; sed -i 's/^/x/' a/numbers a/b/tail; sed -n '$p' a/b/tail
        sed -i --follow-symlinks 's/x/y/' link; readlink link; sed -i s/y/z/ hard; stat -c %h hard; sed -n -i 1,3p a/numbers; cat a/numbers
        sed 'w written' a/numbers; cat written; sed -e 'r written' -e 's/x/X/w w2' .dotfile; sed -i s/a/b/ gone || echo "rc $?"; sed -i s/a/b/ a || echo "rc $?"
        chmod 600 w2; sed -i s/x/y/ w2; stat -c %a w2; printf 's/dot/DOT/\n' >script.sed; sed -f script.sed .dotfile; sed -s -n '$=' a/numbers .dotfile; ls -A a
    "#).setup(TREE);

    awk_reads_and_writes_files: script(r#"
        cd "$MNT"
        awk '{s += $1} END {print s, NR}' a/numbers; awk '{print > ("mod" $1 % 3)}' a/numbers; wc -l mod?; awk 'NR % 50 == 0 {print >> "app"}' a/numbers a/numbers; cat app
        awk 'BEGIN {while ((getline line < "app") > 0) n++; print n; close("app"); getline line < "app"; print line; r = getline x < "gone"; print r}'
        awk '{print | "sort -r >sorted"}' app; cat sorted; printf '{print NF}\n' >p.awk; awk -f p.awk app; awk 'FNR == 1 {print FILENAME}' app sorted; awk 1 gone || echo "rc $?"
    "#).setup(TREE);

    compressors: script(r#"
        cd "$MNT"
        cp d/large a/numbers .; gzip -n large; gzip -l large.gz | tail -n 1 | awk '{print $2}'; gunzip large.gz; cmp large d/large; gzip -c numbers | gunzip | cmp - numbers
        gzip -k -9 -n numbers; zcat numbers.gz | tail -n 1; gzip -t numbers.gz; gzip numbers </dev/null || echo "rc $?"; gunzip -c <numbers.gz | wc -l
        head -c 20 numbers.gz >cut.gz; gunzip -t cut.gz || echo "rc $?"; touch -d 2003-03-03 large; gzip -n large; stat -c %Y large.gz; gunzip large.gz; stat -c %Y large
        xz -k large; xz -t large.xz; xz -dc large.xz | cmp - large; rm large; unxz large.xz; cmp large d/large; xz -l numbers 2>/dev/null || echo "rc $?"; rm -f *.gz
    "#).setup(TREE).needs(&["gzip", "xz"]);

    many_files_in_one_directory: script(r#"
        cd "$MNT"
        mkdir many; cd many; seq -f 'file-with-a-longer-name-%05g' 1 3000 | xargs touch; ls | wc -l; ls -f | sort | uniq -d; ls | tail -n 1
        ls | awk 'NR % 2' | xargs rm; ls | wc -l; find . -type f | wc -l; cd ..; rm -r many
    "#);

    odd_names: script(r#"
        cd "$MNT"
        for n in ' ' '-' '--' '*' '?' '\' '"' "'" ':' '=' ',' '#' '~' '...' 'a:b' 'a=b' "$(printf '\001\177')" "$(printf '\377\376')" "$(printf 'a\nb')"; do
            echo "$n" >"./$n"; cat "./$n" | cksum; mkdir "./$n.d"; mv "./$n" "./$n.d/"; done
        ls -b; find . -type f | LC_ALL=C sort | cat -v; rm -r -- ./*; ls -A | cat -v
    "#);
}

/// dd takes O_DIRECT off the descriptor before it writes a last block that is no whole one. File systems on disk mind, tmpfs does not.
#[test]
fn direct_writes_end_with_a_part_of_a_block() {
    let Some(session) = Session::new() else { return };
    let backend = session.place.out().join("backend");
    std::fs::create_dir(&backend).expect("a folder on disk");
    for options in ["", ",map=pager"] {
        let script = r#"cd "$1"; seq 1 3000 >numbers; dd if=numbers of=copy bs=4096 oflag=direct status=none; cmp numbers copy && wc -c <copy; rm numbers copy"#;
        same_beside_the_mount(&session, &format!("passthrough{options}:{}", backend.display()), script);
    }
}
