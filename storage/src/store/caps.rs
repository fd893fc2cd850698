//! Caps: how many runs may be under way of something, counted exactly over all nodes.

use super::dispatch::Share;
use crate::error::StoreError;
use crate::model::Lane;
use sqlx::{PgConnection, Pool, Postgres, SqliteConnection, Transaction};

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
    pub fn covers(&self, share: &Share) -> bool {
        match self {
            Capped::All => true,
            Capped::Env(env) => share.basin.env() == env,
            Capped::Queue { env, queue } => share.basin.env() == env && share.lane.queue() == queue,
            Capped::Key { env, lane } => share.basin.env() == env && share.lane == *lane,
        }
    }
}

/// Cuts the shares down to what the caps leave; the first shares come first.
pub(super) fn within(shares: &[Share], caps: &[Cap], under_way: &[i64]) -> Vec<Share> {
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

pub(super) async fn count_sqlite(tx: &mut SqliteConnection, caps: &[Cap]) -> Result<Vec<i64>, StoreError> {
    count_each!(tx, caps)
}

pub(super) async fn count_postgres(tx: &mut PgConnection, caps: &[Cap]) -> Result<Vec<i64>, StoreError> {
    count_each!(tx, caps)
}

/// Begins a transaction that holds the rows of these caps, all taken in one order. Rows that are missing are
/// made in a commit of their own: made here, they would be held in the order in which they were missing.
pub(super) async fn begin_under(
    pool: &Pool<Postgres>,
    caps: &[Cap],
) -> Result<Transaction<'static, Postgres>, StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Basin;

    fn share(env: &str, queue: &str, runs: i64) -> Share {
        Share::new(Basin::own(env), Lane::new(queue, ""), runs)
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
