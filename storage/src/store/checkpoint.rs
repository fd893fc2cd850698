//! Carries what is committed from SQLite's log into its file, on a connection of its own.
//!
//! SQLite does so by itself inside the commit that makes the log 1,000 pages long, and that commit then takes tens
//! of milliseconds, several times a second under load. A passive checkpoint beside the writer holds nobody up. The
//! writer keeps a bound of its own (`LOG_PAGES`) for when this does not keep pace; by then most is carried over.

use super::writer::Writer;
use sqlx::{Connection, Executor, SqliteConnection};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// Pages of 4 KiB in the log beyond which the writer itself carries them over.
pub(super) const LOG_PAGES: &str = "16384";
const EVERY: Duration = Duration::from_millis(400);

/// Goes on until the writer is closed or gone.
pub(super) fn start(writer: &Arc<Writer>, connection: SqliteConnection) -> JoinHandle<()> {
    tokio::spawn(keep(Arc::downgrade(writer), writer.closing(), connection))
}

async fn keep(writer: Weak<Writer>, closing: Arc<tokio::sync::Notify>, mut connection: SqliteConnection) {
    let mut look = interval(EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut failing) = (0, false);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = closing.notified() => break,
        }
        let Some(commits) = writer.upgrade().map(|writer| writer.commits()) else { break };
        if commits == seen {
            continue;
        }
        seen = commits;
        match connection.execute("PRAGMA wal_checkpoint(PASSIVE)").await {
            Ok(_) => failing = false,
            Err(error) if !failing => {
                failing = true;
                warn!(%error, "the log cannot be carried over into the SQLite file now; commits do it themselves");
            }
            Err(_) => {}
        }
    }
    // Nothing of it is lost: the log is read again with the file.
    let _ = connection.close().await;
}
