//! Takes runs in with one commit for all that came while the last one ran (group commit, no linger).
//!
//! There are two doors, each with a thread and a line of its own: one for requests with few runs, and one for those
//! with many, which are written in parts. So whoever sends one run does not wait for a flood that others send, but at
//! most for what is being written at that moment; on PostgreSQL not for that either.

mod line;

pub use line::Verdict;

use super::express::Express;
use super::{Courtesy, Neighbours, Pace};
use crate::metrics::RUNS_ACCEPTED;
use futures_util::FutureExt;
use futures_util::future::join;
use line::{Group, Line, Wish};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use storage::store::{Accepted, Door, Mark, NewRecord, WriteTurn};
use storage::{Class, Store, StoreError};
use tokio::runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
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
}

impl StoreHealth {
    pub fn commit(&self) -> Duration {
        Duration::from_micros(self.commit_micros.load(Ordering::Relaxed))
    }

    /// Commits in a row that failed.
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    fn took(&self, span: Duration) {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let old = self.commit_micros.load(Ordering::Relaxed);
        self.commit_micros.store(if old == 0 { span } else { old - old / 8 + span / 8 }, Ordering::Relaxed);
    }
}

/// Where runs come in.
#[derive(Debug, Clone)]
pub struct Intake {
    few: mpsc::Sender<Wish>,
    many: mpsc::Sender<Wish>,
    health: Arc<StoreHealth>,
    arrivals: Arc<Notify>,
}

impl Intake {
    pub(super) fn start(
        store: Store,
        express: Express,
        doorbell: Arc<Notify>,
        neighbours: Neighbours,
        courtesy: &Arc<Courtesy>,
    ) -> std::io::Result<Intake> {
        let queue = || mpsc::channel(express.settings.now().intake_queue);
        let ((few, of_few), (many, of_many)) = (queue(), queue());
        let intake = Intake { few, many, health: Arc::default(), arrivals: Arc::default() };
        for (door, queue) in [(Door::Few, of_few), (Door::Many, of_many)] {
            let counter = Counter {
                door,
                store: store.clone(),
                express: express.clone(),
                doorbell: doorbell.clone(),
                neighbours: neighbours.clone(),
                health: intake.health.clone(),
                courtesy: courtesy.clone(),
                arrivals: intake.arrivals.clone(),
            };
            // The database's answer wakes this thread and nobody else. The shared runtime would be woken first to pass
            // it on, and beside a flood each thread that is woken waits for a core.
            let own = runtime::Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(name(door).to_owned()).spawn(move || own.block_on(counter.work(queue)))?;
        }
        Ok(intake)
    }

    /// Runs have come in on another node.
    pub(super) fn announce(&self) {
        self.arrivals.notify_waiters();
    }

    /// Resolves at the next commit of runs.
    pub async fn arrived(&self) {
        self.arrivals.notified().await;
    }

    pub fn health(&self) -> &StoreHealth {
        &self.health
    }

    /// Takes runs in, each by itself; returns once those that are taken are durable. What comes with many others
    /// goes in several commits, and leaves room in each for what others send meanwhile. Refused at once, as a
    /// whole, when too many requests wait.
    pub async fn take(&self, records: Vec<NewRecord>) -> Result<Vec<Verdict>, IntakeError> {
        let (answer, answered) = oneshot::channel();
        let door = match Door::of(records.len()) {
            Door::Few => &self.few,
            Door::Many => &self.many,
        };
        door.try_send(Wish::new(records, answer)).map_err(|_| IntakeError::Full)?;
        answered.await.map_err(|_| IntakeError::NoAnswer)
    }
}

/// Of a door's thread.
fn name(door: Door) -> &'static str {
    match door {
        Door::Few => "intake",
        Door::Many => "intake-many",
    }
}

/// Whether the store can be written to now, and since when that was wanted.
struct Turn {
    asked_at: Instant,
    granted: Result<WriteTurn, IntakeError>,
}

/// A group that is committed, and has to be synced before its senders are answered.
struct Committed {
    group: Group,
    verdicts: Vec<Verdict>,
    mark: Mark,
    asked_at: Instant,
}

struct Counter {
    door: Door,
    store: Store,
    express: Express,
    doorbell: Arc<Notify>,
    neighbours: Neighbours,
    health: Arc<StoreHealth>,
    courtesy: Arc<Courtesy>,
    arrivals: Arc<Notify>,
}

impl Counter {
    async fn work(self, mut queue: mpsc::Receiver<Wish>) {
        let (mut line, mut pace) = (Line::default(), Pace::default());
        let mut committed: Option<Committed> = None;
        loop {
            line.take_from(&mut queue);
            // What is written is synced and answered while the next is written, if that can begin at once.
            let next = if committed.is_some() && !line.is_empty() { self.turn_now() } else { None };
            let turn = match next {
                Some(turn) => turn,
                None => {
                    self.settle(&mut line, committed.take());
                    if line.is_empty() {
                        match queue.recv().await {
                            Some(wish) => line.push(wish),
                            None => return,
                        }
                    }
                    let turn = self.turn(line.runs()).await;
                    line.take_from(&mut queue);
                    turn
                }
            };
            if line.is_empty() {
                continue;
            }
            let mut group = line.group(pace.rows(self.door, line.runs(), self.courtesy.is_due(now())), GROUP_BYTES);
            let (began, asked_at) = (now(), turn.asked_at);
            // A panic fails its own group and no other.
            let commit = AssertUnwindSafe(self.commit(turn, &mut group.records)).catch_unwind();
            let answer = async { self.settle(&mut line, committed.take()) };
            let (verdicts, ()) = join(commit, answer).await;
            pace.took(group.records.len(), now().duration_since(began));
            let (verdicts, mark) = verdicts.unwrap_or_else(|_| {
                error!("taking runs in panicked; their senders are told to try again");
                (vec![Err(IntakeError::NoAnswer); group.records.len()], Mark::default())
            });
            committed = Some(Committed { group, verdicts, mark, asked_at });
        }
    }

    /// Makes a group durable, if one is committed, and tells everybody who waits for it.
    fn settle(&self, line: &mut Line, committed: Option<Committed>) {
        let Some(Committed { group, mut verdicts, mark, asked_at }) = committed else { return };
        let told = catch_unwind(AssertUnwindSafe(|| {
            self.sync(mark, &mut verdicts);
            let (now, runs) = (now(), group.records.len());
            self.health.took(now.duration_since(asked_at));
            if self.door == Door::Few && runs <= Door::FEW {
                self.courtesy.few_came(now);
            }
            self.taken(&group.records, &verdicts);
            line.settle(group, verdicts);
        }));
        if told.is_err() {
            error!("telling of runs that are taken in panicked; their senders are told to try again");
        }
    }

    /// Nothing counts as taken in that is not on the disk.
    fn sync(&self, mark: Mark, verdicts: &mut [Verdict]) {
        let Err(error) = self.store.sync_here(mark) else { return };
        error!(%error, "runs are not taken in");
        self.health.failures.fetch_add(1, Ordering::Relaxed);
        let error = IntakeError::Store(Arc::new(error));
        verdicts.iter_mut().filter(|verdict| verdict.is_ok()).for_each(|verdict| *verdict = Err(error.clone()));
    }

    /// Commits a group; one that is refused is halved, so that a bad run cannot fail its neighbours.
    async fn commit(&self, turn: Turn, records: &mut [NewRecord]) -> (Vec<Verdict>, Mark) {
        let (mut turn, mut mark) = (Some(turn), Mark::default());
        let mut verdicts = Vec::with_capacity(records.len());
        self.express.mark(records);
        let mut ahead = vec![(0, records.len())];
        while let Some((from, to)) = ahead.pop() {
            let part = &records[from..to];
            let turn = match turn.take() {
                Some(turn) => turn,
                None => self.turn(part.len()).await,
            };
            match self.accept(turn, part).await {
                Ok((accepted, written)) => {
                    mark = mark.max(written);
                    verdicts.extend(accepted.into_iter().map(Ok));
                }
                Err(IntakeError::Store(error)) if error.class() != Class::Retryable && part.len() > 1 => {
                    // Places that were meant for it may be gone by its second try.
                    records[from..to].iter_mut().for_each(|record| record.leased = false);
                    let middle = from.midpoint(to);
                    ahead.extend([(middle, to), (from, middle)]);
                }
                Err(error) => {
                    warn!(%error, runs = part.len(), "runs are not taken in");
                    verdicts.extend(std::iter::repeat_n(Err(error), part.len()));
                }
            }
        }
        (verdicts, mark)
    }

    /// The turn to write; what comes until then goes into the same commit. A few runs do not wait for what others
    /// have left to write: each of these still comes to its turn between two such commits.
    async fn turn(&self, runs: usize) -> Turn {
        match self.door {
            Door::Few if runs <= Door::FEW => Self::granted(self.store.write_turn_first()).await,
            Door::Few | Door::Many => Self::granted(self.store.write_turn()).await,
        }
    }

    /// The same if there is nothing to wait for.
    fn turn_now(&self) -> Option<Turn> {
        self.store.write_turn_now().map(|turn| Turn { asked_at: now(), granted: Ok(turn) })
    }

    async fn granted(turn: impl Future<Output = Result<WriteTurn, StoreError>>) -> Turn {
        let asked_at = now();
        let granted = match timeout(ANSWER_WITHIN, turn).await {
            Ok(turn) => turn.map_err(|error| IntakeError::Store(Arc::new(error))),
            Err(_) => Err(IntakeError::NoAnswer),
        };
        Turn { asked_at, granted }
    }

    async fn accept(&self, turn: Turn, records: &[NewRecord]) -> Result<(Vec<Accepted>, Mark), IntakeError> {
        let answer = match turn.granted {
            Ok(granted) => timeout(ANSWER_WITHIN, self.store.accept_in(self.door, granted, records)).await,
            Err(error) => {
                self.health.failures.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        };
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

    /// Tells everybody on this node of runs that are durable now.
    fn taken(&self, records: &[NewRecord], verdicts: &[Verdict]) {
        let (mut direct, mut buffered, mut waiting) = (0, 0, false);
        let fresh = || records.iter().zip(verdicts).filter(|(_, verdict)| matches!(verdict, Ok(Accepted::New)));
        self.express.hand_over(fresh().map(|(record, _)| record));
        for (record, _) in fresh() {
            if record.buffered {
                buffered += 1;
                continue;
            }
            direct += 1;
            if record.not_before.is_none() && !record.leased {
                waiting = true;
                self.express.lanes.note(&record.basin, &record.lane, record.rank());
                self.neighbours.ready(&record.basin, &record.lane, record.rank());
            }
        }
        if buffered > 0 {
            self.express.gates.buffered.store(true, Ordering::Release);
            self.neighbours.buffered();
        }
        // Nobody has to look for runs that went the short way, nor where nobody would carry them out.
        if buffered > 0 || (waiting && self.express.settings.now().slots > 0) {
            self.doorbell.notify_one();
        }
        self.arrivals.notify_waiters();
        metrics::counter!(RUNS_ACCEPTED, "path" => "direct").increment(direct);
        metrics::counter!(RUNS_ACCEPTED, "path" => "buffered").increment(buffered);
    }
}

#[expect(clippy::disallowed_methods, reason = "spans how long the store takes")]
fn now() -> Instant {
    Instant::now()
}
