//! The binary: reads the command line, runs the command, and ends with its exit code.

use clap::Parser;
use gateway::cli::{Cli, Command, Output};
use gateway::config::Config;
use gateway::exit::{Exit, Failure};
use gateway::serve::OnHangup;
use std::process::ExitCode;

/// A request makes and drops dozens of small values, often on different threads, which the C library's allocator is
/// slow at: measured, a fifth of the CPU of taking a run in.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = gateway::exec_guard::run_if_asked() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // Nothing sensible is left to do when even this cannot be printed.
            let _ = error.print();
            return code.into();
        }
    };
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            gateway::output::note(&failure);
            if let Some(problem) = failure.problem.as_ref().filter(|_| cli.common.output != Output::Table) {
                gateway::output::note(problem);
            }
            failure.exit.into()
        }
    }
}

fn run(cli: &Cli) -> Result<Exit, Failure> {
    if let Some(name) = storage::failpoint::unknown_name() {
        return Err(Failure::usage(format!("TIDEGATE_FAILPOINT names `{name}`, which is no failpoint")));
    }
    if let Command::Doctor(args) = &cli.command {
        return gateway::doctor::run(args, &cli.common, Config::load(cli.common.config.as_deref()));
    }
    let config =
        if cli.command.needs_settings() { Config::load(cli.common.config.as_deref())? } else { Config::default() };
    match &cli.command {
        Command::Process(args) => gateway::process::run(args, &cli.common, &config),
        Command::Serve(args) => gateway::serve::run(args, &cli.common, &config, OnHangup::Reload),
        Command::Dev(args) => gateway::dev::run(args, &cli.common, &config),
        Command::Runs(args) => gateway::runs::run(args, &cli.common),
        Command::Workers(args) => gateway::workers::run(args, &cli.common),
        Command::Buffer(args) => gateway::buffer::run(args, &cli.common),
        Command::Nodes(args) => gateway::nodes::run(args, &cli.common),
        Command::Db(command) => gateway::db::run(command, &cli.common),
        Command::Keys(command) => gateway::keys::run(command, &cli.common, &config),
        Command::Metrics(command) => gateway::catalogue::run(command, &cli.common),
        Command::Openapi => gateway::openapi::run(cli.common.output),
        Command::Sim(args) => gateway::sim_command::run(args, &cli.common, &config),
        Command::Batches(command) => gateway::batches::run(command, &cli.common, &config),
        Command::Jobs(args) => gateway::jobs::run(args, &cli.common, &config),
        Command::Sweep(args) => gateway::sweeps::run(args, &cli.common),
        Command::Repair(args) => gateway::repair::run(args, &cli.common, &config),
        Command::Actors(args) => gateway::actors_command::run(args, &cli.common),
        Command::Chaos(args) => gateway::chaos_plan::run(args, &cli.common),
        Command::Sessions(args) => gateway::sessions::run(args, &cli.common),
        Command::Doctor(args) => gateway::doctor::run(args, &cli.common, Ok(config)),
        Command::Completions { shell } => gateway::shell::completions(*shell),
        Command::Man { out } => gateway::shell::man(out),
        Command::Config(command) => gateway::config_command::run(command, &cli.common),
    }
}
