//! The hidden subcommand `exec-guard`, which nodes start for each program that they run. It is dispatched before
//! anything else: neither the command line nor the configuration concerns it.

use actors::executor::exec::{guard, order};
use std::process::ExitCode;

/// Runs as a guard if the process was started as one.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == order::SUBCOMMAND).then(|| guard::run(arguments.collect()))
}
