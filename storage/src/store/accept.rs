//! Takes runs in: many in one commit, each either ready or buffered, each once per idempotency key.

mod postgres;
mod sqlite;

use super::door::Door;
use super::hot::Hot;
use super::{CHUNK, KEPT, Mark, Pools, Store, WriteTurn, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Basin, Epoch, Lane, RunId, Source, Timestamp, TraceParent};
use crate::store::Leased;
use postgres::accept_postgres;
use sqlite::{insert_sqlite, lease_sqlite, put_keys_sqlite};
use sqlx::{PgConnection, QueryBuilder, Sqlite};
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
    /// Of which trace it is, if of any.
    pub trace: Option<TraceParent>,
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
            rank: self.rank(),
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

/// A priority beyond this, or below its negative, counts as this: in milliseconds it still is a number of 64 bits.
const PRIORITY_MAX: i64 = 9_000_000_000_000_000;

/// A run's place in its lane: its accept time less its priority in seconds. SQLite's triggers say the same.
pub(super) fn rank(accepted_at: i64, priority: i64) -> i64 {
    accepted_at.saturating_sub(priority.clamp(-PRIORITY_MAX, PRIORITY_MAX) * 1_000)
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

const HELD: &str = "-- held_key
SELECT run_id, fingerprint, answer FROM idempotency WHERE env = $1 AND key = $2";

impl Store {
    /// Takes runs in, as `accept_in` does when it is its turn.
    pub async fn accept(&self, records: &[NewRecord]) -> Result<Vec<Accepted>, StoreError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let (accepted, mark) = self.accept_in(Door::Many, self.write_turn().await?, records).await?;
        self.synced(mark).await?;
        Ok(accepted)
    }

    /// Takes runs in; up to 1,500 of them are in one commit, all or none. The answers come in the order of the runs,
    /// and may be given once the mark is synced. A key that is taken twice among them counts for the first.
    pub async fn accept_in(
        &self,
        door: Door,
        turn: WriteTurn,
        records: &[NewRecord],
    ) -> Result<(Vec<Accepted>, Mark), StoreError> {
        for record in records {
            record.refuse_nul()?;
        }
        let keyed = first_of_each_key(records);
        let (node, now) = (self.node().as_str(), self.now().millis());
        let (known, mark) = match &self.inner.pools {
            Pools::Sqlite { writer, .. } if keyed.is_empty() && records.len() <= TOGETHER => {
                let mut writing = turn.writing(writer).await?;
                // All in one go, and where it can be in one statement, which is a commit by itself: each go is a
                // trip to the connection's own thread, and that says of each statement that it is done.
                let mut whole = QueryBuilder::<Sqlite>::new("");
                let fresh: Vec<&NewRecord> = records.iter().collect();
                if fresh.iter().any(|record| record.leased) {
                    whole.push("BEGIN IMMEDIATE; ");
                    lease_sqlite(&mut whole, &fresh, node);
                    whole.push("; ");
                    insert_sqlite(&mut whole, &fresh);
                    whole.push("; COMMIT");
                } else {
                    insert_sqlite(&mut whole, &fresh);
                }
                whole.build().persistent(records.len() <= KEPT).execute(&mut *writing).await?;
                (Known::new(), writing.done_unsynced())
            }
            Pools::Sqlite { writer, .. } => {
                let mut tx = turn.writing(writer).await?.begin().await?;
                let known = put_keys_sqlite(&mut tx, &keyed, now).await?;
                for part in fresh(records, &keyed, &known).chunks(TOGETHER) {
                    let mut insert = QueryBuilder::<Sqlite>::new("");
                    if part.iter().any(|record| record.leased) {
                        lease_sqlite(&mut insert, part, node);
                        insert.push("; ");
                    }
                    insert_sqlite(&mut insert, part);
                    insert.build().persistent(false).execute(&mut *tx).await?;
                }
                reached(Failpoint::AcceptOpen);
                (known, tx.commit_unsynced().await?)
            }
            Pools::Postgres { hot, .. } => {
                let accept =
                    async |connection: &mut PgConnection| accept_postgres(connection, records, &keyed, node, now).await;
                (hot.on(Hot::Accept(door), accept).await?, Mark::default())
            }
        };
        reached(Failpoint::AcceptStored);
        Ok((records.iter().map(|record| answer(record, &keyed, &known)).collect(), mark))
    }

    /// Those of an env's keys that were used and have not expired.
    pub async fn known_keys(&self, env: &str, keys: &[String]) -> Result<HashSet<String>, StoreError> {
        let now = self.now().millis();
        let mut known = HashSet::new();
        for part in keys.chunks(CHUNK) {
            let found: Vec<String> = on_pool!(self, |pool| {
                let mut select = QueryBuilder::<Db>::new("-- known_keys\nSELECT key FROM idempotency WHERE env = ");
                select.push_bind(env).push(" AND expires_at > ").push_bind(now).push(" AND key IN (");
                let mut names = select.separated(", ");
                for key in part {
                    names.push_bind(key.as_str());
                }
                select.push(")");
                select.build_query_scalar().persistent(false).fetch_all(pool).await?
            });
            known.extend(found);
        }
        Ok(known)
    }
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
