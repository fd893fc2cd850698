//! `tidegate repair …`

use super::Remote;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Clone, Args)]
pub struct RepairArgs {
    #[command(flatten)]
    pub remote: Remote,
    /// Say what would be done, and change nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    #[command(subcommand)]
    pub command: Option<RepairCommand>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum RepairCommand {
    /// Take the results of provider batches that are known by their ids alone, so that nothing is bought again
    ImportBatches(ImportBatchesArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ImportBatchesArgs {
    /// The batches' ids as the provider shows them, one a line
    #[arg(value_name = "FILE")]
    pub ids: PathBuf,
    /// The requests that they answer, as `process` takes them: told by their custom ids
    #[arg(long, value_name = "FILE")]
    pub requests: PathBuf,
    /// openai, anthropic, sim, or a [providers.NAME] of the configuration
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// As `process` is going to be told
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_attempts: u32,
}
