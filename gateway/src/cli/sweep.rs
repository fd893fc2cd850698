//! `tidegate sweep …`

use super::Remote;
use actors::sweeper::Kind;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

#[derive(Debug, Clone, Args)]
pub struct SweepArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: SweepCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum SweepCommand {
    /// How each kind last went, and what it has found
    Status,
    /// Do one pass of each kind now; of all but `retention` if none is named
    Run {
        #[arg(value_name = "KIND", value_parser = PossibleValuesParser::new(words()))]
        kinds: Vec<String>,
    },
}

fn words() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.word()).collect()
}
