//! Takes runs back from carriers that are gone: lapsed nodes, and pull workers whose lease has ended.

use super::{Store, on_pool};
use crate::error::StoreError;
use crate::model::{Epoch, RunId, Timestamp};
use crate::store::{Ending, Finished, RunVerdict};

const HELD_BY_THE_GONE: &str = "-- held_by_the_gone
SELECT l.run_id, l.epoch FROM leases l
WHERE l.token IS NULL AND l.holder IN (SELECT id FROM nodes WHERE state = 'gone') LIMIT $1";

const LAPSED_PULLS: &str = "-- lapsed_pulls
SELECT run_id, epoch FROM leases WHERE lease_until < $1 ORDER BY lease_until LIMIT $2";

const OWN_LEASES: &str = "-- own_leases
SELECT env, run_id, epoch FROM leases WHERE holder = $1 AND token IS NULL AND leased_at < $2 LIMIT $3";

impl Store {
    /// Attempts that this node has leased before a time and not ended, with their envs, at most `limit`.
    pub async fn own_leases(&self, before: Timestamp, limit: i64) -> Result<Vec<(String, RunId, Epoch)>, StoreError> {
        let found: Vec<(String, String, i64)> = on_pool!(self, |pool| {
            sqlx::query_as(OWN_LEASES)
                .bind(self.node().as_str())
                .bind(before.millis())
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        Ok(found.into_iter().map(|(env, run, epoch)| (env, RunId::from_text(run), Epoch::from_number(epoch))).collect())
    }

    /// Settles attempts as lost whose carrier is gone, at most `limit` of each kind.
    pub async fn take_back(&self, now: Timestamp, limit: i64) -> Result<Vec<Finished>, StoreError> {
        let held: Vec<(String, i64)> =
            on_pool!(self, |pool| sqlx::query_as(HELD_BY_THE_GONE).bind(limit).fetch_all(pool).await?);
        let lapsed: Vec<(String, i64)> = on_pool!(self, |pool| {
            sqlx::query_as(LAPSED_PULLS).bind(now.millis()).bind(limit).fetch_all(pool).await?
        });
        let verdicts: Vec<RunVerdict> = [(held, "its node is gone"), (lapsed, "its worker did not renew the lease")]
            .into_iter()
            .flat_map(|(leases, why)| leases.into_iter().map(move |lease| lost(lease, why)))
            .collect();
        self.settle_runs(&verdicts, now).await
    }
}

fn lost((run, epoch): (String, i64), why: &str) -> RunVerdict {
    RunVerdict {
        run: RunId::from_text(run),
        epoch: Epoch::from_number(epoch),
        ending: Ending::Lost,
        code: Some("lost".to_owned()),
        reason: Some(why.to_owned()),
        output: None,
        started_at: None,
    }
}
