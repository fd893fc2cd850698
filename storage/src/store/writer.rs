//! The one connection that writes to a SQLite file, lent to one caller after the other.
//!
//! A caller says when it has come to a good end, by `commit` or `done`. One that does not, because it failed or
//! was cancelled in the middle, may have left a transaction open; the next one rolls that back first. So a good
//! end costs nothing, where a pool would ask the connection's thread after every use.

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
    /// `None` once it is closed.
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    /// The last use did not come to a good end. Changed by whoever has the connection.
    dirty: Arc<AtomicBool>,
    closed: AtomicBool,
}

/// The connection while it is lent.
pub(super) struct Writing {
    connection: OwnedMappedMutexGuard<Option<SqliteConnection>, SqliteConnection>,
    dirty: Arc<AtomicBool>,
}

impl Writer {
    pub(super) async fn connect(options: SqliteConnectOptions) -> Result<Writer, StoreError> {
        let connection = Arc::new(Mutex::new(Some(options.connect().await?)));
        Ok(Writer { options, connection, dirty: Arc::default(), closed: AtomicBool::new(false) })
    }

    /// The connection, outside of any transaction; callers get it in the order in which they came.
    pub(super) async fn acquire(&self) -> Result<Writing, StoreError> {
        let connection = OwnedMutexGuard::try_map(self.connection.clone().lock_owned().await, Option::as_mut);
        let mut connection = connection.map_err(|_| sqlx::Error::PoolClosed)?;
        if self.dirty.swap(true, Ordering::AcqRel) {
            // That there is no transaction is the good answer; a thread that has died gives none any more.
            let rolled_back = connection.execute("ROLLBACK").await;
            if matches!(rolled_back, Err(sqlx::Error::WorkerCrashed)) {
                *connection = self.options.connect().await?;
            }
        }
        Ok(Writing { connection, dirty: self.dirty.clone() })
    }

    /// The same with a transaction begun.
    pub(super) async fn begin(&self) -> Result<Writing, StoreError> {
        self.acquire().await?.begin().await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(connection) = self.connection.lock().await.take() {
            // What is committed is durable, whatever the end of the connection says.
            let _ = connection.close().await;
        }
    }
}

impl Writing {
    pub(super) async fn begin(mut self) -> Result<Writing, StoreError> {
        self.execute("BEGIN IMMEDIATE").await?;
        Ok(self)
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.execute("COMMIT").await?;
        self.done();
        Ok(())
    }

    /// What was done has ended its own transaction.
    pub(super) fn done(self) {
        self.dirty.store(false, Ordering::Release);
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
