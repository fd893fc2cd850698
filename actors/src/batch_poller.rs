//! Submits, reconciles, polls and collects provider batches.
//!
//! Owns: one task for each batch that is due. Wakes: every `tick_every`. Never: opens a batch by itself (the
//! registry does), repeats a create without evidence, or remembers anything that the store does not hold.

pub mod plan;
mod drive;
mod submit;
mod reconcile;
mod collect;
mod bill;
mod whose;
mod live;
pub(crate) mod ledger;

pub use drive::CallOrStore;
pub(crate) use live::CANARIES;
pub(crate) use reconcile::owner_of;

use crate::job_drive::{CapReached, JobDrive};
use crate::parts::Parts;
use crate::supervisor::{ChildRef, OpenBatch, Supervisor, supervised_child};
use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, ContextFutureSpawner, Handler, Message, WrapFuture};
use drive::Drive;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use storage::model::{BatchId, BatchState, JobState};
use storage::store::{BatchRow, Opened};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// Batches that may be planned and not yet submitted at once; bounds what is claimed ahead.
const PLANNED_AHEAD: usize = 4;
/// Batches that are worked on at once; bounds connections and memory.
const AT_WORK: usize = 8;

/// How long what a canary said is believed: models change.
pub(crate) const CANARY_HOLDS: Duration = Duration::from_secs(24 * 3_600);

/// Takes a batch that is in flight: after a start, a restart of an actor, or another node's end. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ResumeBatch {
    pub batch: BatchId,
}

/// See the module's first lines.
pub struct BatchPoller {
    parts: Parts,
    supervisor: Addr<Supervisor>,
    job_drive: ChildRef<JobDrive>,
    /// Batches handed to this generation, each with the epoch under which it holds them (0: not taken yet).
    mine: HashMap<BatchId, Arc<AtomicI64>>,
    tasks: JoinSet<()>,
    looking: bool,
}

/// What one look brought.
struct Look {
    in_flight: Vec<BatchRow>,
    opened: Vec<(BatchId, i64)>,
}

impl BatchPoller {
    pub const NAME: &'static str = "batch_poller";

    pub fn new(parts: Parts, supervisor: Addr<Supervisor>, job_drive: ChildRef<JobDrive>) -> BatchPoller {
        BatchPoller { parts, supervisor, job_drive, mine: HashMap::new(), tasks: JoinSet::new(), looking: false }
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        while self.tasks.try_join_next().is_some() {}
        if self.looking || self.parts.draining.load(Ordering::Acquire) {
            return;
        }
        self.looking = true;
        let (parts, supervisor, job_drive) = (self.parts.clone(), self.supervisor.clone(), self.job_drive.clone());
        let deadline = parts.settings.now().look_deadline;
        let look = async move { tokio::time::timeout(deadline, look_once(parts, supervisor, job_drive)).await };
        look.into_actor(self).map(|look, this, _| this.apply(look.ok().flatten())).spawn(context);
    }

    fn apply(&mut self, look: Option<Look>) {
        self.looking = false;
        let Some(look) = look else { return };
        for (batch, epoch) in look.opened {
            self.mine.insert(batch, Arc::new(AtomicI64::new(epoch)));
        }
        self.mine.retain(|id, _| look.in_flight.iter().any(|row| row.id == *id));
        let now = self.parts.store.now();
        for row in look.in_flight {
            let due = row.next_at <= now || row.state == BatchState::Submitting;
            if let (true, Some(held)) = (due && self.tasks.len() < AT_WORK, self.mine.get(&row.id))
                && let Some(drive) = Drive::begin(&self.parts, &row, held.clone())
            {
                self.tasks.spawn_on(drive.run(), &self.parts.runtime);
            }
        }
    }
}

/// Opens what the live jobs want, and reads what is in flight after it.
async fn look_once(parts: Parts, supervisor: Addr<Supervisor>, job_drive: ChildRef<JobDrive>) -> Option<Look> {
    let mut opened = Vec::new();
    let jobs = parts.on_runtime(|parts| async move { wanting(&parts).await }).await;
    for job in jobs.inspect_err(|error| warn!(%error, "cannot look for jobs")).unwrap_or_default() {
        loop {
            let answer = supervisor.send(OpenBatch { job: job.clone() }).await.ok()?;
            match answer {
                Ok((batch, Opened::Batch { epoch, requests })) => {
                    debug!(batch.id = %batch, requests, "opened a batch");
                    opened.push((batch, epoch.number()));
                    if opened.len() >= PLANNED_AHEAD {
                        break;
                    }
                }
                Ok((_, Opened::OverCap { needs, left })) => {
                    if let Some(job_drive) = job_drive.addr() {
                        let _ = job_drive.send(CapReached { job: job.clone(), needs, left }).await;
                    }
                    break;
                }
                Ok((_, Opened::NothingQueued | Opened::Held { .. } | Opened::NotDriven)) => break,
                Err(error) => {
                    debug!(%error, "no batch was opened");
                    break;
                }
            }
        }
    }
    let in_flight = parts.on_runtime(|parts| async move { in_flight(&parts).await }).await;
    let in_flight = in_flight.inspect_err(|error| warn!(%error, "cannot read what is in flight")).ok()?;
    Some(Look { in_flight, opened })
}

/// What is in flight; what gone nodes have left behind of it is due.
async fn in_flight(parts: &Parts) -> Result<Vec<BatchRow>, storage::StoreError> {
    let (store, rows) = (&parts.store, parts.batches_in_flight().await?);
    let of_others = rows.iter().any(|row| row.holder.as_deref().is_some_and(|holder| holder != store.node().as_str()));
    if of_others && store.release_lapsed(store.now()).await? > 0 {
        return parts.batches_in_flight().await;
    }
    Ok(rows)
}

/// Jobs of this node whose round has runs to claim, while not too much is planned already.
async fn wanting(parts: &Parts) -> Result<Vec<storage::model::JobId>, storage::StoreError> {
    let in_flight = parts.batches_in_flight().await?;
    let unsent = in_flight.iter().filter(|row| row.state == BatchState::Planned).count();
    if unsent >= PLANNED_AHEAD {
        return Ok(Vec::new());
    }
    let mut wanting = Vec::new();
    let now = parts.store.now();
    for job in parts.store.live_jobs().await? {
        let ours = job.holder.as_deref() == Some(parts.store.node().as_str());
        let driven = ours && job.state == JobState::Running && job.hold_until <= now;
        if driven && parts.store.next_pack(&job.pool, job.round).await?.is_some() {
            wanting.push(job.id);
        }
    }
    Ok(wanting)
}

impl Actor for BatchPoller {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(self.parts.settings.now().tick_every, |this, context| this.tick(context));
    }
}

impl Handler<ResumeBatch> for BatchPoller {
    type Result = ();

    fn handle(&mut self, resume: ResumeBatch, _: &mut Context<Self>) {
        self.mine.entry(resume.batch).or_default();
    }
}

supervised_child!(BatchPoller);
