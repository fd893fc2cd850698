//! What a request for a run asks for, read strictly and completed with what its task says.

use crate::http::fields::{Charset, Fields};
use actors::runs::{Task, TaskKind, Tasks};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::time::Duration;
use storage::model::{Basin, Lane, RunId, Source, Timestamp};
use storage::store::{Idempotency, NewRecord};

/// Limits of one request, as the documents give them.
pub const PAYLOAD_MAX: usize = 512 * 1024;
pub const METADATA_MAX: usize = 256 * 1024;
pub const TAGS_MAX: usize = 10;
pub const TAG_CHARS: usize = 128;
pub const KEY_CHARS: usize = 255;
const ATTEMPTS_MAX: i64 = 1_000;
pub const PRIORITY: i64 = 86_400;
const DAY: Duration = Duration::from_secs(86_400);
pub const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// A run as it is asked for, before it has an id.
#[derive(Debug, Clone)]
pub struct Wish {
    pub task: String,
    pub queue: Option<String>,
    pub priority: i64,
    pub payload: String,
    pub tags: Vec<String>,
    pub metadata: String,
    pub concurrency_key: String,
    pub idempotency_key: Option<String>,
    pub max_attempts: Option<i64>,
    pub max_duration: Option<Duration>,
    pub source: Source,
    pub session_id: Option<String>,
    pub start: Option<Start>,
    pub time_to_live: Option<Duration>,
}

/// When a run may start, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    After(Duration),
    At(Timestamp),
}

impl Start {
    fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Start::After(delay) => now + delay,
            Start::At(time) => time,
        }
    }
}

impl Wish {
    /// Reads the fields of one request; what is wrong is kept in them, for `finish`.
    pub fn read(fields: &mut Fields<'_>, tasks: &Tasks, now: Timestamp) -> Wish {
        let task = fields.text("task", 1..=128, Charset::Name);
        if !task.is_empty() && tasks.get(&task).is_none() {
            let known: Vec<&str> = tasks.iter().map(|(name, _)| name).take(20).collect();
            fields.refuse_field(
                "task",
                "unknown_task",
                format!("there is no such task; known are {}", known.join(", ")),
            );
        }
        let payload = fields.raw("payload", PAYLOAD_MAX).map_or("null", RawValue::get).to_owned();
        if let Some(TaskKind::Llm(check)) = tasks.get(&task).map(|task| &task.kind)
            && let Err(why) = (check.0)(&payload)
        {
            fields.refuse_field("payload", "invalid_request", why);
        }
        let queue = fields.optional_text("queue", 1..=128, Charset::Name);
        let priority = fields.integer("priority", -PRIORITY..=PRIORITY).unwrap_or(0);
        let start = start(fields, now);
        let time_to_live = fields.seconds("ttl_seconds", Duration::from_secs(1)..=YEAR);
        if let (Some(span), Some(start)) = (time_to_live, start)
            && now + span <= start.time(now)
        {
            fields.refuse_field("ttl_seconds", "range", "it would expire before it may start");
        }
        let idempotency_key = fields.optional_text("idempotency_key", 1..=KEY_CHARS, Charset::Visible);
        let tags = fields.tags("tags", TAGS_MAX, TAG_CHARS).unwrap_or_default();
        let metadata = fields.object("metadata", METADATA_MAX).map_or("{}", RawValue::get).to_owned();
        let concurrency_key = fields.optional_text("concurrency_key", 1..=KEY_CHARS, Charset::Visible);
        let max_attempts = fields.integer("max_attempts", 1..=ATTEMPTS_MAX);
        let max_duration = fields.seconds("max_duration_seconds", Duration::from_millis(100)..=30 * DAY);
        let source = match fields.one_of("source", &["backfill", "daemon"]) {
            Some("daemon") => Source::Daemon,
            _ => Source::Backfill,
        };
        let session_id = fields.optional_text("session_id", 1..=64, Charset::Name);
        fields.reject_unknown();
        Wish {
            task,
            queue,
            priority,
            payload,
            tags,
            metadata,
            concurrency_key: concurrency_key.unwrap_or_default(),
            idempotency_key,
            max_attempts,
            max_duration,
            source,
            session_id,
            start,
            time_to_live,
        }
    }

    /// Digest of everything but the key: what makes two requests the same. Times count as they were asked for,
    /// relative ones as spans: a request that comes again is the same.
    fn fingerprint(&self) -> String {
        let parts = [
            self.task.clone(),
            self.queue.clone().unwrap_or_default(),
            self.priority.to_string(),
            canonical(&self.payload),
            self.tags.join("\u{1f}"),
            canonical(&self.metadata),
            self.concurrency_key.clone(),
            format!("{:?} {:?} {:?}", self.max_attempts, self.max_duration, self.time_to_live),
            format!("{} {:?}", self.source, self.session_id),
            format!("{:?}", self.start),
        ];
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The record to write, with what the task adds.
    pub fn record(self, id: RunId, env: &str, task: &Task, now: Timestamp) -> NewRecord {
        let basin = match task.kind {
            TaskKind::Own(_) => Basin::own(env),
            TaskKind::Pull | TaskKind::Llm(_) => Basin::pull(&self.task, env),
        };
        let queue = self.queue.unwrap_or_else(|| task.queue.clone());
        let max_duration = self.max_duration.or(task.max_duration);
        NewRecord {
            id,
            env: env.to_owned(),
            task: self.task,
            basin,
            lane: Lane::new(&queue, &self.concurrency_key),
            priority: self.priority,
            payload: self.payload,
            tags: serde_json::Value::from(self.tags).to_string(),
            metadata: self.metadata,
            source: self.source,
            session_id: self.session_id,
            replay_of: None,
            max_attempts: self.max_attempts.unwrap_or(task.max_attempts),
            max_duration_ms: max_duration.map_or(0, |span| i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
            accepted_at: now,
            not_before: self.start.map(|start| start.time(now)).filter(|time| *time > now),
            expires_at: self.time_to_live.map(|span| now + span),
            buffered: false,
            leased: false,
            trace: None,
            idempotency: None,
        }
    }

    /// The key of this request, still without the answer that it will always get.
    pub fn idempotency(&self, expires_at: Timestamp) -> Option<Idempotency> {
        let key = self.idempotency_key.clone()?;
        Some(Idempotency { key, fingerprint: self.fingerprint(), answer: String::new(), expires_at })
    }
}

/// `delay_seconds` and `not_before` say the same in two ways; both at once is a contradiction.
fn start(fields: &mut Fields<'_>, now: Timestamp) -> Option<Start> {
    let delay = fields.seconds("delay_seconds", Duration::ZERO..=YEAR);
    let time = fields.timestamp("not_before");
    if delay.is_some() && time.is_some() {
        fields.refuse_field("not_before", "conflict", "give either delay_seconds or not_before");
    }
    if time.is_some_and(|time| time > now + YEAR) {
        fields.refuse_field("not_before", "range", "must be within a year from now");
    }
    delay.filter(|delay| !delay.is_zero()).map(Start::After).or(time.map(Start::At))
}

/// JSON with its keys sorted and without spaces, so that the same value always reads the same.
fn canonical(json: &str) -> String {
    // Numbers that no float holds are kept as they are: they are compared as text.
    match serde_json::from_str::<serde_json::Value>(json) {
        Ok(value) => value.to_string(),
        Err(_) => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(body: &str, at: i64) -> String {
        let mut fields = Fields::parse(body.as_bytes()).expect("an object");
        Wish::read(
            &mut fields,
            &Tasks::new(Default::default(), actors::backoff::Backoff { base: Duration::ZERO, cap: Duration::ZERO }),
            Timestamp::from_millis(at),
        )
        .fingerprint()
    }

    #[test]
    fn a_request_that_comes_again_is_the_same_however_late_and_however_it_is_written() {
        const DAY_MS: i64 = 86_400_000;
        for (first, again) in [
            (
                r#"{"task":"t","not_before":"2030-01-01T00:00:00Z"}"#,
                r#"{"task":"t","not_before":"2030-01-01T00:00:00.000Z"}"#,
            ),
            (r#"{"task":"t","delay_seconds":90}"#, r#"{"delay_seconds":90.0,"task":"t"}"#),
            (r#"{"task":"t","payload":{"a":1,"b":[2]}}"#, r#"{"task":"t","payload":{ "b" : [2], "a" : 1 }}"#),
        ] {
            assert_eq!(fingerprint(first, 0), fingerprint(again, DAY_MS), "{first} and {again}");
        }
    }

    #[test]
    fn another_wish_has_another_fingerprint() {
        let wishes = [
            r#"{"task":"t"}"#,
            r#"{"task":"u"}"#,
            r#"{"task":"t","queue":"q"}"#,
            r#"{"task":"t","priority":1}"#,
            r#"{"task":"t","payload":1}"#,
            r#"{"task":"t","payload":12345678901234567890}"#,
            r#"{"task":"t","tags":["a"]}"#,
            r#"{"task":"t","metadata":{"a":1}}"#,
            r#"{"task":"t","concurrency_key":"k"}"#,
            r#"{"task":"t","delay_seconds":1}"#,
            r#"{"task":"t","not_before":"2030-01-01T00:00:00Z"}"#,
            r#"{"task":"t","ttl_seconds":5}"#,
            r#"{"task":"t","max_attempts":2}"#,
            r#"{"task":"t","max_duration_seconds":2}"#,
            r#"{"task":"t","source":"daemon"}"#,
            r#"{"task":"t","session_id":"s"}"#,
        ];
        let seen: std::collections::HashSet<String> = wishes.iter().map(|wish| fingerprint(wish, 0)).collect();
        assert_eq!(seen.len(), wishes.len());
    }
}
