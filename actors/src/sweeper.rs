//! Finds what was left behind, a kind at a time: see [`Kind`].
//!
//! Owns: nothing but its timer. Wakes: every second to look after what a dead node held, every `sweep_every` for the
//! rest. Of several nodes one does each kind, by a role that it holds; what is a node's own is looked after by itself.
//! Never: settles a run or submits; it gives lapsed work free, cancels proven duplicates, and counts. Acts on positive
//! evidence only; every pass is idempotent.

pub(crate) mod runs;
mod batches;
mod repair;
mod seldom;
pub mod sessions;
mod strays;

pub use repair::{Repair, Repaired, repair};
pub(crate) use seldom::Looks;

use crate::metrics::{LEADER, SWEEP_LAST_SUCCESS, SWEEP_RECLAIMED, SWEEP_SECONDS, cluster};
use crate::parts::Parts;
use crate::runs::RunParts;
use crate::supervisor::supervised_child;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, ContextFutureSpawner, Handler, Message, WrapFuture};
use futures_util::FutureExt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::store::SweepDone;
use tracing::{info, warn};

/// Look once for everything. Carries nothing: the database is the input.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Sweep;

/// A kind of sweep: what it looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nodes whose lease lapsed.
    LapsedNodes,
    /// Runs of carriers that are gone.
    LostRuns,
    /// Sessions that nothing of is alive any more, and what closed ones have left.
    Sessions,
    /// Runs that have waited longer than they were to.
    ExpiredRuns,
    /// What waits; nothing is done about it.
    Buffer,
    /// Batches that have ended and are not settled; nothing is done about them here.
    Batches,
    /// Provider batches that duplicate one of ours.
    DuplicateBatches,
    /// Idempotency keys that have expired.
    Keys,
    /// Runs that contradict the model: held by nothing, or ended in one place and not in another.
    FaultyRuns,
    /// Output of runs that are no more.
    Output,
    /// Ended runs, closed sessions, ended jobs and deeds that are older than anybody wants to keep.
    Retention,
}

impl Kind {
    /// In the order in which a pass does them.
    pub const ALL: &'static [Kind] = &[
        Kind::LapsedNodes,
        Kind::LostRuns,
        Kind::Sessions,
        Kind::ExpiredRuns,
        Kind::Buffer,
        Kind::Batches,
        Kind::DuplicateBatches,
        Kind::Keys,
        Kind::FaultyRuns,
        Kind::Output,
        Kind::Retention,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Kind::LapsedNodes => "lapsed_nodes",
            Kind::LostRuns => "lost_runs",
            Kind::Sessions => "sessions",
            Kind::ExpiredRuns => "expired_runs",
            Kind::Buffer => "buffer",
            Kind::Batches => "unsettled_batches",
            Kind::DuplicateBatches => "duplicate_batches",
            Kind::Keys => "expired_keys",
            Kind::FaultyRuns => "faulty_runs",
            Kind::Output => "orphaned_output",
            Kind::Retention => "retention",
        }
    }

    pub fn from_word(word: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.word() == word)
    }

    /// Whether it puts something right that should not be, which can be switched off.
    pub const fn mends(self) -> bool {
        matches!(self, Kind::DuplicateBatches | Kind::FaultyRuns | Kind::Output)
    }

    /// Whether what it finds is gone by that, so that it finds nothing the next time.
    pub const fn takes_away(self) -> bool {
        !matches!(self, Kind::Buffer | Kind::Batches)
    }

    /// What whoever does it for all has to hold.
    pub(crate) const fn role(self) -> &'static str {
        match self {
            Kind::LapsedNodes => "sweep.lapsed_nodes",
            Kind::LostRuns | Kind::ExpiredRuns | Kind::Buffer => "sweep.runs",
            Kind::Sessions => "sweep.sessions",
            Kind::Batches | Kind::DuplicateBatches => "sweep.batches",
            Kind::FaultyRuns | Kind::Output => "sweep.faults",
            Kind::Keys | Kind::Retention => "sweep.retention",
        }
    }

    fn is_in(self, pass: Pass) -> bool {
        pass == Pass::Whole || matches!(self, Kind::LapsedNodes | Kind::LostRuns | Kind::Sessions)
    }
}

/// Keys that are forgotten in one pass.
const KEYS: i64 = 2_000;
/// Runs that the retention walks over in one pass.
const WALKED: i64 = 2_000;
/// Rows that it deletes of sessions, of jobs and of the audit, in one pass.
const CLEARED: i64 = 1_000;

/// What one pass found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub lapsed_nodes: u64,
    pub unsettled_batches: u64,
    pub duplicates: u64,
    pub runs_taken_back: u64,
    pub runs_expired: u64,
    pub sessions_closed: u64,
    /// With sessions, jobs and deeds.
    pub runs_deleted: u64,
    pub runs_mended: u64,
    pub outputs_dropped: u64,
}

impl SweepReport {
    fn add(&mut self, kind: Kind, done: Option<&SweepDone>) {
        let found = done.map_or(0, |done| done.found.unsigned_abs());
        match kind {
            Kind::LapsedNodes => self.lapsed_nodes = found,
            Kind::LostRuns => self.runs_taken_back = found,
            Kind::Sessions => self.sessions_closed = found,
            Kind::ExpiredRuns => self.runs_expired = found,
            Kind::Batches => self.unsettled_batches = found,
            Kind::DuplicateBatches => self.duplicates = found,
            Kind::Retention => self.runs_deleted = found,
            Kind::FaultyRuns => self.runs_mended = found,
            Kind::Output => self.outputs_dropped = found,
            // What waits is no news.
            Kind::Buffer | Kind::Keys => {}
        }
    }
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
        let every = self.parts.settings.now().sweep_every;
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
            let deadline = parts.settings.now().look_deadline;
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
    let mut report = SweepReport::default();
    if let Some(runs) = runs {
        runs::own(runs).await?;
    }
    if pass == Pass::Own {
        return Ok(report);
    }
    let (mut done, mut role) = (Vec::new(), ("", false));
    for kind in Kind::ALL.iter().filter(|kind| kind.is_in(pass) && may(**kind, parts, runs)) {
        if role.0 != kind.role() {
            role = (kind.role(), is_ours(parts, kind.role()).await?);
        }
        if role.1
            && let Some(swept) = sweep_if_worth_it(*kind, parts, runs).await?
        {
            done.push(swept);
            report.add(*kind, done.last());
        }
    }
    // Short passes are told with the next whole one, unless they have done something.
    done.retain(|done| pass == Pass::Whole || done.found > 0);
    // What a command does on its own store is nobody's to watch.
    if runs.is_some() {
        parts.store.record_sweeps(&done, parts.store.now()).await?;
    }
    Ok(report)
}

/// Whether this process can do a kind, and is let do it.
fn may(kind: Kind, parts: &Parts, runs: Option<&RunParts>) -> bool {
    match kind {
        // A command has nothing to take back from others but batches, for which a lapsed lease is enough.
        Kind::LapsedNodes => runs.is_some_and(|runs| !runs.gates.no_burials.load(Ordering::Acquire)),
        Kind::Batches => true,
        Kind::DuplicateBatches => parts.settings.now().repair_enabled,
        _ if kind.mends() => runs.is_some() && parts.settings.now().repair_enabled,
        Kind::Retention => runs.is_some() && parts.settings.now().forgets(),
        _ => runs.is_some(),
    }
}

/// A kind in its turn of a pass: one that costs much is left out now and then, unless there is something to be found.
async fn sweep_if_worth_it(
    kind: Kind,
    parts: &Parts,
    runs: Option<&RunParts>,
) -> Result<Option<SweepDone>, super::batch_poller::CallOrStore> {
    let sweep = sweep_kind(kind, parts, runs);
    let Some(lost) = runs.map(|runs| &runs.looks.lost) else { return sweep.await.map(Some) };
    let swept = if kind == Kind::LostRuns { lost.look(sweep).await? } else { Some(sweep.await?) };
    let found = swept.as_ref().is_some_and(|swept| swept.found > 0);
    if found && matches!(kind, Kind::LapsedNodes | Kind::LostRuns) {
        lost.at_once();
    }
    Ok(swept)
}

/// One pass of one kind, whoever else does it at the same time: each is guarded by what it expects to find.
pub async fn sweep_kind(
    kind: Kind,
    parts: &Parts,
    runs: Option<&RunParts>,
) -> Result<SweepDone, super::batch_poller::CallOrStore> {
    let (store, began) = (&parts.store, runs::now());
    let found = match (kind, runs) {
        (Kind::Batches, _) => batches::count(parts).await?,
        (Kind::DuplicateBatches, _) => strays::sweep(parts, false).await?,
        (_, None) => 0,
        (Kind::LapsedNodes, _) => store.bury_lapsed(store.now()).await?,
        (Kind::LostRuns, Some(runs)) => runs::take_back(runs).await?,
        (Kind::Sessions, Some(runs)) => sessions::sweep(parts, runs).await?,
        (Kind::ExpiredRuns, Some(runs)) => runs::expire(runs).await?,
        (Kind::Buffer, Some(runs)) => {
            runs::queue_gauges(runs).await?;
            runs::node_gauges(runs).await?;
            runs::gauges(runs).await?
        }
        (Kind::FaultyRuns | Kind::Output, Some(runs)) => repair::walk_on(kind, runs).await?,
        (Kind::Keys, _) => store.drop_expired_keys(store.now(), KEYS).await?,
        (Kind::Retention, _) => retain(parts).await?,
    };
    let took = runs::now().duration_since(began);
    metrics::histogram!(SWEEP_SECONDS, "kind" => kind.word()).record(took.as_secs_f64());
    metrics::counter!(SWEEP_RECLAIMED, "kind" => kind.word()).increment(found);
    metrics::gauge!(SWEEP_LAST_SUCCESS, "kind" => kind.word()).set(store.now().millis() as f64 / 1_000.0);
    let took_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    Ok(SweepDone { kind: kind.word(), took_ms, found: i64::try_from(found).unwrap_or(i64::MAX) })
}

/// Runs first: sessions and jobs go when no run is left of them.
async fn retain(parts: &Parts) -> Result<u64, storage::StoreError> {
    let (store, settings, now) = (&parts.store, parts.settings.now(), parts.store.now());
    let mut deleted = 0;
    if let Some(span) = settings.keep_runs {
        deleted += store.retain_runs(now - span, WALKED, now).await?.deleted;
        deleted += store.retain_sessions(now - span, CLEARED).await?.deleted;
        deleted += store.retain_jobs(now - span, CLEARED, now).await?.deleted;
    }
    if let Some(span) = settings.keep_audit {
        deleted += store.forget_deeds(now - span, CLEARED).await?;
    }
    Ok(deleted)
}

/// Whether this node does a kind for all. A command that works on its own job does it for itself.
async fn is_ours(parts: &Parts, role: &'static str) -> Result<bool, storage::StoreError> {
    if parts.settings.now().pool.is_some() {
        return Ok(true);
    }
    let ours = parts.store.hold_role(role, parts.store.now()).await?.is_some();
    metrics::gauge!(LEADER, "role" => role).set(f64::from(u8::from(ours)));
    if !ours {
        cluster::leave(gauges_of(role));
    }
    Ok(ours)
}

/// The gauges that whoever holds a role tells for all.
fn gauges_of(role: &str) -> &'static [&'static str] {
    match role {
        _ if role == Kind::Buffer.role() => runs::GAUGES,
        _ if role == Kind::Batches.role() => batches::GAUGES,
        _ => &[],
    }
}

impl Actor for Sweeper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // What the node before this one held is not left waiting for the first tick.
        if self.runs.is_some() {
            self.sweep(if self.for_all { Pass::Whole } else { Pass::Own }, context);
        }
        let every = self.parts.settings.now().sweep_every.min(URGENT_EVERY);
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
