//! A database that was failed over to may have forgotten what had been committed on the one before: a batch that was
//! bought is planned again, or not there at all. PostgreSQL counts such changes as timelines (its manual, 26.3.5), and
//! nothing is bought on one that was not looked into.

use super::jobs::log_job;
use super::{Pools, Store, in_tx, log_batch, on_pool};
use crate::error::StoreError;
use crate::model::{BatchEvent, Epoch, JobEvent, Timestamp};
use std::sync::atomic::Ordering;

/// The timeline that was looked into, and the one that the database is on.
pub(super) const TIMELINES: &str = "-- timelines
SELECT timeline, CAST(CAST('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS bit(32)) AS BIGINT)
FROM compatibility";

const NOTE_FIRST: &str = "-- note_first_timeline
UPDATE compatibility SET timeline = $1 WHERE timeline IS NULL";

const NOTE_NEXT: &str = "-- note_next_timeline
UPDATE compatibility SET timeline = $2 WHERE timeline = $1";

/// Whether they were created, only the provider can tell.
const DOUBT_PLANNED: &str = "-- doubt_planned
UPDATE batches SET state = 'unknown', epoch = epoch + 1, holder = NULL, intent_at = COALESCE(intent_at, created_at),
    first_absent_at = NULL, next_at = $1, strikes = 0, reason = $2
WHERE state = 'planned' AND mode = 'batch' RETURNING id, epoch";

const SUSPEND_RUNNING: &str = "-- suspend_running
UPDATE jobs SET state = 'suspended', detail = $1 WHERE state = 'running' RETURNING id, epoch";

/// Nothing is bought on a timeline that nobody has looked into.
macro_rules! refuse_unknown_timeline {
    ($store:expr, $tx:ident) => {
        if $store.follows_timeline() {
            let (noted, current): (Option<i64>, i64) =
                sqlx::query_as($crate::store::timeline::TIMELINES).fetch_one(&mut *$tx).await?;
            if let Some(from) = noted.filter(|noted| *noted != current) {
                return Err(StoreError::FailedOver { from, to: current });
            }
        }
    };
}
pub(super) use refuse_unknown_timeline;

/// How the detail of a job begins that was suspended for this.
pub const FAILED_OVER: &str = "failover|";

/// What a failover has put in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedOver {
    pub from: i64,
    pub to: i64,
    pub batches: u64,
    pub jobs: u64,
}

impl Store {
    /// Whether this is a PostgreSQL that tells its timeline; some that only speak its language do not.
    pub(super) async fn has_timeline(&self) -> Result<bool, StoreError> {
        let Pools::Postgres { pool, .. } = &self.inner.pools else { return Ok(false) };
        match sqlx::query(TIMELINES).execute(pool).await {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn follows_timeline(&self) -> bool {
        self.inner.follows_timeline.load(Ordering::Acquire)
    }

    /// Looks whether the database was failed over since somebody last looked. If so, then by one node and in one
    /// transaction: planned batches become *unknown*, so that only a proof of absence lets them be created, and all
    /// jobs are suspended until an operator has looked for batches that were forgotten altogether.
    pub async fn look_for_failover(&self, now: Timestamp) -> Result<Option<FailedOver>, StoreError> {
        if !self.follows_timeline() {
            return Ok(None);
        }
        let (noted, current): (Option<i64>, i64) =
            on_pool!(self, |pool| sqlx::query_as(TIMELINES).fetch_one(pool).await?);
        let Some(from) = noted.filter(|noted| *noted != current) else {
            if noted.is_none() {
                in_tx!(self, |tx| {
                    sqlx::query(NOTE_FIRST).bind(current).execute(&mut *tx).await?;
                });
            }
            return Ok(None);
        };
        let why = format!("the database was failed over (timeline {from} to {current}) and may have forgotten batches");
        let detail = format!("{FAILED_OVER}{why}");
        let data = serde_json::json!({ "why": why }).to_string();
        let mut found = FailedOver { from, to: current, batches: 0, jobs: 0 };
        in_tx!(self, |tx| {
            let noted = sqlx::query(NOTE_NEXT).bind(from).bind(current).execute(&mut *tx).await?;
            if noted.rows_affected() == 0 {
                // Another node was faster.
                return Ok(None);
            }
            let doubted: Vec<(String, i64)> =
                sqlx::query_as(DOUBT_PLANNED).bind(now.millis()).bind(&why).fetch_all(&mut *tx).await?;
            for (batch, epoch) in &doubted {
                for event in [BatchEvent::Committed, BatchEvent::AnswerLost] {
                    log_batch!(tx, batch, now, Epoch::from_number(*epoch), event.word(), &data);
                }
            }
            let suspended: Vec<(String, i64)> =
                sqlx::query_as(SUSPEND_RUNNING).bind(&detail).fetch_all(&mut *tx).await?;
            for (job, epoch) in &suspended {
                log_job!(tx, job, now, epoch, JobEvent::Suspended.word(), &data);
            }
            (found.batches, found.jobs) = (doubted.len() as u64, suspended.len() as u64);
        });
        Ok(Some(found))
    }
}
