//! Changes to runs that wait, and ends that need no attempt: cancelled, expired, due, rescheduled.

use super::accept::rank;
use super::{CHUNK, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
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

const FROM_BUFFER: &str = "-- unbuffer
DELETE FROM buffer WHERE run_id = $1 AND env = $2 RETURNING run_id, env, CAST(0 AS BIGINT) AS epoch, CAST(0 AS BIGINT) AS attempts";
const FROM_READY: &str = "-- unready
DELETE FROM ready WHERE run_id = $1 AND env = $2 RETURNING run_id, env, epoch, attempts";
/// A job has it, and it is in no batch; its pool counts it as failed.
const FROM_JOB: &str = "-- uncount_drawn
UPDATE runs SET state = 'cancelled', code = 'cancelled', finished_at = $3, env = NULL
WHERE id = $1 AND env = $2 AND state = 'queued' RETURNING id AS run_id, CAST($2 AS TEXT) AS env, epoch, attempts";
const UNCOUNT: &str = "-- count_cancelled
UPDATE pools SET queued = queued - 1, failed = failed + 1 WHERE name = (SELECT pool FROM runs WHERE id = $1)";
const ASK_JOB: &str = "-- ask_to_cancel_drawn
UPDATE runs SET cancel_requested = 1 WHERE id = $1 AND env = $2 AND state = 'running' RETURNING pool";
const ASK: &str = "-- ask_to_cancel
UPDATE leases SET cancel_requested = 1 WHERE run_id = $1 AND env = $2 RETURNING holder";
const STATE: &str = "-- record_state
SELECT state FROM run_records WHERE id = $1 AND env = $2";

const ASKED: &str = "-- cancels_asked
SELECT run_id FROM leases WHERE holder = $1 AND cancel_requested = 1";

/// Whoever else looks at the same time takes others; a run comes due once.
const DUE: &str = "-- come_due
WITH picked AS MATERIALIZED (SELECT {place} FROM ready WHERE due_at > 0 AND due_at <= $1
    ORDER BY due_at LIMIT $2{skip_locked})
UPDATE ready SET due_at = 0, since = CASE WHEN due_at > since THEN due_at ELSE since END
WHERE {picked}
RETURNING basin, lane";

const NEXT_DUE: &str = "-- next_due
SELECT due_at FROM ready WHERE due_at > 0 ORDER BY due_at LIMIT 1";

const EXPIRED_BUFFER: &str = "-- expired_buffer
WITH picked AS MATERIALIZED (SELECT {place} FROM buffer WHERE expires_at <= $1
    ORDER BY expires_at LIMIT $2{skip_locked})
DELETE FROM buffer WHERE {picked}
RETURNING run_id, env, CAST(0 AS BIGINT) AS epoch, CAST(0 AS BIGINT) AS attempts";
const EXPIRED_READY: &str = "-- expired_ready
WITH picked AS MATERIALIZED (SELECT {place} FROM ready WHERE expires_at <= $1 AND due_at = 0
    ORDER BY expires_at LIMIT $2{skip_locked})
DELETE FROM ready WHERE {picked}
RETURNING run_id, env, epoch, attempts";

const VERSION: &str = "-- record_version
SELECT version, accepted_at FROM run_records WHERE id = $1 AND env = $2";
const PATCH: &str = "-- patch_record
UPDATE run_records SET tags = COALESCE($3, tags), metadata = COALESCE($4, metadata), priority = COALESCE($5, priority),
    not_before = COALESCE($6, not_before), version = version + 1
WHERE id = $1 AND env = $7 AND version = COALESCE($2, version)
RETURNING version";
const MOVE_BUFFER: &str = "-- reschedule_buffer
UPDATE buffer SET due_at = $2 WHERE run_id = $1 AND env = $3 AND due_at > 0";
const MOVE_READY: &str = "-- reschedule_ready
UPDATE ready SET due_at = $2 WHERE run_id = $1 AND env = $3 AND due_at > 0 AND attempts = 0";
const RERANK_BUFFER: &str = "-- rerank_buffer
UPDATE buffer SET rank = $2 WHERE run_id = $1 AND env = $3";
const RERANK_READY: &str = "-- rerank_ready
UPDATE ready SET rank = $2 WHERE run_id = $1 AND env = $3";
const RERANK_LEASE: &str = "-- rerank_lease
UPDATE leases SET rank = $2 WHERE run_id = $1 AND env = $3";

/// A run that has just left the place where it waited, with what it has used up.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Gone {
    run_id: String,
    env: String,
    epoch: i64,
    attempts: i64,
}

/// Why a run ended that waited.
fn why(state: RunState, attempts: i64) -> &'static str {
    match (state, attempts) {
        (RunState::Expired, 0) => "it was not started within its time to live",
        (RunState::Expired, _) => "it was not tried again within its time to live",
        (_, 0) => "cancelled before it was started",
        (_, _) => "cancelled while it waited for its next try",
    }
}

/// Ends runs that have just left the table in which they waited.
macro_rules! end_waiting {
    ($tx:ident, $Db:ty, $gone:expr, $state:expr, $now:expr) => {{
        let gone: &[Gone] = $gone;
        let mut update = QueryBuilder::<$Db>::new("WITH gone (run_id, env, epoch, attempts, reason) AS (");
        update.push_values(gone, |mut row, run| {
            row.push_bind(run.run_id.as_str())
                .push_bind(run.env.as_str())
                .push_bind(run.epoch)
                .push_bind(run.attempts)
                .push_bind(why($state, run.attempts));
        });
        update.push(") UPDATE run_records SET state = ").push_bind($state.word());
        update.push(", code = ").push_bind($state.word()).push(", finished_at = ").push_bind($now.millis());
        update.push(
            ", reason = gone.reason, epoch = gone.epoch, attempts = gone.attempts
            FROM gone
            WHERE run_records.env = gone.env AND run_records.id = gone.run_id AND run_records.state = 'open'",
        );
        let changed = update.build().persistent(false).execute(&mut *$tx).await?.rows_affected();
        if changed != gone.len() as u64 {
            let id = gone.first().map(|run| run.run_id.clone()).unwrap_or_default();
            return Err(StoreError::Moved { entity: "run", id, now: "ended, though it waited".to_owned() });
        }
        let mut insert = QueryBuilder::<$Db>::new("INSERT INTO unsuccessful (run_id, env, state) ");
        insert.push_values(gone, |mut row, run| {
            row.push_bind(run.run_id.as_str()).push_bind(run.env.as_str()).push_bind($state.word());
        });
        insert.build().persistent(false).execute(&mut *$tx).await?;
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
        let cancelled = in_tx!(self, |tx| {
            let mut waited: Option<Gone> = None;
            // In the order in which a run goes through them, so that one that moves meanwhile is met.
            for sql in [FROM_BUFFER, FROM_READY] {
                if waited.is_none() {
                    waited = sqlx::query_as(sql).bind(run.as_str()).bind(env).fetch_optional(&mut *tx).await?;
                }
            }
            if waited.is_none() {
                waited = sqlx::query_as(FROM_JOB)
                    .bind(run.as_str())
                    .bind(env)
                    .bind(now.millis())
                    .fetch_optional(&mut *tx)
                    .await?;
                if waited.is_some() {
                    sqlx::query(UNCOUNT).bind(run.as_str()).execute(&mut *tx).await?;
                    reached(Failpoint::CancelDrawnOpen);
                }
            }
            if let Some(gone) = waited {
                end_waiting!(tx, Db, std::slice::from_ref(&gone), RunState::Cancelled, now);
                Some(Cancelled::AtOnce)
            } else {
                let mut holder: Option<String> = None;
                for sql in [ASK_JOB, ASK] {
                    if holder.is_none() {
                        holder = sqlx::query_scalar(sql).bind(run.as_str()).bind(env).fetch_optional(&mut *tx).await?;
                    }
                }
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
        let due: Option<i64> = on_pool!(self, |pool| sqlx::query_scalar(NEXT_DUE).fetch_optional(pool).await?);
        if due.is_none_or(|due| due > now.millis()) {
            return Ok(Vec::new());
        }
        Ok(in_tx!(self, |tx| {
            sqlx::query_as(self.render(DUE)).bind(now.millis()).bind(limit).fetch_all(&mut *tx).await?
        }))
    }

    /// Ends runs that have waited longer than they were to, at most `limit` in each table; returns how many.
    pub async fn expire_runs(&self, now: Timestamp, limit: i64) -> Result<u64, StoreError> {
        let mut expired = 0;
        for sql in [EXPIRED_BUFFER, EXPIRED_READY] {
            let gone = in_tx!(self, |tx| {
                let gone: Vec<Gone> =
                    sqlx::query_as(self.render(sql)).bind(now.millis()).bind(limit).fetch_all(&mut *tx).await?;
                for part in gone.chunks(CHUNK) {
                    end_waiting!(tx, Db, part, RunState::Expired, now);
                    reached(Failpoint::ExpireOpen);
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
        let texts = [patch.tags.as_deref(), patch.metadata.as_deref()];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(StoreError::NulInText { entity: "run", id: run.to_string() });
        }
        // A time before all times is the earliest that waits for its turn.
        let due = patch.not_before.map(|time| time.millis().max(1));
        let patched = in_tx!(self, |tx| {
            let found: Option<(i64, i64)> =
                sqlx::query_as(VERSION).bind(run.as_str()).bind(env).fetch_optional(&mut *tx).await?;
            let Some((current, accepted_at)) = found else { return Ok(Patched::NotFound) };
            if version.is_some_and(|version| version != current) {
                return Ok(Patched::VersionIs(current));
            }
            // First the place where it is held and then its record, as whoever ends it: nobody waits in a circle.
            if let Some(due) = due {
                let mut moved = 0;
                for sql in [MOVE_BUFFER, MOVE_READY] {
                    moved += sqlx::query(sql)
                        .bind(run.as_str())
                        .bind(due)
                        .bind(env)
                        .execute(&mut *tx)
                        .await?
                        .rows_affected();
                }
                if moved == 0 {
                    return Ok(Patched::NotDelayed);
                }
            }
            if let Some(priority) = patch.priority {
                let place = rank(accepted_at, priority);
                // Twice where a try that ends puts it back meanwhile.
                for sql in [RERANK_BUFFER, RERANK_READY, RERANK_LEASE, RERANK_READY] {
                    let done = sqlx::query(sql).bind(run.as_str()).bind(place).bind(env).execute(&mut *tx).await?;
                    if done.rows_affected() > 0 {
                        break;
                    }
                }
            }
            let patched: Option<i64> = sqlx::query_scalar(PATCH)
                .bind(run.as_str())
                .bind(version)
                .bind(patch.tags.as_deref())
                .bind(patch.metadata.as_deref())
                .bind(patch.priority)
                .bind(due)
                .bind(env)
                .fetch_optional(&mut *tx)
                .await?;
            let Some(version) = patched else {
                let (current, _): (i64, i64) =
                    sqlx::query_as(VERSION).bind(run.as_str()).bind(env).fetch_one(&mut *tx).await?;
                return Ok(Patched::VersionIs(current));
            };
            Patched::Done { version }
        });
        Ok(patched)
    }
}
