//! Finds what was left behind: nodes whose lease lapsed, ended batches with unsettled requests, and provider
//! batches that duplicate one of ours.
//!
//! Owns: nothing but its timer. Wakes: every `sweep_every`. Never: settles a run or submits; it gives lapsed
//! work free, cancels proven duplicates, and counts. Acts on positive evidence only; every pass is idempotent.

mod runs;
mod strays;

use crate::metrics::{BATCHES, BATCHES_UNRECONCILED, SWEEP_LAST_SUCCESS};
use crate::parts::Parts;
use crate::runs::RunParts;
use crate::supervisor::supervised_child;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, ContextFutureSpawner, Handler, Message, WrapFuture};
use futures_util::FutureExt;
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
    sweeping: bool,
}

impl Sweeper {
    pub const NAME: &'static str = "sweeper";

    pub fn new(parts: Parts, runs: Option<RunParts>) -> Sweeper {
        Sweeper { parts, runs, sweeping: false }
    }

    fn sweep(&mut self, context: &mut Context<Self>) {
        if self.sweeping {
            return;
        }
        self.sweeping = true;
        let (parts, runs) = (self.parts.clone(), self.runs.clone());
        let pass = async move {
            let deadline = parts.settings.look_deadline;
            let work = parts.on_runtime(|parts| async move { sweep_once(&parts, runs.as_ref()).await });
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

/// One pass over every kind.
pub async fn sweep_once(
    parts: &Parts,
    runs: Option<&RunParts>,
) -> Result<SweepReport, super::batch_poller::CallOrStore> {
    let store = &parts.store;
    let may_bury = runs.is_none_or(|runs| !runs.gates.no_burials.load(std::sync::atomic::Ordering::Acquire));
    let lapsed_nodes = if may_bury { store.bury_lapsed(store.now()).await? } else { 0 };
    done("lapsed_nodes", parts);
    let (runs_taken_back, runs_expired) = match runs {
        Some(runs) => runs::sweep(runs).await?,
        None => (0, 0),
    };
    done("runs", parts);
    let unsettled = count_batches(parts).await?;
    done("unsettled_batches", parts);
    let duplicates = strays::sweep(parts).await?;
    done("duplicate_batches", parts);
    Ok(SweepReport { lapsed_nodes, unsettled_batches: unsettled, duplicates, runs_taken_back, runs_expired })
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
            self.sweep(context);
        }
        context.run_interval(self.parts.settings.sweep_every, |this, context| this.sweep(context));
    }
}

impl Handler<Sweep> for Sweeper {
    type Result = actix::ResponseFuture<()>;

    fn handle(&mut self, _: Sweep, _: &mut Context<Self>) -> Self::Result {
        let (parts, runs) = (self.parts.clone(), self.runs.clone());
        let work =
            async move { parts.on_runtime(|parts| async move { sweep_once(&parts, runs.as_ref()).await }).await };
        work.map(|report| {
            if let Err(error) = report {
                warn!(%error, "sweep did not go through");
            }
        })
        .boxed_local()
    }
}

supervised_child!(Sweeper);
