//! Rounds of a job: opened with what is pending, closed with what was carried out.

use super::{Store, expect_one, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{Epoch, JobId, Timestamp};

/// One round; counts are `None` until the round is closed (not computed is not zero).
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RoundRow {
    pub round: i64,
    pub pending_before: i64,
    pub pending_after: Option<i64>,
    /// Attempts that ended with a verdict of their own.
    pub carried: Option<i64>,
    /// Those of them that did not succeed.
    pub errored: Option<i64>,
    pub ended_at: Option<i64>,
}

const ADVANCE_ROUND: &str = "-- advance_round
UPDATE jobs SET round = $3 WHERE id = $1 AND epoch = $2 AND state = 'running' AND round = $3 - 1";

const INSERT_ROUND: &str = "-- insert_round
INSERT INTO job_rounds (job_id, round, pending_before, started_at)
SELECT $1, $2, p.queued + p.running, $3 FROM pools p JOIN jobs j ON j.pool = p.name WHERE j.id = $1";

/// Changes nothing but takes the row's lock, so that no batch is opened while the round is closed.
const HOLD_ROUND: &str = "-- hold_round
UPDATE jobs SET round = round WHERE id = $1 AND epoch = $2 AND state = 'running' AND round = $3";

const CLOSE_ROUND: &str = "-- close_round
UPDATE job_rounds SET ended_at = $3,
    pending_after = (SELECT p.queued + p.running FROM pools p JOIN jobs j ON j.pool = p.name WHERE j.id = $1),
    carried = (SELECT CAST(COALESCE(SUM(b.succeeded + b.errored), 0) AS BIGINT) FROM batches b
        WHERE b.job_id = $1 AND b.round = $2),
    errored = (SELECT CAST(COALESCE(SUM(b.errored), 0) AS BIGINT) FROM batches b
        WHERE b.job_id = $1 AND b.round = $2)
WHERE job_id = $1 AND round = $2 AND ended_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.job_id = $1 AND b.round = $2
        AND b.requests > b.succeeded + b.errored + b.uncounted)";

const ROUNDS: &str = "-- rounds
SELECT round, pending_before, pending_after, carried, errored, ended_at FROM job_rounds
WHERE job_id = $1 ORDER BY round DESC LIMIT $2";

impl Store {
    /// Opens round `round`; it must follow the job's last one.
    pub async fn open_round(&self, job: &JobId, epoch: Epoch, round: i64, now: Timestamp) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            let advanced = sqlx::query(ADVANCE_ROUND)
                .bind(job.as_str())
                .bind(epoch.number())
                .bind(round)
                .execute(&mut *tx)
                .await?;
            expect_one(advanced.rows_affected(), "job", job.as_str(), "in another round")?;
            sqlx::query(INSERT_ROUND).bind(job.as_str()).bind(round).bind(now.millis()).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Closes the job's current round with its counts, if no request of its batches is open. Closing it again changes
    /// nothing.
    pub async fn close_round(&self, job: &JobId, epoch: Epoch, round: i64, now: Timestamp) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            let held =
                sqlx::query(HOLD_ROUND).bind(job.as_str()).bind(epoch.number()).bind(round).execute(&mut *tx).await?;
            expect_one(held.rows_affected(), "job", job.as_str(), "in another round")?;
            sqlx::query(CLOSE_ROUND).bind(job.as_str()).bind(round).bind(now.millis()).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The job's latest rounds, newest first.
    pub async fn rounds(&self, job: &JobId, limit: u32) -> Result<Vec<RoundRow>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(ROUNDS).bind(job.as_str()).bind(i64::from(limit)).fetch_all(pool).await?
        }))
    }
}
