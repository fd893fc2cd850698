//! Things of envs, which take turns: what one env has never waits behind all that another has. Pure.

use std::collections::{HashMap, VecDeque};

/// The things by env, those of one in the order in which they came, and the envs in the order of their turns.
#[derive(Debug)]
pub(super) struct Turns<T> {
    by_env: HashMap<String, VecDeque<T>>,
    order: VecDeque<String>,
    len: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { by_env: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T> Turns<T> {
    pub(super) fn push(&mut self, env: &str, thing: T) {
        self.len += 1;
        match self.by_env.get_mut(env) {
            Some(shelf) => shelf.push_back(thing),
            None => {
                self.order.push_back(env.to_owned());
                self.by_env.insert(env.to_owned(), VecDeque::from([thing]));
            }
        }
    }

    /// The first thing of the env whose turn it is.
    pub(super) fn next(&mut self) -> Option<T> {
        self.next_where(|_| true)
    }

    /// The same among envs that something is true of; the others keep their turns.
    pub(super) fn next_where(&mut self, is_meant: impl Fn(&str) -> bool) -> Option<T> {
        let turn = self.order.iter().position(|env| is_meant(env))?;
        let env = self.order.remove(turn)?;
        let shelf = self.by_env.get_mut(&env)?;
        let thing = shelf.pop_front()?;
        self.len -= 1;
        if shelf.is_empty() {
            self.by_env.remove(&env);
        } else {
            self.order.push_back(env);
        }
        Some(thing)
    }

    pub(super) fn has(&self, env: &str) -> bool {
        self.by_env.contains_key(env)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Everything, in no order.
    pub(super) fn take(&mut self) -> Vec<T> {
        std::mem::take(self).by_env.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Turns<&'static str> {
        let mut turns = Turns::default();
        for thing in ["a0", "a1", "b0", "a2"] {
            turns.push(&thing[..1], thing);
        }
        turns
    }

    #[test]
    fn envs_take_turns_and_keep_their_own_order() {
        let mut turns = turns();
        assert_eq!((turns.len(), turns.has("a"), turns.has("c")), (4, true, false));
        assert_eq!(std::iter::from_fn(|| turns.next()).collect::<Vec<_>>(), ["a0", "b0", "a1", "a2"]);
        assert_eq!((turns.len(), turns.has("a")), (0, false));
    }

    #[test]
    fn who_comes_late_waits_for_one_of_each_other_env() {
        let mut turns = turns();
        assert_eq!(turns.next(), Some("a0"));
        turns.push("c", "c0");
        assert_eq!(std::iter::from_fn(|| turns.next()).collect::<Vec<_>>(), ["b0", "a1", "c0", "a2"]);
    }

    #[test]
    fn who_is_passed_over_keeps_its_turn() {
        let mut turns = turns();
        assert_eq!(turns.next_where(|env| env == "b"), Some("b0"));
        assert_eq!(turns.next_where(|env| env == "b"), None);
        assert_eq!((turns.next(), turns.len()), (Some("a0"), 2));
        turns.push("d", "d0");
        let mut left = turns.take();
        left.sort_unstable();
        assert_eq!((left, turns.len(), turns.next()), (vec!["a1", "a2", "d0"], 0, None));
    }
}
