//! Sums over a pool's batches, for summaries.

use super::{Store, on_pool};
use crate::error::StoreError;

/// How a pool's batches came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::FromRow)]
pub struct BatchTally {
    /// Batches that a provider has, or had.
    pub created: i64,
    /// Those of them that were found in a listing, because the answer to their create was lost.
    pub adopted: i64,
    /// Batches of which it is not known whether the provider has them.
    pub unknown: i64,
    /// Duplicates that were found and cancelled.
    pub cancelled: i64,
    /// Batches that are not terminal.
    pub in_flight: i64,
}

const TALLY: &str = "-- tally
SELECT COUNT(CASE WHEN submitted_at IS NOT NULL THEN 1 END) AS created,
    COUNT(CASE WHEN EXISTS (SELECT 1 FROM batch_events e WHERE e.batch_id = b.id AND e.event = 'found') THEN 1 END) AS adopted,
    COUNT(CASE WHEN state = 'unknown' THEN 1 END) AS unknown,
    (SELECT COUNT(*) FROM strays s WHERE s.state = 'cancelled'
        AND s.batch_id IN (SELECT id FROM batches WHERE pool = $1)) AS cancelled,
    COUNT(CASE WHEN state NOT IN ('collected', 'abandoned') THEN 1 END) AS in_flight
FROM batches b WHERE pool = $1";

impl Store {
    pub async fn tally(&self, pool_name: &str) -> Result<BatchTally, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(TALLY).bind(pool_name).fetch_one(pool).await?))
    }
}
