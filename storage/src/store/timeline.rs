//! A database that was failed over to, or a store that is a copy, may have forgotten what had been committed since: a
//! batch that was bought is planned again, or not there at all. PostgreSQL counts failovers as timelines (its manual,
//! 26.3.5) and numbers what it restores anew; a copy of a SQLite file is marked as one when it is made. Nothing is
//! bought from such a store before that was looked into.

use super::jobs::log_job;
use super::open::{Place, lock, postgres_options, sqlite_options};
use super::schema::{migrate_postgres, migrate_sqlite};
use super::{Pools, Store, in_tx, log_batch, on_pool};
use crate::error::StoreError;
use crate::model::{BatchEvent, Epoch, JobEvent, Timestamp};
use sqlx::{Connection, PgConnection, SqliteConnection};
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::Ordering;

/// Where the store was when somebody last looked, and where it is.
pub(super) const HISTORY_SQLITE: &str = "-- history
SELECT timeline, origin, copied_at, timeline AS timeline_now, origin AS origin_now FROM compatibility";

pub(super) const HISTORY_POSTGRES: &str = "-- history
SELECT timeline, origin, copied_at,
    CAST(CAST('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS bit(32)) AS BIGINT) AS timeline_now,
    (SELECT CAST(system_identifier AS TEXT) FROM pg_control_system())
        || '/' || (SELECT CAST(oid AS TEXT) FROM pg_database WHERE datname = current_database())
        || '/' || CAST(CAST(CAST('compatibility' AS regclass) AS oid) AS TEXT) AS origin_now
FROM compatibility";

const NOTE: &str = "-- note_history
UPDATE compatibility SET timeline = $4, origin = $5, copied_at = NULL
WHERE timeline IS NOT DISTINCT FROM $1 AND origin IS NOT DISTINCT FROM $2 AND copied_at IS NOT DISTINCT FROM $3";

pub(super) const MARK_COPY: &str = "-- mark_copy
UPDATE compatibility SET copied_at = COALESCE(copied_at, $1)";

const BOUGHT: &str = "-- bought
SELECT wire_key, provider_batch_id FROM batches
UNION ALL SELECT batch_id, provider_batch_id FROM strays";

/// Whoever worked on the original renewed a lease to its end.
const LAST_LEASE: &str = "-- last_lease
SELECT MAX(lease_until) FROM nodes WHERE id <> $1";

/// Whether they were created, only the provider can tell. Those of live calls are in no listing.
const DOUBT_PLANNED: &str = "-- doubt_planned
UPDATE batches SET state = 'unknown', epoch = epoch + 1, holder = NULL, intent_at = COALESCE(intent_at, created_at),
    first_absent_at = NULL, next_at = $1, strikes = 0, reason = $2
WHERE state = 'planned' AND mode = 'batch' RETURNING id, epoch";

/// A look that was before all this proves nothing any more.
const LOOK_ANEW: &str = "-- look_anew
UPDATE batches SET epoch = epoch + 1, holder = NULL, first_absent_at = NULL, next_at = $1, strikes = 0
WHERE state = 'unknown' AND first_absent_at IS NOT NULL";

/// What has not begun here may have begun elsewhere. A file's job begins only by its command, which says first what is
/// in doubt; until then its lines are not all there.
const BEGIN_CREATED: &str = "-- begin_created
UPDATE jobs SET state = 'running', started_at = $1 WHERE state = 'created' AND task IS NOT NULL RETURNING id, epoch";

const SUSPEND_RUNNING: &str = "-- suspend_running
UPDATE jobs SET state = 'suspended', detail = $1 WHERE state = 'running' RETURNING id, epoch";

/// A store's own account of where it is and was.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct History {
    /// `None`: nobody has looked yet.
    timeline: Option<i64>,
    origin: Option<String>,
    copied_at: Option<i64>,
    timeline_now: Option<i64>,
    origin_now: Option<String>,
}

/// Why a store may have forgotten what was done from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The database was failed over, or recovered to a point in time.
    Timeline { from: i64, to: i64 },
    /// A dump was restored, or the database moved to another cluster.
    Elsewhere,
    /// The store is a copy.
    Copied { at: Timestamp },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::Timeline { from, to } => write!(f, "the database was failed over (timeline {from} to {to})"),
            Doubt::Elsewhere => f.write_str("the database was restored from a dump or has moved"),
            Doubt::Copied { at } => write!(f, "the store is a copy (marked as one at {at})"),
        }
    }
}

impl History {
    /// Decides whether anything may have been forgotten. What was never noted cannot be missed.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        if let Some(at) = self.copied_at {
            return Some(Doubt::Copied { at: Timestamp::from_millis(at) });
        }
        let moved = |noted: bool, differs: bool| noted && differs;
        if moved(self.origin.is_some(), self.origin != self.origin_now) {
            return Some(Doubt::Elsewhere);
        }
        match (self.timeline, self.timeline_now) {
            (Some(from), Some(to)) if from != to => Some(Doubt::Timeline { from, to }),
            _ => None,
        }
    }

    fn is_noted(&self) -> bool {
        (self.timeline, &self.origin) == (self.timeline_now, &self.origin_now)
    }
}

/// Nothing is bought from a store that may have forgotten what was bought.
macro_rules! refuse_in_doubt {
    ($store:expr, $tx:ident) => {
        if $store.follows_timeline() {
            let history: $crate::store::timeline::History =
                sqlx::query_as($store.history()).fetch_one(&mut *$tx).await?;
            if let Some(doubt) = history.doubt() {
                return Err(StoreError::InDoubt { doubt });
            }
        }
    };
}
pub(super) use refuse_in_doubt;

/// How the detail of a job begins that was suspended for this.
pub const FAILED_OVER: &str = "failover|";

/// What was put in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedOver {
    pub doubt: Doubt,
    pub batches: u64,
    pub jobs: u64,
}

/// A store that nobody has looked into yet, and what it knows of what was bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubted {
    pub doubt: Doubt,
    /// When it was last what its original was, as far as that can be told.
    pub since: Timestamp,
    /// The keys of its batches, and the ids that these have at their providers.
    pub keys: HashSet<String>,
    pub ids: HashSet<String>,
}

impl fmt::Display for FailedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and may have forgotten batches", self.doubt)
    }
}

impl Store {
    /// Whether this is SQLite, or a PostgreSQL that tells its history; some that only speak its language do not.
    pub(super) async fn has_timeline(&self) -> Result<bool, StoreError> {
        let Pools::Postgres { pool, .. } = &self.inner.pools else { return Ok(true) };
        match sqlx::query(HISTORY_POSTGRES).execute(pool).await {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn follows_timeline(&self) -> bool {
        self.inner.follows_timeline.load(Ordering::Acquire)
    }

    pub(super) fn history(&self) -> &'static str {
        if self.is_sqlite() { HISTORY_SQLITE } else { HISTORY_POSTGRES }
    }

    /// What somebody has still to look into, with what is known here. Only tells it.
    pub async fn doubt(&self) -> Result<Option<Doubted>, StoreError> {
        if !self.follows_timeline() {
            return Ok(None);
        }
        let history: History = on_pool!(self, |pool| sqlx::query_as(self.history()).fetch_one(pool).await?);
        let Some(doubt) = history.doubt() else { return Ok(None) };
        let (last, bought): (Option<i64>, Vec<(String, Option<String>)>) = on_pool!(self, |pool| {
            let last = sqlx::query_scalar(LAST_LEASE).bind(self.node().as_str()).fetch_one(pool).await?;
            (last, sqlx::query_as(BOUGHT).fetch_all(pool).await?)
        });
        let marked = history.copied_at.unwrap_or(i64::MAX);
        let since = last.unwrap_or(marked).min(marked).min(self.now().millis());
        let (keys, ids): (_, Vec<_>) = bought.into_iter().unzip();
        Ok(Some(Doubted {
            doubt,
            since: Timestamp::from_millis(since),
            keys,
            ids: ids.into_iter().flatten().collect(),
        }))
    }

    /// Looks whether the store was failed over, or is a copy, since somebody last looked. If so, then by one node and in
    /// one transaction: planned batches become *unknown*, so that only a proof of absence lets them be created, and all
    /// jobs are suspended until an operator has looked for batches that were forgotten altogether.
    pub async fn look_for_failover(&self, now: Timestamp) -> Result<Option<FailedOver>, StoreError> {
        if !self.follows_timeline() {
            return Ok(None);
        }
        let history: History = on_pool!(self, |pool| sqlx::query_as(self.history()).fetch_one(pool).await?);
        let doubt = history.doubt();
        if doubt.is_none() && history.is_noted() {
            return Ok(None);
        }
        let mut found = None;
        in_tx!(self, |tx| {
            let noted = sqlx::query(NOTE)
                .bind(history.timeline)
                .bind(&history.origin)
                .bind(history.copied_at)
                .bind(history.timeline_now)
                .bind(&history.origin_now)
                .execute(&mut *tx)
                .await?;
            // Another node may have been faster.
            if let Some(doubt) = doubt.filter(|_| noted.rows_affected() > 0) {
                let mut all = FailedOver { doubt, batches: 0, jobs: 0 };
                let why = all.to_string();
                let data = serde_json::json!({ "why": why }).to_string();
                let doubted: Vec<(String, i64)> =
                    sqlx::query_as(DOUBT_PLANNED).bind(now.millis()).bind(&why).fetch_all(&mut *tx).await?;
                for (batch, epoch) in &doubted {
                    for event in [BatchEvent::Committed, BatchEvent::AnswerLost] {
                        log_batch!(tx, batch, now, Epoch::from_number(*epoch), event.word(), &data);
                    }
                }
                sqlx::query(LOOK_ANEW).bind(now.millis()).execute(&mut *tx).await?;
                let begun: Vec<(String, i64)> =
                    sqlx::query_as(BEGIN_CREATED).bind(now.millis()).fetch_all(&mut *tx).await?;
                for (job, epoch) in &begun {
                    log_job!(tx, job, now, epoch, JobEvent::Started.word(), &data);
                }
                let detail = format!("{FAILED_OVER}{why}");
                let suspended: Vec<(String, i64)> =
                    sqlx::query_as(SUSPEND_RUNNING).bind(&detail).fetch_all(&mut *tx).await?;
                for (job, epoch) in &suspended {
                    log_job!(tx, job, now, epoch, JobEvent::Suspended.word(), &data);
                }
                (all.batches, all.jobs) = (doubted.len() as u64, suspended.len() as u64);
                found = Some(all);
            }
        });
        Ok(found)
    }
}

/// Marks a store as a copy, for an operator who has brought one up that cannot be told from its original: a file or a
/// volume that was copied, a base backup. On SQLite nobody may have it open.
pub async fn mark_copy(url: &str, at: Timestamp) -> Result<(), StoreError> {
    match Place::of(url)? {
        Place::Sqlite(path) => {
            let _owner = lock(&path)?;
            let options = sqlite_options(&path).create_if_missing(false);
            let mut connection = SqliteConnection::connect_with(&options).await?;
            migrate_sqlite(&mut connection).await?;
            sqlx::query(MARK_COPY).bind(at.millis()).execute(&mut connection).await?;
            connection.close().await?;
        }
        Place::Postgres(options) => {
            let mut connection = PgConnection::connect_with(&postgres_options(*options)).await?;
            migrate_postgres(&mut connection).await?;
            sqlx::query(MARK_COPY).bind(at.millis()).execute(&mut connection).await?;
            connection.close().await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(noted: (Option<i64>, Option<&str>), now: (Option<i64>, Option<&str>)) -> History {
        History {
            timeline: noted.0,
            origin: noted.1.map(str::to_owned),
            copied_at: None,
            timeline_now: now.0,
            origin_now: now.1.map(str::to_owned),
        }
    }

    #[test]
    fn a_store_is_in_doubt_when_it_is_not_where_it_was_and_never_for_what_was_not_noted() {
        let here = (Some(3), Some("a"));
        for (noted, now, doubt) in [
            (here, here, None),
            (here, (Some(4), Some("a")), Some(Doubt::Timeline { from: 3, to: 4 })),
            (here, (Some(1), Some("a")), Some(Doubt::Timeline { from: 3, to: 1 })),
            (here, (Some(3), Some("b")), Some(Doubt::Elsewhere)),
            (here, (Some(1), Some("b")), Some(Doubt::Elsewhere)),
            ((None, None), here, None),
            ((Some(3), None), here, None),
            ((Some(2), None), here, Some(Doubt::Timeline { from: 2, to: 3 })),
            ((None, None), (None, None), None),
        ] {
            assert_eq!(history(noted, now).doubt(), doubt, "{noted:?} {now:?}");
        }
        assert!(history(here, here).is_noted());
        assert!(!history((Some(3), None), here).is_noted());
    }

    #[test]
    fn a_copy_is_in_doubt_wherever_it_is() {
        let copied = Some(7);
        let at = Timestamp::from_millis(7);
        for noted in [(None, None), (Some(3), Some("a"))] {
            let history = History { copied_at: copied, ..history(noted, noted) };
            assert_eq!(history.doubt(), Some(Doubt::Copied { at }));
        }
    }
}
