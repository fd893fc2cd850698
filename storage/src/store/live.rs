//! Batches whose requests are called one by one. A call has no key and is in no listing, so each is marked as made
//! before it leaves: one that was marked and has no answer may have been paid for, and is never called the same.

use super::submit::{Set, Step, push_sets, take_step};
use super::timeline::refuse_in_doubt;
use super::{Fence, Store, expect_one, in_tx, log_batch, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{BatchEvent, BatchState, Timestamp};
use sqlx::QueryBuilder;

/// A request that has no verdict yet.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct LiveRequest {
    pub pos: i64,
    pub body: String,
    /// Most that it can cost in a batch, in nano-dollars; `None` when that is not known.
    pub reserve_nanos: Option<i64>,
}

const LIVE_REQUESTS: &str = "-- live_requests
SELECT a.batch_pos AS pos, y.body, r.reserve_nanos FROM attempts a
JOIN runs r ON r.id = a.run_id JOIN run_bodies y ON y.run_id = a.run_id
WHERE a.batch_id = $1 AND a.verdict = 'open' AND a.state = $2 ORDER BY a.batch_pos LIMIT $3";

const HOLD_BATCH: &str = "-- hold_batch
UPDATE batches SET strikes = strikes WHERE id = $1 AND epoch = $2 AND state = $3";

impl Store {
    /// Takes a planned batch live: from here on its requests may be called.
    pub async fn go_live(&self, fence: &Fence, now: Timestamp) -> Result<(), StoreError> {
        let committed =
            Step::new(BatchState::Planned, BatchEvent::Committed, now).set(Set::Int("intent_at", now.millis()));
        let accepted = Step::new(BatchState::Submitting, BatchEvent::Accepted, now)
            .set(Set::Text("provider_batch_id", format!("live-{}", fence.batch)))
            .set(Set::Int("submitted_at", now.millis()))
            .set(Set::Int("next_at", now.millis()))
            .set(Set::Int("strikes", 0));
        in_tx!(self, |tx| {
            take_step!(tx, fence, &committed);
            take_step!(tx, fence, &accepted);
        });
        reached(Failpoint::LiveBegun);
        Ok(())
    }

    /// Requests that nobody has called yet, in order.
    pub async fn uncalled(&self, fence: &Fence, limit: i64) -> Result<Vec<LiveRequest>, StoreError> {
        self.live_requests(fence, "leased", limit).await
    }

    /// Requests that were marked as called and have no verdict: asked by whoever takes a batch up, these are the
    /// ones whose answers died with somebody else.
    pub async fn in_doubt(&self, fence: &Fence, limit: i64) -> Result<Vec<LiveRequest>, StoreError> {
        self.live_requests(fence, "started", limit).await
    }

    async fn live_requests(&self, fence: &Fence, state: &str, limit: i64) -> Result<Vec<LiveRequest>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(LIVE_REQUESTS).bind(fence.batch.as_str()).bind(state).bind(limit).fetch_all(pool).await?
        }))
    }

    /// Marks requests as called, durably, before the first byte of any of them leaves.
    pub async fn calling(&self, fence: &Fence, state: BatchState, positions: &[i64]) -> Result<(), StoreError> {
        if positions.is_empty() {
            return Ok(());
        }
        in_tx!(self, |tx| {
            refuse_in_doubt!(self, tx);
            let held = sqlx::query(HOLD_BATCH)
                .bind(fence.batch.as_str())
                .bind(fence.epoch.number())
                .bind(state.word())
                .execute(&mut *tx)
                .await?;
            expect_one(held.rows_affected(), "batch", fence.batch.as_str(), "elsewhere")?;
            let mut update = QueryBuilder::<Db>::new("UPDATE attempts SET state = 'started' WHERE batch_id = ");
            update
                .push_bind(fence.batch.as_str())
                .push(" AND state = 'leased' AND verdict = 'open' AND batch_pos IN (");
            let mut list = update.separated(", ");
            for position in positions {
                list.push_bind(*position);
            }
            update.push(")");
            let marked = update.build().persistent(false).execute(&mut *tx).await?.rows_affected();
            expect_one(u64::from(marked == positions.len() as u64), "batch", fence.batch.as_str(), "called")?;
        });
        reached(Failpoint::LiveCalling);
        Ok(())
    }
}
