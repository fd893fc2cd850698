//! Jobs: created with an immutable scope, driven under a lease, finished for one stored reason.

use super::{Store, expect_one, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{Ceilings, Draw, Epoch, JobEvent, JobId, JobState, Scope, Source, StopReason, Timestamp};

/// A job as it is asked for.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub id: JobId,
    pub env: String,
    pub pool: String,
    pub source: Source,
    /// What a person calls it: the file's name.
    pub label: String,
    pub scope: Scope,
    pub ceilings: Ceilings,
    /// How many runs its pool will hold once imported.
    pub expected: i64,
}

/// A job as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    pub id: JobId,
    pub env: String,
    pub pool: String,
    pub source: Source,
    pub state: JobState,
    pub reason: Option<StopReason>,
    pub detail: Option<String>,
    pub label: String,
    pub scope: Scope,
    /// Of a job over runs that came in over HTTP.
    pub draw: Option<Draw>,
    pub ceilings: Ceilings,
    pub expected: i64,
    pub round: i64,
    /// Rounds count on within a pool; this is the job's first one.
    pub first_round: i64,
    /// No batch is opened before this time (a provider's queue is full).
    pub hold_until: Timestamp,
    /// Requests per batch that the provider's queue is known to take.
    pub learned_max_requests: Option<i64>,
    pub epoch: Epoch,
    pub holder: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

impl JobRow {
    /// From when on a batch would bring the job's results too late.
    pub fn too_late_from(&self) -> Option<Timestamp> {
        self.ceilings.live.too_late_from(self.started_at.unwrap_or(self.created_at))
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct RawJob {
    id: String,
    env: String,
    pool: String,
    source: String,
    state: String,
    reason: Option<String>,
    detail: Option<String>,
    label: String,
    scope: String,
    draw: Option<String>,
    ceilings: String,
    expected: i64,
    round: i64,
    first_round: i64,
    hold_until: i64,
    learned_max_requests: Option<i64>,
    epoch: i64,
    holder: Option<String>,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
}

impl TryFrom<RawJob> for JobRow {
    type Error = StoreError;

    fn try_from(raw: RawJob) -> Result<JobRow, StoreError> {
        let corrupt = |what: &'static str, value: &str| StoreError::Corrupt {
            entity: "job",
            id: raw.id.clone(),
            what,
            value: value.to_owned(),
        };
        let reason = match raw.reason.as_deref() {
            None => None,
            Some(word) => Some(StopReason::from_word(word).ok_or_else(|| corrupt("stop reason", word))?),
        };
        Ok(JobRow {
            source: Source::from_word(&raw.source).ok_or_else(|| corrupt("source", &raw.source))?,
            state: JobState::from_word(&raw.state).ok_or_else(|| corrupt("state", &raw.state))?,
            scope: serde_json::from_str(&raw.scope).map_err(|_| corrupt("scope", &raw.scope))?,
            draw: match raw.draw.as_deref() {
                None => None,
                Some(text) => Some(serde_json::from_str(text).map_err(|_| corrupt("draw", text))?),
            },
            ceilings: serde_json::from_str(&raw.ceilings).map_err(|_| corrupt("ceilings", &raw.ceilings))?,
            reason,
            detail: raw.detail,
            env: raw.env,
            pool: raw.pool,
            label: raw.label,
            expected: raw.expected,
            round: raw.round,
            first_round: raw.first_round,
            hold_until: Timestamp::from_millis(raw.hold_until),
            learned_max_requests: raw.learned_max_requests,
            epoch: Epoch::from_number(raw.epoch),
            holder: raw.holder,
            created_at: Timestamp::from_millis(raw.created_at),
            started_at: raw.started_at.map(Timestamp::from_millis),
            finished_at: raw.finished_at.map(Timestamp::from_millis),
            id: JobId::from_text(raw.id),
        })
    }
}

macro_rules! job_columns {
    () => {
        "SELECT id, env, pool, source, state, reason, detail, label, scope, draw, ceilings, expected, round,
            first_round, hold_until, learned_max_requests, epoch, holder, created_at, started_at, finished_at
        FROM jobs "
    };
}

pub(super) use job_columns;

const JOB: &str = concat!("-- job\n", job_columns!(), "WHERE id = $1");
const JOBS_OF_INPUT: &str =
    concat!("-- jobs_of_input\n", job_columns!(), "WHERE input_sha256 = $1 ORDER BY created_at DESC, id DESC");
const LIVE_JOBS: &str = concat!(
    "-- live_jobs\n",
    job_columns!(),
    "WHERE state IN ('created', 'running', 'suspended', 'finishing') ORDER BY created_at, id"
);
const JOBS_BY_STATE: &str = "-- jobs_by_state
SELECT state, COUNT(*) FROM jobs WHERE state IN ('created', 'running', 'suspended', 'finishing') GROUP BY state";

const LIST_JOBS: &str = concat!(
    "-- list_jobs\n",
    job_columns!(),
    "WHERE (created_at, id) < ($1, $2) ORDER BY created_at DESC, id DESC LIMIT $3"
);

pub(super) const INSERT_POOL: &str = "-- insert_pool
INSERT INTO pools (name, env) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const INSERT_JOB: &str = "-- insert_job
INSERT INTO jobs (id, env, pool, source, state, label, input_sha256, scope, ceilings, expected, epoch, holder,
    created_at, round, first_round)
SELECT $1, $2, $3, $4, 'created', $5, $6, $7, $8, $9, 1, $10, $11, last, last + 1
FROM (SELECT COALESCE(MAX(round), 0) AS last FROM batches WHERE pool = $3) AS rounds";

const TAKE_JOB: &str = "-- take_job
UPDATE jobs SET epoch = epoch + 1, holder = $2
WHERE id = $1 AND state IN ('created', 'running', 'suspended', 'finishing')
    AND (holder IS NULL OR holder = $2
        OR holder IN (SELECT id FROM nodes WHERE state = 'gone' OR lease_until < $3)
        OR holder NOT IN (SELECT id FROM nodes))
RETURNING epoch";

const MOVE_JOB: &str = "-- move_job
UPDATE jobs SET state = $4, reason = COALESCE($5, reason), detail = COALESCE($6, detail),
    started_at = CASE WHEN $4 = 'running' THEN COALESCE(started_at, $7) ELSE started_at END,
    finished_at = CASE WHEN $4 IN ('finished', 'cancelled', 'failed') THEN $7 ELSE finished_at END
WHERE id = $1 AND epoch = $2 AND state = $3";

/// Appends to a job's event log inside the transaction that changes the job (invariant 30).
macro_rules! log_job {
    ($tx:ident, $job:expr, $at:expr, $epoch:expr, $event:expr, $data:expr) => {
        sqlx::query(
            "-- log_job
            INSERT INTO job_events (job_id, at, epoch, event, data) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind($job)
        .bind($at.millis())
        .bind($epoch)
        .bind($event)
        .bind($data)
        .execute(&mut *$tx)
        .await?
    };
}
pub(super) use log_job;

const SET_CEILINGS: &str = "-- set_ceilings
UPDATE jobs SET ceilings = $3 WHERE id = $1 AND epoch = $2
    AND state IN ('created', 'running', 'suspended', 'finishing')";

const HOLD_JOB: &str = "-- hold_job
UPDATE jobs SET hold_until = $2, learned_max_requests = COALESCE($3, learned_max_requests)
WHERE id = $1 AND state IN ('running', 'suspended')";

const SUSPEND_JOB: &str = "-- suspend_job
UPDATE jobs SET state = 'suspended', detail = $2 WHERE id = $1 AND state = 'running' RETURNING epoch";

/// A change of a job's state that its table of edges allows.
#[derive(Debug, Clone, Copy)]
pub struct JobMove<'a> {
    pub from: JobState,
    pub event: JobEvent,
    pub reason: Option<StopReason>,
    pub detail: Option<&'a str>,
}

impl Store {
    /// Creates the job, held by this node. `Conflict` when its pool already has a live job of this source.
    pub async fn create_job(&self, job: &NewJob, now: Timestamp) -> Result<Epoch, StoreError> {
        let (scope, ceilings) = (json(&job.scope), json(&job.ceilings));
        in_tx!(self, |tx| {
            sqlx::query(INSERT_POOL).bind(&job.pool).bind(&job.env).execute(&mut *tx).await?;
            sqlx::query(INSERT_JOB)
                .bind(job.id.as_str())
                .bind(&job.env)
                .bind(&job.pool)
                .bind(job.source.word())
                .bind(&job.label)
                .bind(&job.scope.input_sha256)
                .bind(&scope)
                .bind(&ceilings)
                .bind(job.expected)
                .bind(self.node().as_str())
                .bind(now.millis())
                .execute(&mut *tx)
                .await?;
            log_job!(tx, job.id.as_str(), now, 1_i64, "created", &scope);
        });
        Ok(Epoch::from_number(1))
    }

    pub async fn job(&self, id: &JobId) -> Result<Option<JobRow>, StoreError> {
        let raw: Option<RawJob> =
            on_pool!(self, |pool| sqlx::query_as(JOB).bind(id.as_str()).fetch_optional(pool).await?);
        raw.map(JobRow::try_from).transpose()
    }

    /// All jobs ever made of a file's content, newest first.
    pub async fn jobs_of_input(&self, sha256: &str) -> Result<Vec<JobRow>, StoreError> {
        let raw: Vec<RawJob> =
            on_pool!(self, |pool| sqlx::query_as(JOBS_OF_INPUT).bind(sha256).fetch_all(pool).await?);
        raw.into_iter().map(JobRow::try_from).collect()
    }

    pub async fn live_jobs(&self) -> Result<Vec<JobRow>, StoreError> {
        let raw: Vec<RawJob> = on_pool!(self, |pool| sqlx::query_as(LIVE_JOBS).fetch_all(pool).await?);
        raw.into_iter().map(JobRow::try_from).collect()
    }

    /// How many jobs that are not over are in each state.
    pub async fn jobs_by_state(&self) -> Result<Vec<(JobState, i64)>, StoreError> {
        let counts: Vec<(String, i64)> = on_pool!(self, |pool| sqlx::query_as(JOBS_BY_STATE).fetch_all(pool).await?);
        Ok(counts.into_iter().filter_map(|(state, jobs)| Some((JobState::from_word(&state)?, jobs))).collect())
    }

    /// Jobs newest first, those before the position `(created_at, id)` if one is given.
    pub async fn list_jobs(&self, before: Option<(Timestamp, &str)>, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        let (at, id) = before.map_or((i64::MAX, ""), |(at, id)| (at.millis(), id));
        let raw: Vec<RawJob> = on_pool!(self, |pool| {
            sqlx::query_as(LIST_JOBS).bind(at).bind(id).bind(i64::from(limit)).fetch_all(pool).await?
        });
        raw.into_iter().map(JobRow::try_from).collect()
    }

    /// Takes the drive of a live job that nobody alive holds. `None` when somebody does, or it is over.
    pub async fn take_job(&self, id: &JobId, now: Timestamp) -> Result<Option<Epoch>, StoreError> {
        let epoch: Option<i64> = in_tx!(self, |tx| {
            sqlx::query_scalar(TAKE_JOB)
                .bind(id.as_str())
                .bind(self.node().as_str())
                .bind(now.millis())
                .fetch_optional(&mut *tx)
                .await?
        });
        Ok(epoch.map(Epoch::from_number))
    }

    /// Moves a job along an edge. `Moved` when it is no longer in `from` or another epoch holds it.
    pub async fn move_job(
        &self,
        id: &JobId,
        epoch: Epoch,
        step: JobMove<'_>,
        now: Timestamp,
    ) -> Result<JobState, StoreError> {
        let moved = || StoreError::Moved { entity: "job", id: id.to_string(), now: step.from.word().to_owned() };
        let to = step.from.after(step.event).ok_or_else(moved)?;
        in_tx!(self, |tx| {
            let done = sqlx::query(MOVE_JOB)
                .bind(id.as_str())
                .bind(epoch.number())
                .bind(step.from.word())
                .bind(to.word())
                .bind(step.reason.map(StopReason::word))
                .bind(step.detail)
                .bind(now.millis())
                .execute(&mut *tx)
                .await?;
            expect_one(done.rows_affected(), "job", id.as_str(), "elsewhere")?;
            log_job!(
                tx,
                id.as_str(),
                now,
                epoch.number(),
                step.event.word(),
                step.reason.map_or("{}".to_owned(), |reason| format!("{{\"reason\":\"{reason}\"}}"))
            );
        });
        Ok(to)
    }

    /// Replaces a live job's ceilings; its scope never changes.
    pub async fn set_ceilings(&self, id: &JobId, epoch: Epoch, ceilings: &Ceilings) -> Result<(), StoreError> {
        let ceilings = json(ceilings);
        let done = in_tx!(self, |tx| {
            sqlx::query(SET_CEILINGS)
                .bind(id.as_str())
                .bind(epoch.number())
                .bind(&ceilings)
                .execute(&mut *tx)
                .await?
                .rows_affected()
        });
        expect_one(done, "job", id.as_str(), "elsewhere")
    }

    /// Stops a running job's spending, whoever drives it, because its provider account needs a person.
    pub async fn suspend_job(&self, id: &JobId, detail: &str, now: Timestamp) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            let epoch: Option<i64> =
                sqlx::query_scalar(SUSPEND_JOB).bind(id.as_str()).bind(detail).fetch_optional(&mut *tx).await?;
            if let Some(epoch) = epoch {
                log_job!(
                    tx,
                    id.as_str(),
                    now,
                    epoch,
                    JobEvent::Suspended.word(),
                    serde_json::json!({ "why": detail }).to_string()
                );
            }
        });
        Ok(())
    }

    /// Keeps a job from opening batches until `until`, and remembers how large a batch its provider takes.
    /// Carries no epoch: it is learned by whoever follows a batch, which need not be the job's driver, and
    /// it only ever makes the job more careful.
    pub async fn hold_job(&self, id: &JobId, until: Timestamp, learned: Option<i64>) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(HOLD_JOB).bind(id.as_str()).bind(until.millis()).bind(learned).execute(&mut *tx).await?;
        });
        Ok(())
    }
}

/// Our own types always serialise; an empty object would be noticed by `TryFrom<RawJob>` at once.
pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}
