//! Which lanes may hold ready runs. A hint: what is not in it is found by the next scan.

use dashmap::{DashMap, Entry};
use std::collections::HashMap;
use storage::model::{Basin, Lane};
use storage::store::LaneHead;

/// What is known of a lane.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Of its oldest run; what lies before it has been taken. Too low costs a walk over that, and too high the
    /// time until the next scan.
    rank: i64,
    /// The lowest that was noted since the latest claim began: whether that has seen it is not known.
    noted: i64,
}

impl Known {
    fn of(rank: i64) -> Known {
        Known { rank, noted: rank }
    }

    fn note(&mut self, rank: i64) {
        self.rank = self.rank.min(rank);
        self.noted = self.noted.min(rank);
    }
}

/// Lanes that somebody in this process has put a run into, or that a scan has found.
#[derive(Debug, Default)]
pub struct LaneIndex {
    known: DashMap<(Basin, Lane), Known>,
    /// Known ones that a cap holds up until some run ends.
    blocked: DashMap<(Basin, Lane), Known>,
    /// How many of the known lanes each env has.
    envs: DashMap<String, usize>,
}

impl LaneIndex {
    /// Notes that a lane may hold a run of this rank.
    pub fn note(&self, basin: &Basin, lane: &Lane, rank: i64) {
        if !basin.is_own() {
            return;
        }
        // Looked up before it is cloned: most of a burst goes into one lane.
        if let Some(mut known) = self.known.get_mut(&(basin.clone(), lane.clone())) {
            known.note(rank);
            return;
        }
        self.put(basin.clone(), lane.clone(), Known::of(rank));
    }

    fn put(&self, basin: Basin, lane: Lane, found: Known) {
        let env = basin.env().to_owned();
        match self.known.entry((basin, lane)) {
            Entry::Occupied(mut known) => known.get_mut().note(found.rank),
            Entry::Vacant(place) => {
                place.insert(found);
                *self.envs.entry(env).or_insert(0) += 1;
            }
        }
    }

    fn take(&self, place: &(Basin, Lane), only: impl Fn(&Known) -> bool) -> Option<((Basin, Lane), Known)> {
        let taken = self.known.remove_if(place, |_, known| only(known))?;
        let env = place.0.env();
        if let Some(mut count) = self.envs.get_mut(env) {
            *count = count.saturating_sub(1);
        }
        self.envs.remove_if(env, |_, count| *count == 0);
        Some(taken)
    }

    /// Says that runs are about to be claimed from this rank on.
    pub fn begin(&self, basin: &Basin, lane: &Lane, from: i64) {
        if let Some(mut known) = self.known.get_mut(&(basin.clone(), lane.clone())) {
            known.noted = if known.rank < from { known.rank } else { i64::MAX };
        }
    }

    /// Says that the claim has taken all up to this rank.
    pub fn passed(&self, basin: &Basin, lane: &Lane, rank: i64) {
        if let Some(mut known) = self.known.get_mut(&(basin.clone(), lane.clone())) {
            known.rank = rank.min(known.noted);
        }
    }

    /// Whether an env has a lane that may hold runs.
    pub fn knows(&self, env: &str) -> bool {
        self.envs.contains_key(env)
    }

    /// Sets a lane aside until the next end of a run.
    pub fn block(&self, basin: &Basin, lane: &Lane) {
        if let Some((place, known)) = self.take(&(basin.clone(), lane.clone()), |_| true) {
            self.blocked.insert(place, known);
        }
    }

    pub fn unblock(&self) {
        if self.blocked.is_empty() {
            return;
        }
        let places: Vec<_> = self.blocked.iter().map(|entry| entry.key().clone()).collect();
        for place in places {
            if let Some(((basin, lane), known)) = self.blocked.remove(&place) {
                self.put(basin, lane, known);
            }
        }
    }

    /// Takes a lane out that the claim has found empty, unless something was noted of it meanwhile.
    pub fn forget(&self, basin: &Basin, lane: &Lane) {
        let place = (basin.clone(), lane.clone());
        if self.take(&place, |known| known.noted == i64::MAX).is_none()
            && let Some(mut known) = self.known.get_mut(&place)
        {
            known.rank = known.noted;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The lanes of each env, also those that a cap holds up, each with where its runs begin.
    pub fn by_env(&self) -> HashMap<String, Vec<LaneHead>> {
        let mut envs: HashMap<String, Vec<LaneHead>> = HashMap::new();
        for entry in self.known.iter().chain(self.blocked.iter()) {
            let ((basin, lane), known) = (entry.key(), entry.value());
            let head = LaneHead { basin: basin.clone(), lane: lane.clone(), rank: known.rank };
            envs.entry(basin.env().to_owned()).or_default().push(head);
        }
        envs
    }

    /// The lanes with the rank of their oldest known run.
    pub fn snapshot(&self) -> Vec<(Basin, Lane, i64)> {
        self.known.iter().map(|entry| (entry.key().0.clone(), entry.key().1.clone(), entry.value().rank)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_is_known_as_long_as_one_of_its_lanes_is() {
        let lanes = LaneIndex::default();
        let basin = Basin::own("acme/dev");
        let (one, two) = (Lane::new("one", ""), Lane::new("two", ""));
        for lane in [&one, &two, &one] {
            lanes.note(&basin, lane, 5);
        }
        lanes.block(&basin, &one);
        lanes.forget(&basin, &one);
        assert!(lanes.knows("acme/dev"));
        lanes.begin(&basin, &two, 5);
        lanes.forget(&basin, &two);
        assert!(!lanes.knows("acme/dev"), "what a cap holds up does not count");
        lanes.unblock();
        assert!(lanes.knows("acme/dev"));
        lanes.begin(&basin, &one, 5);
        lanes.forget(&basin, &one);
        lanes.forget(&basin, &one);
        assert!(!lanes.knows("acme/dev") && lanes.is_empty());
    }

    #[test]
    fn a_claim_begins_where_the_latest_ended_but_never_behind_what_came_meanwhile() {
        let lanes = LaneIndex::default();
        let (basin, lane) = (Basin::own("acme/dev"), Lane::new("one", ""));
        let from = || lanes.snapshot()[0].2;
        lanes.note(&basin, &lane, 5);
        lanes.begin(&basin, &lane, from());
        lanes.note(&basin, &lane, 30);
        lanes.passed(&basin, &lane, 20);
        assert_eq!(from(), 20);
        lanes.begin(&basin, &lane, from());
        lanes.note(&basin, &lane, 21);
        lanes.passed(&basin, &lane, 40);
        assert_eq!(from(), 21, "it may have come too late for this claim");
        let planned = from();
        lanes.note(&basin, &lane, 7);
        lanes.begin(&basin, &lane, planned);
        lanes.passed(&basin, &lane, 40);
        assert_eq!(from(), 7, "it came after the plan and before the claim");
    }

    #[test]
    fn an_empty_lane_is_not_forgotten_when_something_came_meanwhile() {
        let lanes = LaneIndex::default();
        let (basin, lane) = (Basin::own("acme/dev"), Lane::new("one", ""));
        lanes.note(&basin, &lane, 5);
        lanes.begin(&basin, &lane, 5);
        lanes.note(&basin, &lane, 6);
        lanes.forget(&basin, &lane);
        assert!(lanes.knows("acme/dev"));
        lanes.begin(&basin, &lane, 6);
        lanes.forget(&basin, &lane);
        assert!(lanes.is_empty());
    }
}
