//! How far the write-ahead log of a SQLite file is on the disk.
//!
//! SQLite's own `synchronous=FULL` syncs the log in the middle of each commit, and keeps everybody else from writing
//! meanwhile. Here a commit only writes (`NORMAL`), and what it is for waits for a sync of the log that began after
//! it. The promise is the same, and syncs are shared: one serves all commits before it, while the next ones are
//! written. The log is one file, written from its beginning to its end, so a sync never leaves out what a later
//! commit builds on; and before SQLite copies from the log or begins it anew, it syncs by itself.

use super::{Pools, Store};
use crate::error::StoreError;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is to be synced for a commit to be durable. The least one is durable as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(u64);

/// See the module's first lines.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Held while it is synced: the kernel tells of an error once, and whoever synced beside would not hear of it.
    file: Mutex<Option<File>>,
    /// Commits that have ended.
    written: AtomicU64,
    /// How many of them are on the disk.
    synced: AtomicU64,
    /// After a failed sync the kernel may take for written what is not, and say so at the next one.
    failed: AtomicBool,
    /// One of those who wait syncs for all.
    leader: tokio::sync::Mutex<()>,
}

impl Log {
    /// The log of a database file that is open.
    pub(super) fn of(database: &Path) -> Log {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Log {
            path: path.into(),
            file: Mutex::default(),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            leader: tokio::sync::Mutex::default(),
        }
    }

    /// A commit has ended.
    pub(super) fn wrote(&self) -> Mark {
        Mark(self.written.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Returns once a commit is durable.
    pub(super) async fn synced(self: &Arc<Log>, mark: Mark) -> Result<(), StoreError> {
        if self.is_synced(mark) {
            return Ok(());
        }
        let _leader = self.leader.lock().await;
        let log = self.clone();
        let synced = tokio::task::spawn_blocking(move || log.sync_here(mark)).await;
        synced.unwrap_or_else(|panic| Err(self.error(Error::other(panic))))
    }

    /// The same for all commits until now.
    pub(super) async fn all_synced(self: &Arc<Log>) -> Result<(), StoreError> {
        self.synced(Mark(self.written.load(Ordering::Acquire))).await
    }

    /// The same on this thread, which waits for the disk.
    pub(super) fn sync_here(&self, mark: Mark) -> Result<(), StoreError> {
        let mut file = self.held();
        if self.is_synced(mark) {
            return Ok(());
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(self.error(Error::other("an earlier sync failed")));
        }
        // What ends while the disk is busy may be left out.
        let written = self.written.load(Ordering::Acquire);
        let synced = self.current(&mut file).and_then(|file| file.map_or(Ok(()), File::sync_data));
        synced.map_err(|error| {
            self.failed.store(true, Ordering::Release);
            self.error(error)
        })?;
        self.synced.fetch_max(written, Ordering::AcqRel);
        Ok(())
    }

    fn is_synced(&self, mark: Mark) -> bool {
        self.synced.load(Ordering::Acquire) >= mark.0
    }

    fn held(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file as it is now. SQLite removes it with its last connection, when all of it is in the database and
    /// synced there, and makes a new one with the next.
    fn current<'a>(&self, known: &'a mut Option<File>) -> std::io::Result<Option<&'a File>> {
        let is_there = match known {
            Some(file) => file.metadata()?.nlink() > 0,
            None => false,
        };
        if !is_there {
            *known = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(known.as_ref())
    }

    fn error(&self, source: Error) -> StoreError {
        StoreError::Unsynced { path: self.path.clone(), source }
    }
}

impl Store {
    /// Makes a commit durable on this thread, which waits for the disk; for a thread that has nothing else to do.
    pub fn sync_here(&self, mark: Mark) -> Result<(), StoreError> {
        match &self.inner.pools {
            Pools::Sqlite { writer, .. } => writer.log().sync_here(mark),
            Pools::Postgres { .. } => Ok(()),
        }
    }

    /// Returns once a commit is durable.
    pub(super) async fn synced(&self, mark: Mark) -> Result<(), StoreError> {
        match &self.inner.pools {
            Pools::Sqlite { writer, .. } => writer.log().synced(mark).await,
            Pools::Postgres { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Arc<Log>) {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Arc::new(Log::of(&dir.path().join("a.db")));
        (dir, log)
    }

    #[test]
    fn one_sync_serves_all_that_was_written_before_it() {
        let (dir, log) = log();
        std::fs::write(dir.path().join("a.db-wal"), "x").expect("a log");
        let (first, second) = (log.wrote(), log.wrote());
        assert!(Mark::default() < first && first < second && !log.is_synced(first));
        log.sync_here(first).expect("it is a file");
        assert!(log.is_synced(second) && !log.is_synced(log.wrote()));
    }

    #[tokio::test]
    async fn nothing_is_durable_any_more_after_a_sync_that_failed() {
        let (dir, log) = log();
        let (path, mark) = (dir.path().join("a.db-wal"), log.wrote());
        std::os::unix::fs::symlink("/dev/null", &path).expect("a log that no disk takes");
        let error = log.synced(mark).await.expect_err("it is not on a disk").to_string();
        assert!(error.contains("cannot be synced") && error.contains("a.db-wal"), "{error}");
        std::fs::remove_file(&path).expect("it is removed");
        std::fs::write(&path, "x").expect("a log");
        let error = log.synced(mark).await.expect_err("what was lost is not known").to_string();
        assert!(error.contains("an earlier sync failed"), "{error}");
        log.synced(Mark::default()).await.expect("nothing was written");
    }

    #[test]
    fn a_log_that_is_begun_anew_is_the_one_that_is_synced() {
        let (dir, log) = log();
        let path = dir.path().join("a.db-wal");
        std::fs::write(&path, "x").expect("a log");
        let size = || {
            let mut held = log.held();
            let file = log.current(&mut held).expect("it can be opened");
            file.map(|file| file.metadata().expect("it is there").size())
        };
        assert_eq!(size(), Some(1));
        std::fs::remove_file(&path).expect("it is removed");
        log.sync_here(log.wrote()).expect("SQLite has copied all of it");
        assert_eq!(size(), None);
        std::fs::write(&path, "yz").expect("another log");
        assert_eq!(size(), Some(2));
    }
}
