//! What sets jobs over runs that came in over HTTP apart: any node that knows their task may drive them, they draw
//! their runs, and give back what they have not carried out.

use super::plan::{self, Due, Snapshot};
use crate::parts::{LlmTask, Parts};
use crate::supervisor::{ForgetJob, RegisterJob, Supervisor};
use actix::Addr;
use dashmap::DashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::StoreError;
use storage::failpoint::{Failpoint, reached};
use storage::model::{Draw, Epoch, JobEvent, JobId, JobState, RunState, Timestamp};
use storage::store::{JobMove, JobRow, RoundRow, Waiting};
use tracing::{info, warn};

/// Runs drawn, or given back, in one transaction.
const CHUNK: i64 = 1_000;
/// Runs that a job holds at most; what else waits is drawn for a later round.
const HELD_MAX: i64 = 200_000;
/// Jobs that are over whose runs are looked for at once.
const OVER: i64 = 16;

/// Jobs that this node drives, each with the epoch under which it is on the registry.
pub(super) type Registered = Arc<DashMap<JobId, Epoch>>;

/// Takes a job that nobody alive drives, and puts it on the registry; `None` when it is not for this node. Somebody
/// else's is looked at only when there is `time` for that.
pub(super) async fn adopt(
    parts: &Parts,
    supervisor: &Addr<Supervisor>,
    registered: &Registered,
    job: JobRow,
    time: bool,
) -> Result<Option<JobRow>, StoreError> {
    let store = &parts.store;
    let draining = parts.draining.load(Ordering::Acquire);
    let ours = job.holder.as_deref() == Some(store.node().as_str());
    if draining {
        if ours {
            store.let_job_go(&job.id, job.epoch).await?;
        }
        return Ok(None);
    }
    let mut job = job;
    if !ours {
        if job.holder.is_some() && !time {
            return Ok(None);
        }
        let Some(epoch) = store.take_job(&job.id, store.now()).await? else { return Ok(None) };
        reached(Failpoint::JobTaken);
        info!(job.id = %job.id, lease.epoch = %epoch, "driving a job");
        let Some(row) = store.job(&job.id).await? else { return Ok(None) };
        job = row;
    }
    let known = registered.get(&job.id).is_some_and(|epoch| *epoch == job.epoch);
    if !known {
        let (pool, source) = (job.pool.clone(), job.source);
        let register = RegisterJob { job: job.id.clone(), epoch: job.epoch, pool, source };
        match supervisor.send(register).await {
            Ok(Ok(())) => drop(registered.insert(job.id.clone(), job.epoch)),
            Ok(Err(refused)) => warn!(job.id = %job.id, %refused, "a job is not driven"),
            Err(_) => return Ok(None),
        }
    }
    if job.state == JobState::Created {
        let step = JobMove { from: JobState::Created, event: JobEvent::Started, reason: None, detail: None };
        job.state = store.move_job(&job.id, job.epoch, step, store.now()).await?;
        job.started_at = Some(store.now());
        reached(Failpoint::JobStarted);
    }
    Ok(Some(job))
}

/// Takes those jobs off the registry that are over, or another node's by now.
pub(super) async fn forget_others(supervisor: &Addr<Supervisor>, registered: &Registered, mine: &[JobId]) {
    let others: Vec<JobId> =
        registered.iter().map(|entry| entry.key().clone()).filter(|job| !mine.contains(job)).collect();
    for job in others {
        registered.remove(&job);
        let _ = supervisor.send(ForgetJob { job }).await;
    }
}

/// Whether a standing job's next round is due. How much waits is counted only when there is `time` for it.
pub(super) async fn due(
    parts: &Parts,
    job: &JobRow,
    last: Option<&RoundRow>,
    time: bool,
) -> Result<Option<Due>, StoreError> {
    let Some((draw, standing)) = job.draw.as_ref().and_then(|draw| Some((draw, draw.standing?))) else {
        return Ok(None);
    };
    let since = last.and_then(|round| round.ended_at).map(Timestamp::from_millis);
    let since = since.or(job.started_at).unwrap_or(job.created_at);
    let now = parts.store.now();
    let counts = standing.at_runs.is_some() || standing.at_bytes.is_some();
    let mut waiting = Waiting::default();
    if counts && plan::due(&standing, since, waiting, now) == Due::Later {
        // By bytes it may take any number of runs: so many are enough for a look.
        let most = standing.at_runs.map_or(CHUNK * 10, i64::from);
        waiting = parts.store.fresh_in_pool(&job.id, most).await?;
        if time {
            let more = parts.store.waiting_for(&job.env, draw, most, now).await?;
            (waiting.runs, waiting.bytes) = (waiting.runs + more.runs, waiting.bytes + more.bytes);
        }
    }
    Ok(Some(plan::due(&standing, since, waiting, now)))
}

/// Draws what waits, where a round may begin; returns whether anything came.
pub(super) async fn fill(parts: &Parts, job: &JobRow, draw: &Draw, at: &Snapshot) -> Result<bool, StoreError> {
    let Some(task) = parts.llm.get(&draw.task) else { return Ok(false) };
    if !at.is_between_rounds() || at.standing == Some(Due::Later) {
        return Ok(false);
    }
    let (mut held, mut any) = (at.queued, false);
    while held < HELD_MAX {
        let drawn = draw_some(parts, job, draw, task).await?;
        any |= drawn > 0;
        held += drawn;
        if drawn < CHUNK {
            break;
        }
    }
    Ok(any)
}

async fn draw_some(parts: &Parts, job: &JobRow, draw: &Draw, task: &LlmTask) -> Result<i64, StoreError> {
    let dress = |_: &storage::model::RunId, payload: &str| (task.make_request)(payload, &parts.prices.now());
    let drawn = parts.store.draw_runs((&job.id, job.epoch), draw, &dress, CHUNK, parts.store.now()).await?;
    let refused = drawn.refused.into_iter().map(|run| (run, job.env.clone(), RunState::Failed)).collect();
    parts.announce(refused);
    Ok(i64::try_from(drawn.runs).unwrap_or(CHUNK))
}

/// Lets other jobs have what jobs had that are over.
pub(super) async fn give_back(parts: &Parts) -> Result<(), StoreError> {
    let store = &parts.store;
    for job in store.over_with_runs(OVER).await? {
        let mut all = 0;
        loop {
            let some = store.give_back(&job, CHUNK, store.now()).await?;
            all += some;
            if some < CHUNK.cast_unsigned() {
                break;
            }
        }
        if all > 0 {
            info!(job.id = %job, runs = all, "a job that is over has given runs back");
        }
    }
    Ok(())
}
