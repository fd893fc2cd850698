//! `tidegate runs …`.

use super::{Remote, duration};
use crate::http::fields::day_or_time;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use storage::model::{RunState, Timestamp};

#[derive(Debug, Clone, Args)]
pub struct RunsArgs {
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub command: RunsCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum RunsCommand {
    /// Make a run, or one for each line of a file
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// List runs, newest first
    List(ListArgs),
    /// One run with its attempts
    Get {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Follow what happens to a run, to its end
    Watch {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Print what a run has written
    Logs(LogsArgs),
    /// Wait until runs have ended; 0 if all succeeded, 8 if one did not
    Wait {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        /// Wait at most this long; the runs themselves go on
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Cancel runs, whether they wait or are being carried out
    Cancel {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Make a new run of the same payload
    Replay {
        #[arg(value_name = "ID")]
        id: String,
    },
}

const CREATE_EXAMPLES: &str = "\
Examples:
  tidegate runs create noop --wait
  tidegate runs create resize --payload '{\"input\":\"a.png\"}' --tag nightly --delay 10m
  tidegate runs create --file runs.ndjson                  # a run a line, {\"task\": …, \"payload\": …}
  tidegate runs create --file runs.ndjson --idempotency-key import-7    # run it again to continue";

#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// Task to run
    #[arg(value_name = "TASK", required_unless_present = "file", conflicts_with = "file")]
    pub task: Option<String>,
    /// A run a line, as JSON objects in the form of the API; - for stdin
    #[arg(
        long,
        value_name = "RUNS.ndjson",
        conflicts_with_all = ["payload", "queue", "priority", "delay", "not_before", "ttl", "tags", "metadata",
            "concurrency_key", "max_attempts", "max_duration", "wait"]
    )]
    pub file: Option<PathBuf>,
    /// What the task gets: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", allow_negative_numbers = true)]
    pub payload: Option<String>,
    /// Queue to wait in (default: the task's)
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Seconds by which it is older than it is: higher goes first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i64>,
    /// Start no sooner than after this time
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "not_before")]
    pub delay: Option<Duration>,
    /// Start no sooner than at this time, in RFC 3339
    #[arg(long, value_name = "DATE")]
    pub not_before: Option<String>,
    /// Give it up if it has not started within this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub ttl: Option<Duration>,
    /// The same key twice makes one run; with --file the beginning of each line's key
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// A tag to find it by; may be given again
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// A JSON object that is kept with it
    #[arg(long, value_name = "JSON")]
    pub metadata: Option<String>,
    /// Runs of one key go one after another
    #[arg(long, value_name = "KEY")]
    pub concurrency_key: Option<String>,
    /// The session whose step it is
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Try it at most this often
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u32>,
    /// Longest time of one attempt
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_duration: Option<Duration>,
    /// Wait until it has ended; 8 if it did not succeed
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Only those that are so: buffered, delayed, queued, running, succeeded, failed, cancelled, timed_out, expired
    #[arg(long, value_parser = run_state)]
    pub status: Option<RunState>,
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Only steps of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Only those accepted this long ago or later (2h, 7d), or at this date (from midnight, UTC) or time, or later
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Moment>,
    /// Only those accepted before: that long ago, or a date or time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Moment>,
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
    /// All there are
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    /// Go on where a list ended, with the same filters; not with "so long ago", which moves with the clock
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
}

/// A point in time, or so long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Ago(Duration),
    At(Timestamp),
}

impl Moment {
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::Ago(span) => now - span,
            Moment::At(at) => at,
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Some(at) = day_or_time(text) {
        return Ok(Moment::At(at));
    }
    let neither =
        || format!("`{text}` is no span such as 30s, 90m or 7d, and no date or time such as 2026-01-31T12:00:00Z");
    duration(text).map(Moment::Ago).map_err(|_| neither())
}

#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    #[arg(value_name = "ID")]
    pub id: String,
    /// stdout or stderr
    #[arg(long, default_value = "stdout", value_parser = ["stdout", "stderr"])]
    pub stream: String,
    /// Only the last bytes
    #[arg(long, value_name = "BYTES")]
    pub tail: Option<u64>,
    /// Stay until the run has ended, over all of its attempts
    #[arg(long, short = 'f')]
    pub follow: bool,
}

fn run_state(word: &str) -> Result<RunState, String> {
    let words: Vec<_> = RunState::ALL.iter().map(|state| state.word()).collect();
    RunState::from_word(word).ok_or_else(|| format!("`{word}` is no status of a run; use one of {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_span_a_date_or_a_time() {
        for (text, expected) in [
            ("2h", Ok(Moment::Ago(Duration::from_secs(7_200)))),
            ("1970-01-02", Ok(Moment::At(Timestamp::from_millis(86_400_000)))),
            ("1970-01-01T01:00:00+01:00", Ok(Moment::At(Timestamp::from_millis(0)))),
        ] {
            assert_eq!(moment(text), expected, "{text}");
        }
        for bad in ["yesterday", "1970-02-30", "", "1970-01-01T00:00:00", "-2h"] {
            assert!(moment(bad).is_err_and(|why| why.starts_with(&format!("`{bad}` is no span"))), "{bad}");
        }
        let now = Timestamp::from_millis(10_000);
        assert_eq!(Moment::Ago(Duration::from_secs(3)).at(now), Timestamp::from_millis(7_000));
    }
}
