//! A database server of many processes: shared memory, write-ahead log, recovery after a crash.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{same_as_plain, script};

same_as_plain! {
    /// The server refuses to run as root.
    a_cluster_survives_a_crash: script(r#"
        tools=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1); chmod 755 "$MNT/.."; chmod 777 "$MNT" "$OUT"
        cat >"$OUT/work" <<'END'
            set -eu; PATH=$1:$PATH; cd "$MNT"; export LC_ALL=C PGHOST=$OUT PGDATABASE=postgres PGDATA=$MNT/data PGCTLTIMEOUT=250
            initdb -A trust -U tester >/dev/null; export PGUSER=tester
            start() { pg_ctl -o "-k $OUT -c listen_addresses='' -c shared_buffers=16MB" -l "$OUT/log" -w start >/dev/null || { cat "$OUT/log"; exit 1; }; }
            balances='select count(*), sum(abalance) = (select sum(tbalance) from pgbench_tellers) from pgbench_accounts'
            start; pgbench -q -i -s 1 2>/dev/null; pgbench -c 4 -j 2 -t 100 2>/dev/null | grep processed; psql -Atc "$balances"
            psql -qc 'create table text as select n, repeat(md5(n::text), 20) as t from generate_series(1, 5000) n; create index on text (t)'
            pg_ctl stop -m immediate >/dev/null; start; psql -Atc "$balances"; psql -Atc 'select count(*), md5(string_agg(t, null order by n)) from text'
            psql -qc 'vacuum full text'; pg_dump -t text | grep -v restrict | md5sum; pg_ctl stop -m fast >/dev/null; pg_controldata | grep 'cluster state'
            rm -rf "$MNT/data"
END
        run="bash $OUT/work $tools"; if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups $run; else $run; fi
        rm -f "$OUT"/*
    "#).needs(&["postgres", "setpriv"]);
}
