//! The tasks: what can be run, and how.

use crate::backoff::Backoff;
use crate::executor::Executor;
use crate::executor::noop::Noop;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Who carries a task's runs.
#[derive(Debug, Clone)]
pub enum TaskKind {
    /// This system's own workers.
    Own(Arc<dyn Executor>),
    /// Workers that ask for them over HTTP.
    Pull,
    /// Batched to a provider by a job.
    Llm(PayloadCheck),
}

/// Says what is wrong with a payload, if anything is.
type Check = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// How payloads of a task are checked before they are taken in.
#[derive(Clone)]
pub struct PayloadCheck(pub Arc<Check>);

impl fmt::Debug for PayloadCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayloadCheck")
    }
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// `noop`, `exec`, `http`, `pull` or `llm`.
    pub word: &'static str,
    pub kind: TaskKind,
    /// Where its runs wait unless they say otherwise.
    pub queue: String,
    pub max_attempts: i64,
    pub max_duration: Option<Duration>,
    pub retry: Backoff,
    /// Whether its executor looks at the payload.
    pub reads_payload: bool,
}

/// All tasks by name.
#[derive(Debug, Clone)]
pub struct Tasks(BTreeMap<String, Task>);

pub const NOOP: &str = "noop";

impl Tasks {
    /// The named tasks and `noop`, which is always there.
    pub fn new(mut tasks: BTreeMap<String, Task>, retry: Backoff) -> Tasks {
        let noop = Task {
            word: NOOP,
            kind: TaskKind::Own(Arc::new(Noop)),
            queue: NOOP.to_owned(),
            max_attempts: 3,
            max_duration: None,
            retry,
            reads_payload: false,
        };
        tasks.entry(NOOP.to_owned()).or_insert(noop);
        Tasks(tasks)
    }

    pub fn get(&self, name: &str) -> Option<&Task> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Task)> {
        self.0.iter().map(|(name, task)| (name.as_str(), task))
    }
}
