//! Opens a store: takes its lock, sets and re-reads the pragmas, migrates, and registers this node.

use super::hot::HotConnections;
use super::schema::{migrate_postgres, migrate_sqlite};
use super::writer::Writer;
use super::{Inner, Pools, Store};
use crate::error::StoreError;
use crate::model::{Clock, NodeId, SystemClock, Timestamp};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Database, Executor, Postgres, Sqlite, SqliteConnection};
use std::fs::{File, OpenOptions as FileOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const READERS: u32 = 4;
/// Negative: KiB. Every connection has a cache of its own, so the readers' are small.
const WRITER_CACHE: &str = "-4096";
const READER_CACHE: &str = "-2048";
/// How long the lock of a process that is dead is waited for.
const LOCK_TRIES: u32 = 40;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(50);
const POSTGRES_CONNECTIONS: u32 = 10;
/// A pool goes on trying a server that refuses, at intervals of up to a fifth of this: the longer it may take,
/// the later it notices that the server is back.
const ACQUIRE_WITHIN: Duration = Duration::from_secs(5);
/// One that is older is closed and made anew when somebody wants it: what is behind an address may change.
const CONNECTION_LIVES: Duration = Duration::from_mins(30);
/// A statement that takes longer is given up by the server: whoever asked has done so long before.
const STATEMENT_WITHIN_MS: &str = "60000";
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// `sqlite:PATH` or `postgres://…`.
    pub url: String,
    /// This process, as a fresh incarnation.
    pub node: NodeId,
    /// How long this node's lease runs from each renewal.
    pub lease: Duration,
}

/// Time as the store sees it, so that one skewed machine cannot expire the leases of others.
#[derive(Debug, Default)]
pub struct StoreClock {
    offset_ms: AtomicI64,
    /// How long the answer took by which the offset was found, and a little more with each that took longer.
    trip_ms: AtomicI64,
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        let millis = SystemClock.now().millis();
        Timestamp::from_millis(millis + self.offset_ms.load(Ordering::Relaxed))
    }
}

impl StoreClock {
    /// Takes the store's time over, which was read somewhere between `asked` on this machine's clock and now. One
    /// that took long on its way says little: nodes that are busy would be apart by as much.
    pub(super) fn follow(&self, store_now: Timestamp, asked: Timestamp) {
        let heard = SystemClock.now();
        let (trip, best) = (heard.millis() - asked.millis(), self.trip_ms.load(Ordering::Relaxed));
        let offset = store_now.millis() - asked.millis().midpoint(heard.millis());
        // A clock that was set meanwhile is off by more than any trip.
        let was_set = (offset - self.offset_ms.load(Ordering::Relaxed)).abs() > trip.abs() + best + 1;
        if trip <= best || was_set {
            self.offset_ms.store(offset, Ordering::Relaxed);
            self.trip_ms.store(trip, Ordering::Relaxed);
        } else {
            self.trip_ms.store(best + 1, Ordering::Relaxed);
        }
    }
}

/// Where a store is.
pub(super) enum Place {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

impl Place {
    pub(super) fn of(url: &str) -> Result<Place, StoreError> {
        let bad_url = || StoreError::BadUrl { url: redacted(url) };
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            if path.as_os_str().is_empty() { Err(bad_url()) } else { Ok(Place::Sqlite(path)) }
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Ok(Place::Postgres(Box::new(PgConnectOptions::from_str(url).map_err(|_| bad_url())?)))
        } else {
            Err(bad_url())
        }
    }
}

impl Store {
    /// Opens, migrates and registers. A SQLite file that another process has open is refused by name.
    pub async fn open(options: OpenOptions) -> Result<Store, StoreError> {
        let (pools, owner) = match Place::of(&options.url)? {
            Place::Sqlite(path) => {
                let owner = lock(&path)?;
                (open_sqlite(&path).await?, Some(owner))
            }
            Place::Postgres(connect) => (open_postgres(*connect, options.lease).await?, None),
        };
        let clock = Arc::new(StoreClock::default());
        let store = Store {
            inner: Arc::new(Inner {
                pools,
                node: options.node,
                clock,
                lease_ends: AtomicU64::new(0),
                follows_timeline: AtomicBool::new(false),
                _owner: owner,
            }),
        };
        store.register_node(options.lease).await?;
        store.inner.follows_timeline.store(store.has_timeline().await?, Ordering::Release);
        Ok(store)
    }
}

/// What of a URL may be shown when it is not understood: it may hold a password anywhere but in its scheme.
fn redacted(url: &str) -> String {
    match url.split_once(':') {
        Some((scheme, _)) => format!("{}:…", scheme.chars().take(20).collect::<String>()),
        None => url.chars().take(60).collect(),
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// A process that was killed a moment ago may still be on its way out, or a program that it was about to start may
/// have its files for a moment longer: then the lock is free soon.
fn try_lock(file: &mut File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        let taken = file.try_lock();
        let mut pid = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut pid));
        let lives = read.is_err() || Path::new("/proc").join(pid.trim()).join("exe").exists();
        if lives || !matches!(taken, Err(TryLockError::WouldBlock)) {
            let _ = file.rewind();
            return taken;
        }
        // The kernel tells nobody when the lock of a dead process is free.
        std::thread::sleep(LOCK_AGAIN_AFTER);
    }
    let _ = file.rewind();
    file.try_lock()
}

/// Takes the lock that lives exactly as long as this process, and writes our pid where a second one reads it.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let file_error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::File { action, path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(file_error("create", folder))?;
    }
    let lock_path = lock_path(path);
    let mut file = FileOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(file_error("open", &lock_path))?;
    match try_lock(&mut file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(file_error("read", &lock_path))?;
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(StoreError::Owned { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(file_error("lock", &lock_path)(source)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    written.map_err(file_error("write", &lock_path))?;
    Ok(file)
}

pub(super) fn sqlite_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        .pragma("cache_size", WRITER_CACHE)
        .pragma("temp_store", "memory")
        .pragma("journal_size_limit", "67108864")
        // Statements of fixed text. One whose text grows with its rows is prepared anew, `persistent(false)`: kept,
        // each would hold on to all of its rows' values.
        .statement_cache_capacity(200)
}

async fn open_sqlite(path: &Path) -> Result<Pools, StoreError> {
    let connect = sqlite_options(path);
    let mut first = SqliteConnection::connect_with(&connect).await?;
    assert_sqlite(&mut first).await?;
    migrate_sqlite(&mut first).await?;
    first.close().await?;
    // Its commits are synced by the log's own syncs.
    let writer = Box::new(Writer::connect(connect.clone().synchronous(SqliteSynchronous::Normal)).await?);
    let readers = pool_options::<Sqlite>()
        .max_connections(READERS)
        .test_before_acquire(false)
        .connect_with(connect.pragma("query_only", "on").pragma("cache_size", READER_CACHE))
        .await?;
    Ok(Pools::Sqlite { writer, readers })
}

/// Of a pool without the task that looks after its connections (sqlx 0.9.0, `spawn_maintenance_tasks`). It goes round
/// as often as there are idle ones, and their number is less than none, which is 2^64 - 1, while one that is being given
/// back has been taken already: then it never ends and never yields, and with it a thread of the runtime.
pub(super) fn pool_options<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new().max_lifetime(None).idle_timeout(None)
}

/// Reads the settings back, because a file system or an older file may not have taken them.
async fn assert_sqlite(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut *connection).await?;
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < OLDEST_SQLITE {
        return Err(StoreError::OldSqlite { found: version });
    }
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    if journal != "wal" {
        return Err(StoreError::Setting { setting: "journal_mode", expected: "wal", found: journal });
    }
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?;
    if synchronous != 2 {
        let found = synchronous.to_string();
        return Err(StoreError::Setting { setting: "synchronous", expected: "2 (full)", found });
    }
    Ok(())
}

pub(super) fn postgres_options(connect: PgConnectOptions) -> PgConnectOptions {
    connect.application_name("tidegate").options([
        ("synchronous_commit", "on"),
        ("client_min_messages", "error"),
        // A walk of many cheap look-ups is over long before it would be compiled, which is done anew for each execution.
        ("jit", "off"),
        // The server notices within a minute that a node is gone which could not say so, and lets go of its locks.
        ("tcp_keepalives_idle", "20"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ])
}

async fn open_postgres(connect: PgConnectOptions, lease: Duration) -> Result<Pools, StoreError> {
    let connect = postgres_options(connect);
    // One connection first: its error says why, where a pool only says that time ran out. What it migrates may take
    // as long as it needs.
    let mut first = PgConnection::connect_with(&connect).await.map_err(refused_by_a_pooler)?;
    assert_no_pooler(&mut first, &connect).await?;
    if sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut first).await? {
        return Err(StoreError::Standby);
    }
    migrate_postgres(&mut first).await?;
    first.close().await?;
    // A node that is frozen in the middle of a transaction holds its locks no longer than its lease.
    let idle_within = lease.max(Duration::from_secs(1)).as_millis().to_string();
    let connect = connect
        .options([("statement_timeout", STATEMENT_WITHIN_MS), ("idle_in_transaction_session_timeout", &idle_within)]);
    let pool = pool_options::<Postgres>()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(ACQUIRE_WITHIN)
        .before_acquire(|_, meta| Box::pin(async move { Ok(meta.age < CONNECTION_LIVES) }))
        .after_release(|connection, _| {
            Box::pin(async move {
                // `Pool::begin` is not safe against cancellation: without this, 1 in 50 cancelled
                // begins hands the next user a connection inside a foreign transaction.
                connection.execute("ROLLBACK").await?;
                Ok(true)
            })
        })
        .connect_with(connect.clone())
        .await?;
    Ok(Pools::Postgres { pool, hot: Box::new(HotConnections::new(connect)) })
}

/// PgBouncer does not know the settings that a session of ours begins with.
fn refused_by_a_pooler(error: sqlx::Error) -> StoreError {
    let unknown =
        error.as_database_error().is_some_and(|error| error.message().contains("unsupported startup parameter"));
    if unknown { StoreError::Pooler } else { error.into() }
}

/// Two connections that are open at once have a server process each, unless a pooler lends them one in turns: then
/// prepared statements, locks and notifications of a session reach whoever has it next.
async fn assert_no_pooler(first: &mut PgConnection, connect: &PgConnectOptions) -> Result<(), StoreError> {
    const PID: &str = "SELECT pg_backend_pid()";
    let own: i32 = sqlx::query_scalar(PID).persistent(false).fetch_one(&mut *first).await?;
    let mut second = PgConnection::connect_with(connect).await?;
    let other: i32 = sqlx::query_scalar(PID).persistent(false).fetch_one(&mut second).await?;
    second.close().await?;
    if own == other { Err(StoreError::Pooler) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pool_has_a_task_that_may_never_end() {
        let (sqlite, postgres) = (pool_options::<Sqlite>(), pool_options::<Postgres>());
        assert_eq!((sqlite.get_max_lifetime(), sqlite.get_idle_timeout()), (None, None));
        assert_eq!((postgres.get_max_lifetime(), postgres.get_idle_timeout()), (None, None));
        for (name, source) in [("open.rs", include_str!("open.rs")), ("doorbell.rs", include_str!("doorbell.rs"))] {
            let text = source.split("#[cfg(test)]").next().unwrap_or_default();
            let made = text.matches("PoolOptions::new()").count();
            assert_eq!(made, usize::from(name == "open.rs"), "{name}: pools are made by pool_options");
        }
    }

    #[test]
    fn a_password_never_reaches_a_message() {
        for url in
            ["postgres://me:s3cret@host:x/db", "postgres:me:s3cret@h/db", "me:s3cret@h", "postgres://h?password=s3cret"]
        {
            assert!(!redacted(url).contains("s3cret"), "{}", redacted(url));
        }
        assert_eq!(redacted("mysql://x"), "mysql:…");
    }
}
