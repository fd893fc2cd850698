//! What waits in the buffer, entry by entry.

use super::Api;
use super::read::{PAGE_MAX, Page};
use crate::http::cursor::{List, Position};
use crate::http::fields::Charset;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use crate::http::query::Query;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use storage::model::Timestamp;
use storage::store::BufferEntry;

/// Entries on a page.
const PAGE: i64 = 50;

#[derive(Serialize)]
struct EntryView<'a> {
    run_id: &'a str,
    env: &'a str,
    task: &'a str,
    accepted_at: String,
    /// Why it waits for an operator, if it does.
    parked: Option<&'a str>,
}

/// `GET /buffer/entries?cursor=&limit=`: the caller's, oldest first.
pub async fn list(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::BufferRead)?;
    let mut query = Query::parse(request.query_string())?;
    let limit = query.integer("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    let cursor = query.text("cursor", 1..=1_024, Charset::Visible);
    query.reject_unknown();
    query.finish()?;
    let env = caller.env.to_string();
    let page_of = List { name: "buffer entries", env: caller.env.as_str(), filter: "" };
    let after = cursor.map(|cursor| api.cursors.open(&cursor, &page_of)).transpose()?.map(|position| position.id);
    let after = after.unwrap_or_default();
    let mut entries =
        api.store(move |runs| async move { runs.store.buffer_entries(Some(&env), &after, limit + 1).await }).await?;
    let has_more = entries.len() as i64 > limit;
    entries.truncate(usize::try_from(limit).unwrap_or(0));
    let seal =
        |last: &BufferEntry| api.cursors.seal(&Position { sort: last.accepted_at, id: last.run_id.clone() }, &page_of);
    let next_cursor = entries.last().filter(|_| has_more).map(seal);
    let view = |entry| -> EntryView<'_> {
        let entry: &BufferEntry = entry;
        EntryView {
            run_id: &entry.run_id,
            env: &entry.env,
            task: &entry.task,
            accepted_at: Timestamp::from_millis(entry.accepted_at).to_string(),
            parked: entry.parked.as_deref(),
        }
    };
    let data: Vec<EntryView<'_>> = entries.iter().map(view).collect();
    Ok(HttpResponse::Ok().json(Page { data, next_cursor, has_more }))
}
