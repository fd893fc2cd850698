//! Drives the live jobs of this node from round to round until there is a reason to stop.
//!
//! Owns: nothing but its timer. Wakes: every `tick_every`, and when the spend cap is reached. Never: claims a
//! run, opens a batch, or stops a batch; what is in flight when a job ends is paid for and still collected.

pub mod plan;
mod served;

use crate::metrics::QUEUE_DEPTH;
use crate::parts::Parts;
use crate::supervisor::{Supervisor, supervised_child};
use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, ContextFutureSpawner, Handler, Message, WrapFuture};
use plan::{Decision, Due, Snapshot};
use served::Registered;
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
    supervisor: Addr<Supervisor>,
    registered: Registered,
    looks: u32,
    looking: bool,
}

/// What one look is made with.
struct Look {
    parts: Parts,
    capped: HashMap<JobId, Money>,
    supervisor: Addr<Supervisor>,
    registered: Registered,
    /// Once in a while there is time for what need not be done at every look.
    time: bool,
}

/// Looks until there is time again.
const TIME_EVERY: u32 = 10;

impl JobDrive {
    pub const NAME: &'static str = "job_drive";

    pub fn new(parts: Parts, supervisor: Addr<Supervisor>) -> JobDrive {
        JobDrive {
            parts,
            capped: HashMap::new(),
            supervisor,
            registered: Registered::default(),
            looks: 0,
            looking: false,
        }
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        if self.looking {
            return;
        }
        self.looking = true;
        let time = self.looks.is_multiple_of(TIME_EVERY);
        self.looks = self.looks.wrapping_add(1);
        let look = Look {
            parts: self.parts.clone(),
            capped: std::mem::take(&mut self.capped),
            supervisor: self.supervisor.clone(),
            registered: self.registered.clone(),
            time,
        };
        let (parts, deadline) = (self.parts.clone(), self.parts.settings.now().look_deadline);
        let drive = async move {
            let work = parts.on_runtime(move |_| async move { drive_once(&look).await });
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
async fn drive_once(look: &Look) -> Result<(), StoreError> {
    let store = &look.parts.store;
    let jobs = store.live_jobs().await?;
    let ours = |job: &&JobRow| job.holder.as_deref() == Some(store.node().as_str());
    let mine: Vec<JobId> = jobs.iter().filter(ours).map(|job| job.id.clone()).collect();
    served::forget_others(&look.supervisor, &look.registered, &mine).await;
    for job in jobs {
        match drive_job(look, job).await {
            // Somebody has suspended or cancelled it, or another node has it: the next look sees that.
            Err(StoreError::Moved { .. }) => {}
            done => done?,
        }
    }
    if look.time && !look.parts.llm.is_empty() {
        served::give_back(&look.parts).await?;
    }
    Ok(())
}

async fn drive_job(look: &Look, job: JobRow) -> Result<(), StoreError> {
    let parts = &look.parts;
    let job = match &job.draw {
        // A file's job is driven by its command, and by nobody else.
        None if job.holder.as_deref() != Some(parts.store.node().as_str()) => return Ok(()),
        None => job,
        Some(draw) if !parts.llm.contains_key(&draw.task) => return Ok(()),
        Some(_) => match served::adopt(parts, &look.supervisor, &look.registered, job, look.time).await? {
            Some(job) => job,
            None => return Ok(()),
        },
    };
    match job.state {
        JobState::Running => drive(look, job).await,
        JobState::Finishing => finish(parts, &job).await,
        JobState::Created | JobState::Suspended => Ok(()),
        JobState::Finished | JobState::Cancelled | JobState::Failed => Ok(()),
    }
}

async fn drive(look: &Look, mut job: JobRow) -> Result<(), StoreError> {
    let (parts, needs) = (&look.parts, look.capped.get(&job.id).copied());
    let store = &parts.store;
    // What was drawn for a round that was due is not drawn again, and the round is opened.
    let (mut drawn, mut is_due) = (false, false);
    loop {
        let now = store.now();
        let mut at = snapshot(look, &job, needs).await?;
        if is_due && at.standing.is_some() {
            at.standing = Some(Due::Now);
        }
        if let Some(draw) = job.draw.as_ref().filter(|_| !drawn) {
            drawn = true;
            is_due = served::fill(parts, &job, draw, &at).await?;
            if is_due {
                continue;
            }
        }
        match plan::decide(&at) {
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
                (drawn, is_due) = (false, false);
            }
            Decision::Finish(reason) => {
                stop(parts, &job, reason).await?;
                return finish(parts, &job).await;
            }
        }
    }
}

async fn snapshot(look: &Look, job: &JobRow, needs: Option<Money>) -> Result<Snapshot, StoreError> {
    let parts = &look.parts;
    let store = &parts.store;
    let rounds = store.rounds(&job.id, ROUNDS_BACK).await?;
    // In this order: what is claimed meanwhile is then seen as running, and never as gone.
    let claimable = store.next_pack(&job.pool, job.round).await?.is_some();
    let counts = store.pool_counts(&job.pool).await?;
    let in_flight = store.in_flight().await?.iter().filter(|batch| batch.pool == job.pool).count();
    // The hint may be older than a settlement that has released money since: only what is left now counts.
    let used = Money::from_nanos(counts.reserved_nanos) + Money::from_nanos(counts.spent_nanos);
    let left = job.ceilings.max_usd().map_or(Money::MAX, |cap| cap - used);
    // A server counts what waits in all its queues by itself.
    if job.draw.is_none() && parts.runs.is_none() {
        metrics::gauge!(QUEUE_DEPTH, "queue" => "llm").set(counts.queued as f64);
    }
    Ok(Snapshot {
        now: store.now(),
        started_at: job.started_at.unwrap_or(job.created_at),
        ceilings: job.ceilings,
        round: job.round,
        first_round: job.first_round,
        total: counts.total,
        queued: counts.queued,
        running: counts.running,
        claimable,
        in_flight: i64::try_from(in_flight).unwrap_or(i64::MAX),
        cap_reached: needs.is_some_and(|needs| needs > left),
        standing: served::due(parts, job, rounds.first(), look.time).await?,
        rounds,
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
        context.run_interval(self.parts.settings.now().tick_every, |this, context| this.tick(context));
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
