//! How the process ends: one exit code per kind of end, one form for every error message.

use std::fmt;
use std::process::ExitCode;
use storage::StoreError;

/// Why the process ends; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Unexpected = 1,
    Usage = 2,
    NotFound = 3,
    NotAllowed = 4,
    Conflict = 5,
    Unreachable = 6,
    TimedOut = 7,
    ItemsFailed = 8,
    Ceiling = 9,
    Declined = 10,
    GaveUp = 70,
    StoreFailed = 74,
    Interrupted = 130,
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An end that needs words: what went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub what: String,
    /// What is behind it, where that is known and says more.
    pub cause: Option<String>,
    pub hint: Option<String>,
    /// What a server said, whole: for programs that read stderr.
    pub problem: Option<Box<serde_json::Value>>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl fmt::Display) -> Failure {
        Failure { exit, what: what.to_string(), cause: None, hint: None, problem: None }
    }

    pub fn usage(what: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, what)
    }

    pub fn cause(mut self, cause: impl fmt::Display) -> Failure {
        self.cause = Some(cause.to_string());
        self
    }

    pub fn hint(mut self, hint: impl fmt::Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, "\ncause: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        // The name under which the server's log has more.
        match self.problem.as_ref().and_then(|problem| problem["request_id"].as_str()) {
            Some(id) => write!(f, "\nrequest id: {}", id.escape_default()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let exit = match &error {
            StoreError::BadUrl { .. } | StoreError::Pooler | StoreError::TooOld { .. } => Exit::Usage,
            StoreError::Owned { .. } | StoreError::Moved { .. } | StoreError::LeaseLost { .. } => Exit::Conflict,
            StoreError::OlderNode { .. } => Exit::Conflict,
            StoreError::Standby => Exit::Unreachable,
            _ if error.is_unreachable() || error.is_no_database() => Exit::Unreachable,
            _ if error.is_not_let_in() => Exit::NotAllowed,
            _ => Exit::StoreFailed,
        };
        let failure = Failure::new(exit, &error);
        if error.is_damage() {
            return failure.hint("the file is damaged or no store: put a backup in its place, without its -wal file");
        }
        if error.is_not_let_in() {
            return failure
                .hint("check the user and the password in --store or --store-file, and what the database allows");
        }
        if error.is_no_database() {
            return failure
                .hint("check the database's name in --store, or make it with `createdb`; its schema is made here");
        }
        match error {
            StoreError::File { .. } => failure.hint("name another place with --store sqlite:PATH"),
            StoreError::Pooler => {
                failure.hint("name the database itself with --store, or use the pooler by the session")
            }
            StoreError::Standby => failure.hint("name the primary with --store"),
            StoreError::TooOld { .. } => failure.hint("use the version that the other nodes have"),
            StoreError::Database(_) if exit == Exit::Unreachable => {
                failure.hint("check that the database runs and that --store names it rightly")
            }
            _ => failure,
        }
    }
}
