//! perl on the mount.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{Case, same_as_plain, script};

fn perl(text: &str) -> Case {
    script(format!("cd \"$MNT\"\ncat >\"$OUT/program.pl\" <<'PROGRAM'\nuse strict; use warnings;\n{text}\nPROGRAM\nperl \"$OUT/program.pl\"\n"))
        .needs(&["perl"])
}

same_as_plain! {
    open_modes: perl(r#"
        sub show { open(my $f, '<', 'f') or return print "open: $!\n"; local $/; my $x = <$f>; $x = '' unless defined $x; $x =~ s/\n/|/g; print "[$x]\n" }
        open(my $w, '>', 'f') or die; print $w "one\n"; close $w; show();
        open($w, '>>', 'f') or die; print $w "two\n"; close $w; show();
        open($w, '+<', 'f') or die; my $l = <$w>; print $l; seek($w, 0, 1); print $w "TWO"; close $w; show();
        open($w, '+>', 'f') or die; print $w "new\n"; seek($w, 0, 0); print scalar <$w>; close $w; show();
        open($w, '+>>', 'f') or die; seek($w, 0, 0); print scalar <$w>; print $w "end\n"; close $w; show();
        open($w, '<', 'gone') or print "$!\n"; open($w, '>', 'gone/x') or print "$!\n"; open($w, '<', '.') and print "dir\n";
        open(my $d, '<&=', fileno(STDIN)) or die; open(my $o, '>&', \*STDOUT) or die; print $o "dup\n"; close $o;
        open(my $p, '-|', 'cat', 'f') or die; print while <$p>; close $p; open($p, '|-', 'cat >g') or die; print $p "piped\n"; close $p; open($p, '<', 'g'); print <$p>;
        open($w, '<', 'f'); binmode $w; read($w, my $buf, 3); print "$buf ", tell($w), " ", eof($w) ? 1 : 0, "\n"; sysseek($w, 1, 0); sysread($w, $buf, 2); print "$buf\n";
        truncate('f', 2) or die; print -s 'f', "\n"; open($w, '+<', 'f'); truncate($w, 5) or die; print -s $w, "\n";
    "#);

    directories_with_telldir_and_seekdir: perl(r#"
        mkdir 'd' or die; for my $i (1 .. 400) { open(my $f, '>', "d/f$i") or die; print $f $i }
        opendir(my $d, 'd') or die; my (@names, @places);
        while (1) { push @places, telldir $d; my $n = readdir $d; last unless defined $n; push @names, $n }
        print scalar(@names), "\n"; my $bad = 0;
        for my $i (reverse 0 .. $#names) { next if $i % 7; seekdir($d, $places[$i]); my $n = readdir $d; $bad++ unless defined $n && $n eq $names[$i] }
        print "bad $bad\n"; rewinddir $d; my @again = readdir $d; print join(',', sort @again) eq join(',', sort @names) ? "same\n" : "differ\n"; closedir $d;
        # Deletion while reading skips and repeats no other entry.
        opendir($d, 'd') or die; my %seen; while (defined(my $n = readdir $d)) { next if $n =~ /^\./; $seen{$n}++; unlink "d/$n" or die if $n =~ /[02468]$/ } closedir $d;
        print scalar(keys %seen), ' ', (grep { $_ > 1 } values %seen) + 0, "\n"; my @left = glob('d/*'); print scalar(@left), "\n";
        opendir($d, 'gone') or print "$!\n"; opendir($d, 'd/f1') or print "$!\n"; rmdir('d') or print "$!\n"; chdir 'd' or die; use Cwd; my $c = getcwd; $c =~ s/.*\///; print "$c\n";
    "#);

    flock_between_processes: perl(r#"
        use Fcntl qw(:flock);
        open(my $f, '>', 'lock') or die; flock($f, LOCK_EX) or die;
        pipe(my $r, my $w); my $pid = fork;
        if (!$pid) { open(my $g, '<', 'lock') or die; print flock($g, LOCK_EX | LOCK_NB) ? "got\n" : "busy\n"; print flock($f, LOCK_EX | LOCK_NB) ? "inherited\n" : "lost\n"; exit 0 }
        waitpid $pid, 0; flock($f, LOCK_UN); open(my $a, '<', 'lock'); open(my $b, '<', 'lock');
        print flock($a, LOCK_SH | LOCK_NB), flock($b, LOCK_SH | LOCK_NB), flock($f, LOCK_EX | LOCK_NB) ? 'x' : '-', "\n"; close $a; close $b; print flock($f, LOCK_EX | LOCK_NB) ? "x\n" : "-\n";
        # Eight children count up one number under the lock.
        open(my $n, '>', 'n'); print $n 0; close $n; flock($f, LOCK_UN);
        for (1 .. 8) { next if fork; for (1 .. 25) { open(my $l, '<', 'lock') or die; flock($l, LOCK_EX) or die; open(my $c, '+<', 'n') or die; my $x = <$c>; seek($c, 0, 0); print $c $x + 1; close $c; close $l } exit 0 }
        1 while wait != -1; open($n, '<', 'n'); print <$n>, "\n";
    "#);

    edits_in_place: script(r#"
        cd "$MNT"; seq 1 10 >f; cp f g; chmod 640 g; ln f hard
        perl -i -pe 's/1/one/' f; cat f hard | md5sum; perl -i.bak -ne 'print if $. % 2' g; ls; stat -c '%a %h' g g.bak f; perl -pi -e 's/^/$ARGV /' f g; cat f g
        perl -0777 -ne 'print length' f; perl -ne 'print "$ARGV $.\n" if eof' f g; perl -e 'print <>' <g; echo 'print "from file\n"; print <DATA>;
__DATA__
data' >p.pl; perl p.pl; printf '#!/usr/bin/perl\nprint "$0\\n" =~ s/.*\\///r' >x; chmod +x x; ./x
        printf 'package M; sub f { "module\\n" } 1;' >M.pm; perl -I. -MM -e 'print M::f()'; perl -e 'require "./M.pm"; print M::f()'
    "#).needs(&["perl"]);

    file_tests_and_metadata: perl(r#"
        open(my $f, '>', 'f'); print $f 'x' x 1000; close $f; mkdir 'd'; symlink 'f', 'l'; link 'f', 'h'; symlink 'gone', 'x';
        for my $n (qw(f d l h x gone)) { print "$n", (-e $n) ? ' e' : '', (-f _) ? ' f' : '', (-d _) ? ' d' : '', (-l $n) ? ' l' : '', ' ', -s $n // '-', "\n" }
        my @s = stat 'f'; printf "%o %d %d\n", $s[2], $s[3], $s[7]; @s = lstat 'l'; printf "%o\n", $s[2]; chmod 0600, 'f'; printf "%o\n", (stat 'h')[2]; utime 1, 2, 'f'; print join(' ', (stat 'f')[8, 9]), "\n";
        print readlink 'l', "\n"; print readlink('f') // "$!", "\n"; rename 'f', 'd/f' or print "$!\n"; rename 'd', 'h' or print "$!\n"; unlink 'd' or print "unlink refused\n"; print unlink('h', 'gone', 'x'), "\n"; rmdir 'd' or print "$!\n";
        printf "%o\n", umask; umask 077; open($f, '>', 'u'); close $f; printf "%o\n", (stat 'u')[2]; require POSIX; print POSIX::access('u', POSIX::R_OK()) ? "r\n" : "-\n"; mkdir 'm/n' or print "$!\n"; print -M 'd/f' > 10000 ? "old\n" : "young\n"; use File::Find; my @found; find({ wanted => sub { push @found, $File::Find::name }, no_chdir => 0 }, '.'); print join("\n", sort @found), "\n";
        use File::Copy; copy('d/f', 'c') or die; move('c', 'c2') or die; print -s 'c2', "\n"; use File::Temp; my $t = File::Temp->new(DIR => '.'); print $t "temp"; print -e $t->filename ? "temp\n" : "no\n";
    "#);

    fork_shares_the_offset: perl(r#"
        $| = 1; open(my $f, '+>', 'f') or die; syswrite $f, join('', map { "line $_\n" } 1 .. 9); sysseek $f, 0, 0;
        my $b; sysread $f, $b, 7; print $b; my $pid = fork; if (!$pid) { sysread $f, $b, 7; print "child $b"; exit 0 } waitpid $pid, 0; sysread $f, $b, 7; print $b;
        $^F = 255; open(my $g, '+<', 'f') or die; sysseek $g, 7, 0; system 'dd bs=7 count=1 status=none <&' . fileno $g; sysread $g, $b, 7; print $b;
        open(my $h, '>>', 'f'); syswrite $h, "a\n"; if (!fork) { syswrite $h, "b\n"; exec 'sh', '-c', 'echo c >&' . fileno $h } wait; syswrite $h, "d\n"; system 'tail -n 4 f';
    "#);

    dbm_and_storable: perl(r#"
        use Storable qw(store retrieve lock_store); my %h = map { $_ => [$_, $_ * 2] } 1 .. 500; lock_store \%h, 'st'; my $r = retrieve 'st'; print scalar(keys %$r), " $r->{500}[1]\n";
        use Fcntl; use SDBM_File; tie(my %d, 'SDBM_File', 'dbm', O_RDWR | O_CREAT, 0644) or die "$!"; $d{$_} = $_ * 3 for 1 .. 800; untie %d; tie(%d, 'SDBM_File', 'dbm', O_RDONLY, 0644) or die; print scalar(keys %d), " $d{800}\n"; untie %d; unlink glob('dbm*'), 'st';
        use Sys::Hostname; my @lines = map { sprintf "%06d\n", ($_ * 7919) % 10007 } 1 .. 5000; open(my $f, '>', 's') or die; print $f @lines; close $f; open($f, '<', 's'); my @sorted = sort <$f>; print scalar(@sorted), " $sorted[0]"; my $sum = 0; seek $f, 0, 0; while (<$f>) { $sum += $_ } print "$sum $.\n";
    "#);
}
