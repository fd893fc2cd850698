//! Batches over uploaded files.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::page;
use crate::sim::SimError;
use crate::sim::account::Account;
use crate::sim::create::{Created, Draft};
use crate::sim::error::ApiError;
use crate::sim::event::Dialect;
use crate::sim::http::{Caller, hang_up, off_thread};
use crate::sim::ids;
use crate::sim::progress::{Failure, Phase};
use crate::sim::render::{self, Part};
use crate::sim::summary::LineError;
use crate::sim::world::{View, World, held};

const OPENAI: Dialect = Dialect::Openai;
const ENDPOINTS: [&str; 8] = [
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
];
const MOST_BODY_BYTES: usize = 1 << 20;

pub(in crate::sim) async fn create(caller: Caller, mut payload: web::Payload) -> Result<HttpResponse, ApiError> {
    let mut body = Vec::new();
    let mut read = Ok(());
    while let Some(chunk) = payload.next().await {
        match chunk {
            Ok(chunk) if body.len() + chunk.len() <= MOST_BODY_BYTES => body.extend_from_slice(&chunk),
            Ok(_) => read = Err(ApiError::too_large(OPENAI, "The request body is too large.")),
            Err(_) => read = Err(ApiError::invalid(OPENAI, "The request body ended early.")),
        }
        if read.is_err() {
            break;
        }
    }
    // From here on the caller's departure changes nothing, as at any provider.
    let accepting = actix_web::rt::spawn(async move {
        let created = caller.world.create(&caller.account, OPENAI, |account| {
            read?;
            check(account, &body)
        })?;
        answer(&caller, created).await
    });
    accepting.await.unwrap_or_else(|_| Err(ApiError::internal(OPENAI)))
}

async fn answer(caller: &Caller, created: Created) -> Result<HttpResponse, ApiError> {
    match created {
        Created::Answered { batch, stall_ms } => {
            crate::sim::ids::dawdle(Duration::from_millis(stall_ms)).await;
            Ok(HttpResponse::Ok().json(object(&World::begun(&batch))))
        }
        Created::Failed { stall_ms } => {
            crate::sim::ids::dawdle(Duration::from_millis(stall_ms)).await;
            Err(ApiError::internal(OPENAI))
        }
        Created::Lost => Ok(hang_up(caller.connection.as_ref())),
        Created::Delayed { draft, after_ms } => {
            let (world, account) = (caller.world.clone(), caller.account.clone());
            actix_web::rt::spawn(straggle(world, account, draft, after_ms));
            Ok(hang_up(caller.connection.as_ref()))
        }
    }
}

async fn straggle(world: std::sync::Arc<World>, account: String, draft: Draft, after_ms: u64) {
    crate::sim::ids::dawdle(Duration::from_millis(after_ms)).await;
    if let Err(error) = world.straggle(&account, draft) {
        tracing::warn!(%error, "delayed create was not accepted");
    }
}

/// What the vendor checks before it accepts a batch.
fn check(account: &Account, body: &[u8]) -> Result<Draft, ApiError> {
    let body: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|_| ApiError::invalid(OPENAI, "We could not parse the JSON body of your request."))?;
    let text = |param: &str| match body.get(param) {
        Some(Value::String(text)) => Ok(text.as_str()),
        None | Some(Value::Null) => {
            let message = format!("Missing required parameter: '{param}'.");
            Err(ApiError::invalid(OPENAI, message).code("missing_required_parameter").param(param))
        }
        Some(_) => {
            let message = format!("Invalid type for '{param}': expected a string.");
            Err(ApiError::invalid(OPENAI, message).code("invalid_type").param(param))
        }
    };
    let wrong = |param: &str, value: &str| {
        let message = format!("Invalid value: {value:?}.");
        ApiError::invalid(OPENAI, message).code("invalid_value").param(param)
    };
    let input = text("input_file_id")?;
    let endpoint = text("endpoint")?;
    let window = text("completion_window")?;
    if !ENDPOINTS.contains(&endpoint) {
        return Err(wrong("endpoint", endpoint));
    }
    if window != "24h" {
        return Err(wrong("completion_window", window));
    }
    let metadata = metadata(body.get("metadata"))?;
    let Some(file) = account.file(input) else {
        let message = format!("Invalid 'input_file_id': no such file {input:?}.");
        return Err(ApiError::invalid(OPENAI, message).code("invalid_input_file").param("input_file_id"));
    };
    if file.purpose != "batch" {
        let message = format!("The file {input:?} has purpose {:?}, not \"batch\".", file.purpose);
        return Err(ApiError::invalid(OPENAI, message).code("invalid_file_purpose").param("input_file_id"));
    }
    Ok(Draft {
        id: ids::mint("batch_"),
        dialect: OPENAI,
        endpoint: endpoint.to_owned(),
        requests: file.lines,
        input_file: Some(input.to_owned()),
        metadata,
        version: None,
    })
}

fn metadata(given: Option<&Value>) -> Result<Option<Map<String, Value>>, ApiError> {
    let refuse = |message: &str| Err(ApiError::invalid(OPENAI, message).param("metadata"));
    let map = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(_) => return refuse("Invalid type for 'metadata': expected an object."),
    };
    if map.len() > 16 {
        return refuse("Invalid 'metadata': too many properties, at most 16 are allowed.");
    }
    for (key, value) in map {
        let Some(value) = value.as_str() else {
            return refuse("Invalid type for 'metadata': values must be strings.");
        };
        if key.chars().count() > 64 {
            return refuse("Invalid 'metadata': keys may have at most 64 characters.");
        }
        if value.chars().count() > 512 {
            return refuse("Invalid 'metadata': values may have at most 512 characters.");
        }
    }
    Ok(Some(map.clone()))
}

#[derive(Debug, Deserialize)]
pub(in crate::sim) struct Listing {
    after: Option<String>,
    limit: Option<usize>,
}

pub(in crate::sim) async fn list(caller: Caller, query: web::Query<Listing>) -> Result<HttpResponse, ApiError> {
    let limit = query.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid(OPENAI, "limit must be 1 to 100.").param("limit"));
    }
    let now = ids::now_ms();
    let mut batches = held(&caller.world.account(&caller.account)).listed(OPENAI, now);
    if let Some(after) = &query.after {
        let place = batches.iter().position(|batch| batch.accepted.id == *after);
        let place = place.ok_or_else(|| no_such_batch(after))?;
        batches.drain(..=place);
    }
    let has_more = batches.len() > limit;
    batches.truncate(limit);
    let objects = move || {
        let view = |batch| caller.world.view(batch, now).map(|view| object(&view));
        batches.iter().map(view).collect::<Result<Vec<Value>, SimError>>()
    };
    let data = off_thread(OPENAI, objects).await?;
    Ok(HttpResponse::Ok().json(page(data, has_more)))
}

pub(in crate::sim) async fn get(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let found = held(&caller.world.account(&caller.account)).batch(&id, OPENAI).cloned();
    let batch = found.ok_or_else(|| no_such_batch(&id))?;
    let view = off_thread(OPENAI, move || caller.world.view(&batch, ids::now_ms())).await?;
    Ok(HttpResponse::Ok().json(object(&view)))
}

pub(in crate::sim) async fn cancel(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let wanted = id.clone();
    let cancel = move || caller.world.cancel(&caller.account, &wanted, OPENAI);
    let cancelled = off_thread(OPENAI, cancel).await?.ok_or_else(|| no_such_batch(&id))?;
    if cancelled.already_ended {
        let status = cancelled.view.phase.name();
        let message = format!("Cannot cancel a batch with status '{status}'.");
        return Err(ApiError::conflict(OPENAI, message));
    }
    Ok(HttpResponse::Ok().json(object(&cancelled.view)))
}

fn no_such_batch(id: &str) -> ApiError {
    ApiError::not_found(OPENAI, format!("No batch found with id '{id}'.")).param("id")
}

/// The id of a part's file, once the batch has ended, has lines in it, and shows it.
pub(super) fn produced_id(view: &View, part: Part) -> Option<String> {
    let summary = view.summary.as_ref()?;
    if !view.phase.is_terminal() || matches!(view.phase, Phase::Failed(_)) {
        return None;
    }
    let delay = view.batch.accepted.faults.output_delay_ms.unwrap_or_default();
    let shown = view.batch.timeline().end(view.content).saturating_add(delay);
    match part {
        Part::Output if summary.output_lines > 0 && view.now >= shown => Some(view.batch.output_id()),
        Part::Errors if summary.error_lines > 0 => Some(view.batch.error_id()),
        _ => None,
    }
}

/// The batch object.
fn object(view: &View) -> Value {
    let accepted = &view.batch.accepted;
    let timeline = view.batch.timeline();
    let end = timeline.end(view.content);
    let ran = !matches!(view.phase, Phase::Validating | Phase::Failed(_)) && timeline.ran_before_cancel() != Some(0);
    let seconds = |ms: u64| ms / 1_000;
    let reached = |at: u64| (ran && view.now >= at && at <= end).then(|| seconds(at));
    let ended = |is: bool| is.then(|| seconds(end));
    let cancelled_at = view.batch.cancel.map(|cancel| seconds(cancel.at));
    json!({
        "id": accepted.id, "object": "batch", "endpoint": accepted.endpoint,
        "model": view.summary.as_ref().and_then(|summary| summary.model.clone()),
        "errors": errors(view),
        "input_file_id": accepted.input_file, "completion_window": "24h",
        "status": view.phase.name(),
        "output_file_id": produced_id(view, Part::Output),
        "error_file_id": produced_id(view, Part::Errors),
        "created_at": seconds(accepted.at_ms),
        "in_progress_at": reached(timeline.validated_at()),
        "expires_at": seconds(accepted.at_ms) + 86_400,
        "finalizing_at": reached(timeline.finalizing_at()),
        "completed_at": ended(view.phase == Phase::Completed),
        "failed_at": ended(matches!(view.phase, Phase::Failed(_))),
        "expired_at": ended(view.phase == Phase::Expired),
        "cancelling_at": cancelled_at,
        "cancelled_at": ended(view.phase == Phase::Cancelled),
        "request_counts": counts(view),
        "usage": usage(view),
        "metadata": accepted.metadata,
    })
}

/// Nothing is counted while validating; afterwards the counts only grow.
fn counts(view: &View) -> Value {
    let total = view.batch.accepted.requests;
    let (Some(summary), false) = (&view.summary, matches!(view.phase, Phase::Validating | Phase::Failed(_))) else {
        return json!({"total": 0, "completed": 0, "failed": 0});
    };
    let so_far = |count: u64| {
        if view.phase.is_terminal() || view.batch.timeline().ran_before_cancel().is_some() {
            return count;
        }
        let share = u128::from(count) * u128::from(view.batch.timeline().done(view.now));
        u64::try_from(share / u128::from(view.batch.timeline().in_time().max(1))).unwrap_or(count)
    };
    json!({"total": total, "completed": so_far(summary.succeeded), "failed": so_far(summary.errored)})
}

fn usage(view: &View) -> Value {
    let ended = matches!(view.phase, Phase::Completed | Phase::Expired | Phase::Cancelled);
    let Some(summary) = view.summary.as_ref().filter(|_| ended) else { return Value::Null };
    json!({
        "input_tokens": summary.input_tokens, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": summary.output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": summary.input_tokens + summary.output_tokens,
    })
}

fn errors(view: &View) -> Value {
    let Phase::Failed(failure) = view.phase else { return Value::Null };
    let one = |code: &str, message: &str| vec![json!({"code": code, "message": message, "param": null, "line": null})];
    let data = match (failure, &view.summary) {
        (Failure::InputDeleted, _) => one("invalid_input_file", "The input file no longer exists."),
        (Failure::TokenLimit, _) => one("token_limit_exceeded", "Enqueued token limit reached for this model."),
        (Failure::Late, _) => [1, 3]
            .map(|line| {
                let message = render::late_problem(&[line]);
                json!({"code": "invalid_request", "message": message, "param": "body", "line": line})
            })
            .to_vec(),
        (Failure::InvalidLines, Some(summary)) => summary.problems.iter().map(problem).collect(),
        (Failure::InvalidLines, None) => Vec::new(),
    };
    json!({"object": "list", "data": data})
}

fn problem(error: &LineError) -> Value {
    json!({"code": error.code, "message": error.message, "param": error.param, "line": error.line})
}
