//! Settings: flag, then environment (`TIDEGATE_SECTION__KEY`), then file, then default.

mod dollars;
mod engine;
mod sessions;
mod tasks;
mod chaos;
mod telemetry;
pub mod sources;
pub mod reference;

pub use engine::{
    BufferConfig, BufferMode, EnvConfig, LimitsConfig, OrgConfig, QueueConfig, Sections, ServerConfig, TaskConfig,
    WorkersConfig,
};

pub use chaos::ChaosConfig;
pub use sessions::{SessionConfig, SweepsConfig};
pub use telemetry::{LogConfig, LogLevel, TelemetryConfig};

use crate::exit::Failure;
use serde::{Deserialize, Serialize};
use sources::Sources;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use storage::model::Money;

/// The whole configuration; unknown keys are errors.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub providers: BTreeMap<String, ProviderConfig>,
    pub nodes: NodesConfig,
    pub supervisor: SupervisorConfig,
    pub sim: SimConfig,
    pub prices: PricesConfig,
    pub server: ServerConfig,
    pub workers: WorkersConfig,
    pub limits: LimitsConfig,
    pub buffer: BufferConfig,
    pub tasks: BTreeMap<String, TaskConfig>,
    pub queues: BTreeMap<String, QueueConfig>,
    pub envs: BTreeMap<String, EnvConfig>,
    pub orgs: BTreeMap<String, OrgConfig>,
    pub sessions: BTreeMap<String, SessionConfig>,
    pub sweeps: SweepsConfig,
    pub chaos: ChaosConfig,
    pub log: LogConfig,
    pub telemetry: TelemetryConfig,
}

/// One provider account.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    /// `openai` or `anthropic`; needed for names other than these.
    pub protocol: Option<String>,
    pub base_url: Option<String>,
    /// A file that holds the key and nothing else.
    pub api_key_file: Option<PathBuf>,
    /// A name for the account that stays the same when its key is rotated.
    pub account: Option<String>,
    /// `anthropic-version` header, for the Anthropic protocol.
    pub version: Option<String>,
    pub poll_seconds: Option<f64>,
    pub settle_seconds: Option<f64>,
    /// `settle`: create again after a proof of absence; `hold`: wait for an operator.
    pub policy: Option<Policy>,
    /// Nobody else makes batches in this account.
    pub exclusive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    Settle,
    Hold,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodesConfig {
    pub lease_seconds: f64,
}

impl Default for NodesConfig {
    fn default() -> NodesConfig {
        NodesConfig { lease_seconds: 15.0 }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisorConfig {
    pub max_restarts: usize,
    pub window_seconds: f64,
    pub hang_seconds: f64,
    pub sweep_seconds: f64,
}

impl Default for SupervisorConfig {
    fn default() -> SupervisorConfig {
        SupervisorConfig { max_restarts: 5, window_seconds: 30.0, hang_seconds: 5.0, sweep_seconds: 5.0 }
    }
}

/// The simulated provider inside the binary.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimConfig {
    pub latency_seconds: f64,
    pub faults: Vec<String>,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig { latency_seconds: 3.0, faults: Vec::new() }
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PricesConfig {
    /// A file in the form of `ops/prices.toml` whose models replace the built-in ones.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads the named file, or `tidegate.toml` here if there is one, and lays the environment over it.
    pub fn load(named: Option<&Path>) -> Result<Config, Failure> {
        Sources::read(named)?.config()
    }

    /// The sections about carrying runs out.
    pub fn sections(&self) -> Sections<'_> {
        Sections {
            server: &self.server,
            workers: &self.workers,
            limits: &self.limits,
            buffer: &self.buffer,
            queues: &self.queues,
            envs: &self.envs,
            orgs: &self.orgs,
        }
    }

    /// Most that may be spent in a day, over all envs and of each that has a cap of its own.
    pub fn day_caps(&self) -> (Option<Money>, HashMap<String, Money>) {
        let envs = self.envs.iter().filter_map(|(name, env)| Some((name.clone(), env.max_usd_per_day?.0)));
        (self.limits.max_usd_per_day.map(|cap| cap.0), envs.collect())
    }

    /// Everything that breaks a rule, a line each, which begins with the key.
    fn wrong(&self) -> Vec<String> {
        let rules = [
            ("nodes.lease_seconds", self.nodes.lease_seconds, 0.5, 3_600.0),
            ("supervisor.window_seconds", self.supervisor.window_seconds, 1.0, 3_600.0),
            ("supervisor.hang_seconds", self.supervisor.hang_seconds, 0.1, 600.0),
            ("supervisor.sweep_seconds", self.supervisor.sweep_seconds, 0.1, 3_600.0),
            ("sweeps.keep_runs_days", self.sweeps.keep_runs_days, 0.0, 36_500.0),
            ("sweeps.keep_audit_days", self.sweeps.keep_audit_days, 0.0, 36_500.0),
            ("sim.latency_seconds", self.sim.latency_seconds, 0.0, 86_400.0),
        ];
        let mut wrong: Vec<String> = rules
            .iter()
            .filter(|(_, value, low, high)| !(low..=high).contains(&value))
            .map(|(key, value, low, high)| format!("{key} is {value}; it must be between {low} and {high}"))
            .collect();
        for (name, provider) in &self.providers {
            for (key, value) in [("poll_seconds", provider.poll_seconds), ("settle_seconds", provider.settle_seconds)] {
                if value.is_some_and(|value| !(0.01..=86_400.0).contains(&value)) {
                    wrong.push(format!("providers.{name}.{key} must be between 0.01 and 86400"));
                }
            }
            if provider.protocol.as_deref().is_some_and(|word| !["openai", "anthropic"].contains(&word)) {
                wrong.push(format!("providers.{name}.protocol must be openai or anthropic"));
            }
        }
        wrong.extend(self.sections().wrong());
        wrong.extend(crate::tasks::wrong(&self.tasks));
        wrong.extend(tasks::wrong(self));
        wrong.extend(sessions::wrong(&self.sessions));
        wrong.extend(self.telemetry.wrong());
        wrong
    }
}
