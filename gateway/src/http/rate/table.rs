//! A bounded table of states by name, where what is idle makes room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;

/// Making room looks at every entry, so that it is not done for every newcomer.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A state that is not worth keeping when it says what a fresh one would say.
pub(super) trait State: Default {
    fn is_idle(&self, now: Duration, span: Duration) -> bool;
}

#[derive(Debug)]
pub(super) struct Table<V> {
    entries: DashMap<Box<str>, V>,
    max: usize,
    /// After this long without news an entry can be idle.
    span: Duration,
    swept_ms: AtomicU64,
}

impl<V: State> Table<V> {
    pub fn new(max: usize, span: Duration) -> Table<V> {
        Table { entries: DashMap::new(), max, span, swept_ms: AtomicU64::new(0) }
    }

    /// Lets `decide` look at the state under this name and change it, alone.
    pub fn with<R>(&self, name: &str, now: Duration, decide: impl FnOnce(&mut V) -> R) -> R {
        if let Some(mut known) = self.entries.get_mut(name) {
            return decide(&mut known);
        }
        if self.entries.len() >= self.max && !self.make_room(now) {
            return decide(&mut V::default());
        }
        decide(&mut self.entries.entry(name.into()).or_default())
    }

    /// How many there are, idle ones included for a moment.
    pub fn active(&self, now: Duration) -> usize {
        self.sweep(now);
        self.entries.len()
    }

    fn make_room(&self, now: Duration) -> bool {
        self.sweep(now);
        self.entries.len() < self.max
    }

    fn sweep(&self, now: Duration) {
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let swept_ms = self.swept_ms.load(Ordering::Relaxed);
        let due = now_ms.saturating_sub(swept_ms) >= SWEEP_EVERY.as_millis() as u64;
        let mine =
            due && self.swept_ms.compare_exchange(swept_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            self.entries.retain(|_, state| !state.is_idle(now, self.span));
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
