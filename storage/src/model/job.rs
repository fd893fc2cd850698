//! A job: a drive that takes every pending run of a scope to its end, in rounds, under ceilings.

use super::machine::state_machine;
use super::money::Money;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

state_machine! {
    /// Where a job stands.
    states JobState {
        Created = "created",
        Running = "running",
        Suspended = "suspended",
        Finishing = "finishing",
        Finished = "finished",
        Cancelled = "cancelled",
        Failed = "failed",
    }
    /// What can happen to a job.
    events JobEvent {
        Started = "started",
        Suspended = "suspended",
        Resumed = "resumed",
        Stopping = "stopping",
        Finished = "finished",
        Cancelled = "cancelled",
        Failed = "failed",
    }
    edges {
        Created + Started => Running,
        Created + Cancelled => Cancelled,
        Created + Failed => Failed,
        Running + Suspended => Suspended,
        Running + Stopping => Finishing,
        Running + Cancelled => Cancelled,
        Running + Failed => Failed,
        Suspended + Resumed => Running,
        Suspended + Cancelled => Cancelled,
        Suspended + Failed => Failed,
        Finishing + Finished => Finished,
    }
}

#[cfg(test)]
const INITIAL: &[JobState] = &[JobState::Created];

/// Who asked for a job: somebody, bounded; or nobody, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Backfill,
    Daemon,
}

impl Source {
    pub const fn word(self) -> &'static str {
        match self {
            Source::Backfill => "backfill",
            Source::Daemon => "daemon",
        }
    }

    pub fn from_word(word: &str) -> Option<Source> {
        match word {
            "backfill" => Some(Source::Backfill),
            "daemon" => Some(Source::Daemon),
            _ => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a job finished. Exactly one is stored (invariant 23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    AlreadyEmpty,
    Drained,
    NoProgress,
    MaxRounds,
    Wallclock,
    SpendCap,
    Degraded,
    NoOp,
}

impl StopReason {
    pub const ALL: &'static [StopReason] = &[
        StopReason::AlreadyEmpty,
        StopReason::Drained,
        StopReason::NoProgress,
        StopReason::MaxRounds,
        StopReason::Wallclock,
        StopReason::SpendCap,
        StopReason::Degraded,
        StopReason::NoOp,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            StopReason::AlreadyEmpty => "already_empty",
            StopReason::Drained => "drained",
            StopReason::NoProgress => "no_progress",
            StopReason::MaxRounds => "max_rounds",
            StopReason::Wallclock => "wallclock",
            StopReason::SpendCap => "spend_cap",
            StopReason::Degraded => "degraded",
            StopReason::NoOp => "no_op",
        }
    }

    pub fn from_word(word: &str) -> Option<StopReason> {
        StopReason::ALL.iter().copied().find(|reason| reason.word() == word)
    }

    /// Nothing was left to do (invariant 24).
    pub const fn is_clean(self) -> bool {
        matches!(self, StopReason::AlreadyEmpty | StopReason::Drained)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a job works on and how each run is carried out. Immutable once the job exists (invariant 19).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// SHA-256 of the request file's content, in hex.
    pub input_sha256: String,
    /// Which provider carries it out: `openai`, `anthropic` or `sim`.
    pub provider: String,
    /// Which account there, as a name or a fingerprint; never the key.
    pub account: String,
    pub max_attempts: u32,
    /// 0 for the first job of this scope; `--restart` makes the next.
    pub edition: u32,
}

/// Which of an env's runs a job over HTTP works on, and when. Immutable once the job exists (invariant 19).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// The `llm` task whose runs they are.
    pub task: String,
    /// Only runs accepted at this time or later, in milliseconds.
    pub since_ms: Option<i64>,
    /// Only runs accepted before this time; a backfill's is when it was made.
    pub until_ms: Option<i64>,
    /// Only runs of this queue.
    pub queue: Option<String>,
    /// Only runs that carry all of these. What is not asked for is not stored, for nodes that know of no such filter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Only runs of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Only runs with this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Only runs of this priority or a higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_min: Option<i64>,
    pub policy: Policy,
    /// A standing job batches what waits again and again; any other ends when nothing is left.
    pub standing: Option<Standing>,
}

/// Whether jobs of both sources may work on one task's runs at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Both work, on different runs.
    #[default]
    Disjoint,
    /// One at a time.
    Exclusive,
}

impl Policy {
    pub const fn word(self) -> &'static str {
        match self {
            Policy::Disjoint => "disjoint",
            Policy::Exclusive => "exclusive",
        }
    }
}

/// When a standing job begins its next round: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Since its last round began, if anything waits.
    pub every_ms: u64,
    /// So many runs wait.
    pub at_runs: Option<u32>,
    /// Their payloads have so many bytes.
    pub at_bytes: Option<u64>,
}

impl Draw {
    /// How a person reads it, to tell two apart.
    pub fn described(&self) -> String {
        let day = |ms: Option<i64>| ms.map_or("the beginning".to_owned(), |ms| Timestamp::from_millis(ms).to_string());
        let named = |what: &str, value: Option<String>| value.map(|value| format!(", {what} {value}"));
        let filter = [
            named("queue", self.queue.clone()),
            named("tags", Some(self.tags.join(" and ")).filter(|tags| !tags.is_empty())),
            named("session", self.session_id.clone()),
            named("concurrency key", self.concurrency_key.clone()),
            named("priority from", self.priority_min.map(|least| least.to_string())),
        ];
        let filter: String = filter.into_iter().flatten().collect();
        format!("since {}{filter}, {}", day(self.since_ms), self.policy.word())
    }

    /// Whether two jobs may not live at the same time.
    pub fn bars(&self, own: Source, other: &Draw, of: Source) -> bool {
        own == of || self.policy == Policy::Exclusive || other.policy == Policy::Exclusive
    }
}

/// Ceilings. They may be raised by running the same command with larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceilings {
    pub max_rounds: u32,
    pub max_wallclock_ms: Option<u64>,
    pub max_usd_nanos: Option<i64>,
    pub max_batch_requests: u32,
    #[serde(default)]
    pub live: LiveRules,
}

/// When requests are called live, one by one, at the live price, in place of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveRules {
    /// Fewer queued requests of a kind than this are not worth a batch; 0 means never.
    pub below: u32,
    /// From so many milliseconds after the job's start on, a batch would come too late.
    pub after_ms: Option<u64>,
    /// Whether a kind of request is tried live before a large batch of it is sent.
    pub canary: bool,
}

impl LiveRules {
    /// When batches begin to come too late for a job that started at `started_at`.
    pub fn too_late_from(&self, started_at: Timestamp) -> Option<Timestamp> {
        self.after_ms.map(|after| started_at + Duration::from_millis(after))
    }
}

impl Ceilings {
    pub fn max_wallclock(&self) -> Option<Duration> {
        self.max_wallclock_ms.map(Duration::from_millis)
    }

    pub fn max_usd(&self) -> Option<Money> {
        self.max_usd_nanos.map(Money::from_nanos)
    }

    /// Whether any ceiling lies higher than in `before`, so that a job it stopped could go on.
    pub fn loosens(&self, before: &Ceilings) -> bool {
        let higher = |new: Option<u64>, old: Option<u64>| match (new, old) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(new), Some(old)) => new > old,
        };
        let usd = |ceilings: &Ceilings| ceilings.max_usd_nanos.and_then(|nanos| u64::try_from(nanos).ok());
        self.max_rounds > before.max_rounds
            || higher(self.max_wallclock_ms, before.max_wallclock_ms)
            || higher(usd(self), usd(before))
    }
}
