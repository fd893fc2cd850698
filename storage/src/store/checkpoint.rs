//! Copies SQLite's log into the database beside those who write.
//!
//! By itself SQLite does that at the end of a commit, once a thousand pages stand in the log: whoever writes next waits
//! for the copying, and for two syncs. Here a connection of its own copies while others write. What they write meanwhile
//! has to be copied too before the log can begin anew; so a turn to write is taken for that little rest alone, when the
//! disk has what was copied before.

use super::log::Log;
use super::writer::Turns;
use crate::error::StoreError;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::fs::File;
use std::io::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::warn;

/// Pages in the log that are worth a copy, as many as SQLite itself takes for that. A longer log costs latency: until it
/// has once been as long, each sync has to tell the file system too how long it has become.
const PAGES: i64 = 1_000;
/// What the turn to write may be taken for; else the copy is made again, so often at most.
const PAGES_LEFT: i64 = 100;
const COPIES: usize = 4;
/// SQLite's own limit stays as a net beneath, 64 MiB: then it copies in the middle of a commit.
pub(super) const PAGES_MOST: &str = "16000";
/// How long the log may grow between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(25);

const PROGRESS: &str = "PRAGMA wal_checkpoint(NOOP)";
const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// Pages in the log, and how many of them stand in the database too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// Another connection copies.
    busy: bool,
    pages: i64,
    copied: i64,
}

impl Progress {
    fn left(self) -> i64 {
        self.pages - self.copied
    }

    fn is_due(self) -> bool {
        self.left() >= PAGES
    }

    /// Whether all is copied that stood there when it began.
    fn is_whole(self) -> bool {
        !self.busy && self.left() <= 0
    }
}

/// See the module's first lines. Its work ends with it.
#[derive(Debug)]
pub(super) struct Checkpointer {
    copier: Arc<Copier>,
    work: JoinHandle<()>,
}

#[derive(Debug)]
struct Copier {
    /// `None` once it is closed.
    connection: Mutex<Option<SqliteConnection>>,
    /// Open for as long as SQLite has this file open: whoever closes one takes SQLite's locks on it along.
    database: Arc<File>,
    path: PathBuf,
    turns: Turns,
}

impl Checkpointer {
    pub(super) async fn start(
        options: &SqliteConnectOptions,
        log: Arc<Log>,
        turns: Turns,
    ) -> Result<Checkpointer, StoreError> {
        let connection = Mutex::new(Some(options.connect().await?));
        let path = options.get_filename().to_owned();
        let database = File::open(&path);
        let database = database.map_err(|source| StoreError::File { action: "open", path: path.clone(), source })?;
        let copier = Arc::new(Copier { connection, database: Arc::new(database), path, turns });
        let work = tokio::spawn(copier.clone().work(log));
        Ok(Checkpointer { copier, work })
    }

    /// Once what is under way has ended.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.copier.connection.lock().await.take() {
            let _ = connection.close().await;
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Copier {
    async fn work(self: Arc<Copier>, log: Arc<Log>) {
        let mut fails = false;
        loop {
            log.grows().await;
            #[expect(clippy::disallowed_methods, reason = "waits for the log to become long")]
            sleep(LOOK_EVERY).await;
            let looked = self.look().await;
            if let Err(error) = &looked
                && !fails
            {
                warn!(%error, "what is written cannot be copied from the log into the database now");
            }
            fails = looked.is_err();
        }
    }

    /// Copies what there is if it is much, and has the log begin anew.
    async fn look(&self) -> Result<(), StoreError> {
        let mut held = self.connection.lock().await;
        let Some(connection) = &mut *held else { return Ok(()) };
        let mut found = ask(connection, PROGRESS).await?;
        if !found.is_due() {
            return Ok(());
        }
        for _ in 0..COPIES {
            if !ask(connection, COPY).await?.is_whole() {
                // A reader needs the database as it was.
                return Ok(());
            }
            self.sync_database().await?;
            found = ask(connection, PROGRESS).await?;
            if found.left() <= PAGES_LEFT {
                break;
            }
        }
        let _turn = self.turns.take().await;
        ask(connection, COPY).await?;
        Ok(())
    }

    /// SQLite does it only where nobody has written meanwhile: in the turn to write, when this has left it little.
    async fn sync_database(&self) -> Result<(), StoreError> {
        let database = self.database.clone();
        let synced =
            spawn_blocking(move || database.sync_data()).await.unwrap_or_else(|panic| Err(Error::other(panic)));
        synced.map_err(|source| StoreError::File { action: "sync", path: self.path.clone(), source })
    }
}

async fn ask(connection: &mut SqliteConnection, pragma: &'static str) -> Result<Progress, StoreError> {
    let (busy, pages, copied): (bool, i64, i64) = sqlx::query_as(pragma).fetch_one(connection).await?;
    Ok(Progress { busy, pages, copied })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_already_is_not_worth_another_copy() {
        let is_due = |pages, copied| Progress { busy: false, pages, copied }.is_due();
        assert!(!is_due(PAGES - 1, 0) && is_due(PAGES, 0));
        assert!(!is_due(9 * PAGES, 8 * PAGES + 1) && is_due(9 * PAGES, 8 * PAGES));
    }

    #[test]
    fn a_copy_that_another_one_or_a_reader_was_in_the_way_of_is_not_whole() {
        assert!(Progress { busy: false, pages: 9, copied: 9 }.is_whole());
        assert!(!Progress { busy: false, pages: 9, copied: 8 }.is_whole());
        assert!(!Progress { busy: true, pages: -1, copied: -1 }.is_whole());
    }
}
