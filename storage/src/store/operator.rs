//! What a person asks of a store: who owns a provider batch, what was left behind, what the database is.

use super::{NodeRow, Pools, Store, on_pool};
use crate::error::StoreError;
use crate::model::{BatchId, BatchState, JobId};
use sqlx::QueryBuilder;
use std::collections::HashSet;

/// A batch that a provider batch is booked for.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct IdOwner {
    pub batch_id: String,
    /// `None` for the batch's own; else how it is booked: `found` or `cancelled` duplicate, or `foreign`.
    pub booked_as: Option<String>,
}

/// The database behind the store, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    pub name: &'static str,
    pub version: String,
    /// SQLite's journal mode; PostgreSQL has no such choice.
    pub journal: Option<String>,
    /// The newest migration that was carried out.
    pub schema: Option<i64>,
}

const ID_OWNERS: &str = "-- id_owners
SELECT id AS batch_id, CAST(NULL AS TEXT) AS booked_as FROM batches WHERE account = $1 AND provider_batch_id = $2
UNION ALL SELECT batch_id, state FROM strays WHERE account = $1 AND provider_batch_id = $2";

const STATES_OF_JOB: &str = "-- states_of_job
SELECT state, COUNT(*) FROM batches WHERE pool = $1 AND job_id = $2 GROUP BY state";

const NODES_NOT_GONE: &str = "-- nodes_not_gone
SELECT id, host, pid, state, lease_until, level FROM nodes WHERE state <> 'gone' ORDER BY lease_until, id";

const RUNS_HELD: &str = "-- runs_held
SELECT holder, COUNT(*) FROM leases WHERE token IS NULL GROUP BY holder";

const SCHEMA: &str = "-- schema
SELECT MAX(version) FROM _sqlx_migrations WHERE success";

impl Store {
    /// Every batch that a provider batch of this account is booked for; several when it was taken for another's.
    pub async fn owners_of_provider_id(&self, account: &str, provider_id: &str) -> Result<Vec<IdOwner>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(ID_OWNERS).bind(account).bind(provider_id).fetch_all(pool).await?))
    }

    /// How many batches a job has opened, by their state; states without one are left out.
    pub async fn batch_states_of(&self, pool_name: &str, job: &JobId) -> Result<Vec<(BatchState, i64)>, StoreError> {
        let counted: Vec<(String, i64)> = on_pool!(self, |pool| {
            sqlx::query_as(STATES_OF_JOB).bind(pool_name).bind(job.as_str()).fetch_all(pool).await?
        });
        let corrupt = |value: &str| StoreError::Corrupt {
            entity: "job",
            id: job.to_string(),
            what: "state of a batch",
            value: value.to_owned(),
        };
        let mut states = Vec::with_capacity(counted.len());
        for (word, count) in counted {
            states.push((BatchState::from_word(&word).ok_or_else(|| corrupt(&word))?, count));
        }
        states.sort_unstable();
        Ok(states)
    }

    /// Those of the batches that hold a settled request of unknown cost, so that their sum is not the cost.
    pub async fn unpriced_among(&self, batches: &[BatchId]) -> Result<HashSet<String>, StoreError> {
        if batches.is_empty() {
            return Ok(HashSet::new());
        }
        let unpriced: Vec<String> = on_pool!(self, |pool| {
            // The pool's counter spares the look at every request of a store whose models all have prices.
            let mut select = QueryBuilder::<Db>::new(
                "SELECT b.id FROM batches b JOIN pools p ON p.name = b.pool
                WHERE p.unpriced > 0 AND EXISTS (SELECT 1 FROM attempts a
                    WHERE a.batch_id = b.id AND a.settled_at IS NOT NULL AND a.cost_nanos IS NULL) AND b.id IN (",
            );
            let mut ids = select.separated(", ");
            for batch in batches {
                ids.push_bind(batch.as_str());
            }
            select.push(")");
            select.build_query_scalar().fetch_all(pool).await?
        });
        Ok(unpriced.into_iter().collect())
    }

    /// How many runs each node carries out, or has left behind; pull workers have leases of their own.
    pub async fn runs_held(&self) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(RUNS_HELD).fetch_all(pool).await?))
    }

    /// Nodes that have not left and were not declared gone, the longest lapsed first.
    pub async fn nodes_not_gone(&self) -> Result<Vec<NodeRow>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(NODES_NOT_GONE).fetch_all(pool).await?))
    }

    pub async fn engine(&self) -> Result<Engine, StoreError> {
        let (name, version, journal) = match &self.inner.pools {
            Pools::Sqlite { readers, .. } => {
                let version = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(readers).await?;
                let journal = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(readers).await?;
                ("SQLite", version, Some(journal))
            }
            Pools::Postgres { pool, .. } => {
                ("PostgreSQL", sqlx::query_scalar("SHOW server_version").fetch_one(pool).await?, None)
            }
        };
        let schema = on_pool!(self, |pool| sqlx::query_scalar(SCHEMA).fetch_one(pool).await?);
        Ok(Engine { name, version, journal, schema })
    }
}
