//! `tidegate sessions …`.

use super::Remote;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Clone, Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: SessionsCommand,
}

#[derive(Debug, Clone, Subcommand)]
#[command(after_help = TARGET)]
pub enum SessionsCommand {
    /// Open a session at the initial phase of its type
    #[command(after_help = OPEN_EXAMPLES)]
    Open {
        /// A [sessions.TYPE] of the server's configuration
        #[arg(value_name = "TYPE")]
        kind: String,
        /// A JSON object that is kept with it
        #[arg(long, value_name = "JSON")]
        metadata: Option<String>,
        /// The run that walks it (default: TIDEGATE_RUN_ID, which the program of a run has)
        #[arg(long, value_name = "RUN", env = "TIDEGATE_RUN_ID", hide_env_values = true, conflicts_with = "again")]
        driver: Option<String>,
        /// Open this closed session again, as its next round
        #[arg(long, value_name = "ID")]
        again: Option<String>,
    },
    /// List sessions, newest first
    List {
        /// Only those that are so
        #[arg(long, value_enum)]
        status: Option<StatusArg>,
        /// Only those of this type
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
    },
    /// One session with what has happened to it
    #[command(after_help = TARGET)]
    Get {
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
    /// Go to another phase, along the graph
    #[command(after_help = TARGET)]
    Transition {
        #[arg(value_name = "PHASE")]
        phase: String,
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
    /// Complete the round, from a phase before the last
    #[command(after_help = TARGET)]
    CompleteRound {
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// File with a JSON object that is kept with it; - for stdin
        #[arg(long, value_name = "FILE")]
        result: Option<PathBuf>,
    },
    /// Close a session whose round is completed; its runs are cancelled, but not its driver
    #[command(after_help = TARGET)]
    Close {
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Give it up, whether its round is completed or not
        #[arg(long)]
        abort: bool,
    },
}

const TARGET: &str = "\
Without an ID it is the session that TIDEGATE_SESSION_ID names, else the only active one. Of several none is taken.";

const OPEN_EXAMPLES: &str = "\
Examples:
  tidegate sessions open review --metadata '{\"branch\":\"main\"}'
  tidegate sessions open review --again ses_01m7z98h4682mz3gf7qqbcvmfg";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusArg {
    Active,
    Closed,
}
