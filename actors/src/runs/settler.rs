//! Ends attempts in groups: what has been queued while one commit ran goes into the next one.
//!
//! There are two desks, as there are two doors for runs that come in: one for envs of which few are in hand, and one for
//! those that have many. So the end of a single run does not wait for a flood's ends, but at most for what is being
//! written at that moment. At each of them envs take turns.

mod hand;

use super::turns::Turns;
use super::{Courtesy, LaneIndex, Pace};
use crate::backoff::Backoff;
use crate::metrics::{LEASES_LOST, RUNS_FINISHED};
use futures_util::FutureExt;
use hand::Hand;
use std::iter;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use storage::model::{Epoch, RunId, RunState};
use storage::store::{Door, Finished, RunVerdict, WriteTurn};
use storage::{Class, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, mpsc};
use tracing::{error, warn};

/// Changes that a slow follower may lag behind before it has to look for itself.
const NEWS: usize = 4_096;

/// Verdicts that wait for the store while more runs are still begun.
const BEHIND: usize = 2_048;

/// A run has changed; who follows it looks it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub run: RunId,
    pub env: String,
    pub state: RunState,
}

/// A verdict, and the env whose turn it waits for.
type Ended = (String, RunVerdict);

/// The door through which attempts end.
#[derive(Debug, Clone)]
pub struct Settler {
    few: mpsc::UnboundedSender<Ended>,
    many: mpsc::UnboundedSender<Ended>,
    news: broadcast::Sender<Settled>,
    pending: Arc<AtomicUsize>,
    hand: Arc<Hand>,
}

impl Settler {
    pub(super) fn start(
        store: Store,
        lanes: Arc<LaneIndex>,
        doorbell: Arc<Notify>,
        courtesy: &Arc<Courtesy>,
        runtime: &Handle,
    ) -> Settler {
        // Not bounded here: nothing is claimed while this is behind, and what is in hand may always end.
        let ((few, of_few), (many, of_many)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let (news, _) = broadcast::channel(NEWS);
        let settler = Settler { few, many, news: news.clone(), pending: Arc::default(), hand: Arc::default() };
        for (door, queue) in [(Door::Few, of_few), (Door::Many, of_many)] {
            let (lanes, doorbell, news) = (lanes.clone(), doorbell.clone(), news.clone());
            let (store, pending, hand) = (store.clone(), settler.pending.clone(), settler.hand.clone());
            let courtesy = courtesy.clone();
            let desk = Desk { door, store, lanes, doorbell, news, pending, hand, courtesy };
            runtime.spawn(desk.work(queue));
        }
        settler
    }

    /// Takes a verdict on a run of an env; it is durable some moments later, and kept until then whatever the store does.
    pub fn settle(&self, env: String, verdict: RunVerdict) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        // An env with many in hand has more to write soon, however little of it waits at this moment.
        let desk = match Door::of(self.hand.of(&env)) {
            Door::Few => &self.few,
            Door::Many => &self.many,
        };
        if desk.send((env, verdict)).is_err() {
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Notes an attempt that this node holds from now on, until its verdict is durable.
    pub(super) fn holds(&self, env: &str, run: &RunId, epoch: Epoch) {
        self.hand.take(env, run, epoch);
    }

    /// Whether an attempt is known here. One that is not, though this node leases it, was leased by a commit
    /// whose answer was lost.
    pub fn knows(&self, run: &RunId, epoch: Epoch) -> bool {
        self.hand.has(run, epoch)
    }

    /// Whether there is an attempt that this node has to bring to its end, or whose end is not durable yet.
    pub fn has_attempts(&self) -> bool {
        !self.hand.is_empty() || self.pending() > 0
    }

    /// Verdicts that are not durable yet.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// Whether so many verdicts wait that no more runs should be begun.
    pub fn is_behind(&self) -> bool {
        self.pending() >= BEHIND
    }

    /// What is settled from now on.
    pub fn follow(&self) -> broadcast::Receiver<Settled> {
        self.news.subscribe()
    }

    /// Tells followers of a change that this node has brought about past the desk, and counts it if it is an end.
    pub fn announce(&self, settled: Settled) {
        count_end(settled.state);
        let _ = self.news.send(settled);
    }
}

struct Desk {
    door: Door,
    store: Store,
    lanes: Arc<LaneIndex>,
    doorbell: Arc<Notify>,
    news: broadcast::Sender<Settled>,
    pending: Arc<AtomicUsize>,
    hand: Arc<Hand>,
    courtesy: Arc<Courtesy>,
}

impl Desk {
    async fn work(self, mut queue: mpsc::UnboundedReceiver<Ended>) {
        let (mut waiting, mut pace) = (Turns::default(), Pace::default());
        loop {
            if waiting.len() == 0 {
                let Some(ended) = queue.recv().await else { return };
                stand(&mut waiting, ended);
            }
            // Where that fails, settling asks for it again and waits until the store answers.
            let turn = match self.door {
                Door::Few => self.store.write_turn_first().await.ok(),
                Door::Many => self.store.write_turn().await.ok(),
            };
            while let Ok(ended) = queue.try_recv() {
                stand(&mut waiting, ended);
            }
            let rows = pace.rows(self.door, waiting.len(), self.courtesy.is_due(now()));
            let (envs, group): (Vec<String>, Vec<RunVerdict>) = iter::from_fn(|| waiting.next()).take(rows).unzip();
            let began = now();
            // A panic must not take the verdicts behind it along.
            let settled = AssertUnwindSafe(self.settle(turn, &group)).catch_unwind().await;
            pace.took(group.len(), now().duration_since(began));
            if settled.is_err() {
                error!(verdicts = group.len(), "settling panicked; the sweeper takes these runs back");
            }
            self.pending.fetch_sub(group.len(), Ordering::AcqRel);
            envs.iter().zip(&group).for_each(|(env, verdict)| self.hand.let_go(env, &verdict.run, verdict.epoch));
            // A place under a cap may have become free.
            self.lanes.unblock();
            if !self.lanes.is_empty() {
                self.doorbell.notify_one();
            }
        }
    }

    /// Settles a group; one that is refused is halved until the verdict at fault stands alone.
    async fn settle(&self, mut turn: Option<WriteTurn>, group: &[RunVerdict]) {
        let mut parts = vec![group];
        while let Some(part) = parts.pop() {
            match self.until_it_answers(turn.take(), part).await {
                Ok(finished) => {
                    finished.into_iter().zip(part).for_each(|(finished, verdict)| self.tell(finished, verdict))
                }
                Err(_) if self.store.is_closed() => {
                    warn!(verdicts = part.len(), "attempts end after the store was closed; their runs are taken back");
                }
                Err(error) if part.len() == 1 => {
                    error!(run.id = %part[0].run, lease.epoch = %part[0].epoch, %error, "an attempt cannot be settled");
                }
                Err(_) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
    }

    async fn until_it_answers(
        &self,
        mut turn: Option<WriteTurn>,
        part: &[RunVerdict],
    ) -> Result<Vec<Finished>, StoreError> {
        let backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(1) };
        let mut failures = 0;
        loop {
            let now = self.store.now();
            let settled = match turn.take() {
                Some(turn) => self.store.settle_in(self.door, turn, part, now).await,
                None => self.store.settle_runs(part, now).await,
            };
            match settled {
                Err(error) if error.class() == Class::Retryable => {
                    failures += 1;
                    if failures == 1 {
                        warn!(%error, verdicts = part.len(), "cannot settle now; keeping the verdicts");
                    }
                    let wait = backoff.after(failures, &mut rand::rng());
                    #[expect(clippy::disallowed_methods, reason = "waits for the store to come back")]
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
    }

    fn tell(&self, finished: Finished, verdict: &RunVerdict) {
        let Some(state) = finished.state else {
            metrics::counter!(LEASES_LOST).increment(1);
            warn!(run.id = %verdict.run, lease.epoch = %verdict.epoch, "an attempt ended that was not ours any more");
            return;
        };
        count_end(state);
        if !state.is_terminal() {
            self.lanes.note(&finished.basin, &finished.lane, i64::MIN);
        }
        // Nobody following is the common case.
        let _ = self.news.send(Settled { run: finished.run, env: finished.env, state });
    }
}

fn stand(waiting: &mut Turns<Ended>, ended: Ended) {
    waiting.push(&ended.0.clone(), ended);
}

/// Every run is counted by the node that wrote its end, once that is durable.
fn count_end(state: RunState) {
    if state.is_terminal() {
        metrics::counter!(RUNS_FINISHED, "state" => state.word()).increment(1);
    }
}

#[expect(clippy::disallowed_methods, reason = "spans how long a commit takes")]
fn now() -> Instant {
    Instant::now()
}
