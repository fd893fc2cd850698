//! One task that takes one batch as far as it goes now, a durable step at a time.

use super::plan::{self, Next};
use crate::metrics::LEASES_LOST;
use crate::parts::Parts;
use crate::provider::{CallError, Provider};
use dashmap::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use storage::model::{BatchId, BatchState, Epoch, Timestamp};
use storage::store::{BatchRow, Fence};
use storage::{Class, StoreError};
use tracing::{info, warn};

/// How soon to ask again whether an operator has resumed a job.
const HELD_FOR: Duration = Duration::from_secs(5);

/// Why a step could not be taken. What to do about it is the same for all: look again later.
#[derive(Debug, thiserror::Error)]
pub enum CallOrStore {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Whether the batch can be taken further at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Taken,
    Later,
}

/// The work on one batch; at most one exists per batch in this process.
pub(super) struct Drive {
    pub parts: Parts,
    pub provider: Arc<dyn Provider>,
    batch: BatchId,
    held: Arc<AtomicI64>,
    _in_hand: InHand,
}

/// Marks a batch as being worked on; gone when the task is.
struct InHand {
    parts: Parts,
    batch: BatchId,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.parts.in_hand.remove(&self.batch);
    }
}

impl Drive {
    /// `None` while another task of this process, perhaps of an older generation, is still at work on it.
    pub(super) fn begin(parts: &Parts, row: &BatchRow, held: Arc<AtomicI64>) -> Option<Drive> {
        let provider = parts.provider_of(&row.account)?;
        match parts.in_hand.entry(row.id.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(()),
        };
        let in_hand = InHand { parts: parts.clone(), batch: row.id.clone() };
        Some(Drive { parts: parts.clone(), provider, batch: row.id.clone(), held, _in_hand: in_hand })
    }

    pub(super) async fn run(self) {
        match self.steps().await {
            Ok(()) => {}
            Err(CallOrStore::Store(error)) if error.class() == Class::Conflict => {
                // Somebody else acts for it now, under a newer epoch; take it anew before the next step.
                self.held.store(0, Ordering::SeqCst);
                metrics::counter!(LEASES_LOST).increment(1);
                info!(batch.id = %self.batch, %error, "batch has moved on");
            }
            Err(error) => warn!(batch.id = %self.batch, %error, "batch is left for later"),
        }
    }

    async fn steps(&self) -> Result<(), CallOrStore> {
        let Some(fence) = self.fence().await? else { return Ok(()) };
        while let Some(row) = self.parts.store.batch(&self.batch).await? {
            if row.epoch != fence.epoch {
                let now = format!("held under epoch {}", row.epoch);
                return Err(StoreError::Moved { entity: "batch", id: self.batch.to_string(), now }.into());
            }
            let next = plan::next(&row, self.provider.protocol(), self.parts.store.now());
            if next.buys() && self.is_held(&row).await? {
                return self.later(&fence, row.state, self.parts.store.now() + HELD_FOR).await.map(|_| ());
            }
            let taken = match next {
                Next::Wait | Next::Done => return Ok(()),
                Next::Upload { leaked } => self.upload(&row, &fence, leaked).await,
                Next::Create => self.create(&row, &fence).await,
                Next::GoLive => self.go_live(&row, &fence).await,
                Next::CallLive => self.call_live(&row, &fence).await,
                Next::MarkUnknown => self.mark_unknown(&fence, "the process ended before the answer was stored").await,
                Next::Reconcile => self.reconcile(&row, &fence).await,
                Next::Poll => self.poll(&row, &fence).await,
                Next::Collect => self.collect(&row, &fence).await,
            };
            match taken {
                Ok(Step::Taken) => {}
                Ok(Step::Later) => return Ok(()),
                Err(CallOrStore::Call(error)) => return self.come_back(&row, &fence, error).await,
                Err(error @ CallOrStore::Store(_)) => return Err(error),
            }
        }
        Ok(())
    }

    /// The epoch under which this generation holds the batch; taken on its first step.
    async fn fence(&self) -> Result<Option<Fence>, StoreError> {
        let held = self.held.load(Ordering::SeqCst);
        if held != 0 {
            return Ok(Some(Fence { batch: self.batch.clone(), epoch: Epoch::from_number(held) }));
        }
        let Some(epoch) = self.parts.store.take_batch(&self.batch, self.parts.store.now()).await? else {
            return Ok(None);
        };
        self.held.store(epoch.number(), Ordering::SeqCst);
        info!(batch.id = %self.batch, lease.epoch = epoch.number(), "resuming a batch");
        Ok(Some(Fence { batch: self.batch.clone(), epoch }))
    }

    /// After a failover, and in a copy, the runs of a batch may be in another one that the store has forgotten: an
    /// operator looks first, and then resumes the job.
    async fn is_held(&self, row: &BatchRow) -> Result<bool, StoreError> {
        let job = self.parts.store.job(&row.job).await?;
        Ok(job.is_some_and(|job| plan::is_held(job.state, job.detail.as_deref())))
    }

    pub(super) async fn mark_unknown(&self, fence: &Fence, why: &str) -> Result<Step, CallOrStore> {
        warn!(batch.id = %self.batch, why, "it is unknown whether the provider has this batch");
        self.parts.store.answer_lost(fence, why, self.parts.store.now()).await?;
        Ok(Step::Taken)
    }

    /// After a failed call that has no consequence of its own: later, with back-off, or never by itself.
    async fn come_back(&self, row: &BatchRow, fence: &Fence, error: CallError) -> Result<(), CallOrStore> {
        if error.is_account_trouble() {
            self.suspend(row, &format!("account|{error}")).await?;
        }
        warn!(batch.id = %self.batch, %error, "provider call failed; will come back");
        let next_at = self.after_strikes(row, &error);
        self.parts.store.look_again(fence, row.state, next_at).await?;
        Ok(())
    }

    /// When to come back after `row.strikes` failures in a row; the provider's own word goes first.
    pub(super) fn after_strikes(&self, row: &BatchRow, error: &CallError) -> Timestamp {
        let asked = match error {
            CallError::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let doubled = Duration::from_millis(250) * (1 << row.strikes.clamp(0, 12));
        let wait = asked.unwrap_or(Duration::ZERO).max(doubled.min(Duration::from_secs(60)));
        self.parts.store.now() + wait.mul_f64(rand::RngExt::random_range(&mut rand::rng(), 1.0..1.2))
    }

    /// Stops the job's spending until somebody has looked; what is in flight goes on.
    pub(super) async fn suspend(&self, row: &BatchRow, detail: &str) -> Result<(), CallOrStore> {
        self.parts.store.suspend_job(&row.job, detail, self.parts.store.now()).await?;
        Ok(())
    }

    /// Looks again after the usual interval.
    pub(super) async fn later(&self, fence: &Fence, state: BatchState, at: Timestamp) -> Result<Step, CallOrStore> {
        self.parts.store.look_again(fence, state, at).await?;
        Ok(Step::Later)
    }
}
