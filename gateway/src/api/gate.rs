//! Whether a run goes straight to the ready table or waits in the buffer.
//!
//! An env above its rate, or a store that is slow, sends runs to the buffer: they are as durable there, cost the
//! store less now, and cannot crowd out other envs. When all together are too fast, those are held back that take
//! more than an equal share: a light env does not wait for the flood of another. Anything that is not clear means
//! straight.

use crate::config::{BufferMode, Config};
use crate::http::rate::{Alarm, Rule, Uptime};
use actors::current::Current;
use actors::metrics::BUFFER_DECISIONS;
use actors::runs::{RunSettings, StoreHealth};
use std::time::Duration;

/// What the gate says about some runs of one env.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Pass,
    /// Would be buffered, were it not for the mode.
    Shadow(Reason),
    Divert(Reason),
}

/// Why runs are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    EnvRate,
    AllRate,
    StoreSlow,
}

impl Reason {
    pub fn word(self) -> &'static str {
        match self {
            Reason::EnvRate => "env_rate",
            Reason::AllRate => "all_rate",
            Reason::StoreSlow => "store_slow",
        }
    }
}

/// See the module's first lines.
pub struct Gate {
    mode: BufferMode,
    settings: Current<RunSettings>,
    all_above: f64,
    slow_above: Duration,
    hold: Duration,
    envs: Alarm,
    all: Alarm,
    /// Who takes more than an equal share of what all together may.
    shares: Alarm,
    uptime: Uptime,
}

/// Envs that are watched; beyond it idle ones are forgotten.
const ENVS_MAX: usize = 10_000;
const WINDOW: Duration = Duration::from_secs(1);

impl Gate {
    pub fn new(config: &Config, settings: Current<RunSettings>) -> Gate {
        let hold = Duration::from_secs_f64(config.buffer.hold_ms / 1_000.0);
        Gate {
            mode: config.buffer.mode,
            envs: Alarm::new(rule(config.buffer.above_per_second, hold), ENVS_MAX),
            all: Alarm::new(rule(config.buffer.all_above_per_second, hold), 1),
            shares: Alarm::new(rule(config.buffer.all_above_per_second, hold), ENVS_MAX),
            uptime: Uptime::begin(),
            settings,
            all_above: config.buffer.all_above_per_second,
            slow_above: Duration::from_secs_f64(config.buffer.above_commit_ms / 1_000.0),
            hold,
        }
    }

    /// Decides about `runs` runs of an env.
    pub fn decide(&self, env: &str, runs: usize, health: &StoreHealth) -> Decision {
        if self.mode == BufferMode::Off {
            return Decision::Pass;
        }
        let reason = self.reason(env, u32::try_from(runs).unwrap_or(u32::MAX), health);
        let decision = match (reason, self.mode) {
            (None, _) => Decision::Pass,
            (Some(reason), BufferMode::On) => Decision::Divert(reason),
            (Some(reason), BufferMode::Shadow | BufferMode::Off) => Decision::Shadow(reason),
        };
        let (word, reason) = match decision {
            Decision::Pass => ("pass", "none"),
            Decision::Shadow(reason) => ("shadow", reason.word()),
            Decision::Divert(reason) => ("divert", reason.word()),
        };
        metrics::counter!(BUFFER_DECISIONS, "decision" => word, "reason" => reason).increment(1);
        decision
    }

    fn reason(&self, env: &str, runs: u32, health: &StoreHealth) -> Option<Reason> {
        let now = self.uptime.now();
        let own = rule(self.settings.now().env(env).buffer_above, self.hold);
        let over = self.envs.observe_under(&own, env, runs, now).tripped.is_some();
        let over_all = self.all.observe_under(&rule(self.all_above, self.hold), "", runs, now).tripped.is_some();
        let share = rule(self.all_above / self.shares.active(now).max(1) as f64, self.hold);
        let over_share = self.shares.observe_under(&share, env, runs, now).tripped.is_some();
        if over {
            return Some(Reason::EnvRate);
        }
        if over_all && over_share {
            return Some(Reason::AllRate);
        }
        (health.commit() > self.slow_above).then_some(Reason::StoreSlow)
    }
}

fn rule(per_second: f64, hold: Duration) -> Rule {
    // Casting a float saturates: a rate beyond all counts is no limit.
    Rule { threshold: per_second as u32, window: WINDOW, hold }
}
