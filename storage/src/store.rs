//! The store: one set of operations on SQLite or PostgreSQL.
//!
//! Every write names the state and the epoch that it expects and looks at the rows it changed; 0 rows means
//! that somebody else was faster, and the caller stops. Times and ids come in as parameters. Transactions on
//! SQLite begin IMMEDIATE on the one writer connection; whatever a cancelled future left open is rolled back
//! before a connection is used again.

mod open;
mod schema;
mod doorbell;
mod hot;
mod door;
mod probe;
mod writer;
mod nodes;
mod roles;
mod timeline;
mod jobs;
mod rounds;
mod intake;
mod import;
mod claim;
mod canaries;
mod list;
mod live;
mod log;
mod submit;
mod reconcile;
mod settle;
mod batches;
mod results;
mod tally;
mod operator;
mod accept;
mod buffer;
mod caps;
mod dispatch;
mod taking;
mod verdict;
mod finish;
mod overdue;
mod waiting;
mod records;
mod traces;
mod pull;
mod output;
mod queues;
mod keys;
mod draw;
mod task_jobs;
mod sessions;
mod session_sweep;
mod sweeps;
mod audit;
mod retention;
mod repair;
mod check;
mod backup;
mod due;

pub use accept::{Accepted, Idempotency, NewRecord};
pub use audit::{Deed, DeedRow};
pub use backup::{PostgresPlace, copy_into, postgres_place};
pub use batches::{BatchFilter, BatchRow};
pub use buffer::{BufferDepth, BufferEntry, LetThrough};
pub use canaries::{Canary, CanaryState};
pub use caps::{Cap, Capped};
pub use check::{Answer, check};
pub use claim::{Claim, DayCap, Limits, Opened};
pub use dispatch::{Brief, LaneHead, Leased, Share, Taker};
pub use door::Door;
pub use doorbell::{Bell, Heard};
pub use draw::{Drawn, Dress, Dressed, Waiting, WaitingAt, WaitingRun};
pub use import::{Import, NamedRequest, QueuedName};
pub use intake::PoolCounts;
pub use jobs::{JobMove, JobRow, NewJob};
pub use keys::ApiKey;
pub use list::RunFilter;
pub use live::LiveRequest;
pub use log::Mark;
pub use nodes::{NodeRow, Renewed};
pub use open::{OpenOptions, StoreClock};
pub use operator::{Engine, IdOwner};
pub use output::{NewChunk, OutputChunk, OutputEnd};
pub use pull::{PullLease, PullWorker};
pub use queues::{InJobs, QueueRow, QueueTotal};
pub use reconcile::Stray;
pub use records::{PastAttempt, RunRecord};
pub use repair::{Fault, Faulty, Part};
pub use results::ResultRow;
pub use rounds::RoundRow;
pub use schema::{MigrationRow, migrate, schema};
pub use session_sweep::{DriverStands, SessionFate, SessionLife};
pub use sessions::{
    NewSession, SessionChange, SessionFilter, SessionLogEntry, SessionOpened, SessionRow, SessionRules,
};
pub use settle::{Settled, Verdict};
pub use submit::Fence;
pub use sweeps::{Retained, RetentionCursor, SweepDone, SweepRow};
pub use taking::Claimed;
pub use tally::BatchTally;
pub use task_jobs::{JobAsked, JobLogEntry, Made};
pub use timeline::{Doubt, Doubted, FAILED_OVER, FailedOver, mark_copy};
pub use traces::Traced;
pub use verdict::{Ending, Finished, RunVerdict};
pub use waiting::{Cancelled, Patch, Patched};
pub use writer::WriteTurn;

use crate::error::StoreError;
use crate::model::{NodeId, Timestamp};
use sqlx::{Pool, Postgres, Sqlite};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// A handle on the store; clones share its pools.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pools: Pools,
    node: NodeId,
    clock: Arc<StoreClock>,
    /// When this node's lease ends, in nanoseconds since boot.
    lease_ends: AtomicU64,
    /// The database tells when it was failed over, or is a copy.
    follows_timeline: AtomicBool,
    /// Holds the lock on a SQLite file for as long as the store is open.
    _owner: Option<std::fs::File>,
}

#[derive(Debug)]
enum Pools {
    Sqlite { writer: Box<writer::Writer>, readers: Pool<Sqlite> },
    Postgres { pool: Pool<Postgres>, hot: Box<hot::HotConnections> },
}

/// Runs one body against whichever pool is behind the store; `Db` names its database in the body.
macro_rules! on_pool {
    ($store:expr, |$pool:ident| $body:expr) => {
        match &$store.inner.pools {
            $crate::store::Pools::Sqlite { readers: $pool, .. } => {
                #[allow(dead_code, reason = "not every body names it")]
                type Db = sqlx::Sqlite;
                $body
            }
            $crate::store::Pools::Postgres { pool: $pool, .. } => {
                #[allow(dead_code, reason = "not every body names it")]
                type Db = sqlx::Postgres;
                $body
            }
        }
    };
}

/// Runs one body in a transaction and commits it; leaving the body early rolls back.
macro_rules! in_tx {
    ($store:expr, |$tx:ident| $body:expr) => {
        match &$store.inner.pools {
            $crate::store::Pools::Sqlite { writer, .. } => {
                #[allow(dead_code, reason = "not every body names it")]
                type Db = sqlx::Sqlite;
                #[allow(dead_code, reason = "not every body names it")]
                const FOR_UPDATE: &str = "";
                let mut $tx = writer.begin().await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
            $crate::store::Pools::Postgres { pool, .. } => {
                #[allow(dead_code, reason = "not every body names it")]
                type Db = sqlx::Postgres;
                #[allow(dead_code, reason = "not every body names it")]
                const FOR_UPDATE: &str = " FOR UPDATE";
                let mut $tx = pool.begin().await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
        }
    };
}

/// Appends to a batch's event log inside the transaction that changes the batch (invariant 30).
macro_rules! log_batch {
    ($tx:ident, $batch:expr, $at:expr, $epoch:expr, $event:expr, $data:expr) => {
        sqlx::query(
            "-- log_batch
            INSERT INTO batch_events (batch_id, at, epoch, event, data) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind($batch)
        .bind($at.millis())
        .bind($epoch.number())
        .bind($event)
        .bind($data)
        .execute(&mut *$tx)
        .await?
    };
}

pub(crate) use {in_tx, log_batch, on_pool};

impl Store {
    /// The node that this process is, as it is written on whatever it holds.
    pub fn node(&self) -> &NodeId {
        &self.inner.node
    }

    /// The store's own time: the machine's on SQLite, the database's on PostgreSQL.
    pub fn now(&self) -> Timestamp {
        crate::model::Clock::now(&*self.inner.clock)
    }

    pub fn clock(&self) -> Arc<StoreClock> {
        self.inner.clock.clone()
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self.inner.pools, Pools::Sqlite { .. })
    }

    /// Fills in what differs between the databases. `{skip_locked}` passes over rows that others hold; `{picked}`
    /// are the rows of which the CTE of that name selects `{place}`. On PostgreSQL that is an array of the places
    /// of rows that are locked: no plan can make a walk over the table of it, whatever the statistics of one that
    /// fills and empties in seconds say.
    fn render(&self, sql: &str) -> sqlx::AssertSqlSafe<String> {
        let (skip_locked, place, picked) = match &self.inner.pools {
            Pools::Sqlite { .. } => ("", "env, run_id", "(env, run_id) IN (SELECT env, run_id FROM picked)"),
            Pools::Postgres { .. } => {
                (" FOR UPDATE SKIP LOCKED", "ctid AS place", "ctid = ANY(ARRAY(SELECT place FROM picked))")
            }
        };
        sqlx::AssertSqlSafe(
            sql.replace("{skip_locked}", skip_locked).replace("{place}", place).replace("{picked}", picked),
        )
    }

    /// Closes all connections; nothing is written after this (invariant 38).
    pub async fn close(&self) {
        match &self.inner.pools {
            Pools::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres { pool, hot } => {
                hot.close().await;
                pool.close().await;
            }
        }
    }
}

/// Rows per multi-row statement; times the columns of any of ours this stays below both parameter limits.
const CHUNK: usize = 500;

/// Statements for at most so many rows are kept prepared on SQLite, one for each number of rows.
const KEPT: usize = 32;

/// Turns "no row was changed" into the typed answer that the row has moved on.
fn expect_one(changed: u64, entity: &'static str, id: &str, now: &str) -> Result<(), StoreError> {
    if changed == 1 {
        return Ok(());
    }
    Err(StoreError::Moved { entity, id: id.to_owned(), now: now.to_owned() })
}
