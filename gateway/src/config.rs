//! Settings: flag, then environment (`TIDEGATE_SECTION__KEY`), then file, then default.

mod dollars;
mod engine;
mod sessions;
mod chaos;

pub use engine::{
    BufferConfig, BufferMode, EnvConfig, LimitsConfig, OrgConfig, QueueConfig, Sections, ServerConfig, TaskConfig,
    WorkersConfig,
};

pub use chaos::ChaosConfig;
pub use sessions::{SessionConfig, SweepsConfig};

use crate::exit::Failure;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use storage::model::Money;

/// The whole configuration; unknown keys are errors.
#[derive(Debug, Clone, Default, Deserialize)]
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
}

/// One provider account.
#[derive(Debug, Clone, Default, Deserialize)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    Settle,
    Hold,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodesConfig {
    pub lease_seconds: f64,
}

impl Default for NodesConfig {
    fn default() -> NodesConfig {
        NodesConfig { lease_seconds: 15.0 }
    }
}

#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PricesConfig {
    /// A file in the form of `ops/prices.toml` whose models replace the built-in ones.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads the named file, or `tidegate.toml` here if there is one, and lays the environment over it.
    pub fn load(named: Option<&Path>) -> Result<Config, Failure> {
        let here = Path::new("tidegate.toml");
        let named = named.filter(|path| !path.as_os_str().is_empty());
        let text = match named {
            Some(path) => read(path)?,
            // Whatever has the name is meant: what cannot be read is refused, not passed over.
            None if here.symlink_metadata().is_ok() => read(here)?,
            None => String::new(),
        };
        let path = named.unwrap_or(here);
        // The file alone first: its errors then name its lines.
        let bad = |error: toml::de::Error| Failure::usage(explain(path, &error));
        toml::from_str::<Config>(&text).map_err(bad)?;
        let mut table: toml::Table = toml::from_str(&text).map_err(bad)?;
        let mut overlaid = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let Some(keys) = config_keys(&name) else { continue };
            let not_text = || Failure::usage(format!("the value of {name} is not valid UTF-8"));
            overlay(&mut table, &keys, value.to_str().ok_or_else(not_text)?);
            overlaid.push(name);
        }
        let config: Config = table.try_into().map_err(|error: toml::de::Error| {
            Failure::usage(format!("{} (set by {})", with_suggestion(error.message()), overlaid.join(", ")))
        })?;
        config.check()?;
        Ok(config)
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

    fn check(&self) -> Result<(), Failure> {
        let rules = [
            ("nodes.lease_seconds", self.nodes.lease_seconds, 0.5, 3_600.0),
            ("supervisor.window_seconds", self.supervisor.window_seconds, 1.0, 3_600.0),
            ("supervisor.hang_seconds", self.supervisor.hang_seconds, 0.1, 600.0),
            ("supervisor.sweep_seconds", self.supervisor.sweep_seconds, 0.1, 3_600.0),
            ("sweeps.keep_runs_days", self.sweeps.keep_runs_days, 0.0, 36_500.0),
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
        wrong.extend(sessions::wrong(&self.sessions));
        if wrong.is_empty() { Ok(()) } else { Err(Failure::usage(wrong.join("\n"))) }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    const LARGEST: u64 = 1 << 20;
    let cannot = |why: String| Failure::usage(format!("cannot read the configuration {}: {why}", path.display()));
    if path.is_dir() {
        return Err(cannot("it is a directory".to_owned()));
    }
    let file = File::open(path).map_err(|error| cannot(error.to_string()))?;
    // A pipe or a device does not tell its size.
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| cannot(error.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(cannot("it is larger than 1 MiB".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|error| cannot(error.utf8_error().to_string()))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Kill switches, which have short names.
const SWITCHES: [(&str, [&str; 2]); 5] = [
    ("TIDEGATE_DRAINER_ENABLED", ["buffer", "drainer_enabled"]),
    ("TIDEGATE_BUFFER_MODE", ["buffer", "mode"]),
    ("TIDEGATE_SWEEPER_ENABLED", ["sweeps", "enabled"]),
    ("TIDEGATE_REPAIR_ENABLED", ["sweeps", "repair_enabled"]),
    ("TIDEGATE_RESUME_ENABLED", ["sweeps", "resume_enabled"]),
];

/// `TIDEGATE_NODES__LEASE_SECONDS` is `nodes.lease_seconds`; names without `__` are not configuration keys.
fn config_keys(name: &str) -> Option<Vec<String>> {
    if let Some((_, keys)) = SWITCHES.iter().find(|(switch, _)| *switch == name) {
        return Some(keys.iter().map(|key| (*key).to_owned()).collect());
    }
    let keys = name.strip_prefix("TIDEGATE_")?;
    keys.contains("__").then(|| keys.split("__").map(str::to_ascii_lowercase).collect())
}

fn overlay(table: &mut toml::Table, keys: &[String], value: &str) {
    match keys {
        [] => {}
        [last] => {
            let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|mut t| t.remove("v"));
            table.insert(last.clone(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
        }
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            // Laid over a plain value it is refused by its type, as it would be in a file.
            if !inner.is_table() {
                *inner = toml::Value::Table(toml::Table::new());
            }
            if let toml::Value::Table(inner) = inner {
                overlay(inner, rest, value);
            }
        }
    }
}

fn explain(path: &Path, error: &toml::de::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("TOML parse error ").to_owned();
    format!("{}: {line}: {}", path.display(), with_suggestion(error.message()))
}

/// Adds "did you mean" to an error about an unknown key.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown field"));
    let nearest = unknown.and_then(|unknown| {
        let scored = quoted.map(|known| (strsim::jaro_winkler(unknown, known), known));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.7).map(|(_, known)| known)
    });
    match nearest {
        Some(known) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let error = toml::from_str::<Config>("[nodes]\nlease_secnds = 3\n").expect_err("unknown");
        let text = explain(Path::new("x.toml"), &error);
        assert!(text.starts_with("x.toml: at line 2"), "{text}");
        assert!(text.ends_with("did you mean `lease_seconds`?"), "{text}");
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let mut table: toml::Table = toml::from_str("[nodes]\nlease_seconds = 3\n").expect("toml");
        let keys = config_keys("TIDEGATE_NODES__LEASE_SECONDS").expect("a key");
        overlay(&mut table, &keys, "7");
        overlay(&mut table, &config_keys("TIDEGATE_PROVIDERS__OPENAI__BASE_URL").expect("a key"), "http://x/v1");
        let config: Config = table.try_into().expect("a config");
        assert_eq!(config.nodes.lease_seconds, 7.0);
        assert_eq!(config.providers["openai"].base_url.as_deref(), Some("http://x/v1"));
        assert_eq!(config_keys("TIDEGATE_STORE"), None);
        for (switch, keys) in SWITCHES {
            let mut table = toml::Table::new();
            let keys = keys.map(str::to_owned);
            assert_eq!(config_keys(switch).as_deref(), Some(keys.as_slice()));
            overlay(&mut table, &keys, if switch == "TIDEGATE_BUFFER_MODE" { "off" } else { "false" });
            let config: Config = table.try_into().expect(switch);
            let on = [
                config.buffer.drainer_enabled,
                config.sweeps.enabled,
                config.sweeps.repair_enabled,
                config.sweeps.resume_enabled,
                config.buffer.mode != BufferMode::Off,
            ];
            assert_eq!(on.iter().filter(|on| !**on).count(), 1, "{switch} turns one thing off");
        }
    }

    #[test]
    fn the_commented_defaults_are_the_defaults() {
        let text = include_str!("../../ops/tidegate.toml");
        let config: Config = toml::from_str(text).expect("ops/tidegate.toml parses");
        config.check().expect("and is valid");
        let default = Config::default();
        assert_eq!(config.nodes.lease_seconds, default.nodes.lease_seconds);
        assert_eq!(config.supervisor.max_restarts, default.supervisor.max_restarts);
        assert_eq!(config.supervisor.hang_seconds, default.supervisor.hang_seconds);
        assert_eq!(config.sim.latency_seconds, default.sim.latency_seconds);
    }
}
