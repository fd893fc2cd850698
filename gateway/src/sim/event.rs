//! What the journal remembers: the events from which every account is rebuilt.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::faults::Faults;

/// Which vendor's protocol something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Dialect {
    Openai,
    Anthropic,
}

/// What became of one create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Delivered,
    Lost,
    Error,
    Delayed,
    Refused,
}

/// What was decided about a whole batch when it was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    Normal,
    Expires,
    FailsLate,
    TokenLimit,
}

/// A file as it was uploaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredFile {
    pub id: String,
    pub at_ms: u64,
    pub bytes: u64,
    /// Lines that are not blank.
    pub lines: u64,
    pub filename: String,
    pub purpose: String,
    pub expires_at: Option<u64>,
}

/// A batch as it was accepted, with everything its future depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub id: String,
    pub dialect: Dialect,
    pub at_ms: u64,
    pub endpoint: String,
    pub requests: u64,
    /// The uploaded file it reads; an Anthropic batch has its own, named like itself.
    pub input_file: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    /// The `anthropic-version` of the create.
    pub version: Option<String>,
    pub latency_ms: u64,
    pub fate: Fate,
    pub answer: Answer,
    pub seed: u64,
    /// The switches in force at acceptance; what happens to its items follows from these.
    pub faults: Faults,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    FileStored {
        file: StoredFile,
        fault: Option<String>,
    },
    FileDeleted {
        id: String,
        at_ms: u64,
    },
    /// One create POST; its batch, if it was accepted, is in the same line and so as certain as it.
    Create {
        at_ms: u64,
        answer: Answer,
        faults: Vec<String>,
        batch: Option<Box<Accepted>>,
    },
    /// A delayed create is accepted.
    Straggled {
        batch: Box<Accepted>,
        faults: Vec<String>,
    },
    Cancelled {
        id: String,
        at_ms: u64,
        ignored: bool,
    },
    BatchDeleted {
        id: String,
        at_ms: u64,
    },
    /// An account's switches are replaced; its "first k" begin anew.
    FaultsSet {
        faults: Box<Faults>,
    },
    FaultUsed {
        fault: String,
    },
    /// A request that was called by itself, and what came of it.
    Called {
        at_ms: u64,
        sha: String,
        billed: bool,
        fault: Option<String>,
    },
}

/// One journal line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub account: String,
    pub event: Event,
}
