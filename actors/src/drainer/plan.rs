//! Whose runs are let through next, and how many: a weighted rotation over orgs, within an org over its envs, within
//! an env over its lanes by age. Pure; the same for the buffer and for free slots.
//!
//! A plan goes on where the last one ended, in the middle of a turn if need be: over any number of plans, whatever
//! their sizes, two that wait all the time differ by no more than a turn of each (weighted round robin; invariant
//! 39). A claim may find fewer places than were planned, and then takes the first turns: the order of turns begins
//! one further at every plan, so that nobody is first for ever.

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

/// Runs per rotation: an org's beside other orgs, an env's beside other envs of its org.
pub trait Weights {
    fn of_org(&self, org: &str) -> usize;
    fn of_env(&self, env: &str) -> usize;
}

/// Whoever is held up by a cap for now goes on where it was; beyond these, all begin anew.
const ORGS_REMEMBERED: usize = 10_000;

/// Where the rotations stand. Lost at a restart, which costs nobody more than one rotation.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    plans: usize,
    orgs: Place,
    envs: HashMap<String, Place>,
}

/// Whose turn it was, and what is left of it. By name, because others come and go.
#[derive(Debug, Clone, Default)]
struct Place {
    name: String,
    left: usize,
}

/// Turns of what `T` stands for, in the order of names.
struct Round<'a, T> {
    members: Vec<Member<'a, T>>,
    at: usize,
    left: usize,
}

struct Member<'a, T> {
    name: &'a str,
    weight: usize,
    of: T,
}

impl<'a, T> Round<'a, T> {
    /// `members` are in the order of their names, and not none.
    fn from(place: &Place, members: Vec<Member<'a, T>>) -> Round<'a, T> {
        let count = members.len();
        let behind = members.partition_point(|member| member.name <= place.name.as_str());
        let at = (behind + count).saturating_sub(1) % count.max(1);
        let goes_on = members.get(at).filter(|member| member.name == place.name);
        let left = goes_on.map_or(0, |member| place.left.min(member.weight));
        Round { members, at, left }
    }

    /// Whose turn it is for one run.
    fn turn(&mut self) -> Option<&mut T> {
        if self.left == 0 {
            self.at = (self.at + 1) % self.members.len().max(1);
            self.left = self.members.get(self.at)?.weight;
        }
        self.left = self.left.saturating_sub(1);
        self.members.get_mut(self.at).map(|member| &mut member.of)
    }

    fn place(&self) -> Place {
        let name = self.members.get(self.at).map_or(String::new(), |member| member.name.to_owned());
        Place { name, left: self.left }
    }

    fn begin_with(&mut self, index: usize) {
        let count = self.members.len();
        self.members.rotate_left(index % count.max(1));
    }
}

/// The lanes of one env by age, each with what it has been given so far.
struct Lanes<'a> {
    given: Vec<(&'a Waiting, usize)>,
    next: usize,
}

impl Lanes<'_> {
    fn give(&mut self) {
        let count = self.given.len();
        if let Some((_, given)) = self.given.get_mut(self.next % count.max(1)) {
            *given += 1;
        }
        self.next += 1;
    }
}

type Org<'a> = Round<'a, Lanes<'a>>;

impl Rotation {
    /// Divides `free` places. A lane may turn out to hold fewer runs than it is given here; what it leaves is
    /// divided anew by the next plan.
    pub fn plan(&mut self, waiting: &[Waiting], free: usize, weights: &dyn Weights) -> Vec<Turn> {
        if waiting.is_empty() || free == 0 {
            return Vec::new();
        }
        let mut orgs = self.line_up(waiting, weights);
        for _ in 0..free {
            if let Some(lanes) = orgs.turn().and_then(Round::turn) {
                lanes.give();
            }
        }
        self.orgs = orgs.place();
        if self.envs.len() > ORGS_REMEMBERED {
            self.envs.clear();
        }
        self.envs.extend(orgs.members.iter().map(|org| (org.name.to_owned(), org.of.place())));
        // Orgs and envs must not keep step: one env of each org would be first for ever.
        let cycles = self.plans / orgs.members.len().max(1);
        orgs.begin_with(self.plans);
        orgs.members.iter_mut().for_each(|org| org.of.begin_with(cycles));
        self.plans = self.plans.wrapping_add(1);
        turns(orgs)
    }

    fn line_up<'a>(&self, waiting: &'a [Waiting], weights: &dyn Weights) -> Round<'a, Org<'a>> {
        let mut by_org: BTreeMap<&str, BTreeMap<&str, Vec<&Waiting>>> = BTreeMap::new();
        for place in waiting {
            by_org.entry(place.basin.org()).or_default().entry(place.basin.env()).or_default().push(place);
        }
        let first = Place::default();
        let orgs = by_org.into_iter().map(|(org, by_env)| {
            let envs = by_env.into_iter().map(|(env, mut lanes)| {
                lanes.sort_by(|a, b| (a.rank, &a.lane).cmp(&(b.rank, &b.lane)));
                let given = lanes.into_iter().map(|lane| (lane, 0)).collect();
                Member { name: env, weight: weights.of_env(env).max(1), of: Lanes { given, next: 0 } }
            });
            let envs = Round::from(self.envs.get(org).unwrap_or(&first), envs.collect());
            Member { name: org, weight: weights.of_org(org).max(1), of: envs }
        });
        Round::from(&self.orgs, orgs.collect())
    }
}

fn turns(orgs: Round<'_, Org<'_>>) -> Vec<Turn> {
    let envs = orgs.members.into_iter().flat_map(|org| org.of.members);
    let given = envs.flat_map(|env| env.of.given).filter(|(_, runs)| *runs > 0);
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

    /// What every env was given by `plans` plans.
    fn total(
        rotation: &mut Rotation,
        waiting: &[Waiting],
        plans: usize,
        places: impl Fn(usize) -> usize,
        weights: &dyn Weights,
    ) -> BTreeMap<String, usize> {
        let mut sums = BTreeMap::new();
        for plan in 0..plans {
            for (env, runs) in by_env(&rotation.plan(waiting, places(plan), weights)) {
                *sums.entry(env).or_default() += runs;
            }
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
        let sums = total(&mut Rotation::default(), &waiting, 6, |_| 1, &Equal);
        assert_eq!(sums.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn two_orgs_of_two_envs_with_one_place_a_plan_all_have_their_turn() {
        let waiting = [envs("a", 2), envs("b", 2)].concat();
        let sums = total(&mut Rotation::default(), &waiting, 8, |_| 1, &Equal);
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

    struct Heavy;
    impl Weights for Heavy {
        fn of_org(&self, org: &str) -> usize {
            if org == "a" { 3 } else { 1 }
        }
        fn of_env(&self, env: &str) -> usize {
            if env == "b/x" { 2 } else { 1 }
        }
    }

    #[test]
    fn weights_are_runs_per_rotation_whatever_the_plans_sizes() {
        let waiting = [at("a/x", "q", 0), at("b/x", "q", 0), at("b/y", "q", 0)];
        for places in [1, 2, 3, 8, 16, 48] {
            let sums = total(&mut Rotation::default(), &waiting, 48 / places, |_| places, &Heavy);
            assert_eq!((sums["a/x"], sums["b/x"], sums["b/y"]), (36, 8, 4), "{places} at a time");
        }
    }

    #[test]
    fn envs_that_wait_all_the_time_never_differ_by_more_than_one_run() {
        let waiting = [envs("a", 20), envs("b", 1)].concat();
        let mut rotation = Rotation::default();
        // Sizes of plans as they come: they share no period with the rotation.
        let sums = total(&mut rotation, &waiting, 500, |plan| plan * 7919 % 131, &Equal);
        let of_a: Vec<usize> = sums.iter().filter(|(env, _)| env.starts_with("a/")).map(|(_, runs)| *runs).collect();
        let (least, most) = (of_a.iter().min().copied(), of_a.iter().max().copied());
        assert!(most <= least.map(|least| least + 1), "{sums:?}");
        assert!(sums["b/e00"].abs_diff(of_a.iter().sum()) <= 1, "{sums:?}");
    }

    #[test]
    fn a_rotation_goes_on_behind_one_that_is_gone() {
        let mut rotation = Rotation::default();
        let first = rotation.plan(&envs("a", 3), 2, &Equal);
        assert_eq!(by_env(&first).into_keys().collect::<Vec<_>>(), ["a/e00", "a/e01"]);
        let left = [at("a/e00", "q", 0), at("a/e02", "q", 0)];
        assert_eq!(rotation.plan(&left, 1, &Equal)[0].basin.env(), "a/e02");
    }

    #[test]
    fn whoever_was_held_up_for_a_while_goes_on_where_it_was() {
        let mut rotation = Rotation::default();
        assert_eq!(rotation.plan(&envs("a", 3), 1, &Equal)[0].basin.env(), "a/e00");
        rotation.plan(&envs("b", 1), 1, &Equal);
        assert_eq!(rotation.plan(&envs("a", 3), 1, &Equal)[0].basin.env(), "a/e01");
    }

    #[test]
    fn every_env_is_the_first_of_a_plan_in_its_time() {
        let waiting = [envs("a", 2), envs("b", 2)].concat();
        let mut rotation = Rotation::default();
        let mut first: Vec<String> =
            (0..4).map(|_| rotation.plan(&waiting, 4, &Equal)[0].basin.env().to_owned()).collect();
        first.sort();
        assert_eq!(first, ["a/e00", "a/e01", "b/e00", "b/e01"]);
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
