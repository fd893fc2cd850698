//! A second way into the database under a store, past the store: for looking at rows and for forcing them.

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Row as _, SqlitePool};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the other side of a test may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// All tables of a store. The schema test holds this list against both databases.
pub const TABLES: [&str; 34] = [
    "api_keys",
    "attempts",
    "audit",
    "batch_events",
    "batches",
    "buffer",
    "canaries",
    "caps",
    "compatibility",
    "idempotency",
    "job_events",
    "job_rounds",
    "jobs",
    "leases",
    "nodes",
    "output_chunks",
    "output_ends",
    "pools",
    "pull_workers",
    "queue_limits",
    "queues",
    "ready",
    "roles",
    "run_bodies",
    "run_records",
    "run_results",
    "runs",
    "session_events",
    "sessions",
    "store_secrets",
    "strays",
    "sweep_places",
    "sweeps",
    "unsuccessful",
];

/// One row as text, column by column.
pub type Row = Vec<Option<String>>;

/// One connection of our own.
#[derive(Clone)]
pub enum Raw {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Everything that a database holds, so that "nothing was written" can be said of all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, Vec<String>>);

macro_rules! as_text {
    ($rows:expr) => {
        $rows
            .iter()
            .map(|row| {
                // Only bytes that are no text have none; then their numbers are shown.
                let text = |at: usize| {
                    row.try_get_unchecked::<Option<String>, usize>(at).unwrap_or_else(|_| {
                        let bytes: Option<Vec<u8>> = row.try_get_unchecked(at).expect("every value has its bytes");
                        bytes.map(|bytes| format!("{bytes:?}"))
                    })
                };
                (0..row.columns().len()).map(text).collect()
            })
            .collect()
    };
}

impl Raw {
    pub async fn sqlite(path: &Path) -> Raw {
        let connect = SqliteConnectOptions::new().filename(path);
        let pool = SqlitePoolOptions::new()
            .max_lifetime(None)
            .idle_timeout(None)
            .max_connections(1)
            .connect_with(connect)
            .await;
        Raw::Sqlite(pool.expect("the database opens"))
    }

    pub async fn postgres(url: &str) -> Raw {
        let pool = PgPoolOptions::new().max_lifetime(None).idle_timeout(None).max_connections(1).connect(url).await;
        Raw::Postgres(pool.expect("the database opens"))
    }

    /// Carries out a statement and returns how many rows it changed.
    pub async fn try_exec(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Raw::Sqlite(pool) => statement.execute(pool).await.map(|done| done.rows_affected()),
            Raw::Postgres(pool) => statement.execute(pool).await.map(|done| done.rows_affected()),
        }
    }

    pub async fn exec(&self, sql: &str) -> u64 {
        self.try_exec(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Raw::Sqlite(pool) => as_text!(statement.fetch_all(pool).await.expect(sql)),
            Raw::Postgres(pool) => as_text!(statement.fetch_all(pool).await.expect(sql)),
        }
    }

    /// The first column of the first row.
    pub async fn value(&self, sql: &str) -> Option<String> {
        self.rows(sql).await.into_iter().next().and_then(|row| row.into_iter().next()).flatten()
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let value = self.value(sql).await.unwrap_or_else(|| panic!("{sql}: no value"));
        value.parse().unwrap_or_else(|_| panic!("{sql}: {value} is not a number"))
    }

    /// Asks until a number is what it should be; each question takes its own time, so this needs no pause.
    #[expect(clippy::disallowed_methods, reason = "spans how long a test waits for the other side")]
    pub async fn until(&self, sql: &str, is_right: impl Fn(i64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let number = self.number(sql).await;
            if is_right(number) {
                return;
            }
            assert!(Instant::now() < deadline, "{sql}: still {number} after {PATIENCE:?}");
            tokio::task::yield_now().await;
        }
    }

    pub async fn snapshot(&self) -> Snapshot {
        let mut tables = BTreeMap::new();
        for table in TABLES {
            let mut rows: Vec<_> = self.rows(&format!("SELECT * FROM {table}")).await;
            rows.sort();
            tables.insert(table, rows.into_iter().map(|row| format!("{row:?}")).collect());
        }
        Snapshot(tables)
    }
}

impl Snapshot {
    /// Leaves a table out of comparisons.
    pub fn ignore(&mut self, table: &str) {
        self.0.remove(table);
    }

    /// Fails with the rows that differ, not with the whole of two databases.
    #[track_caller]
    pub fn assert_same(&self, now: &Snapshot, after_what: &str) {
        for (table, before) in &self.0 {
            let now = &now.0[table];
            let gone: Vec<_> = before.iter().filter(|row| !now.contains(row)).collect();
            let new: Vec<_> = now.iter().filter(|row| !before.contains(row)).collect();
            assert!(gone.is_empty() && new.is_empty(), "{after_what}: {table} changed from {gone:#?} to {new:#?}");
            assert_eq!(before.len(), now.len(), "{after_what}: {table}");
        }
    }
}
