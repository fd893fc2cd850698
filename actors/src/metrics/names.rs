//! Names as labels: so many of each metric are told by themselves, and the rest together.

use super::LABELS_DROPPED;
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

#[cfg(test)]
mod tests {
    use super::*;

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
