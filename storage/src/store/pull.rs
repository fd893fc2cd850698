//! Leases in the hands of pull workers: each proven by its token, and renewed by heartbeats.

use super::{Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{Epoch, RunId, Timestamp};

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct PullLease {
    pub epoch: i64,
    pub lease_until: i64,
    pub leased_at: i64,
    pub cancel_requested: i64,
}

/// A pull worker that has asked for work.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct PullWorker {
    pub name: String,
    pub tasks: String,
    pub last_seen_at: i64,
    pub running: i64,
}

const BEAT: &str = "-- beat
UPDATE leases SET lease_until = $4 WHERE run_id = $1 AND env = $2 AND token = $3 AND lease_until >= $5
RETURNING epoch, lease_until, leased_at, cancel_requested";

const LEASE: &str = "-- pull_lease
SELECT epoch, lease_until, leased_at, cancel_requested FROM leases WHERE run_id = $1 AND env = $2 AND token = $3";

const SEEN: &str = "-- pull_worker_seen
INSERT INTO pull_workers (env, name, tasks, last_seen_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (env, name) DO UPDATE SET tasks = excluded.tasks, last_seen_at = excluded.last_seen_at";

const WORKERS: &str = "-- pull_workers
SELECT name, tasks, last_seen_at, (SELECT COUNT(*) FROM leases l WHERE l.env = w.env AND l.holder = w.name) AS running
FROM pull_workers w WHERE env = $1 AND last_seen_at > $2 ORDER BY name LIMIT 1000";

const PULL_LEASES: &str = "-- pull_leases
SELECT COUNT(*) FROM leases WHERE lease_until IS NOT NULL";

impl Store {
    /// Runs that pull workers have in hand, of all envs.
    pub async fn pull_leases(&self) -> Result<i64, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_scalar(PULL_LEASES).fetch_one(pool).await?))
    }

    /// Renews a lease until `until`; `None` when the token is not the lease's, or the lease has lapsed.
    pub async fn beat(
        &self,
        env: &str,
        run: &RunId,
        token: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<PullLease>, StoreError> {
        Ok(in_tx!(self, |tx| {
            sqlx::query_as(BEAT)
                .bind(run.as_str())
                .bind(env)
                .bind(token)
                .bind(until.millis())
                .bind(now.millis())
                .fetch_optional(&mut *tx)
                .await?
        }))
    }

    /// The lease that a token proves; `None` when it is nobody's any more.
    pub async fn pull_lease(&self, env: &str, run: &RunId, token: &str) -> Result<Option<PullLease>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(LEASE).bind(run.as_str()).bind(env).bind(token).fetch_optional(pool).await?
        }))
    }

    /// Remembers that a pull worker has asked for work.
    pub async fn pull_worker_seen(&self, env: &str, name: &str, tasks: &str, now: Timestamp) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(SEEN).bind(env).bind(name).bind(tasks).bind(now.millis()).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Pull workers of an env that were seen after a time.
    pub async fn pull_workers(&self, env: &str, after: Timestamp) -> Result<Vec<PullWorker>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(WORKERS).bind(env).bind(after.millis()).fetch_all(pool).await?))
    }
}

impl PullLease {
    pub fn epoch(&self) -> Epoch {
        Epoch::from_number(self.epoch)
    }
}
