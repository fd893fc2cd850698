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
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl fmt::Display) -> Failure {
        Failure { exit, what: what.to_string(), hint: None }
    }

    pub fn usage(what: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, what)
    }

    pub fn hint(mut self, hint: impl fmt::Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let exit = match &error {
            StoreError::BadUrl { .. } => Exit::Usage,
            StoreError::Owned { .. } | StoreError::Moved { .. } | StoreError::LeaseLost { .. } => Exit::Conflict,
            _ if error.is_unreachable() => Exit::Unreachable,
            _ => Exit::StoreFailed,
        };
        let failure = Failure::new(exit, &error);
        match error {
            StoreError::File { .. } => failure.hint("name another place with --store sqlite:PATH"),
            StoreError::Database(_) if exit == Exit::Unreachable => {
                failure.hint("check that the database runs and that --store names it rightly")
            }
            _ => failure,
        }
    }
}
