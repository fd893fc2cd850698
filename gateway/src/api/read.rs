//! Runs are read: one by its id, or a page of those that match.

use super::Api;
use super::view::{AttemptView, RunView, etag_with};
use crate::http::cursor::{List, Position};
use crate::http::fields::Charset;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use crate::http::query::Query;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use storage::model::{RunId, RunState, Source};
use storage::store::{RunFilter, RunRecord};

/// Runs on a page.
const PAGE: i64 = 50;
pub const PAGE_MAX: i64 = 200;

/// The run of an env that a path names; another env's run is not there.
pub async fn find(api: &Api, env: &str, id: &str) -> Result<RunRecord, Problem> {
    let (env, id) = (env.to_owned(), run_id(id)?);
    let found = api.store(move |runs| async move { runs.store.run_record(&env, &id).await }).await?;
    found.ok_or_else(|| Problem::not_found("run"))
}

/// An id that has the form of one; anything else is nobody's.
pub fn run_id(text: &str) -> Result<RunId, Problem> {
    match text.strip_prefix("run_") {
        Some(ulid) if is_ulid(ulid) => Ok(RunId::from_text(text)),
        _ => Err(Problem::not_found("run")),
    }
}

/// What stands behind the prefix of every id.
pub fn is_ulid(text: &str) -> bool {
    text.len() == 26
        && text.bytes().all(|byte| byte.is_ascii_digit() || (byte.is_ascii_lowercase() && !b"ilou".contains(&byte)))
}

/// `GET /runs/{id}`
pub async fn one(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let record = find(&api, caller.env.as_str(), &id).await?;
    let id = record.id.clone();
    let attempts = api.store(move |runs| async move { runs.store.past_attempts(&id).await }).await?;
    let tag = etag_with(&record, &attempts);
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, tag)).finish());
    }
    let view = WithAttempts { run: RunView::of(&record), attempts: attempts.iter().map(AttemptView::of).collect() };
    Ok(HttpResponse::Ok().insert_header((header::ETAG, tag)).json(view))
}

/// A run with the tries that did not end it, and all those in batches.
#[derive(serde::Serialize)]
struct WithAttempts<'a> {
    #[serde(flatten)]
    run: RunView<'a>,
    attempts: Vec<AttemptView<'a>>,
}

/// `GET /runs`
pub async fn list(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let mut query = Query::parse(request.query_string())?;
    let limit = query.integer("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    let words: Vec<&'static str> = RunState::ALL.iter().map(|state| state.word()).collect();
    let filter = RunFilter {
        state: query.one_of("status", &words).and_then(RunState::from_word),
        task: query.text("task", 1..=128, Charset::Name),
        queue: query.text("queue", 1..=128, Charset::Name),
        tag: query.text("tag", 1..=128, Charset::Line),
        source: query.one_of("source", &[Source::Backfill.word(), Source::Daemon.word()]).map(str::to_owned),
        session: query.text("session_id", 1..=64, Charset::Name),
        accepted_after: query.timestamp("accepted_after"),
        accepted_before: query.timestamp("accepted_before"),
    };
    let cursor = query.text("cursor", 1..=1_024, Charset::Visible);
    query.reject_unknown();
    query.finish()?;
    let env = caller.env.to_string();
    let meaning = format!("{filter:?}");
    let page_of = List { name: "runs", env: caller.env.as_str(), filter: &meaning };
    let before = cursor.map(|cursor| api.cursors.open(&cursor, &page_of)).transpose()?.map(|position| position.id);
    let mut records = api
        .store(move |runs| async move { runs.store.list_runs(&env, &filter, before.as_deref(), limit + 1).await })
        .await?;
    let has_more = records.len() as i64 > limit;
    records.truncate(usize::try_from(limit).unwrap_or(0));
    let next = records
        .last()
        .filter(|_| has_more)
        .map(|last| api.cursors.seal(&Position { sort: last.accepted_at.millis(), id: last.id.to_string() }, &page_of));
    let data: Vec<RunView<'_>> = records.iter().map(|record| RunView::of(record).without_payload()).collect();
    Ok(HttpResponse::Ok().json(Page { data, next_cursor: next, has_more }))
}

/// A page of anything.
#[derive(serde::Serialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    pub next_cursor: Option<String>,
    pub has_more: bool,
}

impl<T> Page<T> {
    /// All there is, on one page.
    pub fn whole(data: Vec<T>) -> Page<T> {
        Page { data, next_cursor: None, has_more: false }
    }
}
