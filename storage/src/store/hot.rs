//! Connections for what happens thousands of times a second, taking runs in, claiming them, ending them, and for
//! what must never wait for a connection.
//!
//! Each belongs to one kind of work, which happens one at a time per node anyway; for taking runs in and for ending
//! them there are two, because a few runs do not wait for many. Whatever runtime a kind of work runs on hears the
//! answers itself, because its connection was made there. A connection is not tested before every use and not rolled
//! back after it, which would triple the round trips of a single statement: one whose use did not come to a good end is
//! thrown away, and the next use makes a new one.

use super::door::Door;
use crate::error::StoreError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What a hot connection is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hot {
    Accept(Door),
    Claim,
    Finish(Door),
    /// Keeping this node's lease, which must not wait for anything else.
    Lease,
    /// Nothing but looking whether the store answers.
    Probe,
    /// Telling other nodes: a notification takes a lock that all share, so never with a commit that others wait for.
    Ring,
}

/// A connection, and the outages that had been noticed when it was made.
type Kept = Mutex<Option<(u64, PgConnection)>>;

#[derive(Debug)]
pub(super) struct HotConnections {
    options: PgConnectOptions,
    /// A connection that is older than the last of them is dead, or may be: it would fail the work that finds out.
    outages: AtomicU64,
    accept_few: Kept,
    accept_many: Kept,
    claim: Kept,
    finish_few: Kept,
    finish_many: Kept,
    lease: Kept,
    probe: Kept,
    ring: Kept,
    closed: AtomicBool,
}

impl HotConnections {
    pub(super) fn new(options: PgConnectOptions) -> HotConnections {
        // Statements are prepared once, maybe while the tables are empty, and a plan that reads a whole table would be
        // kept while it fills: ending a run would take as long as there are runs, until PostgreSQL analyzes them.
        let options =
            options.options([("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")]);
        HotConnections {
            options,
            outages: AtomicU64::new(0),
            accept_few: Kept::default(),
            accept_many: Kept::default(),
            claim: Kept::default(),
            finish_few: Kept::default(),
            finish_many: Kept::default(),
            lease: Kept::default(),
            probe: Kept::default(),
            ring: Kept::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn slot(&self, hot: Hot) -> &Kept {
        match hot {
            Hot::Accept(Door::Few) => &self.accept_few,
            Hot::Accept(Door::Many) => &self.accept_many,
            Hot::Claim => &self.claim,
            Hot::Finish(Door::Few) => &self.finish_few,
            Hot::Finish(Door::Many) => &self.finish_many,
            Hot::Lease => &self.lease,
            Hot::Probe => &self.probe,
            Hot::Ring => &self.ring,
        }
    }

    /// How to reach the database, for a connection that is none of these.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// No connection that there is now is used again.
    pub(super) fn distrust(&self) {
        self.outages.fetch_add(1, Ordering::AcqRel);
    }

    /// Runs work on a connection of its kind. The connection is out of its place meanwhile, so that a use that
    /// fails or is cancelled in the middle takes it along.
    pub(super) async fn on<T, F>(&self, hot: Hot, work: F) -> Result<T, StoreError>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    {
        let mut slot = self.slot(hot).lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Database(sqlx::Error::PoolClosed));
        }
        let outages = self.outages.load(Ordering::Acquire);
        let mut connection = match slot.take() {
            Some((made_after, connection)) if made_after == outages => connection,
            _ => match timeout(CONNECT_WITHIN, self.options.connect()).await {
                Ok(connected) => connected?,
                Err(_) => return Err(StoreError::Database(sqlx::Error::PoolTimedOut)),
            },
        };
        let value = work(&mut connection).await?;
        *slot = Some((outages, connection));
        Ok(value)
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let doors = [&self.accept_few, &self.accept_many, &self.finish_few, &self.finish_many];
        for slot in doors.into_iter().chain([&self.claim, &self.lease, &self.probe, &self.ring]) {
            if let Some((_, connection)) = slot.lock().await.take() {
                let _ = connection.close().await;
            }
        }
    }
}
