//! The one connection that writes to a SQLite file, lent to one caller after the other.
//!
//! A caller says when it has come to a good end, by `commit` or `done`, and gives the connection back before it
//! waits for the disk. One that does not, because it failed or was cancelled in the middle, may have left a
//! transaction open; the next one rolls that back first. So a good end costs nothing, where a pool would ask the
//! connection's thread after every use.
//!
//! Callers come one after the other through a turnstile, and keep it as long as they have the connection. One with
//! precedence goes past it: whoever has the connection ends, and then it is its turn, however many wait. There are two of
//! them, for few runs that come in and for few that end, and one who is through the turnstile waits for one of each.

use super::log::{Log, Mark};
use super::{Pools, Store};
use crate::error::StoreError;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

#[derive(Debug)]
pub(super) struct Writer {
    options: SqliteConnectOptions,
    log: Arc<Log>,
    turns: Turns,
    /// The last use did not come to a good end. Changed by whoever has the connection.
    dirty: Arc<AtomicBool>,
    closed: AtomicBool,
}

/// Who may have the connection, and when.
#[derive(Debug)]
struct Turns {
    /// `None` once it is closed.
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    turnstile: Arc<Mutex<()>>,
}

/// A turn to write. The turnstile is given back after the connection, for fields go in their order; there is none
/// with precedence.
struct Turn {
    connection: OwnedMutexGuard<Option<SqliteConnection>>,
    turnstile: Option<OwnedMutexGuard<()>>,
}

/// The connection while it is lent; its fields go as those of a turn.
pub(super) struct Writing {
    connection: OwnedMappedMutexGuard<Option<SqliteConnection>, SqliteConnection>,
    _turnstile: Option<OwnedMutexGuard<()>>,
    dirty: Arc<AtomicBool>,
    log: Arc<Log>,
}

/// Leave to write, for who wants to know it before deciding what. Held by one caller at a time on SQLite; on
/// PostgreSQL, where there are many writers, there is nothing to wait for.
pub struct WriteTurn(Option<Writing>);

impl WriteTurn {
    pub(super) async fn writing(self, writer: &Writer) -> Result<Writing, StoreError> {
        match self.0 {
            Some(writing) => Ok(writing),
            None => writer.acquire().await,
        }
    }
}

impl Store {
    /// Waits until nothing else is written that one would have to wait for. Whoever decides only then what to
    /// write takes along all that came meanwhile, and knows how long the writing itself takes.
    pub async fn write_turn(&self) -> Result<WriteTurn, StoreError> {
        Ok(WriteTurn(match &self.inner.pools {
            Pools::Sqlite { writer, .. } => Some(writer.acquire().await?),
            Pools::Postgres { .. } => None,
        }))
    }

    /// The same if there is nothing to wait for.
    pub fn write_turn_now(&self) -> Option<WriteTurn> {
        match &self.inner.pools {
            Pools::Sqlite { writer, .. } => Some(WriteTurn(Some(writer.acquire_now()?))),
            Pools::Postgres { .. } => Some(WriteTurn(None)),
        }
    }

    /// The same before all others who wait, for a few rows beside a flood that keeps the writer busy.
    pub async fn write_turn_first(&self) -> Result<WriteTurn, StoreError> {
        Ok(WriteTurn(match &self.inner.pools {
            Pools::Sqlite { writer, .. } => Some(writer.acquire_first().await?),
            Pools::Postgres { .. } => None,
        }))
    }
}

impl Turns {
    /// The next turn, after all who wait for one.
    async fn take(&self) -> Turn {
        let turnstile = Some(self.turnstile.clone().lock_owned().await);
        Turn { connection: self.connection.clone().lock_owned().await, turnstile }
    }

    /// The same if nobody has it or waits.
    fn take_now(&self) -> Option<Turn> {
        let turnstile = Some(self.turnstile.clone().try_lock_owned().ok()?);
        Some(Turn { connection: self.connection.clone().try_lock_owned().ok()?, turnstile })
    }

    /// The same before all who wait.
    async fn take_first(&self) -> Turn {
        Turn { connection: self.connection.clone().lock_owned().await, turnstile: None }
    }
}

impl Writer {
    pub(super) async fn connect(options: SqliteConnectOptions) -> Result<Writer, StoreError> {
        let log = Arc::new(Log::of(options.get_filename()));
        let connection = Arc::new(Mutex::new(Some(options.connect().await?)));
        let turns = Turns { connection, turnstile: Arc::default() };
        Ok(Writer { options, log, turns, dirty: Arc::default(), closed: AtomicBool::new(false) })
    }

    /// The connection, outside of any transaction; callers get it in the order in which they came.
    pub(super) async fn acquire(&self) -> Result<Writing, StoreError> {
        self.lend(self.turns.take().await).await
    }

    /// The same before all who wait for it but the next one, who stands in the same line. For callers with little to write,
    /// one of each at a time: the more of them, the longer others wait.
    pub(super) async fn acquire_first(&self) -> Result<Writing, StoreError> {
        self.lend(self.turns.take_first().await).await
    }

    /// The same if it is free, and the last use came to a good end.
    fn acquire_now(&self) -> Option<Writing> {
        let Turn { connection, turnstile } = self.turns.take_now()?;
        let connection = OwnedMutexGuard::try_map(connection, Option::as_mut).ok()?;
        if self.dirty.load(Ordering::Acquire) {
            return None;
        }
        self.dirty.store(true, Ordering::Release);
        Some(self.lent(connection, turnstile))
    }

    async fn lend(&self, turn: Turn) -> Result<Writing, StoreError> {
        let connection = OwnedMutexGuard::try_map(turn.connection, Option::as_mut);
        let mut connection = connection.map_err(|_| sqlx::Error::PoolClosed)?;
        if self.dirty.swap(true, Ordering::AcqRel) {
            // That there is no transaction is the good answer; a thread that has died gives none any more.
            let rolled_back = connection.execute("ROLLBACK").await;
            if matches!(rolled_back, Err(sqlx::Error::WorkerCrashed)) {
                *connection = self.options.connect().await?;
            }
        }
        Ok(self.lent(connection, turn.turnstile))
    }

    fn lent(
        &self,
        connection: OwnedMappedMutexGuard<Option<SqliteConnection>, SqliteConnection>,
        turnstile: Option<OwnedMutexGuard<()>>,
    ) -> Writing {
        Writing { connection, _turnstile: turnstile, dirty: self.dirty.clone(), log: self.log.clone() }
    }

    /// The same with a transaction begun.
    pub(super) async fn begin(&self) -> Result<Writing, StoreError> {
        self.acquire().await?.begin().await
    }

    pub(super) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(connection) = self.turns.connection.lock().await.take() {
            // Whoever waits for this hears of it, and SQLite syncs once more when it removes the log.
            let _ = self.log.all_synced().await;
            let _ = connection.close().await;
        }
    }
}

impl Writing {
    pub(super) async fn begin(mut self) -> Result<Writing, StoreError> {
        self.execute("BEGIN IMMEDIATE").await?;
        Ok(self)
    }

    /// Returns once what was done is durable.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let log = self.log.clone();
        let mark = self.commit_unsynced().await?;
        log.synced(mark).await
    }

    /// The same where what was done has ended its own transaction.
    pub(super) async fn done(self) -> Result<(), StoreError> {
        let log = self.log.clone();
        let mark = self.done_unsynced();
        log.synced(mark).await
    }

    /// Commits; whoever is to rely on it has to sync first.
    pub(super) async fn commit_unsynced(mut self) -> Result<Mark, StoreError> {
        self.execute("COMMIT").await?;
        Ok(self.done_unsynced())
    }

    pub(super) fn done_unsynced(self) -> Mark {
        self.dirty.store(false, Ordering::Release);
        self.log.wrote()
    }
}

impl Deref for Writing {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}
