//! Nodes and their leases. A node's lease covers everything that names it as holder.

use super::hot::Hot;
use super::schema::LEVEL;
use super::{Pools, Store, expect_one, in_tx, on_pool};
use crate::boot_clock::since_boot;
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Clock, NodeId, SystemClock, Timestamp};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// One incarnation of one process.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct NodeRow {
    pub id: String,
    pub host: String,
    pub pid: i64,
    pub state: String,
    pub lease_until: i64,
    /// What its binary understands; 0 from before there were levels.
    pub level: i64,
}

/// A lease as it is after a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    pub until: Timestamp,
    /// Somebody wants this node to take nothing on any more.
    pub draining: bool,
}

impl NodeRow {
    /// Whether this node may still act, by the store's clock.
    pub fn holds_its_lease(&self, now: Timestamp) -> bool {
        self.state != "gone" && self.lease_until > now.millis()
    }
}

const INSERT_NODE: &str = "-- insert_node
INSERT INTO nodes (id, host, pid, state, started_at, lease_until, level) VALUES ($1, $2, $3, 'live', $4, $5, $6)";

/// Nobody but the holder of the file's lock can be alive on a SQLite store.
const BURY_OTHERS: &str = "-- bury_others
UPDATE nodes SET state = 'gone' WHERE id <> $1 AND state <> 'gone'";

const BURY_LAPSED: &str = "-- bury_lapsed
UPDATE nodes SET state = 'gone' WHERE state <> 'gone' AND lease_until < $1 AND id <> $2";

const RENEW: &str = "-- renew
UPDATE nodes SET lease_until = $2 WHERE id = $1 AND state IN ('live', 'draining') RETURNING state";

const DRAIN: &str = "-- drain
UPDATE nodes SET state = 'draining' WHERE id = $1 AND state = 'live'";

const LEAVE: &str = "-- leave
UPDATE nodes SET state = 'gone' WHERE id = $1 AND state <> 'gone'";

const NODE: &str = "-- node
SELECT id, host, pid, state, lease_until, level FROM nodes WHERE id = $1";

const NODES_ALIVE: &str = "-- nodes_alive
SELECT id, host, pid, state, lease_until, level FROM nodes WHERE state <> 'gone' ORDER BY started_at, id LIMIT 1000";

const DATABASE_NOW: &str = "-- database_now
SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";

macro_rules! renew {
    ($connection:expr, $node:expr, $until:expr) => {
        sqlx::query_scalar(RENEW).bind($node).bind($until.millis()).fetch_optional($connection).await?
    };
}

impl Store {
    pub(super) async fn register_node(&self, lease: Duration) -> Result<(), StoreError> {
        self.follow_database_time().await?;
        let (now, asked) = (self.now(), since_boot());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let node = self.node().as_str();
        let alone = self.is_sqlite();
        in_tx!(self, |tx| {
            sqlx::query(INSERT_NODE)
                .bind(node)
                .bind(host.trim())
                .bind(i64::from(std::process::id()))
                .bind(now.millis())
                .bind((now + lease).millis())
                .bind(LEVEL)
                .execute(&mut *tx)
                .await?;
            // Whose lease has lapsed on PostgreSQL may have been kept from the database as this one was until now.
            if alone {
                sqlx::query(BURY_OTHERS).bind(node).execute(&mut *tx).await?;
            }
        });
        self.lease_is_held(asked + lease);
        Ok(())
    }

    /// Extends this node's lease to `now + lease`. `Moved` when somebody has already declared it gone.
    pub async fn renew_lease(&self, lease: Duration) -> Result<Renewed, StoreError> {
        let (node, asked) = (self.node().as_str(), since_boot());
        let (until, state): (Timestamp, Option<String>) = match &self.inner.pools {
            Pools::Sqlite { writer, .. } => {
                let until = self.now() + lease;
                let mut writing = writer.acquire().await?;
                let state = renew!(&mut *writing, node, until);
                writing.done().await?;
                (until, state)
            }
            // On a connection of its own: a node must not lose its lease because others use up the pool.
            Pools::Postgres { hot, .. } => {
                hot.on(Hot::Lease, async |connection| {
                    let asked = SystemClock.now();
                    let millis = sqlx::query_scalar(DATABASE_NOW).fetch_one(&mut *connection).await?;
                    self.inner.clock.follow(Timestamp::from_millis(millis), asked);
                    let until = self.now() + lease;
                    Ok((until, renew!(connection, node, until)))
                })
                .await?
            }
        };
        expect_one(u64::from(state.is_some()), "node", node, "gone")?;
        self.lease_is_held(asked + lease);
        Ok(Renewed { until, draining: state.as_deref() == Some("draining") })
    }

    /// Until when, in time since boot, nobody else may act for this node: its lease as it was last renewed, counted
    /// from before the renewal was sent. Needs no store and no wall clock, and goes on while the machine sleeps.
    pub fn lease_ends(&self) -> Duration {
        Duration::from_nanos(self.inner.lease_ends.load(Ordering::Acquire))
    }

    fn lease_is_held(&self, until: Duration) {
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.inner.lease_ends.fetch_max(nanos, Ordering::AcqRel);
    }

    /// Asks a node to take nothing on any more; it notices at its next renewal. False when it is not live.
    pub async fn drain_node(&self, node: &NodeId) -> Result<bool, StoreError> {
        let changed =
            in_tx!(self, |tx| sqlx::query(DRAIN).bind(node.as_str()).execute(&mut *tx).await?.rows_affected());
        Ok(changed == 1)
    }

    /// Gives up this node's lease, so that others need not wait for it to lapse.
    pub async fn leave(&self) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(LEAVE).bind(self.node().as_str()).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Declares other nodes gone whose lease has lapsed; whatever they held may be taken over. A node never
    /// declares itself gone: after an outage of the store it may still renew, if nobody else was faster.
    pub async fn bury_lapsed(&self, now: Timestamp) -> Result<u64, StoreError> {
        let node = self.node().as_str();
        let buried = in_tx!(self, |tx| {
            let buried =
                sqlx::query(BURY_LAPSED).bind(now.millis()).bind(node).execute(&mut *tx).await?.rows_affected();
            if buried > 0 {
                reached(Failpoint::BuryOpen);
            }
            buried
        });
        Ok(buried)
    }

    pub async fn node_row(&self, id: &NodeId) -> Result<Option<NodeRow>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(NODE).bind(id.as_str()).fetch_optional(pool).await?))
    }

    /// Nodes that were not declared gone, oldest first.
    pub async fn nodes_alive(&self) -> Result<Vec<NodeRow>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(NODES_ALIVE).fetch_all(pool).await?))
    }

    async fn follow_database_time(&self) -> Result<(), StoreError> {
        if let Pools::Postgres { pool, .. } = &self.inner.pools {
            // The first look prepares the statement, and takes longer.
            for _ in 0..3 {
                let asked = SystemClock.now();
                let millis: i64 = sqlx::query_scalar(DATABASE_NOW).fetch_one(pool).await?;
                self.inner.clock.follow(Timestamp::from_millis(millis), asked);
            }
        }
        Ok(())
    }
}
