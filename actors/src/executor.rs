//! How a worker carries out one run: one trait, one file for each kind of task that a node carries out itself.
//!
//! Never: reads or writes the store, counts attempts, or measures how long a run may take; that is the
//! Worker's. An executor ends what it began, and says how it ended.

pub mod output;
pub mod noop;
pub mod exec;
pub mod http;

pub use output::{Chunk, Output, Stream, StreamEnd, StreamWriter};

use futures_util::future::BoxFuture;
use std::fmt;
use std::time::Duration;
use storage::model::{Epoch, RunId, TraceParent};
use tokio::sync::watch;

/// One run as an executor gets it.
#[derive(Clone)]
pub struct Assignment {
    pub run: RunId,
    pub env: String,
    pub task: String,
    pub attempt: i64,
    pub epoch: Epoch,
    /// Raw JSON.
    pub payload: String,
    /// The session whose step it is.
    pub session: Option<String>,
    /// What is told to whoever is asked or started for it.
    pub trace: Option<TraceParent>,
    /// Enforced by the caller, who sends `Stop::TimedOut`.
    pub max_duration: Option<Duration>,
    /// In time since boot. From then on somebody else may have the run, and nothing is begun for it here.
    pub start_by: Duration,
}

impl fmt::Debug for Assignment {
    /// Without the payload, which is the tenant's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment")
            .field("run", &self.run)
            .field("env", &self.env)
            .field("task", &self.task)
            .field("attempt", &self.attempt)
            .field("epoch", &self.epoch)
            .field("payload_bytes", &self.payload.len())
            .field("max_duration", &self.max_duration)
            .finish()
    }
}

/// Why a run that is being carried out must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    Cancelled,
    TimedOut,
    /// The lease is lost: whatever still happens must not happen, so nothing gets time to end well.
    Lost,
}

impl Stop {
    /// How an attempt ends that was stopped for this.
    pub fn outcome(self) -> Outcome {
        match self {
            Stop::Cancelled => Outcome::Cancelled,
            Stop::TimedOut => Outcome::TimedOut,
            Stop::Lost => Outcome::Lost,
        }
    }
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Succeeded {
        /// Raw JSON, small.
        output: Option<String>,
    },
    Failed {
        code: String,
        reason: String,
        retry: Retry,
    },
    Cancelled,
    TimedOut,
    Lost,
}

impl Outcome {
    pub(crate) fn failed(code: &str, reason: impl fmt::Display, retry: Retry) -> Outcome {
        Outcome::Failed { code: code.to_owned(), reason: reason.to_string(), retry }
    }
}

/// Whether another attempt can help, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    No,
    WithBackoff,
    After(Duration),
}

/// Carries out runs of one task.
pub trait Executor: Send + Sync + fmt::Debug {
    /// Carries out one run. Answers each `Stop` by ending everything that the run began and by the outcome of
    /// that name. Dropping the future ends everything too, without an answer.
    fn carry(
        &self,
        assignment: Assignment,
        stop: watch::Receiver<Option<Stop>>,
        output: Output,
    ) -> BoxFuture<'static, Outcome>;
}

/// Waits until a stop is asked for that is not the one `heeded` already. One that stands there from the
/// beginning counts; when nobody can ask any more, it waits for ever.
pub(crate) async fn asked(stop: &mut watch::Receiver<Option<Stop>>, heeded: Option<Stop>) -> Stop {
    let asked = stop.wait_for(|now| now.is_some() && *now != heeded).await.ok().and_then(|now| *now);
    match asked {
        Some(asked) => asked,
        None => std::future::pending().await,
    }
}
