//! SIGHUP: reads the settings again, and takes over those that can change while runs are carried out.
//!
//! Owns: what the settings were. Never: starts or stops anything. A file that is refused changes nothing.

use crate::cli::Common;
use crate::config::Config;
use crate::config::reference::{is_reloaded, leaves, written};
use crate::exit::Failure;
use crate::telemetry;
use actors::config::Settings;
use actors::current::Current;
use actors::metrics::CONFIG_RELOADED;
use actors::price::PriceTable;
use actors::runs::RunSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use storage::model::{Clock, SystemClock};
use tokio::signal::unix::Signal;
use tracing::warn;

/// Settings by their keys.
type Values = BTreeMap<Vec<String>, Value>;

/// See the module's first lines.
pub struct Reloader {
    named: Option<PathBuf>,
    /// As they are in force; what needs a restart keeps its old value here.
    in_force: Values,
    runs: Current<RunSettings>,
    batches: Current<Settings>,
    prices: Current<PriceTable>,
}

impl Reloader {
    pub fn new(
        common: &Common,
        config: &Config,
        runs: Current<RunSettings>,
        batches: Current<Settings>,
        prices: Current<PriceTable>,
    ) -> Reloader {
        mark_success();
        Reloader { named: common.config.clone(), in_force: values(config), runs, batches, prices }
    }

    /// Until the process ends.
    pub async fn listen(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            let read = Config::load(self.named.as_deref())
                .and_then(|config| crate::process::prices(&config).map(|prices| (config, prices)));
            match read {
                Ok((config, prices)) => self.take_over(&config, prices),
                Err(Failure { what, .. }) => {
                    let why = what.replace('\n', "; ");
                    warn!(why, "the settings were not reloaded, and nothing was changed");
                }
            }
        }
    }

    fn take_over(&mut self, config: &Config, prices: Arc<PriceTable>) {
        let wanted = values(config);
        let (mut taken, left): (Vec<_>, Vec<_>) =
            changed(&self.in_force, &wanted).into_iter().partition(|keys| is_reloaded(keys));
        // A table may change under the same name.
        let priced_by = vec!["prices".to_owned(), "file".to_owned()];
        if prices.version() != self.prices.now().version() && !taken.contains(&priced_by) {
            taken.push(priced_by);
        }
        self.runs.replace(Arc::new(with_limits(&self.runs.now(), config)));
        let (max_usd_per_day, env_usd_per_day) = config.day_caps();
        self.batches.replace(Arc::new(Settings {
            max_usd_per_day,
            env_usd_per_day,
            ..Settings::clone(&self.batches.now())
        }));
        self.prices.replace(prices);
        if !telemetry::take_over(config.log.level) && taken.contains(&vec!["log".to_owned(), "level".to_owned()]) {
            warn!("log.level changes nothing: TIDEGATE_LOG goes first");
        }
        self.in_force.retain(|keys, _| !is_reloaded(keys));
        self.in_force.extend(wanted.into_iter().filter(|(keys, _)| is_reloaded(keys)));
        mark_success();
        let what = if taken.is_empty() { "nothing to take over".to_owned() } else { names(&taken) };
        say!("settings reloaded: {what}");
        if !left.is_empty() {
            warn!(settings = names(&left), "settings have changed that need a restart");
        }
    }
}

fn mark_success() {
    metrics::gauge!(CONFIG_RELOADED).set(SystemClock.now().millis() as f64 / 1_000.0);
}

/// What is set at all.
fn values(config: &Config) -> Values {
    let is_set = |value: &Value| !value.is_null() && *value != "" && *value != json!([]) && *value != json!({});
    leaves(config).into_iter().filter(|(_, value)| is_set(value)).collect()
}

/// Keys of what is not as it was, of what is new, and of what is there no more.
fn changed(old: &Values, new: &Values) -> Vec<Vec<String>> {
    let mut changed: Vec<_> = new.iter().filter(|(keys, value)| old.get(*keys) != Some(value)).collect();
    changed.extend(old.iter().filter(|(keys, _)| !new.contains_key(*keys)));
    changed.into_iter().map(|(keys, _)| keys.clone()).collect()
}

fn names(keys: &[Vec<String>]) -> String {
    keys.iter().map(|keys| written(keys)).collect::<Vec<_>>().join(", ")
}

/// The settings with the limits of a new configuration; the rest is what this process was started with.
fn with_limits(old: &RunSettings, config: &Config) -> RunSettings {
    let new = config.sections().settings();
    RunSettings {
        max_running: new.max_running,
        any_env: new.any_env,
        envs: new.envs,
        org_weights: new.org_weights,
        queues: new.queues,
        max_running_per_key: new.max_running_per_key,
        buffer: new.buffer,
        ..old.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).expect(text)
    }

    #[test]
    fn what_is_new_other_or_gone_has_changed() {
        let old = values(&config("[nodes]\nlease_seconds = 3\n[queues.a]\nmax_running = 1\n"));
        let new = values(&config("[nodes]\nlease_seconds = 4\n[orgs.b]\nweight = 2\n"));
        let names: Vec<_> = changed(&old, &new).iter().map(|keys| written(keys)).collect();
        assert_eq!(names, ["nodes.lease_seconds", "orgs.b.weight", "queues.a.max_running"]);
        assert_eq!(changed(&old, &old), Vec::<Vec<String>>::new());
    }

    /// Whatever counts as reloaded must be all that is taken over, and nothing else.
    #[test]
    fn exactly_what_counts_as_reloaded_is_taken_over() {
        let old = RunSettings { slots: 7, ..config("").sections().settings() };
        let text = "[limits]\nmax_running = 9\nmax_waiting = 8\n[workers]\nslots = 3\nretry_base_seconds = 9\n[buffer]\nturn = 5\n";
        let new = with_limits(&old, &config(text));
        assert_eq!((new.max_running, new.any_env.max_waiting, new.buffer.turn), (Some(9), 8, 5));
        assert_eq!((new.slots, new.retry.base, new.drain_within), (7, old.retry.base, old.drain_within));
        let reloaded = |key: &str| is_reloaded(&crate::config::sources::parse_key(key).expect(key));
        for key in [
            "limits.max_running",
            "buffer.turn",
            "queues.a.max_running",
            "envs.\"a/b\".weight",
            "prices.file",
            "log.level",
        ] {
            assert!(reloaded(key), "{key}");
        }
        for key in [
            "workers.slots",
            "buffer.mode",
            "server.listen",
            "tasks.a.kind",
            "sweeps.keep_runs_days",
            "telemetry.sample_ratio",
        ] {
            assert!(!reloaded(key), "{key}");
        }
    }
}
