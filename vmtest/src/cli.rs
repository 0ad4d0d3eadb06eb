//! The command line.

use crate::error::Error;
use crate::kernels::{self, Kernel};

/// What `--help` prints.
pub const USAGE: &str = "\
usage: vmtest setup [--install] [-k KERNEL]...
       vmtest list
       vmtest build [--check] [-k KERNEL]...
       vmtest run [-k KERNEL]... [--cpus N] [--with PACKAGE]... [FILTER]...
       vmtest selftest [-k KERNEL]
       vmtest shell [-k KERNEL]

setup    get kernels, headers and virtme-ng into the cache folder; --install also
         installs, by apt-get, what the machine lacks
list     kernels and tests
build    compile the module (--check: with sparse)
run      boot each kernel and run the tests whose name contains a FILTER;
         --with: also the tests of another package of this workspace
selftest see that a run fails whose tests, kernel or machine go wrong
shell    a prompt in the machine, module loaded, an example mounted on /mnt

Without -k: 6.1 and 6.12 (selftest, shell: 6.12); -k all for all but debug,
which is compiled with KASAN, lockdep and kmemleak when it is set up.
The cache folder is $VMTEST_CACHE, else vmtest below the workspace's target folder.
";

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the usage.
    Help,
    /// List kernels and tests.
    List,
    /// Fill the cache.
    Setup {
        /// For these kernels.
        kernels: Vec<&'static Kernel>,
        /// Also install missing packages.
        install: bool,
    },
    /// Compile the module.
    Build {
        /// For these kernels.
        kernels: Vec<&'static Kernel>,
        /// With sparse.
        check: bool,
    },
    /// Run tests.
    Run(RunOptions),
    /// See that faults are found.
    SelfTest {
        /// In this kernel.
        kernel: &'static Kernel,
    },
    /// A prompt.
    Shell {
        /// In this kernel.
        kernel: &'static Kernel,
    },
}

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// In these kernels.
    pub kernels: Vec<&'static Kernel>,
    /// Virtual CPUs, if it is said.
    pub cpus: Option<u32>,
    /// Other packages whose tests run in the guest.
    pub packages: Vec<String>,
    /// Parts of test names; none means all.
    pub filters: Vec<String>,
    /// Run what goes wrong, in place of the module's tests: how `selftest` calls it.
    pub faults: bool,
}

/// Make sense of the arguments after the program's name.
pub fn parse(arguments: &[String]) -> Result<Command, Error> {
    let mut words = arguments.iter().map(String::as_str);
    let command = words.next().unwrap_or("--help");
    let mut seen = Seen::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::Usage(format!("{word} needs a value")));
        match word {
            "-k" | "--kernel" => seen.add_kernels(value()?)?,
            "--cpus" => {
                let count = value()?.parse().ok().filter(|count| *count > 0);
                seen.cpus = Some(count.ok_or_else(|| Error::Usage("--cpus needs a number".into()))?);
            }
            "--with" => seen.packages.push(value()?.to_owned()),
            "--install" => seen.install = true,
            "--check" => seen.check = true,
            "--faults" => seen.faults = true,
            "-h" | "--help" => return Ok(Command::Help),
            option if option.starts_with('-') => {
                return Err(Error::Usage(format!("unknown option {option}")));
            }
            filter => seen.filters.push(filter.to_owned()),
        }
    }
    seen.finish(command)
}

/// Options as they were met, before the command says which it takes.
#[derive(Default)]
struct Seen {
    kernels: Vec<&'static Kernel>,
    cpus: Option<u32>,
    packages: Vec<String>,
    filters: Vec<String>,
    install: bool,
    check: bool,
    faults: bool,
}

impl Seen {
    fn add_kernels(&mut self, name: &str) -> Result<(), Error> {
        if name == "all" {
            self.kernels = kernels::distributed().collect();
            return Ok(());
        }
        let kernel = kernels::named(name).ok_or_else(|| {
            let known: Vec<_> = kernels::KERNELS.iter().map(|kernel| kernel.name).collect();
            Error::Usage(format!("no kernel {name}; there are {}", known.join(", ")))
        })?;
        if !self.kernels.contains(&kernel) {
            self.kernels.push(kernel);
        }
        Ok(())
    }

    fn finish(mut self, command: &str) -> Result<Command, Error> {
        let one_kernel = self.kernels.first().copied().or(kernels::named("6.12"));
        let one_kernel = one_kernel.expect("6.12 is in the table");
        if self.kernels.is_empty() {
            self.kernels = kernels::DEFAULT.iter().filter_map(|name| kernels::named(name)).collect();
        }
        if command != "run" && !(self.filters.is_empty() && self.packages.is_empty() && self.cpus.is_none()) {
            return Err(Error::Usage(format!("{command} takes no filter, --with or --cpus")));
        }
        if self.faults && command != "run" {
            return Err(Error::Usage(format!("{command} takes no --faults")));
        }
        if self.install && command != "setup" || self.check && command != "build" {
            return Err(Error::Usage(format!("{command} takes no --install or --check")));
        }
        Ok(match command {
            "setup" => Command::Setup { kernels: self.kernels, install: self.install },
            "list" => Command::List,
            "build" => Command::Build { kernels: self.kernels, check: self.check },
            "run" => Command::Run(RunOptions {
                kernels: self.kernels,
                cpus: self.cpus,
                packages: self.packages,
                filters: self.filters,
                faults: self.faults,
            }),
            "selftest" => Command::SelfTest { kernel: one_kernel },
            "shell" => Command::Shell { kernel: one_kernel },
            "-h" | "--help" | "help" => Command::Help,
            other => return Err(Error::Usage(format!("unknown command {other}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map_err(|error| error.to_string())
    }

    fn kernels(names: &[&str]) -> Vec<&'static Kernel> {
        names.iter().map(|name| kernels::named(name).expect("a kernel")).collect()
    }

    #[test]
    fn run_takes_kernels_filters_and_packages() {
        let Ok(Command::Run(options)) =
            parsed("run -k 6.12 locks -k 6.1 -k 6.12 --with defuse mmap --cpus 2")
        else {
            panic!("not a run");
        };
        assert_eq!(options.kernels, kernels(&["6.12", "6.1"]));
        assert_eq!(options.filters, ["locks", "mmap"]);
        assert_eq!(options.packages, ["defuse"]);
        assert_eq!(options.cpus, Some(2));
    }

    #[test]
    fn without_a_kernel_the_default_ones_are_meant() {
        assert_eq!(parsed("build"), Ok(Command::Build { kernels: kernels(kernels::DEFAULT), check: false }));
        assert_eq!(parsed("shell"), Ok(Command::Shell { kernel: kernels(&["6.12"])[0] }));
        let all = kernels::distributed().collect();
        assert_eq!(parsed("setup --install -k all"), Ok(Command::Setup { kernels: all, install: true }));
        assert_eq!(parsed(""), Ok(Command::Help));
    }

    #[rstest::rstest]
    #[case("boot", "unknown command boot")]
    #[case("run -k", "-k needs a value")]
    #[case("run -k 5.10", "no kernel 5.10; there are 6.1")]
    #[case("run --fast", "unknown option --fast")]
    #[case("run --cpus none", "--cpus needs a number")]
    #[case("run --cpus 0", "--cpus needs a number")]
    #[case("list locks", "list takes no filter")]
    #[case("selftest locks", "selftest takes no filter")]
    #[case("list --faults", "list takes no --faults")]
    #[case("run --install", "run takes no --install")]
    fn nonsense_is_named(#[case] line: &str, #[case] message: &str) {
        let error = parsed(line).expect_err("accepted");
        assert!(error.starts_with(message), "{error}");
        assert!(error.contains("usage:"));
    }
}
