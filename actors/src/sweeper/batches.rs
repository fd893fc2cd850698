//! The gauges of what is at providers, of what it costs, and of the jobs that sent it.

use crate::metrics::{BATCH_NEXT_EXPIRY, BATCHES, BATCHES_UNRECONCILED, JOBS, SPEND_DAY, SPEND_DAY_LIMIT, cluster};
use crate::parts::Parts;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::StoreError;
use storage::model::{BatchState, JobState, Timestamp};
use storage::store::BatchRow;

/// What is told here.
pub const GAUGES: &[&str] = &[BATCHES, BATCHES_UNRECONCILED, BATCH_NEXT_EXPIRY, JOBS, SPEND_DAY, SPEND_DAY_LIMIT];
/// Both vendors give a batch a day.
const WINDOW: Duration = Duration::from_secs(86_400);
/// An ended batch that is not settled by then is overdue.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Sets the gauges, and tells how many batches have ended and are still not settled.
pub async fn count(parts: &Parts) -> Result<u64, StoreError> {
    let (store, now) = (&parts.store, parts.store.now());
    let in_flight = store.in_flight().await?;
    let of = |state: BatchState| in_flight.iter().filter(|batch| batch.state == state).count() as f64;
    let open = BatchState::ALL.iter().filter(|state| !state.is_terminal());
    cluster::tell(BATCHES, open.map(|state| (vec![("state", state.word().to_owned())], of(*state))));
    cluster::tell_one(BATCHES_UNRECONCILED, of(BatchState::Unknown));
    let known = parts.llm.values().map(|task| task.provider.clone());
    let expiries = next_expiries(known, &in_flight).into_iter();
    cluster::tell(BATCH_NEXT_EXPIRY, expiries.map(|(provider, at)| (vec![("provider", provider)], at)));
    let jobs = store.jobs_by_state().await?;
    let of = |state: JobState| jobs.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count) as f64;
    let open = JobState::ALL.iter().filter(|state| !state.is_terminal());
    cluster::tell(JOBS, open.map(|state| (vec![("state", state.word().to_owned())], of(*state))));
    cluster::tell_one(SPEND_DAY, store.spent_in_day(now).await?.nanos() as f64);
    if let Some(limit) = parts.settings.now().max_usd_per_day {
        cluster::tell_one(SPEND_DAY_LIMIT, limit.nanos() as f64);
    }
    let overdue = |batch: &&BatchRow| {
        let ended = batch.ended_at.filter(|_| batch.state == BatchState::Ended);
        ended.is_some_and(|at| now.since(at) > SETTLED_WITHIN)
    };
    Ok(in_flight.iter().filter(overdue).count() as u64)
}

/// When the first batch of each provider expires, in seconds; 0 for one that has none.
fn next_expiries(known: impl Iterator<Item = String>, in_flight: &[BatchRow]) -> BTreeMap<String, f64> {
    let mut next: BTreeMap<String, Option<Timestamp>> = known.map(|provider| (provider, None)).collect();
    for batch in in_flight {
        let at_provider = matches!(batch.state, BatchState::Submitted | BatchState::Cancelling);
        let Some(at) = batch.submitted_at.filter(|_| at_provider && !batch.mode.is_live()) else { continue };
        let first = next.entry(batch.provider.clone()).or_default();
        *first = first.map_or(Some(at + WINDOW), |known| Some(known.min(at + WINDOW)));
    }
    next.into_iter().map(|(name, at)| (name, at.map_or(0.0, |at| at.millis() as f64 / 1_000.0))).collect()
}
