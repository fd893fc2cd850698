//! Which lanes may hold ready runs. A hint: what is not in it is found by the next scan.

use dashmap::DashMap;
use storage::model::{Basin, Lane};

/// Lanes that somebody in this process has put a run into, or that a scan has found.
#[derive(Debug, Default)]
pub struct LaneIndex {
    known: DashMap<(Basin, Lane), i64>,
    /// Known ones that a cap holds up until some run ends.
    blocked: DashMap<(Basin, Lane), i64>,
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
        self.known.insert((basin.clone(), lane.clone()), rank);
    }

    /// Sets a lane aside until the next end of a run.
    pub fn block(&self, basin: &Basin, lane: &Lane) {
        if let Some((place, rank)) = self.known.remove(&(basin.clone(), lane.clone())) {
            self.blocked.insert(place, rank);
        }
    }

    pub fn unblock(&self) {
        if self.blocked.is_empty() {
            return;
        }
        let places: Vec<_> = self.blocked.iter().map(|entry| entry.key().clone()).collect();
        for place in places {
            if let Some((place, rank)) = self.blocked.remove(&place) {
                self.known.entry(place).or_insert(rank);
            }
        }
    }

    /// Takes a lane out that was found empty.
    pub fn forget(&self, basin: &Basin, lane: &Lane) {
        self.known.remove(&(basin.clone(), lane.clone()));
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The lanes with the rank of their oldest known run.
    pub fn snapshot(&self) -> Vec<(Basin, Lane, i64)> {
        self.known.iter().map(|entry| (entry.key().0.clone(), entry.key().1.clone(), *entry.value())).collect()
    }
}
