//! The store, and what in it waits for somebody.

mod work;

use super::Check;
use crate::cli::Common;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::session;
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;
use storage::StoreError;
use storage::model::{BatchState, Clock, JobState, SystemClock, Timestamp};
use storage::store::{BatchRow, Doubt, Doubted, Engine, JobRow, MigrationRow, NodeRow, Store, schema};

/// Batches are carried out within this time of their submission, or expire.
const BATCH_WINDOW: Duration = Duration::from_secs(24 * 3_600);
const NEAR_THE_END: Duration = Duration::from_secs(4 * 3_600);
const TOLERATED_SKEW_MS: i64 = 2_000;
const GO_ON: &str = "run the same `tidegate process` again";

/// What a look at the store brought.
#[derive(Default)]
pub struct Looked {
    pub checks: Vec<Check>,
    /// Whether a process that lives has it, as far as that can be told.
    pub in_use: bool,
    /// What it knows of what was bought, if its original may have bought more.
    pub doubted: Option<Doubted>,
}

impl From<Check> for Looked {
    fn from(check: Check) -> Looked {
        Looked { checks: vec![check], ..Looked::default() }
    }
}

pub async fn checks(common: &Common, config: &Config) -> Looked {
    let url = match session::store_url(common) {
        Ok(url) => url,
        Err(failure) => return Check::failed("store", failure, "name the store with --store").into(),
    };
    if let Some(check) = not_made_yet(&url) {
        return check.into();
    }
    // Opening would migrate, and that is nothing to be done by looking.
    if let Some(check) = schema(&url).await.ok().and_then(|rows| not_up_to_date(&rows)) {
        return check.into();
    }
    let store = match session::open_store(common, config).await {
        Ok(store) => store,
        Err(failure) => {
            let in_use = failure.exit == Exit::Conflict;
            return Looked { in_use, ..cannot_open(failure).into() };
        }
    };
    let looked = look(&store).await;
    // What was read is read; a lease that is not given up lapses by itself.
    let _ = store.leave().await;
    store.close().await;
    looked.unwrap_or_else(|error| Check::failed("store", error.into(), "see TIDEGATE_LOG=debug").into())
}

/// Some migrations are not applied yet.
fn not_up_to_date(rows: &[MigrationRow]) -> Option<Check> {
    let pending: Vec<_> = rows.iter().filter(|row| !row.applied).collect();
    let first = pending.first()?;
    let what =
        format!("{} migrations are not applied, from {}; nothing in it was looked at", pending.len(), first.version);
    Some(Check::warn("store", what, "back it up, then `tidegate db migrate`, or start a server"))
}

/// Opening would make the file; looking should not.
fn not_made_yet(url: &str) -> Option<Check> {
    let path = Path::new(url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path))?);
    if path.as_os_str().is_empty() || path.exists() {
        return None;
    }
    let parents =
        path.ancestors().skip(1).map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let parent = parents.into_iter().find(|parent| parent.exists())?;
    let shown = path.display();
    if !parent.is_dir() {
        let what = format!("{shown} cannot be made: {} is no directory", parent.display());
        return Some(Check::fail("store", what, "name another place with --store sqlite:PATH"));
    }
    Some(Check::ok("store", format!("{shown} does not exist yet; the first command that needs it makes it")))
}

/// A store that a living process uses is well; there is only nothing to see from here.
fn cannot_open(failure: Failure) -> Check {
    if failure.exit == Exit::Conflict {
        let what = format!("{}; nothing in it was looked at", failure.what);
        return Check::warn("store", what, "look again when that process has ended");
    }
    Check::failed("store", failure, "check the --store URL and the rights on it")
}

async fn look(store: &Store) -> Result<Looked, StoreError> {
    let now = store.now();
    let mut checks = vec![engine(&store.engine().await?)];
    if !store.is_sqlite() {
        checks.push(Check::ok("sessions", "each is the database's own: no pooler lends them"));
        checks.push(skew(now.millis() - SystemClock.now().millis()));
    }
    let doubted = store.doubt().await?;
    checks.extend(doubted.as_ref().map(|doubted| in_doubt(doubted.doubt)));
    let nodes = store.nodes_not_gone().await?;
    checks.push(lapsed(&nodes, now));
    let alive: HashSet<&str> =
        nodes.iter().filter(|node| node.holds_its_lease(now)).map(|node| node.id.as_str()).collect();
    // This very command is one of them.
    let in_use = alive.len() > 1;
    checks.push(work::leases(&store.runs_held().await?, &alive));
    checks.push(work::sweeps(&store.sweeps().await?, in_use, now));
    checks.push(work::drain(&store.buffer_depths(None).await?, in_use, now));
    checks.extend(jobs(&store.live_jobs().await?, &alive));
    checks.extend(batches(&store.in_flight().await?, &alive, now));
    Ok(Looked { checks, in_use, doubted })
}

fn in_doubt(doubt: Doubt) -> Check {
    let fix = "as ops/runbooks/restore.md says; until a node has looked at its batches, nothing is bought";
    Check::warn("copy", format!("{doubt}, and may have forgotten batches"), fix)
}

fn engine(engine: &Engine) -> Check {
    let journal = engine.journal.as_ref().map_or(String::new(), |mode| format!(", journal {mode}"));
    let schema = engine.schema.map_or("no schema".to_owned(), |version| format!("schema {version}"));
    Check::ok("store", format!("{} {}{journal}, {schema}, opened and free", engine.name, engine.version))
}

fn skew(millis: i64) -> Check {
    let what = format!(
        "the database's clock is {:.1} s {} this machine's",
        millis.unsigned_abs() as f64 / 1_000.0,
        match millis {
            ..0 => "behind",
            0.. => "ahead of",
        }
    );
    if millis.abs() <= TOLERATED_SKEW_MS {
        return Check::ok("clock", what);
    }
    Check::warn("clock", what, "leases follow the database, logs do not: let NTP set this machine's clock")
}

fn lapsed(nodes: &[NodeRow], now: Timestamp) -> Check {
    let dead: Vec<_> = nodes.iter().filter(|node| !node.holds_its_lease(now)).collect();
    let Some(first) = dead.first() else {
        // This very command is one of them.
        return Check::ok("nodes", format!("{} others alive, none with a lapsed lease", nodes.len().saturating_sub(1)));
    };
    let since = Timestamp::from_millis(first.lease_until);
    let what = format!(
        "{} with a lapsed lease; first {} (pid {}) on {}, since {since}",
        dead.len(),
        first.id,
        first.pid,
        first.host
    );
    Check::warn("nodes", what, "what they held is taken over by the next process that needs it")
}

fn jobs(jobs: &[JobRow], alive: &HashSet<&str>) -> Vec<Check> {
    let mut checks = Vec::new();
    for job in jobs.iter().filter(|job| job.state == JobState::Suspended) {
        let why = job.detail.as_deref().unwrap_or("no detail");
        let what = format!("{} ({}) is suspended: {why}", job.id, job.label);
        checks.push(Check::warn("jobs", what, format!("mend that, then {GO_ON}")));
    }
    let driven = |job: &&JobRow| job.holder.as_deref().is_some_and(|holder| alive.contains(holder));
    let left: Vec<_> = jobs.iter().filter(|job| job.state != JobState::Suspended && !driven(job)).collect();
    match left.first() {
        Some(first) => {
            let what = format!("{} unfinished and driven by nobody; first {} ({})", left.len(), first.id, first.label);
            checks.push(Check::warn("jobs", what, format!("{GO_ON} to go on where it was stopped")));
        }
        None if checks.is_empty() => checks.push(Check::ok("jobs", format!("{} live, none left behind", jobs.len()))),
        None => {}
    }
    checks
}

fn batches(batches: &[BatchRow], alive: &HashSet<&str>, now: Timestamp) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut found = |what: Vec<&BatchRow>, words: &str, fix: String| {
        if let Some(first) = what.first() {
            checks.push(Check::warn("batches", format!("{} {words}; first {}", what.len(), first.id), fix));
        }
    };
    let held = |row: &&BatchRow| row.holder.as_deref().is_some_and(|holder| alive.contains(holder));
    let of = |state| batches.iter().filter(move |row| row.state == state);
    let unknown = "adopt|abandon` answers for it";
    found(
        of(BatchState::Unknown).collect(),
        "of unknown fate: the answer to their create was lost",
        format!("{GO_ON} to look for them at the provider; else `tidegate batches {unknown}"),
    );
    let left = "left in the middle of their create";
    found(
        of(BatchState::Submitting).filter(|row| !held(row)).collect(),
        left,
        format!("{GO_ON} to find out their fate"),
    );
    let at_provider = |row: &&BatchRow| matches!(row.state, BatchState::Submitted | BatchState::Cancelling);
    let age = |row: &BatchRow| row.submitted_at.map_or(Duration::ZERO, |at| now.since(at));
    let (over, near): (Vec<&BatchRow>, Vec<&BatchRow>) = batches
        .iter()
        .filter(at_provider)
        .filter(|row| age(row) >= BATCH_WINDOW - NEAR_THE_END)
        .partition(|row| age(row) >= BATCH_WINDOW);
    found(
        over,
        "past their 24 h and not collected",
        format!("{GO_ON} to collect them before the provider deletes the results"),
    );
    let patience = "nothing to mend: what the provider does not finish in time expires, and is tried again";
    found(near, "near the end of their 24 h", patience.to_owned());
    let unsettled = "ended with results that nobody is collecting";
    found(of(BatchState::Ended).filter(|row| !held(row)).collect(), unsettled, format!("{GO_ON} to collect them"));
    if checks.is_empty() {
        checks.push(Check::ok("batches", format!("{} in flight, none that needs a look", batches.len())));
    }
    checks
}

#[cfg(test)]
mod tests;
