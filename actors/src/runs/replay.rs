//! A run made from another one.

use super::{Task, TaskKind};
use storage::model::{Basin, RunId, Source, Timestamp};
use storage::store::{NewRecord, RunRecord};

/// A new run of the same payload, as its task has it by now. It is due at once, and has no key.
pub fn replay(old: RunRecord, task: &Task, id: RunId, now: Timestamp) -> NewRecord {
    let basin = match task.kind {
        TaskKind::Own(_) => Basin::own(&old.env),
        TaskKind::Pull | TaskKind::Llm(_) => Basin::pull(&old.task, &old.env),
    };
    NewRecord {
        id,
        lane: old.lane(),
        replay_of: Some(old.id),
        env: old.env,
        task: old.task,
        basin,
        priority: old.priority,
        payload: old.payload,
        tags: old.tags,
        metadata: old.metadata,
        source: Source::from_word(&old.source).unwrap_or(Source::Backfill),
        session_id: old.session_id,
        max_attempts: old.max_attempts,
        max_duration_ms: old.max_duration_ms,
        accepted_at: now,
        not_before: None,
        expires_at: None,
        buffered: false,
        leased: false,
        trace: None,
        idempotency: None,
    }
}
