//! Names as labels: so many of each metric are told by themselves, and the rest together.

use super::{CATALOGUE, LABELS_DROPPED, Words};
use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, PoisonError, RwLock};

/// Names of one metric that have series of their own, for the life of the process.
pub const NAMES_MAX: usize = 200;
/// What stands for all others.
pub const OTHER: &str = "other";

/// The names of each metric that have been told.
#[derive(Debug, Default)]
struct Told(HashMap<&'static str, HashSet<String>>);

impl Told {
    fn knows(&self, metric: &'static str, name: &str) -> bool {
        self.0.get(metric).is_some_and(|names| names.contains(name))
    }

    /// Whether there is room for it, which it then has.
    fn admits(&mut self, metric: &'static str, name: &str) -> bool {
        let names = self.0.entry(metric).or_default();
        names.contains(name) || (names.len() < NAMES_MAX && names.insert(name.to_owned()))
    }

    fn reserve<'a>(&mut self, label: &str, names: impl Iterator<Item = &'a str>) {
        let is_it = |of: &super::Label| of.name == label && matches!(of.words, Words::Capped(_));
        let metrics: Vec<_> = CATALOGUE.iter().filter(|metric| metric.labels.iter().any(is_it)).collect();
        for name in names {
            for metric in &metrics {
                self.admits(metric.name, name);
            }
        }
    }
}

static TOLD: LazyLock<RwLock<Told>> = LazyLock::new(RwLock::default);

/// The name as a label of a metric: itself, or [`OTHER`] once too many have been told.
pub fn told_as(metric: &'static str, name: &str) -> String {
    let known = TOLD.read().unwrap_or_else(PoisonError::into_inner).knows(metric, name);
    if known || TOLD.write().unwrap_or_else(PoisonError::into_inner).admits(metric, name) {
        return name.to_owned();
    }
    metrics::counter!(LABELS_DROPPED, "metric" => metric).increment(1);
    OTHER.to_owned()
}

/// Keeps room for configured names, so that a flood of others does not take it: they are told by themselves in every
/// metric that has this label.
pub fn reserve<'a>(label: &str, names: impl Iterator<Item = &'a str>) {
    TOLD.write().unwrap_or_else(PoisonError::into_inner).reserve(label, names);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{QUEUE_DEPTH, QUEUE_WAIT, RUN_ATTEMPTS};

    #[test]
    fn a_flood_of_names_does_not_take_the_room_of_those_that_are_configured() {
        let mut told = Told::default();
        told.reserve("queue", ["mail", "images"].into_iter());
        for number in 0..2 * NAMES_MAX {
            for metric in [QUEUE_DEPTH, QUEUE_WAIT, RUN_ATTEMPTS] {
                let admitted = told.admits(metric, &format!("n{number}"));
                let room = if metric == RUN_ATTEMPTS { NAMES_MAX } else { NAMES_MAX - 2 };
                assert_eq!(admitted, number < room, "{metric} {number}");
            }
        }
        assert!(told.admits(QUEUE_DEPTH, "mail") && told.admits(QUEUE_WAIT, "images"));
        assert!(!told.admits(RUN_ATTEMPTS, "mail"), "that is no name of a queue");
    }

    #[test]
    fn names_beyond_the_most_are_told_together_and_known_ones_stay() {
        let mut told = Told::default();
        for number in 0..NAMES_MAX {
            assert!(told.admits("a", &format!("n{number}")));
        }
        assert!(!told.admits("a", "one too many"));
        assert!(told.admits("a", "n0") && told.knows("a", "n0"));
        assert!(told.admits("b", "one too many"), "each metric has its own");
    }
}
