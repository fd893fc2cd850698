//! How a run is carried out.

mod noop;
pub use noop::Noop;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::time::Duration;
use storage::model::{Epoch, RunId};
use tokio::sync::{mpsc, watch};

/// One run as an executor gets it.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub run: RunId,
    pub env: String,
    pub task: String,
    pub attempt: i64,
    pub epoch: Epoch,
    /// Raw JSON.
    pub payload: String,
    pub max_duration: Option<Duration>,
}

/// Why a run that is being carried out must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Cancelled,
    TimedOut,
    Lost,
}

/// Whether another try makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    No,
    WithBackoff,
    After(Duration),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Succeeded { output: Option<String> },
    Failed { code: String, reason: String, retry: Retry },
    Cancelled,
    TimedOut,
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct StreamEnd {
    pub dropped: i64,
}

#[derive(Debug, Clone)]
pub struct Chunk {
    pub stream: Stream,
    pub seq: i64,
    pub bytes_so_far: i64,
    pub data: Bytes,
    pub end: Option<StreamEnd>,
}

#[derive(Debug)]
pub struct Output {
    pub limit_bytes: i64,
    pub chunks: mpsc::Sender<Chunk>,
}

impl Output {
    pub fn new(limit_bytes: i64, chunks: mpsc::Sender<Chunk>) -> Output {
        Output { limit_bytes, chunks }
    }
}

pub trait Executor: Send + Sync + std::fmt::Debug {
    fn carry(
        &self,
        assignment: Assignment,
        stop: watch::Receiver<Option<Stop>>,
        output: Output,
    ) -> BoxFuture<'static, Outcome>;
}
