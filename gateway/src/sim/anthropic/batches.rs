//! Looking at batches, ending them, and reading their results.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::sim::SimError;
use crate::sim::account::Batch;
use crate::sim::error::ApiError;
use crate::sim::event::{Dialect, Event};
use crate::sim::http::{Caller, download, off_thread};
use crate::sim::ids;
use crate::sim::progress::Phase;
use crate::sim::render::Part;
use crate::sim::world::{View, held};

const ANTHROPIC: Dialect = Dialect::Anthropic;
const DAY_MS: u64 = 86_400_000;

/// The host that `results_url` names: the one the caller used, unless a fault says another.
pub(super) fn results_host(request: &HttpRequest, caller: &Caller) -> String {
    let foreign = caller.faults.foreign_results_host.clone();
    foreign.unwrap_or_else(|| request.connection_info().host().to_owned())
}

#[derive(Debug, Deserialize)]
pub(in crate::sim) struct Listing {
    limit: Option<usize>,
    after_id: Option<String>,
    before_id: Option<String>,
}

pub(in crate::sim) async fn list(
    request: HttpRequest,
    caller: Caller,
    query: web::Query<Listing>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit.unwrap_or(20);
    if !(1..=1_000).contains(&limit) {
        return Err(ApiError::invalid(ANTHROPIC, "limit: must be 1 to 1000"));
    }
    let host = results_host(&request, &caller);
    let now = ids::now_ms();
    let batches = held(&caller.world.account(&caller.account)).listed(ANTHROPIC, now);
    let (batches, has_more) = page(batches, &query, limit)?;
    let objects = move || {
        let view = |batch| caller.world.view(batch, now).map(|view| object(&view, &host));
        batches.iter().map(view).collect::<Result<Vec<Value>, SimError>>()
    };
    let data = off_thread(ANTHROPIC, objects).await?;
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    Ok(HttpResponse::Ok().json(json!({
        "data": data, "has_more": has_more, "first_id": first, "last_id": last,
    })))
}

/// Cuts a page out of a newest-first list: right behind `after_id`, or right before `before_id`.
fn page(mut batches: Vec<Batch>, query: &Listing, limit: usize) -> Result<(Vec<Batch>, bool), ApiError> {
    let place = |batches: &[Batch], id: &str| {
        let found = batches.iter().position(|batch| batch.accepted.id == id);
        found.ok_or_else(|| no_such_batch(id))
    };
    match (&query.after_id, &query.before_id) {
        (Some(_), Some(_)) => Err(ApiError::invalid(ANTHROPIC, "only one of after_id and before_id may be given")),
        (None, Some(before)) => {
            batches.truncate(place(&batches, before)?);
            let skip = batches.len().saturating_sub(limit);
            Ok((batches.split_off(skip), skip > 0))
        }
        (after, None) => {
            if let Some(after) = after {
                batches.drain(..=place(&batches, after)?);
            }
            let has_more = batches.len() > limit;
            batches.truncate(limit);
            Ok((batches, has_more))
        }
    }
}

fn find(caller: &Caller, id: &str) -> Result<Batch, ApiError> {
    let found = held(&caller.world.account(&caller.account)).batch(id, ANTHROPIC).cloned();
    found.ok_or_else(|| no_such_batch(id))
}

fn no_such_batch(id: &str) -> ApiError {
    ApiError::not_found(ANTHROPIC, format!("No message batch found with ID {id}"))
}

async fn look(caller: &Caller, id: &str) -> Result<View, ApiError> {
    let batch = find(caller, id)?;
    let world = caller.world.clone();
    off_thread(ANTHROPIC, move || world.view(&batch, ids::now_ms())).await
}

pub(in crate::sim) async fn get(
    request: HttpRequest,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let host = results_host(&request, &caller);
    let view = look(&caller, &id).await?;
    Ok(HttpResponse::Ok().json(object(&view, &host)))
}

pub(in crate::sim) async fn cancel(
    request: HttpRequest,
    caller: Caller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let host = results_host(&request, &caller);
    let wanted = id.clone();
    let cancel = move || caller.world.cancel(&caller.account, &wanted, ANTHROPIC);
    let cancelled = off_thread(ANTHROPIC, cancel).await?.ok_or_else(|| no_such_batch(&id))?;
    if cancelled.already_ended {
        return Err(ApiError::conflict(ANTHROPIC, format!("Batch {id} has already ended and cannot be canceled")));
    }
    Ok(HttpResponse::Ok().json(object(&cancelled.view, &host)))
}

pub(in crate::sim) async fn delete(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let view = look(&caller, &id).await?;
    if !view.phase.is_terminal() {
        return Err(ApiError::conflict(ANTHROPIC, format!("Batch {id} has not ended and cannot be deleted")));
    }
    let shared = caller.world.account(&caller.account);
    let mut account = held(&shared);
    let event = Event::BatchDeleted { id: id.clone(), at_ms: ids::now_ms() };
    let recorded = caller.world.record(&caller.account, &mut account, event);
    recorded.map_err(|error| ApiError::broken(ANTHROPIC, &error))?;
    Ok(HttpResponse::Ok().json(json!({"id": *id, "type": "message_batch_deleted"})))
}

pub(in crate::sim) async fn results(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let view = look(&caller, &id).await?;
    if !view.phase.is_terminal() {
        let message = format!("Batch {id} has not finished; results are available when it has ended");
        return Err(ApiError::not_found(ANTHROPIC, message));
    }
    let crlf = caller.faults.crlf == Some(true);
    let (world, batch) = (caller.world.clone(), view.batch.clone());
    let cut = caller.cut(move || world.size(&batch, Part::All, crlf)).await?;
    let (world, batch) = (caller.world.clone(), view.batch);
    let lines = download(move |emit| world.render(&batch, Part::All, crlf, emit), cut);
    Ok(HttpResponse::Ok().content_type("application/x-jsonl").streaming(lines))
}

/// The message batch object. Until the end everything counts as processing.
pub(super) fn object(view: &View, host: &str) -> Value {
    let accepted = &view.batch.accepted;
    let ended = view.phase.is_terminal();
    let status = match view.phase {
        Phase::Cancelling => "canceling",
        _ if ended => "ended",
        _ => "in_progress",
    };
    let counts = match view.summary.as_ref().filter(|_| ended) {
        Some(summary) => json!({
            "processing": 0, "succeeded": summary.succeeded, "errored": summary.errored,
            "canceled": summary.canceled, "expired": summary.expired,
        }),
        None => json!({
            "processing": accepted.requests, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0,
        }),
    };
    let end = view.batch.timeline().end(view.content);
    let id = &accepted.id;
    json!({
        "id": id, "type": "message_batch", "processing_status": status, "request_counts": counts,
        "created_at": ids::rfc3339(accepted.at_ms),
        "expires_at": ids::rfc3339(accepted.at_ms + DAY_MS),
        "ended_at": ended.then(|| ids::rfc3339(end)),
        "cancel_initiated_at": view.batch.cancel.map(|cancel| ids::rfc3339(cancel.at)),
        "archived_at": null,
        "results_url": ended.then(|| format!("http://{host}/v1/messages/batches/{id}/results")),
    })
}
