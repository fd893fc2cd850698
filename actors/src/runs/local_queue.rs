//! Runs that this node has claimed and that wait for a free worker: envs take turns, and within an env they keep
//! the order in which they were claimed. So what is claimed for one env never waits behind the flood of another.

use super::Settler;
use crate::executor::Stop;
use crate::metrics::{RUN_ATTEMPTS, told_as};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use storage::model::Timestamp;
use storage::store::{Brief, Ending, Leased, RunVerdict};
use tokio::sync::Notify;

/// Work that one slot should have ahead of it, so that short runs do not wait for a claim each.
const AHEAD: Duration = Duration::from_millis(50);
/// Most runs ahead per slot.
const AHEAD_MAX: usize = 64;

/// A claimed run. Whoever lets it go without an end gives it back: it can be lost to no death of an actor.
#[derive(Debug)]
pub struct Held {
    pub leased: Leased,
    pub brief: Brief,
    pub claimed_at: Timestamp,
    started_at: Option<Timestamp>,
    settler: Option<Settler>,
}

impl Held {
    pub fn new(leased: Leased, brief: Brief, claimed_at: Timestamp, settler: Settler) -> Held {
        settler.holds(&leased.run, leased.epoch);
        Held { leased, brief, claimed_at, started_at: None, settler: Some(settler) }
    }

    /// From here on the attempt counts.
    pub fn start(&mut self, now: Timestamp) {
        self.started_at = Some(now);
    }

    /// Ends the attempt.
    pub fn end(mut self, ending: Ending, code: Option<String>, reason: Option<String>, output: Option<String>) {
        self.settle(ending, code, reason, output);
    }

    fn settle(&mut self, ending: Ending, code: Option<String>, reason: Option<String>, output: Option<String>) {
        let Some(settler) = self.settler.take() else { return };
        settler.settle(RunVerdict {
            run: self.leased.run.clone(),
            epoch: self.leased.epoch,
            ending,
            code,
            reason,
            output,
            started_at: self.started_at,
        });
    }

    /// The end that an order to stop asks for.
    pub fn ending_of(stop: Stop) -> Ending {
        match stop {
            Stop::Cancelled => Ending::Cancelled,
            Stop::TimedOut => Ending::TimedOut,
            // Cut off from the store, not crashed: that is not the run's fault.
            Stop::Lost => Ending::Declined,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match self.started_at {
            _ if self.settler.is_none() => {}
            Some(_) => {
                let task = told_as(RUN_ATTEMPTS, &self.leased.task);
                metrics::counter!(RUN_ATTEMPTS, "task" => task, "outcome" => "lost").increment(1);
                self.settle(Ending::Lost, Some("lost".to_owned()), Some("its worker died".to_owned()), None);
            }
            None => self.settle(Ending::Declined, None, None, None),
        }
    }
}

/// The runs by env, and the envs in the order of their turns.
#[derive(Debug, Default)]
struct Shelves {
    by_env: HashMap<String, VecDeque<Held>>,
    turns: VecDeque<String>,
    count: usize,
}

impl Shelves {
    fn push(&mut self, held: Held) {
        self.count += 1;
        match self.by_env.get_mut(&held.leased.env) {
            Some(shelf) => shelf.push_back(held),
            None => {
                let env = held.leased.env.clone();
                self.turns.push_back(env.clone());
                self.by_env.insert(env, VecDeque::from([held]));
            }
        }
    }

    fn pop(&mut self) -> Option<Held> {
        let env = self.turns.pop_front()?;
        let shelf = self.by_env.get_mut(&env)?;
        let held = shelf.pop_front();
        if shelf.is_empty() {
            self.by_env.remove(&env);
        } else {
            self.turns.push_back(env);
        }
        self.count -= usize::from(held.is_some());
        held
    }
}

/// See the module's first lines.
#[derive(Debug, Default)]
pub struct LocalQueue {
    runs: Mutex<Shelves>,
    filled: Notify,
    /// Workers that wait for a run now.
    idle: AtomicUsize,
    /// Workers that carry a run out now.
    at_work: AtomicUsize,
    /// Moving average of what a run takes, in nanoseconds.
    average: AtomicU64,
}

impl LocalQueue {
    pub fn push(&self, held: impl IntoIterator<Item = Held>) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let before = runs.count;
        held.into_iter().for_each(|held| runs.push(held));
        let added = runs.count - before;
        drop(runs);
        for _ in 0..added.min(self.idle.load(Ordering::Acquire).max(1)) {
            self.filled.notify_one();
        }
    }

    fn pop(&self) -> Option<Held> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// The next run, once there is one.
    pub async fn next(&self) -> Held {
        if let Some(held) = self.pop() {
            return held;
        }
        let waiting = Counted::new(&self.idle);
        let held = loop {
            let filled = self.filled.notified();
            if let Some(held) = self.pop() {
                break held;
            }
            filled.await;
        };
        drop(waiting);
        // One notice may have stood for more than one run.
        if !self.is_empty() {
            self.filled.notify_one();
        }
        held
    }

    pub fn len(&self) -> usize {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Acquire)
    }

    /// Workers that carry a run out now. One that is dead neither does nor waits.
    pub fn at_work(&self) -> usize {
        self.at_work.load(Ordering::Acquire)
    }

    /// Counts the caller as at work for as long as this value is there.
    pub fn work(&self) -> Counted<'_> {
        Counted::new(&self.at_work)
    }

    /// Whether runs of an env wait here.
    pub fn holds(&self, env: &str) -> bool {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).by_env.contains_key(env)
    }

    /// Lets all go that no worker has begun; they are given back.
    pub fn give_back(&self) {
        let runs = std::mem::take(&mut *self.runs.lock().unwrap_or_else(PoisonError::into_inner));
        drop(runs);
    }

    pub fn took(&self, span: Duration) {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let old = self.average.load(Ordering::Relaxed);
        let new = if old == 0 { span } else { old - old / 16 + span / 16 };
        self.average.store(new.max(1), Ordering::Relaxed);
    }

    /// Runs to have ahead: as many as `slots` workers carry out in a moment.
    fn ahead(&self, slots: usize) -> usize {
        let average = self.average.load(Ordering::Relaxed);
        let moment = u64::try_from(AHEAD.as_nanos()).unwrap_or(0);
        let each = moment.checked_div(average).map_or(0, |runs| usize::try_from(runs).unwrap_or(AHEAD_MAX));
        slots * each.min(AHEAD_MAX)
    }

    /// Whether runs are so short that some are claimed before a worker is free.
    pub fn works_ahead(&self, slots: usize) -> bool {
        self.ahead(slots) > 0
    }

    /// How many more runs to claim for `slots` workers: one for each idle one, and what to have ahead.
    pub fn wants(&self, slots: usize) -> usize {
        let (ahead, queued) = (self.ahead(slots), self.len());
        // Asking again for the last few would make every claim a small one.
        if ahead > 0 && queued > ahead / 2 { 0 } else { (self.idle() + ahead).saturating_sub(queued) }
    }
}

/// Counts a worker among those that wait or work for as long as it does, however that ends.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(workers: &'a AtomicUsize) -> Counted<'a> {
        workers.fetch_add(1, Ordering::AcqRel);
        Counted(workers)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_worker_that_has_died_neither_waits_nor_works() {
        let queue = LocalQueue::default();
        let count = || (queue.idle(), queue.at_work());
        let mut waits = Box::pin(queue.next());
        assert!((&mut waits).now_or_never().is_none());
        assert_eq!(count(), (1, 0));
        drop(waits);
        assert_eq!(count(), (0, 0));
        let works = async {
            let _at_work = queue.work();
            std::future::pending::<()>().await;
        };
        let mut works = Box::pin(works);
        assert!((&mut works).now_or_never().is_none());
        assert_eq!(count(), (0, 1));
        drop(works);
        assert_eq!(count(), (0, 0));
    }
}
