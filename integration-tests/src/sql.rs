//! A way into a store past everything of ours: rows as text, and what must be true of them at rest.

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Column, Connection, Row as _};

/// One row as text, column by column.
pub type Row = Vec<Option<String>>;

macro_rules! as_text {
    ($rows:expr) => {
        $rows
            .iter()
            .map(|row| {
                let text = |at: usize| {
                    row.try_get_unchecked::<Option<String>, usize>(at)
                        .unwrap_or_else(|error| panic!("{}: {error}", row.columns()[at].name()))
                };
                (0..row.columns().len()).map(text).collect()
            })
            .collect()
    };
}

/// What a query gives on the store of this URL.
#[track_caller]
pub fn rows(store: &str, query: &str) -> Vec<Row> {
    try_rows(store, query).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// The same of a store that may be away.
pub fn try_rows(store: &str, query: &str) -> Result<Vec<Row>, sqlx::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let statement = sqlx::raw_sql(AssertSqlSafe(query.to_owned()));
    runtime.block_on(async {
        match store.strip_prefix("sqlite:") {
            Some(path) => {
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = SqliteConnection::connect_with(&options).await?;
                let rows = as_text!(statement.fetch_all(&mut connection).await?);
                connection.close().await?;
                Ok::<_, sqlx::Error>(rows)
            }
            None => {
                let mut connection = PgConnection::connect(store).await?;
                let rows = as_text!(statement.fetch_all(&mut connection).await?);
                connection.close().await?;
                Ok(rows)
            }
        }
    })
}

/// A transaction of somebody else on PostgreSQL, with the locks that its statement has taken. Dropped, it is undone.
pub struct Standing {
    _connection: PgConnection,
    /// Holds the connection, which goes first.
    _runtime: tokio::runtime::Runtime,
}

impl Standing {
    #[track_caller]
    pub fn begin(store: &str, statement: &str) -> Standing {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let begun = runtime.block_on(async {
            let mut connection = PgConnection::connect(store).await?;
            sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {statement}"))).execute(&mut connection).await?;
            Ok::<_, sqlx::Error>(connection)
        });
        let connection = begun.unwrap_or_else(|error| panic!("{statement}: {error}"));
        Standing { _connection: connection, _runtime: runtime }
    }
}

/// Questions about runs that came in over HTTP, once none of them is open; the answer must be no row at all.
const NEVER_AT_REST: &[(&str, &str)] = &[
    (
        // Two nodes may stamp a run, each with the database's time as it knows it.
        "every run has ended, and waits nowhere",
        "SELECT id, state, CAST(finished_at - accepted_at AS TEXT) FROM run_records
            WHERE state = 'open' OR finished_at IS NULL OR finished_at < accepted_at - 10
        UNION ALL SELECT run_id, 'ready', '' FROM ready UNION ALL SELECT run_id, 'buffer', '' FROM buffer
        UNION ALL SELECT run_id, 'leases', '' FROM leases",
    ),
    (
        "a run says how often it was tried, and never more often than it may be",
        "SELECT id, attempts FROM run_records WHERE attempts IS NULL OR attempts > max_attempts
            OR (state = 'succeeded' AND attempts < 1)",
    ),
    (
        "a run was given out once for every try that its history has, and once for its end unless that was in a batch",
        "SELECT h.id, h.epoch, h.attempts FROM (SELECT r.id, r.epoch, r.attempts, (SELECT COUNT(*) FROM attempts b
                WHERE b.run_id = r.id AND b.epoch = r.epoch AND b.batch_id IS NOT NULL) AS batched
            FROM run_records r WHERE state IN ('succeeded', 'failed', 'timed_out')) AS h
        WHERE epoch <> 1 - batched + (SELECT COUNT(*) FROM attempts a WHERE a.run_id = h.id)
            OR attempts <> 1 - batched + (SELECT COUNT(*) FROM attempts a WHERE a.run_id = h.id
                AND a.state <> 'declined' AND COALESCE(a.verdict, '') <> 'canceled')",
    ),
    (
        "every try that did not end its run has ended, under an epoch of its own",
        "SELECT a.run_id, a.epoch FROM attempts a JOIN run_records r ON r.id = a.run_id
        WHERE a.settled_at IS NULL OR a.epoch > r.epoch OR (a.batch_id IS NULL
            AND (a.state IN ('leased', 'started', 'succeeded')
                OR (a.epoch = r.epoch AND r.state NOT IN ('cancelled', 'expired'))))",
    ),
    (
        "the unsuccessful are exactly those that ended otherwise than succeeded",
        "SELECT id FROM run_records r WHERE state NOT IN ('open', 'succeeded') AND NOT EXISTS
            (SELECT 1 FROM unsuccessful u WHERE u.run_id = r.id AND u.state = r.state AND u.env = r.env)
        UNION ALL SELECT run_id FROM unsuccessful u WHERE NOT EXISTS
            (SELECT 1 FROM run_records r WHERE u.run_id = r.id AND u.state = r.state AND u.env = r.env)",
    ),
    (
        "an idempotency key names a run of its own env that was sent in with it, and a run has no other",
        "SELECT k.key FROM idempotency k WHERE NOT EXISTS
            (SELECT 1 FROM run_records r WHERE r.id = k.run_id AND r.env = k.env AND r.idempotency_key = k.key)
        UNION ALL SELECT r.id FROM run_records r WHERE r.idempotency_key IS NOT NULL AND NOT EXISTS
            (SELECT 1 FROM idempotency k WHERE k.env = r.env AND k.key = r.idempotency_key AND k.run_id = r.id)",
    ),
    (
        "the pieces of a stream are numbered from 0 without a gap (invariant 37)",
        "SELECT run_id, epoch, stream FROM output_chunks GROUP BY run_id, epoch, stream
            HAVING MIN(seq) <> 0 OR MAX(seq) <> COUNT(*) - 1",
    ),
];

/// Holds a store at rest against all of them.
#[track_caller]
pub fn audit_at_rest(store: &str) {
    for (claim, exceptions) in NEVER_AT_REST {
        let found = rows(store, exceptions);
        assert!(found.is_empty(), "not so: {claim}: {} rows, such as {:?}", found.len(), &found[..found.len().min(5)]);
    }
}
