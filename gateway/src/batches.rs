//! `tidegate batches`: looks at provider batches, and takes an operator's answer about those of unknown fate.

pub mod answer;
mod results;
pub mod view;
mod watch;

use crate::cli::{BatchesCommand, Common, Output};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::output::{List, Record, note};
use crate::session;
use std::collections::HashSet;
use storage::model::{BatchId, BatchState};
use storage::store::{BatchFilter, BatchRow, Store};

pub fn run(command: &BatchesCommand, common: &Common, config: &Config) -> Result<Exit, Failure> {
    let output = common.output;
    match command {
        BatchesCommand::List { state, limit, after } => with_store(common, config, async |store| {
            list(store, *state, *limit, after.as_deref()).await?.print(output, store.now())?;
            Ok(Exit::Done)
        }),
        BatchesCommand::Get { id } => with_store(common, config, async |store| {
            whole(store, &existing(store, id).await?).await?.print(output, store.now())?;
            Ok(Exit::Done)
        }),
        BatchesCommand::Watch { id } => {
            let lease = session::lease(config);
            with_store(common, config, async |store| watch::watch(store, id, lease, output).await)
        }
        BatchesCommand::Results { id } => with_store(common, config, async |store| {
            let row = existing(store, id).await?;
            results::stream(store, &row.id, output).await
        }),
        BatchesCommand::Adopt { id, provider_batch_id } => with_store(common, config, async |store| {
            answer::adopt(store, &existing(store, id).await?, provider_batch_id).await?;
            let what = "at the provider; the next `tidegate process` collects it";
            note(format_args!("batch {id} is {provider_batch_id} {what}"));
            answered(store, id, output).await
        }),
        BatchesCommand::Cancel { id } => with_store(common, config, async |store| {
            answer::cancel(store, &existing(store, id).await?).await?;
            note(format_args!(
                "batch {id} is stopped at its provider as soon as a process follows it; until then it runs"
            ));
            answered(store, id, output).await
        }),
        BatchesCommand::Abandon { id, yes } => {
            answer::require_consent(*yes)?;
            with_store(common, config, async |store| {
                let row = existing(store, id).await?;
                if !answer::is_meant(&row, *yes)? {
                    return Ok(Exit::Declined);
                }
                let requeued = answer::abandon(store, &row).await?;
                note(format_args!("batch {id} is abandoned; {requeued} of its runs are queued again"));
                answered(store, id, output).await
            })
        }
    }
}

/// Runs work on the opened store and leaves it again, whatever became of the work.
pub(crate) fn with_store<T>(
    common: &Common,
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    session::runtime()?.block_on(async {
        let store = session::open_store(common, config).await?;
        let done = work(&store).await;
        let left = store.leave().await;
        store.close().await;
        let value = done?;
        left?;
        Ok(value)
    })
}

async fn existing(store: &Store, id: &str) -> Result<BatchRow, Failure> {
    let row = store.batch(&BatchId::from_text(id)).await?;
    row.ok_or_else(|| {
        let hint = match id.strip_prefix("job_") {
            Some(_) => format!("that is the id of a job: `tidegate jobs get {id}`"),
            None => "`tidegate batches list` shows those of this store; is --store the right one?".to_owned(),
        };
        Failure::new(Exit::NotFound, format!("there is no batch `{id}`")).hint(hint)
    })
}

async fn list(store: &Store, state: Option<BatchState>, limit: u32, after: Option<&str>) -> Result<List, Failure> {
    let from = match after {
        Some(id) => Some(existing(store, id).await?),
        None => None,
    };
    let before = from.as_ref().map(|row| (row.created_at, row.id.as_str()));
    let filter = BatchFilter { state, ..BatchFilter::default() };
    let mut rows = store.list_batches(&filter, before, limit.saturating_add(1)).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next_after = rows.last().filter(|_| has_more).map(|row| row.id.to_string());
    let unpriced = unpriced(store, &rows).await?;
    let rows = rows.iter().map(|row| view::row(row, !unpriced.contains(row.id.as_str()))).collect();
    Ok(List { columns: view::COLUMNS, rows, next_after })
}

pub async fn whole(store: &Store, row: &BatchRow) -> Result<Record, Failure> {
    let (events, strays) = (store.batch_events(&row.id).await?, store.strays(&row.id).await?);
    Ok(view::whole(row, is_priced(store, row).await?, &events, &strays))
}

/// Shows the batch as it stands after an operator's answer.
async fn answered(store: &Store, id: &str, output: Output) -> Result<Exit, Failure> {
    let row = existing(store, id).await?;
    match output {
        Output::Table => {
            let rows = vec![view::row(&row, is_priced(store, &row).await?)];
            List { columns: view::COLUMNS, rows, next_after: None }.print(output, store.now())?;
        }
        Output::Json | Output::Jsonl => whole(store, &row).await?.print(output, store.now())?,
    }
    Ok(Exit::Done)
}

pub async fn unpriced(store: &Store, rows: &[BatchRow]) -> Result<HashSet<String>, Failure> {
    let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    Ok(store.unpriced_among(&ids).await?)
}

pub async fn is_priced(store: &Store, row: &BatchRow) -> Result<bool, Failure> {
    Ok(unpriced(store, std::slice::from_ref(row)).await?.is_empty())
}
