//! Settings of the run engine.

use crate::backoff::Backoff;
use std::collections::HashMap;
use std::time::Duration;

/// Everything that the actors that carry runs out are told.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// Runs that this node carries out at once.
    pub slots: usize,
    /// Runs at once over all nodes; `None` for no limit.
    pub max_running: Option<i64>,
    /// For envs that are not named.
    pub any_env: EnvSettings,
    pub envs: HashMap<String, EnvSettings>,
    pub org_weights: HashMap<String, u32>,
    pub queues: HashMap<String, QueueSettings>,
    /// Runs of one concurrency key at once, where its queue does not say.
    pub max_running_per_key: i64,
    pub buffer: BufferSettings,
    /// How often the Drainer looks by itself.
    pub tick_every: Duration,
    /// How often lanes are looked for that nobody has told this node about.
    pub scan_every: Duration,
    /// Between two tries of a run.
    pub retry: Backoff,
    /// Kept of each stream of an attempt, in bytes.
    pub output_limit: i64,
    /// Requests that may wait for the next commit.
    pub intake_queue: usize,
    /// Between the request to stop and the end of a run's grace, at shutdown.
    pub drain_within: Duration,
}

/// What an env is given.
#[derive(Debug, Clone, Copy)]
pub struct EnvSettings {
    /// Runs per rotation within its org.
    pub weight: u32,
    pub max_running: Option<i64>,
    /// Runs that may wait, buffered ones included.
    pub max_waiting: i64,
    /// Accepted runs per second above which the others are buffered.
    pub buffer_above: f64,
}

/// What a queue is given, in every env.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueSettings {
    pub max_running: Option<i64>,
    pub max_running_per_key: Option<i64>,
}

/// How the buffer is drained.
#[derive(Debug, Clone, Copy)]
pub struct BufferSettings {
    /// Let through at once per env and turn.
    pub turn: i64,
    /// An env that has this many runs ready is passed over.
    pub ready_enough: i64,
    /// An entry that waits longer than this is stale.
    pub stale_after: Duration,
}

impl Default for EnvSettings {
    fn default() -> EnvSettings {
        EnvSettings { weight: 1, max_running: None, max_waiting: 1_000_000, buffer_above: 5_000.0 }
    }
}

impl Default for RunSettings {
    fn default() -> RunSettings {
        RunSettings {
            slots: 16,
            max_running: None,
            any_env: EnvSettings::default(),
            envs: HashMap::new(),
            org_weights: HashMap::new(),
            queues: HashMap::new(),
            max_running_per_key: 1,
            buffer: BufferSettings { turn: 500, ready_enough: 2_000, stale_after: Duration::from_secs(300) },
            tick_every: Duration::from_millis(200),
            scan_every: Duration::from_millis(500),
            retry: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(300) },
            output_limit: 10 * 1024 * 1024,
            intake_queue: 4_096,
            drain_within: Duration::from_secs(25),
        }
    }
}

impl RunSettings {
    pub fn env(&self, env: &str) -> &EnvSettings {
        self.envs.get(env).unwrap_or(&self.any_env)
    }

    pub fn org_weight(&self, org: &str) -> u32 {
        self.org_weights.get(org).copied().unwrap_or(1).max(1)
    }

    pub fn queue(&self, queue: &str) -> QueueSettings {
        self.queues.get(queue).copied().unwrap_or_default()
    }
}
