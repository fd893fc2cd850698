//! Runs that this node has claimed and that wait for a free worker: envs take turns, and within an env they keep
//! the order in which they were claimed. So what is claimed for one env never waits behind the flood of another.

mod shelves;

use super::Settler;
use crate::executor::Stop;
use crate::metrics::{RUN_ATTEMPTS, told_as};
use shelves::Shelves;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use storage::model::Timestamp;
use storage::store::{Brief, Ending, Leased, RunVerdict};
use tokio::sync::Notify;

/// Work that one slot should have ahead of it, so that short runs do not wait for a claim each.
const AHEAD: Duration = Duration::from_millis(50);
/// Most runs ahead per slot.
const AHEAD_MAX: usize = 64;
/// Envs of which one run each is taken at once beside a flood of short ones.
const LATECOMERS_MAX: usize = 32;

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
        settler.holds(&leased.env, &leased.run, leased.epoch);
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
        let verdict = RunVerdict {
            run: self.leased.run.clone(),
            epoch: self.leased.epoch,
            ending,
            code,
            reason,
            output,
            started_at: self.started_at,
        };
        settler.settle(self.leased.env.clone(), verdict);
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

/// See the module's first lines.
#[derive(Debug, Default)]
pub struct LocalQueue {
    runs: Mutex<Shelves>,
    filled: Notify,
    /// Workers that wait for a run now.
    idle: AtomicUsize,
    /// Moving average of what a run takes, in nanoseconds.
    average: AtomicU64,
}

/// A run for a worker, which has a slot for as long as this value is there, however that ends.
#[derive(Debug)]
pub struct Slot<'a> {
    queue: &'a LocalQueue,
    env: String,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.queue.shelves().end(&self.env);
    }
}

impl LocalQueue {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, held: impl IntoIterator<Item = Held>) {
        let (mut runs, now) = (self.shelves(), now());
        let before = runs.count();
        held.into_iter().for_each(|held| runs.push(held, now));
        let added = runs.count() - before;
        drop(runs);
        for _ in 0..added.min(self.idle.load(Ordering::Acquire).max(1)) {
            self.filled.notify_one();
        }
    }

    fn pop(&self, slots: usize) -> Option<(Held, Slot<'_>)> {
        let held = self.shelves().pop(slots, now())?;
        let env = held.leased.env.clone();
        Some((held, Slot { queue: self, env }))
    }

    /// The next run for a worker that is one of `slots`, once there is one.
    pub async fn next(&self, slots: usize) -> (Held, Slot<'_>) {
        if let Some(taken) = self.pop(slots) {
            return taken;
        }
        let waiting = Counted::new(&self.idle);
        let taken = loop {
            let filled = self.filled.notified();
            if let Some(taken) = self.pop(slots) {
                break taken;
            }
            filled.await;
        };
        drop(waiting);
        // One notice may have stood for more than one run.
        if !self.is_empty() {
            self.filled.notify_one();
        }
        taken
    }

    pub fn len(&self) -> usize {
        self.shelves().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Acquire)
    }

    /// Workers that carry a run out now. One that is dead neither does nor waits.
    pub fn at_work(&self) -> usize {
        self.shelves().working()
    }

    /// Whether an env is one of which a run is taken though there are enough of others: nothing of it waits here, and
    /// nothing is at work, or where others wait anyway one, so that it has the next turn when that takes longer.
    pub fn is_late(&self, env: &str, slots: usize) -> bool {
        let runs = self.shelves();
        !runs.waits(env) && runs.at_work(env) <= usize::from(self.has_ahead(&runs, slots))
    }

    /// Lets all go that no worker has begun; they are given back.
    pub fn give_back(&self) {
        let runs = self.shelves().take();
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

    /// How many more runs to claim for `slots` workers: one for each idle one, and what to have ahead.
    pub fn wants(&self, slots: usize) -> usize {
        let (ahead, runs) = (self.ahead(slots), self.shelves());
        let (queued, spare) = (runs.count(), runs.spare(slots, now()));
        // Asking again for the last few would make every claim a small one.
        if ahead > 0 && queued > ahead / 2 {
            0
        } else {
            (self.idle().saturating_sub(spare) + ahead).saturating_sub(queued)
        }
    }

    /// The same of envs that are late, one of each, when no others are wanted: what is short goes past a flood, and for
    /// the rest there are spare slots.
    pub fn wants_late(&self, slots: usize) -> usize {
        let runs = self.shelves();
        if self.has_ahead(&runs, slots) {
            return LATECOMERS_MAX;
        }
        self.idle().min(runs.spare(slots, now())).saturating_sub(runs.count())
    }

    /// Whether runs wait here for others of this node to end: because they are short, or were before they became long.
    fn has_ahead(&self, runs: &Shelves, slots: usize) -> bool {
        self.ahead(slots) > 0 || runs.count() > slots
    }
}

/// Counts a worker among those that wait for as long as it does, however that ends.
#[derive(Debug)]
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(waiting: &'a AtomicUsize) -> Counted<'a> {
        waiting.fetch_add(1, Ordering::AcqRel);
        Counted(waiting)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[expect(clippy::disallowed_methods, reason = "until when slots are spare")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::shelves::tests::held;
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_worker_that_dies_at_work_leaves_its_slot() {
        let queue = LocalQueue::default();
        queue.push([held("acme/dev", "run")]);
        let works = async {
            let (_held, _slot) = queue.next(1).await;
            std::future::pending::<()>().await;
        };
        let mut works = Box::pin(works);
        assert!((&mut works).now_or_never().is_none());
        assert_eq!((queue.at_work(), queue.is_late("acme/dev", 1)), (1, false));
        drop(works);
        assert_eq!((queue.at_work(), queue.is_late("acme/dev", 1)), (0, true));
    }

    #[test]
    fn an_env_with_a_short_run_at_work_is_late_and_one_with_a_run_that_waits_is_not() {
        let queue = LocalQueue::default();
        queue.push([held("acme/dev", "run")]);
        assert!(!queue.is_late("acme/dev", 1));
        let at_work = queue.pop(1);
        assert!(at_work.is_some() && !queue.is_late("acme/dev", 1), "it may be a long one");
        assert_eq!(queue.wants_late(1), 0);
        queue.push(["one", "two"].map(|run| held("flood/dev", run)));
        assert!(queue.is_late("acme/dev", 1) && queue.wants_late(1) > 0, "its turn would come before the flood's");
        queue.give_back();
        queue.took(Duration::from_millis(1));
        assert!(queue.is_late("acme/dev", 1));
        queue.push([held("acme/dev", "another")]);
        assert!(!queue.is_late("acme/dev", 2));
        let another = queue.pop(2);
        assert!(another.is_some() && !queue.is_late("acme/dev", 2), "it has more than one at work");
    }

    #[test]
    fn a_worker_that_has_died_does_not_wait() {
        let queue = LocalQueue::default();
        let mut waits = Box::pin(queue.next(1));
        assert!((&mut waits).now_or_never().is_none());
        assert_eq!(queue.idle(), 1);
        drop(waits);
        assert_eq!((queue.idle(), queue.at_work()), (0, 0));
    }
}
