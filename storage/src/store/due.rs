//! How much a sweep would find now, counted to a limit; nothing is changed.

use super::{Store, on_pool};
use crate::error::StoreError;
use crate::model::Timestamp;

const LAPSED_NODES: &str = "-- lapsed_nodes
SELECT COUNT(*) FROM nodes WHERE state <> 'gone' AND lease_until < $1";

const LOST_RUNS: &str = "-- lost_runs
SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM leases l
        WHERE l.token IS NULL AND l.holder IN (SELECT id FROM nodes WHERE state = 'gone') LIMIT $2) AS held)
    + (SELECT COUNT(*) FROM (SELECT 1 FROM leases WHERE lease_until < $1 LIMIT $2) AS lapsed)";

const EXPIRED_RUNS: &str = "-- expired_runs
SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM buffer WHERE expires_at <= $1 LIMIT $2) AS buffered)
    + (SELECT COUNT(*) FROM (SELECT 1 FROM ready WHERE expires_at <= $1 AND due_at = 0 LIMIT $2) AS waiting)";

const EXPIRED_KEYS: &str = "-- expired_keys
SELECT COUNT(*) FROM (SELECT 1 FROM idempotency WHERE expires_at <= $1 LIMIT $2) AS old";

impl Store {
    /// Nodes whose lease has lapsed and that nobody has declared gone.
    pub async fn lapsed_nodes(&self, now: Timestamp) -> Result<i64, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_scalar(LAPSED_NODES).bind(now.millis()).fetch_one(pool).await?))
    }

    /// Runs of carriers that are gone.
    pub async fn lost_runs(&self, now: Timestamp, limit: i64) -> Result<i64, StoreError> {
        self.due(LOST_RUNS, now, limit).await
    }

    /// Runs that wait although their time is up.
    pub async fn expired_runs(&self, now: Timestamp, limit: i64) -> Result<i64, StoreError> {
        self.due(EXPIRED_RUNS, now, limit).await
    }

    /// Idempotency keys that hold no more.
    pub async fn expired_keys(&self, now: Timestamp, limit: i64) -> Result<i64, StoreError> {
        self.due(EXPIRED_KEYS, now, limit).await
    }

    async fn due(&self, count: &'static str, now: Timestamp, limit: i64) -> Result<i64, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_scalar(count).bind(now.millis()).bind(limit).fetch_one(pool).await?))
    }
}
