//! Whose runs are let through next, and how many: a rotation over orgs, within an org over its envs, within an
//! env over its lanes by age. Pure; the same for the buffer and for free slots.
//!
//! The order of orgs begins one further at every plan, so that nobody is first for ever, and every env with
//! something waiting gets a turn in each rotation (invariant 39).

use std::collections::{BTreeMap, HashMap};
use storage::model::{Basin, Lane};

/// A lane that may hold runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub basin: Basin,
    pub lane: Lane,
    /// Of its oldest known run; orders the lanes of one env.
    pub rank: i64,
}

/// What to take from one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub basin: Basin,
    pub lane: Lane,
    pub runs: usize,
    /// Of its oldest known run.
    pub rank: i64,
}

/// Turns per rotation.
pub trait Weights {
    fn of_org(&self, org: &str) -> usize;
    fn of_env(&self, env: &str) -> usize;
}

/// Where the rotation stands. Lost at a restart, which costs nobody more than one rotation.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    org: usize,
    env: HashMap<String, usize>,
}

struct OrgTurn<'a> {
    weight: usize,
    envs: Vec<EnvTurn<'a>>,
    next_env: usize,
}

struct EnvTurn<'a> {
    weight: usize,
    /// Lanes by age; each with what it has been given so far.
    lanes: Vec<(&'a Waiting, usize)>,
    next_lane: usize,
}

impl EnvTurn<'_> {
    fn had_any(&self) -> bool {
        self.next_lane > 0
    }

    /// Gives one run to this env's next lane.
    fn give(&mut self) {
        let count = self.lanes.len();
        if let Some((_, given)) = self.lanes.get_mut(self.next_lane % count.max(1)) {
            *given += 1;
        }
        self.next_lane += 1;
    }
}

impl Rotation {
    /// Divides `free` places. A lane may turn out to hold fewer runs than it is given here; what it leaves is
    /// divided anew by the next plan.
    pub fn plan(&mut self, waiting: &[Waiting], free: usize, weights: &dyn Weights) -> Vec<Turn> {
        let mut orgs = self.line_up(waiting, weights);
        if orgs.is_empty() {
            return Vec::new();
        }
        let mut left = free;
        // Most plans are one org with one env: then there is nothing to rotate.
        while left > 0 {
            for org in &mut orgs {
                for _ in 0..org.weight {
                    left = org.turn(left);
                }
            }
        }
        self.org = self.org.wrapping_add(1);
        // Only whoever had a turn moves on: else the two rotations could keep step and pass one env over for ever.
        for org in orgs.iter().filter(|org| org.next_env > 0) {
            let place = org.envs.first().and_then(|env| env.lanes.first());
            if let Some((waiting, _)) = place.filter(|_| org.envs.iter().any(EnvTurn::had_any)) {
                let cursor = self.env.entry(waiting.basin.org().to_owned()).or_default();
                *cursor = cursor.wrapping_add(1);
            }
        }
        turns(orgs)
    }

    /// Orgs and their envs in the order in which they have their turns.
    fn line_up<'a>(&mut self, waiting: &'a [Waiting], weights: &dyn Weights) -> Vec<OrgTurn<'a>> {
        let mut by_org: BTreeMap<&str, BTreeMap<&str, Vec<&Waiting>>> = BTreeMap::new();
        for place in waiting {
            by_org.entry(place.basin.org()).or_default().entry(place.basin.env()).or_default().push(place);
        }
        self.env.retain(|org, _| by_org.contains_key(org.as_str()));
        let mut orgs = Vec::with_capacity(by_org.len());
        for (org, by_env) in by_org {
            let mut envs: Vec<EnvTurn<'_>> = by_env
                .into_iter()
                .map(|(env, mut lanes)| {
                    lanes.sort_by(|a, b| (a.rank, &a.lane).cmp(&(b.rank, &b.lane)));
                    let lanes = lanes.into_iter().map(|lane| (lane, 0)).collect();
                    EnvTurn { weight: weights.of_env(env).max(1), lanes, next_lane: 0 }
                })
                .collect();
            let cursor = self.env.get(org).copied().unwrap_or(0);
            let count = envs.len();
            envs.rotate_left(cursor % count.max(1));
            orgs.push(OrgTurn { weight: weights.of_org(org).max(1), envs, next_env: 0 });
        }
        let count = orgs.len();
        orgs.rotate_left(self.org % count.max(1));
        orgs
    }
}

impl OrgTurn<'_> {
    /// One turn of this org goes to its next env; returns the places that are left.
    fn turn(&mut self, mut left: usize) -> usize {
        let count = self.envs.len();
        if let Some(env) = self.envs.get_mut(self.next_env % count.max(1)) {
            for _ in 0..env.weight.min(left) {
                env.give();
                left -= 1;
            }
        }
        self.next_env += 1;
        left
    }
}

fn turns(orgs: Vec<OrgTurn<'_>>) -> Vec<Turn> {
    let lanes = orgs.into_iter().flat_map(|org| org.envs).flat_map(|env| env.lanes);
    let given = lanes.filter(|(_, runs)| *runs > 0);
    given
        .map(|(place, runs)| Turn { basin: place.basin.clone(), lane: place.lane.clone(), runs, rank: place.rank })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Equal;
    impl Weights for Equal {
        fn of_org(&self, _: &str) -> usize {
            1
        }
        fn of_env(&self, _: &str) -> usize {
            1
        }
    }

    fn at(env: &str, queue: &str, rank: i64) -> Waiting {
        Waiting { basin: Basin::own(env), lane: Lane::new(queue, ""), rank }
    }

    fn by_env(turns: &[Turn]) -> BTreeMap<String, usize> {
        let mut sums = BTreeMap::new();
        for turn in turns {
            *sums.entry(turn.basin.env().to_owned()).or_default() += turn.runs;
        }
        sums
    }

    fn envs(org: &str, count: usize) -> Vec<Waiting> {
        (0..count).map(|index| at(&format!("{org}/e{index:02}"), "q", 0)).collect()
    }

    #[test]
    fn s004_d11_every_org_gets_one_run_in_each_rotation() {
        let waiting: Vec<_> = ["a/x", "b/x", "c/x"].iter().map(|env| at(env, "q", 0)).collect();
        let turns = Rotation::default().plan(&waiting, 3, &Equal);
        assert_eq!(turns.iter().map(|turn| turn.runs).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn s004_d6_an_org_with_twenty_envs_gets_as_much_as_one_with_one() {
        let waiting = [envs("heavy", 20), envs("light", 1)].concat();
        let mut rotation = Rotation::default();
        let mut sums: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..20 {
            for turn in rotation.plan(&waiting, 10, &Equal) {
                *sums.entry(turn.basin.org().to_owned()).or_default() += turn.runs;
            }
        }
        assert_eq!(sums["heavy"], sums["light"]);
    }

    #[test]
    fn s004_d24_envs_of_one_org_take_turns_evenly() {
        let waiting = envs("a", 3);
        let mut rotation = Rotation::default();
        let mut sums: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..6 {
            for (env, runs) in by_env(&rotation.plan(&waiting, 1, &Equal)) {
                *sums.entry(env).or_default() += runs;
            }
        }
        assert_eq!(sums.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn two_orgs_of_two_envs_with_one_place_a_plan_all_have_their_turn() {
        let waiting = [envs("a", 2), envs("b", 2)].concat();
        let mut rotation = Rotation::default();
        let mut sums: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..8 {
            for (env, runs) in by_env(&rotation.plan(&waiting, 1, &Equal)) {
                *sums.entry(env).or_default() += runs;
            }
        }
        assert_eq!(sums.values().copied().collect::<Vec<_>>(), [2, 2, 2, 2]);
    }

    #[test]
    fn s004_d20_d21_every_org_is_first_once_in_a_cycle() {
        let waiting: Vec<_> = (0..5).map(|org| at(&format!("o{org}/x"), "q", 0)).collect();
        let mut rotation = Rotation::default();
        let mut first: Vec<String> =
            (0..5).map(|_| rotation.plan(&waiting, 1, &Equal)[0].basin.org().to_owned()).collect();
        first.sort();
        assert_eq!(first, ["o0", "o1", "o2", "o3", "o4"]);
    }

    #[test]
    fn s004_d22_d23_a_light_env_is_served_in_the_first_plan_beside_heavy_ones() {
        let waiting = [envs("heavy", 12), envs("light", 1)].concat();
        for _ in 0..3 {
            let turns = Rotation::default().plan(&waiting, 4, &Equal);
            assert!(by_env(&turns).contains_key("light/e00"));
        }
    }

    #[test]
    fn weights_are_turns_per_rotation() {
        struct Heavy;
        impl Weights for Heavy {
            fn of_org(&self, org: &str) -> usize {
                if org == "a" { 3 } else { 1 }
            }
            fn of_env(&self, env: &str) -> usize {
                if env == "b/x" { 2 } else { 1 }
            }
        }
        let waiting = [at("a/x", "q", 0), at("b/x", "q", 0)];
        let sums = by_env(&Rotation::default().plan(&waiting, 10, &Heavy));
        assert_eq!((sums["a/x"], sums["b/x"]), (6, 4));
    }

    #[test]
    fn lanes_of_one_env_begin_with_the_oldest_and_share() {
        let waiting = [at("a/x", "young", 9), at("a/x", "old", 1)];
        assert_eq!(Rotation::default().plan(&waiting, 1, &Equal)[0].lane, Lane::new("old", ""));
        let turns = Rotation::default().plan(&waiting, 4, &Equal);
        assert_eq!(turns.iter().map(|turn| turn.runs).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn nothing_waiting_or_nothing_free_is_no_turn() {
        assert!(Rotation::default().plan(&[], 5, &Equal).is_empty());
        assert!(Rotation::default().plan(&[at("a/x", "q", 0)], 0, &Equal).is_empty());
    }
}
