//! Whether an env takes in more than its threshold within a sliding window, and for how long that is held
//! against it.
//!
//! The window slides in small steps, so that a burst over a boundary counts in full; a fixed window would let
//! twice the threshold through there.

use std::time::Duration;

use super::table::{State, Table};

/// Steps in which a window slides.
const SLOTS: usize = 20;

/// More than `threshold` within `window` trips; a trip holds for `hold` after the last time it was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub threshold: u32,
    pub window: Duration,
    pub hold: Duration,
}

/// What is known of one env: how many in each of the last slots, and until when it is tripped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    slots: [u32; SLOTS],
    newest: u64,
    held_until: Option<Duration>,
}

/// How many there were within the window, this one included, and whether that is too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub count: u32,
    pub tripped: Option<Tripped>,
}

/// Why an env is tripped, with all that a log line or an answer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tripped {
    pub rule: Rule,
    pub held_until: Duration,
}

impl Window {
    /// Counts `more` and decides.
    pub fn observe(&mut self, more: u32, now: Duration, rule: &Rule) -> Verdict {
        self.slide(now, rule);
        let slot = &mut self.slots[slot_of(self.newest)];
        *slot = slot.saturating_add(more);
        let count = self.slots.iter().fold(0_u32, |sum, slot| sum.saturating_add(*slot));
        if count > rule.threshold {
            self.held_until = Some(now + rule.hold);
        }
        Verdict { count, tripped: self.tripped(now, rule) }
    }

    /// Decides without counting.
    pub fn tripped(&self, now: Duration, rule: &Rule) -> Option<Tripped> {
        let held_until = self.held_until.filter(|until| now < *until)?;
        Some(Tripped { rule: *rule, held_until })
    }

    /// Forgets the slots that have left the window. Somebody whose time is a little behind counts as now.
    fn slide(&mut self, now: Duration, rule: &Rule) {
        let step = (rule.window / SLOTS as u32).as_nanos().max(1);
        let current = u64::try_from(now.as_nanos() / step).unwrap_or(u64::MAX);
        let steps = current.saturating_sub(self.newest).min(SLOTS as u64);
        for step in 1..=steps {
            self.slots[slot_of(self.newest.wrapping_add(step))] = 0;
        }
        if steps == SLOTS as u64 {
            self.slots = [0; SLOTS];
        }
        self.newest = self.newest.max(current);
    }
}

fn slot_of(step: u64) -> usize {
    (step % SLOTS as u64) as usize
}

#[derive(Debug, Default)]
struct Watched {
    window: Window,
    seen: Duration,
}

impl State for Watched {
    fn is_idle(&self, now: Duration, window: Duration) -> bool {
        let held = self.window.held_until.is_some_and(|until| now < until);
        !held && now.saturating_sub(self.seen) > window
    }
}

/// The windows of all envs under one rule.
#[derive(Debug)]
pub struct Alarm {
    rule: Rule,
    envs: Table<Watched>,
}

impl Alarm {
    /// Watches `envs_max` envs at most.
    pub fn new(rule: Rule, envs_max: usize) -> Alarm {
        Alarm { rule, envs: Table::new(envs_max, rule.window) }
    }

    /// Counts one accept of an env and says whether that is too many.
    pub fn observe(&self, env: &str, now: Duration) -> Verdict {
        self.observe_under(&self.rule, env, 1, now)
    }

    /// How many envs there were lately.
    pub fn active(&self, now: Duration) -> usize {
        self.envs.active(now)
    }

    /// Counts some accepts of an env that has a rule of its own.
    pub fn observe_under(&self, rule: &Rule, env: &str, more: u32, now: Duration) -> Verdict {
        self.envs.with(env, now, |watched| {
            watched.seen = watched.seen.max(now);
            watched.window.observe(more, now, rule)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    const RULE: Rule = Rule { threshold: 5, window: Duration::from_millis(200), hold: Duration::from_millis(500) };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn tripped(alarm: &Alarm, env: &str, times: u32, at: u64) -> bool {
        let verdicts: Vec<Verdict> = (0..times).map(|_| alarm.observe(env, ms(at))).collect();
        verdicts.last().is_some_and(|verdict| verdict.tripped.is_some())
    }

    #[test]
    fn s004_t1_under_the_threshold_nothing_trips_and_each_counts_one() {
        let alarm = Alarm::new(RULE, 10);
        for expected in 1..=5 {
            assert_eq!(alarm.observe("a", ms(1_000)), Verdict { count: expected, tripped: None });
        }
    }

    #[test]
    fn s004_t2_one_over_the_threshold_trips_and_says_all_of_it() {
        let alarm = Alarm::new(RULE, 10);
        assert!(!tripped(&alarm, "a", 5, 1_000));
        let verdict = alarm.observe("a", ms(1_100));
        let expected = Tripped { rule: RULE, held_until: ms(1_600) };
        assert_eq!(verdict, Verdict { count: 6, tripped: Some(expected) });
    }

    #[test]
    fn s004_t3_a_trip_ends_after_its_hold_and_the_env_starts_anew() {
        let alarm = Alarm::new(RULE, 10);
        assert!(tripped(&alarm, "a", 6, 1_000));
        assert!(tripped(&alarm, "a", 1, 1_499));
        assert_eq!(alarm.observe("a", ms(1_700)), Verdict { count: 1, tripped: None });
    }

    #[test]
    fn s004_t4_a_trip_outlives_the_window_that_caused_it() {
        let alarm = Alarm::new(RULE, 10);
        assert!(tripped(&alarm, "a", 6, 1_000));
        let verdict = alarm.observe("a", ms(1_300));
        assert_eq!((verdict.count, verdict.tripped.map(|tripped| tripped.held_until)), (1, Some(ms(1_500))));
    }

    #[test]
    fn s004_t5_the_count_starts_anew_after_a_silent_window() {
        let alarm = Alarm::new(RULE, 10);
        assert!(!tripped(&alarm, "a", 5, 1_000));
        assert_eq!(alarm.observe("a", ms(1_200)).count, 1);
    }

    #[test]
    fn s004_t6_a_tripped_env_leaves_the_others_alone() {
        let alarm = Alarm::new(RULE, 10);
        assert!(tripped(&alarm, "a", 6, 1_000));
        assert_eq!(alarm.observe("b", ms(1_000)), Verdict { count: 1, tripped: None });
    }

    #[test]
    fn s004_t7_a_hundred_at_once_are_counted_exactly() {
        let alarm = Alarm::new(Rule { threshold: 1_000, ..RULE }, 10);
        let counts = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| counts.lock().expect("counts").insert(alarm.observe("a", ms(1_000)).count));
            }
        });
        assert_eq!(counts.into_inner().expect("counts"), (1..=100).collect());
    }

    #[test]
    fn a_burst_over_the_edge_of_a_window_counts_in_full() {
        let alarm = Alarm::new(RULE, 10);
        assert!(!tripped(&alarm, "a", 4, 1_195));
        assert!(tripped(&alarm, "a", 4, 1_205), "a fixed window of 200 ms would have begun anew at 1,200");
    }

    #[test]
    fn a_steady_rate_at_the_threshold_never_trips_and_above_it_always_does() {
        for (every, trips) in [(40, false), (50, false), (25, true)] {
            let alarm = Alarm::new(RULE, 10);
            let any = (0..200).any(|turn| alarm.observe("a", ms(1_000 + turn * every)).tripped.is_some());
            assert_eq!(any, trips, "one each {every} ms");
        }
    }

    #[test]
    fn the_table_is_bounded_and_quiet_envs_make_room() {
        let alarm = Alarm::new(RULE, 100);
        for env in 0..1_000 {
            assert_eq!(alarm.observe(&env.to_string(), ms(5_000)).count, 1);
        }
        assert_eq!(alarm.envs.len(), 100);
        assert!(tripped(&alarm, "7", 6, 5_100));
        alarm.observe("late", ms(10_000));
        assert_eq!(alarm.envs.len(), 1);
    }
}
