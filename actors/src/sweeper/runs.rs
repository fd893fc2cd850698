//! The sweeps over runs: those of carriers that are gone, those whose time is up, and the gauges of what waits.

use crate::metrics::{BUFFER_ENTRIES, BUFFER_STALE};
use crate::runs::{RunParts, Settled};
use storage::StoreError;
use storage::model::RunState;
use tracing::info;

/// Runs of each kind in one pass.
const PASS: i64 = 2_000;

/// One pass; returns how many runs were taken back and how many expired.
pub async fn sweep(parts: &RunParts) -> Result<(u64, u64), StoreError> {
    let store = &parts.store;
    let taken_back = store.take_back(store.now(), PASS).await?;
    for finished in &taken_back {
        let Some(state) = finished.state else { continue };
        if !state.is_terminal() {
            parts.lanes.note(&finished.basin, &finished.lane, i64::MIN);
        }
        parts.settler.announce(Settled { run: finished.run.clone(), env: finished.env.clone(), state });
    }
    if !taken_back.is_empty() {
        info!(runs = taken_back.len(), "took runs back whose carrier is gone");
        parts.doorbell.notify_one();
    }
    let expired = store.expire_runs(store.now(), PASS).await?;
    metrics::counter!(crate::metrics::RUNS_FINISHED, "state" => RunState::Expired.word()).increment(expired);
    gauges(parts).await?;
    Ok((taken_back.len() as u64, expired))
}

/// What waits in the buffer, from one read.
async fn gauges(parts: &RunParts) -> Result<(), StoreError> {
    let store = &parts.store;
    let depths = store.buffer_depths(None).await?;
    let parked: i64 = depths.iter().map(|depth| depth.parked).sum();
    let entries: i64 = depths.iter().map(|depth| depth.entries).sum();
    metrics::gauge!(BUFFER_ENTRIES, "state" => "queued").set((entries - parked) as f64);
    metrics::gauge!(BUFFER_ENTRIES, "state" => "parked").set(parked as f64);
    let stale = store.stale_entries(store.now() - parts.settings.buffer.stale_after).await?;
    metrics::gauge!(BUFFER_STALE).set(stale as f64);
    Ok(())
}
