//! Whether a few runs come in beside a flood. Pure.
//!
//! A flood that is written as fast as it can be keeps the writer busy that a single run's commit needs. Where single runs
//! come now and then it is written in small groups, and they go in between; where nobody else comes, in large ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long after a few runs more of them are expected.
const EXPECTED_FOR: Duration = Duration::from_secs(1);
/// How far apart commits of few runs are on the average, at least, while few come: many of them are a flood too.
const SELDOM: Duration = Duration::from_millis(5);

/// See the module's first lines.
#[derive(Debug, Default)]
pub struct Courtesy(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    latest: Option<Instant>,
    /// Moving average of the time between two commits of few runs.
    gap: Option<Duration>,
}

impl Courtesy {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns of a commit of a few runs.
    pub(super) fn few_came(&self, now: Instant) {
        let mut state = self.state();
        if let Some(gap) = state.latest.map(|latest| now.duration_since(latest).min(EXPECTED_FOR)) {
            state.gap = Some(state.gap.map_or(gap, |average| (average * 7 + gap) / 8));
        }
        state.latest = Some(now);
    }

    /// Whether few runs have come in lately, so that a few more are expected.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let state = self.state();
        state.latest.is_some_and(|latest| now.duration_since(latest) <= EXPECTED_FOR)
            && state.gap.is_none_or(|gap| gap >= SELDOM)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment to begin with")]
mod tests {
    use super::*;

    #[test]
    fn after_a_few_more_are_expected_for_a_while() {
        let (courtesy, now) = (Courtesy::default(), Instant::now());
        assert!(!courtesy.is_due(now), "nobody else is there");
        courtesy.few_came(now);
        assert!(courtesy.is_due(now + EXPECTED_FOR));
        assert!(!courtesy.is_due(now + EXPECTED_FOR + SELDOM), "they have gone");
    }

    #[test]
    fn a_flood_of_single_runs_is_not_few() {
        let (courtesy, mut now) = (Courtesy::default(), Instant::now());
        let mut come = |apart, times: u32| {
            (0..times).for_each(|_| {
                now += apart;
                courtesy.few_came(now);
            });
            courtesy.is_due(now)
        };
        assert!(come(SELDOM * 2, 50));
        assert!(!come(SELDOM / 5, 50));
        assert!(come(SELDOM * 20, 2), "they have become few");
    }
}
