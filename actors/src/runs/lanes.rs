//! Which lanes may hold ready runs. A hint: what is not in it is found by the next scan.

use dashmap::{DashMap, Entry};
use storage::model::{Basin, Lane};

/// Lanes that somebody in this process has put a run into, or that a scan has found.
#[derive(Debug, Default)]
pub struct LaneIndex {
    known: DashMap<(Basin, Lane), i64>,
    /// Known ones that a cap holds up until some run ends.
    blocked: DashMap<(Basin, Lane), i64>,
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
            *known = (*known).min(rank);
            return;
        }
        self.put(basin.clone(), lane.clone(), rank);
    }

    fn put(&self, basin: Basin, lane: Lane, rank: i64) {
        let env = basin.env().to_owned();
        match self.known.entry((basin, lane)) {
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(rank);
                *self.envs.entry(env).or_insert(0) += 1;
            }
        }
    }

    fn take(&self, basin: &Basin, lane: &Lane) -> Option<((Basin, Lane), i64)> {
        let taken = self.known.remove(&(basin.clone(), lane.clone()))?;
        if let Some(mut count) = self.envs.get_mut(basin.env()) {
            *count = count.saturating_sub(1);
        }
        self.envs.remove_if(basin.env(), |_, count| *count == 0);
        Some(taken)
    }

    /// Whether an env has a lane that may hold runs.
    pub fn knows(&self, env: &str) -> bool {
        self.envs.contains_key(env)
    }

    /// Sets a lane aside until the next end of a run.
    pub fn block(&self, basin: &Basin, lane: &Lane) {
        if let Some((place, rank)) = self.take(basin, lane) {
            self.blocked.insert(place, rank);
        }
    }

    pub fn unblock(&self) {
        if self.blocked.is_empty() {
            return;
        }
        let places: Vec<_> = self.blocked.iter().map(|entry| entry.key().clone()).collect();
        for place in places {
            if let Some(((basin, lane), rank)) = self.blocked.remove(&place) {
                self.put(basin, lane, rank);
            }
        }
    }

    /// Takes a lane out that was found empty.
    pub fn forget(&self, basin: &Basin, lane: &Lane) {
        self.take(basin, lane);
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The lanes with the rank of their oldest known run.
    pub fn snapshot(&self) -> Vec<(Basin, Lane, i64)> {
        self.known.iter().map(|entry| (entry.key().0.clone(), entry.key().1.clone(), *entry.value())).collect()
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
        lanes.forget(&basin, &two);
        assert!(!lanes.knows("acme/dev"), "what a cap holds up does not count");
        lanes.unblock();
        assert!(lanes.knows("acme/dev"));
        lanes.forget(&basin, &one);
        lanes.forget(&basin, &one);
        assert!(!lanes.knows("acme/dev") && lanes.is_empty());
    }
}
