//! The command line: nouns, then verbs; data on stdout, everything else on stderr.

mod remote;
mod runs;
mod fleet;
mod jobs;
mod sessions;
mod sweep;
mod repair;
mod chaos;
mod upkeep;

pub use chaos::{ActorsArgs, ActorsCommand, ChaosArgs, ChaosCommand, ModeArg};
pub use fleet::{
    BufferArgs, BufferCommand, DbCommand, DevArgs, KeysCommand, NodesArgs, NodesCommand, WorkerArgs, WorkersArgs,
    WorkersCommand,
};
pub use jobs::{JobsArgs, JobsCommand, PolicyArg, SourceArg, StartArgs};
pub use remote::Remote;
pub use repair::{ImportBatchesArgs, RepairArgs, RepairCommand};
pub use runs::{CreateArgs, ListArgs, LogsArgs, Moment, RunsArgs, RunsCommand};
pub use sessions::{SessionsArgs, SessionsCommand, StatusArg};
pub use sweep::{SweepArgs, SweepCommand};
pub use upkeep::ConfigCommand;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use storage::model::{BatchState, Money, Source};

/// Durable runs through LLM provider batches, resumed after any crash and never paid twice.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where the state lives: sqlite:PATH or postgres://… (default: a SQLite file in your state directory)
    #[arg(long, global = true, env = "TIDEGATE_STORE", hide_env_values = true, value_name = "URL")]
    pub store: Option<String>,
    /// File that holds the store's URL, for one with a password in it
    #[arg(long, global = true, env = "TIDEGATE_STORE_FILE", value_name = "FILE", value_parser = maybe_empty())]
    pub store_file: Option<PathBuf>,
    /// Configuration file (default: tidegate.toml here, if there is one)
    #[arg(long, global = true, env = "TIDEGATE_CONFIG", value_name = "FILE", value_parser = maybe_empty())]
    pub config: Option<PathBuf>,
    /// Form of what goes to stdout
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Form of the progress on stderr
    #[arg(long, global = true, value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Jsonl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    Auto,
    Bar,
    Plain,
    Json,
    None,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry a JSONL file of requests through provider batches; run it again to continue
    #[command(after_help = PROCESS_EXAMPLES)]
    Process(Box<ProcessArgs>),
    /// Take runs in over HTTP and carry them out, until a signal
    Serve(ServeArgs),
    /// Serve from a temporary store with example tasks, a simulated provider and a key, to try things out
    Dev(DevArgs),
    /// Make runs, look at them, wait for them, stop them
    Runs(RunsArgs),
    /// Pull workers: see them, or be one
    Workers(WorkersArgs),
    /// What is accepted and waits to be let through
    Buffer(BufferArgs),
    /// The nodes on one database: see them, let one go
    Nodes(NodesArgs),
    /// The store: its schema, a copy of it, whether it agrees with itself
    #[command(subcommand)]
    Db(DbCommand),
    /// API keys, in the store itself
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Run the simulated provider by itself, with faults to switch on
    Sim(SimArgs),
    /// Look at provider batches, and answer for those of unknown fate
    #[command(subcommand)]
    Batches(BatchesCommand),
    /// Jobs: see those of this store, or have a server carry out what waits for an llm task
    Jobs(JobsArgs),
    /// Sessions: walks over a typed phase graph, whose steps are runs
    Sessions(SessionsArgs),
    /// Sweeps: how they went, and one more of them now
    Sweep(SweepArgs),
    /// Put right at once what was left behind, or take in what was bought elsewhere
    Repair(RepairArgs),
    /// The actors of a server: see them, kill one on purpose
    Actors(ActorsArgs),
    /// Kill actors by a plan, to see that it holds
    Chaos(ChaosArgs),
    /// Check the store, the configuration and the providers
    Doctor(DoctorArgs),
    /// What can be measured
    #[command(subcommand)]
    Metrics(MetricsCommand),
    /// Settings: what they are, where they come from, whether a file is right
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the OpenAPI document of the API
    Openapi,
    /// Print what completes command lines in a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        #[arg(value_name = "SHELL", value_enum)]
        shell: Shell,
    },
    /// Write a manual page for each command
    #[command(hide = true)]
    Man {
        /// An existing folder; pages of these names are overwritten
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

const COMPLETIONS: &str = "\
Examples:
  tidegate completions bash > ~/.local/share/bash-completion/completions/tidegate
  tidegate completions zsh > ~/.zfunc/_tidegate        # a folder of fpath
  tidegate completions fish > ~/.config/fish/completions/tidegate.fish";

impl Command {
    /// Whether it cannot run with a configuration that is refused.
    pub fn needs_settings(&self) -> bool {
        !matches!(self, Command::Config(_) | Command::Completions { .. } | Command::Man { .. })
    }
}

const PROCESS_EXAMPLES: &str = "\
Examples:
  tidegate process requests.jsonl --out results.jsonl                 # by the key that is set, else simulated
  tidegate process requests.jsonl --out results.jsonl --dry-run       # what it would send and cost
  tidegate process requests.jsonl --out results.jsonl --max-usd 5     # never spend more than 5 dollars

Killed, or stopped? Run the same command again: what is settled is not sent again, what is submitted is not
submitted again.";

#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Requests, one JSON object a line: {custom_id, method, url, body} or {custom_id, params}
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where the results go: one line for each line of FILE, in the same order
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// openai, anthropic, sim, or a [providers.NAME] of the configuration
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Never spend more than this many dollars on the file (needs known prices)
    #[arg(long, value_name = "N")]
    pub max_usd: Option<Money>,
    /// Stop after this many rounds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_rounds: u32,
    /// Stop after this long (90m, 36h, 30s); what is submitted is still collected by the next run
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_wallclock: Option<Duration>,
    /// Try each line at most this often
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_attempts: u32,
    /// At most this many requests in one provider batch
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_batch_requests: u32,
    /// How often a submitted batch is asked about (default: 30s; simulated: 250ms)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub poll: Option<Duration>,
    /// How long an ambiguous create is looked for before it counts as absent (default: 2m; Anthropic: 15m)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub settle: Option<Duration>,
    /// Call requests one by one, at the live price, where fewer than this are left: a batch is not worth it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub live_below: u32,
    /// From this long after the start, stop batches and call what is left, as far as --max-usd allows
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub live_after: Option<Duration>,
    /// Before 1,000 and more requests of a kind are sent, call one live; if that kind is refused, send none
    #[arg(long)]
    pub canary: bool,
    /// Who asked for it: somebody (backfill), or a schedule (daemon)
    #[arg(long, default_value = "backfill", value_parser = source)]
    pub source: Source,
    /// Print items, batches and cost (low and worst); write and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Make a new job, although this file has one; everything is bought again
    #[arg(long)]
    pub restart: bool,
    /// Serve /livez and /metrics here while it runs
    #[arg(long, value_name = "ADDR")]
    pub ops_listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address of the API (default: 127.0.0.1:7070); port 0 picks a free one, which is printed
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of /livez, /readyz, /startupz and /metrics (default: 127.0.0.1:7071)
    #[arg(long, value_name = "ADDR")]
    pub ops_listen: Option<SocketAddr>,
    /// What this node does
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    pub role: Vec<Role>,
    /// Whether callers need a key (default: as soon as there is one)
    #[arg(long, value_enum)]
    pub auth: Option<Auth>,
}

impl ServeArgs {
    pub fn roles(&self) -> Vec<Role> {
        if self.role.contains(&Role::All) {
            return vec![Role::Api, Role::Worker, Role::Poller, Role::Sweeper];
        }
        self.role.clone()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    All,
    Api,
    Worker,
    Poller,
    Sweeper,
}

impl Role {
    pub const fn word(self) -> &'static str {
        match self {
            Role::All => "all",
            Role::Api => "api",
            Role::Worker => "worker",
            Role::Poller => "poller",
            Role::Sweeper => "sweeper",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    None,
    Keys,
}

#[derive(Debug, Clone, Args)]
pub struct SimArgs {
    /// Address to listen on; port 0 picks a free one, which is printed
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7080")]
    pub listen: SocketAddr,
    /// Folder of its durable state (default: beside the store)
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Time from a batch's create to its end (default: 3s)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub latency: Option<Duration>,
    /// A fault to switch on, NAME=VALUE; may be given again
    #[arg(long = "fault", value_name = "NAME=VALUE")]
    pub faults: Vec<String>,
    /// Print all faults and what they do
    #[arg(long)]
    pub list_faults: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum BatchesCommand {
    /// List batches, newest first
    List {
        /// Only those in this state
        #[arg(long, value_parser = batch_state)]
        state: Option<BatchState>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
        /// Go on after this batch
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// One batch with its events
    Get { id: String },
    /// Follow what happens to a batch, to its end; 0 if it is collected, 8 if it is abandoned
    Watch { id: String },
    /// Say that a batch of unknown fate is this one at the provider
    Adopt {
        id: String,
        /// The provider's id of the batch
        #[arg(long, value_name = "ID")]
        provider_batch_id: String,
    },
    /// Have a batch stopped at its provider; what it has not carried out is queued again
    Cancel { id: String },
    /// Give a batch of unknown fate up; its runs are queued again, and may be billed twice
    Abandon {
        id: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Print the result lines that one batch brought, in order
    Results { id: String },
}

#[derive(Debug, Clone, Subcommand)]
pub enum MetricsCommand {
    /// Every metric with its type, unit, labels and buckets
    Catalogue {
        /// As the page that stands in ops/METRICS.md
        #[arg(long)]
        markdown: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Also ask each configured provider whether it accepts the key and what time it is (one cheap list call), and look
    /// up the hosts of webhooks
    #[arg(long)]
    pub online: bool,
    /// The folder, laid out as `ops`, whose rules and boards are in use
    #[arg(long, value_name = "DIR", default_value = "ops")]
    pub ops: PathBuf,
}

/// Reads `90m`, `36h`, `1500ms`, `2d` or bare seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{text}` is not a time; use for example 30s, 90m or 36h")),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * factor);
    match seconds.filter(|seconds| (0.001..=31_536_000.0).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_millis((seconds * 1_000.0).round() as u64)),
        None => Err(format!("`{text}` is not a time between 1ms and 365d")),
    }
}

/// A path that may be empty, which counts as not given: an environment variable cannot be unset everywhere.
fn maybe_empty() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn source(word: &str) -> Result<Source, String> {
    Source::from_word(word).ok_or_else(|| format!("`{word}` is no source; use backfill or daemon"))
}

fn batch_state(word: &str) -> Result<BatchState, String> {
    let words: Vec<_> = BatchState::ALL.iter().map(|state| state.word()).collect();
    BatchState::from_word(word)
        .ok_or_else(|| format!("`{word}` is no state of a batch; use one of {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_units() {
        for (text, millis) in [("30s", 30_000), ("90m", 5_400_000), ("1.5h", 5_400_000), ("250ms", 250), ("7", 7_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "-1s", "0s", "1 fortnight", "1e9d", "NaN"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
