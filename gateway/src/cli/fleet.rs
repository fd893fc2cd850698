//! `tidegate workers …`, `buffer …`, `nodes …`, `db …`, `keys …` and `dev`.

use super::{Remote, duration};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
pub struct WorkersArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: WorkersCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum WorkersCommand {
    /// List pull workers that have asked for work lately
    List,
    /// Take runs of pull tasks and carry each out with a program, until a signal
    #[command(after_help = RUN_EXAMPLES)]
    Run(WorkerArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  tidegate workers run --task thumbnail -- ./thumbnail.sh
  tidegate workers run --task train --concurrency 4 --lease 5m -- python3 train.py --gpu

The program gets the payload as JSON on stdin, and TIDEGATE_RUN_ID, TIDEGATE_TASK and TIDEGATE_ATTEMPT in its
environment. What it writes is kept with the run. Exit code 0 completes the run; any other one fails the attempt.";

#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// A pull task to take; may be given again
    #[arg(long = "task", value_name = "NAME", required = true)]
    pub tasks: Vec<String>,
    /// Runs at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub concurrency: u32,
    /// How long a run is this worker's without a heartbeat; one is sent every third of it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = lease)]
    pub lease: Duration,
    /// Between asking a program to stop and killing it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub grace: Duration,
    /// What the worker is called (default: HOST-PID)
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Program and its arguments, run once for each run
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

#[derive(Debug, Clone, Args)]
pub struct BufferArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: BufferCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum BufferCommand {
    /// How much waits in the buffer, and for how long
    Status,
    /// List the entries, oldest first
    Entries {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// Go on where a list ended
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
}

#[derive(Debug, Clone, Args)]
pub struct NodesArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: NodesCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum NodesCommand {
    /// List the nodes that are there
    List,
    /// Let a node finish what it has and take nothing on; stop it when it is idle
    Drain {
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// These open the store itself, and work on nothing in it.
#[derive(Debug, Clone, Subcommand)]
pub enum DbCommand {
    /// Bring the schema up to date; older nodes go on beside it
    Migrate,
    /// Print what the store has, and what this binary would add
    Status,
    /// Copy a SQLite store as it is now, also while a server works on it
    Backup {
        /// The new file; none is overwritten
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Say that a store is a copy whose original went on: nothing is bought before that is looked into
    Restored,
    /// Check that what the store holds agrees with itself, also while a server works on it; 0 or 8
    Check,
}

/// These open the store itself: the first key cannot come from a server that asks for one.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is printed once and stored nowhere
    Create {
        /// Env that the key is for
        #[arg(long, value_name = "ORG/ENV")]
        env: String,
        /// What it may do, with commas: runs:read, runs:write, workers, queues:write, buffer:read, jobs:read,
        /// jobs:write, admin, chaos
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
        scopes: Vec<String>,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
        /// Let it end after this time (90d)
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires: Option<Duration>,
    },
    /// List keys; what can be used as one is not among it
    List {
        /// Only those of this env
        #[arg(long, value_name = "ORG/ENV")]
        env: Option<String>,
    },
    /// Make a key like this one, and let this one end
    Rotate {
        #[arg(value_name = "ID")]
        id: String,
        /// How long the old one stays good
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
        grace: Duration,
    },
    /// End keys at once; servers notice within seconds
    Revoke {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Address of the API; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// Address of /livez, /readyz, /startupz and /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071")]
    pub ops_listen: SocketAddr,
}

fn lease(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3_600);
    duration(text).and_then(|span| if range.contains(&span) { Ok(span) } else { Err("use 1s to 1h".to_owned()) })
}
