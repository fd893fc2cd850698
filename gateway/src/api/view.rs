//! A run as clients see it: the same shape when it is made, read, listed and followed.

use serde::Serialize;
use serde_json::value::RawValue;
use storage::model::{AttemptState, Money, RunState, Timestamp, TraceParent};
use storage::store::{NewRecord, PastAttempt, RunRecord};

/// Times are RFC 3339 in UTC, spans are seconds.
#[derive(Debug, Serialize)]
pub struct RunView<'a> {
    pub id: &'a str,
    pub env: &'a str,
    pub task: &'a str,
    pub queue: &'a str,
    pub status: &'static str,
    pub priority: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<&'a RawValue>,
    pub tags: &'a RawValue,
    pub metadata: &'a RawValue,
    pub concurrency_key: Option<&'a str>,
    pub idempotency_key: Option<&'a str>,
    pub source: &'a str,
    pub session_id: Option<&'a str>,
    pub replay_of: Option<&'a str>,
    pub attempt: i64,
    pub max_attempts: i64,
    pub max_duration_seconds: Option<f64>,
    pub accepted_at: String,
    pub not_before: Option<String>,
    pub expires_at: Option<String>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub cancel_requested: bool,
    pub worker: Option<&'a str>,
    pub outcome: Option<OutcomeView<'a>>,
    /// Only of a run that is of a trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    pub version: i64,
}

/// How a run ended, and why.
#[derive(Debug, Serialize)]
pub struct OutcomeView<'a> {
    pub code: &'a str,
    pub reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<&'a RawValue>,
}

/// A worker's try that did not end its run, or any try in a batch.
#[derive(Debug, Serialize)]
pub struct AttemptView<'a> {
    pub epoch: i64,
    pub status: &'a str,
    pub code: Option<&'a str>,
    pub reason: Option<&'a str>,
    pub worker: Option<&'a str>,
    pub started_at: String,
    pub ended_at: Option<String>,
    pub batch_id: Option<&'a str>,
    pub verdict: Option<&'a str>,
    pub cost_usd: Option<String>,
}

/// The outcome of a run that did not fail, while its session is unfinished.
pub const INCOMPLETE: &str = "incomplete";

/// Stored JSON as it is; what cannot be read as JSON any more shows as null.
fn raw(json: &str) -> &RawValue {
    const NULL: &str = "null";
    serde_json::from_str(json).or_else(|_| serde_json::from_str(NULL)).unwrap_or(RawValue::NULL)
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn time(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

fn seconds(millis: i64) -> Option<f64> {
    Some(millis).filter(|millis| *millis > 0).map(|millis| millis as f64 / 1_000.0)
}

impl<'a> RunView<'a> {
    /// A run that is about to be written; this is what its sender gets.
    pub fn of_new(record: &'a NewRecord) -> RunView<'a> {
        let status = match (record.buffered, record.not_before) {
            (true, _) => RunState::Buffered,
            (false, Some(_)) => RunState::Delayed,
            (false, None) => RunState::Queued,
        };
        RunView {
            id: record.id.as_str(),
            env: &record.env,
            task: &record.task,
            queue: record.lane.queue(),
            status: status.word(),
            priority: record.priority,
            payload: Some(raw(&record.payload)),
            tags: raw(&record.tags),
            metadata: raw(&record.metadata),
            concurrency_key: filled(record.lane.key()),
            idempotency_key: record.idempotency.as_ref().map(|own| own.key.as_str()),
            source: record.source.word(),
            session_id: record.session_id.as_deref(),
            replay_of: record.replay_of.as_ref().map(|run| run.as_str()),
            attempt: 0,
            max_attempts: record.max_attempts,
            max_duration_seconds: seconds(record.max_duration_ms),
            accepted_at: record.accepted_at.to_string(),
            not_before: time(record.not_before),
            expires_at: time(record.expires_at),
            started_at: None,
            finished_at: None,
            cancel_requested: false,
            worker: None,
            outcome: None,
            trace_id: record.trace.map(TraceParent::trace_id),
            version: 1,
        }
    }

    pub fn of(record: &'a RunRecord) -> RunView<'a> {
        let unfinished = record.unfinished.as_deref();
        let outcome = record.state.is_terminal().then(|| OutcomeView {
            code: unfinished.map_or(record.code.as_deref().unwrap_or(record.state.word()), |_| INCOMPLETE),
            reason: record.reason.as_deref().or(unfinished),
            output: record.output.as_deref().map(raw),
        });
        RunView {
            id: record.id.as_str(),
            env: &record.env,
            task: &record.task,
            queue: &record.queue,
            status: record.state.word(),
            priority: record.priority,
            payload: Some(raw(&record.payload)),
            tags: raw(&record.tags),
            metadata: raw(&record.metadata),
            concurrency_key: filled(&record.concurrency_key),
            idempotency_key: record.idempotency_key.as_deref(),
            source: &record.source,
            session_id: record.session_id.as_deref(),
            replay_of: record.replay_of.as_ref().map(|run| run.as_str()),
            attempt: record.attempts,
            max_attempts: record.max_attempts,
            max_duration_seconds: seconds(record.max_duration_ms),
            accepted_at: record.accepted_at.to_string(),
            not_before: time(record.not_before),
            expires_at: time(record.expires_at),
            started_at: time(record.started_at),
            finished_at: time(record.finished_at),
            cancel_requested: record.cancel_requested,
            worker: record.holder.as_deref(),
            outcome,
            trace_id: record.trace.map(TraceParent::trace_id),
            version: record.version,
        }
    }

    /// For lists: payloads are read one by one.
    pub fn without_payload(mut self) -> RunView<'a> {
        self.payload = None;
        self
    }

    pub fn json(&self) -> String {
        // Texts, numbers and JSON that was read as such: nothing in it cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<'a> AttemptView<'a> {
    pub fn of(attempt: &'a PastAttempt) -> AttemptView<'a> {
        AttemptView {
            epoch: attempt.epoch,
            status: &attempt.state,
            code: attempt.code.as_deref(),
            reason: attempt.reason.as_deref(),
            worker: attempt.holder.as_deref(),
            started_at: Timestamp::from_millis(attempt.leased_at).to_string(),
            ended_at: attempt.settled_at.map(|at| Timestamp::from_millis(at).to_string()),
            batch_id: attempt.batch_id.as_deref(),
            verdict: attempt.verdict.as_deref(),
            cost_usd: attempt.cost_nanos.map(|nanos| Money::from_nanos(nanos).to_string()),
        }
    }
}

/// The version of a run as an ETag: it changes with every change that a client can see.
pub fn etag(record: &RunRecord) -> String {
    etag_of(record, "")
}

/// That of a run with its tries: one in a batch can be seen to start.
pub fn etag_with(record: &RunRecord, attempts: &[PastAttempt]) -> String {
    let started = attempts.last().is_some_and(|last| last.state == AttemptState::Started.word());
    etag_of(record, if started { "-started" } else { "" })
}

fn etag_of(record: &RunRecord, trying: &str) -> String {
    let outcome = if record.unfinished.is_some() { INCOMPLETE } else { record.state.word() };
    format!("\"{}-{}-{outcome}{trying}\"", record.version, record.epoch)
}

/// The version that an ETag stands for, if it is one of ours.
pub fn version_of(etag: &str) -> Option<i64> {
    etag.trim().trim_start_matches("W/").strip_prefix('"')?.strip_suffix('"')?.split('-').next()?.parse().ok()
}
