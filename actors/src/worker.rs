//! Carries out one run at a time, from the node's local queue, until it is told not to.
//!
//! Owns: the run in its hands. Wakes: when the local queue has a run. Never: claims a run, or decides whether
//! it is tried again beyond what its outcome and its task say.

use crate::executor::{Assignment, Chunk, Executor, Outcome, Output, Retry, Stop};
use crate::metrics::{RUN_ATTEMPTS, RUN_SECONDS, told_as};
use crate::runs::{Held, RunParts, Task, TaskKind, fate};
use crate::supervisor::supervised_child;
use crate::traces::Part;
use actix::{Actor, AsyncContext, Context, WrapFuture};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::boot_clock::since_boot;
use storage::model::Timestamp;
use storage::store::NewChunk;
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

/// Pieces of output on their way to the recorder.
const PIECES: usize = 16;
/// What an executor has to end a run after it was told to; then it is left behind.
const END_WITHIN: Duration = Duration::from_secs(30);

/// See the module's first lines.
pub struct Worker {
    parts: RunParts,
}

impl Worker {
    pub fn new(parts: RunParts) -> Worker {
        Worker { parts }
    }
}

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let parts = self.parts.clone();
        let runtime = parts.runtime.clone();
        // A task of its own, which ends with this actor: a run is never on an actor's thread.
        let shift = AbortOnDrop(runtime.spawn(async move {
            loop {
                let (held, _slot) = parts.queue.next(parts.settings.now().slots).await;
                carry(&parts, held).await;
            }
        }));
        context.spawn(
            async move {
                let mut shift = shift;
                if let Err(error) = (&mut shift.0).await {
                    error!(%error, "a worker's shift ended");
                }
            }
            .into_actor(self),
        );
    }
}

/// Takes the task along, and with it the run: its executor ends what it has started.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Forgets how to stop a run once nobody carries it out any more.
struct InHand<'a>(&'a RunParts, storage::model::RunId);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.remove(&self.1);
    }
}

async fn carry(parts: &RunParts, mut held: Held) {
    let Some((task, executor)) = parts.tasks.get(&held.leased.task).and_then(executor_of) else {
        return drop(held);
    };
    let began = now();
    let started_at = parts.store.now();
    held.start(started_at);
    // Until its end is on its way to the store: a node that stops waits for what it has in hand.
    let mut _in_hand = None;
    let outcome = if task.reads_payload {
        let (order, stop) = watch::channel(None);
        parts.in_hand.insert(held.leased.run.clone(), order.clone());
        _in_hand = Some(InHand(parts, held.leased.run.clone()));
        carry_watched(parts, &held, task, executor, order, stop).await
    } else {
        at_once(parts, executor, &held).await
    };
    let took = now().duration_since(began);
    parts.queue.took(took);
    let task_name = &held.leased.task;
    metrics::counter!(RUN_ATTEMPTS, "task" => told_as(RUN_ATTEMPTS, task_name), "outcome" => word(&outcome))
        .increment(1);
    metrics::histogram!(RUN_SECONDS, "task" => told_as(RUN_SECONDS, task_name)).record(took.as_secs_f64());
    let asked_since: Option<Timestamp> = (part_of(task) == Part::Request).then_some(started_at);
    parts.traces.attempted(&held, asked_since, &outcome, parts.store.now());
    let (ending, code, reason, output) =
        fate(outcome, held.leased.attempt, &task.retry, parts.store.now(), &mut rand::rng());
    held.end(ending, code, reason, output);
    // Room has become free; the Drainer claims ahead before the queue is empty.
    if parts.queue.wants(parts.settings.now().slots) > 0 {
        parts.doorbell.notify_one();
    }
}

fn executor_of(task: &Task) -> Option<(&Task, &Arc<dyn Executor>)> {
    match &task.kind {
        TaskKind::Own(executor) => Some((task, executor)),
        TaskKind::Pull | TaskKind::Llm(_) => None,
    }
}

/// A task that reads nothing writes nothing and takes no time.
async fn at_once(parts: &RunParts, executor: &Arc<dyn Executor>, held: &Held) -> Outcome {
    let (_order, stop) = watch::channel(None);
    let (pieces, _) = mpsc::channel(1);
    executor.carry(assignment(parts, held, Part::Attempt, None), stop, Output::new(0, pieces)).await
}

/// Of which span those are children that a task's runs begin.
fn part_of(task: &Task) -> Part {
    if task.word == "http" { Part::Request } else { Part::Attempt }
}

fn assignment(parts: &RunParts, held: &Held, part: Part, max_duration: Option<Duration>) -> Assignment {
    Assignment {
        run: held.leased.run.clone(),
        env: held.leased.env.clone(),
        task: held.leased.task.clone(),
        attempt: held.leased.attempt,
        epoch: held.leased.epoch,
        payload: held.brief.payload.clone(),
        session: held.brief.session.clone(),
        trace: parts.traces.within(held.brief.trace, part, &held.leased.run, held.leased.epoch),
        max_duration,
        start_by: parts.store.lease_ends(),
    }
}

/// Carries a run out with its output recorded, its time limited, and an ear for orders to stop.
async fn carry_watched(
    parts: &RunParts,
    held: &Held,
    task: &Task,
    executor: &Arc<dyn Executor>,
    order: watch::Sender<Option<Stop>>,
    mut stop: watch::Receiver<Option<Stop>>,
) -> Outcome {
    let limit = Some(held.leased.max_duration_ms).filter(|millis| *millis > 0);
    let limit = limit.map(|millis| Duration::from_millis(millis.unsigned_abs())).or(task.max_duration);
    let assignment = assignment(parts, held, part_of(task), limit);
    if since_boot() >= assignment.start_by {
        return Outcome::Lost;
    }
    let (pieces, recorded) = mpsc::channel(PIECES);
    let output = Output::new(parts.settings.now().output_limit.unsigned_abs(), pieces);
    let work = AssertUnwindSafe(executor.carry(assignment, stop.clone(), output)).catch_unwind();
    let work = async {
        work.await.unwrap_or_else(|_| {
            error!(run.id = %held.leased.run, attempt = held.leased.attempt, "an executor panicked");
            let reason = "its executor panicked; the node's log says where".to_owned();
            Outcome::Failed { code: "panic".to_owned(), reason, retry: Retry::WithBackoff }
        })
    };
    let watchdog = async {
        let time_is_up = async {
            match limit {
                Some(limit) => wait(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time_is_up => { let _ = order.send(Some(Stop::TimedOut)); }
            told = stop.wait_for(Option::is_some) => { let _ = told; }
        }
        wait(END_WITHIN).await;
        let attempt = held.leased.attempt;
        warn!(run.id = %held.leased.run, attempt, "an executor did not end its run when told to; it is left behind");
        match *order.borrow() {
            Some(Stop::TimedOut) => Outcome::TimedOut,
            Some(Stop::Cancelled) => Outcome::Cancelled,
            Some(Stop::Lost) | None => Outcome::Lost,
        }
    };
    let carried = async {
        tokio::select! {
            outcome = work => outcome,
            outcome = watchdog => outcome,
        }
    };
    // The recorder ends when the executor has let go of its end of the channel.
    let (outcome, ()) = tokio::join!(carried, record(parts, held, recorded));
    outcome
}

/// Stores what the executor writes, and returns once all of it is durable: an end is never seen before its output.
async fn record(parts: &RunParts, held: &Held, mut pieces: mpsc::Receiver<Chunk>) {
    let mut wrote = false;
    while let Some(piece) = pieces.recv().await {
        wrote = true;
        let chunk = NewChunk {
            run: held.leased.run.clone(),
            epoch: held.leased.epoch,
            stream: piece.stream.word(),
            seq: piece.seq,
            bytes: piece.bytes_so_far,
            data: piece.data.to_vec(),
            dropped: piece.end.map(|end| end.dropped),
        };
        parts.recorder.append(chunk).await;
    }
    if wrote {
        parts.recorder.flush().await;
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded { .. } => "succeeded",
        Outcome::Failed { .. } => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::TimedOut => "timed_out",
        Outcome::Lost => "lost",
    }
}

#[expect(clippy::disallowed_methods, reason = "waits for a run's own time, not for a state")]
async fn wait(span: Duration) {
    tokio::time::sleep(span).await;
}

#[expect(clippy::disallowed_methods, reason = "spans how long a run takes")]
fn now() -> Instant {
    Instant::now()
}

supervised_child!(Worker);
