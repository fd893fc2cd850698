//! Provider batches, and an operator's answer about those of unknown fate.

use super::Api;
use super::read::{PAGE_MAX, Page, is_ulid};
use crate::batches::{answer, is_priced, unpriced, view, whole};
use crate::exit::{Exit, Failure};
use crate::http::cursor::{List, Position};
use crate::http::fields::{Charset, Fields};
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use crate::http::query::Query;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use storage::Store;
use storage::model::{BatchId, BatchState, Timestamp};
use storage::store::{BatchFilter, BatchRow};

/// Batches on a page.
const PAGE: i64 = 50;
const PROVIDER_ID_CHARS: usize = 256;

/// `GET /batches`: newest first.
pub async fn list(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsRead)?;
    let mut query = Query::parse(request.query_string())?;
    let limit = query.integer("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    let words: Vec<&'static str> = BatchState::ALL.iter().map(|state| state.word()).collect();
    let state = query.one_of("state", &words).and_then(BatchState::from_word);
    let cursor = query.text("cursor", 1..=1_024, Charset::Visible);
    query.reject_unknown();
    query.finish()?;
    let meaning = format!("{state:?}");
    let page_of = List { name: "batches", env: caller.env.as_str(), filter: &meaning };
    let before = cursor.map(|cursor| api.cursors.open(&cursor, &page_of)).transpose()?;
    let filter = BatchFilter { env: Some(caller.env.to_string()), state, pool: None };
    let (mut rows, unpriced) = told(&api, move |store| async move {
        let before = before.as_ref().map(|at| (Timestamp::from_millis(at.sort), at.id.as_str()));
        let rows = store.list_batches(&filter, before, u32::try_from(limit + 1).unwrap_or(u32::MAX)).await?;
        let unpriced = unpriced(&store, &rows).await?;
        Ok((rows, unpriced))
    })
    .await?;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(0));
    let position = |last: &BatchRow| Position { sort: last.created_at.millis(), id: last.id.to_string() };
    let next_cursor = rows.last().filter(|_| has_more).map(|last| api.cursors.seal(&position(last), &page_of));
    let data: Vec<Value> = rows.iter().map(|row| view::object(row, !unpriced.contains(row.id.as_str()))).collect();
    Ok(HttpResponse::Ok().json(Page { data, next_cursor, has_more }))
}

/// `GET /batches/{id}`: with what happened to it.
pub async fn one(api: web::Data<Api>, caller: Caller, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsRead)?;
    let row = find(&api, caller.env.as_str(), &id).await?;
    let object = told(&api, move |store| async move { Ok(whole(&store, &row).await?.json) }).await?;
    Ok(HttpResponse::Ok().json(object))
}

/// `POST /batches/{id}/adopt`: one of unknown fate is this one at the provider.
pub async fn adopt(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsWrite)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let provider_id = fields.text("provider_batch_id", 1..=PROVIDER_ID_CHARS, Charset::Visible);
    fields.reject_unknown();
    fields.finish()?;
    let row = find(&api, caller.env.as_str(), &id).await?;
    let batch = row.id.clone();
    api.tell(&caller, "batch.adopt", batch.as_str(), &json!({ "provider_batch_id": provider_id })).await?;
    told(&api, move |store| async move { answer::adopt(&store, &row, &provider_id).await }).await?;
    answered(&api, caller.env.as_str(), batch).await
}

/// `POST /batches/{id}/cancel`: it is stopped at its provider; what it has not carried out is queued again.
pub async fn cancel(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsWrite)?;
    api.no_fields(payload, &request).await?;
    let row = find(&api, caller.env.as_str(), &id).await?;
    let batch = row.id.clone();
    api.tell(&caller, "batch.cancel", batch.as_str(), &json!({})).await?;
    told(&api, move |store| async move { answer::cancel(&store, &row).await }).await?;
    answered(&api, caller.env.as_str(), batch).await
}

/// `POST /batches/{id}/abandon`: it is given up, and its runs are queued again. If the provider has it after all, they
/// are billed twice: that has to be accepted.
pub async fn abandon(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsWrite)?;
    let body = api.optional_body(payload, &request).await?;
    let mut fields = Fields::parse_or_empty(&body)?;
    let accepts = fields.boolean("accept_double_billing").unwrap_or(false);
    fields.reject_unknown();
    fields.finish()?;
    let row = find(&api, caller.env.as_str(), &id).await?;
    if row.state == BatchState::Unknown && !accepts {
        let what = format!("{} Say true to do it.", answer::consequence(&row).replace('\n', " "));
        return Err(Problem::field("/accept_double_billing", "required", what));
    }
    let batch = row.id.clone();
    api.tell(&caller, "batch.abandon", batch.as_str(), &json!({ "accept_double_billing": accepts })).await?;
    told(&api, move |store| async move { answer::abandon(&store, &row).await }).await?;
    answered(&api, caller.env.as_str(), batch).await
}

/// The batch of an env that a path names; another env's is not there.
async fn find(api: &Api, env: &str, id: &str) -> Result<BatchRow, Problem> {
    let is_batch = id.strip_prefix("bat_").is_some_and(is_ulid);
    let batch = BatchId::from_text(id);
    let found = match is_batch {
        true => api.store(move |runs| async move { runs.store.batch(&batch).await }).await?,
        false => None,
    };
    found.filter(|row| row.env == env).ok_or_else(|| Problem::not_found("batch"))
}

async fn answered(api: &Api, env: &str, batch: BatchId) -> Result<HttpResponse, Problem> {
    let row = find(api, env, batch.as_str()).await?;
    let object = told(api, move |store| async move { Ok(view::object(&row, is_priced(&store, &row).await?)) }).await?;
    Ok(HttpResponse::Ok().json(object))
}

/// Work that the command line shares; what it refuses is told as a problem.
async fn told<T, F, W>(api: &Api, work: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(Store) -> W + Send + 'static,
    W: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let done = api.runs.on_runtime(move |runs| async move { work(runs.store).await }).await;
    done.map_err(|failure| match failure.exit {
        Exit::Conflict => {
            let hint = failure.hint.as_deref().map_or(String::new(), |hint| format!("; {hint}"));
            Problem::new(Code::Conflict, format!("{}{hint}", failure.what))
        }
        Exit::Usage => Problem::field("/provider_batch_id", "format", failure.what),
        _ => Problem::internal(failure.what),
    })
}
