//! Batches as they stand: read, listed, taken over, and their request bodies in order.

use super::{Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{BatchId, BatchState, Epoch, JobId, Mode, Money, Source, Timestamp};

/// A batch as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRow {
    pub id: BatchId,
    pub env: String,
    pub pool: String,
    pub job: JobId,
    pub source: Source,
    pub round: i64,
    pub provider: String,
    pub account: String,
    pub pack: String,
    pub mode: Mode,
    pub state: BatchState,
    pub epoch: Epoch,
    pub holder: Option<String>,
    pub wire_key: String,
    /// Counts creates of this batch; part of the key on the wire, so that each create has its own.
    pub create_no: i64,
    pub requests: i64,
    /// Bytes of all request bodies, without envelopes.
    pub body_bytes: i64,
    pub upload_started_at: Option<Timestamp>,
    pub input_file_id: Option<String>,
    /// The newest provider batch of the account when this one's create was armed.
    pub lane_cursor: Option<String>,
    pub intent_at: Option<Timestamp>,
    pub provider_batch_id: Option<String>,
    /// Adopted by its size alone; its results will prove or disprove it.
    pub provisional: bool,
    pub submitted_at: Option<Timestamp>,
    pub provider_status: Option<String>,
    pub output_ref: Option<String>,
    pub error_ref: Option<String>,
    pub ended_at: Option<Timestamp>,
    pub first_absent_at: Option<Timestamp>,
    pub next_at: Timestamp,
    /// Consecutive looks that brought nothing new; decides the back-off.
    pub strikes: i64,
    pub reserved: Money,
    pub spent: Money,
    pub succeeded: i64,
    pub errored: i64,
    pub uncounted: i64,
    pub reason: Option<String>,
    /// Somebody wants it stopped at its provider.
    pub cancel_wanted: bool,
    /// Somebody else made it, under custom ids of their own.
    pub imported: bool,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl BatchRow {
    /// The key that this batch's current create carries; unique to that create.
    pub fn create_key(&self) -> String {
        format!("{}-{}", self.wire_key, self.create_no)
    }
}

#[derive(sqlx::FromRow)]
struct RawBatch {
    id: String,
    env: String,
    pool: String,
    job_id: String,
    source: String,
    round: i64,
    provider: String,
    account: String,
    pack: String,
    mode: String,
    state: String,
    epoch: i64,
    holder: Option<String>,
    wire_key: String,
    create_no: i64,
    requests: i64,
    body_bytes: i64,
    upload_started_at: Option<i64>,
    input_file_id: Option<String>,
    lane_cursor: Option<String>,
    intent_at: Option<i64>,
    provider_batch_id: Option<String>,
    provisional: i64,
    submitted_at: Option<i64>,
    provider_status: Option<String>,
    output_ref: Option<String>,
    error_ref: Option<String>,
    ended_at: Option<i64>,
    first_absent_at: Option<i64>,
    next_at: i64,
    strikes: i64,
    reserved_nanos: i64,
    spent_nanos: i64,
    succeeded: i64,
    errored: i64,
    uncounted: i64,
    reason: Option<String>,
    cancel_wanted: i64,
    imported: i64,
    created_at: i64,
    finished_at: Option<i64>,
}

impl TryFrom<RawBatch> for BatchRow {
    type Error = StoreError;

    fn try_from(raw: RawBatch) -> Result<BatchRow, StoreError> {
        let corrupt = |what: &'static str, value: &str| StoreError::Corrupt {
            entity: "batch",
            id: raw.id.clone(),
            what,
            value: value.to_owned(),
        };
        let at = |millis: Option<i64>| millis.map(Timestamp::from_millis);
        Ok(BatchRow {
            source: Source::from_word(&raw.source).ok_or_else(|| corrupt("source", &raw.source))?,
            mode: Mode::from_word(&raw.mode).ok_or_else(|| corrupt("mode", &raw.mode))?,
            state: BatchState::from_word(&raw.state).ok_or_else(|| corrupt("state", &raw.state))?,
            env: raw.env,
            pool: raw.pool,
            job: JobId::from_text(raw.job_id),
            round: raw.round,
            provider: raw.provider,
            account: raw.account,
            pack: raw.pack,
            epoch: Epoch::from_number(raw.epoch),
            holder: raw.holder,
            wire_key: raw.wire_key,
            create_no: raw.create_no,
            requests: raw.requests,
            body_bytes: raw.body_bytes,
            upload_started_at: at(raw.upload_started_at),
            input_file_id: raw.input_file_id,
            lane_cursor: raw.lane_cursor,
            intent_at: at(raw.intent_at),
            provider_batch_id: raw.provider_batch_id,
            provisional: raw.provisional != 0,
            submitted_at: at(raw.submitted_at),
            provider_status: raw.provider_status,
            output_ref: raw.output_ref,
            error_ref: raw.error_ref,
            ended_at: at(raw.ended_at),
            first_absent_at: at(raw.first_absent_at),
            next_at: Timestamp::from_millis(raw.next_at),
            strikes: raw.strikes,
            reserved: Money::from_nanos(raw.reserved_nanos),
            spent: Money::from_nanos(raw.spent_nanos),
            succeeded: raw.succeeded,
            errored: raw.errored,
            uncounted: raw.uncounted,
            reason: raw.reason,
            cancel_wanted: raw.cancel_wanted != 0,
            imported: raw.imported != 0,
            created_at: Timestamp::from_millis(raw.created_at),
            finished_at: at(raw.finished_at),
            id: BatchId::from_text(raw.id),
        })
    }
}

/// Which batches to list; `None` means all.
#[derive(Debug, Clone, Default)]
pub struct BatchFilter {
    pub env: Option<String>,
    pub state: Option<BatchState>,
    pub pool: Option<String>,
}

macro_rules! batch_columns {
    () => {
        "SELECT id, env, pool, job_id, source, round, provider, account, pack, mode, state, epoch, holder,
            wire_key, create_no, requests, body_bytes, upload_started_at, input_file_id, lane_cursor, intent_at,
            provider_batch_id, provisional, submitted_at, provider_status, output_ref, error_ref, ended_at,
            first_absent_at, next_at, strikes, reserved_nanos, spent_nanos, succeeded, errored, uncounted, reason,
            cancel_wanted, imported, created_at, finished_at
        FROM batches "
    };
}

const BATCH: &str = concat!("-- batch\n", batch_columns!(), "WHERE id = $1");

const IN_FLIGHT: &str = concat!(
    "-- in_flight\n",
    batch_columns!(),
    "WHERE state NOT IN ('collected', 'abandoned') ORDER BY created_at, id"
);

const LIST_BATCHES: &str = concat!(
    "-- list_batches\n",
    batch_columns!(),
    "WHERE (created_at, id) < ($1, $2) AND ($3 = '' OR state = $3) AND ($4 = '' OR pool = $4)
        AND ($6 = '' OR env = $6)
    ORDER BY created_at DESC, id DESC LIMIT $5"
);

/// A batch changes hands when its holder is this node (an actor was rebuilt), gone, or lapsed; also when it is
/// draining, unless a create is under way, whose answer it alone can hear. Every
/// change of hands raises the epoch, which fences whatever the holder before may still be about to write.
const TAKE_BATCH: &str = "-- take_batch
UPDATE batches SET epoch = epoch + 1, holder = $2
WHERE id = $1 AND state NOT IN ('collected', 'abandoned')
    AND (holder IS NULL OR holder = $2
        OR holder IN (SELECT id FROM nodes WHERE state = 'gone' OR lease_until < $3
            OR (state = 'draining' AND batches.state <> 'submitting'))
        OR holder NOT IN (SELECT id FROM nodes))
RETURNING epoch";

/// Those whose next look is only a question to the provider; a create in doubt keeps its times, which prove something.
const RELEASE_LAPSED: &str = "-- release_lapsed
UPDATE batches SET epoch = epoch + 1, holder = NULL, next_at = CASE WHEN next_at < $1 THEN next_at ELSE $1 END
WHERE state IN ('submitted', 'cancelling', 'ended')
    AND holder IN (SELECT id FROM nodes WHERE state = 'gone' OR lease_until < $1)";

const BODIES: &str = "-- bodies
SELECT a.batch_pos, b.body FROM attempts a JOIN run_bodies b ON b.run_id = a.run_id
WHERE a.batch_id = $1 AND a.batch_pos >= $2 ORDER BY a.batch_pos LIMIT $3";

const EVENTS: &str = "-- batch_events
SELECT at, epoch, event, data FROM batch_events WHERE batch_id = $1 ORDER BY seq";

const KEY_OWNER: &str = "-- key_owner
SELECT id FROM batches WHERE wire_key = $1";

const KNOWN_IDS: &str = "-- known_ids
SELECT provider_batch_id FROM batches WHERE account = $1 AND provider_batch_id IS NOT NULL
UNION SELECT provider_batch_id FROM strays WHERE account = $1";

const BUSY_LANE: &str = "-- busy_lane
SELECT COUNT(*) FROM batches WHERE account = $1 AND id <> $2 AND state IN ('submitting', 'unknown')";

const CREATED_TWICE: &str = concat!(
    "-- created_twice\n",
    batch_columns!(),
    "WHERE create_no > 1 AND ($1 = '' OR pool = $1) ORDER BY created_at"
);

impl Store {
    pub async fn batch(&self, id: &BatchId) -> Result<Option<BatchRow>, StoreError> {
        let raw: Option<RawBatch> =
            on_pool!(self, |pool| sqlx::query_as(BATCH).bind(id.as_str()).fetch_optional(pool).await?);
        raw.map(BatchRow::try_from).transpose()
    }

    /// Every batch that is not terminal, oldest first, whatever became of its job (invariant 17).
    pub async fn in_flight(&self) -> Result<Vec<BatchRow>, StoreError> {
        let raw: Vec<RawBatch> = on_pool!(self, |pool| sqlx::query_as(IN_FLIGHT).fetch_all(pool).await?);
        raw.into_iter().map(BatchRow::try_from).collect()
    }

    /// Batches newest first, those before the position `(created_at, id)` if one is given.
    pub async fn list_batches(
        &self,
        filter: &BatchFilter,
        before: Option<(Timestamp, &str)>,
        limit: u32,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let (at, id) = before.map_or((i64::MAX, ""), |(at, id)| (at.millis(), id));
        let raw: Vec<RawBatch> = on_pool!(self, |pool| {
            sqlx::query_as(LIST_BATCHES)
                .bind(at)
                .bind(id)
                .bind(filter.state.map_or("", BatchState::word))
                .bind(filter.pool.as_deref().unwrap_or(""))
                .bind(i64::from(limit))
                .bind(filter.env.as_deref().unwrap_or(""))
                .fetch_all(pool)
                .await?
        });
        raw.into_iter().map(BatchRow::try_from).collect()
    }

    /// Takes a batch that nobody else alive holds, under a new epoch. `None` when somebody does, or it is over.
    pub async fn take_batch(&self, id: &BatchId, now: Timestamp) -> Result<Option<Epoch>, StoreError> {
        let epoch: Option<i64> = in_tx!(self, |tx| {
            sqlx::query_scalar(TAKE_BATCH)
                .bind(id.as_str())
                .bind(self.node().as_str())
                .bind(now.millis())
                .fetch_optional(&mut *tx)
                .await?
        });
        Ok(epoch.map(Epoch::from_number))
    }

    /// Lets go of the batches that gone and lapsed nodes follow, so that whoever takes one looks at it at once and not
    /// when its holder would have; returns how many.
    pub async fn release_lapsed(&self, now: Timestamp) -> Result<u64, StoreError> {
        Ok(in_tx!(self, |tx| sqlx::query(RELEASE_LAPSED).bind(now.millis()).execute(&mut *tx).await?.rows_affected()))
    }

    /// The request bodies of a batch from position `from` on, in order, at most `limit` of them.
    pub async fn bodies(&self, id: &BatchId, from: i64, limit: i64) -> Result<Vec<(i64, String)>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(BODIES).bind(id.as_str()).bind(from).bind(limit).fetch_all(pool).await?
        }))
    }

    /// The batch's event log: `(at, epoch, event, data)`, oldest first.
    pub async fn batch_events(&self, id: &BatchId) -> Result<Vec<(i64, i64, String, String)>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(EVENTS).bind(id.as_str()).fetch_all(pool).await?))
    }

    /// The batch that a key on the wire belongs to.
    pub async fn owner_of_key(&self, wire_key: &str) -> Result<Option<BatchId>, StoreError> {
        let id: Option<String> =
            on_pool!(self, |pool| sqlx::query_scalar(KEY_OWNER).bind(wire_key).fetch_optional(pool).await?);
        Ok(id.map(BatchId::from_text))
    }

    /// Provider batches of an account whose owner is known: ours, and those proven to be somebody else's.
    pub async fn known_provider_ids(&self, account: &str) -> Result<Vec<String>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_scalar(KNOWN_IDS).bind(account).fetch_all(pool).await?))
    }

    /// Whether another create of this account is still without a definite answer.
    pub async fn lane_is_busy(&self, account: &str, but: &BatchId) -> Result<bool, StoreError> {
        let busy: i64 = on_pool!(self, |pool| sqlx::query_scalar(BUSY_LANE)
            .bind(account)
            .bind(but.as_str())
            .fetch_one(pool)
            .await?);
        Ok(busy > 0)
    }

    /// Batches that were created again after an absence was proven: the ones that may have strays.
    pub async fn created_twice(&self, pool_name: Option<&str>) -> Result<Vec<BatchRow>, StoreError> {
        let raw: Vec<RawBatch> = on_pool!(self, |pool| {
            sqlx::query_as(CREATED_TWICE).bind(pool_name.unwrap_or("")).fetch_all(pool).await?
        });
        raw.into_iter().map(BatchRow::try_from).collect()
    }
}
