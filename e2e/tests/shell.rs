//! bash on the mount: redirections, shared offsets, jobs, the working directory.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{same_as_plain, script};

same_as_plain! {
    redirections_truncate_append_and_read_back: script(r#"
        cd "$MNT"
        echo one >f; echo two >>f; cat <f
        echo three >f; cat f
        { echo out; echo err >&2; } >both 2>&1; cat both
        { echo out; echo err >&2; } 2>err >out; cat err out
        echo spread &>all; cat all
        : >empty; test -s empty || echo empty
        printf 'no newline' >g; read -r x <g || echo "rc $? <$x>"
        cat <f >copy; cmp f copy
    "#);

    here_documents_and_here_strings: script(r#"
        cd "$MNT"
        cat >f <<-END
	first $((1 + 1))
	second
	END
        cat f
        cat <<'END' >>f
literal $HOME
END
        cat f
        tr a-z A-Z <<<"a here string" >g; cat g
        # Longer than a pipe holds: bash puts it into a file in TMPDIR, here on the mount.
        TMPDIR=$MNT
        long=$(head -c 200000 /dev/zero | tr '\0' x)
        wc -c <<<"$long"
        ls -A
    "#);

    numbered_descriptors_read_and_write_at_one_offset: script(r#"
        cd "$MNT"
        printf 'line1\nline2\nline3\n' >f
        exec 3<>f
        read -r a <&3; read -r b <&3; echo "$a $b"
        printf 'LINE3' >&3
        exec 3>&-
        cat f
        exec 4<f 5>g
        cat <&4 >&5
        exec 4<&- 5>&-
        cmp f g
        exec 6>>f; echo more >&6; exec 7>&6; exec 6>&-; echo again >&7; exec 7>&-
        cat f
        exec 10<f {fd}<g
        read -r x <&10; read -r y <&$fd; echo "$x $y"
        exec 10<&- {fd}<&-
    "#);

    closed_descriptor_says_so: script(r#"
        cd "$MNT"
        echo x >f
        exec 3<f; exec 3<&-
        cat <&3 || echo "rc $?"
        (echo y >&4) 2>err || echo "rc $?"
        cat err
        exec 3>f
        cat <&3 || echo "read of a write-only file: rc $?"
    "#);

    while_read_shares_the_offset_with_a_child: script(r#"
        cd "$MNT"
        seq 1 20 >f
        while read -r line; do
            echo "shell $line"
            if [ "$line" = 3 ]; then head -c 6 | od -c; fi
        done <f
        # Another program reads what the shell left.
        { read -r a; read -r b; echo "$a $b"; sed -n 2p; } <f
        exec 3<f
        read -r a <&3
        (read -r b <&3; echo "subshell $b")
        read -r c <&3
        bash -c 'read -r d <&3; echo "child $d"'
        read -r e <&3
        echo "$a $c $e"
    "#);

    children_append_through_the_offset_of_their_parent: script(r#"
        cd "$MNT"
        { echo a; (echo b); bash -c 'echo c'; env echo d; env -i /bin/echo e; } >f
        cat f
        exec 3>g
        echo 1 >&3; (echo 2 >&3); bash -c 'echo 3 >&3'; echo 4 >&3
        exec 3>&-
        cat g
    "#);

    subshells_and_command_substitution: script(r#"
        cd "$MNT"
        echo content >f
        x=$(<f); echo "$x"
        y=$(cat f; (cd /; echo "$PWD")); echo "$y"
        (exec 5>g; echo sub >&5); cat g
        echo "$(wc -c <f)" `cat g`
        (cd "$MNT" && mkdir d && cd d && pwd && echo in >x); cat d/x; pwd
    "#);

    process_substitution: script(r#"
        cd "$MNT"
        printf 'b\na\n' >f; printf 'a\nc\n' >g
        diff <(sort f) <(sort g) || echo "rc $?"
        comm -12 <(sort f) <(sort g)
        paste <(cat f) g
        tee >(cat >copy) <f >/dev/null; wait $!
        while [ "$(cat copy 2>/dev/null)" != "$(cat f)" ]; do :; done
        cat copy
    "#);

    background_jobs_write_side_by_side: script(r#"
        cd "$MNT"
        for i in 1 2 3 4 5 6; do (for j in 1 2 3; do echo "$i.$j"; done >f$i) & done
        wait
        cat f1 f2 f3 f4 f5 f6
        cat f? | sort | wc -l
        sleep 0 >g & wait $!; echo "rc $?"
        (exit 7) & wait $! || echo "rc $?"
    "#);

    two_programs_append_to_one_file: script(r#"
        cd "$MNT"
        for i in 1 2 3 4; do
            seq -f "$i-%05g" 1 500 | while read -r line; do echo "$line"; done >>log &
        done
        wait
        wc -l log | cut -d' ' -f1
        sort log | uniq -d
        sort log
        # Each writer's own lines stay in order.
        for i in 1 2 3 4; do grep "^$i-" log | sort -c && echo ordered; done
        sort -o log log
    "#);

    noclobber: script(r#"
        cd "$MNT"
        set -C
        echo one >f
        (echo two >f) || echo "refused $?"
        echo three >|f; cat f
        set +C
        echo four >f; cat f
        ln -s nowhere dangling
        set -C
        (echo x >dangling) || echo "refused $?"
        ls
    "#);

    working_directory: script(r#"
        cd "$MNT"; pwd; mkdir -p a/b/c
        cd a; pwd; cd b/c; pwd; cd -; cd ..; pwd
        pushd a/b >/dev/null; dirs; pushd "$OUT" >/dev/null; pwd; popd >/dev/null; pwd; popd; pwd
        cd a/b/c; /bin/pwd; cd ../..; /bin/pwd; cd ..; /bin/pwd
        cd "$MNT/.."; test "$PWD" = "$(dirname "$MNT")" && echo parent
        ls -d mnt mnt/a
        cd "$MNT"; ln -s a/b link; cd link; pwd; pwd -P; /bin/pwd; cd ..; pwd
        cd -P link; pwd
        cd "$MNT"; (cd nowhere) || echo "rc $?"
        touch file; (cd file) || echo "rc $?"
        bash -c pwd
        cd a && env -i /bin/bash -c pwd
        CDPATH=$MNT; cd /; cd a; pwd
    "#);

    removed_working_directory: script(r#"
        cd "$MNT"; mkdir d; cd d; rmdir ../d
        /bin/pwd || echo "rc $?"
        ls; ls -a; ls -a .; stat -c '%F %h' .; (echo x >f) || echo "rc $?"; (echo x >./f) || echo "rc $?"; (cat ./../d/f) || echo "rc $?"
        # Another directory of that name is not this one.
        mkdir ../d; echo other >../d/f; ls; (cat f) || echo "rc $?"; (cat d/f) || echo "rc $?"; cat ../d/f; mkdir e || echo "rc $?"; rm f || echo "rc $?"
        bash -c 'ls; cat f || echo "rc $?"; bash -c "ls; (cat f) || ls .."'
        (cd . && ls -a); (cd ../d; pwd)
        cd ..; pwd; ls -A; rm -r d
    "#);

    renamed_working_directory: script(r#"
        cd "$MNT"; mkdir -p a/b; echo x >a/b/f; cd a/b
        mkfifo "$OUT/go" "$OUT/went"
        # A process that was started before, and does nothing until then.
        (exec bash -c 'read -r <"$OUT/go"; cat f; /bin/pwd; cd ..; /bin/pwd; ls; echo >"$OUT/went"') &
        python3 -c '
import os, subprocess, sys
subprocess.run(["mv", os.environ["MNT"] + "/a", os.environ["MNT"] + "/moved"], check=True)
print(os.getcwd(), os.listdir(), open("f").read(), os.stat("../b/f").st_size, os.readlink("/proc/self/cwd"))'
        /bin/pwd; cat f; ls ..; ls; cat ../../moved/b/f
        echo >"$OUT/go"; read -r <"$OUT/went"; wait; rm "$OUT/go" "$OUT/went"
        mv ../../moved "$MNT/again"; (cd ..; /bin/pwd); mkdir -p "$MNT/a/b"; ls; rm -r "$MNT/again/b"; ls -A; /bin/pwd || echo "rc $?"; ls ..  || echo "rc $?"
        cd "$MNT"; ls; rm -r a again
    "#).needs(&["python3"]);

    globbing: script(r#"
        cd "$MNT"
        touch a1 a2 b1 .hidden 'with space' 'star*'; mkdir -p d1/e d2/e; touch d1/e/x d2/e/y d1/z
        echo *; echo a*; echo [!a]*; echo .h*; echo */; echo */*; echo */e/?; echo nothing*
        shopt -s nullglob dotglob globstar extglob
        echo nothing*; echo *; echo **; echo **/; echo !(a*|d*); echo "$MNT"/a?
        printf '<%s>\n' *\ * 'star'\**
        compgen -f a
    "#);

    file_tests: script(r#"
        cd "$MNT"
        echo x >f; : >empty; mkdir d; ln -s f link; ln -s gone dangling; mkfifo pipe
        chmod 755 f; touch -d '2001-01-01' old; ln f hard
        t() { if test "$@"; then echo "$*: yes"; else echo "$*: no"; fi; }
        for name in f empty d link dangling pipe old gone "$MNT" "$MNT/" f/ d/; do
            for op in -e -f -d -h -L -p -S -b -c -s -r -w -x -O -G -u -g -k; do t $op "$name"; done
        done
        t f -nt old; t old -ot f; t f -ef hard; t f -ef link; t f -ef old
        exec 3<f; t -e /dev/fd/3; t -f /dev/fd/3; t -t 3
    "#);

    scripts_and_sourced_files_lie_on_the_mount: script(r#"
        cd "$MNT"
        printf '#!/bin/bash\necho "run $0 $#" "$@"\n' >s; chmod +x s
        ./s a 'b c'; "$MNT/s" x; bash s y; PATH=$MNT:$PATH; s z
        printf '#!/bin/sh -e\nfalse\necho not reached\n' >e; chmod +x e; ./e || echo "rc $?"
        printf 'x=sourced\n' >lib; . ./lib; echo $x
        printf '#!%s/s  one argument \n' "$MNT" >nested; chmod +x nested; ./nested two
        printf '#!/usr/bin/env bash\necho env\n' >v; chmod +x v; ./v
        printf 'echo no interpreter line\n' >n; chmod +x n; ./n
        touch notexec; ./notexec || echo "rc $?"
        ./gone || echo "rc $?"
        printf '#!/gone\n' >bad; chmod +x bad; ./bad || echo "rc $?"
        mkdir d; ./d || echo "rc $?"
        printf 'echo stdin\nread -r x; echo "<$x>"\ndata\n' >in; bash <in
    "#);

    script_that_grows_while_it_runs: script(r#"
        cd "$MNT"
        # bash reads a script piece by piece, at the offset of its own descriptor 255.
        printf 'echo one\necho "echo three" >>self\necho two\n' >self
        bash self
    "#);

    programs_on_the_mount: script(r#"
        cd "$MNT"
        cp /bin/echo /bin/cat /bin/ls .
        ./echo run; echo text >f; ./cat f; ./ls
        "$MNT/echo" absolute
        (exec ./echo replaced)
        exec 3<f; ./cat <&3
        env -i ./echo 'empty environment'
        chmod -x cat; ./cat f || echo "rc $?"
        ln -s echo e; ./e link; ln echo h; ./h hard
        (exec -a other ./echo named)
        cd /; "$MNT/./../mnt/echo" dots
    "#);

    fifo_between_two_processes: script(r#"
        cd "$MNT"
        mkfifo p
        (echo through >p) & read -r x <p; wait; echo "$x"
        seq 1 1000 >p & wc -l <p; wait
        ls -l p | cut -c1-10
    "#);

    read_builtins: script(r#"
        cd "$MNT"
        seq 1 5 >f
        mapfile -t lines <f; echo "${#lines[@]} ${lines[4]}"
        mapfile -n 2 -t lines <f; echo "${lines[*]}"
        IFS=: read -r -a fields <<<'a:b:c'; echo "${fields[2]}"
        read -r -N 3 x <f; echo "<$x>"
        read -r -d 3 x <f; echo "<$x>"
        { read -r; cat; } <f
        while read -r -u 5 a && read -r -u 6 b; do echo "$a$b"; done 5<f 6<f
    "#);

    trap_and_exit_write_to_the_mount: script(r#"
        cd "$MNT"
        bash -c 'trap "echo bye >t" EXIT; echo hello >h'; cat h t
        bash -c 'trap "echo got >usr" USR1; kill -USR1 $$; cat usr'
        bash -c 'exec >log; echo logged; exec 2>&1; ls gone' || echo "rc $?"
        cat log
    "#);

    session_started_in_a_scrubbed_environment: script(r#"
        cd "$MNT"
        env -i /bin/bash -c "echo scrubbed >f; cat f; exec 3<f; env -i /bin/cat <&3"
        exec 3<>g
        env -i /bin/bash -c 'echo through >&3'
        cat g
        env -u LD_PRELOAD cat f
    "#);

    pipelines: script(r#"
        cd "$MNT"
        seq 1 1000 | tee copy | awk '{s += $1} END {print s}' >sum
        cat sum; wc -l <copy
        cat copy | head -n 1; tail -n 1 copy
        yes | head -n 100000 >y; wc -c <y
        set -o pipefail
        cat gone | wc -c || echo "rc $?"
        cat <copy | (read -r x; echo "$x"; cat >/dev/null)
    "#);

    symbolic_links_into_the_mount_and_out_of_it: script(r#"
        cd "$OUT"; echo outside >o; mkdir dir
        ln -s "$MNT" in; ln -s "$OUT" "$MNT/out"; ln -s "$MNT/f" file
        echo data >in/f; cat file; cat "$MNT/f"
        cat "$MNT/out/o"; echo new >"$MNT/out/n"; cat n
        cat in/out/in/out/in/f
        echo through >file; cat in/f
        cd in; pwd; pwd -P; ls; cd out; pwd -P; cd in/out; ls
        ln -s loop "$MNT/loop"; cat "$MNT/loop" || echo "rc $?"
        cat "$MNT/../mnt/f"; ls "$MNT/out/../out"
    "#);

    limits_of_the_process: script(r#"
        cd "$MNT"
        # The descriptor limit is the program's own.
        (ulimit -n 20; ulimit -n
         n=0; while [ "$n" -lt 50 ] && { exec {fd}>"f$n"; } 2>/dev/null; do n=$((n + 1)); done; echo "$n files"; exit 0)
        ls | wc -l
        (ulimit -f 1; head -c 1M /dev/zero >big) 2>/dev/null || echo "rc $?"
        stat -c %s big
        (ulimit -c 0; ulimit -n 64; bash -c 'ulimit -n')
    "#);
}
