//! Queues: what waits in each, and whether it is paused. A queue is there as soon as a run names it.

use super::{Pools, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{Lane, Timestamp};
use crate::store::dispatch::LaneHead;
use sqlx::SqlitePool;
use std::collections::BTreeMap;

/// A queue of an env as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueRow {
    pub name: String,
    pub queued: i64,
    pub delayed: i64,
    pub running: i64,
    /// When the oldest that may start became ready.
    pub oldest_at: Option<Timestamp>,
    pub paused_at: Option<Timestamp>,
    /// What jobs have of it beside that; `None` in all queues of an env that has too much of it to be counted.
    pub in_jobs: Option<InJobs>,
}

/// Runs that wait for no worker and that none carries out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InJobs {
    pub queued: i64,
    pub running: i64,
}

const READY: &str = "-- queue_depths
SELECT lane, CAST(SUM(CASE WHEN due_at = 0 THEN 1 ELSE 0 END) AS BIGINT), CAST(SUM(CASE WHEN due_at = 0 THEN 0 ELSE 1 END) AS BIGINT),
    MIN(CASE WHEN due_at = 0 THEN since END)
FROM ready WHERE env = $1 GROUP BY lane";

/// All that waits of a queue, whoever's it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueTotal {
    pub queue: String,
    pub waiting: i64,
    /// When the first of them began to wait.
    pub oldest_at: Option<Timestamp>,
}

/// A walk along one index, and one look for each lane.
const READY_BY_LANE: &str = "-- ready_by_lane
SELECT g.lane, g.entries, (SELECT r.since FROM ready r WHERE r.due_at = 0 AND r.basin = g.basin AND r.lane = g.lane
    ORDER BY r.rank, r.run_id LIMIT 1) AS oldest
FROM (SELECT basin, lane, COUNT(*) AS entries FROM ready WHERE due_at = 0 GROUP BY basin, lane) AS g";
const BUFFERED_BY_LANE: &str = "-- buffered_by_lane
SELECT lane, COUNT(*) AS entries, MIN(accepted_at) AS oldest FROM buffer WHERE parked IS NULL AND due_at = 0
GROUP BY lane";

const RUNNING: &str = "-- queue_running
SELECT lane, COUNT(*) FROM leases WHERE env = $1 GROUP BY lane";

/// What jobs have and has not ended, so that it grows with no history. Each record is looked up by itself, whatever
/// the database believes about the size of its tables.
const COUNT_IN_JOBS: &str = "-- queue_in_jobs
SELECT queue, CAST(SUM(CASE WHEN state = 'queued' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(SUM(CASE WHEN state = 'running' THEN 1 ELSE 0 END) AS BIGINT)
FROM (SELECT j.state, (SELECT d.queue FROM run_records d WHERE d.env = j.env AND d.id = j.id) AS queue
    FROM runs j WHERE j.env = $1 LIMIT $2) AS found
GROUP BY queue";
const COUNT_DRAWN: &str = "-- drawn_of_env
SELECT COUNT(*) FROM (SELECT 1 FROM runs WHERE env = $1 LIMIT $2) AS found";
/// So many of an env are looked up, one by one, and no more.
const IN_JOBS_MAX: i64 = 50_000;

const KNOWN: &str = "-- known_queues
SELECT name, paused_at FROM queues WHERE env = $1";

const PAUSED: &str = "-- paused_queues
SELECT env, name FROM queues WHERE paused_at IS NOT NULL";

const PAUSE: &str = "-- pause_queue
INSERT INTO queues (env, name, paused_at) VALUES ($1, $2, $3)
ON CONFLICT (env, name) DO UPDATE SET paused_at = CASE WHEN excluded.paused_at IS NULL THEN NULL
    ELSE COALESCE(queues.paused_at, excluded.paused_at) END";

/// Counting stops at the bound, so that a full env costs no more than an empty one.
const WAITING_BUFFERED: &str = "-- waiting_buffered
SELECT COUNT(*) FROM (SELECT 1 FROM buffer WHERE env = $1 AND parked IS NULL LIMIT $2) AS held";
const WAITING_READY: &str = "-- waiting_ready
SELECT COUNT(*) FROM (SELECT 1 FROM ready WHERE env = $1 LIMIT $2) AS waiting";
const WAITING_SLICE: &str = "-- waiting_slice
SELECT COUNT(*), MAX(run_id) FROM (SELECT run_id FROM ready WHERE env = $1 AND run_id > $2
    ORDER BY run_id LIMIT $3) AS waiting";
/// Rows that are counted at a time on SQLite: while it reads, its log is not written back and grows.
const SLICE: i64 = 20_000;

/// From a rank on, for what lies before it and is gone would be walked over.
const WAITING_IN_LANE: &str = "-- waiting_in_lane
SELECT COUNT(*) FROM (SELECT 1 FROM ready WHERE due_at = 0 AND basin = $1 AND lane = $2 AND rank >= $3
    ORDER BY rank, run_id LIMIT $4) AS waiting";

type Depth = (String, i64, i64, Option<i64>);

impl Store {
    /// All queues of an env that hold something or were paused, by name.
    pub async fn queues(&self, env: &str) -> Result<Vec<QueueRow>, StoreError> {
        let ready: Vec<Depth> = on_pool!(self, |pool| sqlx::query_as(READY).bind(env).fetch_all(pool).await?);
        let running: Vec<(String, i64)> =
            on_pool!(self, |pool| sqlx::query_as(RUNNING).bind(env).fetch_all(pool).await?);
        let in_jobs = self.in_jobs(env).await?;
        let known: Vec<(String, Option<i64>)> =
            on_pool!(self, |pool| sqlx::query_as(KNOWN).bind(env).fetch_all(pool).await?);
        let mut queues: BTreeMap<String, QueueRow> = BTreeMap::new();
        let row = |queues: &mut BTreeMap<String, QueueRow>, name: &str, change: &mut dyn FnMut(&mut QueueRow)| {
            let row = queues.entry(name.to_owned()).or_default();
            row.name = name.to_owned();
            change(row);
        };
        for (lane, queued, delayed, oldest) in ready {
            row(&mut queues, Lane::from_text(lane).queue(), &mut |row| {
                row.queued += queued;
                row.delayed += delayed;
                let oldest = oldest.map(Timestamp::from_millis);
                row.oldest_at = [row.oldest_at, oldest].into_iter().flatten().min();
            });
        }
        for (lane, count) in running {
            row(&mut queues, Lane::from_text(lane).queue(), &mut |row| row.running += count);
        }
        for (name, paused_at) in known {
            row(&mut queues, &name, &mut |row| row.paused_at = paused_at.map(Timestamp::from_millis));
        }
        if let Some(in_jobs) = in_jobs {
            for name in in_jobs.keys() {
                row(&mut queues, name, &mut |_| ());
            }
            for (name, row) in &mut queues {
                row.in_jobs = Some(in_jobs.get(name).copied().unwrap_or_default());
            }
        }
        Ok(queues.into_values().collect())
    }

    /// What jobs have of each queue of an env, if it is not too much.
    async fn in_jobs(&self, env: &str) -> Result<Option<BTreeMap<String, InJobs>>, StoreError> {
        let drawn: i64 = on_pool!(self, |pool| {
            sqlx::query_scalar(COUNT_DRAWN).bind(env).bind(IN_JOBS_MAX + 1).fetch_one(pool).await?
        });
        if drawn > IN_JOBS_MAX {
            return Ok(None);
        }
        let counts: Vec<(String, i64, i64)> =
            on_pool!(self, |pool| sqlx::query_as(COUNT_IN_JOBS).bind(env).bind(IN_JOBS_MAX).fetch_all(pool).await?);
        Ok(Some(counts.into_iter().map(|(name, queued, running)| (name, InJobs { queued, running })).collect()))
    }

    /// What may be claimed of each queue, over all envs, the fullest first. Walks over all of it.
    pub async fn ready_totals(&self) -> Result<Vec<QueueTotal>, StoreError> {
        Ok(totals(on_pool!(self, |pool| sqlx::query_as(READY_BY_LANE).fetch_all(pool).await?)))
    }

    /// What waits in the buffer of each queue and need not wait for its time.
    pub async fn buffered_totals(&self) -> Result<Vec<QueueTotal>, StoreError> {
        Ok(totals(on_pool!(self, |pool| sqlx::query_as(BUFFERED_BY_LANE).fetch_all(pool).await?)))
    }

    /// Pauses a queue from `since`, or lets it go on with `None`. What is under way goes on to its end.
    pub async fn pause_queue(&self, env: &str, name: &str, since: Option<Timestamp>) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(PAUSE).bind(env).bind(name).bind(since.map(Timestamp::millis)).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The `(env, queue)` pairs that are paused.
    pub async fn paused_queues(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(PAUSED).fetch_all(pool).await?))
    }

    /// How many runs of a lane may start, of this rank or later, counted up to `bound`.
    pub async fn ready_in_lane(&self, from: &LaneHead, bound: i64) -> Result<i64, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_scalar(WAITING_IN_LANE)
                .bind(from.basin.as_str())
                .bind(from.lane.as_str())
                .bind(from.rank)
                .bind(bound)
                .fetch_one(pool)
                .await?
        }))
    }

    /// How many runs of an env wait, but for parked ones; counted up to about `bound`.
    pub async fn waiting_of_env(&self, env: &str, bound: i64) -> Result<i64, StoreError> {
        let buffered: i64 = on_pool!(self, |pool| {
            sqlx::query_scalar(WAITING_BUFFERED).bind(env).bind(bound).fetch_one(pool).await?
        });
        let left = (bound - buffered).max(0);
        let ready = match &self.inner.pools {
            Pools::Postgres { pool, .. } => {
                sqlx::query_scalar(WAITING_READY).bind(env).bind(left).fetch_one(pool).await?
            }
            Pools::Sqlite { readers, .. } => count_in_slices(readers, env, left).await?,
        };
        Ok(buffered + ready)
    }
}

fn totals(lanes: Vec<(String, i64, Option<i64>)>) -> Vec<QueueTotal> {
    let mut queues: BTreeMap<String, QueueTotal> = BTreeMap::new();
    for (lane, entries, oldest) in lanes {
        let queue = Lane::from_text(lane).queue().to_owned();
        let total = queues.entry(queue.clone()).or_insert_with(|| QueueTotal { queue, ..QueueTotal::default() });
        total.waiting += entries;
        total.oldest_at = [total.oldest_at, oldest.map(Timestamp::from_millis)].into_iter().flatten().min();
    }
    let mut totals: Vec<QueueTotal> = queues.into_values().collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.waiting));
    totals
}

async fn count_in_slices(readers: &SqlitePool, env: &str, bound: i64) -> Result<i64, StoreError> {
    let (mut counted, mut after) = (0, String::new());
    while counted < bound {
        let slice = SLICE.min(bound - counted);
        let (found, last): (i64, Option<String>) =
            sqlx::query_as(WAITING_SLICE).bind(env).bind(&after).bind(slice).fetch_one(readers).await?;
        counted += found;
        match last {
            Some(last) if found == slice => after = last,
            _ => break,
        }
    }
    Ok(counted)
}
