//! What a flood leaves to the few runs that come beside it. Pure.
//!
//! A flood that is written as fast as it can be keeps the cores busy that a single run's commit needs, here and at the
//! database. Where single runs come now and then, it is written in small groups; where they notice it nevertheless, the
//! door for many rests after each commit, at most as long as that took. Where nobody else comes it does neither.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long after a few runs more of them are expected.
const EXPECTED_FOR: Duration = Duration::from_secs(1);
/// How far apart commits of few runs are on the average, at least, while few come: many of them are a flood too.
const SELDOM: Duration = Duration::from_millis(5);
/// Parts of a commit's time, in percent: what each slow commit of a few runs adds to the rest, and what each quick one
/// takes from it. So one slow commit in six keeps it where it is.
const MORE: u32 = 25;
const LESS: u32 = 5;
const MOST: u32 = 100;

/// See the module's first lines.
#[derive(Debug, Default)]
pub struct Courtesy(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What a commit of a few runs takes where nothing is in its way.
    least: Option<Duration>,
    latest: Option<Instant>,
    /// Moving average of the time between two of them.
    gap: Option<Duration>,
    rest: u32,
}

impl State {
    fn expects(&self, now: Instant) -> bool {
        self.latest.is_some_and(|latest| now.duration_since(latest) <= EXPECTED_FOR)
    }
}

impl Courtesy {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from a commit of a few runs. It was slow if it took more than twice of what it can take.
    pub(super) fn few_took(&self, span: Duration, now: Instant) {
        let mut state = self.state();
        // Forgets slowly, so that a disk that has become slower is noticed.
        let least = state.least.map_or(span, |least| span.min(least + least / 50));
        state.least = Some(least);
        if let Some(gap) = state.latest.map(|latest| now.duration_since(latest).min(EXPECTED_FOR)) {
            state.gap = Some(state.gap.map_or(gap, |average| (average * 7 + gap) / 8));
        }
        state.latest = Some(now);
        state.rest = if span > least * 2 { (state.rest + MORE).min(MOST) } else { state.rest.saturating_sub(LESS) };
    }

    /// Whether few runs have come in lately, so that a few more are expected.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let state = self.state();
        state.expects(now) && state.gap.is_none_or(|gap| gap >= SELDOM)
    }

    /// How long to rest after a commit of many runs.
    pub(super) fn rest(&self, span: Duration, now: Instant) -> Duration {
        let mut state = self.state();
        if !state.expects(now) {
            state.rest = 0;
        }
        span * state.rest / 100
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment to begin with")]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(3);
    const SPAN: Duration = Duration::from_millis(10);

    #[test]
    fn a_flood_rests_only_while_others_notice_it() {
        let (courtesy, now) = (Courtesy::default(), Instant::now());
        assert_eq!((courtesy.rest(SPAN, now), courtesy.is_due(now)), (Duration::ZERO, false), "nobody else is there");
        courtesy.few_took(QUICK, now);
        assert_eq!((courtesy.rest(SPAN, now), courtesy.is_due(now)), (Duration::ZERO, true), "they do not notice");
        courtesy.few_took(SLOW, now);
        assert_eq!(courtesy.rest(SPAN, now), SPAN / 4);
        (0..9).for_each(|_| courtesy.few_took(SLOW, now));
        assert_eq!(courtesy.rest(SPAN, now), SPAN, "and no longer than it writes");
        assert_eq!(courtesy.rest(SPAN, now + EXPECTED_FOR), SPAN);
        let gone = now + EXPECTED_FOR + QUICK;
        assert_eq!((courtesy.rest(SPAN, gone), courtesy.is_due(gone)), (Duration::ZERO, false), "they have gone");
    }

    #[test]
    fn a_flood_of_single_runs_is_not_few() {
        let (courtesy, mut now) = (Courtesy::default(), Instant::now());
        let mut come = |apart, times: u32| {
            (0..times).for_each(|_| {
                now += apart;
                courtesy.few_took(QUICK, now);
            });
            courtesy.is_due(now)
        };
        assert!(come(SELDOM * 2, 50));
        assert!(!come(SELDOM / 5, 50));
        assert!(come(SELDOM * 20, 2), "they have become few");
    }

    #[test]
    fn quick_commits_end_the_rest_and_a_slow_disk_is_nobodys_fault() {
        let (courtesy, now) = (Courtesy::default(), Instant::now());
        courtesy.few_took(QUICK, now);
        courtesy.few_took(SLOW, now);
        (0..5).for_each(|_| courtesy.few_took(QUICK, now));
        assert_eq!(courtesy.rest(SPAN, now), Duration::ZERO);
        (0..100).for_each(|_| courtesy.few_took(SLOW, now));
        assert_eq!(courtesy.rest(SPAN, now), Duration::ZERO);
    }
}
