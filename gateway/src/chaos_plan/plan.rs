//! What to kill, how, how often, and when to stop. Read strictly: a plan that is misread kills the wrong ones.

use crate::cli::ModeArg;
use clap::ValueEnum;
use serde::Deserialize;
use std::time::Duration;

const KILLS_MAX: u64 = 1_000_000;
const PER_MINUTE_MAX: f64 = 6_000.0;
const SECONDS_MAX: f64 = 86_400.0;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    servers: Vec<String>,
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    modes: Vec<String>,
    kills: u64,
    #[serde(default = "per_minute")]
    per_minute: f64,
    #[serde(default = "max_seconds")]
    max_seconds: f64,
    #[serde(default)]
    seed: u64,
}

fn per_minute() -> f64 {
    60.0
}

fn max_seconds() -> f64 {
    600.0
}

/// A plan that can be carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// None for the one of the command line.
    pub servers: Vec<String>,
    targets: Vec<String>,
    pub modes: Vec<ModeArg>,
    pub kills: u64,
    per_minute: f64,
    max_seconds: f64,
    pub seed: u64,
}

impl Plan {
    pub fn parse(text: &str) -> Result<Plan, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
        let mode = |word: &String| {
            ModeArg::from_str(word, false).map_err(|_| format!("modes: `{word}` is not panic, stop or hang"))
        };
        let modes = written.modes.iter().map(mode).collect::<Result<Vec<_>, _>>()?;
        within("kills", written.kills as f64, 1.0, KILLS_MAX as f64)?;
        within("per_minute", written.per_minute, 0.1, PER_MINUTE_MAX)?;
        within("max_seconds", written.max_seconds, 1.0, SECONDS_MAX)?;
        Ok(Plan {
            servers: written.servers,
            targets: written.targets,
            modes: if modes.is_empty() { ModeArg::value_variants().to_vec() } else { modes },
            kills: written.kills,
            per_minute: written.per_minute,
            max_seconds: written.max_seconds,
            seed: written.seed,
        })
    }

    /// Whether an actor is one of the targets: by name, or by its beginning before a `*`.
    pub fn hits(&self, actor: &str) -> bool {
        let is = |target: &String| match target.strip_suffix('*') {
            Some(start) => actor.starts_with(start),
            None => actor == target,
        };
        self.targets.is_empty() || self.targets.iter().any(is)
    }

    pub fn every(&self) -> Duration {
        Duration::from_secs_f64(60.0 / self.per_minute)
    }

    pub fn at_most(&self) -> Duration {
        Duration::from_secs_f64(self.max_seconds)
    }
}

fn within(name: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{name}: {value} is not within {least} and {most}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_whom_how_and_how_often() {
        let plan = Plan::parse("kills = 5").expect("the rest has defaults");
        assert_eq!((plan.modes.len(), plan.every()), (3, Duration::from_secs(1)));
        assert!(plan.hits("drainer") && plan.hits("worker-3"));
        let plan =
            Plan::parse("kills = 5\ntargets = [\"worker-*\", \"sweeper\"]\nper_minute = 600\nmodes = [\"stop\"]");
        let plan = plan.expect("a plan");
        assert!(plan.hits("worker-0") && plan.hits("sweeper") && !plan.hits("drainer") && !plan.hits("sweeper-2"));
        assert_eq!((plan.every(), plan.modes), (Duration::from_millis(100), vec![ModeArg::Stop]));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        let bad = ["", "kills = 0", "kills = 1\nmodes = [\"nap\"]", "kills = 1\nper_minute = 0", "kills = 1\nrate = 3"];
        for text in bad.into_iter().chain(["kills = 1\nmax_seconds = nan", "kills = -1", "kills"]) {
            assert!(Plan::parse(text).is_err(), "{text}");
        }
    }
}
