//! Takes runs in, in chunks that are each one transaction, so that an import goes on where it was killed.

use super::{CHUNK, Store, expect_one, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Epoch, JobId, NewRun, Timestamp};
use sqlx::QueryBuilder;
use std::collections::HashMap;

/// A pool's runs by state, and its money in nano-dollars, maintained in the transactions that change them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::FromRow)]
pub struct PoolCounts {
    pub total: i64,
    pub queued: i64,
    pub running: i64,
    pub succeeded: i64,
    pub failed: i64,
    pub reserved_nanos: i64,
    pub spent_nanos: i64,
    /// Settled results whose price is not known, so that a sum over them would be too small.
    pub unpriced: i64,
    /// Runs that its job had when it was over, and that wait for another one since.
    pub given_back: i64,
}

#[derive(sqlx::FromRow)]
struct NamedCounts {
    name: String,
    #[sqlx(flatten)]
    counts: PoolCounts,
}

impl PoolCounts {
    pub fn pending(&self) -> i64 {
        self.queued + self.running
    }
}

const POOL: &str = "-- pool
SELECT total, queued, running, succeeded, failed, reserved_nanos, spent_nanos, unpriced, given_back
FROM pools WHERE name = $1";

const POOLS: &str =
    "SELECT name, total, queued, running, succeeded, failed, reserved_nanos, spent_nanos, unpriced, given_back
FROM pools WHERE name IN (";

const COUNT_IN: &str = "-- count_in
UPDATE pools SET total = total + $3, queued = queued + $3 WHERE name = $1 AND total = $2";

const HOLDS_CREATED: &str = "-- holds_created
SELECT COUNT(*) FROM jobs WHERE id = $1 AND epoch = $2 AND state = 'created' AND pool = $3";

impl Store {
    pub async fn pool_counts(&self, pool_name: &str) -> Result<PoolCounts, StoreError> {
        let row = on_pool!(self, |pool| sqlx::query_as(POOL).bind(pool_name).fetch_optional(pool).await?);
        Ok(row.unwrap_or_default())
    }

    /// The same of several pools, by name; one that is not there has no counts.
    pub async fn counts_of_pools(&self, names: &[&str]) -> Result<HashMap<String, PoolCounts>, StoreError> {
        let mut counts = HashMap::with_capacity(names.len());
        for chunk in names.chunks(CHUNK) {
            let found: Vec<NamedCounts> = on_pool!(self, |pool| {
                let mut select = QueryBuilder::<Db>::new(POOLS);
                let mut list = select.separated(", ");
                for name in chunk {
                    list.push_bind(*name);
                }
                select.push(")");
                select.build_query_as().persistent(false).fetch_all(pool).await?
            });
            counts.extend(found.into_iter().map(|row| (row.name, row.counts)));
        }
        Ok(counts)
    }

    /// Adds runs to the pool of a job that is still being created. `before` is how many the pool holds
    /// already; a different number means that another importer was here (`Moved`).
    pub async fn import_runs(
        &self,
        (job, epoch): (&JobId, Epoch),
        pool_name: &str,
        before: i64,
        max_attempts: u32,
        runs: &[NewRun],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // PostgreSQL's text cannot hold it, and SQLite's would: refuse it for both.
        if let Some(run) = runs.iter().find(|run| run.custom_id.contains('\0') || run.pack.contains('\0')) {
            return Err(StoreError::NulInText { entity: "run", id: run.id.to_string() });
        }
        in_tx!(self, |tx| {
            let held: i64 = sqlx::query_scalar(HOLDS_CREATED)
                .bind(job.as_str())
                .bind(epoch.number())
                .bind(pool_name)
                .fetch_one(&mut *tx)
                .await?;
            expect_one(u64::try_from(held).unwrap_or(0), "job", job.as_str(), "past its import")?;
            let counted = sqlx::query(COUNT_IN)
                .bind(pool_name)
                .bind(before)
                .bind(i64::try_from(runs.len()).unwrap_or(i64::MAX))
                .execute(&mut *tx)
                .await?;
            expect_one(counted.rows_affected(), "pool", pool_name, "holding another number of runs")?;
            for chunk in runs.chunks(CHUNK) {
                let mut insert = QueryBuilder::<Db>::new(
                    "INSERT INTO runs (id, pool, seq, custom_id, pack, state, max_attempts, bytes, reserve_nanos, accepted_at) ",
                );
                insert.push_values(chunk, |mut row, run| {
                    row.push_bind(run.id.as_str())
                        .push_bind(pool_name)
                        .push_bind(run.seq)
                        .push_bind(&run.custom_id)
                        .push_bind(&run.pack)
                        .push("'queued'")
                        .push_bind(i64::from(max_attempts))
                        .push_bind(i64::try_from(run.body.len()).unwrap_or(i64::MAX))
                        .push_bind(run.reserve_nanos)
                        .push_bind(now.millis());
                });
                insert.build().persistent(false).execute(&mut *tx).await?;
                let mut bodies = QueryBuilder::<Db>::new("INSERT INTO run_bodies (run_id, body) ");
                bodies.push_values(chunk, |mut row, run| {
                    row.push_bind(run.id.as_str()).push_bind(&run.body);
                });
                bodies.build().persistent(false).execute(&mut *tx).await?;
            }
            reached(Failpoint::ImportChunkOpen);
        });
        reached(Failpoint::ImportChunkStored);
        Ok(())
    }
}
