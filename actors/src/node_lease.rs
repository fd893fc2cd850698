//! Keeps this node's lease, and lets go of everything before it ends when it cannot be kept.

use crate::executor::Stop;
use crate::runs::RunParts;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::model::Timestamp;
use storage::store::FailedOver;
use storage::{Store, StoreError};
use tokio::time::{interval, timeout};
use tracing::{error, info, warn};

/// Until a lease that could not be kept is asked for once more.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Renews three times within the lease. When the store does not answer, runs are stopped before the lease ends,
/// because somebody else may have them from then on; when it answers again in time, work goes on. Returns only
/// when this node was declared gone. Asked to drain, it gives back what it has not begun and claims nothing more.
pub async fn keep(parts: RunParts, lease: Duration) -> StoreError {
    let mut until = parts.store.now() + lease;
    let mut renew = interval(lease / 3);
    // Since when every renewal has gone through; nobody else is judged before that is a whole lease long.
    let mut steady_since = None;
    loop {
        // Without its lease the node does nothing but ask for it.
        let pause = if parts.gates.cut_off.load(Ordering::Acquire) { ASK_AGAIN_AFTER } else { lease };
        let _ = timeout(pause, renew.tick()).await;
        let answer = timeout(lease / 4, parts.store.renew_lease(lease)).await;
        let now = parts.store.now();
        steady_since = matches!(answer, Ok(Ok(_))).then(|| steady_since.unwrap_or(now));
        let steady = steady_since.is_some_and(|since| now.since(since) >= lease);
        parts.gates.no_burials.store(!steady, Ordering::Release);
        match answer {
            Ok(Ok(renewed)) => {
                until = renewed.until;
                let _ = look_for_failover(&parts.store, lease / 4).await;
                if renewed.draining && !parts.gates.draining.swap(true, Ordering::AcqRel) {
                    info!("asked to drain; taking nothing on any more");
                    parts.gates.no_claims.store(true, Ordering::Release);
                    parts.queue.give_back();
                }
                if parts.gates.cut_off.swap(false, Ordering::AcqRel) {
                    warn!("the store answers again; carrying on");
                    parts.doorbell.notify_one();
                }
            }
            Ok(Err(error @ StoreError::Moved { .. })) => return error,
            Ok(Err(_)) | Err(_) if parts.gates.cut_off.load(Ordering::Acquire) => {}
            Ok(Err(_)) | Err(_) if !ends_soon(parts.store.now(), until, lease) => {}
            Ok(Err(_)) | Err(_) => {
                // Nobody has to act: what is let go goes on elsewhere, and here when the store answers again.
                warn!(lease.until = %until, node.id = %parts.store.node(), "the lease cannot be renewed; letting go of all runs");
                parts.gates.cut_off.store(true, Ordering::Release);
                parts.queue.give_back();
                parts.stop_all(Stop::Lost);
            }
        }
    }
}

/// Notices, at the start and three times within a lease, that the database was failed over or that the store is a copy;
/// until somebody has, nothing is bought.
pub async fn look_for_failover(store: &Store, within: Duration) -> Option<FailedOver> {
    // Whatever else it answers, the next renewal looks again.
    let Ok(Ok(Some(found))) = timeout(within, store.look_for_failover(store.now())).await else { return None };
    if (found.batches, found.jobs) == (0, 0) {
        warn!(cause = %found.doubt, "the store may have forgotten batches; it has none under way, and no job");
    } else {
        error!(
            cause = %found.doubt,
            batches = found.batches,
            jobs = found.jobs,
            "the store may have forgotten batches: planned ones are looked for at their providers, and jobs are suspended"
        );
    }
    Some(found)
}

/// The next attempt to renew would come too late to still stop in time.
fn ends_soon(now: Timestamp, until: Timestamp, lease: Duration) -> bool {
    now + lease / 3 + lease / 12 >= until
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_let_go_while_there_is_still_time_to_stop() {
        let (lease, until) = (Duration::from_secs(12), Timestamp::from_millis(12_000));
        assert!(!ends_soon(Timestamp::from_millis(4_000), until, lease));
        assert!(ends_soon(Timestamp::from_millis(7_000), until, lease));
    }
}
