//! When recorded runs were let through from the buffer, until they are claimed: the store knows only since when they
//! wait at all. Where that is forgotten, or another node claims the run, its wait in the queue is told from the
//! beginning.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use storage::model::{RunId, Timestamp};

/// Kept at once; the oldest go first.
const KEPT_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Moments(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    at: HashMap<RunId, Timestamp>,
    order: VecDeque<RunId>,
}

impl Moments {
    pub(super) fn note(&self, run: RunId, at: Timestamp) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.at.insert(run.clone(), at);
        kept.order.push_back(run);
        while kept.order.len() > KEPT_MAX {
            if let Some(oldest) = kept.order.pop_front() {
                kept.at.remove(&oldest);
            }
        }
    }

    pub(super) fn take(&self, run: &RunId) -> Option<Timestamp> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.at.remove(run);
        // Names of those that are gone would be kept for nothing.
        if kept.at.is_empty() {
            kept.order.clear();
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_once_and_the_oldest_are_forgotten() {
        let moments = Moments::default();
        let run = |number: usize| RunId::from_text(format!("run_{number}"));
        for number in 0..KEPT_MAX + 5 {
            moments.note(run(number), Timestamp::from_millis(number as i64));
        }
        assert_eq!((moments.take(&run(4)), moments.take(&run(5))), (None, Some(Timestamp::from_millis(5))));
        assert_eq!(moments.take(&run(5)), None);
        let kept = moments.0.lock().expect("nobody panicked");
        assert_eq!((kept.at.len(), kept.order.len()), (KEPT_MAX - 1, KEPT_MAX));
    }
}
