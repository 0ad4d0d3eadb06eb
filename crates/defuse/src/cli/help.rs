//! Texts of `--help`.

/// `defuse --help`.
pub const COMMAND: &str = "\
Run unmodified programs on file systems that live in a shared library.

Usage: defuse run -m POINT=LIBRARY[,OPTION...]:BACKEND... [--] PROGRAM [ARGUMENT...]
       defuse plugin list
       defuse plugin check LIBRARY:BACKEND
       defuse doctor

Commands:
  run            Run a program, and all that it starts, with mounts of its own
  plugin list    List the plugins that are found by name
  plugin check   Try a plugin against the rules that file systems keep
  doctor         Tell what this machine offers, and what would mend what it lacks

Options:
  -h, --help     Print help (also after a command)
  -V, --version  Print the version
";

/// `defuse run --help`.
pub const RUN: &str = "\
Run a program, and all that it starts, with mounts of its own.

Usage: defuse run [OPTION...] -m MOUNT... [--] PROGRAM [ARGUMENT...]

Options:
  -m, --mount MOUNT    POINT=LIBRARY[,OPTION...]:BACKEND; may be given more than once
      --dispatch WHEN  Have the kernel catch system calls that cannot be rewritten: never, auto
                       (default: when a program has some) or always (for code made at run time
                       that auto does not see; every system call gets some 40 ns slower)
      --log LEVEL      Log to standard error: off, error, warn (default), info, debug or trace
      --log-file FILE  Append the log to FILE instead
      --trace[=FILE]   Log each call that is served, with its result and time; short for
                       --log trace --log-file FILE
  -h, --help           Print this help

A MOUNT serves the directory POINT, which must exist and be empty, through a plugin.
LIBRARY is the name of a plugin (passthrough for libpassthrough.so) or, with a slash in it,
the path of one. OPTIONs and BACKEND are for the plugin to understand. A backslash in POINT
or LIBRARY, or before a colon in an OPTION, takes the next character as it is.

  defuse run -m /tmp/mnt=passthrough:/tmp/src -- ls -l /tmp/mnt

The exit status is the program's; if a signal kills it, the same signal kills this command.
125: this command failed; 126: PROGRAM cannot be started; 127: PROGRAM was not found.

Environment:
  DEFUSE_LOG           LEVEL or LEVEL:FILE, as with --log and --log-file
  DEFUSE_PLUGIN_PATH   Directories with plugins, colons between them
  DEFUSE_LIBRARY       The library that is loaded into programs, if it is not found by itself
  DEFUSE_RUN_DIR       Where sessions are kept (default: $XDG_RUNTIME_DIR, /dev/shm or /tmp)
";

/// `defuse plugin --help`.
pub const PLUGIN: &str = "\
List and try plugins.

Usage: defuse plugin list
       defuse plugin check [OPTION...] LIBRARY[,OPTION...]:BACKEND

list    Prints name, interface and path of each plugin that is found by name: in
        $DEFUSE_PLUGIN_PATH, beside this command, and in ../lib/defuse as seen from it.
check   Drives the plugin with operations of all kinds, in a directory that it makes on BACKEND
        and removes again, and prints the shortest sequence found after which it differs from
        what a file system should do. The exit status is 0 if there is none, else 1.

Options of check:
      --seed N       Try other sequences (default: 1)
      --sequences N  Try more or fewer of them (default: 400)
  -h, --help         Print this help
";

/// `defuse doctor --help`.
pub const DOCTOR: &str = "\
Tell what this machine offers, and what would mend what it lacks.

Usage: defuse doctor

Each line says ok, note (something that could be better) or lack (defuse run cannot work), and is followed
by what would mend it. The exit status is 0 unless something is lacking.
";
