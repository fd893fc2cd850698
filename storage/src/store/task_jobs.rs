//! Jobs over the runs of an `llm` task: made, listed by env, and told what to do. Any node may do so; the one that
//! drives a job finds out at its next look.

use super::jobs::{INSERT_POOL, JobRow, RawJob, job_columns, json, log_job};
use super::{NewJob, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Draw, Epoch, JobEvent, JobId, JobState, Timestamp};

/// Whoever makes a job of a task holds this row, so that two who look for others at once see each other.
const HOLD_TASK: &str = "-- hold_task
INSERT INTO pools (name, env) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET env = excluded.env";

const LIVE_OF_TASK: &str = concat!(
    "-- live_of_task\n",
    job_columns!(),
    "WHERE env = $1 AND task = $2 AND state IN ('created', 'running', 'suspended', 'finishing')
    ORDER BY created_at, id"
);

const JOB_OF_ENV: &str = concat!("-- job_of_env\n", job_columns!(), "WHERE env = $1 AND id = $2");

const JOBS_OF_ENV: &str = concat!(
    "-- jobs_of_env\n",
    job_columns!(),
    "WHERE env = $1 AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $4"
);

/// Nobody drives it yet; the first poller that sees it takes it.
const INSERT_TASK_JOB: &str = "-- insert_task_job
INSERT INTO jobs (id, env, pool, source, state, label, input_sha256, scope, ceilings, expected, epoch, created_at,
    task, draw)
VALUES ($1, $2, $1, $3, 'created', $4, '', $5, $6, 0, 1, $7, $8, $9)";

const ASKED: &str = "-- job_asked
UPDATE jobs SET state = $4, detail = $5, finished_at = $6, hold_until = CASE WHEN $4 = 'running' THEN 0 ELSE hold_until END
WHERE id = $1 AND env = $2 AND state = $3
RETURNING epoch";

/// Only of jobs that any node may drive.
const LET_GO: &str = "-- let_job_go
UPDATE jobs SET holder = NULL WHERE id = $1 AND epoch = $2 AND task IS NOT NULL";

const JOB_LOG: &str = "-- job_log
SELECT seq, at, event, data FROM job_events WHERE job_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";

/// One thing that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct JobLogEntry {
    /// Numbers grow within a job, with gaps.
    pub seq: i64,
    pub at: i64,
    pub event: String,
    /// An object.
    pub data: String,
}

/// What became of a wish for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    Job,
    /// This one lives already and bars it.
    BarredBy(Box<JobRow>),
}

/// What became of a wish to suspend, resume or cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobAsked {
    /// It stands so now; maybe it did before.
    Is(Box<JobRow>),
    /// From where it stands that cannot be done.
    Cannot(JobState),
    NotFound,
}

impl Store {
    /// Makes a job over a task's runs; its pool bears its id. Refused while a live job of the same env, task and
    /// source is there (invariant 18), or one of the other source and either of them wants to be alone.
    pub async fn create_task_job(&self, job: &NewJob, draw: &Draw, now: Timestamp) -> Result<Made, StoreError> {
        let (scope, ceilings, drawn) = (json(&job.scope), json(&job.ceilings), json(draw));
        in_tx!(self, |tx| {
            let held = format!("{}:{}", job.env, draw.task);
            sqlx::query(HOLD_TASK).bind(held).bind(&job.env).execute(&mut *tx).await?;
            let live: Vec<RawJob> =
                sqlx::query_as(LIVE_OF_TASK).bind(&job.env).bind(&draw.task).fetch_all(&mut *tx).await?;
            for raw in live {
                let row = JobRow::try_from(raw)?;
                if row.draw.as_ref().is_none_or(|theirs| draw.bars(job.source, theirs, row.source)) {
                    return Ok(Made::BarredBy(Box::new(row)));
                }
            }
            sqlx::query(INSERT_POOL).bind(job.id.as_str()).bind(&job.env).execute(&mut *tx).await?;
            sqlx::query(INSERT_TASK_JOB)
                .bind(job.id.as_str())
                .bind(&job.env)
                .bind(job.source.word())
                .bind(&job.label)
                .bind(&scope)
                .bind(&ceilings)
                .bind(now.millis())
                .bind(&draw.task)
                .bind(&drawn)
                .execute(&mut *tx)
                .await?;
            log_job!(tx, job.id.as_str(), now, 1_i64, "created", &drawn);
        });
        Ok(Made::Job)
    }

    /// A job of an env; another env's is not found.
    pub async fn job_of_env(&self, env: &str, id: &JobId) -> Result<Option<JobRow>, StoreError> {
        let raw: Option<RawJob> =
            on_pool!(self, |pool| sqlx::query_as(JOB_OF_ENV).bind(env).bind(id.as_str()).fetch_optional(pool).await?);
        raw.map(JobRow::try_from).transpose()
    }

    /// Jobs of an env, newest first, those before the position `(created_at, id)` if one is given.
    pub async fn jobs_of_env(
        &self,
        env: &str,
        before: Option<(Timestamp, &str)>,
        limit: i64,
    ) -> Result<Vec<JobRow>, StoreError> {
        let (at, id) = before.map_or((i64::MAX, ""), |(at, id)| (at.millis(), id));
        let raw: Vec<RawJob> = on_pool!(self, |pool| {
            sqlx::query_as(JOBS_OF_ENV).bind(env).bind(at).bind(id).bind(limit).fetch_all(pool).await?
        });
        raw.into_iter().map(JobRow::try_from).collect()
    }

    /// A job's log after an entry, at most `limit`.
    pub async fn job_log(&self, id: &JobId, after: i64, limit: i64) -> Result<Vec<JobLogEntry>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(JOB_LOG).bind(id.as_str()).bind(after).bind(limit).fetch_all(pool).await?
        }))
    }

    /// Lets another node drive a job that this one drives.
    pub async fn let_job_go(&self, id: &JobId, epoch: Epoch) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(LET_GO).bind(id.as_str()).bind(epoch.number()).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Suspends, resumes or cancels a job, whoever drives it. Asked again, nothing changes.
    pub async fn ask_job(
        &self,
        env: &str,
        id: &JobId,
        event: JobEvent,
        why: Option<&str>,
        now: Timestamp,
    ) -> Result<JobAsked, StoreError> {
        let target = match event {
            JobEvent::Suspended => JobState::Suspended,
            JobEvent::Cancelled => JobState::Cancelled,
            _ => JobState::Running,
        };
        let Some(row) = self.job_of_env(env, id).await? else { return Ok(JobAsked::NotFound) };
        let Some(to) = row.state.after(event) else {
            return Ok(if row.state == target { JobAsked::Is(Box::new(row)) } else { JobAsked::Cannot(row.state) });
        };
        let changed = in_tx!(self, |tx| {
            let epoch: Option<i64> = sqlx::query_scalar(ASKED)
                .bind(id.as_str())
                .bind(env)
                .bind(row.state.word())
                .bind(to.word())
                .bind(why)
                .bind(to.is_terminal().then_some(now.millis()))
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(epoch) = epoch {
                log_job!(tx, id.as_str(), now, epoch, event.word(), serde_json::json!({ "why": why }).to_string());
                reached(Failpoint::JobAsked);
            }
            epoch.is_some()
        });
        match (self.job_of_env(env, id).await?, changed) {
            (None, _) => Ok(JobAsked::NotFound),
            (Some(row), false) if row.state != target => Ok(JobAsked::Cannot(row.state)),
            (Some(row), _) => Ok(JobAsked::Is(Box::new(row))),
        }
    }
}
