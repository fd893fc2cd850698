//! The sweeps over runs: those of carriers that are gone, those whose time is up, and the gauges of what waits.

use crate::executor::Stop;
use crate::metrics::{BUFFER_ENTRIES, BUFFER_STALE, QUEUE_DEPTH, QUEUE_OLDEST_AGE};
use crate::runs::{RunParts, Settled};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use storage::StoreError;
use storage::model::RunState;
use storage::store::{Ending, QueueTotal, RunVerdict};
use tracing::{info, warn};

/// Runs of each kind in one pass.
const PASS: i64 = 2_000;
/// An answer of the store that has not come by then will not come.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// What this node alone can know: attempts that it leases without knowing it, and those that it is to stop.
pub async fn own(parts: &RunParts) -> Result<(), StoreError> {
    give_back_unknown(parts).await?;
    stop_cancelled(parts).await
}

/// Takes runs back from carriers that are gone; returns how many.
pub async fn take_back(parts: &RunParts) -> Result<u64, StoreError> {
    let store = &parts.store;
    let taken_back = store.take_back(store.now(), PASS).await?;
    for finished in &taken_back {
        let Some(state) = finished.state else { continue };
        if !state.is_terminal() {
            parts.lanes.note(&finished.basin, &finished.lane, i64::MIN);
            parts.neighbours.ready(&finished.basin, &finished.lane, i64::MIN);
        }
        parts.settler.announce(Settled { run: finished.run.clone(), env: finished.env.clone(), state });
    }
    if !taken_back.is_empty() {
        info!(runs = taken_back.len(), "took runs back whose carrier is gone");
        parts.doorbell.notify_one();
    }
    Ok(taken_back.len() as u64)
}

/// Ends runs that have waited longer than they were to; returns how many.
pub async fn expire(parts: &RunParts) -> Result<u64, StoreError> {
    let expired = parts.store.expire_runs(parts.store.now(), PASS).await?;
    metrics::counter!(crate::metrics::RUNS_FINISHED, "state" => RunState::Expired.word()).increment(expired);
    Ok(expired)
}

/// Gives attempts back that this node has leased without knowing it: the commit went through, and its answer
/// was lost. Nothing was started, so that they do not count.
async fn give_back_unknown(parts: &RunParts) -> Result<(), StoreError> {
    let store = &parts.store;
    for (run, epoch) in store.own_leases(store.now() - ANSWERED_WITHIN, PASS).await? {
        if !parts.settler.knows(&run, epoch) {
            warn!(run.id = %run, "leased by a commit whose answer was lost; giving it back");
            let reason = Some("leased by a commit whose answer was lost".to_owned());
            let (ending, code) = (Ending::Declined, Some("unanswered".to_owned()));
            parts.settler.settle(RunVerdict { run, epoch, ending, code, reason, output: None, started_at: None });
        }
    }
    Ok(())
}

/// Stops what somebody has asked to cancel through another node, or before a worker had it in hand.
async fn stop_cancelled(parts: &RunParts) -> Result<(), StoreError> {
    for run in parts.store.cancels_asked(parts.store.node().as_str()).await? {
        parts.stop_run(&run, Stop::Cancelled);
    }
    Ok(())
}

/// Queues that have a gauge of their own; those beyond are told together, for anybody can name a queue.
const QUEUES_TOLD: usize = 50;
const OTHERS: &str = "other";
/// To count what waits takes one part in so many of the time.
const COUNT_SHARE: u32 = 50;

/// What is known of the gauges of queues.
#[derive(Debug, Default)]
pub struct QueueGauges {
    /// Queues that something was said of, so that it is said too when nothing waits in one any more.
    told: BTreeSet<String>,
    next_at: Option<Instant>,
}

/// What waits in each queue, and how long the oldest has.
pub async fn queue_gauges(parts: &RunParts) -> Result<(), StoreError> {
    let began = now();
    if parts.queue_gauges.lock().await.next_at.is_some_and(|at| began < at) {
        return Ok(());
    }
    let totals = parts.store.ready_totals().await?;
    let mut gauges = parts.queue_gauges.lock().await;
    gauges.next_at = Some(began + now().duration_since(began) * COUNT_SHARE);
    let now_at = parts.store.now();
    let age = |total: &QueueTotal| total.oldest_at.map_or(0.0, |at| now_at.since(at).as_secs_f64());
    let (own, others) = totals.split_at(totals.len().min(QUEUES_TOLD));
    let mut told: Vec<(String, i64, f64)> =
        own.iter().map(|total| (total.queue.clone(), total.waiting, age(total))).collect();
    if !others.is_empty() {
        let oldest = others.iter().map(age).fold(0.0, f64::max);
        told.push((OTHERS.to_owned(), others.iter().map(|total| total.waiting).sum(), oldest));
    }
    let now_told: BTreeSet<String> = told.iter().map(|(queue, _, _)| queue.clone()).collect();
    told.extend(gauges.told.difference(&now_told).map(|queue| (queue.clone(), 0, 0.0)));
    for (queue, depth, oldest) in told {
        metrics::gauge!(QUEUE_DEPTH, "queue" => queue.clone()).set(depth as f64);
        metrics::gauge!(QUEUE_OLDEST_AGE, "queue" => queue).set(oldest);
    }
    gauges.told = now_told;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "spans how long a count takes")]
pub fn now() -> Instant {
    Instant::now()
}

/// What waits in the buffer, from one read; returns how many have waited too long.
pub async fn gauges(parts: &RunParts) -> Result<u64, StoreError> {
    let store = &parts.store;
    let depths = store.buffer_depths(None).await?;
    let parked: i64 = depths.iter().map(|depth| depth.parked).sum();
    let entries: i64 = depths.iter().map(|depth| depth.entries).sum();
    metrics::gauge!(BUFFER_ENTRIES, "state" => "queued").set((entries - parked) as f64);
    metrics::gauge!(BUFFER_ENTRIES, "state" => "parked").set(parked as f64);
    let stale = store.stale_entries(None, store.now() - parts.settings.now().buffer.stale_after).await?;
    metrics::gauge!(BUFFER_STALE).set(stale as f64);
    Ok(stale.unsigned_abs())
}
