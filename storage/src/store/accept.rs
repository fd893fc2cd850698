//! Takes runs in: many in one commit, each either ready or buffered, each once per idempotency key.

use super::hot::Hot;
use super::{CHUNK, KEPT, Pools, Store};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Basin, Epoch, Lane, RunId, Source, Timestamp};
use crate::store::Leased;
use sqlx::{Connection, PgConnection, QueryBuilder, Sqlite, SqliteConnection};
use std::collections::{HashMap, HashSet};

/// Runs in one commit; times the columns of a record this stays below SQLite's limit of parameters.
const TOGETHER: usize = 1_500;

/// A run as it is asked for, with everything decided that is decided at the door.
#[derive(Debug, Clone)]
pub struct NewRecord {
    pub id: RunId,
    pub env: String,
    pub task: String,
    /// Who carries it; see [`Basin`].
    pub basin: Basin,
    pub lane: Lane,
    /// Seconds by which it is taken to have been accepted earlier than it was.
    pub priority: i64,
    /// Raw JSON, kept byte for byte.
    pub payload: String,
    /// A JSON array of texts.
    pub tags: String,
    /// A JSON object.
    pub metadata: String,
    pub source: Source,
    pub session_id: Option<String>,
    pub replay_of: Option<RunId>,
    pub max_attempts: i64,
    /// Milliseconds; 0 for no limit.
    pub max_duration_ms: i64,
    pub accepted_at: Timestamp,
    pub not_before: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// Held back in the buffer instead of made ready.
    pub buffered: bool,
    /// Leased by this node from its first moment, because a worker is free for it; not together with `buffered`.
    pub leased: bool,
    pub idempotency: Option<Idempotency>,
}

/// What makes a request the same as an earlier one.
#[derive(Debug, Clone)]
pub struct Idempotency {
    pub key: String,
    /// Digest of the request's meaning.
    pub fingerprint: String,
    /// What the request is answered with, now and when it comes again.
    pub answer: String,
    pub expires_at: Timestamp,
}

/// What became of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The key's first request was the same; this is what it was answered with.
    Replayed {
        run: RunId,
        answer: String,
    },
    /// The key's first request was another one.
    Mismatch {
        run: RunId,
    },
}

impl NewRecord {
    /// When it may start, in the form of `ready.due_at`; a time before all times has come already.
    fn due_at(&self) -> i64 {
        self.not_before.map_or(0, |time| time.millis().max(0))
    }

    /// The lease that it has from its first moment, if it is `leased`.
    pub fn lease(&self) -> Leased {
        Leased {
            run: self.id.clone(),
            env: self.env.clone(),
            basin: self.basin.clone(),
            lane: self.lane.clone(),
            task: self.task.clone(),
            epoch: Epoch::from_number(1),
            attempt: 1,
            max_attempts: self.max_attempts,
            max_duration_ms: self.max_duration_ms,
            since: self.accepted_at,
        }
    }

    /// Its place in its lane.
    pub fn rank(&self) -> i64 {
        rank(self.accepted_at.millis(), self.priority)
    }

    /// PostgreSQL's text cannot hold it, and SQLite's would: refuse it for both.
    fn refuse_nul(&self) -> Result<(), StoreError> {
        let own = self.idempotency.as_ref();
        let texts = [
            Some(self.id.as_str()),
            Some(&self.env),
            Some(&self.task),
            Some(self.basin.as_str()),
            Some(self.lane.as_str()),
            Some(&self.payload),
            Some(&self.tags),
            Some(&self.metadata),
            self.session_id.as_deref(),
            self.replay_of.as_ref().map(RunId::as_str),
            own.map(|own| own.key.as_str()),
            own.map(|own| own.fingerprint.as_str()),
            own.map(|own| own.answer.as_str()),
        ];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(StoreError::NulInText { entity: "run", id: self.id.to_string() });
        }
        Ok(())
    }
}

/// A run's place in its lane: its accept time less its priority in seconds.
pub(super) fn rank(accepted_at: i64, priority: i64) -> i64 {
    accepted_at.saturating_sub(priority.saturating_mul(1_000))
}

#[derive(Debug, Clone, sqlx::FromRow)]
struct Held {
    run_id: String,
    fingerprint: String,
    answer: String,
}

/// A key that has expired is free again.
const TAKE_EXPIRED: &str = " ON CONFLICT (env, key) DO UPDATE SET run_id = excluded.run_id,
    fingerprint = excluded.fingerprint, answer = excluded.answer, expires_at = excluded.expires_at
WHERE idempotency.expires_at <= ";

const KEYS_POSTGRES: &str = "-- put_keys
INSERT INTO idempotency (env, key, run_id, fingerprint, answer, expires_at)
SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[])
ON CONFLICT (env, key) DO UPDATE SET run_id = excluded.run_id, fingerprint = excluded.fingerprint,
    answer = excluded.answer, expires_at = excluded.expires_at
WHERE idempotency.expires_at <= $7
RETURNING env, key";

const HELD: &str = "-- held_key
SELECT run_id, fingerprint, answer FROM idempotency WHERE env = $1 AND key = $2";

/// One statement and so one commit of its own, however many runs.
const ACCEPT_POSTGRES: &str = "-- accept
WITH new AS MATERIALIZED (SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[],
        $7::TEXT[], $8::BIGINT[], $9::TEXT[], $10::TEXT[], $11::TEXT[], $12::TEXT[], $13::TEXT[], $14::TEXT[],
        $15::TEXT[], $16::BIGINT[], $17::BIGINT[], $18::BIGINT[], $19::BIGINT[], $20::BIGINT[], $21::BIGINT[],
        $22::BOOLEAN[], $23::BOOLEAN[])
    AS t(id, env, task, basin, queue, lane, concurrency_key, priority, payload, tags, metadata, idempotency_key, source,
        session_id, replay_of, max_attempts, max_duration_ms, accepted_at, due_at, expires_at, rank, buffered, leased)),
records AS (INSERT INTO run_records (id, env, task, queue, priority, payload, tags, metadata, concurrency_key,
        idempotency_key, source, session_id, replay_of, max_attempts, max_duration_ms, accepted_at, not_before, expires_at)
    SELECT id, env, task, queue, priority, payload, tags, metadata, concurrency_key, idempotency_key, source, session_id,
        replay_of, max_attempts, max_duration_ms, accepted_at, due_at, expires_at FROM new),
held AS (INSERT INTO buffer (run_id, env, basin, lane, task, rank, due_at, expires_at, max_attempts, max_duration_ms,
        accepted_at)
    SELECT id, env, basin, lane, task, rank, due_at, expires_at, max_attempts, max_duration_ms, accepted_at
    FROM new WHERE buffered),
taken AS (INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts,
        max_duration_ms, since, holder, leased_at)
    SELECT id, env, basin, lane, task, rank, expires_at, 1, 1, max_attempts, max_duration_ms, accepted_at, $24, accepted_at
    FROM new WHERE leased)
INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts, max_attempts,
    max_duration_ms, since)
SELECT id, env, basin, lane, task, rank, due_at, expires_at, 0, 0, max_attempts, max_duration_ms, accepted_at
FROM new WHERE NOT buffered AND NOT leased";

impl Store {
    /// Takes runs in. When this returns they are durable; up to 1,500 of them are in one commit, all or none. The
    /// answers come in the order of the runs. A key that is taken twice among them counts for the first.
    pub async fn accept(&self, records: &[NewRecord]) -> Result<Vec<Accepted>, StoreError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        for record in records {
            record.refuse_nul()?;
        }
        let keyed = first_of_each_key(records);
        let (node, now) = (self.node().as_str(), self.now().millis());
        let known = match &self.inner.pools {
            Pools::Sqlite { writer, .. } if keyed.is_empty() && records.len() <= TOGETHER => {
                // All statements in one go: each go is a trip to the connection's own thread.
                let mut whole = QueryBuilder::<Sqlite>::new("BEGIN IMMEDIATE; ");
                insert_sqlite(&mut whole, &records.iter().collect::<Vec<_>>(), node);
                let mut writing = writer.acquire().await?;
                whole.push("COMMIT").build().persistent(records.len() <= KEPT).execute(&mut *writing).await?;
                writing.done();
                Known::new()
            }
            Pools::Sqlite { writer, .. } => {
                let mut tx = writer.begin().await?;
                let known = put_keys_sqlite(&mut tx, &keyed, now).await?;
                for part in fresh(records, &keyed, &known).chunks(TOGETHER) {
                    let mut insert = QueryBuilder::<Sqlite>::new("");
                    insert_sqlite(&mut insert, part, node);
                    insert.build().persistent(false).execute(&mut *tx).await?;
                }
                reached(Failpoint::AcceptOpen);
                tx.commit().await?;
                known
            }
            Pools::Postgres { hot, .. } => {
                hot.on(Hot::Accept, async |connection| accept_postgres(connection, records, &keyed, node, now).await)
                    .await?
            }
        };
        reached(Failpoint::AcceptStored);
        Ok(records.iter().map(|record| answer(record, &keyed, &known)).collect())
    }
}

/// Without keys one statement is enough, which commits by itself.
async fn accept_postgres(
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

/// Who holds the keys that were not free.
type Known = HashMap<(String, String), Held>;
type Keyed<'a> = HashMap<(&'a str, &'a str), &'a NewRecord>;

fn key_of(record: &NewRecord) -> Option<(&str, &str)> {
    record.idempotency.as_ref().map(|own| (record.env.as_str(), own.key.as_str()))
}

fn first_of_each_key(records: &[NewRecord]) -> Keyed<'_> {
    let mut keyed = Keyed::new();
    for record in records {
        if let Some(key) = key_of(record) {
            keyed.entry(key).or_insert(record);
        }
    }
    keyed
}

/// Those that are written: without a key, or the first of one that was free.
fn fresh<'a>(records: &'a [NewRecord], keyed: &Keyed<'_>, known: &Known) -> Vec<&'a NewRecord> {
    let is_fresh = |record: &&NewRecord| match key_of(record) {
        None => true,
        Some(key) => {
            let first = keyed.get(&key).is_some_and(|first| first.id == record.id);
            first && !known.contains_key(&(key.0.to_owned(), key.1.to_owned()))
        }
    };
    records.iter().filter(is_fresh).collect()
}

fn answer(record: &NewRecord, keyed: &Keyed<'_>, known: &Known) -> Accepted {
    let (Some(key), Some(own)) = (key_of(record), &record.idempotency) else { return Accepted::New };
    let (run, fingerprint, answer) = match known.get(&(key.0.to_owned(), key.1.to_owned())) {
        Some(held) => (RunId::from_text(&held.run_id), &held.fingerprint, &held.answer),
        None => match keyed.get(&key).and_then(|first| Some((*first, first.idempotency.as_ref()?))) {
            Some((first, _)) if first.id == record.id => return Accepted::New,
            Some((first, theirs)) => (first.id.clone(), &theirs.fingerprint, &theirs.answer),
            None => return Accepted::New,
        },
    };
    if *fingerprint == own.fingerprint {
        Accepted::Replayed { run, answer: answer.clone() }
    } else {
        Accepted::Mismatch { run }
    }
}

/// In one order, so that two nodes that write the same keys wait for each other in that order only.
fn in_order<'a>(keyed: &Keyed<'a>) -> Vec<(&'a NewRecord, &'a Idempotency)> {
    let mut sorted: Vec<_> =
        keyed.values().filter_map(|record| Some((*record, record.idempotency.as_ref()?))).collect();
    sorted.sort_unstable_by_key(|(record, own)| (&record.env, &own.key));
    sorted
}

/// Writes the keys that are free or have expired; returns who holds the others.
async fn put_keys_sqlite(tx: &mut SqliteConnection, keyed: &Keyed<'_>, now: i64) -> Result<Known, StoreError> {
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
        let taken: HashSet<(String, String)> = insert.build_query_as().persistent(false).fetch_all(&mut *tx).await?.into_iter().collect();
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

/// The statements that write runs.
fn insert_sqlite(insert: &mut QueryBuilder<Sqlite>, records: &[&NewRecord], node: &str) {
    insert.push(
        "INSERT INTO run_records (id, env, task, queue, priority, payload, tags, metadata, concurrency_key,
            idempotency_key, source, session_id, replay_of, max_attempts, max_duration_ms, accepted_at, not_before,
            expires_at) ",
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
            .push_bind(record.expires_at.map(Timestamp::millis));
    });
    insert.push("; ");
    let (held, passed): (Vec<&NewRecord>, Vec<&NewRecord>) = records.iter().partition(|record| record.buffered);
    let (leased, ready): (Vec<&NewRecord>, Vec<&NewRecord>) = passed.into_iter().partition(|record| record.leased);
    if !held.is_empty() {
        hold_sqlite(insert, &held);
    }
    if !ready.is_empty() {
        make_ready_sqlite(insert, &ready);
    }
    if !leased.is_empty() {
        lease_sqlite(insert, &leased, node);
    }
}

fn lease_sqlite(insert: &mut QueryBuilder<Sqlite>, leased: &[&NewRecord], node: &str) {
    insert.push(
        "INSERT INTO leases (run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts,
            max_duration_ms, since, holder, leased_at) ",
    );
    insert.push_values(leased, |mut row, record| {
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
    insert.push("; ");
}

fn hold_sqlite(insert: &mut QueryBuilder<Sqlite>, held: &[&NewRecord]) {
    insert.push(
        "INSERT INTO buffer (run_id, env, basin, lane, task, rank, due_at, expires_at, max_attempts,
            max_duration_ms, accepted_at) ",
    );
    insert.push_values(held, |mut row, record| {
        row.push_bind(record.id.as_str())
            .push_bind(record.env.as_str())
            .push_bind(record.basin.as_str())
            .push_bind(record.lane.as_str())
            .push_bind(record.task.as_str())
            .push_bind(record.rank())
            .push_bind(record.due_at())
            .push_bind(record.expires_at.map(Timestamp::millis))
            .push_bind(record.max_attempts)
            .push_bind(record.max_duration_ms)
            .push_bind(record.accepted_at.millis());
    });
    insert.push("; ");
}

fn make_ready_sqlite(insert: &mut QueryBuilder<Sqlite>, ready: &[&NewRecord]) {
    insert.push(
        "INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts,
            max_attempts, max_duration_ms, since) ",
    );
    insert.push_values(ready, |mut row, record| {
        row.push_bind(record.id.as_str())
            .push_bind(record.env.as_str())
            .push_bind(record.basin.as_str())
            .push_bind(record.lane.as_str())
            .push_bind(record.task.as_str())
            .push_bind(record.rank())
            .push_bind(record.due_at())
            .push_bind(record.expires_at.map(Timestamp::millis))
            .push_bind(0_i64)
            .push_bind(0_i64)
            .push_bind(record.max_attempts)
            .push_bind(record.max_duration_ms)
            .push_bind(record.accepted_at.millis());
    });
    insert.push("; ");
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
    sqlx::query(ACCEPT_POSTGRES)
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
        .bind(node)
        .execute(connection)
        .await?;
    Ok(())
}
