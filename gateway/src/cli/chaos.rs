//! `tidegate actors …` and `chaos …`

use super::Remote;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Clone, Args)]
pub struct ActorsArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: ActorsCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ActorsCommand {
    /// The server's supervision tree: who is up, and who died how often
    List,
    /// Kill an actor on purpose, where `chaos.enabled` allows it; it is rebuilt at once
    Kill {
        name: String,
        /// How it dies
        #[arg(long, value_enum, default_value_t = ModeArg::Panic)]
        mode: ModeArg,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    Panic,
    Stop,
    Hang,
}

impl ModeArg {
    pub const fn word(self) -> &'static str {
        match self {
            ModeArg::Panic => "panic",
            ModeArg::Stop => "stop",
            ModeArg::Hang => "hang",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ChaosArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: ChaosCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ChaosCommand {
    /// Kill actors of one server or several by a plan, and tell what became of them
    #[command(after_help = PLAN)]
    Plan {
        /// The plan, in TOML
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Say whom it would hit, and kill nobody
        #[arg(long)]
        dry_run: bool,
    },
}

const PLAN: &str = "\
A plan; everything but `kills` may be left away:
  servers = [\"http://127.0.0.1:7070\"]   # default: --server; the key has to have the scope chaos on each
  targets = [\"worker-*\", \"drainer\"]     # default: all actors
  modes = [\"panic\", \"stop\", \"hang\"]     # default: all of them
  kills = 100                           # it ends when so many were carried out
  per_minute = 60                       # over all servers
  max_seconds = 600                     # it ends then at the latest
  seed = 1                              # the same plan and seed choose the same victims

It ends with 0 when every actor that was killed has been rebuilt, and with 8 if one was not.";
