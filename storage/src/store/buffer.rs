//! The buffer: runs that are accepted and wait to be let through. Letting through is one transaction that moves
//! rows, so that doing it again changes nothing.

use super::{Pools, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Basin, Lane, RunId, Timestamp};
use crate::store::dispatch::LaneHead;

/// What waits in the buffer of one env.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BufferDepth {
    pub env: String,
    pub entries: i64,
    pub parked: i64,
    /// Accept time of the oldest, in milliseconds.
    pub oldest_at: i64,
}

/// One entry, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BufferEntry {
    pub run_id: String,
    pub env: String,
    pub task: String,
    pub accepted_at: i64,
    pub parked: Option<String>,
}

/// What was let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetThrough {
    pub runs: u64,
    pub moved: Vec<RunId>,
    /// Where the runs wait now, each with the rank of the first that came.
    pub lanes: Vec<LaneHead>,
    /// Rank of the last.
    pub last_rank: Option<i64>,
}

impl LetThrough {
    /// Rows are in no order.
    fn of(rows: Vec<(String, String, i64, String)>) -> LetThrough {
        let mut all = LetThrough { runs: rows.len() as u64, ..LetThrough::default() };
        let mut places: Vec<(String, String, i64)> = Vec::new();
        for (basin, lane, rank, run) in rows {
            all.moved.push(RunId::from_text(run));
            all.last_rank = all.last_rank.max(Some(rank));
            match places.iter_mut().find(|place| place.1 == lane && place.0 == basin) {
                Some(place) => place.2 = place.2.min(rank),
                None => places.push((basin, lane, rank)),
            }
        }
        let head = |(basin, lane, rank)| LaneHead { basin: Basin::from_text(basin), lane: Lane::from_text(lane), rank };
        all.lanes = places.into_iter().map(head).collect();
        all
    }
}

/// Each step is one look into the index.
const ENVS: &str = "-- buffer_envs
WITH RECURSIVE found(env) AS (
    SELECT (SELECT env FROM buffer WHERE parked IS NULL AND env > $1 ORDER BY env LIMIT 1)
    UNION ALL
    SELECT (SELECT b.env FROM buffer b WHERE b.parked IS NULL AND b.env > f.env ORDER BY b.env LIMIT 1)
    FROM found f WHERE f.env IS NOT NULL)
SELECT env FROM found WHERE env IS NOT NULL LIMIT $2";

/// Each part is a walk along an index in its order: sorted by env, a million entries would be in memory together.
const DEPTHS: &str = "-- buffer_depths
WITH part AS (
    SELECT env, COUNT(*) AS entries, 0 AS parked, MIN(run_id) AS oldest FROM buffer
    WHERE parked IS NULL AND ($1 = '' OR env = $1) GROUP BY env
    UNION ALL
    SELECT env, COUNT(*), COUNT(*), MIN(run_id) FROM buffer
    WHERE parked IS NOT NULL AND ($1 = '' OR env = $1) GROUP BY env)
SELECT p.env, CAST(SUM(p.entries) AS BIGINT) AS entries, CAST(SUM(p.parked) AS BIGINT) AS parked,
    MIN(b.accepted_at) AS oldest_at
FROM part p JOIN buffer b ON b.run_id = p.oldest GROUP BY p.env ORDER BY p.env";

const ENTRIES: &str = "-- buffer_entries
SELECT run_id, env, task, accepted_at, parked FROM buffer
WHERE run_id > $1 AND ($2 = '' OR env = $2) ORDER BY run_id LIMIT $3";

const STALE: &str = "-- stale_entries
SELECT COUNT(*) FROM buffer WHERE accepted_at < $1 AND ($2 = '' OR env = $2)";

const LET_THROUGH_POSTGRES: &str = "-- let_through
WITH picked AS MATERIALIZED (SELECT ctid AS place FROM buffer WHERE env = $1 AND parked IS NULL
    AND rank >= $3 ORDER BY rank, run_id LIMIT $2 FOR UPDATE SKIP LOCKED),
taken AS (DELETE FROM buffer WHERE ctid = ANY(ARRAY(SELECT place FROM picked)) RETURNING *)
INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts, max_attempts,
    max_duration_ms, since)
SELECT run_id, env, basin, lane, task, rank, due_at, expires_at, 0, 0, max_attempts, max_duration_ms, accepted_at
FROM taken RETURNING basin, lane, rank, run_id";

const LET_THROUGH_SQLITE: &str = "-- let_through
INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts, max_attempts,
    max_duration_ms, since)
SELECT run_id, env, basin, lane, task, rank, due_at, expires_at, 0, 0, max_attempts, max_duration_ms, accepted_at
FROM buffer WHERE env = $1 AND parked IS NULL AND rank >= $3 ORDER BY rank, run_id LIMIT $2
RETURNING basin, lane, rank, run_id";

/// What has just been made ready is in both tables until this; nothing else ever is.
const DELETE_LET_THROUGH: &str = "-- delete_let_through
DELETE FROM buffer WHERE run_id IN
    (SELECT run_id FROM buffer WHERE env = $1 AND parked IS NULL AND rank >= $3 ORDER BY rank, run_id LIMIT $2)";

/// Whoever comes second to the first entry leaves its reason as it is.
const PARK_FIRST: &str = "-- park_first
UPDATE buffer SET parked = $2 WHERE parked IS NULL AND run_id =
    (SELECT run_id FROM buffer WHERE env = $1 AND parked IS NULL ORDER BY rank, run_id LIMIT 1)
RETURNING run_id";

impl Store {
    /// Envs with entries that may be let through, after `after` and in order, at most `limit`.
    pub async fn buffer_envs(&self, after: &str, limit: i64) -> Result<Vec<String>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_scalar(ENVS).bind(after).bind(limit).fetch_all(pool).await?))
    }

    /// Makes the first entries of an env ready, at most `limit`. Those before `from_rank` are left alone: PostgreSQL
    /// would walk over all that went before, until a vacuum has removed it.
    pub async fn let_through(&self, env: &str, from_rank: i64, limit: i64) -> Result<LetThrough, StoreError> {
        let moved = match &self.inner.pools {
            Pools::Postgres { pool, .. } => {
                sqlx::query_as(LET_THROUGH_POSTGRES).bind(env).bind(limit).bind(from_rank).fetch_all(pool).await?
            }
            Pools::Sqlite { writer, .. } => {
                let mut tx = writer.begin().await?;
                let insert = sqlx::query_as(LET_THROUGH_SQLITE).bind(env).bind(limit).bind(from_rank);
                let moved = insert.fetch_all(&mut *tx).await?;
                reached(Failpoint::MaterialiseOpen);
                sqlx::query(DELETE_LET_THROUGH).bind(env).bind(limit).bind(from_rank).execute(&mut *tx).await?;
                tx.commit().await?;
                moved
            }
        };
        let moved = LetThrough::of(moved);
        if moved.runs > 0 {
            reached(Failpoint::MaterialiseStored);
        }
        Ok(moved)
    }

    /// Sets the first entry of an env aside for an operator, with the reason why it cannot be let through.
    pub async fn park_first(&self, env: &str, why: &str) -> Result<Option<RunId>, StoreError> {
        let parked: Option<String> =
            in_tx!(self, |tx| { sqlx::query_scalar(PARK_FIRST).bind(env).bind(why).fetch_optional(&mut *tx).await? });
        Ok(parked.map(RunId::from_text))
    }

    /// What waits, by env; of one env if it is given.
    pub async fn buffer_depths(&self, env: Option<&str>) -> Result<Vec<BufferDepth>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(DEPTHS).bind(env.unwrap_or("")).fetch_all(pool).await?))
    }

    /// Entries in accept order after `after`, at most `limit`.
    pub async fn buffer_entries(
        &self,
        env: Option<&str>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<BufferEntry>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(ENTRIES).bind(after).bind(env.unwrap_or("")).bind(limit).fetch_all(pool).await?
        }))
    }

    /// How many entries were accepted before a time and still wait, of one env if it is given.
    pub async fn stale_entries(&self, env: Option<&str>, before: Timestamp) -> Result<i64, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_scalar(STALE).bind(before.millis()).bind(env.unwrap_or("")).fetch_one(pool).await?
        }))
    }
}
