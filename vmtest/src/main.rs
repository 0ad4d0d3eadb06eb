//! The kernel module's VM lab: `vmtest setup|list|build|run|selftest|shell`. The README tells how to use it.

mod apt;
mod cli;
mod debug_kernel;
mod error;
mod guest;
mod kernel_log;
mod kernels;
mod kmod;
mod kvm;
mod lab;
mod report;
mod run;
mod selftest;
mod setup;
mod test_binary;
mod tools;
mod userland;
mod virtme;
mod vm;

use std::process::ExitCode;

use cli::Command;
use error::Error;
use lab::Lab;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "guest") {
        return guest::main(&arguments[1..]);
    }
    match cli::parse(&arguments).and_then(carry_out) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vmtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<ExitCode, Error> {
    let lab = Lab::open()?;
    match command {
        Command::Help => print!("{}", cli::USAGE),
        Command::List => list(&lab),
        Command::Setup { kernels, install } => setup::setup(&lab, &kernels, install)?,
        Command::Build { kernels, check } => {
            for kernel in kernels {
                let ko = kmod::build(&lab, kernel, check)?;
                println!("{}: {}", kernel.name, ko.display());
            }
        }
        Command::Run(options) => return run::run(&lab, &options),
        Command::SelfTest { kernel } => return selftest::run(kernel),
        Command::Shell { kernel } => vm::shell(&lab, kernel)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(lab: &Lab) {
    println!("kernels, in {}:", lab.cache().display());
    for kernel in kernels::KERNELS {
        let state = if lab.has_kernel(kernel) { "ready" } else { "not set up" };
        println!("  {:<5} {:<22} {:<18} {state}", kernel.name, kernel.abi, kernel.suite);
    }
    println!("tests:");
    for test in guest::all() {
        println!("  {}", test.name);
    }
}
