//! What can go wrong with a store; the only place that reads SQLSTATE and SQLite result codes.

use crate::model::Timestamp;
use crate::store::Doubt;
use std::borrow::Cow;
use std::path::PathBuf;

/// How a caller should take an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again later, with back-off.
    Retryable,
    /// The row moved on: read it again.
    Conflict,
    /// Will not get better by itself.
    Terminal,
    /// The data contradicts the model: stop this unit.
    Corrupt,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("`{url}` is not a store: use sqlite:PATH or postgres://USER@HOST/DATABASE")]
    BadUrl { url: String },
    #[error("the store {path} is in use by process {pid}; wait for it to end, or stop it first")]
    Owned { path: PathBuf, pid: String },
    #[error("cannot {action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the store does not hold {setting} = {expected} (it says {found})")]
    Setting { setting: &'static str, expected: &'static str, found: String },
    #[error("SQLite {found} is linked; 3.51.3 or newer is needed (older ones can corrupt a WAL database)")]
    OldSqlite { found: String },
    #[error("the store's schema does not fit this binary: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the store needs a newer tidegate (level {least}; this one is of level {level})")]
    TooOld { least: i64, level: i64 },
    #[error("node {node} is of an older version, which would buy again what is imported; stop or upgrade it first")]
    OlderNode { node: String },
    #[error(
        "the database is reached through a pooler that lends connections by the transaction or statement, which cannot work"
    )]
    Pooler,
    #[error("the database is a standby, which takes no writes")]
    Standby,
    #[error("{doubt}; nothing is bought until that was looked into")]
    InDoubt { doubt: Doubt },
    #[error("the store could not carry out a statement: {0}")]
    Database(#[from] sqlx::Error),
    #[error("{entity} {id} has moved on since it was read (now {now})")]
    Moved { entity: &'static str, id: String, now: String },
    #[error("{entity} {id} holds `{value}`, which no {what} is")]
    Corrupt { entity: &'static str, id: String, what: &'static str, value: String },
    #[error("{entity} {id} has a NUL character in one of its texts, which no store holds")]
    NulInText { entity: &'static str, id: String },
    #[error("the store is away and was not asked; it is looked for all the time")]
    Away,
    #[error("the store went away before it answered; whether it did what it was asked is not known")]
    Unanswered,
    #[error("{path} cannot be synced ({source}); what was written since may be lost, so start this node again")]
    Unsynced { path: PathBuf, source: std::io::Error },
    #[error("this node's lease could not be renewed and ended at {until}")]
    LeaseLost { until: Timestamp },
}

impl StoreError {
    pub fn class(&self) -> Class {
        match self {
            StoreError::Database(error) => class_of(error),
            StoreError::Away | StoreError::Unanswered => Class::Retryable,
            StoreError::Moved { .. } | StoreError::Owned { .. } | StoreError::LeaseLost { .. } => Class::Conflict,
            StoreError::InDoubt { .. } | StoreError::OlderNode { .. } => Class::Conflict,
            StoreError::Standby => Class::Retryable,
            StoreError::Corrupt { .. } => Class::Corrupt,
            StoreError::Unsynced { .. } => Class::Terminal,
            StoreError::BadUrl { .. } | StoreError::File { .. } | StoreError::Setting { .. } => Class::Terminal,
            StoreError::OldSqlite { .. } | StoreError::Migrate(_) | StoreError::NulInText { .. } => Class::Terminal,
            StoreError::TooOld { .. } | StoreError::Pooler => Class::Terminal,
        }
    }

    /// Whether the database could not be reached at all, as against having refused or failed.
    pub fn is_unreachable(&self) -> bool {
        match self {
            StoreError::Away | StoreError::Unanswered | StoreError::Unsynced { .. } => true,
            StoreError::Database(sqlx::Error::PoolTimedOut) => true,
            StoreError::Database(error) if is_broken_connection(error) => true,
            StoreError::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P0"))
            }
            _ => false,
        }
    }

    /// Whether the database lets this user in at all: a user, a password or a rule of its own that says no.
    pub fn is_not_let_in(&self) -> bool {
        self.code().is_some_and(|state| state.starts_with("28"))
    }

    /// Whether the server has no database of the name.
    pub fn is_no_database(&self) -> bool {
        self.code().is_some_and(|state| state == "3D000")
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        let StoreError::Database(sqlx::Error::Database(error)) = self else { return None };
        error.code()
    }

    /// Whether a SQLite file is not one any more, or not whole.
    pub fn is_damage(&self) -> bool {
        // SQLITE_CORRUPT with its extended forms, and SQLITE_NOTADB; a SQLSTATE is longer.
        matches!(self.code().as_deref(), Some("11" | "267" | "523" | "779" | "26"))
    }

    /// Whether it is certain that nothing was done. An answer that was lost may be that of a commit.
    pub fn did_nothing(&self) -> bool {
        matches!(self, StoreError::Away | StoreError::Database(sqlx::Error::PoolTimedOut))
    }
}

/// A connection that was closed before a word was said is told apart from one that broke later: what came instead of an
/// answer then is a breach of the protocol (of TLS, where that was asked for).
fn is_broken_connection(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_))
}

fn class_of(error: &sqlx::Error) -> Class {
    match error {
        error if is_broken_connection(error) => Class::Retryable,
        sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => Class::Retryable,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // SQLITE_BUSY, SQLITE_LOCKED and their extended forms.
            Some("5" | "6" | "261" | "262" | "517") => Class::Retryable,
            // The last two: a transaction that was ended because it idled, and a server that has become a standby.
            Some(state) if ["40P01", "40001", "55P03", "57014", "25P03", "25006"].contains(&state) => Class::Retryable,
            Some(state) if state.starts_with("08") || state.starts_with("57P0") => Class::Retryable,
            Some(_) if database.is_unique_violation() => Class::Conflict,
            _ => Class::Terminal,
        },
        _ => Class::Terminal,
    }
}
