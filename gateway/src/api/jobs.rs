//! Jobs: drives over the runs of an `llm` task, made, watched and told what to do by anybody who may.

mod events;
mod wish;

pub use events::of_job;

use super::Api;
use super::read::{PAGE_MAX, Page};
use crate::http::cursor::{List, Position};
use crate::http::fields::{Charset, Fields};
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use crate::http::query::Query;
use crate::jobs::view;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::LlmTask;
use serde_json::{Value, json};
use std::time::Duration;
use storage::model::{JobEvent, JobId, Money};
use storage::store::{Dressed, JobAsked, JobRow, Made, NewJob, PoolCounts, WaitingAt};
use wish::Wish;

/// Jobs on a page.
const PAGE: i64 = 50;
/// Rounds that are told of one job.
const ROUNDS: u32 = 100;
/// Waiting runs that are looked at in one go.
const SLICE: i64 = 500;
/// How many runs a plan looks at, and for how long, before it says that there are more.
const PLANNED_MAX: i64 = 200_000;
const PLANNED_FOR: Duration = Duration::from_secs(20);

/// `POST /jobs`: makes one, or with `dry_run` tells what it would do.
pub async fn create(
    api: web::Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsWrite)?;
    let body = api.body(payload, &request).await?;
    let now = api.now();
    let mut fields = Fields::parse(&body)?;
    let wish = Wish::read(&mut fields, &api.runs.tasks, now);
    fields.finish()?;
    let task = llm_task(&api, &wish.draw.task)?;
    let env = caller.env.to_string();
    if wish.dry_run {
        return plan(&api, &env, wish, task).await;
    }
    unpriced_is_refused(&api, &env, &wish, &task).await?;
    let (id, draw) = (api.mint_job(now), wish.draw.clone());
    let job = NewJob {
        id: id.clone(),
        env: env.clone(),
        pool: id.to_string(),
        source: wish.source,
        label: wish.label.clone().unwrap_or_else(|| draw.task.clone()),
        scope: wish.scope(&task),
        ceilings: wish.ceilings,
        expected: 0,
    };
    let made = api.store(move |runs| async move { runs.store.create_task_job(&job, &draw, now).await }).await?;
    if let Made::BarredBy(owner) = made {
        return Err(barred(&wish, &owner));
    }
    let row = find(&api, &env, id.as_str()).await?;
    let location = (header::LOCATION, format!("/api/v1/jobs/{id}"));
    Ok(HttpResponse::Created().insert_header(location).json(shown(&api, row).await?))
}

fn llm_task(api: &Api, pool: &str) -> Result<LlmTask, Problem> {
    api.parts.llm.get(pool).cloned().ok_or_else(|| {
        let what = format!("no node here can carry out `{pool}`: its provider has no key in this configuration");
        Problem::new(Code::Conflict, what)
    })
}

/// Names who owns the pool, and both scopes where they differ (invariants 18 and 19).
fn barred(wish: &Wish, owner: &JobRow) -> Problem {
    let of_owner = owner.draw.as_ref().map_or(String::new(), storage::model::Draw::described);
    let (own, asked) = (owner.source, wish.source);
    let id = &owner.id;
    let what = if own == asked {
        format!(
            "the {own} job {id} is {} over this pool ({of_owner}); asked for was {}. Resume it, or cancel it first",
            owner.state,
            wish.draw.described()
        )
    } else {
        format!(
            "the {own} job {id} is {} over this pool, and {} wants to be alone; wait for its end, or cancel it first",
            owner.state,
            if wish.draw.policy == storage::model::Policy::Exclusive { "this one" } else { "it" }
        )
    };
    Problem::new(Code::Conflict, what)
}

/// A run without a known price would make a cap worth nothing.
async fn unpriced_is_refused(api: &Api, env: &str, wish: &Wish, task: &LlmTask) -> Result<(), Problem> {
    let is_capped = wish.ceilings.max_usd_nanos.is_some() || !api.parts.settings.now().day_caps(env).is_empty();
    if !is_capped {
        return Ok(());
    }
    let seen = survey(api, env, wish, task, SLICE).await?;
    match seen.unpriced {
        0 => Ok(()),
        runs => {
            let what =
                format!("{runs} waiting runs have no known price, so that no cap can be kept; see `prices.file`");
            Err(Problem::field("/limits/max_usd", "unpriced", what))
        }
    }
}

/// What waits for a job, as far as it was looked at.
#[derive(Default)]
struct Survey {
    runs: i64,
    bytes: i64,
    unpriced: i64,
    refused: i64,
    worst: Money,
    more: bool,
}

impl Survey {
    fn add(&mut self, dressed: Result<Dressed, String>) {
        self.runs += 1;
        match dressed {
            Err(_) => self.refused += 1,
            Ok(dressed) => {
                self.bytes += i64::try_from(dressed.body.len()).unwrap_or(0);
                match dressed.reserve_nanos {
                    Some(nanos) => self.worst += Money::from_nanos(nanos),
                    None => self.unpriced += 1,
                }
            }
        }
    }
}

/// Looks at what waits, and changes nothing.
async fn survey(api: &Api, env: &str, wish: &Wish, task: &LlmTask, most: i64) -> Result<Survey, Problem> {
    let mut seen = Survey::default();
    let (mut after, began) = (WaitingAt::default(), api.uptime.now());
    loop {
        let (name, draw, from) = (env.to_owned(), wish.draw.clone(), after);
        let page = api
            .store(move |runs| async move {
                runs.store.waiting_payloads(&name, &draw, &from, SLICE, runs.store.now()).await
            })
            .await?;
        for run in &page {
            seen.add((task.make_request)(&run.payload, &api.parts.prices.now()));
        }
        let whole = (page.len() as i64) < SLICE;
        seen.more = !whole && (seen.runs >= most || api.uptime.now().saturating_sub(began) > PLANNED_FOR);
        match page.into_iter().last() {
            Some(last) if !whole && !seen.more => after = last.at,
            _ => return Ok(seen),
        }
    }
}

/// What a job would do now. Nothing is written, and no provider is asked (invariant 21).
async fn plan(api: &Api, env: &str, wish: Wish, task: LlmTask) -> Result<HttpResponse, Problem> {
    let seen = survey(api, env, &wish, &task, PLANNED_MAX).await?;
    let good = seen.runs - seen.refused;
    let per_batch = i64::from(wish.ceilings.max_batch_requests);
    Ok(HttpResponse::Ok().json(json!({
        "dry_run": true,
        "pool": wish.draw.task,
        "source": wish.source.word(),
        "scope": view::scope(&wish.draw),
        "items": seen.runs,
        "more_than_looked_at": seen.more,
        "not_requests": seen.refused,
        "unpriced": seen.unpriced,
        "body_bytes": seen.bytes,
        "batches_planned": (good + per_batch - 1) / per_batch,
        "worst_usd": (seen.unpriced == 0).then(|| seen.worst.to_string()),
    })))
}

async fn find(api: &Api, env: &str, id: &str) -> Result<JobRow, Problem> {
    let (env, id) = (env.to_owned(), job_id(id)?);
    let found = api.store(move |runs| async move { runs.store.job_of_env(&env, &id).await }).await?;
    found.ok_or_else(|| Problem::not_found("job"))
}

/// An id that has the form of one; anything else is nobody's.
fn job_id(text: &str) -> Result<JobId, Problem> {
    match text.strip_prefix("job_") {
        Some(ulid) if super::read::is_ulid(ulid) => Ok(JobId::from_text(text)),
        _ => Err(Problem::not_found("job")),
    }
}

async fn shown(api: &Api, row: JobRow) -> Result<Value, Problem> {
    api.store(move |runs| async move {
        let store = &runs.store;
        let facts = view::Facts {
            counts: store.pool_counts(&row.pool).await?,
            tally: store.tally(&row.pool).await?,
            states: store.batch_states_of(&row.pool, &row.id).await?,
            rounds: store.rounds(&row.id, ROUNDS).await?,
        };
        Ok(view::whole(&row, &facts).json)
    })
    .await
}

/// `GET /jobs/{id}`
pub async fn one(api: web::Data<Api>, caller: Caller, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsRead)?;
    let row = find(&api, caller.env.as_str(), &id).await?;
    Ok(HttpResponse::Ok().json(shown(&api, row).await?))
}

/// `GET /jobs`: newest first.
pub async fn list(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsRead)?;
    let mut query = Query::parse(request.query_string())?;
    let limit = query.integer("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    let cursor = query.text("cursor", 1..=1_024, Charset::Visible);
    query.reject_unknown();
    query.finish()?;
    let env = caller.env.to_string();
    let page_of = List { name: "jobs", env: caller.env.as_str(), filter: "" };
    let before = cursor.map(|cursor| api.cursors.open(&cursor, &page_of)).transpose()?;
    let mut rows = api
        .store(move |runs| async move {
            let from = before.as_ref();
            let before = from.map(|at| (storage::model::Timestamp::from_millis(at.sort), at.id.as_str()));
            let jobs = runs.store.jobs_of_env(&env, before, limit + 1).await?;
            let pools: Vec<&str> = jobs.iter().map(|job| job.pool.as_str()).collect();
            let counts = runs.store.counts_of_pools(&pools).await?;
            let with_counts = |job: JobRow| {
                let counts = counts.get(&job.pool).copied().unwrap_or_default();
                (job, counts)
            };
            let rows: Vec<(JobRow, PoolCounts)> = jobs.into_iter().map(with_counts).collect();
            Ok(rows)
        })
        .await?;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(0));
    let position = |(last, _): &(JobRow, _)| Position { sort: last.created_at.millis(), id: last.id.to_string() };
    let next_cursor = rows.last().filter(|_| has_more).map(|last| api.cursors.seal(&position(last), &page_of));
    let data: Vec<Value> = rows.iter().map(|(job, counts)| view::object(job, counts)).collect();
    Ok(HttpResponse::Ok().json(Page { data, next_cursor, has_more }))
}

/// `POST /jobs/{id}/suspend`: no batch is opened any more; what is in flight is collected.
pub async fn suspend(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsWrite)?;
    api.no_fields(payload, &request).await?;
    ask(&api, &caller, &id, JobEvent::Suspended).await
}

/// `POST /jobs/{id}/resume`: the same job goes on with its next round.
pub async fn resume(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsWrite)?;
    api.no_fields(payload, &request).await?;
    ask(&api, &caller, &id, JobEvent::Resumed).await
}

/// `POST /jobs/{id}/cancel`: what is in flight is paid for and still collected, the rest waits for another job.
pub async fn cancel(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsWrite)?;
    api.no_fields(payload, &request).await?;
    ask(&api, &caller, &id, JobEvent::Cancelled).await
}

async fn ask(api: &Api, caller: &Caller, id: &str, event: JobEvent) -> Result<HttpResponse, Problem> {
    let (env, id) = (caller.env.to_string(), job_id(id)?);
    let why = match event {
        JobEvent::Suspended => Some("suspended on request"),
        JobEvent::Cancelled => Some("cancelled on request"),
        _ => None,
    };
    let asked =
        api.store(move |runs| async move { runs.store.ask_job(&env, &id, event, why, runs.store.now()).await }).await?;
    match asked {
        JobAsked::Is(row) => Ok(HttpResponse::Ok().json(shown(api, *row).await?)),
        JobAsked::NotFound => Err(Problem::not_found("job")),
        JobAsked::Cannot(state) => {
            let asked = [JobEvent::Suspended, JobEvent::Resumed, JobEvent::Cancelled];
            let allowed: Vec<&str> =
                asked.iter().filter(|event| state.after(**event).is_some()).map(|event| event.word()).collect();
            let what = match allowed.as_slice() {
                [] => format!("the job is {state}, and stays so"),
                allowed => format!("the job is {state}; from there it can be {}", allowed.join(", ")),
            };
            Err(Problem::new(Code::Conflict, what))
        }
    }
}
