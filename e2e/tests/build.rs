//! Building and running a real program on the mount.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use std::time::Duration;

use defuse_e2e::{Case, same_as_plain, same_as_plain_served, script};

/// 44 modules with headers that include each other, a static library, a shared one, a program that loads it, and a Makefile
/// with dependency files.
const PROJECT: &str = r#"
    mkdir -p src include plugin
    for i in $(seq 1 44); do
        next=$((i % 44 + 1))
        printf '#ifndef MOD%d_H\n#define MOD%d_H\n#include "common.h"\nstruct item%d { int value; char name[%d]; };\nint work%d(struct item%d *item, int depth);\n#endif\n' $i $i $i $((i + 8)) $i $i >include/mod$i.h
        { printf '#include "mod%d.h"\n#include "mod%d.h"\n#include <stdio.h>\n#include <string.h>\n' $i $next
          printf 'int work%d(struct item%d *item, int depth)\n{\n    struct item%d next = { item->value * %d %% 10007, "" };\n' $i $i $next $((i + 2))
          printf '    snprintf(next.name, sizeof next.name, "%%d", next.value);\n    return depth ? work%d(&next, depth - 1) + (int)strlen(next.name) : item->value;\n}\n' $next
        } >src/mod$i.c
    done
    printf '#ifndef COMMON_H\n#define COMMON_H\n#define VERSION "1.0"\n#endif\n' >include/common.h
    printf 'int plugin_answer(int x) { static int calls; return x * 2 + calls++; }\n' >plugin/plugin.c
    cat >src/main.c <<'END'
#include "mod1.h"
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    struct item1 first = { argc + 41, "first" };
    printf("version %s result %d\n", VERSION, work1(&first, 200));
    void *library = dlopen(argc > 1 ? argv[1] : "./libplugin.so", RTLD_NOW);
    if (!library)
        return printf("%s\n", dlerror()), 1;
    int (*answer)(int) = dlsym(library, "plugin_answer");
    printf("plugin says %d and %d\n", answer(20), answer(20));
    return dlclose(library);
}
END
    cat >Makefile <<'END'
CFLAGS = -O1 -g -Wall -Iinclude -MMD -MP
OBJECTS = $(patsubst src/%.c,obj/%.o,$(filter-out src/main.c,$(wildcard src/*.c)))
all: program libplugin.so
program: obj/main.o libmods.a
	$(CC) -o $@ $^ -ldl
libmods.a: $(OBJECTS)
	rm -f $@ && ar rcsD $@ $(sort $^)
libplugin.so: plugin/plugin.c
	$(CC) $(CFLAGS) -MF obj/plugin.d -shared -fPIC -o $@ $<
obj/%.o: src/%.c | obj
	@echo compiling $<; $(CC) $(CFLAGS) -c -o $@ $<
libplugin.so: | obj
obj:
	mkdir obj
check: all
	./program && ./program "$(CURDIR)/libplugin.so"
install: all
	install -D program $(DESTDIR)/bin/program && install -D -m 644 libplugin.so $(DESTDIR)/lib/libplugin.so
clean:
	rm -rf obj program *.a *.so
.PHONY: all check install clean
-include $(wildcard obj/*.d)
END
"#;

fn project(text: &str) -> Case {
    script(format!("cd \"$MNT\"\n{text}"))
        .setup(PROJECT)
        .needs(&["make", "gcc", "ar"])
        .limit(Duration::from_secs(600))
}

same_as_plain! {
    make_builds_runs_and_rebuilds_what_changed: project(r#"
        make -s -j2 | sort; make -s check; make -q && echo up to date
        # A second passes in the file times, not in the test.
        find . -exec touch -d '2020-01-01' {} +; touch -d '2020-01-02' include/mod7.h; make -s -j2 all | sort; ./program
        find . -exec touch -d '2020-01-01' {} +; sed -i 's/1\.0/2.0/' include/common.h; make -s -j2 check | sort
        make -s install DESTDIR="$OUT/inst"; make -s install DESTDIR="$MNT/inst"; cd inst/bin && ./program ../lib/libplugin.so; (cd "$OUT/inst/bin" && ./program "$MNT/libplugin.so")
        cd "$MNT"; nm libmods.a | grep -c ' T work'; size program | tail -n 1 | wc -w; file=$(readlink -f program); echo "$file"; strip -o stripped program; ./stripped; make -s clean; ls
    "#);

    objects_outside_sources_on_the_mount_and_the_reverse: project(r#"
        mkdir "$OUT/o"; for i in $(seq 1 44); do echo "src/mod$i.c"; done | xargs -P 2 -I{} sh -c 'gcc -O1 -Iinclude -c -o "$OUT/o/$(basename {} .c).o" {}'
        ar rcsD "$MNT/outside.a" "$OUT"/o/*.o; gcc -O1 -Iinclude -o p src/main.c outside.a -ldl; gcc -shared -fPIC -o libplugin.so plugin/plugin.c; ./p
        cp -r src include "$OUT/"; cd "$OUT"; gcc -O0 -Iinclude -c src/mod1.c -o "$MNT/mod1.o"; gcc -O1 -pipe -save-temps=obj -I"$MNT/include" -c src/mod2.c -o "$MNT/mod2.o"; ls "$MNT"
        cd "$MNT"; echo 'int main(void) { return 3; }' | gcc -x c -o three -; ./three || echo "rc $?"; gcc -c gone.c || echo "rc $?"; echo 'int main( {' >bad.c; gcc -c bad.c || echo "rc $?"; gcc -E -Iinclude src/mod3.c | grep -c item3; TMPDIR=$MNT gcc -Iinclude -c src/mod3.c -o 3.o; ls *.o
    "#);

    dlopen_by_every_kind_of_path: project(r#"
        make -s -j2 >/dev/null; mkdir d; cp libplugin.so d/; ln -s d/libplugin.so link.so; cp program d/
        for l in ./libplugin.so d/libplugin.so link.so/../libplugin.so "$MNT/libplugin.so" "$MNT/link.so" ./link.so /proc/self/cwd/libplugin.so; do ./program "$l" || echo "rc $?"; done 2>&1
        cd d; ./program; ../program; cd /; "$MNT/program" "$MNT/d/libplugin.so"; LD_LIBRARY_PATH=$MNT/d "$MNT/program" libplugin.so; "$MNT/program" || echo "rc $?"; cd "$MNT"; head -c 500 libplugin.so >cut.so; ./program ./cut.so || echo "rc $?"; echo text >text.so; ./program ./text.so || echo "rc $?"; : >empty.so; ./program ./empty.so || echo "rc $?"
        ln -s "$MNT/libplugin.so" "$OUT/out.so"; ./program "$OUT/out.so"; cp libplugin.so "$OUT/"; ln -s "$OUT/libplugin.so" in.so; ./program ./in.so
    "#);

    library_on_the_mount_that_a_program_needs_at_start: project(r#"
        gcc -shared -fPIC -o libplugin.so plugin/plugin.c; printf '#include <stdio.h>\nint plugin_answer(int); int main(void) { return !printf("%%d\\n", plugin_answer(4)); }\n' >use.c
        gcc -o use use.c -L. -lplugin -Wl,-rpath,"$MNT"; ./use; cp use "$OUT/use"; "$OUT/use"; gcc -o origin use.c -L. -lplugin '-Wl,-rpath,$ORIGIN'; ./origin; gcc -o plain use.c -L. -lplugin; LD_LIBRARY_PATH=$MNT ./plain; cd "$OUT"; LD_LIBRARY_PATH=$MNT "$MNT/plain"
    "#);

    /// The build script's first use of the mount is made by the compiler that it starts, between vfork and exec.
    cargo_builds_runs_and_tests: script(r#"
        cd "$MNT"; PATH=$(dirname "$CARGO"):$PATH; mkdir src tests; printf '[package]\nname = "built"\nversion = "0.1.0"\nedition = "2021"\n' >Cargo.toml
        cat >build.rs <<'END'
fn main() {
    let version = std::process::Command::new(std::env::var("RUSTC").unwrap()).arg("--version").output().unwrap();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").unwrap()).join("made");
    std::fs::create_dir_all(&out).unwrap();
    let text = format!("pub const VERSION: &str = {:?};", String::from_utf8(version.stdout).unwrap());
    std::fs::write(out.join("version.rs"), text).unwrap();
}
END
        echo 'include!(concat!(env!("OUT_DIR"), "/made/version.rs")); pub fn twice(x: u32) -> u32 { 2 * x }' >src/lib.rs
        echo 'fn main() { println!("{} {}", built::twice(4), built::VERSION.trim()); }' >src/main.rs
        echo '#[test] fn doubles() { assert_eq!(built::twice(2), 4) }' >tests/twice.rs
        cargo run -q --offline; cargo test -q --offline 2>&1 | grep -c 'test result: ok. 1 passed'; sed -i 's/2 \* x/x + x + 1/' src/lib.rs; cargo run -q --offline
        cargo test -q --offline >"$OUT/log" 2>&1 || echo "rc $?"; grep -c FAILED "$OUT/log"; rm "$OUT/log"; cargo clean -q --offline; ls
    "#).env("CARGO", env!("CARGO")).needs(&[env!("CARGO"), "cc"]).limit(Duration::from_secs(600));

    shell_and_awk_scripts_with_interpreter_lines: script(r#"
        cd "$MNT"; mkdir bin; export PATH="$MNT/bin:$PATH"
        printf '#!/bin/sh\necho "sh $0" "$@"; exec inner "$@"\n' >bin/outer; printf '#!/usr/bin/awk -f\nBEGIN { for (i = 1; i < ARGC; i++) print ARGV[i] }\n' >bin/inner; printf '#! /bin/cat\nshown\n' >bin/shown; chmod +x bin/*
        outer a 'b c'; inner x; shown; bin/outer; cp /bin/sh bin/mysh; printf '#!%s/bin/mysh\necho "mine $0"\n' "$MNT" >bin/own; chmod +x bin/own; own; printf '#!bin/mysh\necho relative\n' >bin/rel; chmod +x bin/rel; rel; cd bin; ./rel || echo "rc $?"
        find . -name own -exec {} \; ; echo ./own | xargs sh; env own; nice ./own; timeout 20 ./own; nohup ./own 2>/dev/null | tail -n 1; printf '#!%s/bin/own2\n' "$MNT" >own2; chmod +x own2; ./own2 || echo "rc $?"
    "#);
}

same_as_plain_served! {
    what_a_program_on_the_mount_knows_of_itself: script(r#"
        cd "$MNT"; cp "$FIX/self" prog; ln -s prog link; mkdir d; cp prog d/inner; cp "$FIX/self" "$OUT/outside"
        ./prog; ./link x; "$MNT/prog" y; d/inner; (cd d; ../prog; ./inner); PATH=$MNT prog; (exec -a renamed ./prog); "$OUT/outside"; exec 3<prog; /proc/self/fd/3 by fd; /dev/fd/3 again
        mv prog moved; ./moved; ./d/../moved; env -i ./moved; chmod 111 moved; ./moved; printf '#!%s/moved -o\n' "$MNT" >interp; chmod +x interp; ./interp a b
    "#).fixture("self").needs_root();
}
