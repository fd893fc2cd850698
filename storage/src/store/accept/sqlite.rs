//! Taking runs in on SQLite: rows of values, as many to a statement as its parameters allow. A trigger puts each
//! where it waits.

use super::super::CHUNK;
use super::{HELD, Keyed, Known, NewRecord, TAKE_EXPIRED, in_order};
use crate::error::StoreError;
use crate::model::{RunId, Timestamp};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use std::collections::HashSet;

/// Writes the keys that are free or have expired; returns who holds the others.
pub(super) async fn put_keys_sqlite(
    tx: &mut SqliteConnection,
    keyed: &Keyed<'_>,
    now: i64,
) -> Result<Known, StoreError> {
    let mut known = Known::new();
    for part in in_order(keyed).chunks(CHUNK) {
        let mut insert =
            QueryBuilder::<Sqlite>::new("INSERT INTO idempotency (env, key, run_id, fingerprint, answer, expires_at) ");
        insert.push_values(part, |mut row, (record, own)| {
            row.push_bind(record.env.as_str())
                .push_bind(own.key.as_str())
                .push_bind(record.id.as_str())
                .push_bind(own.fingerprint.as_str())
                .push_bind(own.answer.as_str())
                .push_bind(own.expires_at.millis());
        });
        insert.push(TAKE_EXPIRED).push_bind(now).push(" RETURNING env, key");
        let taken: HashSet<(String, String)> =
            insert.build_query_as().persistent(false).fetch_all(&mut *tx).await?.into_iter().collect();
        for (record, own) in part {
            let key = (record.env.clone(), own.key.clone());
            if !taken.contains(&key) {
                let held = sqlx::query_as(HELD).bind(&key.0).bind(&key.1).fetch_one(&mut *tx).await?;
                known.insert(key, held);
            }
        }
    }
    Ok(known)
}

/// What a trigger does with a new run: 0 ready, 1 buffer, and 2 more for one that pull workers carry.
fn entry(record: &NewRecord) -> Option<i64> {
    let pull = if record.basin.is_own() { 0 } else { 2 };
    (!record.leased).then_some(i64::from(record.buffered) + pull)
}

/// The statement that writes runs.
pub(super) fn insert_sqlite(insert: &mut QueryBuilder<Sqlite>, records: &[&NewRecord]) {
    insert.push(
        "INSERT INTO run_records (id, env, task, queue, priority, payload, tags, metadata, concurrency_key,
            idempotency_key, source, session_id, replay_of, max_attempts, max_duration_ms, accepted_at, not_before,
            expires_at, entry, traceparent) ",
    );
    insert.push_values(records, |mut row, record| {
        row.push_bind(record.id.as_str())
            .push_bind(record.env.as_str())
            .push_bind(record.task.as_str())
            .push_bind(record.lane.queue())
            .push_bind(record.priority)
            .push_bind(record.payload.as_str())
            .push_bind(record.tags.as_str())
            .push_bind(record.metadata.as_str())
            .push_bind(record.lane.key())
            .push_bind(record.idempotency.as_ref().map(|own| own.key.as_str()))
            .push_bind(record.source.word())
            .push_bind(record.session_id.as_deref())
            .push_bind(record.replay_of.as_ref().map(RunId::as_str))
            .push_bind(record.max_attempts)
            .push_bind(record.max_duration_ms)
            .push_bind(record.accepted_at.millis())
            .push_bind(record.due_at())
            .push_bind(record.expires_at.map(Timestamp::millis))
            .push_bind(entry(record))
            .push_bind(record.trace.map(|trace| trace.to_string()));
    });
}

/// The leases of those that have one from their first moment; before or after the statement that writes them.
pub(super) fn lease_sqlite(insert: &mut QueryBuilder<Sqlite>, records: &[&NewRecord], node: &str) {
    insert.push(
        "INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts,
            max_duration_ms, since, holder, leased_at) ",
    );
    insert.push_values(records.iter().filter(|record| record.leased), |mut row, record| {
        row.push_bind(record.id.as_str())
            .push_bind(record.env.as_str())
            .push_bind(record.basin.as_str())
            .push_bind(record.lane.as_str())
            .push_bind(record.task.as_str())
            .push_bind(record.rank())
            .push_bind(record.expires_at.map(Timestamp::millis))
            .push_bind(1_i64)
            .push_bind(1_i64)
            .push_bind(record.max_attempts)
            .push_bind(record.max_duration_ms)
            .push_bind(record.accepted_at.millis())
            .push_bind(node)
            .push_bind(record.accepted_at.millis());
    });
}
