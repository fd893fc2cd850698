//! Reads runs as users see them: the record, and where it stands by which table holds it.

use super::{Store, on_pool};
use crate::error::StoreError;
use crate::model::{Epoch, Lane, RunId, RunState, Timestamp, TraceParent};

/// A run as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    pub id: RunId,
    pub env: String,
    pub task: String,
    pub queue: String,
    pub priority: i64,
    pub payload: String,
    pub tags: String,
    pub metadata: String,
    pub concurrency_key: String,
    pub idempotency_key: Option<String>,
    pub source: String,
    pub session_id: Option<String>,
    pub replay_of: Option<RunId>,
    pub max_attempts: i64,
    /// Milliseconds; 0 for no limit.
    pub max_duration_ms: i64,
    pub version: i64,
    pub accepted_at: Timestamp,
    /// It does not start before this; the next try of one that is tried again.
    pub not_before: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub state: RunState,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub output: Option<String>,
    pub epoch: Epoch,
    /// Attempts that count, the one under way included.
    pub attempts: i64,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Who carries it now.
    pub holder: Option<String>,
    pub cancel_requested: bool,
    /// Why it is no success although it did not fail: its session is unfinished (invariant 31).
    pub unfinished: Option<String>,
    /// Of which trace it is, if of any.
    pub trace: Option<TraceParent>,
}

/// A worker's try that did not end its run, or any try in a batch.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct PastAttempt {
    pub epoch: i64,
    pub state: String,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub holder: Option<String>,
    pub leased_at: i64,
    pub settled_at: Option<i64>,
    pub batch_id: Option<String>,
    /// What the provider made of it; `None` for a worker's.
    pub verdict: Option<String>,
    /// `None` as long as it is not known.
    pub cost_nanos: Option<i64>,
}

#[derive(sqlx::FromRow)]
pub(super) struct RawRecord {
    id: String,
    env: String,
    task: String,
    queue: String,
    priority: i64,
    payload: String,
    tags: String,
    metadata: String,
    concurrency_key: String,
    idempotency_key: Option<String>,
    source: String,
    session_id: Option<String>,
    replay_of: Option<String>,
    max_attempts: i64,
    max_duration_ms: i64,
    version: i64,
    accepted_at: i64,
    not_before: i64,
    expires_at: Option<i64>,
    state: String,
    code: Option<String>,
    reason: Option<String>,
    output: Option<String>,
    epoch: Option<i64>,
    attempts: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    buffered_as: Option<String>,
    ready_due: Option<i64>,
    ready_attempts: Option<i64>,
    ready_epoch: Option<i64>,
    leased_at: Option<i64>,
    lease_epoch: Option<i64>,
    lease_attempts: Option<i64>,
    holder: Option<String>,
    cancel_requested: Option<i64>,
    drawn_state: Option<String>,
    drawn_by: Option<String>,
    drawn_attempts: Option<i64>,
    drawn_epoch: Option<i64>,
    drawn_cancel: Option<i64>,
    session_closing: Option<String>,
    session_round: Option<i64>,
    session_phase: Option<String>,
    session_completed_at: Option<i64>,
    traceparent: Option<String>,
}

impl TryFrom<RawRecord> for RunRecord {
    type Error = StoreError;

    fn try_from(raw: RawRecord) -> Result<RunRecord, StoreError> {
        let state = stands(&raw)?;
        let due = raw.ready_due.filter(|due| *due > 0);
        let not_before = due.or(Some(raw.not_before).filter(|time| *time > 0)).map(Timestamp::from_millis);
        Ok(RunRecord {
            unfinished: (state == RunState::Succeeded).then(|| unfinished(&raw)).flatten(),
            not_before,
            state,
            epoch: Epoch::from_number(
                raw.epoch.or(raw.lease_epoch).or(raw.ready_epoch).or(raw.drawn_epoch).unwrap_or(0),
            ),
            attempts: raw.attempts.or(raw.lease_attempts).or(raw.ready_attempts).or(raw.drawn_attempts).unwrap_or(0),
            started_at: raw.started_at.or(raw.leased_at).map(Timestamp::from_millis),
            finished_at: raw.finished_at.map(Timestamp::from_millis),
            accepted_at: Timestamp::from_millis(raw.accepted_at),
            expires_at: raw.expires_at.map(Timestamp::from_millis),
            replay_of: raw.replay_of.map(RunId::from_text),
            cancel_requested: raw.cancel_requested.or(raw.drawn_cancel).unwrap_or(0) != 0,
            id: RunId::from_text(raw.id),
            env: raw.env,
            task: raw.task,
            queue: raw.queue,
            priority: raw.priority,
            payload: raw.payload,
            tags: raw.tags,
            metadata: raw.metadata,
            concurrency_key: raw.concurrency_key,
            idempotency_key: raw.idempotency_key,
            source: raw.source,
            session_id: raw.session_id,
            max_attempts: raw.max_attempts,
            max_duration_ms: raw.max_duration_ms,
            version: raw.version,
            code: raw.code,
            reason: raw.reason,
            output: raw.output,
            holder: raw.holder.or(raw.drawn_by),
            trace: raw.traceparent.as_deref().and_then(TraceParent::parse),
        })
    }
}

/// A run belongs to the round that was under way when it was accepted: it is a success once that one is completed, or
/// a later one. It is looked up whenever somebody reads the run, so that it changes with the session.
fn unfinished(raw: &RawRecord) -> Option<String> {
    let (round, phase) = (raw.session_round?, raw.session_phase.as_deref()?);
    if raw.session_completed_at.is_some_and(|at| at >= raw.accepted_at) {
        return None;
    }
    Some(match raw.session_closing.as_deref() {
        Some(closing) => format!("its session was closed as {closing} at phase {phase} of round {round}"),
        None => format!("its session is at phase {phase} of round {round}"),
    })
}

/// An open run stands where it is held. One that is held nowhere contradicts the model.
fn stands(raw: &RawRecord) -> Result<RunState, StoreError> {
    let corrupt =
        |value: &str| StoreError::Corrupt { entity: "run", id: raw.id.clone(), what: "state", value: value.to_owned() };
    if raw.state != "open" {
        return RunState::from_word(&raw.state).ok_or_else(|| corrupt(&raw.state));
    }
    if let Some(word) = &raw.drawn_state {
        return RunState::from_word(word).ok_or_else(|| corrupt(word));
    }
    match (raw.lease_epoch, raw.ready_due, &raw.buffered_as) {
        (Some(_), _, _) => Ok(RunState::Running),
        (None, Some(due), _) if due > 0 && raw.ready_attempts == Some(0) => Ok(RunState::Delayed),
        (None, Some(_), _) => Ok(RunState::Queued),
        (None, None, Some(_)) => Ok(RunState::Buffered),
        (None, None, None) => Err(corrupt("open, and held nowhere")),
    }
}

macro_rules! record_columns {
    () => {
        "SELECT r.id, r.env, r.task, r.queue, r.priority, r.payload, r.tags, r.metadata, r.concurrency_key,
            r.idempotency_key, r.source, r.session_id, r.replay_of, r.max_attempts, r.max_duration_ms, r.version,
            r.accepted_at, r.not_before, r.expires_at, r.state, r.code, r.reason, r.output, r.epoch, r.attempts,
            r.started_at, r.finished_at, b.run_id AS buffered_as, q.due_at AS ready_due, q.attempts AS ready_attempts,
            q.epoch AS ready_epoch, l.leased_at, l.epoch AS lease_epoch, l.attempts AS lease_attempts, l.holder,
            l.cancel_requested, j.state AS drawn_state, j.pool AS drawn_by, j.attempts AS drawn_attempts,
            j.epoch AS drawn_epoch, j.cancel_requested AS drawn_cancel, s.closing AS session_closing,
            s.round AS session_round, s.phase AS session_phase, s.completed_at AS session_completed_at, r.traceparent
        FROM "
    };
}

/// Where a run `r` may stand.
macro_rules! places {
    () => {
        " LEFT JOIN buffer b ON b.run_id = r.id LEFT JOIN ready q ON q.env = r.env AND q.run_id = r.id
        LEFT JOIN leases l ON l.run_id = r.id LEFT JOIN runs j ON j.id = r.id AND j.env = r.env
        LEFT JOIN sessions s ON s.id = r.session_id"
    };
}

const RECORD: &str =
    concat!("-- record\n", record_columns!(), "run_records r", places!(), " WHERE r.id = $1 AND r.env = $2");

pub(super) use {places, record_columns};

const PAST_ATTEMPTS: &str = "-- past_attempts
SELECT epoch, state, code, reason, holder, leased_at, settled_at, batch_id, verdict, cost_nanos FROM attempts
WHERE run_id = $1 ORDER BY epoch";

impl Store {
    /// A run of an env; another env's run is not found.
    pub async fn run_record(&self, env: &str, id: &RunId) -> Result<Option<RunRecord>, StoreError> {
        let raw: Option<RawRecord> =
            on_pool!(self, |pool| sqlx::query_as(RECORD).bind(id.as_str()).bind(env).fetch_optional(pool).await?);
        raw.map(RunRecord::try_from).transpose()
    }

    /// The tries of a run that did not end it and all those in batches, oldest first.
    pub async fn past_attempts(&self, id: &RunId) -> Result<Vec<PastAttempt>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(PAST_ATTEMPTS).bind(id.as_str()).fetch_all(pool).await?))
    }
}

impl RunRecord {
    pub fn lane(&self) -> Lane {
        Lane::new(&self.queue, &self.concurrency_key)
    }
}
