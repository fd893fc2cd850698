//! A copy of a SQLite file as it is at one moment, made while its owner goes on working.

use super::open::Place;
use super::timeline::MARK_COPY;
use crate::error::StoreError;
use crate::model::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection};
use std::path::Path;
use std::time::Duration;

/// In KiB, negative as SQLite wants it.
const CACHE: &str = "-16384";

const COPY: &str = "-- copy
VACUUM INTO $1";

const HAS_PLACE: &str = "-- has_place_for_mark
SELECT COUNT(*) > 0 FROM pragma_table_info('compatibility') WHERE name = 'copied_at'";

/// Where a PostgreSQL database is, without how to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresPlace {
    /// A name, an address, or the folder of a socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
}

/// Tells where a PostgreSQL store is; `None` for SQLite.
pub fn postgres_place(url: &str) -> Result<Option<PostgresPlace>, StoreError> {
    let Place::Postgres(options) = Place::of(url)? else { return Ok(None) };
    let socket = options.get_socket().map(|folder| folder.display().to_string());
    let user = options.get_username().to_owned();
    Ok(Some(PostgresPlace {
        host: socket.unwrap_or_else(|| options.get_host().to_owned()),
        port: options.get_port(),
        database: options.get_database().unwrap_or(&user).to_owned(),
        user,
    }))
}

/// Copies a SQLite store into a file that is empty or not there, and marks the copy as one: whoever opens it looks first
/// for what its original has bought since. `false` when the store's schema is older than that mark. It is not on disk before
/// it is synced.
pub async fn copy_into(url: &str, to: &str, now: Timestamp) -> Result<bool, StoreError> {
    let Place::Sqlite(path) = Place::of(url)? else {
        return Err(StoreError::BadUrl { url: "postgres:…".to_owned() });
    };
    let mut connection = connect_reading(&path).await?;
    sqlx::query(COPY).bind(to).execute(&mut connection).await?;
    connection.close().await?;
    // Nobody has it yet: what is left of it after a crash is thrown away.
    let options = SqliteConnectOptions::new().filename(to).journal_mode(SqliteJournalMode::Memory);
    let mut copy = options.create_if_missing(false).connect().await?;
    let has_place = sqlx::query_scalar(HAS_PLACE).fetch_one(&mut copy).await?;
    if has_place {
        sqlx::query(MARK_COPY).bind(now.millis()).execute(&mut copy).await?;
    }
    copy.close().await?;
    Ok(has_place)
}

/// Opens a SQLite file to read it only. The owner's lock is not asked for: readers are not in its way.
pub(super) async fn connect_reading(path: &Path) -> Result<SqliteConnection, StoreError> {
    // The database's own error does not say which file it is about.
    std::fs::File::open(path).map_err(|source| StoreError::File { action: "open", path: path.to_owned(), source })?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("cache_size", CACHE)
        .pragma("temp_store", "file");
    Ok(options.connect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgres_store_tells_where_it_is_and_no_password() {
        let place = postgres_place("postgres://me:s3cret@db.example:5433/tidegate").expect("a store").expect("a place");
        assert_eq!((place.host.as_str(), place.port), ("db.example", 5433));
        assert_eq!((place.user.as_str(), place.database.as_str()), ("me", "tidegate"));
        assert!(!format!("{place:?}").contains("s3cret"));
        assert_eq!(postgres_place("sqlite:x").expect("a store"), None);
    }
}
