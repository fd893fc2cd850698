//! `tidegate process`: carries a file of requests through provider batches, and continues after any death.

mod identity;
mod estimate;
mod import;
mod results;
mod progress;
mod summary;
mod engine;
mod elsewhere;

pub use elsewhere::run as import_batches;
pub use import::reserve;

use crate::cli::{Common, ProcessArgs};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::input::{Limits, Scan, scan};
use crate::ops::{self, Ops};
use crate::{providers, session};
use actors::price::PriceTable;
use engine::{Ended, Engine};
use estimate::Estimate;
use identity::{Meaning, Wish};
use results::Out;
use std::sync::Arc;
use storage::failpoint::{Failpoint, reached};
use storage::model::{Ceilings, Epoch, JobEvent, JobId, JobState, LiveRules};
use storage::store::{FailedOver, JobMove, JobRow, NewJob, Store};
use summary::Summary;

const ENV: &str = "default/dev";

/// Runs the command on a runtime and an actix system of its own.
pub fn run(args: &ProcessArgs, common: &Common, config: &Config) -> Result<Exit, Failure> {
    on_system(common, config, |runtime| process(args, common, config, runtime))
}

fn on_system<W: Future<Output = Result<Exit, Failure>>>(
    common: &Common,
    config: &Config,
    work: impl FnOnce(Arc<tokio::runtime::Runtime>) -> W,
) -> Result<Exit, Failure> {
    crate::telemetry::init(progress::Reporter::wants_quiet(common.progress), config.log.level)?;
    let runtime = session::runtime()?;
    let system = actix::System::with_tokio_rt({
        let runtime = runtime.clone();
        move || runtime
    });
    system.block_on(work(runtime))
}

async fn process(
    args: &ProcessArgs,
    common: &Common,
    config: &Config,
    runtime: Arc<tokio::runtime::Runtime>,
) -> Result<Exit, Failure> {
    let prices = prices(config)?;
    let scanned = scan(&args.file, &Limits::default()).map_err(|error| Failure::usage(error.to_string()))?;
    let needs_estimate = args.dry_run || args.max_usd.is_some();
    let estimate = if needs_estimate { Some(Estimate::of(&args.file, &prices)?) } else { None };
    let choice = providers::choose(args.provider.as_deref(), scanned.form, config)?;
    if let (true, Some(estimate)) = (args.dry_run, &estimate) {
        let batches = estimate::planned_batches(&scanned, args.max_batch_requests);
        estimate::dry_run(&scanned, estimate, batches, &prices, common.output)?;
        return Ok(Exit::Done);
    }
    if let (Some(_), Some(estimate)) = (args.max_usd, &estimate) {
        estimate.require_bounds()?;
    }
    let out = Out::check(&args.out, &args.file)?;
    if let Some(note) = &choice.note {
        say!("{note}");
    }
    // Before anything is stored or sent: an address that is taken is a wrong command.
    let ops = Ops::start(args.ops_listen)?;
    let store = session::open_store(common, config).await?;
    ops::tell_build(&store);
    let mut chosen = providers::connect(&choice, common, config)?;
    chosen.following.poll_every = args.poll.unwrap_or(chosen.following.poll_every);
    chosen.following.settle_after = args.settle.unwrap_or(chosen.following.settle_after);
    let wish = wish(args, &scanned, &chosen);
    let mut engine = Engine::new(store.clone(), runtime, prices, chosen, config, ops);
    let done = work(args, &scanned, &wish, &mut engine, &out, common).await;
    engine.close().await;
    done
}

async fn work(
    args: &ProcessArgs,
    scanned: &Scan,
    wish: &Wish,
    engine: &mut Engine,
    out: &Out,
    common: &Common,
) -> Result<Exit, Failure> {
    let store = engine.store().clone();
    let doubt = engine.look_for_failover().await;
    let jobs = store.jobs_of_input(&wish.input_sha256).await?;
    if let Some(found) = doubt {
        return Err(in_doubt(&found, &jobs));
    }
    let (mut job, resumed) = match identity::meaning(wish, &jobs)? {
        Meaning::Rewrite(job) => (*job, true),
        Meaning::Continue(job) => (resume(&store, engine, *job, wish).await?, true),
        Meaning::Create { scope, pool, supersedes } => {
            if let Some(old) = supersedes {
                supersede(&store, engine, &old).await?;
            }
            let resumed = store.pool_counts(&pool).await?.total > 0;
            let id = engine.mint_job();
            let label = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let expected = i64::try_from(scanned.count).unwrap_or(i64::MAX);
            let (source, ceilings, env) = (wish.source, wish.ceilings, ENV.to_owned());
            let new = NewJob { id: id.clone(), env, pool, source, label, scope, ceilings, expected };
            store.create_job(&new, store.now()).await?;
            reached(Failpoint::ImportJobCreated);
            (job_row(&store, &id).await?, resumed)
        }
    };
    if job.state == JobState::Created {
        if let Err(failure) = engine.import(&args.file, &job, &scanned.kinds).await {
            return Err(give_up_import(&store, &job, failure).await);
        }
        let start = JobMove { from: JobState::Created, event: JobEvent::Started, reason: None, detail: None };
        store.move_job(&job.id, job.epoch, start, store.now()).await?;
    }
    let ended = engine.drive(&job, common.progress).await?;
    job = job_row(&store, &job.id).await?;
    match ended {
        Ended::JobIsOver => {}
        Ended::Suspended => return Err(suspended(&job)),
        Ended::Signalled(exit) => {
            say!("stopped; run the same command again to continue");
            return Ok(exit);
        }
    }
    let lines = out.write(&store, &job.pool).await?;
    let summary = Summary {
        resumed,
        counts: store.pool_counts(&job.pool).await?,
        batches: store.tally(&job.pool).await?,
        rounds: (job.round - job.first_round + 1).max(0),
        out: args.out.display().to_string(),
        job,
    };
    summary.print(common.output, lines)?;
    Ok(summary.exit())
}

/// A job whose file is not what it was holds lines of two files: nothing of it was sent, and it is never
/// continued. One that the store failed goes on at the next run.
async fn give_up_import(store: &Store, job: &JobRow, failure: Failure) -> Failure {
    if matches!(failure.exit, Exit::Conflict | Exit::Usage) {
        let detail = Some("its file changed during the import");
        let cancel = JobMove { from: JobState::Created, event: JobEvent::Cancelled, reason: None, detail };
        // Held by somebody else by now: then it is theirs to decide.
        let _ = store.move_job(&job.id, job.epoch, cancel, store.now()).await;
    }
    failure
}

fn wish(args: &ProcessArgs, scanned: &Scan, chosen: &providers::Chosen) -> Wish {
    Wish {
        input_sha256: scanned.sha256.to_string(),
        provider: chosen.name.clone(),
        account: chosen.account.clone(),
        max_attempts: args.max_attempts,
        source: args.source,
        ceilings: Ceilings {
            max_rounds: args.max_rounds,
            max_wallclock_ms: args.max_wallclock.and_then(|span| u64::try_from(span.as_millis()).ok()),
            max_usd_nanos: args.max_usd.map(storage::model::Money::nanos),
            max_batch_requests: args.max_batch_requests,
            live: LiveRules {
                below: args.live_below,
                after_ms: args.live_after.and_then(|span| u64::try_from(span.as_millis()).ok()),
                canary: args.canary,
            },
        },
        restart: args.restart,
    }
}

async fn job_row(store: &Store, id: &JobId) -> Result<JobRow, Failure> {
    let missing = || Failure::new(Exit::StoreFailed, format!("the job {id} is not in the store any more"));
    store.job(id).await?.ok_or_else(missing)
}

/// Takes a live job's drive over, with the ceilings of this command.
async fn resume(store: &Store, engine: &Engine, job: JobRow, wish: &Wish) -> Result<JobRow, Failure> {
    let epoch: Epoch = engine.take(&job).await?;
    if job.ceilings != wish.ceilings {
        store.set_ceilings(&job.id, epoch, &wish.ceilings).await?;
    }
    if job.state == JobState::Suspended {
        let on = JobMove { from: JobState::Suspended, event: JobEvent::Resumed, reason: None, detail: None };
        store.move_job(&job.id, epoch, on, store.now()).await?;
    }
    say!("continuing {} (round {})", job.id, (job.round - job.first_round + 1).max(0));
    job_row(store, &job.id).await
}

/// `--restart` beside a live job: that one is cancelled, and what it has in flight is said aloud.
async fn supersede(store: &Store, engine: &Engine, old: &JobRow) -> Result<(), Failure> {
    let epoch = engine.take(old).await?;
    if old.state == JobState::Finishing {
        return Ok(());
    }
    let cancel = JobMove { from: old.state, event: JobEvent::Cancelled, reason: None, detail: Some("restarted") };
    store.move_job(&old.id, epoch, cancel, store.now()).await?;
    let tally = store.tally(&old.pool).await?;
    say!("cancelled {}; {} of its batches are in flight and already paid for", old.id, tally.in_flight);
    Ok(())
}

const LOOK_THERE: &str =
    "look at the provider for batches that `tidegate batches list` does not have, then run the same command again";

/// The store may have forgotten what was bought for this very file, and the whole job as well.
fn in_doubt(found: &FailedOver, jobs: &[JobRow]) -> Failure {
    match jobs.iter().find(|job| job.state == JobState::Suspended) {
        Some(job) => suspended(job),
        None => Failure::new(Exit::NotAllowed, found.to_string()).hint(LOOK_THERE),
    }
}

/// A person has to look first; the job goes on when the command is run again.
fn suspended(job: &JobRow) -> Failure {
    let detail = job.detail.as_deref().unwrap_or("the provider account needs attention");
    let (kind, message) = detail.split_once('|').unwrap_or(("account", detail));
    let hint = match kind {
        "failover" => LOOK_THERE,
        "billing" => "settle the account's billing or limit, then run the same command again",
        _ => "check the key, the base URL and the account, then run the same command again",
    };
    Failure::new(Exit::NotAllowed, format!("{} is suspended: {message}", job.id)).hint(hint)
}

/// The built-in price table, with the models of `[prices] file` in place of its own.
pub fn prices(config: &Config) -> Result<Arc<PriceTable>, Failure> {
    let builtin = PriceTable::builtin();
    let Some(path) = &config.prices.file else { return Ok(Arc::new(builtin.clone())) };
    let cannot = |why: String| Failure::usage(format!("prices.file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    builtin.with_overrides(&text).map(Arc::new).map_err(|error| cannot(error.to_string()))
}
