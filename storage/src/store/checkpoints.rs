//! Brings SQLite's log of writes into its file, beside the writer.
//!
//! SQLite itself does that at the end of whichever commit makes the log long, and every writer behind waits for it.
//! Here a connection of its own copies while others write. Only the little that they have added by then is copied
//! in a turn to write, when nobody adds to it: that is what lets the log begin anew, and not grow for ever under a
//! steady load (https://www.sqlite.org/wal.html, "Avoiding Excessively Large WAL Files").

use super::writer::Turns;
use crate::error::StoreError;
use sqlx::{Connection, SqliteConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tracing::warn;

/// Pages that the log may have before they are brought into the file.
const PAGES: i64 = 2_000;
/// Pages that are few enough to have the writer wait for.
const FEW_PAGES: i64 = 200;
/// Passes beside the writer for one turn to write: it may be as fast as the copy.
const PASSES: u32 = 4;
/// Writes between two looks at the log; the smallest one adds some ten pages to it.
const LOOK_EVERY: u32 = 32;
/// Where the writer does it by itself after all, in pages: should nobody else come to it.
pub(super) const BY_THE_WRITER: &str = "16000";

/// Counts writes, and wakes whoever looks at the log.
#[derive(Debug, Default)]
pub(super) struct Written {
    writes: AtomicU32,
    enough: Notify,
}

impl Written {
    pub(super) fn count(&self) {
        if self.writes.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY == LOOK_EVERY - 1 {
            self.enough.notify_one();
        }
    }
}

/// The task that does it, until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Checkpoints {
    stop: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpoints {
    pub(super) fn start(connection: SqliteConnection, turns: Turns, written: Arc<Written>) -> Checkpoints {
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn(work(connection, turns, written, stop.clone()));
        Checkpoints { stop, task: Mutex::new(Some(task)) }
    }

    pub(super) async fn stop(&self) {
        self.stop.notify_one();
        if let Some(task) = self.task.lock().await.take() {
            // What it had not come to is in the log, and is brought into the file when the last connection closes.
            let _ = task.await;
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

async fn work(mut connection: SqliteConnection, turns: Turns, written: Arc<Written>, stop: Arc<Notify>) {
    loop {
        tokio::select! {
            biased;
            () = stop.notified() => break,
            () = written.enough.notified() => {}
        }
        if let Err(error) = bring_in(&mut connection, &turns).await {
            warn!(%error, "the log of writes is not brought into the database's file; tried again with the next writes");
        }
    }
    let _ = connection.close().await;
}

async fn bring_in(connection: &mut SqliteConnection, turns: &Turns) -> Result<(), StoreError> {
    let mut left = checkpoint(connection, "NOOP").await?;
    if left < PAGES {
        return Ok(());
    }
    for _ in 0..PASSES {
        checkpoint(connection, "PASSIVE").await?;
        left = checkpoint(connection, "NOOP").await?;
        if left < FEW_PAGES {
            break;
        }
    }
    let _turn = turns.take().await;
    checkpoint(connection, "PASSIVE").await?;
    Ok(())
}

/// Pages of the log that are not in the file yet (https://www.sqlite.org/pragma.html#pragma_wal_checkpoint).
async fn checkpoint(connection: &mut SqliteConnection, mode: &str) -> Result<i64, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("PRAGMA wal_checkpoint({mode})"));
    let (_busy, log, brought): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(log - brought)
}
