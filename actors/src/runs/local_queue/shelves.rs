//! Whose run is next for a free worker. Pure.
//!
//! Where runs take long, turns alone would let an env wait until one of another's ends. So where several envs are
//! served, a few slots are spare: kept for envs that have nothing at work. An env that is alone has them all.

use super::super::turns::Turns;
use super::Held;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One slot in so many is spare, and at least one where there are enough to have one.
const SPARE_PART: usize = 16;
const SPARE_FROM: usize = 8;
/// How long after runs of several envs came their like is expected.
const MIXED_FOR: Duration = Duration::from_secs(60);

/// The runs that wait, and what is at work.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    waiting: Turns<Held>,
    at_work: HashMap<String, usize>,
    working: usize,
    latest_env: String,
    /// When a run came whose env was not that of the one before.
    mixed_at: Option<Instant>,
}

impl Shelves {
    pub(super) fn push(&mut self, held: Held, now: Instant) {
        if self.latest_env != held.leased.env {
            self.mixed_at = Some(now).filter(|_| !self.latest_env.is_empty());
            self.latest_env.clone_from(&held.leased.env);
        }
        self.waiting.push(&held.leased.env.clone(), held);
    }

    /// The next run for a worker that is one of `slots`; it is at work from now on.
    pub(super) fn pop(&mut self, slots: usize, now: Instant) -> Option<Held> {
        let held = if slots.saturating_sub(self.working) > self.spare(slots, now) {
            self.waiting.next()?
        } else {
            self.waiting.next_where(|env| !self.at_work.contains_key(env))?
        };
        self.working += 1;
        match self.at_work.get_mut(&held.leased.env) {
            Some(runs) => *runs += 1,
            None => drop(self.at_work.insert(held.leased.env.clone(), 1)),
        }
        Some(held)
    }

    /// A run of an env is at work no more.
    pub(super) fn end(&mut self, env: &str) {
        self.working = self.working.saturating_sub(1);
        if let Some(runs) = self.at_work.get_mut(env) {
            *runs -= 1;
            if *runs == 0 {
                self.at_work.remove(env);
            }
        }
    }

    /// Slots that are kept for envs with nothing at work.
    pub(super) fn spare(&self, slots: usize, now: Instant) -> usize {
        let mixed = self.mixed_at.is_some_and(|at| now.duration_since(at) < MIXED_FOR);
        if mixed && slots >= SPARE_FROM { (slots / SPARE_PART).max(1) } else { 0 }
    }

    pub(super) fn waits(&self, env: &str) -> bool {
        self.waiting.has(env)
    }

    /// Runs of an env that are carried out now.
    pub(super) fn at_work(&self, env: &str) -> usize {
        self.at_work.get(env).copied().unwrap_or(0)
    }

    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn working(&self) -> usize {
        self.working
    }

    /// All that is not at work.
    pub(super) fn take(&mut self) -> Vec<Held> {
        self.waiting.take()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment to begin with")]
pub(super) mod tests {
    use super::*;
    use storage::model::{Basin, Epoch, Lane, RunId, Timestamp};
    use storage::store::{Brief, Leased};

    pub(in super::super) fn held(env: &str, name: &str) -> Held {
        let leased = Leased {
            run: RunId::from_text(name),
            env: env.to_owned(),
            basin: Basin::own(env),
            lane: Lane::new("default", ""),
            task: "noop".to_owned(),
            epoch: Epoch::from_number(1),
            attempt: 1,
            max_attempts: 1,
            max_duration_ms: 0,
            since: Timestamp::from_millis(0),
            rank: 0,
        };
        Held { leased, brief: Brief::default(), claimed_at: Timestamp::from_millis(0), started_at: None, settler: None }
    }

    fn name(held: Option<Held>) -> Option<String> {
        held.map(|held| held.leased.run.to_string())
    }

    fn flooded(slots: usize, now: Instant) -> Shelves {
        let mut shelves = Shelves::default();
        shelves.push(held("light", "before"), now);
        assert_eq!(name(shelves.pop(slots, now)).as_deref(), Some("before"));
        shelves.end("light");
        (0..slots).for_each(|run| shelves.push(held("flood", &format!("flood-{run}")), now));
        shelves
    }

    #[test]
    fn envs_take_turns() {
        let (mut shelves, now) = (Shelves::default(), Instant::now());
        for (env, run) in [("a", "a0"), ("a", "a1"), ("b", "b0"), ("a", "a2")] {
            shelves.push(held(env, run), now);
        }
        let order: Vec<String> = std::iter::from_fn(|| name(shelves.pop(100, now))).collect();
        assert_eq!(
            (order, shelves.count(), shelves.working()),
            (["a0", "b0", "a1", "a2"].map(String::from).into(), 0, 4)
        );
    }

    #[test]
    fn an_env_with_nothing_at_work_finds_a_slot_beside_a_flood() {
        let now = Instant::now();
        let mut shelves = flooded(8, now);
        let pop = |shelves: &mut Shelves| name(shelves.pop(8, now));
        let begun = std::iter::from_fn(|| pop(&mut shelves)).count();
        assert_eq!((begun, shelves.count(), shelves.spare(8, now)), (7, 1, 1));
        shelves.push(held("light", "l0"), now);
        shelves.push(held("light", "l1"), now);
        assert_eq!(pop(&mut shelves).as_deref(), Some("l0"));
        assert_eq!(pop(&mut shelves), None, "there is no slot");
        shelves.end("flood");
        assert_eq!(pop(&mut shelves), None, "the one that is free is spare, and both envs have something at work");
        shelves.end("light");
        assert_eq!(pop(&mut shelves).as_deref(), Some("flood-7"), "its turn came before light's second");
        assert_eq!(pop(&mut shelves).as_deref(), Some("l1"));
    }

    #[test]
    fn an_env_that_is_alone_has_all_slots_and_so_have_few_slots_all_envs() {
        let now = Instant::now();
        let mut alone = flooded(8, now);
        let later = now + MIXED_FOR;
        assert_eq!(std::iter::from_fn(|| alone.pop(8, later)).count(), 8);
        let mut few = flooded(7, now);
        assert_eq!(std::iter::from_fn(|| few.pop(7, now)).count(), 7);
        assert_eq!([7, 8, 16, 64].map(|slots| few.spare(slots, now)), [0, 1, 1, 4]);
    }

    #[test]
    fn an_env_is_at_work_until_its_last_run_has_ended() {
        let now = Instant::now();
        let mut shelves = flooded(1, now);
        assert_eq!((shelves.waits("flood"), shelves.at_work("flood"), shelves.waits("light")), (true, 0, false));
        drop(shelves.pop(1, now));
        assert_eq!((shelves.waits("flood"), shelves.at_work("flood")), (false, 1));
        assert!(shelves.take().is_empty());
        shelves.end("flood");
        assert_eq!(shelves.at_work("flood"), 0);
    }
}
