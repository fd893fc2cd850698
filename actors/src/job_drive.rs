//! Drives the live jobs of this node from round to round until there is a reason to stop.
//!
//! Owns: nothing but its timer. Wakes: every `tick_every`, and when the spend cap is reached. Never: claims a
//! run, opens a batch, or stops a batch; what is in flight when a job ends is paid for and still collected.

pub mod plan;

use crate::metrics::QUEUE_DEPTH;
use crate::parts::Parts;
use crate::supervisor::supervised_child;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, ContextFutureSpawner, Handler, Message, WrapFuture};
use plan::{Decision, Snapshot};
use std::collections::HashMap;
use storage::StoreError;
use storage::failpoint::{Failpoint, reached};
use storage::model::{JobEvent, JobId, JobState, Money, StopReason};
use storage::store::{JobMove, JobRow};
use tracing::{debug, info, warn};

/// How many rounds back a decision looks; two bad ones may have some without a rate between them.
const ROUNDS_BACK: u32 = 8;

/// The registry would not open a batch, because it could pass the job's spend cap. A hint: losing it means
/// that it comes again.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct CapReached {
    pub job: JobId,
    pub needs: Money,
    pub left: Money,
}

/// See the module's first lines.
pub struct JobDrive {
    parts: Parts,
    /// What the next batch of a job needs, where the registry found that to be more than is left.
    capped: HashMap<JobId, Money>,
    looking: bool,
}

impl JobDrive {
    pub const NAME: &'static str = "job_drive";

    pub fn new(parts: Parts) -> JobDrive {
        JobDrive { parts, capped: HashMap::new(), looking: false }
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        if self.looking {
            return;
        }
        self.looking = true;
        let (parts, capped) = (self.parts.clone(), std::mem::take(&mut self.capped));
        let deadline = parts.settings.look_deadline;
        let drive = async move {
            let work = parts.on_runtime(move |parts| async move { drive_once(&parts, &capped).await });
            match tokio::time::timeout(deadline, work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "jobs are not driven on"),
                Err(_) => warn!("driving the jobs took too long; starting over"),
            }
        };
        drive.into_actor(self).map(|(), this, _| this.looking = false).spawn(context);
    }
}

/// Looks once at every live job of this node, and takes each as far as it goes now.
async fn drive_once(parts: &Parts, capped: &HashMap<JobId, Money>) -> Result<(), StoreError> {
    for job in parts.store.live_jobs().await? {
        let ours = job.holder.as_deref() == Some(parts.store.node().as_str());
        if !ours {
            continue;
        }
        match job.state {
            JobState::Running => drive(parts, job, capped).await?,
            JobState::Finishing => finish(parts, &job).await?,
            JobState::Created | JobState::Suspended => {}
            JobState::Finished | JobState::Cancelled | JobState::Failed => {}
        }
    }
    Ok(())
}

async fn drive(parts: &Parts, mut job: JobRow, capped: &HashMap<JobId, Money>) -> Result<(), StoreError> {
    let store = &parts.store;
    loop {
        let now = store.now();
        match plan::decide(&snapshot(parts, &job, capped.get(&job.id).copied()).await?) {
            Decision::Wait => return Ok(()),
            Decision::OpenRound(round) => {
                debug!(job.id = %job.id, round, "opening a round");
                store.open_round(&job.id, job.epoch, round, now).await?;
                job.round = round;
                reached(Failpoint::RoundOpened);
            }
            Decision::CloseRound(round) => {
                reached(Failpoint::RoundClosing);
                store.close_round(&job.id, job.epoch, round, now).await?;
                reached(Failpoint::RoundClosed);
            }
            Decision::Finish(reason) => {
                stop(parts, &job, reason).await?;
                return finish(parts, &job).await;
            }
        }
    }
}

async fn snapshot(parts: &Parts, job: &JobRow, needs: Option<Money>) -> Result<Snapshot, StoreError> {
    let store = &parts.store;
    let in_flight = store.in_flight().await?.iter().filter(|batch| batch.pool == job.pool).count();
    let counts = store.pool_counts(&job.pool).await?;
    // The hint may be older than a settlement that has released money since: only what is left now counts.
    let used = Money::from_nanos(counts.reserved_nanos) + Money::from_nanos(counts.spent_nanos);
    let left = job.ceilings.max_usd().map_or(Money::MAX, |cap| cap - used);
    metrics::gauge!(QUEUE_DEPTH, "queue" => "llm").set(counts.queued as f64);
    Ok(Snapshot {
        now: store.now(),
        started_at: job.started_at.unwrap_or(job.created_at),
        ceilings: job.ceilings,
        round: job.round,
        first_round: job.first_round,
        total: counts.total,
        queued: counts.queued,
        running: counts.running,
        claimable: store.next_pack(&job.pool, job.round).await?.is_some(),
        in_flight: i64::try_from(in_flight).unwrap_or(i64::MAX),
        cap_reached: needs.is_some_and(|needs| needs > left),
        rounds: store.rounds(&job.id, ROUNDS_BACK).await?,
    })
}

async fn stop(parts: &Parts, job: &JobRow, reason: StopReason) -> Result<(), StoreError> {
    let step = JobMove { from: JobState::Running, event: JobEvent::Stopping, reason: Some(reason), detail: None };
    parts.store.move_job(&job.id, job.epoch, step, parts.store.now()).await?;
    reached(Failpoint::JobFinishing);
    Ok(())
}

/// Its reason is stored; closes a round that a ceiling left open, and finishes.
async fn finish(parts: &Parts, job: &JobRow) -> Result<(), StoreError> {
    let step = JobMove { from: JobState::Finishing, event: JobEvent::Finished, reason: None, detail: None };
    parts.store.move_job(&job.id, job.epoch, step, parts.store.now()).await?;
    reached(Failpoint::JobFinished);
    info!(job.id = %job.id, "job finished");
    Ok(())
}

impl Actor for JobDrive {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(self.parts.settings.tick_every, |this, context| this.tick(context));
    }
}

impl Handler<CapReached> for JobDrive {
    type Result = ();

    fn handle(&mut self, cap: CapReached, _: &mut Context<Self>) {
        debug!(job.id = %cap.job, needs_usd = %cap.needs, left_usd = %cap.left, "the next batch could pass the cap");
        self.capped.insert(cap.job, cap.needs);
    }
}

supervised_child!(JobDrive);
