//! Finds and mends what contradicts the model: runs that no place holds or that one holds too long, and output of
//! nobody. No transaction of this program leaves such a thing; a hand in the database does, or an older version.

use super::draw::end_drawn;
use super::sweeps::{CURSOR, SET_CURSOR};
use super::{CHUNK, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Basin, Lane, RunId, Timestamp};
use crate::store::accept::rank;
use sqlx::QueryBuilder;
use std::collections::HashSet;

/// What is wrong with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has not ended, and nothing that could carry it out holds it.
    Nowhere,
    /// Its request has ended in its pool, and it has not.
    EndedInPool,
    /// It has ended, and something still holds it to carry it out.
    StillHeld,
}

impl Fault {
    pub const fn word(self) -> &'static str {
        match self {
            Fault::Nowhere => "held by nothing",
            Fault::EndedInPool => "ended in its pool only",
            Fault::StillHeld => "held after its end",
        }
    }

    fn from_word(word: &str) -> Option<Fault> {
        [Fault::Nowhere, Fault::EndedInPool, Fault::StillHeld].into_iter().find(|fault| fault.word() == word)
    }
}

/// A run that something is wrong with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faulty {
    pub run: RunId,
    pub env: String,
    pub fault: Fault,
}

/// Part of a walk, and where the next part begins; `None` at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<T> {
    pub found: Vec<T>,
    pub next: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Left {
    task: String,
    queue: String,
    concurrency_key: String,
    priority: i64,
    accepted_at: i64,
    expires_at: Option<i64>,
    max_attempts: i64,
    max_duration_ms: i64,
    epoch: i64,
    tries: i64,
}

/// Divides the env from the run in a place of a walk; no env has it in its name.
const DIVIDER: char = ' ';
/// Look-ups that one part of the walk over output takes, one for each env and run.
const LOOK_UPS: i64 = 10_000;

/// What is wrong with one run, in one statement: what moves between two places does so in one transaction.
macro_rules! fault {
    () => {
        "CASE WHEN d.state = 'open' THEN CASE
            WHEN (SELECT 1 FROM ready p WHERE p.env = d.env AND p.run_id = d.id) = 1 THEN ''
            WHEN (SELECT 1 FROM leases p WHERE p.run_id = d.id) = 1 THEN ''
            WHEN (SELECT 1 FROM buffer p WHERE p.run_id = d.id) = 1 THEN ''
            ELSE COALESCE((SELECT CASE WHEN p.finished_at IS NULL THEN '' ELSE 'ended in its pool only' END
                FROM runs p WHERE p.id = d.id AND p.env = d.env), 'held by nothing') END
        ELSE CASE
            WHEN (SELECT 1 FROM ready p WHERE p.env = d.env AND p.run_id = d.id) = 1
                OR (SELECT 1 FROM leases p WHERE p.run_id = d.id) = 1
                OR (SELECT 1 FROM buffer p WHERE p.run_id = d.id) = 1 THEN 'held after its end'
            ELSE '' END END"
    };
}

const WALK: &str = concat!(
    "-- fault_walk\nSELECT d.env, d.id, ",
    fault!(),
    " FROM run_records d WHERE (d.env, d.id) > ($1, $2) ORDER BY d.env, d.id LIMIT $3"
);

const AGAIN: &str = concat!("-- fault_again\nSELECT ", fault!(), " FROM run_records d WHERE d.env = $1 AND d.id = $2");

const HOLD: &str = "-- hold_record
SELECT 1 FROM run_records WHERE env = $1 AND id = $2";

/// Tries that were given back do not count.
const LEFT: &str = "-- left_of_run
SELECT d.task, d.queue, d.concurrency_key, d.priority, d.accepted_at, d.expires_at, d.max_attempts, d.max_duration_ms,
    (SELECT COALESCE(MAX(a.epoch), 0) FROM attempts a WHERE a.run_id = d.id) AS epoch,
    (SELECT COUNT(*) FROM attempts a WHERE a.run_id = d.id AND a.state <> 'declined') AS tries
FROM run_records d WHERE d.env = $1 AND d.id = $2";

/// If somebody carries it out after all, then under the epoch that follows its past ones. A lease of that epoch which
/// has lapsed already leads on from there as from any other carrier that is gone.
const LEASE_LAPSED: &str = "-- lease_lapsed
INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts, max_duration_ms,
    since, holder, token, lease_until, leased_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'nobody', 'nobody', 0, $12)";

const LET_GO: [&str; 3] = [
    "DELETE FROM ready WHERE run_id = $1 AND env = $2",
    "DELETE FROM leases WHERE run_id = $1 AND env = $2",
    "DELETE FROM buffer WHERE run_id = $1 AND env = $2",
];

/// Envs by an index, one look-up for each, counted to a limit.
const ENVS: &str = "-- envs_of_runs
WITH RECURSIVE e (env, nth) AS (
    SELECT (SELECT MIN(env) FROM run_records), 1
    UNION ALL SELECT (SELECT MIN(r.env) FROM run_records r WHERE r.env > e.env), e.nth + 1 FROM e
    WHERE e.env IS NOT NULL AND e.nth < $1)
SELECT env FROM e WHERE env IS NOT NULL";

/// Runs that have output, by an index, one look-up for each.
const WITH_OUTPUT: &str = "-- runs_with_output
WITH RECURSIVE o (run_id, nth) AS (
    SELECT (SELECT MIN(run_id) FROM output_chunks WHERE run_id > $1), 1
    UNION ALL SELECT (SELECT MIN(c.run_id) FROM output_chunks c WHERE c.run_id > o.run_id), o.nth + 1 FROM o
    WHERE o.run_id IS NOT NULL AND o.nth < $2)
SELECT run_id FROM o WHERE run_id IS NOT NULL";

const DROP_OUTPUT: [&str; 2] =
    ["DELETE FROM output_chunks WHERE run_id IN (", "DELETE FROM output_ends WHERE run_id IN ("];

impl Store {
    /// Walks over the next `limit` runs after a place, and finds those that something is wrong with.
    pub async fn faulty_runs(&self, after: &str, limit: i64) -> Result<Part<Faulty>, StoreError> {
        let (env, run) = after.split_once(DIVIDER).unwrap_or_default();
        let rows: Vec<(String, String, String)> =
            on_pool!(self, |pool| sqlx::query_as(WALK).bind(env).bind(run).bind(limit).fetch_all(pool).await?);
        let is_last = (rows.len() as i64) < limit;
        let next = rows.last().filter(|_| !is_last).map(|(env, run, _)| format!("{env}{DIVIDER}{run}"));
        let faulty = |(env, run, word): (String, String, String)| {
            Fault::from_word(&word).map(|fault| Faulty { run: RunId::from_text(run), env, fault })
        };
        Ok(Part { found: rows.into_iter().filter_map(faulty).collect(), next })
    }

    /// Mends one run, if it still has that fault: what has ended is ended everywhere, and what nothing holds is lost by a
    /// carrier that is gone, for the sweep to take back. `pull` tells whether a task is one of pull workers.
    pub async fn mend_run(
        &self,
        faulty: &Faulty,
        pull: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (env, run) = (faulty.env.as_str(), faulty.run.as_str());
        let mended = in_tx!(self, |tx| {
            let hold = format!("{HOLD}{FOR_UPDATE}");
            sqlx::query(sqlx::AssertSqlSafe(hold)).bind(env).bind(run).fetch_optional(&mut *tx).await?;
            // Only now: what it waited for has changed it.
            let word: Option<String> = sqlx::query_scalar(AGAIN).bind(env).bind(run).fetch_optional(&mut *tx).await?;
            let found = word.as_deref().and_then(Fault::from_word);
            if found != Some(faulty.fault) {
                return Ok(false);
            }
            match faulty.fault {
                Fault::EndedInPool => end_drawn!(tx, Db, vec![run]),
                Fault::StillHeld => {
                    for statement in LET_GO {
                        sqlx::query(statement).bind(run).bind(env).execute(&mut *tx).await?;
                    }
                }
                Fault::Nowhere => {
                    let left: Left = sqlx::query_as(LEFT).bind(env).bind(run).fetch_one(&mut *tx).await?;
                    let basin = if pull(&left.task) { Basin::pull(&left.task, env) } else { Basin::own(env) };
                    sqlx::query(LEASE_LAPSED)
                        .bind(run)
                        .bind(env)
                        .bind(basin.as_str())
                        .bind(Lane::new(&left.queue, &left.concurrency_key).as_str())
                        .bind(&left.task)
                        .bind(rank(left.accepted_at, left.priority))
                        .bind(left.expires_at)
                        .bind(left.epoch + 1)
                        .bind((left.tries + 1).min(left.max_attempts))
                        .bind(left.max_attempts)
                        .bind(left.max_duration_ms)
                        .bind(now.millis())
                        .execute(&mut *tx)
                        .await?;
                }
            }
            reached(Failpoint::MendOpen);
            true
        });
        Ok(mended)
    }

    /// Walks over the next runs that have output, and finds those that are no run of any env.
    pub async fn orphaned_output(&self, after: &str, limit: i64) -> Result<Part<RunId>, StoreError> {
        let envs: Vec<String> = on_pool!(self, |pool| sqlx::query_scalar(ENVS).bind(LOOK_UPS).fetch_all(pool).await?);
        let limit = limit.min(LOOK_UPS / i64::try_from(envs.len()).unwrap_or(i64::MAX).max(1)).max(1);
        let runs: Vec<String> =
            on_pool!(self, |pool| sqlx::query_scalar(WITH_OUTPUT).bind(after).bind(limit).fetch_all(pool).await?);
        let next = runs.last().filter(|_| runs.len() as i64 == limit).cloned();
        let recorded = self.recorded_among(&envs, &runs).await?;
        let orphans = runs.into_iter().filter(|run| !recorded.contains(run)).map(RunId::from_text);
        Ok(Part { found: orphans.collect(), next })
    }

    async fn recorded_among(&self, envs: &[String], runs: &[String]) -> Result<HashSet<String>, StoreError> {
        let mut recorded = HashSet::with_capacity(runs.len());
        for env in envs {
            for chunk in runs.chunks(CHUNK) {
                let found: Vec<String> = on_pool!(self, |pool| {
                    let mut select = QueryBuilder::<Db>::new("SELECT id FROM run_records WHERE env = ");
                    select.push_bind(env).push(" AND id IN (");
                    let mut ids = select.separated(", ");
                    for run in chunk {
                        ids.push_bind(run);
                    }
                    select.push(")");
                    select.build_query_scalar().persistent(false).fetch_all(pool).await?
                });
                recorded.extend(found);
            }
        }
        Ok(recorded)
    }

    /// Deletes what runs have left that are no runs any more. An id is never given twice, so that none comes back.
    pub async fn drop_output(&self, runs: &[RunId]) -> Result<(), StoreError> {
        if runs.is_empty() {
            return Ok(());
        }
        in_tx!(self, |tx| {
            for chunk in runs.chunks(CHUNK) {
                for statement in DROP_OUTPUT {
                    let mut delete = QueryBuilder::<Db>::new(statement);
                    let mut ids = delete.separated(", ");
                    for run in chunk {
                        ids.push_bind(run.as_str());
                    }
                    delete.push(")");
                    delete.build().persistent(false).execute(&mut *tx).await?;
                }
            }
            reached(Failpoint::DropOutputOpen);
        });
        Ok(())
    }

    /// Where a walk that goes on from pass to pass has come to; empty at its beginning.
    pub async fn walk_place(&self, kind: &str) -> Result<String, StoreError> {
        let place: Option<Option<String>> =
            on_pool!(self, |pool| sqlx::query_scalar(CURSOR).bind(kind).fetch_optional(pool).await?);
        Ok(place.flatten().unwrap_or_default())
    }

    pub async fn set_walk_place(&self, kind: &str, place: &str, now: Timestamp) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(SET_CURSOR)
                .bind(kind)
                .bind(now.millis())
                .bind(self.node().as_str())
                .bind(place)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
