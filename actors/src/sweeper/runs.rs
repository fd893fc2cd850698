//! The sweeps over runs: those of carriers that are gone, those whose time is up, and the gauges of what waits.

use crate::executor::Stop;
use crate::metrics::{
    BUFFER_ENTRIES, BUFFER_OLDEST_AGE, BUFFER_STALE, CLUSTER_NODES, PULL_LEASES, QUEUE_DEPTH, QUEUE_OLDEST_AGE,
    RUNS_FINISHED, cluster, told_as,
};
use crate::runs::{RunParts, Settled};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use storage::StoreError;
use storage::model::{NodeState, RunState, Timestamp};
use storage::store::{Ending, NodeRow, QueueTotal, RunVerdict};
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
    parts.traces.taken_back(store, &taken_back).await;
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
    metrics::counter!(RUNS_FINISHED, "state" => RunState::Expired.word()).increment(expired);
    Ok(expired)
}

/// Gives attempts back that this node has leased without knowing it: the commit went through, and its answer
/// was lost. Nothing was started, so that they do not count.
async fn give_back_unknown(parts: &RunParts) -> Result<(), StoreError> {
    let store = &parts.store;
    let own = parts.looks.own.look(store.own_leases(store.now() - ANSWERED_WITHIN, PASS)).await?;
    for (env, run, epoch) in own.unwrap_or_default() {
        if !parts.settler.knows(&run, epoch) {
            warn!(run.id = %run, lease.epoch = %epoch, "leased by a commit whose answer was lost; giving it back");
            let reason = Some("leased by a commit whose answer was lost".to_owned());
            let (ending, code) = (Ending::Declined, Some("unanswered".to_owned()));
            let verdict = RunVerdict { run, epoch, ending, code, reason, output: None, started_at: None };
            parts.settler.settle(env, verdict);
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

/// What is told here for all nodes.
pub const GAUGES: &[&str] =
    &[QUEUE_DEPTH, QUEUE_OLDEST_AGE, PULL_LEASES, BUFFER_ENTRIES, BUFFER_OLDEST_AGE, BUFFER_STALE, CLUSTER_NODES];

/// What waits in each queue, and how long the oldest has; what pull workers have.
pub async fn queue_gauges(parts: &RunParts) -> Result<(), StoreError> {
    let count = async { Ok((parts.store.ready_totals().await?, parts.store.pull_leases().await?)) };
    let Some((totals, pulled)) = parts.looks.queues.look::<_, StoreError>(count).await? else { return Ok(()) };
    let (depths, ages) = told(&totals, parts.store.now(), |queue| told_as(QUEUE_DEPTH, queue));
    cluster::tell(QUEUE_DEPTH, depths.into_iter().map(of_queue));
    cluster::tell(QUEUE_OLDEST_AGE, ages.into_iter().map(of_queue));
    cluster::tell_one(PULL_LEASES, pulled as f64);
    Ok(())
}

fn of_queue((queue, value): (String, f64)) -> (Vec<cluster::Label>, f64) {
    (vec![("queue", queue)], value)
}

/// Depth and oldest age by the name under which each queue is told; several may be told under one.
fn told(
    totals: &[QueueTotal],
    now: Timestamp,
    name: impl Fn(&str) -> String,
) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let (mut depths, mut ages) = (BTreeMap::new(), BTreeMap::new());
    for total in totals {
        let queue = name(&total.queue);
        let age = total.oldest_at.map_or(0.0, |at| now.since(at).as_secs_f64());
        let oldest: &mut f64 = ages.entry(queue.clone()).or_default();
        *oldest = oldest.max(age);
        *depths.entry(queue).or_default() += total.waiting as f64;
    }
    (depths, ages)
}

#[expect(clippy::disallowed_methods, reason = "spans how long a count takes")]
pub fn now() -> Instant {
    Instant::now()
}

/// How many nodes stand how.
pub async fn node_gauges(parts: &RunParts) -> Result<(), StoreError> {
    let nodes = parts.store.nodes_alive().await?;
    let now = parts.store.now();
    let count = |state| nodes.iter().filter(|node| standing(node, now) == state).count() as f64;
    let states = ["live", "draining", "suspect"];
    cluster::tell(CLUSTER_NODES, states.map(|state| (vec![("state", state.to_owned())], count(state))));
    Ok(())
}

fn standing(node: &NodeRow, now: Timestamp) -> &'static str {
    if Timestamp::from_millis(node.lease_until) < now {
        return "suspect";
    }
    if node.state == NodeState::Draining.word() { "draining" } else { "live" }
}

/// What waits in the buffer, from one read; returns how many have waited too long.
pub async fn gauges(parts: &RunParts) -> Result<u64, StoreError> {
    let store = &parts.store;
    let depths = store.buffer_depths(None).await?;
    let parked: i64 = depths.iter().map(|depth| depth.parked).sum();
    let entries: i64 = depths.iter().map(|depth| depth.entries).sum();
    let state = |word: &str| vec![("state", word.to_owned())];
    cluster::tell(BUFFER_ENTRIES, [(state("queued"), (entries - parked) as f64), (state("parked"), parked as f64)]);
    let oldest = depths.iter().map(|depth| Timestamp::from_millis(depth.oldest_at)).min();
    cluster::tell_one(BUFFER_OLDEST_AGE, oldest.map_or(0.0, |at| store.now().since(at).as_secs_f64()));
    let stale = store.stale_entries(None, store.now() - parts.settings.now().buffer.stale_after).await?;
    cluster::tell_one(BUFFER_STALE, stale as f64);
    Ok(stale.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_are_told_together_add_up_and_the_oldest_of_them_counts() {
        let total = |queue: &str, waiting, oldest_at| QueueTotal {
            queue: queue.to_owned(),
            waiting,
            oldest_at: Some(Timestamp::from_millis(oldest_at)),
        };
        let totals = [total("a", 5, 9_000), total("b", 2, 4_000), total("c", 1, 6_000)];
        let name = |queue: &str| if queue == "a" { "a" } else { "other" }.to_owned();
        let (depths, ages) = told(&totals, Timestamp::from_millis(10_000), name);
        assert_eq!(depths, BTreeMap::from([("a".to_owned(), 5.0), ("other".to_owned(), 3.0)]));
        assert_eq!(ages, BTreeMap::from([("a".to_owned(), 1.0), ("other".to_owned(), 6.0)]));
    }
}
