//! Changes to runs that wait, and ends that need no attempt: cancelled, expired, due, rescheduled.

use super::{CHUNK, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{RunId, RunState, Timestamp};
use sqlx::QueryBuilder;

/// What became of a wish to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited; it is cancelled.
    AtOnce,
    /// It is being carried out; its carrier is told.
    Asked {
        holder: String,
    },
    /// It had ended already, so.
    Ended(RunState),
    NotFound,
}

/// A change to what its owner may still change; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// A JSON array of texts.
    pub tags: Option<String>,
    /// A JSON object.
    pub metadata: Option<String>,
    pub priority: Option<i64>,
    pub not_before: Option<Timestamp>,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patched {
    Done {
        version: i64,
    },
    /// Somebody else has changed it since.
    VersionIs(i64),
    /// It does not wait for a time any more, so that the time cannot be moved.
    NotDelayed,
    NotFound,
}

const FROM_READY: &str = "-- unready
DELETE FROM ready WHERE run_id = $1 AND env = $2";
const FROM_BUFFER: &str = "-- unbuffer
DELETE FROM buffer WHERE run_id = $1 AND env = $2";
const ASK: &str = "-- ask_to_cancel
UPDATE leases SET cancel_requested = 1 WHERE run_id = $1 AND env = $2 RETURNING holder";
const STATE: &str = "-- record_state
SELECT state FROM run_records WHERE id = $1 AND env = $2";

const ASKED: &str = "-- cancels_asked
SELECT run_id FROM leases WHERE holder = $1 AND cancel_requested = 1";

const DUE: &str = "-- come_due
UPDATE ready SET due_at = 0, since = due_at WHERE run_id IN
    (SELECT run_id FROM ready WHERE due_at > 0 AND due_at <= $1 ORDER BY due_at LIMIT $2)
RETURNING basin, lane";

const NEXT_DUE: &str = "-- next_due
SELECT MIN(due_at) FROM ready WHERE due_at > 0";

const EXPIRED_READY: &str = "-- expired_ready
DELETE FROM ready WHERE run_id IN
    (SELECT run_id FROM ready WHERE expires_at <= $1 AND due_at = 0 ORDER BY expires_at LIMIT $2) RETURNING run_id, env";
const EXPIRED_BUFFER: &str = "-- expired_buffer
DELETE FROM buffer WHERE run_id IN
    (SELECT run_id FROM buffer WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2) RETURNING run_id, env";

const VERSION: &str = "-- record_version
SELECT version FROM run_records WHERE id = $1 AND env = $2";
const PATCH: &str = "-- patch_record
UPDATE run_records SET tags = COALESCE($3, tags), metadata = COALESCE($4, metadata), priority = COALESCE($5, priority),
    not_before = COALESCE($6, not_before), version = version + 1
WHERE id = $1 AND version = $2";
const MOVE_READY: &str = "-- reschedule_ready
UPDATE ready SET due_at = $2 WHERE run_id = $1 AND due_at > 0 AND attempts = 0";
const MOVE_BUFFER: &str = "-- reschedule_buffer
UPDATE buffer SET due_at = $2 WHERE run_id = $1 AND due_at > 0";
const RERANK_READY: &str = "-- rerank_ready
UPDATE ready SET rank = (SELECT accepted_at - priority * 1000 FROM run_records WHERE id = $1) WHERE run_id = $1";
const RERANK_BUFFER: &str = "-- rerank_buffer
UPDATE buffer SET rank = (SELECT accepted_at - priority * 1000 FROM run_records WHERE id = $1) WHERE run_id = $1";

/// Ends runs that have just left the table in which they waited.
macro_rules! end_waiting {
    ($tx:ident, $Db:ty, $gone:expr, $state:expr, $reason:expr, $now:expr) => {{
        let gone: &[(String, String)] = $gone;
        let mut update = QueryBuilder::<$Db>::new("UPDATE run_records SET state = ");
        update.push_bind($state.word()).push(", code = ").push_bind($state.word());
        update.push(", reason = ").push_bind($reason).push(", attempts = 0, finished_at = ").push_bind($now.millis());
        update.push(" WHERE state = 'open' AND id IN (");
        let mut ids = update.separated(", ");
        for (run, _) in gone {
            ids.push_bind(run.as_str());
        }
        update.push(")");
        let changed = update.build().execute(&mut *$tx).await?.rows_affected();
        if changed != gone.len() as u64 {
            let id = gone.first().map(|(run, _)| run.clone()).unwrap_or_default();
            return Err(StoreError::Moved { entity: "run", id, now: "ended, though it waited".to_owned() });
        }
        let mut insert = QueryBuilder::<$Db>::new("INSERT INTO unsuccessful (run_id, env, state) ");
        insert.push_values(gone, |mut row, (run, env)| {
            row.push_bind(run.as_str()).push_bind(env.as_str()).push_bind($state.word());
        });
        insert.build().execute(&mut *$tx).await?;
    }};
}

impl Store {
    /// Cancels a run of an env. One that waits is cancelled by this; one that is carried out, by its carrier.
    pub async fn cancel_run(&self, env: &str, run: &RunId, now: Timestamp) -> Result<Cancelled, StoreError> {
        // A run that goes from one table to another between two looks is found at the next.
        for _ in 0..8 {
            if let Some(cancelled) = self.cancel_where_it_is(env, run, now).await? {
                return Ok(cancelled);
            }
        }
        Err(StoreError::Moved { entity: "run", id: run.to_string(), now: "moving too fast to be cancelled".to_owned() })
    }

    async fn cancel_where_it_is(
        &self,
        env: &str,
        run: &RunId,
        now: Timestamp,
    ) -> Result<Option<Cancelled>, StoreError> {
        let gone = [(run.as_str().to_owned(), env.to_owned())];
        let cancelled = in_tx!(self, |tx| {
            let mut waited = false;
            for sql in [FROM_READY, FROM_BUFFER] {
                waited |= sqlx::query(sql).bind(run.as_str()).bind(env).execute(&mut *tx).await?.rows_affected() == 1;
            }
            if waited {
                end_waiting!(tx, Db, &gone, RunState::Cancelled, "cancelled before it was started", now);
                Some(Cancelled::AtOnce)
            } else {
                let holder: Option<String> =
                    sqlx::query_scalar(ASK).bind(run.as_str()).bind(env).fetch_optional(&mut *tx).await?;
                match holder {
                    Some(holder) => Some(Cancelled::Asked { holder }),
                    None => {
                        let state: Option<String> =
                            sqlx::query_scalar(STATE).bind(run.as_str()).bind(env).fetch_optional(&mut *tx).await?;
                        match state.as_deref() {
                            None => Some(Cancelled::NotFound),
                            Some(word) => RunState::from_word(word).map(Cancelled::Ended),
                        }
                    }
                }
            }
        });
        Ok(cancelled)
    }

    /// Runs that a carrier holds and that somebody wants cancelled.
    pub async fn cancels_asked(&self, holder: &str) -> Result<Vec<RunId>, StoreError> {
        let runs: Vec<String> = on_pool!(self, |pool| sqlx::query_scalar(ASKED).bind(holder).fetch_all(pool).await?);
        Ok(runs.into_iter().map(RunId::from_text).collect())
    }

    /// Makes runs ready whose time has come, at most `limit`; returns the basins and lanes they wait in.
    pub async fn come_due(&self, now: Timestamp, limit: i64) -> Result<Vec<(String, String)>, StoreError> {
        let due: Option<i64> = on_pool!(self, |pool| sqlx::query_scalar(NEXT_DUE).fetch_one(pool).await?);
        if due.is_none_or(|due| due > now.millis()) {
            return Ok(Vec::new());
        }
        Ok(in_tx!(self, |tx| sqlx::query_as(DUE).bind(now.millis()).bind(limit).fetch_all(&mut *tx).await?))
    }

    /// Ends runs that have waited longer than they were to, at most `limit` in each table; returns how many.
    pub async fn expire_runs(&self, now: Timestamp, limit: i64) -> Result<u64, StoreError> {
        let mut expired = 0;
        for sql in [EXPIRED_READY, EXPIRED_BUFFER] {
            let gone = in_tx!(self, |tx| {
                let gone: Vec<(String, String)> =
                    sqlx::query_as(sql).bind(now.millis()).bind(limit).fetch_all(&mut *tx).await?;
                for part in gone.chunks(CHUNK) {
                    end_waiting!(tx, Db, part, RunState::Expired, "it was not started within its time to live", now);
                }
                gone.len() as u64
            });
            expired += gone;
        }
        Ok(expired)
    }

    /// Changes a run; with `version` only if that is the version it has.
    pub async fn patch_run(
        &self,
        env: &str,
        run: &RunId,
        version: Option<i64>,
        patch: &Patch,
    ) -> Result<Patched, StoreError> {
        let patched = in_tx!(self, |tx| {
            let sql = format!("{VERSION}{FOR_UPDATE}");
            let found: Option<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .bind(run.as_str())
                .bind(env)
                .fetch_optional(&mut *tx)
                .await?;
            let Some(current) = found else { return Ok(Patched::NotFound) };
            if version.is_some_and(|version| version != current) {
                return Ok(Patched::VersionIs(current));
            }
            if let Some(time) = patch.not_before {
                let mut moved = 0;
                for sql in [MOVE_READY, MOVE_BUFFER] {
                    let done = sqlx::query(sql).bind(run.as_str()).bind(time.millis()).execute(&mut *tx).await?;
                    moved += done.rows_affected();
                }
                if moved == 0 {
                    return Ok(Patched::NotDelayed);
                }
            }
            sqlx::query(PATCH)
                .bind(run.as_str())
                .bind(current)
                .bind(patch.tags.as_deref())
                .bind(patch.metadata.as_deref())
                .bind(patch.priority)
                .bind(patch.not_before.map(Timestamp::millis))
                .execute(&mut *tx)
                .await?;
            if patch.priority.is_some() {
                for sql in [RERANK_READY, RERANK_BUFFER] {
                    sqlx::query(sql).bind(run.as_str()).execute(&mut *tx).await?;
                }
            }
            Patched::Done { version: current + 1 }
        });
        Ok(patched)
    }
}
