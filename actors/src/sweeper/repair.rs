//! The sweeps over what contradicts the model, a part of the store at a time; and what any kind would find, changing
//! nothing.

use super::{Kind, batches, runs, strays, sweep_kind};
use crate::batch_poller::CallOrStore;
use crate::parts::Parts;
use crate::runs::{RunParts, Settled, TaskKind};
use storage::StoreError;
use storage::model::Timestamp;
use storage::store::{Fault, Faulty, Part};
use tracing::{debug, warn};

/// Runs that a walk looks at in one go.
const WALKED: i64 = 2_000;
/// As far as is counted in a dry run.
const COUNTED: i64 = 10_000;

/// How a kind is done by hand.
#[derive(Debug, Clone, Default)]
pub struct Repair {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Where a walk goes on; empty for its beginning.
    pub after: String,
}

/// What one go came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    pub found: u64,
    pub took_ms: i64,
    /// Where the next go of a walk begins; `None` at its end, and for kinds that do not walk.
    pub next_after: Option<String>,
}

/// One go of a kind: of a walk from `after` on, of another kind from whatever is due.
pub async fn repair(kind: Kind, parts: &Parts, runs: &RunParts, how: &Repair) -> Result<Repaired, CallOrStore> {
    let began = runs::now();
    let (found, next_after) = match kind {
        Kind::FaultyRuns => faulty_runs(runs, &how.after, how.dry_run).await?,
        Kind::Output => orphaned_output(runs, &how.after, how.dry_run).await?,
        _ if how.dry_run => (due(kind, parts, runs).await?, None),
        _ => (sweep_kind(kind, parts, Some(runs)).await?.found.unsigned_abs(), None),
    };
    let took_ms = i64::try_from(runs::now().duration_since(began).as_millis()).unwrap_or(i64::MAX);
    Ok(Repaired { found, took_ms, next_after })
}

/// The next part of a walk that goes on from pass to pass, and begins again at its end.
pub(super) async fn walk_on(kind: Kind, runs: &RunParts) -> Result<u64, StoreError> {
    let after = runs.store.walk_place(kind.word()).await?;
    let (found, next) = match kind {
        Kind::Output => orphaned_output(runs, &after, false).await?,
        _ => faulty_runs(runs, &after, false).await?,
    };
    let next = next.unwrap_or_default();
    if next != after {
        runs.store.set_walk_place(kind.word(), &next, runs.store.now()).await?;
    }
    Ok(found)
}

async fn faulty_runs(runs: &RunParts, after: &str, dry_run: bool) -> Result<(u64, Option<String>), StoreError> {
    let Part { found, next } = runs.store.faulty_runs(after, WALKED).await?;
    if dry_run {
        return Ok((found.len() as u64, next));
    }
    let mut mended = 0;
    for faulty in &found {
        if mend(runs, faulty, runs.store.now()).await? {
            mended += 1;
        }
    }
    if mended > 0 {
        let first = found.first().map_or("", |faulty| faulty.run.as_str());
        warn!(runs = mended, run.id = first, "mended runs that contradicted the model");
        // Those that nothing held are held by nobody now, whose leases have lapsed.
        runs::take_back(runs).await?;
    }
    Ok((mended, next))
}

async fn mend(runs: &RunParts, faulty: &Faulty, now: Timestamp) -> Result<bool, StoreError> {
    let tasks = &runs.tasks;
    let pull = |task: &str| tasks.get(task).is_some_and(|task| matches!(task.kind, TaskKind::Pull | TaskKind::Llm(_)));
    if !runs.store.mend_run(faulty, pull, now).await? {
        return Ok(false);
    }
    debug!(run.id = %faulty.run, env = faulty.env, fault = faulty.fault.word(), "mended a run");
    if faulty.fault == Fault::EndedInPool
        && let Some(record) = runs.store.run_record(&faulty.env, &faulty.run).await?
    {
        runs.settler.announce(Settled { run: record.id, env: record.env, state: record.state });
    }
    Ok(true)
}

async fn orphaned_output(runs: &RunParts, after: &str, dry_run: bool) -> Result<(u64, Option<String>), StoreError> {
    let Part { found, next } = runs.store.orphaned_output(after, WALKED).await?;
    if !dry_run {
        runs.store.drop_output(&found).await?;
    }
    Ok((found.len() as u64, next))
}

/// What a kind would find, counted to a limit.
async fn due(kind: Kind, parts: &Parts, runs: &RunParts) -> Result<u64, CallOrStore> {
    let (store, now) = (&runs.store, runs.store.now());
    let counted = match kind {
        Kind::LapsedNodes => store.lapsed_nodes(now).await?,
        Kind::LostRuns => store.lost_runs(now, COUNTED).await?,
        Kind::Sessions => i64::try_from(store.sessions_due(now, COUNTED).await?.len()).unwrap_or(i64::MAX),
        Kind::ExpiredRuns => store.expired_runs(now, COUNTED).await?,
        Kind::Keys => store.expired_keys(now, COUNTED).await?,
        Kind::Buffer => return Ok(runs::gauges(runs).await?),
        Kind::Batches => return Ok(batches::count(parts).await?),
        Kind::DuplicateBatches => return strays::sweep(parts, true).await,
        Kind::FaultyRuns | Kind::Output | Kind::Retention => 0,
    };
    Ok(counted.unsigned_abs())
}
