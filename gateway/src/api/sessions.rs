//! Sessions: opened, walked phase by phase, completed and closed by anybody who may make runs.

mod view;

use super::Api;
use super::new_run::METADATA_MAX;
use super::read::{PAGE_MAX, Page, is_ulid, run_id};
use crate::http::cursor::{List, Position};
use crate::http::fields::{Charset, Fields};
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use crate::http::query::Query;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::sweeper::sessions::settle_children;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use storage::model::{Closing, Refusal, SessionId, SessionState, Step};
use storage::store::{NewSession, SessionChange, SessionFilter, SessionOpened, SessionRow};
use view::View;

/// Sessions on a page.
const PAGE: i64 = 50;
/// Events that are told of one session: its last ones.
const EVENTS: i64 = 200;
/// What a completed round may leave behind.
const RESULT_MAX: usize = 64 * 1024;

/// `POST /sessions`: opens one, or with `session_id` one that was closed, as its next round.
pub async fn open(
    api: web::Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let kind = fields.text("type", 1..=64, Charset::Name);
    if !kind.is_empty() && !api.sessions.contains_key(&kind) {
        let known: Vec<&str> = api.sessions.keys().map(String::as_str).take(20).collect();
        let what = format!("there is no such type of session; known are: {}", known.join(", "));
        fields.refuse_field("type", "unknown_type", what);
    }
    let metadata = fields.object("metadata", METADATA_MAX).map_or("{}", RawValue::get).to_owned();
    let closed = fields.optional_text("session_id", 1..=64, Charset::Name);
    let driver = fields.optional_text("driver_run_id", 1..=64, Charset::Name);
    if closed.is_some() && driver.is_some() {
        fields.refuse_field("driver_run_id", "conflict", "a session that is opened again keeps its driver");
    }
    fields.reject_unknown();
    fields.finish()?;
    if let Some(id) = closed {
        return reopen(&api, &caller, &id, kind).await;
    }
    let driver = driver.map(|id| run_id(&id)).transpose()?;
    let rules = api.sessions.get(&kind).ok_or_else(|| Problem::internal("a type of session has gone"))?.clone();
    let (now, env) = (api.now(), caller.env.to_string());
    let id = api.mint_session(now);
    let new = NewSession { id: id.clone(), env, kind, rules, metadata, driver };
    let opened = api.store(move |runs| async move { runs.store.open_session(&new, now).await }).await?;
    let (id, is_new) = match opened {
        SessionOpened::New => (id, true),
        SessionOpened::Driven(id) => (id, false),
        SessionOpened::NoSuchDriver => {
            let what = "must be a run of this env that has not ended and belongs to no other session";
            return Err(Problem::field("/driver_run_id", "unknown_run", what));
        }
    };
    let row = find(&api, caller.env.as_str(), id.as_str()).await?;
    let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    let location = (header::LOCATION, format!("/api/v1/sessions/{id}"));
    Ok(answer.insert_header(location).json(View::of(&row)))
}

async fn reopen(api: &Api, caller: &Caller, id: &str, kind: String) -> Result<HttpResponse, Problem> {
    change(api, caller, id, "{}".to_owned(), move |row| {
        if row.kind != kind {
            return Err(Refusal::OtherType { own: row.kind.clone(), asked: kind.clone() });
        }
        row.walk.reopen(&row.rules.graph)
    })
    .await
}

fn session_id(text: &str) -> Result<SessionId, Problem> {
    match text.strip_prefix("ses_") {
        Some(ulid) if is_ulid(ulid) => Ok(SessionId::from_text(text)),
        _ => Err(Problem::not_found("session")),
    }
}

async fn find(api: &Api, env: &str, id: &str) -> Result<SessionRow, Problem> {
    let (env, id) = (env.to_owned(), session_id(id)?);
    let found = api.store(move |runs| async move { runs.store.session(&env, &id).await }).await?;
    found.ok_or_else(|| Problem::not_found("session"))
}

/// `GET /sessions/{id}`: how it stands, and what has happened to it.
pub async fn one(api: web::Data<Api>, caller: Caller, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let (env, id) = (caller.env.to_string(), session_id(&id)?);
    let found = api
        .store(move |runs| async move {
            let Some(row) = runs.store.session(&env, &id).await? else { return Ok(None) };
            let log = runs.store.session_log(&id, row.seq - EVENTS, EVENTS).await?;
            Ok(Some((row, log)))
        })
        .await?;
    let (row, log) = found.ok_or_else(|| Problem::not_found("session"))?;
    let mut whole = json!(View::of(&row));
    whole["events"] = log.iter().map(view::event).collect::<Vec<Value>>().into();
    Ok(HttpResponse::Ok().json(whole))
}

/// `GET /sessions`: newest first.
pub async fn list(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let mut query = Query::parse(request.query_string())?;
    let limit = query.integer("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    let words = [SessionState::Active.word(), SessionState::Closed.word()];
    let filter = SessionFilter {
        state: query.one_of("status", &words).and_then(SessionState::from_word),
        kind: query.text("type", 1..=64, Charset::Name),
    };
    let cursor = query.text("cursor", 1..=1_024, Charset::Visible);
    query.reject_unknown();
    query.finish()?;
    let (env, meaning) = (caller.env.to_string(), format!("{filter:?}"));
    let page_of = List { name: "sessions", env: caller.env.as_str(), filter: &meaning };
    let before = cursor.map(|cursor| api.cursors.open(&cursor, &page_of)).transpose()?.map(|position| position.id);
    let mut rows = api
        .store(move |runs| async move { runs.store.list_sessions(&env, &filter, before.as_deref(), limit + 1).await })
        .await?;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(0));
    let position = |last: &SessionRow| Position { sort: last.opened_at.millis(), id: last.id.to_string() };
    let next_cursor = rows.last().filter(|_| has_more).map(|last| api.cursors.seal(&position(last), &page_of));
    let data: Vec<View<'_>> = rows.iter().map(View::of).collect();
    Ok(HttpResponse::Ok().json(Page { data, next_cursor, has_more }))
}

/// The round that the caller means, if it says so: what comes from an earlier one changes nothing (invariant 4).
fn of_round(row: &SessionRow, meant: Option<i64>) -> Result<(), Refusal> {
    match meant {
        Some(meant) if meant != row.walk.round => Err(Refusal::OtherRound { own: row.walk.round, meant }),
        _ => Ok(()),
    }
}

/// `POST /sessions/{id}/transition`: to another phase, along the graph.
pub async fn transition(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let phase = fields.text("phase", 1..=64, Charset::Name);
    let round = fields.integer("round", 1..=i64::MAX);
    fields.reject_unknown();
    fields.finish()?;
    change(&api, &caller, &id, "{}".to_owned(), move |row| {
        of_round(row, round)?;
        row.walk.to(&row.rules.graph, &phase)
    })
    .await
}

/// `POST /sessions/{id}/complete-round`: once, from a phase before the last; what it leaves behind is kept with it.
pub async fn complete_round(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let body = api.optional_body(payload, &request).await?;
    let mut fields = Fields::parse_or_empty(&body)?;
    let result = fields.object("result", RESULT_MAX).map_or("{}", RawValue::get).to_owned();
    let round = fields.integer("round", 1..=i64::MAX);
    fields.reject_unknown();
    fields.finish()?;
    change(&api, &caller, &id, result, move |row| {
        of_round(row, round)?;
        row.walk.complete(&row.rules.graph)
    })
    .await
}

/// `POST /sessions/{id}/close`: what is left of it is cancelled, but its driver. Closed again, it stays as it was.
pub async fn close(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let body = api.optional_body(payload, &request).await?;
    let mut fields = Fields::parse_or_empty(&body)?;
    let words = [Closing::Complete.word(), Closing::Aborted.word()];
    let closing = fields.one_of("outcome", &words).and_then(Closing::from_word).unwrap_or(Closing::Complete);
    let round = fields.integer("round", 1..=i64::MAX);
    fields.reject_unknown();
    fields.finish()?;
    let data = json!({ "closing": closing.word(), "by": "request" }).to_string();
    change(&api, &caller, &id, data, move |row| {
        of_round(row, round)?;
        row.walk.close(closing)
    })
    .await
}

/// Changes a session as `decide` says, and answers with how it stands then.
async fn change(
    api: &Api,
    caller: &Caller,
    id: &str,
    data: String,
    decide: impl Fn(&SessionRow) -> Result<Step, Refusal> + Send + Sync + 'static,
) -> Result<HttpResponse, Problem> {
    let (env, id, now) = (caller.env.to_string(), session_id(id)?, api.now());
    let changed = api
        .store(move |runs| async move {
            let changed = runs.store.change_session(&env, &id, &data, now, decide).await?;
            if let SessionChange::Is { row, changed: true } = &changed
                && let Some(closing) = row.walk.closing
            {
                metrics::counter!(actors::metrics::SESSIONS_CLOSED, "outcome" => closing.word()).increment(1);
                settle_children(&runs, row).await?;
            }
            Ok(changed)
        })
        .await?;
    match changed {
        SessionChange::Is { row, .. } => Ok(HttpResponse::Ok().json(View::of(&row))),
        SessionChange::Refused { row, why } => Err(refused(&row, &why)),
        SessionChange::NotFound => Err(Problem::not_found("session")),
    }
}

/// Says why, and where the session may go from where it is.
fn refused(row: &SessionRow, why: &Refusal) -> Problem {
    let allowed = row.walk.allowed(&row.rules.graph);
    let id = &row.id;
    let what = match why {
        Refusal::Closed(closing) => {
            format!("{id} is closed as {closing}; `POST /sessions` with its `session_id` opens its next round")
        }
        Refusal::NoSuchPhase { phase, phases } => {
            format!("`{phase}` is no phase of a {} session; there are {}", row.kind, phases.join(", "))
        }
        Refusal::NoEdge { from, to } => {
            format!("{id} cannot go from {from} to {to}; from there it may go to {}", allowed.join(", "))
        }
        Refusal::NotThere { from, before } => {
            format!("{id} is at {from}; a round is completed from {}", before.join(" or "))
        }
        Refusal::Incomplete { phase } => {
            format!("{id} is at {phase}: complete its round first, or close it with the outcome `aborted`")
        }
        Refusal::Open { phase } => format!("{id} is open, at {phase}; opened again it would lose that"),
        Refusal::OtherType { own, asked } => format!("{id} is a {own} session and cannot go on as {asked}"),
        Refusal::OtherRound { own, meant } => format!("{id} is in round {own}, not in round {meant} any more"),
    };
    Problem::new(Code::Conflict, what).allowing(allowed)
}

/// Refuses runs for sessions that are not there, or closed. `None` for each that may come in, in the order given.
pub async fn check(api: &Api, env: &str, sessions: Vec<Option<String>>) -> Result<Vec<Option<Problem>>, Problem> {
    let mut asked: Vec<String> = sessions.iter().flatten().cloned().collect();
    if asked.is_empty() {
        return Ok(sessions.iter().map(|_| None).collect());
    }
    asked.sort_unstable();
    asked.dedup();
    let env = env.to_owned();
    let found = api
        .store(move |runs| async move {
            let mut found = std::collections::HashMap::new();
            for id in asked {
                let row = runs.store.session(&env, &SessionId::from_text(id.as_str())).await?;
                found.insert(id, row);
            }
            Ok(found)
        })
        .await?;
    let verdict = |id: &Option<String>| match found.get(id.as_ref()?)? {
        None => Some(Problem::field("/session_id", "unknown_session", "there is no such session in this env")),
        Some(row) => row.walk.closing.map(|closing| refused(row, &Refusal::Closed(closing))),
    };
    Ok(sessions.iter().map(verdict).collect())
}
