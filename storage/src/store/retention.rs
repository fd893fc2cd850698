//! What goes besides ended runs, once it is older than anybody wants to keep: sessions that are closed, and ended jobs
//! over runs that came in over HTTP. Each go is one transaction and bounded, and goes on where the last one ended.
//! Never: a job that was read from a file; what it brought is its owner's.

use super::{CHUNK, Retained, Store, expect_one, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::Timestamp;
use sqlx::QueryBuilder;
use std::time::Duration;

/// Jobs that one go looks at.
const JOBS: i64 = 100;
/// The cap of a day counts what its batches cost (`spent_since`), and `keep_runs_days` may be less than a day: jobs are
/// kept for a whole one all the same, and an hour more for whoever has read the clock before midnight.
const WHILE_A_DAY_COUNTS: Duration = Duration::from_secs(25 * 3_600);

const PLACE: &str = "-- sweep_place
SELECT at, id FROM sweep_places WHERE walk = $1";

const SET_PLACE: &str = "-- set_sweep_place
INSERT INTO sweep_places (walk, at, id) VALUES ($1, $2, $3)
ON CONFLICT (walk) DO UPDATE SET at = excluded.at, id = excluded.id";

/// With the number of their events.
const CLOSED: &str = "-- closed_sessions
SELECT moved_at, id, seq FROM sessions WHERE state = 'closed' AND (moved_at, id) > ($1, $2)
ORDER BY moved_at, id LIMIT $3";

const ENDED: &str = "-- ended_jobs
SELECT finished_at, id FROM jobs WHERE task IS NOT NULL AND finished_at IS NOT NULL AND (finished_at, id) > ($1, $2)
ORDER BY finished_at, id LIMIT $3";

const HOLD: &str = "-- hold_ended_job
SELECT env, pool FROM jobs WHERE id = $1";

/// Open runs, live batches, and batches that ended later than the job did.
const BUSY: &str = "-- ended_job_is_busy
SELECT 1 FROM pools WHERE name = $1 AND queued + running > 0
UNION ALL SELECT 1 FROM batches WHERE pool = $1 AND finished_at IS NULL
UNION ALL SELECT 1 FROM batches WHERE pool = $1 AND finished_at >= $2 LIMIT 1";

const ROUNDS: &str = "-- rounds_to_drop
SELECT round FROM job_rounds WHERE job_id = $1 ORDER BY round LIMIT $2";
const DROP_ROUNDS: &str = "-- drop_rounds
DELETE FROM job_rounds WHERE job_id = $1 AND round <= $2";

const RUNS: &str = "-- runs_to_drop
SELECT seq, id FROM runs WHERE pool = $1 ORDER BY seq LIMIT $2";
const DROP_RUNS: &str = "-- drop_runs
DELETE FROM runs WHERE pool = $1 AND seq <= $2 AND finished_at IS NOT NULL";

const BATCH: &str = "-- batch_to_drop
SELECT b.id, EXISTS (SELECT 1 FROM strays s WHERE s.batch_id = b.id AND s.state = 'found') FROM batches b
WHERE b.pool = $1 ORDER BY b.round LIMIT 1";
const REQUESTS: &str = "-- requests_to_drop
SELECT batch_pos, run_id FROM attempts WHERE batch_id = $1 ORDER BY batch_pos LIMIT $2";
const DROP_REQUESTS: &str = "-- drop_requests
DELETE FROM attempts WHERE batch_id = $1 AND batch_pos <= $2";

/// Whoever looks for another batch at the provider has to know that this one is not it: otherwise it would be looked
/// into, and maybe taken for a duplicate.
const REMEMBER: &str = "-- remember_dropped_batch
INSERT INTO strays (account, provider_batch_id, batch_id, requests, state, found_at)
SELECT account, provider_batch_id, id, requests, 'foreign', $2 FROM batches b
WHERE id = $1 AND provider_batch_id IS NOT NULL AND EXISTS (SELECT 1 FROM batches o
    WHERE o.account = b.account AND (o.create_no > 1 OR o.state IN ('submitting', 'unknown')))
ON CONFLICT (account, provider_batch_id) DO NOTHING";

/// A batch and a job go together with their logs, which are short: each is the fold of its events.
const DROP_BATCH_LOG: &str = "-- drop_batch_log
DELETE FROM batch_events WHERE batch_id = $1";
const DROP_BATCH: &str = "-- drop_batch
DELETE FROM batches WHERE id = $1 AND finished_at IS NOT NULL";
const DROP_JOB_LOG: &str = "-- drop_job_log
DELETE FROM job_events WHERE job_id = $1";
const DROP_POOL: &str = "-- drop_pool
DELETE FROM pools WHERE name = $1";
const DROP_JOB: &str = "-- drop_job
DELETE FROM jobs WHERE id = $1 AND task IS NOT NULL AND finished_at IS NOT NULL";

/// How far a go came with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleared {
    Gone,
    /// The go has done what it may; the next one goes on with this job.
    Part,
    /// Something that is kept needs it still.
    Kept,
}

/// Where a walk has come to. The beginning is before all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    at: i64,
    id: String,
}

impl Place {
    fn beginning() -> Place {
        Place { at: i64::MIN, id: String::new() }
    }
}

/// A statement over ids that come after `$head`.
macro_rules! over_ids {
    ($Db:ty, $head:expr, $ids:expr) => {{
        let mut sql = $head;
        let mut list = sql.separated(", ");
        for id in $ids {
            list.push_bind(id.as_str());
        }
        sql.push(")");
        sql
    }};
}

/// Whether one of these runs is kept: its record is there still, or another job has it. Then what the job knows of its
/// tries is kept too.
macro_rules! any_kept {
    ($tx:ident, $Db:ty, $env:expr, $pool:expr, $ids:expr) => {{
        let mut kept = false;
        for part in $ids.chunks(CHUNK) {
            let mut records = QueryBuilder::<$Db>::new("SELECT id FROM run_records WHERE env = ");
            records.push_bind($env).push(" AND id IN (");
            let mut elsewhere = QueryBuilder::<$Db>::new("SELECT id FROM runs WHERE pool <> ");
            elsewhere.push_bind($pool).push(" AND id IN (");
            for head in [records, elsewhere] {
                let mut look = over_ids!($Db, head, part);
                let found = look.build().persistent(false).fetch_optional(&mut *$tx).await?;
                kept |= found.is_some();
            }
        }
        kept
    }};
}

macro_rules! drop_of_runs {
    ($tx:ident, $Db:ty, $ids:expr, [$($head:literal),+]) => {
        for part in $ids.chunks(CHUNK) {
            for head in [$($head),+] {
                let mut delete = over_ids!($Db, QueryBuilder::<$Db>::new(head), part);
                delete.build().persistent(false).execute(&mut *$tx).await?;
            }
        }
    };
}

/// The rounds first: a job without them is being cleared away.
macro_rules! drop_rounds {
    ($tx:ident, $job:expr, $left:ident) => {{
        let rounds: Vec<i64> = sqlx::query_scalar(ROUNDS).bind($job).bind($left).fetch_all(&mut *$tx).await?;
        if let Some(last) = rounds.last() {
            sqlx::query(DROP_ROUNDS).bind($job).bind(last).execute(&mut *$tx).await?;
        }
        $left -= rounds.len() as i64;
    }};
}

/// Runs with their bodies and results, each counted once; false when one of them is kept.
macro_rules! drop_runs {
    ($tx:ident, $Db:ty, $env:expr, $pool:expr, $left:ident) => {{
        let runs: Vec<(i64, String)> = sqlx::query_as(RUNS).bind($pool).bind($left).fetch_all(&mut *$tx).await?;
        let (seqs, ids): (Vec<i64>, Vec<String>) = runs.into_iter().unzip();
        let kept = any_kept!($tx, $Db, $env, $pool, ids);
        if let Some(last) = seqs.last().filter(|_| !kept) {
            drop_of_runs!(
                $tx,
                $Db,
                ids,
                ["DELETE FROM run_results WHERE run_id IN (", "DELETE FROM run_bodies WHERE run_id IN ("]
            );
            let gone = sqlx::query(DROP_RUNS).bind($pool).bind(last).execute(&mut *$tx).await?.rows_affected();
            expect_one(u64::from(gone == seqs.len() as u64), "run", &ids[0], "not ended")?;
            $left -= seqs.len() as i64;
        }
        !kept
    }};
}

/// Batches with their requests, one after the other; false when a run of one of them is kept.
macro_rules! drop_batches {
    ($tx:ident, $Db:ty, $env:expr, $pool:expr, $left:ident, $now:expr) => {
        loop {
            if $left <= 0 {
                break true;
            }
            let batch: Option<(String, bool)> = sqlx::query_as(BATCH).bind($pool).fetch_optional(&mut *$tx).await?;
            let Some((batch, has_duplicate)) = batch else { break true };
            let requests: Vec<(i64, String)> =
                sqlx::query_as(REQUESTS).bind(&batch).bind($left).fetch_all(&mut *$tx).await?;
            let (places, runs): (Vec<i64>, Vec<String>) = requests.into_iter().unzip();
            if has_duplicate || any_kept!($tx, $Db, $env, $pool, runs) {
                break false;
            }
            drop_of_runs!($tx, $Db, runs, ["DELETE FROM run_results WHERE run_id IN ("]);
            if let Some(last) = places.last() {
                sqlx::query(DROP_REQUESTS).bind(&batch).bind(last).execute(&mut *$tx).await?;
            }
            $left -= places.len() as i64;
            if $left <= 0 {
                break true;
            }
            sqlx::query(REMEMBER).bind(&batch).bind($now.millis()).execute(&mut *$tx).await?;
            sqlx::query(DROP_BATCH_LOG).bind(&batch).execute(&mut *$tx).await?;
            let gone = sqlx::query(DROP_BATCH).bind(&batch).execute(&mut *$tx).await?.rows_affected();
            expect_one(gone, "batch", &batch, "not ended")?;
            $left -= 1;
        }
    };
}

/// What a job has, children first, and the job itself last, as far as `$left` rows go.
macro_rules! clear_job {
    ($tx:ident, $Db:ty, $job:expr, $env:expr, $pool:expr, $left:ident, $now:expr) => {
        'clear: {
            drop_rounds!($tx, $job, $left);
            if $left <= 0 {
                break 'clear Cleared::Part;
            }
            if !drop_runs!($tx, $Db, $env, $pool, $left) {
                break 'clear Cleared::Kept;
            }
            if !drop_batches!($tx, $Db, $env, $pool, $left, $now) {
                break 'clear Cleared::Kept;
            }
            if $left <= 0 {
                break 'clear Cleared::Part;
            }
            sqlx::query(DROP_JOB_LOG).bind($job).execute(&mut *$tx).await?;
            sqlx::query(DROP_POOL).bind($pool).execute(&mut *$tx).await?;
            let gone = sqlx::query(DROP_JOB).bind($job).execute(&mut *$tx).await?.rows_affected();
            expect_one(gone, "job", $job, "not ended")?;
            $left -= 1;
            Cleared::Gone
        }
    };
}

macro_rules! set_place {
    ($tx:ident, $walk:expr, $place:expr) => {
        sqlx::query(SET_PLACE).bind($walk).bind($place.at).bind(&$place.id).execute(&mut *$tx).await?
    };
}

impl Store {
    /// Walks over the sessions that were closed before `before`, and deletes those that no run is left of, with their
    /// events; at most `limit` events, but a session at least. A session goes whole: until then it may be opened again.
    pub async fn retain_sessions(&self, before: Timestamp, limit: i64) -> Result<Retained, StoreError> {
        const WALK: &str = "sessions";
        let from = self.place_of(WALK).await?;
        let closed: Vec<(i64, String, i64)> = on_pool!(self, |pool| {
            sqlx::query_as(CLOSED).bind(from.at).bind(&from.id).bind(limit).fetch_all(pool).await?
        });
        let old = closed.iter().take_while(|(at, _, _)| *at < before.millis()).count();
        let mut events = 0;
        let fits = closed[..old].iter().take_while(|(_, _, own)| {
            events += own;
            events <= limit
        });
        let part = &closed[..fits.count().max(1).min(old)];
        let wrapped = part.len() == old && (old as i64) < limit;
        let to = match part.last() {
            Some((at, id, _)) if !wrapped => Place { at: *at, id: id.clone() },
            _ => Place::beginning(),
        };
        if part.is_empty() && to == from {
            return Ok(Retained { deleted: 0, wrapped });
        }
        let deleted = in_tx!(self, |tx| {
            let mut deleted = 0;
            for part in part.chunks(CHUNK) {
                let mut head = QueryBuilder::<Db>::new("DELETE FROM sessions WHERE state = 'closed' AND moved_at < ");
                head.push_bind(before.millis())
                    .push(" AND NOT EXISTS (SELECT 1 FROM run_records r WHERE r.session_id = sessions.id) AND id IN (");
                let mut delete = over_ids!(Db, head, part.iter().map(|(_, id, _)| id));
                delete.push(" RETURNING id");
                let gone: Vec<String> = delete.build_query_scalar().persistent(false).fetch_all(&mut *tx).await?;
                if !gone.is_empty() {
                    let head = QueryBuilder::<Db>::new("DELETE FROM session_events WHERE session_id IN (");
                    over_ids!(Db, head, &gone).build().persistent(false).execute(&mut *tx).await?;
                }
                deleted += gone.len() as u64;
            }
            if to != from {
                set_place!(tx, WALK, to);
            }
            if deleted > 0 {
                reached(Failpoint::RetentionSessionsOpen);
            }
            deleted
        });
        Ok(Retained { deleted, wrapped })
    }

    /// Walks over the served jobs that ended before `before` and clears away those that nothing needs any more, at most
    /// `limit` rows, each with what hangs on it. A large job takes several goes, and is there until the last one.
    pub async fn retain_jobs(&self, before: Timestamp, limit: i64, now: Timestamp) -> Result<Retained, StoreError> {
        const WALK: &str = "jobs";
        let before = before.min(now - WHILE_A_DAY_COUNTS);
        let from = self.place_of(WALK).await?;
        let ended: Vec<(i64, String)> = on_pool!(self, |pool| {
            sqlx::query_as(ENDED).bind(from.at).bind(&from.id).bind(JOBS).fetch_all(pool).await?
        });
        let ended: Vec<_> = ended.into_iter().take_while(|(at, _)| *at < before.millis()).collect();
        if ended.is_empty() && from == Place::beginning() {
            return Ok(Retained { deleted: 0, wrapped: true });
        }
        let (retained, changed) = in_tx!(self, |tx| {
            let (mut left, mut deleted, mut to) = (limit, 0, from.clone());
            let mut wrapped = (ended.len() as i64) < JOBS;
            for (at, id) in &ended {
                // Held to the end of the transaction: another node that does the same waits, and finds what is left.
                let hold = sqlx::AssertSqlSafe(format!("{HOLD}{FOR_UPDATE}"));
                let held: Option<(String, String)> = sqlx::query_as(hold).bind(id).fetch_optional(&mut *tx).await?;
                if let Some((env, pool)) = held {
                    let busy: Option<i32> =
                        sqlx::query_scalar(BUSY).bind(&pool).bind(before.millis()).fetch_optional(&mut *tx).await?;
                    let cleared = match busy {
                        Some(_) => Cleared::Kept,
                        None => clear_job!(tx, Db, id, &env, &pool, left, now),
                    };
                    if cleared == Cleared::Part {
                        wrapped = false;
                        break;
                    }
                    deleted += u64::from(cleared == Cleared::Gone);
                }
                to = Place { at: *at, id: id.clone() };
            }
            if wrapped {
                to = Place::beginning();
            }
            if to != from {
                set_place!(tx, WALK, to);
            }
            if left < limit {
                reached(Failpoint::RetentionJobOpen);
            }
            (Retained { deleted, wrapped }, left < limit)
        });
        if changed {
            reached(Failpoint::RetentionJobStored);
        }
        Ok(retained)
    }

    async fn place_of(&self, walk: &str) -> Result<Place, StoreError> {
        let place: Option<(i64, String)> =
            on_pool!(self, |pool| sqlx::query_as(PLACE).bind(walk).fetch_optional(pool).await?);
        Ok(place.map_or_else(Place::beginning, |(at, id)| Place { at, id }))
    }
}
