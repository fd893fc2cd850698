//! What somebody did to the system itself: written before it is done, never changed, read newest first.

use super::{Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::Timestamp;

/// Something that somebody does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed<'a> {
    /// Of whoever does it.
    pub env: &'a str,
    /// `None` where no keys are asked for.
    pub key_id: Option<&'a str>,
    /// What is done, as `actor.kill`.
    pub action: &'static str,
    /// To what.
    pub target: &'a str,
    /// An object with the details.
    pub data: &'a str,
}

/// A deed as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct DeedRow {
    pub seq: i64,
    pub at: i64,
    /// That carried it out.
    pub node: String,
    pub env: String,
    pub key_id: Option<String>,
    pub action: String,
    pub target: String,
    pub data: String,
}

const TELL: &str = "-- tell_deed
INSERT INTO audit (at, node, env, key_id, action, target, data) VALUES ($1, $2, $3, $4, $5, $6, $7)";

const DEEDS: &str = "-- deeds
SELECT seq, at, node, env, key_id, action, target, data FROM audit WHERE env = $3 AND seq < $1 ORDER BY seq DESC LIMIT $2";

/// In the order in which they were written, so that a go walks over no more than it may delete.
const OLDEST: &str = "-- oldest_deeds
SELECT seq, at FROM audit ORDER BY seq LIMIT $1";
const FORGET: &str = "-- forget_deeds
DELETE FROM audit WHERE seq <= $1 AND at < $2";

impl Store {
    /// Writes a deed down. What cannot be written down is not done.
    pub async fn tell(&self, deed: &Deed<'_>, now: Timestamp) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(TELL)
                .bind(now.millis())
                .bind(self.node().as_str())
                .bind(deed.env)
                .bind(deed.key_id)
                .bind(deed.action)
                .bind(deed.target)
                .bind(deed.data)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// Forgets deeds that were written down before this time, of the oldest `limit`; returns how many.
    pub async fn forget_deeds(&self, before: Timestamp, limit: i64) -> Result<u64, StoreError> {
        let oldest: Vec<(i64, i64)> = on_pool!(self, |pool| sqlx::query_as(OLDEST).bind(limit).fetch_all(pool).await?);
        let last = oldest.into_iter().rfind(|(_, at)| *at < before.millis());
        let Some((last, _)) = last else { return Ok(0) };
        Ok(in_tx!(self, |tx| {
            sqlx::query(FORGET).bind(last).bind(before.millis()).execute(&mut *tx).await?.rows_affected()
        }))
    }

    /// What callers of an env did, newest first, from before the place `before` if one is given.
    pub async fn deeds(&self, env: &str, before: Option<i64>, limit: i64) -> Result<Vec<DeedRow>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(DEEDS).bind(before.unwrap_or(i64::MAX)).bind(limit).bind(env).fetch_all(pool).await?
        }))
    }
}
