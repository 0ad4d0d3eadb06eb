//! The sqlite3 shell on the mount, with rollback journals. The write-ahead log needs mapped files and is not tested here.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{same_as_plain, script};

same_as_plain! {
    tables_indexes_and_integrity: script(r#"
        cd "$MNT"
        sqlite3 db 'create table t(a integer primary key, b text); create index i on t(b);
            with recursive n(x) as (select 1 union all select x + 1 from n where x < 5000) insert into t select x, hex(x * 7919) from n;
            select count(*), sum(a) from t; update t set b = b || b where a % 3 = 0; delete from t where a % 5 = 0; pragma integrity_check;'
        sqlite3 db 'select count(*), sum(length(b)) from t; vacuum; pragma integrity_check; pragma page_count;'; sqlite3 db .schema; ls -A
        sqlite3 -readonly db 'select max(a) from t'; sqlite3 -readonly db 'delete from t' || echo "rc $?"; sqlite3 db .dump | md5sum
    "#).needs(&["sqlite3"]);

    many_small_transactions: script(r#"
        cd "$MNT"
        for mode in delete truncate persist memory off; do
            { echo "pragma journal_mode=$mode; create table t(x);"; for i in $(seq 1 150); do echo "insert into t values($i);"; done; echo 'select sum(x) from t;'; } | sqlite3 $mode.db
            sqlite3 $mode.db 'pragma integrity_check'
        done
        # A journal that stays has a random number in its header.
        ls -A; rm persist.db-journal; sqlite3 delete.db 'pragma synchronous=full; begin; insert into t values(1); rollback; select count(*) from t'
    "#).needs(&["sqlite3"]);

    two_processes_write_one_database: script(r#"
        cd "$MNT"
        sqlite3 db 'create table t(who, n)'
        for who in a b; do
            (for n in $(seq 1 40); do echo "insert into t values('$who', $n);"; done | sqlite3 -cmd '.timeout 60000' db) &
        done; wait
        sqlite3 db 'select who, count(*), sum(n) from t group by who; pragma integrity_check;'; ls -A
        sqlite3 db 'create table s as select * from t order by who, n; drop table t; vacuum;'
    "#).needs(&["sqlite3"]);

    a_lock_held_by_one_process_stops_the_other: script(r#"
        cd "$MNT"; mkfifo "$OUT/go"
        sqlite3 db 'create table t(x)'
        { echo 'begin exclusive; insert into t values(1);'; echo ".shell echo locked >$OUT/go"; echo ".shell cat $OUT/go"; echo 'commit;'; } | sqlite3 db &
        cat "$OUT/go"; sqlite3 db 'select * from t' || echo "rc $?"; sqlite3 db 'insert into t values(2)' || echo "rc $?"; ls -A
        echo release >"$OUT/go"; wait; sqlite3 db 'insert into t values(3); select * from t'
    "#).needs(&["sqlite3"]);

    killed_writer_leaves_a_journal_that_is_rolled_back: script(r#"
        cd "$MNT"; mkfifo "$OUT/go"
        sqlite3 db 'create table t(x); insert into t values(1)'; cp db before
        exec 2>/dev/null # where the shell tells the number of the killed process
        (exec sqlite3 db) <<END &
pragma cache_size=1; pragma cache_spill=1; begin; with recursive n(x) as (select 1 union all select x + 1 from n where x < 3000) insert into t select hex(zeroblob(50)) from n;
.shell echo written >$OUT/go; kill -KILL \$PPID
END
        cat "$OUT/go"; wait $! || echo "rc $?"; ls -A; sqlite3 db 'pragma integrity_check; select count(*) from t'; ls -A
    "#).needs(&["sqlite3"]);

    import_export_and_attach: script(r#"
        cd "$MNT"
        seq 1 2000 | awk '{print $1 "," $1 * $1}' >in.csv
        sqlite3 db -cmd 'create table t(a, b)' -cmd '.mode csv' '.import in.csv t' ; sqlite3 db '.mode csv' '.output out.csv' 'select a, b from t'; tr -d '\r' <out.csv | cmp - in.csv && echo same
        sqlite3 db "attach '$MNT/second.db' as s; create table s.t as select * from t where a % 2; select count(*) from s.t; begin; delete from main.t where a > 5; delete from s.t where a > 5; commit; select count(*) from main.t; select count(*) from s.t"
        sqlite3 db ".backup '$OUT/copy.db'"; sqlite3 "$OUT/copy.db" 'pragma integrity_check; select count(*) from t'; sqlite3 db "vacuum into '$MNT/into.db'"; sqlite3 into.db 'select count(*) from t'; ls -A
        sqlite3 db .read\ gone || echo "rc $?"; sqlite3 "$MNT/gone/db" 'select 1; create table t(x)' || echo "rc $?"; echo 'not a database, only text of some length that fills a header..............................' >bad; sqlite3 bad .tables || echo "rc $?"
    "#).needs(&["sqlite3"]);
}
