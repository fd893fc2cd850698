//! Taking runs in on PostgreSQL: arrays of columns, in as few statements as there can be.

use super::super::CHUNK;
use super::{HELD, Keyed, Known, NewRecord, fresh, in_order};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{RunId, Timestamp};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::HashSet;

const KEYS_POSTGRES: &str = "-- put_keys
INSERT INTO idempotency (env, key, run_id, fingerprint, answer, expires_at)
SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[])
ON CONFLICT (env, key) DO UPDATE SET run_id = excluded.run_id, fingerprint = excluded.fingerprint,
    answer = excluded.answer, expires_at = excluded.expires_at
WHERE idempotency.expires_at <= $7
RETURNING env, key";

/// One statement and so one commit of its own, however many runs: these are its records, and the parts below are
/// where they wait. Only those that are needed: PostgreSQL opens and locks every index of a table that a statement
/// names, though it may write nothing. The arrays stand in the list of what is selected: each in FROM would
/// be written to a store of tuples of its own first, which is a fifth of what the whole statement takes.
const RECORDS_POSTGRES: &str = "-- accept
WITH new AS MATERIALIZED (SELECT
        UNNEST($1::TEXT[]) AS id, UNNEST($2::TEXT[]) AS env, UNNEST($3::TEXT[]) AS task,
        UNNEST($4::TEXT[]) AS basin, UNNEST($5::TEXT[]) AS queue, UNNEST($6::TEXT[]) AS lane,
        UNNEST($7::TEXT[]) AS concurrency_key, UNNEST($8::BIGINT[]) AS priority, UNNEST($9::TEXT[]) AS payload,
        UNNEST($10::TEXT[]) AS tags, UNNEST($11::TEXT[]) AS metadata, UNNEST($12::TEXT[]) AS idempotency_key,
        UNNEST($13::TEXT[]) AS source, UNNEST($14::TEXT[]) AS session_id, UNNEST($15::TEXT[]) AS replay_of,
        UNNEST($16::BIGINT[]) AS max_attempts, UNNEST($17::BIGINT[]) AS max_duration_ms,
        UNNEST($18::BIGINT[]) AS accepted_at, UNNEST($19::BIGINT[]) AS due_at, UNNEST($20::BIGINT[]) AS expires_at,
        UNNEST($21::BIGINT[]) AS rank, UNNEST($22::BOOLEAN[]) AS buffered, UNNEST($23::BOOLEAN[]) AS leased,
        UNNEST($24::TEXT[]) AS traceparent),
records AS (INSERT INTO run_records (id, env, task, queue, priority, payload, tags, metadata, concurrency_key,
        idempotency_key, source, session_id, replay_of, max_attempts, max_duration_ms, accepted_at, not_before, expires_at,
        traceparent)
    SELECT id, env, task, queue, priority, payload, tags, metadata, concurrency_key, idempotency_key, source, session_id,
        replay_of, max_attempts, max_duration_ms, accepted_at, due_at, expires_at, traceparent FROM new)";

const BUFFER_POSTGRES: &str = ",
held AS (INSERT INTO buffer (run_id, env, basin, lane, task, rank, due_at, expires_at, max_attempts, max_duration_ms,
        accepted_at)
    SELECT id, env, basin, lane, task, rank, due_at, expires_at, max_attempts, max_duration_ms, accepted_at
    FROM new WHERE buffered)";

const READY_POSTGRES: &str = ",
waiting AS (INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts, max_attempts,
        max_duration_ms, since)
    SELECT id, env, basin, lane, task, rank, due_at, expires_at, 0, 0, max_attempts, max_duration_ms, accepted_at
    FROM new WHERE NOT buffered AND NOT leased)";

const LEASES_POSTGRES: &str = ",
taken AS (INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts,
        max_duration_ms, since, holder, leased_at)
    SELECT id, env, basin, lane, task, rank, expires_at, 1, 1, max_attempts, max_duration_ms, accepted_at, $25, accepted_at
    FROM new WHERE leased)";

/// The statement with the parts that some runs need.
fn accept_statement(records: &[&NewRecord]) -> String {
    let is_ready = |record: &&&NewRecord| !record.buffered && !record.leased;
    let parts = [
        (records.iter().any(|record| record.buffered), BUFFER_POSTGRES),
        (records.iter().any(|record| is_ready(&record)), READY_POSTGRES),
        (records.iter().any(|record| record.leased), LEASES_POSTGRES),
    ];
    let parts: String = parts.into_iter().filter_map(|(needed, part)| needed.then_some(part)).collect();
    format!("{RECORDS_POSTGRES}{parts}\nSELECT 1")
}

/// Without keys one statement is enough, which commits by itself.
pub(super) async fn accept_postgres(
    connection: &mut PgConnection,
    records: &[NewRecord],
    keyed: &Keyed<'_>,
    node: &str,
    now: i64,
) -> Result<Known, StoreError> {
    if keyed.is_empty() {
        insert_postgres(connection, &records.iter().collect::<Vec<_>>(), node).await?;
        return Ok(Known::new());
    }
    let mut tx = connection.begin().await?;
    let known = put_keys_postgres(&mut tx, keyed, now).await?;
    insert_postgres(&mut tx, &fresh(records, keyed, &known), node).await?;
    reached(Failpoint::AcceptOpen);
    tx.commit().await?;
    Ok(known)
}

async fn put_keys_postgres(tx: &mut PgConnection, keyed: &Keyed<'_>, now: i64) -> Result<Known, StoreError> {
    let mut known = Known::new();
    for part in in_order(keyed).chunks(CHUNK) {
        let taken: Vec<(String, String)> = sqlx::query_as(KEYS_POSTGRES)
            .bind(part.iter().map(|(record, _)| record.env.as_str()).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, own)| own.key.as_str()).collect::<Vec<_>>())
            .bind(part.iter().map(|(record, _)| record.id.as_str()).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, own)| own.fingerprint.as_str()).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, own)| own.answer.as_str()).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, own)| own.expires_at.millis()).collect::<Vec<_>>())
            .bind(now)
            .fetch_all(&mut *tx)
            .await?;
        let taken: HashSet<(String, String)> = taken.into_iter().collect();
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

async fn insert_postgres(connection: &mut PgConnection, records: &[&NewRecord], node: &str) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    macro_rules! column {
        (|$record:ident| $value:expr) => {
            records.iter().map(|$record| $value).collect::<Vec<_>>()
        };
    }
    let leased = records.iter().any(|record| record.leased);
    let insert = sqlx::query(AssertSqlSafe(accept_statement(records)))
        .bind(column!(|record| record.id.as_str()))
        .bind(column!(|record| record.env.as_str()))
        .bind(column!(|record| record.task.as_str()))
        .bind(column!(|record| record.basin.as_str()))
        .bind(column!(|record| record.lane.queue()))
        .bind(column!(|record| record.lane.as_str()))
        .bind(column!(|record| record.lane.key()))
        .bind(column!(|record| record.priority))
        .bind(column!(|record| record.payload.as_str()))
        .bind(column!(|record| record.tags.as_str()))
        .bind(column!(|record| record.metadata.as_str()))
        .bind(column!(|record| record.idempotency.as_ref().map(|own| own.key.as_str())))
        .bind(column!(|record| record.source.word()))
        .bind(column!(|record| record.session_id.as_deref()))
        .bind(column!(|record| record.replay_of.as_ref().map(RunId::as_str)))
        .bind(column!(|record| record.max_attempts))
        .bind(column!(|record| record.max_duration_ms))
        .bind(column!(|record| record.accepted_at.millis()))
        .bind(column!(|record| record.due_at()))
        .bind(column!(|record| record.expires_at.map(Timestamp::millis)))
        .bind(column!(|record| record.rank()))
        .bind(column!(|record| record.buffered))
        .bind(column!(|record| record.leased))
        .bind(column!(|record| record.trace.map(|trace| trace.to_string())));
    let insert = if leased { insert.bind(node) } else { insert };
    insert.execute(connection).await?;
    Ok(())
}
