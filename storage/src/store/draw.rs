//! Runs that came in over HTTP go into a job's pool and come back out of it: drawn when a round begins, each ended by
//! the transaction that settles its request, and given back when the job is over and has not carried them out.

use super::accept::rank;
use super::{CHUNK, Store, expect_one, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Basin, Draw, Epoch, JobId, Lane, RunId, Timestamp};
use sqlx::QueryBuilder;

/// A run's payload as a request to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dressed {
    pub pack: String,
    pub body: String,
    /// Most that one try of it can cost, in nano-dollars; `None` when that is not known.
    pub reserve_nanos: Option<i64>,
}

/// Makes requests of payloads, by run; `Err` says what is wrong with one.
pub type Dress<'a> = &'a (dyn Fn(&RunId, &str) -> Result<Dressed, String> + Sync);

/// What a draw brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawn {
    pub runs: u64,
    /// Those of them that are no request to any provider, and have failed by that.
    pub refused: Vec<RunId>,
}

/// What waits for a job, counted to a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Waiting {
    pub runs: i64,
    pub bytes: i64,
}

/// Where a walk over what waits has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingAt {
    lane: String,
    rank: i64,
    run: String,
}

impl Default for WaitingAt {
    fn default() -> WaitingAt {
        WaitingAt { lane: String::new(), rank: i64::MIN, run: String::new() }
    }
}

/// A waiting run, as a job of its scope would find it.
#[derive(Debug, Clone)]
pub struct WaitingRun {
    pub at: WaitingAt,
    pub payload: String,
}

#[derive(sqlx::FromRow)]
struct Taken {
    run_id: String,
    epoch: i64,
    attempts: i64,
    max_attempts: i64,
    payload: String,
}

#[derive(sqlx::FromRow)]
struct Left {
    id: String,
    epoch: i64,
    attempts: i64,
    task: String,
    queue: String,
    concurrency_key: String,
    priority: i64,
    accepted_at: i64,
    expires_at: Option<i64>,
    max_attempts: i64,
    max_duration_ms: i64,
}

const DRIVEN: &str = "-- draw_job
SELECT env FROM jobs WHERE id = $1 AND epoch = $2 AND state = 'running'";

/// Whether a run carries all tags of a list. PostgreSQL reads no JSON with an escaped NUL in it.
const TAGGED_SQLITE: &str = "($13 = '[]' OR NOT EXISTS (SELECT 1 FROM json_each($13) AS wanted WHERE NOT EXISTS
        (SELECT 1 FROM json_each(d.tags) AS tag WHERE tag.value = wanted.value)))";
const TAGGED_POSTGRES: &str = "CASE WHEN $13 = '[]' THEN true WHEN strpos(d.tags, '\\u0000') > 0 THEN false
        ELSE CAST(d.tags AS JSONB) @> CAST($13 AS JSONB) END";

/// In a lane's order. Paused queues are left alone; what has expired is for the sweeper.
macro_rules! drawable {
    () => {
        "FROM ready WHERE due_at = 0 AND basin = $1 AND (expires_at IS NULL OR expires_at > $2)
        AND (lane, rank, run_id) > ($7, $8, $9) AND EXISTS (SELECT 1 FROM run_records d WHERE d.env = ready.env AND d.id = ready.run_id
            AND d.accepted_at >= $3 AND d.accepted_at < $4 AND d.priority >= $12 AND ($5 = '' OR d.queue = $5)
            AND ($10 = '' OR d.session_id = $10) AND ($11 = '' OR d.concurrency_key = $11) AND {tagged}
            AND NOT EXISTS (SELECT 1 FROM queues q WHERE q.env = d.env AND q.name = d.queue AND q.paused_at IS NOT NULL))
        ORDER BY lane, rank, run_id LIMIT $6"
    };
}

/// Binds what that needs.
macro_rules! bind_drawable {
    ($sql:expr, $env:expr, $draw:expr, $after:expr, $limit:expr, $now:expr) => {
        sqlx::query_as($sql)
            .bind(Basin::pull(&$draw.task, $env).as_str().to_owned())
            .bind($now.millis())
            .bind($draw.since_ms.unwrap_or(i64::MIN))
            .bind($draw.until_ms.unwrap_or(i64::MAX))
            .bind($draw.queue.clone().unwrap_or_default())
            .bind($limit)
            .bind($after.lane.clone())
            .bind($after.rank)
            .bind($after.run.clone())
            .bind($draw.session_id.clone().unwrap_or_default())
            .bind($draw.concurrency_key.clone().unwrap_or_default())
            .bind($draw.priority_min.unwrap_or(i64::MIN))
            .bind(serde_json::Value::from($draw.tags.clone()).to_string())
    };
}

const TAKE: &str = concat!(
    "-- draw_runs
WITH picked AS MATERIALIZED (SELECT {place} ",
    drawable!(),
    "{skip_locked})
DELETE FROM ready WHERE {picked}
RETURNING run_id, epoch, attempts, max_attempts,
    (SELECT d.payload FROM run_records d WHERE d.env = ready.env AND d.id = ready.run_id) AS payload"
);

const WAITING: &str = concat!(
    "-- drawable_runs
SELECT COUNT(*) AS runs, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM (
    SELECT (SELECT OCTET_LENGTH(d.payload) FROM run_records d WHERE d.env = ready.env AND d.id = ready.run_id) AS bytes ",
    drawable!(),
    ") AS found"
);

/// Drawn for a round that was not opened yet; what is tried again is due in a later one.
const FRESH: &str = "-- fresh_in_pool
SELECT COUNT(*) AS runs, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM (
    SELECT bytes FROM runs WHERE pool = $1 AND state = 'queued' AND due_round = 0 LIMIT $2) AS found";

const PAYLOADS: &str = concat!(
    "-- drawable_payloads
SELECT lane, rank, run_id, (SELECT d.payload FROM run_records d WHERE d.env = ready.env AND d.id = ready.run_id) ",
    drawable!()
);

const LAST_SEQ: &str = "-- last_seq
SELECT seq FROM runs WHERE pool = $1 ORDER BY seq DESC LIMIT 1";

const COUNT_DRAWN: &str = "-- count_drawn
UPDATE pools SET total = total + $2 + $3, queued = queued + $2, failed = failed + $3 WHERE name = $1";

/// Each has ended with its request; what it leaves behind is the provider's line.
pub(super) const END_DRAWN: &str = "UPDATE run_records SET state = r.state, code = r.code, epoch = r.epoch,
    attempts = r.attempts, finished_at = r.finished_at, reason = CASE WHEN r.state = 'succeeded' THEN NULL
        ELSE 'the last answer to it was ' || COALESCE(r.code, r.state) END,
    started_at = (SELECT MIN(a.leased_at) FROM attempts a WHERE a.run_id = r.id),
    output = (SELECT x.line FROM run_results x WHERE x.run_id = r.id AND x.epoch = r.epoch)
FROM runs r WHERE run_records.env = r.env AND run_records.id = r.id AND run_records.state = 'open'
    AND r.finished_at IS NOT NULL AND r.id IN (";
pub(super) const END_UNSUCCESSFUL: &str = "INSERT INTO unsuccessful (run_id, env, state)
SELECT id, env, state FROM runs WHERE env IS NOT NULL AND state <> 'succeeded' AND finished_at IS NOT NULL AND id IN (";
pub(super) const LET_GO: &str =
    "UPDATE runs SET env = NULL WHERE env IS NOT NULL AND finished_at IS NOT NULL AND id IN (";

/// Ends the records of runs whose pool has just ended them, in the same transaction.
macro_rules! end_drawn {
    ($tx:ident, $Db:ty, $ids:expr) => {{
        let ids: Vec<&str> = $ids;
        if !ids.is_empty() {
            let mut changed = Vec::with_capacity(3);
            for sql in
                [$crate::store::draw::END_DRAWN, $crate::store::draw::END_UNSUCCESSFUL, $crate::store::draw::LET_GO]
            {
                let mut step = sqlx::QueryBuilder::<$Db>::new(sql);
                let mut list = step.separated(", ");
                for id in &ids {
                    list.push_bind(*id);
                }
                step.push(")");
                changed.push(step.build().persistent(false).execute(&mut *$tx).await?.rows_affected());
            }
            // Both or neither: a record that has moved on without its pool contradicts the model.
            $crate::store::expect_one(u64::from(changed[0] == changed[2]), "run", ids[0], "ended without its pool")?;
        }
    }};
}
pub(super) use end_drawn;

const OVER_WITH_RUNS: &str = "-- over_with_runs
SELECT p.name FROM pools p JOIN jobs j ON j.id = p.name
WHERE p.queued > 0 AND j.task IS NOT NULL AND j.state IN ('finished', 'cancelled', 'failed') ORDER BY p.name LIMIT $1";

const IS_OVER: &str = "-- is_over
SELECT COUNT(*) FROM jobs WHERE id = $1 AND state IN ('finished', 'cancelled', 'failed')";

const LEFT: &str = "-- left_in_pool
SELECT r.id, r.epoch, r.attempts, d.task, d.queue, d.concurrency_key, d.priority, d.accepted_at, d.expires_at,
    d.max_attempts, d.max_duration_ms
FROM runs r JOIN run_records d ON d.env = r.env AND d.id = r.id
WHERE r.pool = $1 AND r.state = 'queued' ORDER BY r.due_round, r.pack, r.seq LIMIT $2";

const COUNT_LEFT: &str = "-- count_left
UPDATE pools SET total = total - $2, queued = queued - $2, given_back = given_back + $2 WHERE name = $1";

const ENV_OF_POOL: &str = "-- env_of_pool
SELECT env FROM pools WHERE name = $1";

impl Store {
    fn drawable(&self, sql: &'static str) -> sqlx::AssertSqlSafe<String> {
        let tagged = if self.is_sqlite() { TAGGED_SQLITE } else { TAGGED_POSTGRES };
        self.render(&sql.replace("{tagged}", tagged))
    }

    /// Takes the first waiting runs of a job's scope into its pool, at most `limit`, if the job is running under this
    /// epoch; a run is drawn by one job (invariant 18). What is no request fails by that, and says so.
    pub async fn draw_runs(
        &self,
        (job, epoch): (&JobId, Epoch),
        draw: &Draw,
        dress: Dress<'_>,
        limit: i64,
        now: Timestamp,
    ) -> Result<Drawn, StoreError> {
        let drawn = in_tx!(self, |tx| {
            let sql = format!("{DRIVEN}{FOR_UPDATE}");
            let env: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .bind(job.as_str())
                .bind(epoch.number())
                .fetch_optional(&mut *tx)
                .await?;
            expect_one(u64::from(env.is_some()), "job", job.as_str(), "not driven by this node")?;
            let env = env.unwrap_or_default();
            let mut taken: Vec<Taken> =
                bind_drawable!(self.drawable(TAKE), &env, draw, &WaitingAt::default(), limit, now)
                    .fetch_all(&mut *tx)
                    .await?;
            if taken.is_empty() {
                return Ok(Drawn::default());
            }
            taken.sort_unstable_by(|a, b| a.run_id.cmp(&b.run_id));
            let last: Option<i64> = sqlx::query_scalar(LAST_SEQ).bind(job.as_str()).fetch_optional(&mut *tx).await?;
            let rows: Vec<_> = taken
                .iter()
                .zip(last.unwrap_or(0) + 1..)
                .map(|(taken, seq)| (taken, seq, dress(&RunId::from_text(taken.run_id.as_str()), &taken.payload)))
                .collect();
            let refused = rows.iter().filter(|(_, _, dressed)| dressed.is_err()).count() as i64;
            for chunk in rows.chunks(CHUNK) {
                let mut insert = QueryBuilder::<Db>::new(
                    "INSERT INTO runs (id, pool, seq, custom_id, pack, state, epoch, attempts, max_attempts, bytes,
                        reserve_nanos, accepted_at, env, code, finished_at) ",
                );
                insert.push_values(chunk, |mut row, (taken, seq, dressed)| {
                    let good = dressed.as_ref().ok();
                    row.push_bind(taken.run_id.as_str())
                        .push_bind(job.as_str())
                        .push_bind(seq)
                        .push_bind(taken.run_id.as_str())
                        .push_bind(good.map_or("", |good| good.pack.as_str()))
                        .push_bind(if good.is_some() { "queued" } else { "failed" })
                        .push_bind(taken.epoch)
                        .push_bind(taken.attempts)
                        .push_bind(taken.max_attempts)
                        .push_bind(i64::try_from(good.map_or(0, |good| good.body.len())).unwrap_or(i64::MAX))
                        .push_bind(good.and_then(|good| good.reserve_nanos))
                        .push_bind(now.millis())
                        .push_bind(env.as_str())
                        .push_bind(good.is_none().then_some("bad_request"))
                        .push_bind(good.is_none().then_some(now.millis()));
                });
                insert.build().persistent(false).execute(&mut *tx).await?;
                let mut bodies = QueryBuilder::<Db>::new("INSERT INTO run_bodies (run_id, body) ");
                bodies.push_values(chunk, |mut row, (taken, _, dressed)| {
                    let body = dressed.as_ref().map_or(taken.payload.as_str(), |good| good.body.as_str());
                    row.push_bind(taken.run_id.as_str()).push_bind(body);
                });
                bodies.build().persistent(false).execute(&mut *tx).await?;
                let bad = |(taken, _, dressed): &'_ (&Taken, i64, Result<Dressed, String>)| {
                    Some((taken.run_id.clone(), dressed.as_ref().err()?.clone()))
                };
                let bad: Vec<(String, String)> = chunk.iter().filter_map(bad).collect();
                end_drawn!(tx, Db, bad.iter().map(|(run, _)| run.as_str()).collect());
                if !bad.is_empty() {
                    let mut reasons = QueryBuilder::<Db>::new("UPDATE run_records SET reason = v.column2 FROM (");
                    reasons.push_values(&bad, |mut row, (run, why)| {
                        row.push_bind(run.as_str()).push_bind(why.as_str());
                    });
                    reasons.push(") AS v WHERE run_records.id = v.column1 AND run_records.env = ").push_bind(&env);
                    reasons.build().persistent(false).execute(&mut *tx).await?;
                }
            }
            let good = i64::try_from(rows.len()).unwrap_or(i64::MAX) - refused;
            sqlx::query(COUNT_DRAWN).bind(job.as_str()).bind(good).bind(refused).execute(&mut *tx).await?;
            reached(Failpoint::DrawOpen);
            let bad = rows.iter().filter(|(_, _, dressed)| dressed.is_err());
            Drawn {
                runs: rows.len() as u64,
                refused: bad.map(|(taken, _, _)| RunId::from_text(taken.run_id.as_str())).collect(),
            }
        });
        reached(Failpoint::DrawStored);
        Ok(drawn)
    }

    /// What a job of this scope would draw now, counted up to `most` runs.
    pub async fn waiting_for(&self, env: &str, draw: &Draw, most: i64, now: Timestamp) -> Result<Waiting, StoreError> {
        Ok(on_pool!(self, |pool| {
            bind_drawable!(self.drawable(WAITING), env, draw, &WaitingAt::default(), most, now).fetch_one(pool).await?
        }))
    }

    /// What a job has drawn and not tried yet, counted up to `most` runs.
    pub async fn fresh_in_pool(&self, job: &JobId, most: i64) -> Result<Waiting, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(FRESH).bind(job.as_str()).bind(most).fetch_one(pool).await?))
    }

    /// What a job of this scope would draw now, in its order after `after`, at most `limit`. Takes nothing.
    pub async fn waiting_payloads(
        &self,
        env: &str,
        draw: &Draw,
        after: &WaitingAt,
        limit: i64,
        now: Timestamp,
    ) -> Result<Vec<WaitingRun>, StoreError> {
        let found: Vec<(String, i64, String, String)> = on_pool!(self, |pool| {
            bind_drawable!(self.drawable(PAYLOADS), env, draw, after, limit, now).fetch_all(pool).await?
        });
        let run = |(lane, rank, run, payload)| WaitingRun { at: WaitingAt { lane, rank, run }, payload };
        Ok(found.into_iter().map(run).collect())
    }

    /// Jobs that are over and whose pools still have runs that nobody carries out.
    pub async fn over_with_runs(&self, limit: i64) -> Result<Vec<JobId>, StoreError> {
        let jobs: Vec<String> =
            on_pool!(self, |pool| sqlx::query_scalar(OVER_WITH_RUNS).bind(limit).fetch_all(pool).await?);
        Ok(jobs.into_iter().map(JobId::from_text).collect())
    }

    /// Makes runs ready again that a job had when it was over, at most `limit`, with the tries that they have used
    /// up. What is in a batch stays until that is collected.
    pub async fn give_back(&self, job: &JobId, limit: i64, now: Timestamp) -> Result<u64, StoreError> {
        let given = in_tx!(self, |tx| {
            let over: i64 = sqlx::query_scalar(IS_OVER).bind(job.as_str()).fetch_one(&mut *tx).await?;
            if over == 0 {
                return Ok(0);
            }
            let env: Option<String> =
                sqlx::query_scalar(ENV_OF_POOL).bind(job.as_str()).fetch_optional(&mut *tx).await?;
            let env = env.unwrap_or_default();
            let of_runs = if FOR_UPDATE.is_empty() { "" } else { " FOR UPDATE OF r SKIP LOCKED" };
            let left: Vec<Left> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{LEFT}{of_runs}")))
                .bind(job.as_str())
                .bind(limit)
                .fetch_all(&mut *tx)
                .await?;
            for chunk in left.chunks(CHUNK) {
                let mut gone = [
                    QueryBuilder::<Db>::new("DELETE FROM runs WHERE state = 'queued' AND id IN ("),
                    QueryBuilder::<Db>::new("DELETE FROM run_bodies WHERE run_id IN ("),
                ];
                let mut changed = 0;
                for step in &mut gone {
                    let mut ids = step.separated(", ");
                    for run in chunk {
                        ids.push_bind(run.id.as_str());
                    }
                    step.push(")");
                    changed = step.build().persistent(false).execute(&mut *tx).await?.rows_affected();
                }
                expect_one(u64::from(changed == chunk.len() as u64), "job", job.as_str(), "giving back others")?;
                let mut insert = QueryBuilder::<Db>::new(
                    "INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts,
                        max_attempts, max_duration_ms, since) ",
                );
                insert.push_values(chunk, |mut row, run| {
                    row.push_bind(run.id.as_str())
                        .push_bind(env.as_str())
                        .push_bind(Basin::pull(&run.task, &env).as_str().to_owned())
                        .push_bind(Lane::new(&run.queue, &run.concurrency_key).as_str().to_owned())
                        .push_bind(run.task.as_str())
                        .push_bind(rank(run.accepted_at, run.priority))
                        .push("0")
                        .push_bind(run.expires_at)
                        .push_bind(run.epoch)
                        .push_bind(run.attempts)
                        .push_bind(run.max_attempts)
                        .push_bind(run.max_duration_ms)
                        .push_bind(now.millis());
                });
                insert.build().persistent(false).execute(&mut *tx).await?;
            }
            let count = i64::try_from(left.len()).unwrap_or(i64::MAX);
            sqlx::query(COUNT_LEFT).bind(job.as_str()).bind(count).execute(&mut *tx).await?;
            reached(Failpoint::GiveBackOpen);
            left.len() as u64
        });
        reached(Failpoint::GiveBackStored);
        Ok(given)
    }
}
