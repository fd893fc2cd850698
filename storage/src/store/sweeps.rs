//! What the sweeps leave behind about themselves, and what they clear away: keys that hold no more, and ended runs that
//! are older than anybody wants to keep. Each go is bounded, whatever there is.

use super::{CHUNK, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::Timestamp;
use sqlx::QueryBuilder;

/// One kind of sweep, as it last went.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SweepRow {
    pub kind: String,
    pub last_at: i64,
    /// Milliseconds.
    pub took_ms: i64,
    /// What it did something about.
    pub found: i64,
    /// Everything that it has found since there is this store.
    pub found_in_all: i64,
    /// The node that did it.
    pub node: String,
}

/// How one pass of a kind went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepDone {
    pub kind: &'static str,
    pub took_ms: i64,
    pub found: i64,
}

/// Where a walk over ended runs has come to: after this env and run. The beginning is before all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionCursor {
    pub env: String,
    pub run: String,
}

/// What one go of the retention did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retained {
    pub deleted: u64,
    /// It has come to the end, and begins again.
    pub wrapped: bool,
}

const SWEEPS: &str = "-- sweeps
SELECT kind, last_at, took_ms, found, found_in_all, node FROM sweeps ORDER BY kind";

pub(super) const CURSOR: &str = "-- sweep_cursor
SELECT cursor FROM sweeps WHERE kind = $1";

pub(super) const SET_CURSOR: &str = "-- set_sweep_cursor
INSERT INTO sweeps (kind, last_at, took_ms, found, found_in_all, node, cursor) VALUES ($1, $2, 0, 0, 0, $3, $4)
ON CONFLICT (kind) DO UPDATE SET cursor = excluded.cursor";

const DROP_KEYS_SQLITE: &str = "-- drop_keys
DELETE FROM idempotency WHERE (env, key) IN (SELECT env, key FROM idempotency WHERE expires_at <= $1
    ORDER BY expires_at LIMIT $2)";

const DROP_KEYS_POSTGRES: &str = "-- drop_keys
DELETE FROM idempotency WHERE ctid = ANY(ARRAY(SELECT ctid FROM idempotency WHERE expires_at <= $1
    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const WALK: &str = "-- retention_walk
SELECT env, id, finished_at FROM run_records WHERE (env, id) > ($1, $2) ORDER BY env, id LIMIT $3";

/// What a run leaves besides its record. Attempts in batches belong to their batch.
const LEFT: [&str; 4] = [
    "DELETE FROM output_chunks WHERE run_id IN (",
    "DELETE FROM output_ends WHERE run_id IN (",
    "DELETE FROM unsuccessful WHERE run_id IN (",
    "DELETE FROM attempts WHERE batch_id IS NULL AND run_id IN (",
];

const RETENTION: &str = "retention";
/// Divides the env from the run in a cursor; no env has it in its name.
const DIVIDER: char = '\u{1f}';

impl Store {
    /// Every kind that has ever been done on this store.
    pub async fn sweeps(&self) -> Result<Vec<SweepRow>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(SWEEPS).fetch_all(pool).await?))
    }

    /// Keeps how passes went that ended by now.
    pub async fn record_sweeps(&self, done: &[SweepDone], now: Timestamp) -> Result<(), StoreError> {
        if done.is_empty() {
            return Ok(());
        }
        in_tx!(self, |tx| {
            let mut upsert = QueryBuilder::<Db>::new(
                "-- record_sweeps\nINSERT INTO sweeps (kind, last_at, took_ms, found, found_in_all, node) ",
            );
            upsert.push_values(done, |mut row, pass| {
                row.push_bind(pass.kind)
                    .push_bind(now.millis())
                    .push_bind(pass.took_ms)
                    .push_bind(pass.found)
                    .push_bind(pass.found)
                    .push_bind(self.node().as_str());
            });
            upsert.push(
                " ON CONFLICT (kind) DO UPDATE SET last_at = excluded.last_at, took_ms = excluded.took_ms,
                    found = excluded.found, node = excluded.node,
                    found_in_all = sweeps.found_in_all + excluded.found",
            );
            upsert.build().persistent(false).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Forgets idempotency keys that have expired, at most `limit`.
    pub async fn drop_expired_keys(&self, now: Timestamp, limit: i64) -> Result<u64, StoreError> {
        let drop_keys = if self.is_sqlite() { DROP_KEYS_SQLITE } else { DROP_KEYS_POSTGRES };
        Ok(in_tx!(self, |tx| {
            let dropped =
                sqlx::query(drop_keys).bind(now.millis()).bind(limit).execute(&mut *tx).await?.rows_affected();
            if dropped > 0 {
                reached(Failpoint::KeysOpen);
            }
            dropped
        }))
    }

    /// Walks over the next `limit` runs from where the last go ended, and deletes those with all that they left which
    /// ended before `before`. The place is kept with what is deleted, so that a walk that is broken off goes on there.
    pub async fn retain_runs(&self, before: Timestamp, limit: i64, now: Timestamp) -> Result<Retained, StoreError> {
        let from = self.retention_cursor().await?;
        let rows: Vec<(String, String, Option<i64>)> = on_pool!(self, |pool| {
            sqlx::query_as(WALK).bind(&from.env).bind(&from.run).bind(limit).fetch_all(pool).await?
        });
        let wrapped = (rows.len() as i64) < limit;
        let to = match rows.last() {
            Some((env, run, _)) if !wrapped => format!("{env}{DIVIDER}{run}"),
            _ => String::new(),
        };
        let old = |(env, run, ended): (String, String, Option<i64>)| {
            ended.is_some_and(|at| at < before.millis()).then_some((env, run))
        };
        let old: Vec<(String, String)> = rows.into_iter().filter_map(old).collect();
        if old.is_empty() && to.is_empty() && from == RetentionCursor::default() {
            return Ok(Retained { deleted: 0, wrapped });
        }
        let deleted = in_tx!(self, |tx| {
            let mut deleted = 0;
            for part in old.chunks(CHUNK) {
                for left in LEFT {
                    let mut delete = QueryBuilder::<Db>::new(left);
                    let mut ids = delete.separated(", ");
                    for (_, run) in part {
                        ids.push_bind(run.as_str());
                    }
                    delete.push(")");
                    delete.build().persistent(false).execute(&mut *tx).await?;
                }
                let mut delete =
                    QueryBuilder::<Db>::new("DELETE FROM run_records WHERE finished_at IS NOT NULL AND (env, id) IN (");
                delete.push_values(part, |mut pair, (env, run)| {
                    pair.push_bind(env.as_str()).push_bind(run.as_str());
                });
                delete.push(")");
                deleted += delete.build().persistent(false).execute(&mut *tx).await?.rows_affected();
            }
            sqlx::query(SET_CURSOR)
                .bind(RETENTION)
                .bind(now.millis())
                .bind(self.node().as_str())
                .bind(&to)
                .execute(&mut *tx)
                .await?;
            if deleted > 0 {
                reached(Failpoint::RetentionOpen);
            }
            deleted
        });
        Ok(Retained { deleted, wrapped })
    }

    /// Where the walk over ended runs goes on.
    pub async fn retention_cursor(&self) -> Result<RetentionCursor, StoreError> {
        let kept: Option<Option<String>> =
            on_pool!(self, |pool| sqlx::query_scalar(CURSOR).bind(RETENTION).fetch_optional(pool).await?);
        let kept = kept.flatten().unwrap_or_default();
        let (env, run) = kept.split_once(DIVIDER).unwrap_or_default();
        Ok(RetentionCursor { env: env.to_owned(), run: run.to_owned() })
    }
}
