//! Finds what was left behind: nodes whose lease lapsed, runs of carriers that are gone, ended batches with unsettled
//! requests, and provider batches that duplicate one of ours.
//!
//! Owns: nothing but its timer. Wakes: every second to look after what a dead node held, every `sweep_every` for the
//! rest. Of several nodes one does each kind, by a role that it holds; what is a node's own is looked after by itself.
//! Never: settles a run or submits; it gives lapsed work free, cancels proven duplicates, and counts. Acts on positive
//! evidence only; every pass is idempotent.

pub(crate) mod runs;
mod strays;

use crate::metrics::{BATCHES, BATCHES_UNRECONCILED, SWEEP_LAST_SUCCESS};
use crate::parts::Parts;
use crate::runs::RunParts;
use crate::supervisor::supervised_child;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, ContextFutureSpawner, Handler, Message, WrapFuture};
use futures_util::FutureExt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::model::BatchState;
use tracing::{info, warn};

/// Look once for everything. Carries nothing: the database is the input.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Sweep;

/// What one pass found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub lapsed_nodes: u64,
    pub unsettled_batches: u64,
    pub duplicates: u64,
    pub runs_taken_back: u64,
    pub runs_expired: u64,
}

/// See the module's first lines.
pub struct Sweeper {
    parts: Parts,
    /// Where runs are carried out too.
    runs: Option<RunParts>,
    /// Whether this node sweeps for all, or only after itself.
    for_all: bool,
    sweeping: bool,
    /// Short passes until the next whole one.
    short: u32,
}

/// How much of it one pass does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// What this node alone can know.
    Own,
    /// That, and what others wait for: dead nodes, and what they held.
    Urgent,
    /// All.
    Whole,
}

/// How soon what a dead node held is noticed, once its lease has lapsed.
const URGENT_EVERY: Duration = Duration::from_secs(1);

impl Sweeper {
    pub const NAME: &'static str = "sweeper";

    pub fn new(parts: Parts, runs: Option<RunParts>, for_all: bool) -> Sweeper {
        Sweeper { parts, runs, for_all, sweeping: false, short: 0 }
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        let every = self.parts.settings.sweep_every;
        let whole = URGENT_EVERY * (self.short + 1) >= every;
        self.short = if whole { 0 } else { self.short + 1 };
        let pass = match (self.for_all, whole) {
            (false, _) => Pass::Own,
            (true, false) => Pass::Urgent,
            (true, true) => Pass::Whole,
        };
        self.sweep(pass, context);
    }

    fn sweep(&mut self, how: Pass, context: &mut Context<Self>) {
        if self.sweeping {
            return;
        }
        self.sweeping = true;
        let (parts, runs) = (self.parts.clone(), self.runs.clone());
        let pass = async move {
            let deadline = parts.settings.look_deadline;
            let work = parts.on_runtime(move |parts| async move { sweep_once(&parts, runs.as_ref(), how).await });
            match tokio::time::timeout(deadline, work).await {
                Ok(Ok(report)) if report != SweepReport::default() => info!(?report, "swept"),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => warn!(%error, "sweep did not go through"),
                Err(_) => warn!("sweep took too long; starting over"),
            }
        };
        pass.into_actor(self).map(|(), this, _| this.sweeping = false).spawn(context);
    }
}

/// One pass over the kinds that it has, as far as no other node does them.
pub async fn sweep_once(
    parts: &Parts,
    runs: Option<&RunParts>,
    pass: Pass,
) -> Result<SweepReport, super::batch_poller::CallOrStore> {
    let store = &parts.store;
    let mut report = SweepReport::default();
    if let Some(runs) = runs {
        runs::own(runs).await?;
    }
    if pass == Pass::Own {
        return Ok(report);
    }
    // A command has nothing to take back from others but batches, for which a lapsed lease is enough.
    let may_bury = runs.is_some_and(|runs| !runs.gates.no_burials.load(Ordering::Acquire));
    if may_bury && is_ours(parts, "sweep.lapsed_nodes").await? {
        report.lapsed_nodes = store.bury_lapsed(store.now()).await?;
        done("lapsed_nodes", parts);
    }
    if let Some(runs) = runs
        && is_ours(parts, "sweep.runs").await?
    {
        report.runs_taken_back = runs::take_back(runs).await?;
        if pass == Pass::Whole {
            report.runs_expired = runs::expire(runs).await?;
            runs::gauges(runs).await?;
            runs::queue_gauges(runs).await?;
        }
        done("runs", parts);
    }
    if pass == Pass::Whole && is_ours(parts, "sweep.batches").await? {
        report.unsettled_batches = count_batches(parts).await?;
        done("unsettled_batches", parts);
        report.duplicates = strays::sweep(parts).await?;
        done("duplicate_batches", parts);
    }
    Ok(report)
}

/// Whether this node does a kind for all. A command that works on its own job does it for itself.
async fn is_ours(parts: &Parts, role: &str) -> Result<bool, storage::StoreError> {
    Ok(parts.settings.pool.is_some() || parts.store.hold_role(role, parts.store.now()).await?.is_some())
}

/// Sets the gauges from one read, and tells how many batches have ended and are still not settled.
async fn count_batches(parts: &Parts) -> Result<u64, storage::StoreError> {
    let in_flight = parts.store.in_flight().await?;
    let now = parts.store.now();
    for state in BatchState::ALL.iter().filter(|state| !state.is_terminal()) {
        let count = in_flight.iter().filter(|batch| batch.state == *state).count();
        metrics::gauge!(BATCHES, "state" => state.word()).set(count as f64);
        if *state == BatchState::Unknown {
            metrics::gauge!(BATCHES_UNRECONCILED).set(count as f64);
        }
    }
    let overdue = |batch: &&storage::store::BatchRow| {
        let ended = batch.ended_at.filter(|_| batch.state == BatchState::Ended);
        ended.is_some_and(|at| now.since(at) > Duration::from_secs(60))
    };
    Ok(in_flight.iter().filter(overdue).count() as u64)
}

fn done(kind: &'static str, parts: &Parts) {
    let now = parts.store.now().millis() as f64 / 1_000.0;
    metrics::gauge!(SWEEP_LAST_SUCCESS, "kind" => kind).set(now);
}

impl Actor for Sweeper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // What the node before this one held is not left waiting for the first tick.
        if self.runs.is_some() {
            self.sweep(if self.for_all { Pass::Whole } else { Pass::Own }, context);
        }
        let every = self.parts.settings.sweep_every.min(URGENT_EVERY);
        context.run_interval(every, |this, context| this.tick(context));
    }
}

impl Handler<Sweep> for Sweeper {
    type Result = actix::ResponseFuture<()>;

    fn handle(&mut self, _: Sweep, _: &mut Context<Self>) -> Self::Result {
        let (parts, runs) = (self.parts.clone(), self.runs.clone());
        let work = async move {
            parts.on_runtime(|parts| async move { sweep_once(&parts, runs.as_ref(), Pass::Whole).await }).await
        };
        work.map(|report| {
            if let Err(error) = report {
                warn!(%error, "sweep did not go through");
            }
        })
        .boxed_local()
    }
}

supervised_child!(Sweeper);
