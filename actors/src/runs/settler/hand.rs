//! Attempts that this node knows to be its own, from their lease until their end is durable.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use storage::model::{Epoch, RunId};

/// See the module's first line.
#[derive(Debug, Default)]
pub(super) struct Hand {
    attempts: DashMap<RunId, Epoch>,
    by_env: DashMap<String, usize>,
}

impl Hand {
    pub(super) fn take(&self, env: &str, run: &RunId, epoch: Epoch) {
        // One whose lease was lost and got again has been counted.
        if self.attempts.insert(run.clone(), epoch).is_some() {
            return;
        }
        match self.by_env.get_mut(env) {
            Some(mut attempts) => *attempts += 1,
            None => *self.by_env.entry(env.to_owned()).or_default() += 1,
        }
    }

    pub(super) fn let_go(&self, env: &str, run: &RunId, epoch: Epoch) {
        if self.attempts.remove_if(run, |_, held| *held == epoch).is_none() {
            return;
        }
        if let Entry::Occupied(mut attempts) = self.by_env.entry(env.to_owned()) {
            *attempts.get_mut() -= 1;
            if *attempts.get() == 0 {
                attempts.remove();
            }
        }
    }

    pub(super) fn has(&self, run: &RunId, epoch: Epoch) -> bool {
        self.attempts.get(run).is_some_and(|held| *held == epoch)
    }

    /// Attempts on an env's runs.
    pub(super) fn of(&self, env: &str) -> usize {
        self.by_env.get(env).map_or(0, |attempts| *attempts)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_by_env_until_the_last_has_gone() {
        let hand = Hand::default();
        let (run, other) = (RunId::from_text("run_a"), RunId::from_text("run_b"));
        let [first, second] = [1, 2].map(Epoch::from_number);
        hand.take("acme/dev", &run, first);
        hand.take("acme/dev", &other, first);
        hand.take("acme/dev", &run, second);
        assert_eq!((hand.of("acme/dev"), hand.of("acme/prod")), (2, 0));
        hand.let_go("acme/dev", &run, first);
        assert_eq!((hand.of("acme/dev"), hand.has(&run, first), hand.has(&run, second)), (2, false, true));
        hand.let_go("acme/dev", &run, second);
        hand.let_go("acme/dev", &run, second);
        assert_eq!((hand.of("acme/dev"), hand.is_empty()), (1, false));
        hand.let_go("acme/dev", &other, first);
        assert_eq!((hand.of("acme/dev"), hand.is_empty(), hand.by_env.len()), (0, true, 0));
    }
}
