//! The only door to LLM providers: one trait, a client for each wire protocol.
//!
//! Never: retries a create, follows a redirect, sends a key to another host, or decides what an unclear
//! answer means; that is `batch_poller`'s plan.

pub mod wire;
pub(crate) mod date;
pub mod request;
pub mod submit;
pub mod result_line;
pub mod openai;
pub mod anthropic;

pub use request::Manifest;
pub use submit::{Committed, Created};
pub use wire::{Answer, CallError};

use async_trait::async_trait;
use storage::model::Timestamp;
use storage::store::Limits;

/// What tells two accounts of one provider apart: a configured name, or a fingerprint of base URL and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account(pub String);

/// Which protocol a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Files and batches: the input file is key and fence, metadata carries our key.
    OpenAi,
    /// Message batches: no file, no metadata; our key is part of every custom id.
    Anthropic,
}

/// One batch as a provider's listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub created_at: Timestamp,
    pub input_file_id: Option<String>,
    /// Our create key, where the provider echoes metadata.
    pub key: Option<String>,
    /// How many requests it holds; `None` while the provider has not counted them.
    pub requests: Option<i64>,
    pub ended: bool,
    pub results_ref: Option<String>,
}

/// Where a provider says a batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    Running {
        status: String,
        /// Its requests, as they were uploaded; where the provider keeps them.
        input_ref: Option<String>,
    },
    Ended {
        status: String,
        end: End,
        output_ref: Option<String>,
        error_ref: Option<String>,
    },
    /// The provider does not know the id (any more).
    Gone,
}

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// All that will ever be answered is answered; requests without a line are missing.
    Completed {
        answered: Option<i64>,
    },
    Expired,
    Cancelled,
    /// Refused as a whole after it was accepted; `lines` are the positions that it names as bad.
    Invalid {
        code: String,
        message: String,
        lines: Vec<i64>,
    },
    /// Refused because too much is queued already: nothing was carried out, nothing was billed.
    QueueFull {
        code: String,
    },
}

/// Results as they stream in, line by line.
#[async_trait]
pub trait ResultLines: Send {
    /// The next line without its end; `None` after the last. An error means that the stream was cut off.
    async fn next_line(&mut self) -> Result<Option<Vec<u8>>, CallError>;
}

/// A provider's batch API.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    fn protocol(&self) -> Protocol;

    /// How large a batch may be; `url` is the endpoint that its requests name.
    fn limits(&self, url: &str) -> Limits;

    /// Uploads the input file under `name`. An unclear answer leaks a file at most: nothing runs by it.
    async fn upload(&self, name: &str, manifest: &Manifest<'_>) -> Result<String, CallError>;

    /// Input files of that name, newest first (leaked by a crash between upload and store).
    async fn files_named(&self, name: &str) -> Result<Vec<String>, CallError>;

    /// Deletes an input file; a file that is gone already is fine.
    async fn delete_file(&self, id: &str) -> Result<(), CallError>;

    /// Creates the batch: everything but the last byte, then `committed`, then the last byte.
    async fn create(&self, manifest: &Manifest<'_>, file: Option<&str>, committed: Committed<'_>) -> Created;

    /// Batches newest first, back to `since` (by the provider's clock, with five minutes of grace).
    async fn list(&self, since: Timestamp) -> Result<Vec<Listed>, CallError>;

    /// The cheapest call that needs a valid key; what time the host says it is, if it says so.
    async fn told_time(&self) -> Result<Option<Timestamp>, CallError>;

    /// The newest batch of the account.
    async fn newest(&self) -> Result<Option<String>, CallError>;

    async fn poll(&self, id: &str) -> Result<Polled, CallError>;

    /// Asks for a batch to be stopped; one that has ended already is fine.
    async fn cancel(&self, id: &str) -> Result<(), CallError>;

    async fn results(&self, reference: &str) -> Result<Box<dyn ResultLines>, CallError>;

    /// Calls one request at once, at the live price; `url` as its line names it, `id` where the provider keeps
    /// callers' ids. Sent once: without an answer it may have been carried out.
    async fn call(&self, url: &str, id: &str, body: &str) -> Result<Answer, CallError>;
}
