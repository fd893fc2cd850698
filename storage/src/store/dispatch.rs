//! Gives ready runs to carriers: a row leaves `ready` and enters `leases` in one commit, so that nobody else can
//! have it, and everything is written about it later under the epoch that it got here (invariants 2 and 9).

use super::caps::{Cap, begin_under, count_postgres, count_sqlite};
use super::hot::Hot;
use super::taking::{Claimed, Taking, claim_under};
use super::{CHUNK, Pools, Store, WriteTurn, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Basin, Epoch, Lane, RunId, Timestamp, TraceParent};
use sqlx::{PgConnection, QueryBuilder, Sqlite, SqliteConnection};
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
    /// Those before this rank are left alone. PostgreSQL keeps what was taken in its index until a vacuum, and
    /// would walk over all of that again at every claim from the very first.
    pub from_rank: i64,
}

impl Share {
    /// From the lane's beginning.
    pub fn new(basin: Basin, lane: Lane, runs: i64) -> Share {
        Share { basin, lane, runs, from_rank: i64::MIN }
    }
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
    /// Its place in its lane.
    pub rank: i64,
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
            rank: raw.rank,
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

/// The rows are locked, and so stay where they are: by the array of their places nothing is looked up twice, and no
/// plan walks over the table, whatever the statistics of one that fills and empties in seconds say.
const CLAIM_POSTGRES: &str = "-- claim_ready
WITH share AS MATERIALIZED (SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::BIGINT[], $6::BIGINT[])
    AS s(basin, lane, runs, from_rank)),
picked AS MATERIALIZED (SELECT p.place FROM share s CROSS JOIN LATERAL (
    SELECT r.ctid AS place FROM ready r WHERE r.due_at = 0 AND r.basin = s.basin AND r.lane = s.lane
        AND r.rank >= s.from_rank AND (r.expires_at IS NULL OR r.expires_at > $4)
    ORDER BY r.rank, r.run_id LIMIT s.runs FOR UPDATE SKIP LOCKED) p),
taken AS (DELETE FROM ready WHERE ctid = ANY(ARRAY(SELECT place FROM picked)) RETURNING *)
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
WHERE due_at = 0 AND basin = ?1 AND lane = ?2 AND rank >= ?6 AND (expires_at IS NULL OR expires_at > ?4)
ORDER BY rank, run_id LIMIT ?3
RETURNING run_id, env, basin, lane, task, rank, epoch, attempts, max_attempts, max_duration_ms, since";

/// What was leased by it is the first of its lane still.
const REMOVE_SQLITE: &str = "-- remove_ready
DELETE FROM ready WHERE (env, run_id) IN (SELECT env, run_id FROM ready
    WHERE due_at = 0 AND basin = ?1 AND lane = ?2 AND rank >= ?5 AND (expires_at IS NULL OR expires_at > ?4)
    ORDER BY rank, run_id LIMIT ?3)";

/// The same statements in pieces, for several shares in one go.
const LEASE_SQLITE: &str = "; INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts,
    max_attempts, max_duration_ms, since, holder, leased_at)
SELECT run_id, env, basin, lane, task, rank, expires_at, epoch + 1, attempts + 1, max_attempts, max_duration_ms, since, ";
const LEASED_SQLITE: &str =
    " RETURNING run_id, env, basin, lane, task, epoch, attempts, max_attempts, max_duration_ms, since, rank";
const UNREADY_SQLITE: &str = "; DELETE FROM ready WHERE (env, run_id) IN (SELECT env, run_id FROM ready ";

const BRIEFS: &str = ") SELECT r.id, r.payload, r.session_id, r.traceparent FROM wanted w CROSS JOIN run_records r WHERE r.env = w.env AND r.id = w.id";

/// What a run's carrier is told of it, besides its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brief {
    /// Raw JSON.
    pub payload: String,
    /// The session whose step it is.
    pub session: Option<String>,
    /// Of which trace it is, if of any.
    pub trace: Option<TraceParent>,
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

    /// The same, for who does not ask which lanes are empty now.
    pub async fn claim_ready(
        &self,
        shares: &[Share],
        caps: &[Cap],
        taker: Taker<'_>,
        now: Timestamp,
    ) -> Result<Vec<Leased>, StoreError> {
        Ok(self.claim(shares, caps, taker, now).await?.leased)
    }

    /// Takes the first runs of some lanes, never more than the caps leave; those of a lane come by rank. Counts
    /// are exact over all nodes: whoever takes runs under a cap holds that cap's row until the commit
    /// (invariant 8).
    pub async fn claim(
        &self,
        shares: &[Share],
        caps: &[Cap],
        taker: Taker<'_>,
        now: Timestamp,
    ) -> Result<Claimed, StoreError> {
        self.claim_in(self.write_turn().await?, shares, caps, taker, now).await
    }

    /// The same in a turn to write.
    pub async fn claim_in(
        &self,
        turn: WriteTurn,
        shares: &[Share],
        caps: &[Cap],
        taker: Taker<'_>,
        now: Timestamp,
    ) -> Result<Claimed, StoreError> {
        let mut taking = Taking::new(shares, caps, vec![0; caps.len()]);
        let asked = taking.ask();
        if asked.is_empty() {
            return Ok(Claimed::default());
        }
        let holder = self.holder(taker);
        let claimed = match &self.inner.pools {
            Pools::Sqlite { writer, .. } if caps.is_empty() && matches!(taker, Taker::Node) => {
                let mut writing = turn.writing(writer).await?;
                let leased = claim_at_once_sqlite(&mut writing, &asked, holder, now).await?;
                writing.done().await?;
                taking.took(&asked, leased);
                taking.done()
            }
            Pools::Sqlite { writer, .. } => {
                let mut tx = turn.writing(writer).await?.begin().await?;
                let taking = Taking::new(shares, caps, count_sqlite(&mut tx, caps).await?);
                let claimed = claim_under!(tx, taking, claim_sqlite, holder, now);
                dress_sqlite(&mut tx, &claimed.leased, taker).await?;
                reached(Failpoint::ClaimOpen);
                tx.commit().await?;
                claimed
            }
            Pools::Postgres { hot, .. } if caps.is_empty() && matches!(taker, Taker::Node) => {
                let take = async |connection: &mut PgConnection| claim_postgres(connection, &asked, holder, now).await;
                taking.took(&asked, hot.on(Hot::Claim, take).await?);
                taking.done()
            }
            Pools::Postgres { pool, .. } => {
                let mut tx = begin_under(pool, caps).await?;
                let taking = Taking::new(shares, caps, count_postgres(&mut tx, caps).await?);
                let claimed = claim_under!(tx, taking, claim_postgres, holder, now);
                dress_postgres(&mut tx, &claimed.leased, taker).await?;
                reached(Failpoint::ClaimOpen);
                tx.commit().await?;
                claimed
            }
        };
        if !claimed.leased.is_empty() {
            reached(Failpoint::ClaimStored);
        }
        Ok(claimed)
    }

    fn holder<'a>(&'a self, taker: Taker<'a>) -> &'a str {
        match taker {
            Taker::Node => self.node().as_str(),
            Taker::Pull { worker, .. } => worker,
        }
    }

    /// What the carriers of runs are told, each run named with its env, by run.
    pub async fn briefs(&self, runs: &[(&str, &RunId)]) -> Result<HashMap<RunId, Brief>, StoreError> {
        let mut briefs = HashMap::with_capacity(runs.len());
        for chunk in runs.chunks(CHUNK) {
            let found: Vec<(String, String, Option<String>, Option<String>)> = on_pool!(self, |pool| {
                let mut select = QueryBuilder::<Db>::new("WITH wanted (env, id) AS (");
                select.push_values(chunk, |mut pair, (env, run)| {
                    pair.push_bind(*env).push_bind(run.as_str());
                });
                select.push(BRIEFS);
                select.build_query_as().persistent(false).fetch_all(pool).await?
            });
            briefs.extend(found.into_iter().map(|(id, payload, session, trace)| {
                let trace = trace.as_deref().and_then(TraceParent::parse);
                (RunId::from_text(id), Brief { payload, session, trace })
            }));
        }
        Ok(briefs)
    }
}

/// The common case in one trip to the connection's thread, and for one lane in one text that stays prepared. Left in
/// the middle, the connection is rolled back before its next use.
async fn claim_at_once_sqlite(
    connection: &mut SqliteConnection,
    shares: &[Share],
    holder: &str,
    now: Timestamp,
) -> Result<Vec<Leased>, StoreError> {
    let mut take = QueryBuilder::<Sqlite>::new("BEGIN IMMEDIATE");
    for share in shares {
        take.push(LEASE_SQLITE).push_bind(holder).push(", ").push_bind(now.millis()).push(" FROM ready ");
        first_of_lane_sqlite(&mut take, share, now);
        take.push(LEASED_SQLITE).push(UNREADY_SQLITE);
        first_of_lane_sqlite(&mut take, share, now);
        take.push(")");
    }
    take.push("; COMMIT");
    let raw: Vec<RawLeased> = take.build_query_as().persistent(shares.len() == 1).fetch_all(&mut *connection).await?;
    Ok(by_rank(raw))
}

/// What is taken of a lane: the same rows before and after they are leased.
fn first_of_lane_sqlite(take: &mut QueryBuilder<Sqlite>, share: &Share, now: Timestamp) {
    take.push("WHERE due_at = 0 AND basin = ").push_bind(share.basin.as_str().to_owned());
    take.push(" AND lane = ").push_bind(share.lane.as_str().to_owned());
    take.push(" AND rank >= ").push_bind(share.from_rank);
    take.push(" AND (expires_at IS NULL OR expires_at > ").push_bind(now.millis());
    take.push(") ORDER BY rank, run_id LIMIT ").push_bind(share.runs);
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
            .bind(share.from_rank)
            .fetch_all(&mut *tx)
            .await?;
        sqlx::query(REMOVE_SQLITE)
            .bind(share.basin.as_str())
            .bind(share.lane.as_str())
            .bind(share.runs)
            .bind(now.millis())
            .bind(share.from_rank)
            .execute(&mut *tx)
            .await?;
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
        .bind(shares.iter().map(|share| share.from_rank).collect::<Vec<_>>())
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
