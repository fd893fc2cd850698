//! Runs are changed: edited, cancelled, and run again.

use super::new_run::{METADATA_MAX, YEAR};
use super::read::{find, run_id};
use super::trace::RequestTrace;
use super::view::{RunView, etag, version_of};
use super::{Api, create};
use crate::http::fields::Fields;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::executor::Stop;
use actors::runs::{RunParts, Settled, TaskKind};
use serde_json::value::RawValue;
use storage::model::{RunState, Timestamp};
use storage::store::{Cancelled, Idempotency, NewRecord, Patch, Patched, RunRecord};

/// `PATCH /runs/{id}`: tags, metadata, priority, not_before; a delayed run without one may start at once.
pub async fn patch(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let body = api.body(payload, &request).await?;
    let id = run_id(&id)?;
    let mut fields = Fields::parse(&body)?;
    let now = api.now();
    let at_once = fields.is_null("not_before");
    let not_before = if at_once { Some(now) } else { fields.timestamp("not_before") };
    match not_before {
        _ if at_once => {}
        Some(time) if time <= now => fields.refuse_field("not_before", "range", "must be in the future"),
        Some(time) if time > now + YEAR => {
            fields.refuse_field("not_before", "range", "must be within a year from now");
        }
        Some(time) => {
            let record = find(&api, caller.env.as_str(), id.as_str()).await?;
            let waits = record.not_before.is_some_and(|not_before| not_before > now);
            // Which does not change any more, so that nothing can come in between.
            if waits && record.expires_at.is_some_and(|expires_at| expires_at <= time) {
                fields.refuse_field("not_before", "range", "it would expire before it may start");
            }
        }
        None => {}
    }
    let patch = Patch {
        tags: fields.tags("tags", 10, 128).map(|tags| serde_json::Value::from(tags).to_string()),
        metadata: fields.object("metadata", METADATA_MAX).map(|raw: &RawValue| raw.get().to_owned()),
        priority: fields.integer("priority", -86_400..=86_400),
        not_before,
    };
    fields.reject_unknown();
    fields.finish()?;
    let wanted = request.headers().get(header::IF_MATCH).map(|value| value.to_str().unwrap_or_default().to_owned());
    let version = match wanted.as_deref() {
        None | Some("*") => None,
        Some(tag) => Some(version_of(tag).ok_or_else(|| {
            Problem::new(Code::PreconditionFailed, "If-Match must be an ETag that this run was read with")
        })?),
    };
    let (env, run) = (caller.env.to_string(), id.clone());
    let patched = api.store(move |runs| async move { runs.store.patch_run(&env, &run, version, &patch).await }).await?;
    match patched {
        Patched::Done { .. } => {
            if at_once {
                api.runs.gates.look_anew();
                api.runs.doorbell.notify_one();
            }
            let record = find(&api, caller.env.as_str(), id.as_str()).await?;
            Ok(HttpResponse::Ok().insert_header((header::ETAG, etag(&record))).json(RunView::of(&record)))
        }
        Patched::VersionIs(now) => {
            Err(Problem::new(Code::PreconditionFailed, format!("the run has version {now} by now; read it again")))
        }
        Patched::NotDelayed => {
            Err(Problem::new(Code::Conflict, "only a run that waits for its time can be moved to another time"))
        }
        Patched::NotFound => Err(Problem::not_found("run")),
    }
}

/// `POST /runs/{id}/cancel`: 200 when it is cancelled or was over, 202 when its worker has been told.
pub async fn cancel(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    api.no_fields(payload, &request).await?;
    let id = run_id(&id)?;
    let (env, run) = (caller.env.to_string(), id.clone());
    // Told where it is done: whoever asked may have gone meanwhile.
    let cancel = move |runs: RunParts| async move {
        let cancelled = runs.store.cancel_run(&env, &run, runs.store.now()).await;
        if matches!(cancelled, Ok(Cancelled::AtOnce)) {
            runs.settler.announce(Settled { run, env, state: RunState::Cancelled });
        }
        cancelled
    };
    let cancelled = api.store(cancel).await?;
    let asked = match cancelled {
        Cancelled::NotFound => return Err(Problem::not_found("run")),
        Cancelled::Ended(_) | Cancelled::AtOnce => false,
        Cancelled::Asked { .. } => {
            if !api.runs.stop_run(&id, Stop::Cancelled) {
                api.runs.neighbours.cancelled(&id);
            }
            true
        }
    };
    let record = find(&api, caller.env.as_str(), id.as_str()).await?;
    let mut answer = if asked { HttpResponse::Accepted() } else { HttpResponse::Ok() };
    Ok(answer.json(RunView::of(&record)))
}

/// `POST /runs/{id}/replay`: a new run of the same payload, answered like any other that is made.
pub async fn replay(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let trace = RequestTrace::begin(&api, &request, "POST /runs/{id}/replay");
    let answer = make_again(&api, &caller, &id, &request, payload, &trace).await;
    trace.end(answer)
}

async fn make_again(
    api: &Api,
    caller: &Caller,
    id: &str,
    request: &HttpRequest,
    payload: web::Payload,
    trace: &RequestTrace,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    api.no_fields(payload, request).await?;
    let key = create::header_key(request)?;
    let env = caller.env.as_str();
    let old = find(api, env, id).await?;
    let now = api.now();
    let asked = create::Asked { key: key.as_deref(), session_id: old.session_id.as_deref() };
    if let Some(refusal) = create::for_session(api, env, &[asked]).await?.pop().flatten() {
        return Err(refusal);
    }
    let _admitted = create::admit(api, env, &[key.as_deref()], now).await?;
    // No digest of a wish reads like this, so that a key is never that of a replay and of a wish.
    let fingerprint = format!("replay of {}", old.id);
    let mut record = NewRecord { trace: trace.of_runs(), ..again(api, old, now)? };
    if let Some(key) = key {
        let expires_at = now + api.idempotency;
        create::keep_answer(&mut record, Idempotency { key, fingerprint, answer: String::new(), expires_at });
    }
    create::take_one(api, record).await
}

/// The run to make; its task must still be there.
fn again(api: &Api, old: RunRecord, now: Timestamp) -> Result<NewRecord, Problem> {
    let task =
        api.runs.tasks.get(&old.task).ok_or_else(|| {
            Problem::new(Code::Conflict, format!("the task `{}` is not configured any more", old.task))
        })?;
    // Replays pass the gate like any other run: many of them cannot become a burst of their own.
    let decision = api.gate.decide(&old.env, 1, api.runs.intake.health());
    let buffered = matches!(decision, super::gate::Decision::Divert(_)) && !matches!(task.kind, TaskKind::Llm(_));
    Ok(NewRecord { buffered, ..actors::runs::replay(old, task, api.mint(now), now) })
}
