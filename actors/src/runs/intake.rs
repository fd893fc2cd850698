//! Takes runs in with one commit for all that came while the last one ran (group commit, no linger).

use super::Pace;
use super::express::Express;
use crate::metrics::RUNS_ACCEPTED;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use storage::store::{Accepted, NewRecord};
use storage::{Class, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{error, warn};

/// Payload bytes in one commit.
const GROUP_BYTES: usize = 2 * 1024 * 1024;
/// A commit that takes longer than this counts as no answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why a run was not taken in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IntakeError {
    #[error("more runs come in than the store takes; try again in a moment")]
    Full,
    #[error("the store does not answer: {0}")]
    Store(Arc<StoreError>),
    #[error("the store did not answer in time; with an idempotency key it is safe to send the run again")]
    NoAnswer,
}

/// How the store has answered lately.
#[derive(Debug, Default)]
pub struct StoreHealth {
    /// Moving average of a commit, in microseconds.
    commit_micros: AtomicU64,
    failures: AtomicU32,
    waiting: AtomicUsize,
}

impl StoreHealth {
    pub fn commit(&self) -> Duration {
        Duration::from_micros(self.commit_micros.load(Ordering::Relaxed))
    }

    /// Commits in a row that failed.
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Runs that wait for their commit.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn took(&self, span: Duration) {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let old = self.commit_micros.load(Ordering::Relaxed);
        self.commit_micros.store(if old == 0 { span } else { old - old / 8 + span / 8 }, Ordering::Relaxed);
    }
}

struct Wish {
    records: Vec<NewRecord>,
    answer: oneshot::Sender<Result<Vec<Accepted>, IntakeError>>,
}

/// The door through which runs come in.
#[derive(Debug, Clone)]
pub struct Intake {
    wishes: mpsc::Sender<Wish>,
    health: Arc<StoreHealth>,
    arrivals: Arc<Notify>,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wish({} runs)", self.records.len())
    }
}

impl Intake {
    pub(super) fn start(store: Store, express: Express, doorbell: Arc<Notify>, runtime: &Handle) -> Intake {
        let (wishes, queue) = mpsc::channel(express.settings.intake_queue);
        let health = Arc::new(StoreHealth::default());
        let arrivals = Arc::new(Notify::new());
        let counter = Counter { store, express, doorbell, health: health.clone(), arrivals: arrivals.clone() };
        runtime.spawn(counter.work(queue));
        Intake { wishes, health, arrivals }
    }

    /// Resolves at the next commit of runs.
    pub async fn arrived(&self) {
        self.arrivals.notified().await;
    }

    pub fn health(&self) -> &StoreHealth {
        &self.health
    }

    /// Takes runs in, all or none; returns once they are durable. Refused at once when too many wait.
    pub async fn take(&self, records: Vec<NewRecord>) -> Result<Vec<Accepted>, IntakeError> {
        let (answer, answered) = oneshot::channel();
        let count = records.len();
        self.wishes.try_send(Wish { records, answer }).map_err(|_| IntakeError::Full)?;
        self.health.waiting.fetch_add(count, Ordering::Relaxed);
        let answer = answered.await;
        self.health.waiting.fetch_sub(count, Ordering::Relaxed);
        answer.unwrap_or(Err(IntakeError::NoAnswer))
    }
}

struct Counter {
    store: Store,
    express: Express,
    doorbell: Arc<Notify>,
    health: Arc<StoreHealth>,
    arrivals: Arc<Notify>,
}

impl Counter {
    async fn work(self, mut queue: mpsc::Receiver<Wish>) {
        let mut carry: Option<Wish> = None;
        let mut pace = Pace::default();
        loop {
            let first = match carry.take() {
                Some(wish) => wish,
                None => match queue.recv().await {
                    Some(wish) => wish,
                    None => return,
                },
            };
            let mut size = size_of(&first);
            let mut group = vec![first];
            while let Ok(wish) = queue.try_recv() {
                let more = size_of(&wish);
                if size.0 + more.0 > pace.rows() || size.1 + more.1 > GROUP_BYTES {
                    carry = Some(wish);
                    break;
                }
                size = (size.0 + more.0, size.1 + more.1);
                group.push(wish);
            }
            let began = now();
            // A panic answers its own group with an error and no other.
            if AssertUnwindSafe(self.commit(group)).catch_unwind().await.is_err() {
                error!("taking runs in panicked; their senders are told to try again");
            }
            pace.took(size.0, now().duration_since(began));
        }
    }

    /// Commits a group; one that is refused is taken apart, so that a bad run cannot fail its neighbours.
    async fn commit(&self, group: Vec<Wish>) {
        let mut groups = vec![group];
        while let Some(mut group) = groups.pop() {
            let counts: Vec<usize> = group.iter().map(|wish| wish.records.len()).collect();
            let mut records: Vec<NewRecord> =
                group.iter_mut().flat_map(|wish| std::mem::take(&mut wish.records)).collect();
            self.express.mark(&mut records);
            match self.accept(&records).await {
                Ok(accepted) => self.answer(group, &counts, &records, accepted),
                Err(IntakeError::Store(error)) if error.class() != Class::Retryable && group.len() > 1 => {
                    records.iter_mut().for_each(|record| record.leased = false);
                    let mut records = records.into_iter();
                    for (wish, count) in group.iter_mut().zip(counts) {
                        wish.records = records.by_ref().take(count).collect();
                    }
                    let second = group.split_off(group.len() / 2);
                    groups.extend([second, group]);
                }
                Err(error) => {
                    warn!(%error, runs = records.len(), "runs are not taken in");
                    for wish in group {
                        let _ = wish.answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    async fn accept(&self, records: &[NewRecord]) -> Result<Vec<Accepted>, IntakeError> {
        let began = now();
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.store.accept(records)).await;
        self.health.took(now().duration_since(began));
        match answer {
            Ok(Ok(accepted)) => {
                self.health.failures.store(0, Ordering::Relaxed);
                Ok(accepted)
            }
            Ok(Err(error)) => {
                self.health.failures.fetch_add(1, Ordering::Relaxed);
                Err(IntakeError::Store(Arc::new(error)))
            }
            Err(_) => {
                self.health.failures.fetch_add(1, Ordering::Relaxed);
                Err(IntakeError::NoAnswer)
            }
        }
    }

    fn answer(&self, group: Vec<Wish>, counts: &[usize], records: &[NewRecord], accepted: Vec<Accepted>) {
        let (mut direct, mut buffered) = (0, 0);
        let fresh = || records.iter().zip(&accepted).filter(|(_, accepted)| **accepted == Accepted::New);
        self.express.hand_over(fresh().map(|(record, _)| record));
        for (record, _) in fresh() {
            if record.buffered {
                buffered += 1;
                continue;
            }
            direct += 1;
            if record.not_before.is_none() && !record.leased {
                self.express.lanes.note(&record.basin, &record.lane, record.rank());
            }
        }
        self.doorbell.notify_one();
        self.arrivals.notify_waiters();
        metrics::counter!(RUNS_ACCEPTED, "path" => "direct").increment(direct);
        metrics::counter!(RUNS_ACCEPTED, "path" => "buffered").increment(buffered);
        let mut accepted = accepted.into_iter();
        for (wish, count) in group.into_iter().zip(counts) {
            let _ = wish.answer.send(Ok(accepted.by_ref().take(*count).collect()));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "spans how long the store takes")]
fn now() -> Instant {
    Instant::now()
}

fn size_of(wish: &Wish) -> (usize, usize) {
    (wish.records.len(), wish.records.iter().map(|record| record.payload.len() + record.metadata.len()).sum())
}
