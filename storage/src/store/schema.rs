//! The schema: brought up to date when a store is opened, if this binary may work on it.

use super::backup::connect_reading;
use super::open::{Place, lock, postgres_options, sqlite_options};
use crate::error::StoreError;
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection, SqliteConnection};
use std::collections::BTreeMap;

/// What this binary understands. Raised by a change after which an older binary would do harm.
pub(super) const LEVEL: i64 = 2;
/// From which on a binary knows of batches that somebody else made.
pub(super) const IMPORT_LEVEL: i64 = 2;

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

const LEAST_LEVEL: &str = "-- least_level
SELECT least_level FROM compatibility";
const APPLIED: &str = "-- applied_migrations
SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY version";

/// A migration, and whether the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationRow {
    pub version: i64,
    pub description: String,
    pub applied: bool,
    /// Of a newer binary; this one does not know what it does, only that it does no harm.
    pub foreign: bool,
}

/// Refuses a store for which this binary is too old, and applies what the store does not have yet. What it has of
/// newer binaries only adds, and is left alone: so nodes of two versions may be there side by side.
macro_rules! bring_up_to_date {
    ($connection:expr, $migrator:expr) => {{
        // A store from before there were levels, or a new one, has no such table.
        let least: Option<i64> = sqlx::query_scalar(LEAST_LEVEL).fetch_optional(&mut *$connection).await.ok().flatten();
        if let Some(least) = least.filter(|least| *least > LEVEL) {
            return Err(StoreError::TooOld { least, level: LEVEL });
        }
        let mut migrator = Migrator { migrations: $migrator.migrations.clone(), ..Migrator::DEFAULT };
        migrator.set_ignore_missing(true);
        migrator.run_direct(None, &mut *$connection, false).await?;
    }};
}

pub(super) async fn migrate_sqlite(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    bring_up_to_date!(connection, SQLITE);
    Ok(())
}

pub(super) async fn migrate_postgres(connection: &mut PgConnection) -> Result<(), StoreError> {
    bring_up_to_date!(connection, POSTGRES);
    Ok(())
}

/// Brings a store's schema up to date without working on the store; returns what it has then.
pub async fn migrate(url: &str) -> Result<Vec<MigrationRow>, StoreError> {
    match Place::of(url)? {
        Place::Sqlite(path) => {
            let _owner = lock(&path)?;
            let mut connection = SqliteConnection::connect_with(&sqlite_options(&path)).await?;
            migrate_sqlite(&mut connection).await?;
            connection.close().await?;
        }
        Place::Postgres(options) => {
            let mut connection = PgConnection::connect_with(&postgres_options(*options)).await?;
            migrate_postgres(&mut connection).await?;
            connection.close().await?;
        }
    }
    schema(url).await
}

/// What a store has and what this binary would add to it. Reads only, so it may be asked while a server runs.
pub async fn schema(url: &str) -> Result<Vec<MigrationRow>, StoreError> {
    let (known, applied) = match Place::of(url)? {
        Place::Sqlite(path) => {
            let mut connection = connect_reading(&path).await?;
            let applied = sqlx::query_as(APPLIED).fetch_all(&mut connection).await?;
            connection.close().await?;
            (&SQLITE, applied)
        }
        Place::Postgres(options) => {
            let mut connection = PgConnection::connect_with(&postgres_options(*options)).await?;
            let applied = sqlx::query_as(APPLIED).fetch_all(&mut connection).await?;
            connection.close().await?;
            (&POSTGRES, applied)
        }
    };
    Ok(rows(known, applied))
}

fn rows(known: &Migrator, applied: Vec<(i64, String)>) -> Vec<MigrationRow> {
    let mut rows: BTreeMap<i64, MigrationRow> = BTreeMap::new();
    for migration in known.iter() {
        let (version, description) = (migration.version, migration.description.to_string());
        rows.insert(version, MigrationRow { version, description, applied: false, foreign: false });
    }
    for (version, description) in applied {
        let row = rows.entry(version).or_insert(MigrationRow { version, description, applied: true, foreign: true });
        row.applied = true;
    }
    rows.into_values().collect()
}
