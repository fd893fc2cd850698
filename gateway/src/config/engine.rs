//! The sections about carrying runs out: tasks, workers, queues, envs, the buffer and the server.

use super::dollars::Dollars;
use actors::backoff::Backoff;
use actors::runs::{BufferSettings, EnvSettings, QueueSettings, RunSettings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the server listens and what it takes.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub ops_listen: SocketAddr,
    /// Threads that speak HTTP.
    pub threads: usize,
    /// Largest request body, in bytes.
    pub body_limit_bytes: usize,
    /// How long an idempotency key holds.
    pub idempotency_hours: f64,
    /// Between SIGTERM and the end: what is under way is waited for this long.
    pub drain_seconds: f64,
    /// Requests in one second of one env that are answered; above it 429.
    pub requests_per_second: f64,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            ops_listen: SocketAddr::from(([127, 0, 0, 1], 7071)),
            threads: 1,
            body_limit_bytes: 1024 * 1024,
            idempotency_hours: 24.0,
            drain_seconds: 25.0,
            requests_per_second: 0.0,
        }
    }
}

/// This node's workers.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    pub slots: usize,
    /// Kept of each stream of an attempt.
    pub output_limit_bytes: i64,
    /// Between two tries of a run: the first wait, doubled each time, up to the second.
    pub retry_base_seconds: f64,
    pub retry_cap_seconds: f64,
}

impl Default for WorkersConfig {
    fn default() -> WorkersConfig {
        WorkersConfig {
            slots: 16,
            output_limit_bytes: 10 * 1024 * 1024,
            retry_base_seconds: 1.0,
            retry_cap_seconds: 300.0,
        }
    }
}

/// How many runs may be under way.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    pub max_running: Option<i64>,
    /// Of one concurrency key, where its queue does not say.
    pub max_running_per_key: i64,
    /// Waiting runs of one env, above which it gets 429.
    pub max_waiting: i64,
    /// Under way of one env, where it does not say itself.
    pub max_running_per_env: Option<i64>,
    /// Most that batches may cost that are made in one day (UTC), over all envs.
    pub max_usd_per_day: Option<Dollars>,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            max_running: None,
            max_running_per_key: 1,
            max_waiting: 1_000_000,
            max_running_per_env: None,
            max_usd_per_day: None,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    pub max_running: Option<i64>,
    pub max_running_per_key: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnvConfig {
    pub weight: Option<u32>,
    pub max_running: Option<i64>,
    pub max_waiting: Option<i64>,
    /// As in `limits`, of this env alone.
    pub max_usd_per_day: Option<Dollars>,
    pub buffer_above_per_second: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrgConfig {
    pub weight: Option<u32>,
}

/// What the gate does with what it finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferMode {
    #[default]
    On,
    /// Decides and counts, and buffers nothing.
    Shadow,
    Off,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BufferConfig {
    pub mode: BufferMode,
    /// Accepted runs per second of one env above which the others are buffered.
    pub above_per_second: f64,
    /// The same over all envs of this node.
    pub all_above_per_second: f64,
    /// A commit that takes longer than this on average sends runs to the buffer.
    pub above_commit_ms: f64,
    /// How long a tripped env stays tripped.
    pub hold_ms: f64,
    pub turn: i64,
    pub ready_enough: i64,
    pub stale_seconds: f64,
    /// Whether buffered runs are let through by this node (`TIDEGATE_DRAINER_ENABLED`).
    pub drainer_enabled: bool,
}

impl Default for BufferConfig {
    fn default() -> BufferConfig {
        BufferConfig {
            mode: BufferMode::On,
            above_per_second: 5_000.0,
            all_above_per_second: 20_000.0,
            above_commit_ms: 250.0,
            hold_ms: 500.0,
            turn: 500,
            ready_enough: 2_000,
            stale_seconds: 300.0,
            drainer_enabled: true,
        }
    }
}

/// A task; which fields it may have depends on its kind.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskConfig {
    pub kind: String,
    pub queue: Option<String>,
    pub max_attempts: Option<i64>,
    pub max_duration_seconds: Option<f64>,
    pub retry_base_seconds: Option<f64>,
    pub retry_cap_seconds: Option<f64>,
    // exec
    pub program: Option<PathBuf>,
    pub args: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub pass_env: Vec<String>,
    pub grace_seconds: Option<f64>,
    pub cpu_seconds: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub processes: Option<u64>,
    pub file_bytes: Option<u64>,
    /// `false`: programs are kept from nothing that their permissions let them do.
    pub sandbox: Option<bool>,
    pub read_paths: Option<Vec<PathBuf>>,
    pub write_paths: Option<Vec<PathBuf>>,
    pub connect_ports: Option<Vec<u16>>,
    pub success_codes: Option<Vec<i32>>,
    pub no_retry_codes: Vec<i32>,
    // http
    pub url: Option<String>,
    pub secret_file: Option<PathBuf>,
    pub previous_secret_file: Option<PathBuf>,
    pub headers: BTreeMap<String, String>,
    pub allow_private: bool,
    pub timeout_seconds: Option<f64>,
    // llm
    pub provider: Option<String>,
}

/// The sections of this file, as one.
pub struct Sections<'a> {
    pub server: &'a ServerConfig,
    pub workers: &'a WorkersConfig,
    pub limits: &'a LimitsConfig,
    pub buffer: &'a BufferConfig,
    pub queues: &'a BTreeMap<String, QueueConfig>,
    pub envs: &'a BTreeMap<String, EnvConfig>,
    pub orgs: &'a BTreeMap<String, OrgConfig>,
}

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.max(0.0))
}

impl Sections<'_> {
    /// What the actors are told.
    pub fn settings(&self) -> RunSettings {
        let any_env = EnvSettings {
            weight: 1,
            max_running: self.limits.max_running_per_env,
            max_waiting: self.limits.max_waiting,
            buffer_above: self.buffer.above_per_second,
        };
        let env = |config: &EnvConfig| EnvSettings {
            weight: config.weight.unwrap_or(any_env.weight),
            max_running: config.max_running.or(any_env.max_running),
            max_waiting: config.max_waiting.unwrap_or(any_env.max_waiting),
            buffer_above: config.buffer_above_per_second.unwrap_or(any_env.buffer_above),
        };
        let queue = |config: &QueueConfig| QueueSettings {
            max_running: config.max_running,
            max_running_per_key: config.max_running_per_key,
        };
        RunSettings {
            slots: self.workers.slots,
            max_running: self.limits.max_running,
            any_env,
            envs: self.envs.iter().map(|(name, config)| (name.clone(), env(config))).collect(),
            org_weights: self.orgs.iter().filter_map(|(name, config)| Some((name.clone(), config.weight?))).collect(),
            queues: self.queues.iter().map(|(name, config)| (name.clone(), queue(config))).collect(),
            max_running_per_key: self.limits.max_running_per_key,
            buffer: BufferSettings {
                turn: self.buffer.turn,
                ready_enough: self.buffer.ready_enough,
                stale_after: seconds(self.buffer.stale_seconds),
            },
            retry: self.retry(),
            output_limit: self.workers.output_limit_bytes,
            drain_within: seconds(self.server.drain_seconds),
            ..RunSettings::default()
        }
    }

    pub fn retry(&self) -> Backoff {
        Backoff { base: seconds(self.workers.retry_base_seconds), cap: seconds(self.workers.retry_cap_seconds) }
    }

    /// Everything that is out of range, a line each.
    pub fn wrong(&self) -> Vec<String> {
        let within = [
            ("server.threads", self.server.threads as f64, 1.0, 64.0),
            ("server.body_limit_bytes", self.server.body_limit_bytes as f64, 1_024.0, 67_108_864.0),
            ("server.idempotency_hours", self.server.idempotency_hours, 0.01, 720.0),
            ("server.drain_seconds", self.server.drain_seconds, 0.0, 3_600.0),
            ("server.requests_per_second", self.server.requests_per_second, 0.0, 1e9),
            ("workers.slots", self.workers.slots as f64, 0.0, 1_024.0),
            ("workers.output_limit_bytes", self.workers.output_limit_bytes as f64, 0.0, 1e12),
            ("workers.retry_base_seconds", self.workers.retry_base_seconds, 0.001, 86_400.0),
            ("workers.retry_cap_seconds", self.workers.retry_cap_seconds, 0.001, 86_400.0),
            ("limits.max_running_per_key", self.limits.max_running_per_key as f64, 1.0, 1e6),
            ("limits.max_waiting", self.limits.max_waiting as f64, 1.0, 1e9),
            ("buffer.above_per_second", self.buffer.above_per_second, 0.1, 1e9),
            ("buffer.all_above_per_second", self.buffer.all_above_per_second, 0.1, 1e9),
            ("buffer.above_commit_ms", self.buffer.above_commit_ms, 1.0, 60_000.0),
            ("buffer.hold_ms", self.buffer.hold_ms, 0.0, 60_000.0),
            ("buffer.turn", self.buffer.turn as f64, 1.0, 10_000.0),
            ("buffer.ready_enough", self.buffer.ready_enough as f64, 1.0, 1e6),
            ("buffer.stale_seconds", self.buffer.stale_seconds, 1.0, 1e6),
        ];
        let mut wrong: Vec<String> = within
            .iter()
            .filter(|(_, value, low, high)| !(low..=high).contains(&value))
            .map(|(key, value, low, high)| format!("{key} is {value}; it must be between {low} and {high}"))
            .collect();
        let positive = self.queues.iter().flat_map(|(name, queue)| {
            [
                (format!("queues.{name}.max_running"), queue.max_running),
                (format!("queues.{name}.max_running_per_key"), queue.max_running_per_key),
            ]
        });
        let envs = self.envs.iter().flat_map(|(name, env)| {
            [
                (format!("envs.\"{name}\".max_running"), env.max_running),
                (format!("envs.\"{name}\".max_waiting"), env.max_waiting),
                (format!("envs.\"{name}\".weight"), env.weight.map(i64::from)),
            ]
        });
        let all = [("limits.max_running".to_owned(), self.limits.max_running)];
        for (key, value) in positive.chain(envs).chain(all) {
            if value.is_some_and(|value| value < 1) {
                wrong.push(format!("{key} must be at least 1; a queue is stopped by pausing it"));
            }
        }
        wrong
    }
}
