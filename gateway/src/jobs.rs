//! `tidegate jobs`: jobs as they stand, with what they carried out, what it cost, and what is left; and a server's, made
//! and told what to do.

mod remote;
pub mod view;

use crate::batches::with_store;
use crate::cli::{Common, JobsArgs, JobsCommand};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::output::List;
use storage::model::JobId;
use storage::store::{JobRow, Store};

const MOST_ROUNDS: u32 = 1_000;

pub fn run(args: &JobsArgs, common: &Common, config: &Config) -> Result<Exit, Failure> {
    match &args.command {
        JobsCommand::List { limit, after } => with_store(common, config, async |store| {
            list(store, *limit, after.as_deref()).await?.print(common.output, store.now())?;
            Ok(Exit::Done)
        }),
        JobsCommand::Get { id } => with_store(common, config, async |store| {
            let job = existing(store, id).await?;
            let facts = view::Facts {
                counts: store.pool_counts(&job.pool).await?,
                tally: store.tally(&job.pool).await?,
                states: store.batch_states_of(&job.pool, &job.id).await?,
                rounds: store.rounds(&job.id, MOST_ROUNDS).await?,
            };
            view::whole(&job, &facts).print(common.output, store.now())?;
            Ok(Exit::Done)
        }),
        command => remote::run(command, &args.remote, common),
    }
}

async fn existing(store: &Store, id: &str) -> Result<JobRow, Failure> {
    store.job(&JobId::from_text(id)).await?.ok_or_else(|| {
        let hint = match id.strip_prefix("bat_") {
            Some(_) => format!("that is the id of a batch: `tidegate batches get {id}`"),
            None => "`tidegate jobs list` shows those of this store; is --store the right one?".to_owned(),
        };
        Failure::new(Exit::NotFound, format!("there is no job `{id}`")).hint(hint)
    })
}

async fn list(store: &Store, limit: u32, after: Option<&str>) -> Result<List, Failure> {
    let from = match after {
        Some(id) => Some(existing(store, id).await?),
        None => None,
    };
    let before = from.as_ref().map(|job| (job.created_at, job.id.as_str()));
    let mut jobs = store.list_jobs(before, limit.saturating_add(1)).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = jobs.len() > limit;
    jobs.truncate(limit);
    let next_after = jobs.last().filter(|_| has_more).map(|job| job.id.to_string());
    let pools: Vec<&str> = jobs.iter().map(|job| job.pool.as_str()).collect();
    let counts = store.counts_of_pools(&pools).await?;
    let rows = jobs.iter().map(|job| view::row(job, &counts.get(&job.pool).copied().unwrap_or_default())).collect();
    Ok(List { columns: view::COLUMNS, rows, next_after })
}
