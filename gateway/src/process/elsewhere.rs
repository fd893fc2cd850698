//! `tidegate repair import-batches`: provider batches that are known by their ids alone, made by another program or for
//! a store that is lost. Their results are taken for the lines of a file, so that those are not bought again.

use super::engine::Engine;
use super::identity::{Meaning, Wish, meaning};
use super::{ENV, job_row, on_system, prices};
use crate::cli::{Common, ImportBatchesArgs};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::input::{Limits, Scan, requests, scan};
use crate::ops::Ops;
use crate::output::{Cell, Column, List, Room, Row};
use crate::{providers, session};
use actors::provider::result_line::{Form, Outcome, ResultLine};
use actors::provider::{End, Polled, Provider};
use serde_json::json;
use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use storage::model::{BatchId, Ceilings, JobState, LiveRules, RunId, Source};
use storage::store::{Import, JobRow, NewJob, Store};

/// Waiting runs looked at in one go.
const PAGE: i64 = 5_000;
const ID_CHARS: usize = 256;
/// A list of ids is no longer than this.
const IDS_BYTES: u64 = 4 << 20;

const COLUMNS: &[Column] = &[
    Column::new("PROVIDER BATCH", Room::Whole),
    Column::new("IS", Room::Whole),
    Column::new("REQUESTS", Room::Whole),
    Column::new("TAKEN", Room::Whole),
    Column::new("BATCH", Room::Whole),
];

/// What became of one id.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Imported(String),
    /// It would be, were this not a dry run.
    Importable,
    /// By this batch of the store.
    Known(String),
    UnderWay,
    NotThere,
    /// None of its results is for a line that still waits.
    NothingFor,
}

struct Told {
    id: String,
    fate: Fate,
    /// Requests that it has an answer for, or will have.
    requests: usize,
    /// Those of them that are taken for lines of the file.
    taken: usize,
}

impl Told {
    fn new(id: &str, fate: Fate) -> Told {
        Told { id: id.to_owned(), fate, requests: 0, taken: 0 }
    }

    fn is_good(&self) -> bool {
        matches!(self.fate, Fate::Imported(_) | Fate::Importable | Fate::Known(_))
    }

    fn row(&self) -> Row {
        let (word, batch) = match &self.fate {
            Fate::Imported(batch) => ("imported", Some(batch.as_str())),
            Fate::Importable => ("importable", None),
            Fate::Known(batch) => ("known", Some(batch.as_str())),
            Fate::UnderWay => ("under way", None),
            Fate::NotThere => ("not there", None),
            Fate::NothingFor => ("nothing for the file", None),
        };
        let number = |count: usize| Cell::text(count.to_string());
        let cells =
            vec![Cell::text(&self.id), Cell::text(word), number(self.requests), number(self.taken), Cell::maybe(batch)];
        let json = json!({
            "provider_batch_id": self.id, "fate": word.replace(' ', "_"), "requests": self.requests,
            "taken": self.taken, "batch_id": batch,
        });
        Row { cells, json }
    }
}

pub fn run(args: &ImportBatchesArgs, dry_run: bool, common: &Common, config: &Config) -> Result<Exit, Failure> {
    on_system(common, config, |runtime| import(args, dry_run, common, config, runtime))
}

async fn import(
    args: &ImportBatchesArgs,
    dry_run: bool,
    common: &Common,
    config: &Config,
    runtime: Arc<tokio::runtime::Runtime>,
) -> Result<Exit, Failure> {
    let ids = ids_of(&args.ids)?;
    let prices = prices(config)?;
    let scanned = scan(&args.requests, &Limits::default()).map_err(|error| Failure::usage(error.to_string()))?;
    let choice = providers::choose(args.provider.as_deref(), scanned.form, config)?;
    if let Some(note) = &choice.note {
        say!("{note}");
    }
    let chosen = providers::connect(&choice, common, config)?;
    let client = chosen.client.clone();
    let (mut told, mut found) = (Vec::new(), Vec::new());
    for id in &ids {
        match client.poll(id).await.map_err(unreachable)? {
            Polled::Running { input_ref: Some(input), status } => {
                found.push(Found { id: id.clone(), status, names: Names::Asked(input) });
            }
            Polled::Running { input_ref: None, .. } => told.push(Told::new(id, Fate::UnderWay)),
            Polled::Gone => told.push(Told::new(id, Fate::NotThere)),
            Polled::Ended { end, status, output_ref, error_ref } => {
                let has_results = matches!(end, End::Completed { .. } | End::Expired | End::Cancelled);
                let references = [output_ref, error_ref].into_iter().flatten().filter(|_| has_results).collect();
                found.push(Found { id: id.clone(), status, names: Names::Answered(references) });
            }
        }
    }
    if dry_run {
        for batch in &found {
            told.push(batch.tried(&*client, &args.requests).await?);
        }
    } else if !found.is_empty() {
        let store = session::open_store(common, config).await?;
        let wish = wish(args, &scanned, &chosen);
        let engine = Engine::new(store, runtime, prices, chosen, config, Ops::start(None)?);
        let done = bind(args, &scanned, &wish, &engine, &*client, &found).await;
        engine.close().await;
        told.extend(done?);
    }
    told.sort_by_key(|told| ids.iter().position(|id| *id == told.id));
    let good = told.iter().all(Told::is_good);
    let now = storage::model::Clock::now(&storage::model::SystemClock);
    let rows = told.iter().map(Told::row).collect();
    List { columns: COLUMNS, rows, next_after: None }.print(common.output, now)?;
    if told.iter().any(|told| told.fate == Fate::UnderWay) {
        say!("what is under way shows no requests yet: import it again when it has ended, before its lines are bought");
    }
    Ok(if good { Exit::Done } else { Exit::ItemsFailed })
}

/// A batch whose requests can be told.
struct Found {
    id: String,
    status: String,
    names: Names,
}

/// Where the custom ids of a batch stand.
enum Names {
    /// In its results, where it has ended. What was not carried out is bought by whoever needs it, as if it had never
    /// been sent.
    Answered(Vec<String>),
    /// In its input, while it is under way.
    Asked(String),
}

/// A line of an input file.
#[derive(serde::Deserialize)]
struct Asked {
    custom_id: String,
}

impl Found {
    async fn names(&self, client: &dyn Provider) -> Result<HashSet<String>, Failure> {
        let form = Form::of(client.protocol());
        match &self.names {
            Names::Asked(input) => {
                names_in(client, input, |line| Some(serde_json::from_str::<Asked>(line).ok()?.custom_id)).await
            }
            Names::Answered(references) => {
                let mut names = HashSet::new();
                for reference in references {
                    names.extend(names_in(client, reference, |line| carried_out(form, line)).await?);
                }
                Ok(names)
            }
        }
    }

    async fn tried(&self, client: &dyn Provider, requests_file: &Path) -> Result<Told, Failure> {
        let usage = |error: crate::input::InputError| Failure::usage(error.to_string());
        let names = self.names(client).await?;
        let mut lines = requests(requests_file, &Limits::default()).map_err(usage)?;
        let mut taken = 0;
        while let Some(request) = lines.next_request().map_err(usage)? {
            taken += usize::from(names.contains(request.custom_id.as_ref()));
        }
        let fate = if taken > 0 { Fate::Importable } else { Fate::NothingFor };
        Ok(Told { id: self.id.clone(), fate, requests: names.len(), taken })
    }
}

async fn names_in(
    client: &dyn Provider,
    reference: &str,
    name_of: impl Fn(&str) -> Option<String>,
) -> Result<HashSet<String>, Failure> {
    let mut names = HashSet::new();
    let mut lines = client.results(reference).await.map_err(unreachable)?;
    while let Some(line) = lines.next_line().await.map_err(unreachable)? {
        names.extend(name_of(&String::from_utf8_lossy(&line)));
    }
    Ok(names)
}

fn carried_out(form: Form, line: &str) -> Option<String> {
    let parsed = ResultLine::parse(form, line).ok()?;
    let was = !matches!(parsed.outcome, Outcome::Expired | Outcome::Canceled) && !parsed.is_out_of_money();
    was.then(|| parsed.custom_id.into_owned())
}

async fn bind(
    args: &ImportBatchesArgs,
    scanned: &Scan,
    wish: &Wish,
    engine: &Engine,
    client: &dyn Provider,
    found: &[Found],
) -> Result<Vec<Told>, Failure> {
    let store = engine.store();
    let job = job_of(args, scanned, wish, engine).await?;
    let mut told = Vec::with_capacity(found.len());
    for batch in found {
        let owners = store.owners_of_provider_id(&wish.account, &batch.id).await?;
        if let Some(owner) = owners.into_iter().next() {
            told.push(Told::new(&batch.id, Fate::Known(owner.batch_id)));
            continue;
        }
        let names = batch.names(client).await?;
        let runs = waiting_among(store, &job.pool, &names).await?;
        let mut fate = Fate::NothingFor;
        if !runs.is_empty() {
            let id = bind_one(engine, &job, batch, &runs).await?;
            say!("{} is batch {id}: it is for {} lines of the file", batch.id, runs.len());
            fate = Fate::Imported(id.to_string());
        }
        told.push(Told { id: batch.id.clone(), fate, requests: names.len(), taken: runs.len() });
    }
    if told.iter().any(|told| matches!(told.fate, Fate::Imported(_))) {
        say!("`tidegate process {}` collects them, and sends what is left", args.requests.display());
    }
    Ok(told)
}

async fn bind_one(engine: &Engine, job: &JobRow, batch: &Found, runs: &[RunId]) -> Result<BatchId, Failure> {
    let (id, wire_key) = engine.mint_batch();
    let import = Import {
        job: &job.id,
        job_epoch: job.epoch,
        batch: &id,
        wire_key: &wire_key,
        provider_batch_id: &batch.id,
        status: &batch.status,
        price_version: &engine.price_version(),
        runs,
        now: engine.store().now(),
    };
    engine.store().import_batch(&import).await?;
    Ok(id)
}

/// The job of the file, with all its lines, held by this process; a new one waits to be started.
async fn job_of(args: &ImportBatchesArgs, scanned: &Scan, wish: &Wish, engine: &Engine) -> Result<JobRow, Failure> {
    let store = engine.store();
    let mut job = match meaning(wish, &store.jobs_of_input(&wish.input_sha256).await?)? {
        Meaning::Rewrite(job) => {
            let what = format!("the job {} of this file is {}: none of its lines waits", job.id, job.state);
            return Err(Failure::new(Exit::Conflict, what));
        }
        Meaning::Continue(job) if job.state == JobState::Finishing => {
            let what = format!("the job {} of this file is about to end: none of its lines waits", job.id);
            return Err(Failure::new(Exit::Conflict, what));
        }
        Meaning::Continue(job) => {
            engine.take(&job).await?;
            job_row(store, &job.id).await?
        }
        Meaning::Create { scope, pool, .. } => {
            let label = args.requests.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let expected = i64::try_from(scanned.count).unwrap_or(i64::MAX);
            let (id, env) = (engine.mint_job(), ENV.to_owned());
            let (source, ceilings) = (wish.source, wish.ceilings);
            let new = NewJob { id: id.clone(), env, pool, source, label, scope, ceilings, expected };
            store.create_job(&new, store.now()).await?;
            job_row(store, &id).await?
        }
    };
    if job.state == JobState::Created {
        engine.import(&args.requests, &job, &scanned.kinds).await?;
        job = job_row(store, &job.id).await?;
    }
    Ok(job)
}

async fn waiting_among(store: &Store, pool: &str, names: &HashSet<String>) -> Result<Vec<RunId>, Failure> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = store.queued_names(pool, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.seq;
        let ours = page.into_iter().filter(|run| names.contains(&run.custom_id));
        found.extend(ours.map(|run| RunId::from_text(run.id)));
    }
}

/// What a later `process` of the file asks for without options that change its meaning.
fn wish(args: &ImportBatchesArgs, scanned: &Scan, chosen: &providers::Chosen) -> Wish {
    Wish {
        input_sha256: scanned.sha256.to_string(),
        provider: chosen.name.clone(),
        account: chosen.account.clone(),
        max_attempts: args.max_attempts,
        source: Source::Backfill,
        ceilings: Ceilings {
            max_rounds: 30,
            max_wallclock_ms: None,
            max_usd_nanos: None,
            max_batch_requests: 50_000,
            live: LiveRules::default(),
        },
        restart: false,
    }
}

/// One id a line; blank lines and those that begin with `#` say nothing, and one that is named twice counts once.
fn ids_of(path: &Path) -> Result<Vec<String>, Failure> {
    let cannot = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    let read = file.take(IDS_BYTES + 1).read_to_string(&mut text).map_err(cannot)?;
    if read as u64 > IDS_BYTES {
        let what = format!("{} is larger than {IDS_BYTES} bytes: that is no list of batches", path.display());
        return Err(Failure::usage(what));
    }
    let mut ids: Vec<String> = Vec::new();
    for (line, id) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if id.is_empty() || id.starts_with('#') {
            continue;
        }
        let fits = id.len() <= ID_CHARS && id.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        if !fits {
            let what = format!("{}, line {line}: that is not the id of a batch", path.display());
            return Err(Failure::usage(what).hint("one id a line, as the provider shows it"));
        }
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    if ids.is_empty() {
        return Err(Failure::usage(format!("{}: there is no id in it", path.display())));
    }
    Ok(ids)
}

fn unreachable(error: actors::provider::CallError) -> Failure {
    Failure::new(Exit::Unreachable, error).hint("nothing was changed for this batch; run the command again")
}
