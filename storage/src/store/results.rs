//! Results in input order, in pages.

use super::{Store, on_pool};
use crate::error::StoreError;
use crate::model::BatchId;

/// One input line's place and, once it is known, its result.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ResultRow {
    pub seq: i64,
    pub custom_id: String,
    pub state: String,
    pub line: Option<String>,
}

const RESULTS: &str = "-- results
SELECT r.seq, r.custom_id, r.state, x.line FROM runs r LEFT JOIN run_results x ON x.run_id = r.id
WHERE r.pool = $1 AND r.seq > $2 ORDER BY r.seq LIMIT $3";

const BATCH_RESULTS: &str = "-- batch_results
SELECT a.batch_pos AS seq, r.custom_id, a.verdict AS state, x.line
FROM attempts a JOIN runs r ON r.id = a.run_id LEFT JOIN run_results x ON x.run_id = a.run_id AND x.epoch = a.epoch
WHERE a.batch_id = $1 AND a.batch_pos > $2 ORDER BY a.batch_pos LIMIT $3";

impl Store {
    /// The pool's runs after position `after`, in input order, with the last result line of each.
    pub async fn results(&self, pool_name: &str, after: i64, limit: i64) -> Result<Vec<ResultRow>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(RESULTS).bind(pool_name).bind(after).bind(limit).fetch_all(pool).await?
        }))
    }

    /// The requests of one batch after position `after`, with the verdict and the line that this batch gave.
    pub async fn batch_results(&self, batch: &BatchId, after: i64, limit: i64) -> Result<Vec<ResultRow>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(BATCH_RESULTS).bind(batch.as_str()).bind(after).bind(limit).fetch_all(pool).await?
        }))
    }
}
