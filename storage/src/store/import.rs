//! Batches that somebody else has bought: their requests are bound to the runs that wait for the same results, so that
//! nobody buys those again.

use super::claim::INSERT_ATTEMPTS;
use super::schema::IMPORT_LEVEL;
use super::{CHUNK, Store, expect_one, in_tx, log_batch, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{BatchEvent, BatchId, Epoch, JobId, RunId, Timestamp};
use sqlx::QueryBuilder;

/// A provider batch that is known by its id alone, and the runs of a job that its results are for.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    pub job: &'a JobId,
    /// Under which the job is held.
    pub job_epoch: Epoch,
    pub batch: &'a BatchId,
    /// As every batch has one; its provider does not know it.
    pub wire_key: &'a str,
    pub provider_batch_id: &'a str,
    /// The provider's word for where it stands.
    pub status: &'a str,
    pub price_version: &'a str,
    /// Queued runs of the job's pool.
    pub runs: &'a [RunId],
    pub now: Timestamp,
}

/// A run that waits, under the id that its caller gave it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct QueuedName {
    pub id: String,
    pub seq: i64,
    pub custom_id: String,
}

/// A request of a batch, under the id that its caller gave it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct NamedRequest {
    pub pos: i64,
    pub custom_id: String,
    pub pack: String,
}

#[derive(sqlx::FromRow)]
struct Job {
    env: String,
    pool: String,
    source: String,
    round: i64,
    provider: String,
    account: String,
}

const QUEUED_NAMES: &str = "-- queued_names
SELECT id, seq, custom_id FROM runs WHERE pool = $1 AND seq > $2 AND state = 'queued' ORDER BY seq LIMIT $3";

const NAMES_OF_BATCH: &str = "-- names_of_batch
SELECT a.batch_pos AS pos, r.custom_id, r.pack FROM attempts a JOIN runs r ON r.id = a.run_id
WHERE a.batch_id = $1 AND a.batch_pos > $2 ORDER BY a.batch_pos LIMIT $3";

const JOB_SQLITE: &str = "-- import_job
SELECT env, pool, source, round, scope ->> 'provider' AS provider, scope ->> 'account' AS account FROM jobs
WHERE id = $1 AND epoch = $2 AND state IN ('created', 'running', 'suspended')";

const JOB_POSTGRES: &str = "-- import_job
SELECT env, pool, source, round, scope::json ->> 'provider' AS provider, scope::json ->> 'account' AS account FROM jobs
WHERE id = $1 AND epoch = $2 AND state IN ('created', 'running', 'suspended') FOR UPDATE";

/// Those that are alive and would read the results by the key alone, find none, and buy all of it again.
const TOO_OLD: &str = "-- nodes_too_old
SELECT id FROM nodes WHERE state <> 'gone' AND lease_until >= $1 AND level < $2 ORDER BY id LIMIT 1";

const RAISE_LEVEL: &str = "-- raise_level
UPDATE compatibility SET least_level = $1 WHERE least_level < $1";

const INSERT_IMPORTED: &str = "-- insert_imported
INSERT INTO batches (id, env, pool, job_id, source, round, provider, account, pack, state, epoch, wire_key, manifest,
    requests, body_bytes, provider_batch_id, provider_status, submitted_at, price_version, created_at, imported)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, MIN(pack), 'submitted', 1, $9, $10, COUNT(*), CAST(SUM(bytes) AS BIGINT), $11,
    $12, $13, $14, $13, 1
FROM runs WHERE carrier = $1";

const COUNT_BOUND: &str = "-- count_bound
UPDATE pools SET queued = queued - $2, running = running + $2 WHERE name = $1";

impl Store {
    /// Waiting runs of a pool after position `after`, in input order.
    pub async fn queued_names(&self, pool_name: &str, after: i64, limit: i64) -> Result<Vec<QueuedName>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(QUEUED_NAMES).bind(pool_name).bind(after).bind(limit).fetch_all(pool).await?
        }))
    }

    /// The requests of a batch after position `after`, in order.
    pub async fn names_of_batch(
        &self,
        batch: &BatchId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<NamedRequest>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(NAMES_OF_BATCH).bind(batch.as_str()).bind(after).bind(limit).fetch_all(pool).await?
        }))
    }

    /// Binds runs to a batch that is at the provider already; whoever follows the job's batches collects it like one of
    /// its own. Nothing is reserved: it is paid for. Refused while a node is alive that does not know of such batches.
    pub async fn import_batch(&self, import: &Import<'_>) -> Result<(), StoreError> {
        let find_job = if self.is_sqlite() { JOB_SQLITE } else { JOB_POSTGRES };
        in_tx!(self, |tx| {
            let job: Option<Job> = sqlx::query_as(find_job)
                .bind(import.job.as_str())
                .bind(import.job_epoch.number())
                .fetch_optional(&mut *tx)
                .await?;
            expect_one(u64::from(job.is_some()), "job", import.job.as_str(), "over, or held by another")?;
            let Some(job) = job else { return Ok(()) };
            let old: Option<String> = sqlx::query_scalar(TOO_OLD)
                .bind(import.now.millis())
                .bind(IMPORT_LEVEL)
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(node) = old {
                return Err(StoreError::OlderNode { node });
            }
            sqlx::query(RAISE_LEVEL).bind(IMPORT_LEVEL).execute(&mut *tx).await?;
            for chunk in import.runs.chunks(CHUNK) {
                let mut claim = QueryBuilder::<Db>::new(
                    "UPDATE runs SET state = 'running', epoch = epoch + 1, attempts = attempts + 1, carrier = ",
                );
                claim.push_bind(import.batch.as_str()).push(" WHERE state = 'queued' AND pool = ").push_bind(&job.pool);
                claim.push(" AND id IN (");
                let mut ids = claim.separated(", ");
                for run in chunk {
                    ids.push_bind(run.as_str());
                }
                claim.push(")");
                let claimed = claim.build().persistent(false).execute(&mut *tx).await?.rows_affected();
                expect_one(u64::from(claimed == chunk.len() as u64), "pool", &job.pool, "claimed by another")?;
            }
            let manifest = serde_json::json!({ "imported": import.provider_batch_id }).to_string();
            sqlx::query(INSERT_IMPORTED)
                .bind(import.batch.as_str())
                .bind(&job.env)
                .bind(&job.pool)
                .bind(import.job.as_str())
                .bind(&job.source)
                .bind(job.round)
                .bind(&job.provider)
                .bind(&job.account)
                .bind(import.wire_key)
                .bind(&manifest)
                .bind(import.provider_batch_id)
                .bind(import.status)
                .bind(import.now.millis())
                .bind(import.price_version)
                .execute(&mut *tx)
                .await?;
            sqlx::query(INSERT_ATTEMPTS)
                .bind(import.batch.as_str())
                .bind(import.now.millis())
                .execute(&mut *tx)
                .await?;
            let count = i64::try_from(import.runs.len()).unwrap_or(i64::MAX);
            sqlx::query(COUNT_BOUND).bind(&job.pool).bind(count).execute(&mut *tx).await?;
            for event in ["planned", BatchEvent::Imported.word()] {
                log_batch!(tx, import.batch.as_str(), import.now, Epoch::from_number(1), event, &manifest);
            }
            reached(Failpoint::ImportBatchOpen);
        });
        reached(Failpoint::ImportBatchStored);
        Ok(())
    }
}
