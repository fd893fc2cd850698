//! `tidegate jobs …`.

use super::{Remote, duration};
use clap::{Args, Subcommand, ValueEnum};
use std::time::Duration;
use storage::model::Money;

#[derive(Debug, Clone, Args)]
pub struct JobsArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: JobsCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum JobsCommand {
    /// What a job would do on a server, and cost at most; nothing is written or sent
    Plan(Box<StartArgs>),
    /// Have a server carry out what waits for an llm task
    #[command(after_help = START_EXAMPLES)]
    Start(Box<StartArgs>),
    /// List the jobs of this store, newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
        /// Go on after this job
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// One job of this store with its rounds and counts
    Get {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Follow what happens to a server's job, to its end; 0 if nothing is left, 8 if runs failed, 9 at a ceiling
    Watch {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Open no more batches for a server's job; what is in flight is collected
    Suspend {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Let a suspended job of a server go on with its next round
    Resume {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// End a server's job; what is in flight is collected, the rest waits for another
    Cancel {
        #[arg(value_name = "ID")]
        id: String,
    },
}

const START_EXAMPLES: &str = "\
Examples:
  tidegate jobs start summarise                                   # all that waits now, then it ends
  tidegate jobs start summarise --since 2026-11-01 --max-usd 20   # only what came since, under a cap
  tidegate jobs start summarise --tag nightly --tag eu            # only what carries both tags
  tidegate jobs start summarise --source daemon --every 15m       # for ever, in batches";

#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// The llm task whose runs to carry out
    #[arg(value_name = "POOL")]
    pub pool: String,
    /// backfill takes what waits and ends; daemon stands and batches what comes
    #[arg(long, value_enum, default_value_t = SourceArg::Backfill)]
    pub source: SourceArg,
    /// What a person calls it
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Only runs accepted at this date (from midnight, UTC) or time, or later
    #[arg(long, value_name = "DATE")]
    pub since: Option<String>,
    /// Only runs of this queue
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Only runs with this tag; may be given again, for runs that carry all of them
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Only runs of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Only runs with this concurrency key
    #[arg(long, value_name = "KEY")]
    pub concurrency_key: Option<String>,
    /// Only runs of this priority or a higher one
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority_min: Option<i64>,
    /// exclusive refuses to work beside a job of the other source
    #[arg(long, value_enum, default_value_t = PolicyArg::Disjoint)]
    pub policy: PolicyArg,
    /// How often a daemon begins a round
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub every: Option<Duration>,
    /// It begins one sooner when so many runs wait
    #[arg(long, value_name = "N")]
    pub at_runs: Option<u32>,
    /// It begins one sooner when so many bytes wait
    #[arg(long, value_name = "N")]
    pub at_bytes: Option<u64>,
    /// Never spend more than this many dollars (needs known prices)
    #[arg(long, value_name = "N")]
    pub max_usd: Option<Money>,
    /// Stop after this many rounds
    #[arg(long, value_name = "N")]
    pub max_rounds: Option<u32>,
    /// Stop after this time (90m, 36h)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_wallclock: Option<Duration>,
    /// Requests in one provider batch
    #[arg(long, value_name = "N")]
    pub max_batch_requests: Option<u32>,
    /// As `plan`
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SourceArg {
    Backfill,
    Daemon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyArg {
    Disjoint,
    Exclusive,
}
