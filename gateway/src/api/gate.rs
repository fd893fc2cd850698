//! Whether a run goes straight to the ready table or waits in the buffer.
//!
//! An env above its rate, or a store that is slow, sends runs to the buffer: they are as durable there, cost the
//! store less now, and cannot crowd out other envs. Anything that is not clear means straight.

use crate::config::{BufferMode, Config};
use actors::metrics::BUFFER_DECISIONS;
use actors::runs::{RunSettings, StoreHealth};
use dashmap::DashMap;
use std::sync::Arc;
use std::time::Duration;
use storage::model::Timestamp;

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

/// Accepted runs over the last second, in two halves of which the older one counts by its share: a sliding
/// window without a list of times (Cloudflare, "How we built rate limiting").
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    second: i64,
    now: f64,
    before: f64,
    tripped_until: i64,
}

impl Window {
    /// Counts `runs` at a time and tells whether the rate is above `limit`, or was within `hold`.
    pub fn add(&mut self, runs: f64, limit: f64, hold: Duration, at: Timestamp) -> bool {
        let second = at.millis().div_euclid(1_000);
        if second > self.second {
            self.before = if second == self.second + 1 { self.now } else { 0.0 };
            (self.now, self.second) = (0.0, second);
        }
        self.now += runs;
        let elapsed = at.millis().rem_euclid(1_000) as f64 / 1_000.0;
        let rate = self.now + self.before * (1.0 - elapsed);
        if rate > limit {
            self.tripped_until = (at + hold).millis();
        }
        at.millis() < self.tripped_until || rate > limit
    }

    fn is_idle(&self, at: Timestamp) -> bool {
        at.millis().div_euclid(1_000) > self.second + 60
    }
}

/// See the module's first lines.
pub struct Gate {
    mode: BufferMode,
    settings: Arc<RunSettings>,
    all_above: f64,
    slow_above: Duration,
    hold: Duration,
    envs: DashMap<String, Window>,
    all: std::sync::Mutex<Window>,
}

/// Envs that are remembered before idle ones are forgotten.
const ENVS_MAX: usize = 10_000;

impl Gate {
    pub fn new(config: &Config, settings: Arc<RunSettings>) -> Gate {
        Gate {
            mode: config.buffer.mode,
            settings,
            all_above: config.buffer.all_above_per_second,
            slow_above: Duration::from_secs_f64(config.buffer.above_commit_ms / 1_000.0),
            hold: Duration::from_secs_f64(config.buffer.hold_ms / 1_000.0),
            envs: DashMap::new(),
            all: std::sync::Mutex::default(),
        }
    }

    /// Decides about `runs` runs of an env.
    pub fn decide(&self, env: &str, runs: usize, health: &StoreHealth, at: Timestamp) -> Decision {
        if self.mode == BufferMode::Off {
            return Decision::Pass;
        }
        let reason = self.reason(env, runs as f64, health, at);
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

    fn reason(&self, env: &str, runs: f64, health: &StoreHealth, at: Timestamp) -> Option<Reason> {
        let limit = self.settings.env(env).buffer_above;
        if self.envs.len() > ENVS_MAX {
            self.envs.retain(|_, window| !window.is_idle(at));
        }
        let over = match self.envs.get_mut(env) {
            Some(mut window) => window.add(runs, limit, self.hold, at),
            None => self.envs.entry(env.to_owned()).or_default().add(runs, limit, self.hold, at),
        };
        // A poisoned lock is a gate error: then runs go straight.
        let over_all = self.all.lock().is_ok_and(|mut all| all.add(runs, self.all_above, self.hold, at));
        if over {
            return Some(Reason::EnvRate);
        }
        if over_all {
            return Some(Reason::AllRate);
        }
        (health.commit() > self.slow_above).then_some(Reason::StoreSlow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_millis(500);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    #[test]
    fn s004_t1_t2_an_env_trips_with_the_first_run_above_its_rate() {
        let mut window = Window::default();
        for count in 1..=10 {
            assert!(!window.add(1.0, 10.0, HOLD, at(count)), "{count}");
        }
        assert!(window.add(1.0, 10.0, HOLD, at(11)));
    }

    #[test]
    fn s004_t3_t4_t5_it_holds_for_a_while_and_comes_back_after_a_silent_second() {
        let mut window = Window::default();
        assert!(window.add(11.0, 10.0, HOLD, at(0)));
        assert!(window.add(0.0, 10.0, HOLD, at(900)), "the second is not over");
        let mut quiet = Window::default();
        assert!(quiet.add(11.0, 10.0, HOLD, at(990)));
        assert!(quiet.add(0.0, 10.0, HOLD, at(1_400)), "held");
        assert!(!quiet.add(0.0, 10.0, HOLD, at(3_000)));
    }

    #[test]
    fn a_burst_over_the_border_of_two_seconds_is_one_burst() {
        let mut window = Window::default();
        assert!(!window.add(8.0, 10.0, HOLD, at(999)));
        assert!(window.add(8.0, 10.0, HOLD, at(1_001)), "a fixed window would let twice the rate through");
    }
}
