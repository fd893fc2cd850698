//! Gives ready runs to carriers: a row leaves `ready` and enters `leases` in one commit, so that nobody else can
//! have it, and everything is written about it later under the epoch that it got here (invariants 2 and 9).

use super::{CHUNK, Pools, Store, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Basin, Epoch, Lane, RunId, Timestamp};
use sqlx::{PgConnection, Pool, Postgres, QueryBuilder, SqliteConnection, Transaction};
use std::collections::HashMap;

/// A lane with ready runs, and the rank of its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneHead {
    pub basin: Basin,
    pub lane: Lane,
    pub rank: i64,
}

/// How many of a lane's first runs to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub basin: Basin,
    pub lane: Lane,
    pub runs: i64,
}

/// Something that may have only so many runs under way, over all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capped {
    All,
    Env(String),
    Queue { env: String, queue: String },
    Key { env: String, lane: Lane },
}

/// At most this many runs under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cap {
    pub of: Capped,
    pub max: i64,
}

/// Who takes runs, and how long it may keep them without a word.
#[derive(Clone, Copy)]
pub enum Taker<'a> {
    /// This node; its own lease covers them.
    Node,
    /// A pull worker; each run gets a token of its own, and is taken back at `until`.
    Pull { worker: &'a str, until: Timestamp, token: &'a (dyn Fn(&RunId) -> String + Sync) },
}

/// A run in the hands of a carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    pub run: RunId,
    pub env: String,
    pub basin: Basin,
    pub lane: Lane,
    pub task: String,
    pub epoch: Epoch,
    /// Number of this attempt, from 1, of those that count.
    pub attempt: i64,
    pub max_attempts: i64,
    /// Milliseconds; 0 for no limit.
    pub max_duration_ms: i64,
    /// When it became ready.
    pub since: Timestamp,
}

#[derive(Debug, sqlx::FromRow)]
struct RawLeased {
    run_id: String,
    env: String,
    basin: String,
    lane: String,
    task: String,
    rank: i64,
    epoch: i64,
    attempts: i64,
    max_attempts: i64,
    max_duration_ms: i64,
    since: i64,
}

impl From<RawLeased> for Leased {
    fn from(raw: RawLeased) -> Leased {
        Leased {
            run: RunId::from_text(raw.run_id),
            env: raw.env,
            basin: Basin::from_text(raw.basin),
            lane: Lane::from_text(raw.lane),
            task: raw.task,
            epoch: Epoch::from_number(raw.epoch),
            attempt: raw.attempts,
            max_attempts: raw.max_attempts,
            max_duration_ms: raw.max_duration_ms,
            since: Timestamp::from_millis(raw.since),
        }
    }
}

/// Each step is one look into the index, however many runs wait in a lane. Not by MIN: without statistics
/// PostgreSQL takes a lane for short and reads all of it.
const BASINS: &str = "-- ready_basins
WITH RECURSIVE found(basin) AS (
    SELECT (SELECT basin FROM ready WHERE due_at = 0 AND basin > $1 AND basin < $2 ORDER BY basin LIMIT 1)
    UNION ALL
    SELECT (SELECT r.basin FROM ready r WHERE r.due_at = 0 AND r.basin > f.basin AND r.basin < $2
        ORDER BY r.basin LIMIT 1)
    FROM found f WHERE f.basin IS NOT NULL)
SELECT basin FROM found WHERE basin IS NOT NULL LIMIT $3";

const LANES: &str = "-- ready_lanes
WITH RECURSIVE found(lane) AS (
    SELECT (SELECT lane FROM ready WHERE due_at = 0 AND basin = $1 AND lane > $2 ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT r.lane FROM ready r WHERE r.due_at = 0 AND r.basin = $1 AND r.lane > f.lane
        ORDER BY r.lane LIMIT 1)
    FROM found f WHERE f.lane IS NOT NULL)
SELECT lane, (SELECT r.rank FROM ready r WHERE r.due_at = 0 AND r.basin = $1 AND r.lane = f.lane
    ORDER BY r.rank LIMIT 1) AS rank
FROM found f WHERE lane IS NOT NULL LIMIT $3";

/// The array keeps the plan an index walk, whatever the statistics of a table that fills and empties in
/// seconds say.
const CLAIM_POSTGRES: &str = "-- claim_ready
WITH share AS MATERIALIZED (SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::BIGINT[]) AS s(basin, lane, runs)),
picked AS MATERIALIZED (SELECT p.run_id FROM share s CROSS JOIN LATERAL (
    SELECT r.run_id FROM ready r WHERE r.due_at = 0 AND r.basin = s.basin AND r.lane = s.lane
        AND (r.expires_at IS NULL OR r.expires_at > $4)
    ORDER BY r.rank, r.run_id LIMIT s.runs FOR UPDATE SKIP LOCKED) p),
taken AS (DELETE FROM ready WHERE run_id = ANY(ARRAY(SELECT run_id FROM picked)) RETURNING *)
INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts, max_duration_ms,
    since, holder, leased_at)
SELECT run_id, env, basin, lane, task, rank, expires_at, epoch + 1, attempts + 1, max_attempts, max_duration_ms, since,
    $5, $4 FROM taken
RETURNING run_id, env, basin, lane, task, rank, epoch, attempts, max_attempts, max_duration_ms, since";

const CLAIM_SQLITE: &str = "-- claim_ready
INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts, max_duration_ms,
    since, holder, leased_at)
SELECT run_id, env, basin, lane, task, rank, expires_at, epoch + 1, attempts + 1, max_attempts, max_duration_ms, since,
    ?5, ?4 FROM ready
WHERE due_at = 0 AND basin = ?1 AND lane = ?2 AND (expires_at IS NULL OR expires_at > ?4)
ORDER BY rank, run_id LIMIT ?3
RETURNING run_id, env, basin, lane, task, rank, epoch, attempts, max_attempts, max_duration_ms, since";

const ADD_CAPS: &str = "-- add_caps
INSERT INTO caps (name) SELECT * FROM UNNEST($1::TEXT[]) ON CONFLICT (name) DO NOTHING";

const LOCK_CAPS: &str = "-- lock_caps
SELECT name FROM caps WHERE name = ANY($1) ORDER BY name FOR UPDATE";

const COUNT_ALL: &str = "-- count_leases
SELECT COUNT(*) FROM leases";
const COUNT_ENV: &str = "-- count_leases_of_env
SELECT COUNT(*) FROM leases WHERE env = $1";
const COUNT_LANES: &str = "-- count_leases_of_lanes
SELECT COUNT(*) FROM leases WHERE env = $1 AND lane >= $2 AND lane < $3";
const COUNT_LANE: &str = "-- count_leases_of_lane
SELECT COUNT(*) FROM leases WHERE env = $1 AND lane = $2";

impl Capped {
    /// Its row in `caps`.
    fn row(&self) -> String {
        match self {
            Capped::All => "all".to_owned(),
            Capped::Env(env) => format!("env:{env}"),
            Capped::Queue { env, queue } => format!("queue:{env}:{queue}"),
            Capped::Key { env, lane } => format!("lane:{env}:{}", lane.as_str()),
        }
    }

    /// Whether runs of this share count against it.
    fn covers(&self, share: &Share) -> bool {
        match self {
            Capped::All => true,
            Capped::Env(env) => share.basin.env() == env,
            Capped::Queue { env, queue } => share.basin.env() == env && share.lane.queue() == queue,
            Capped::Key { env, lane } => share.basin.env() == env && share.lane == *lane,
        }
    }
}

impl Store {
    /// Basins with ready runs after `after`, for this system's own workers or for the pull workers of a task;
    /// in order, at most `limit`.
    pub async fn ready_basins(&self, pull: Option<&str>, after: &str, limit: i64) -> Result<Vec<Basin>, StoreError> {
        let mut found: Vec<String> = Vec::new();
        for (first, last) in Basin::ranges(pull) {
            let left = limit - i64::try_from(found.len()).unwrap_or(limit);
            let first = first.as_str().max(after);
            if left <= 0 || first >= last.as_str() {
                continue;
            }
            let part: Vec<String> = on_pool!(self, |pool| {
                sqlx::query_scalar(BASINS).bind(first).bind(last.as_str()).bind(left).fetch_all(pool).await?
            });
            found.extend(part);
        }
        Ok(found.into_iter().map(Basin::from_text).collect())
    }

    /// A basin's lanes with ready runs after `after`, in order, at most `limit`.
    pub async fn ready_lanes(&self, basin: &Basin, after: &str, limit: i64) -> Result<Vec<LaneHead>, StoreError> {
        let found: Vec<(String, i64)> = on_pool!(self, |pool| {
            sqlx::query_as(LANES).bind(basin.as_str()).bind(after).bind(limit).fetch_all(pool).await?
        });
        let head = |(lane, rank)| LaneHead { basin: basin.clone(), lane: Lane::from_text(lane), rank };
        Ok(found.into_iter().map(head).collect())
    }

    /// Takes the first runs of some lanes, never more than the caps leave; they come by rank. Counts are exact
    /// over all nodes: whoever takes runs under a cap holds that cap's row until the commit (invariant 8).
    pub async fn claim_ready(
        &self,
        shares: &[Share],
        caps: &[Cap],
        taker: Taker<'_>,
        now: Timestamp,
    ) -> Result<Vec<Leased>, StoreError> {
        if shares.iter().all(|share| share.runs <= 0) {
            return Ok(Vec::new());
        }
        let leased = match &self.inner.pools {
            Pools::Sqlite { writer, .. } => {
                let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                let shares = within(shares, caps, &count_sqlite(&mut tx, caps).await?);
                let leased = claim_sqlite(&mut tx, &shares, self.holder(taker), now).await?;
                dress_sqlite(&mut tx, &leased, taker).await?;
                reached(Failpoint::ClaimOpen);
                tx.commit().await?;
                leased
            }
            Pools::Postgres(pool) if caps.is_empty() && matches!(taker, Taker::Node) => {
                let shares = within(shares, caps, &[]);
                claim_postgres(&mut *pool.acquire().await?, &shares, self.holder(taker), now).await?
            }
            Pools::Postgres(pool) => {
                let mut tx = begin_under(pool, caps).await?;
                let shares = within(shares, caps, &count_postgres(&mut tx, caps).await?);
                let leased = claim_postgres(&mut tx, &shares, self.holder(taker), now).await?;
                dress_postgres(&mut tx, &leased, taker).await?;
                reached(Failpoint::ClaimOpen);
                tx.commit().await?;
                leased
            }
        };
        if !leased.is_empty() {
            reached(Failpoint::ClaimStored);
        }
        Ok(leased)
    }

    fn holder<'a>(&'a self, taker: Taker<'a>) -> &'a str {
        match taker {
            Taker::Node => self.node().as_str(),
            Taker::Pull { worker, .. } => worker,
        }
    }

    /// The payloads of runs, by run.
    pub async fn payloads(&self, runs: &[RunId]) -> Result<HashMap<RunId, String>, StoreError> {
        let mut payloads = HashMap::with_capacity(runs.len());
        for chunk in runs.chunks(CHUNK) {
            let found: Vec<(String, String)> = on_pool!(self, |pool| {
                let mut select = QueryBuilder::<Db>::new("SELECT id, payload FROM run_records WHERE id IN (");
                let mut ids = select.separated(", ");
                for run in chunk {
                    ids.push_bind(run.as_str());
                }
                select.push(")");
                select.build_query_as().fetch_all(pool).await?
            });
            payloads.extend(found.into_iter().map(|(id, payload)| (RunId::from_text(id), payload)));
        }
        Ok(payloads)
    }
}

/// Cuts the shares down to what the caps leave; the first shares come first.
fn within(shares: &[Share], caps: &[Cap], under_way: &[i64]) -> Vec<Share> {
    let mut left: Vec<i64> =
        caps.iter().zip(under_way).map(|(cap, count)| cap.max.saturating_sub(*count).max(0)).collect();
    let mut cut = Vec::with_capacity(shares.len());
    for share in shares {
        let covering: Vec<usize> = (0..caps.len()).filter(|index| caps[*index].of.covers(share)).collect();
        let most = covering.iter().map(|index| left[*index]).min().unwrap_or(i64::MAX);
        let runs = share.runs.min(most);
        if runs <= 0 {
            continue;
        }
        for index in covering {
            left[index] -= runs;
        }
        cut.push(Share { runs, ..share.clone() });
    }
    cut
}

macro_rules! count_each {
    ($tx:ident, $caps:ident) => {{
        let mut counts = Vec::with_capacity($caps.len());
        for cap in $caps {
            let count: i64 = match &cap.of {
                Capped::All => sqlx::query_scalar(COUNT_ALL).fetch_one(&mut *$tx).await?,
                Capped::Env(env) => sqlx::query_scalar(COUNT_ENV).bind(env).fetch_one(&mut *$tx).await?,
                Capped::Queue { env, queue } => {
                    let (first, last) = Lane::range_of(queue);
                    sqlx::query_scalar(COUNT_LANES).bind(env).bind(first).bind(last).fetch_one(&mut *$tx).await?
                }
                Capped::Key { env, lane } => {
                    sqlx::query_scalar(COUNT_LANE).bind(env).bind(lane.as_str()).fetch_one(&mut *$tx).await?
                }
            };
            counts.push(count);
        }
        Ok(counts)
    }};
}

async fn count_sqlite(tx: &mut SqliteConnection, caps: &[Cap]) -> Result<Vec<i64>, StoreError> {
    count_each!(tx, caps)
}

async fn count_postgres(tx: &mut PgConnection, caps: &[Cap]) -> Result<Vec<i64>, StoreError> {
    count_each!(tx, caps)
}

/// Begins a transaction that holds the rows of these caps, all taken in one order. Rows that are missing are
/// made in a commit of their own: made here, they would be held in the order in which they were missing.
async fn begin_under(pool: &Pool<Postgres>, caps: &[Cap]) -> Result<Transaction<'static, Postgres>, StoreError> {
    let mut rows: Vec<String> = caps.iter().map(|cap| cap.of.row()).collect();
    rows.sort_unstable();
    rows.dedup();
    loop {
        let mut tx = pool.begin().await?;
        if rows.is_empty() {
            return Ok(tx);
        }
        let held: Vec<String> = sqlx::query_scalar(LOCK_CAPS).bind(&rows).fetch_all(&mut *tx).await?;
        if held.len() == rows.len() {
            return Ok(tx);
        }
        tx.rollback().await?;
        sqlx::query(ADD_CAPS).bind(&rows).execute(pool).await?;
    }
}

async fn claim_sqlite(
    tx: &mut SqliteConnection,
    shares: &[Share],
    holder: &str,
    now: Timestamp,
) -> Result<Vec<Leased>, StoreError> {
    let mut leased = Vec::new();
    for share in shares {
        let raw: Vec<RawLeased> = sqlx::query_as(CLAIM_SQLITE)
            .bind(share.basin.as_str())
            .bind(share.lane.as_str())
            .bind(share.runs)
            .bind(now.millis())
            .bind(holder)
            .fetch_all(&mut *tx)
            .await?;
        for chunk in raw.chunks(CHUNK) {
            let mut delete = QueryBuilder::<sqlx::Sqlite>::new("DELETE FROM ready WHERE run_id IN (");
            let mut ids = delete.separated(", ");
            for row in chunk {
                ids.push_bind(row.run_id.as_str());
            }
            delete.push(")");
            delete.build().execute(&mut *tx).await?;
        }
        leased.extend(raw);
    }
    Ok(by_rank(leased))
}

async fn claim_postgres(
    connection: &mut PgConnection,
    shares: &[Share],
    holder: &str,
    now: Timestamp,
) -> Result<Vec<Leased>, StoreError> {
    let raw: Vec<RawLeased> = sqlx::query_as(CLAIM_POSTGRES)
        .bind(shares.iter().map(|share| share.basin.as_str()).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.lane.as_str()).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.runs).collect::<Vec<_>>())
        .bind(now.millis())
        .bind(holder)
        .fetch_all(connection)
        .await?;
    Ok(by_rank(raw))
}

/// Neither database promises an order of what a claim returns.
fn by_rank(mut raw: Vec<RawLeased>) -> Vec<Leased> {
    raw.sort_unstable_by(|a, b| (a.rank, &a.run_id).cmp(&(b.rank, &b.run_id)));
    raw.into_iter().map(Leased::from).collect()
}

const DRESS: &str = "-- dress_lease
UPDATE leases SET token = $2, lease_until = $3 WHERE run_id = $1";

macro_rules! dress_each {
    ($tx:ident, $leased:ident, $taker:ident) => {{
        if let Taker::Pull { until, token, .. } = $taker {
            for lease in $leased {
                let token = token(&lease.run);
                sqlx::query(DRESS).bind(lease.run.as_str()).bind(token).bind(until.millis()).execute(&mut *$tx).await?;
            }
        }
        Ok(())
    }};
}

async fn dress_sqlite(tx: &mut SqliteConnection, leased: &[Leased], taker: Taker<'_>) -> Result<(), StoreError> {
    dress_each!(tx, leased, taker)
}

async fn dress_postgres(tx: &mut PgConnection, leased: &[Leased], taker: Taker<'_>) -> Result<(), StoreError> {
    dress_each!(tx, leased, taker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(env: &str, queue: &str, runs: i64) -> Share {
        Share { basin: Basin::own(env), lane: Lane::new(queue, ""), runs }
    }

    #[test]
    fn shares_are_cut_to_what_every_cap_over_them_leaves() {
        let caps = [
            Cap { of: Capped::All, max: 10 },
            Cap { of: Capped::Env("a/x".to_owned()), max: 4 },
            Cap { of: Capped::Queue { env: "a/x".to_owned(), queue: "mail".to_owned() }, max: 1 },
        ];
        let shares = [share("a/x", "mail", 5), share("a/x", "other", 5), share("b/y", "mail", 50)];
        let cut: Vec<i64> = within(&shares, &caps, &[0, 0, 0]).iter().map(|share| share.runs).collect();
        assert_eq!(cut, [1, 3, 6]);
        let cut: Vec<i64> = within(&shares, &caps, &[9, 4, 0]).iter().map(|share| share.runs).collect();
        assert_eq!(cut, [1], "only env b may have the last one");
        assert!(within(&shares, &caps, &[12, 4, 1]).is_empty());
        let shares = [share("a/x", "mail", -9), share("a/x", "mail", 9)];
        let cut: Vec<i64> = within(&shares, &caps[1..2], &[0]).iter().map(|share| share.runs).collect();
        assert_eq!(cut, [4], "less than nothing leaves no more");
    }
}
