//! What waits in the buffer.

use super::Api;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use storage::model::Timestamp;

#[derive(Serialize)]
struct Depth {
    env: String,
    entries: i64,
    parked: i64,
    oldest_age_seconds: f64,
}

#[derive(Serialize)]
struct BufferView {
    data: Vec<Depth>,
    entries: i64,
    stale: i64,
    stale_after_seconds: f64,
}

/// `GET /buffer`
pub async fn depths(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::BufferRead)?;
    let stale_after = api.runs.settings.now().buffer.stale_after;
    let (depths, stale) = api
        .store(move |runs| async move {
            let depths = runs.store.buffer_depths(Some(caller.env.as_str())).await?;
            let stale = runs.store.stale_entries(Some(caller.env.as_str()), runs.store.now() - stale_after).await?;
            Ok((depths, stale))
        })
        .await?;
    let now = api.now();
    let data: Vec<Depth> = depths
        .into_iter()
        .map(|depth| Depth {
            env: depth.env,
            entries: depth.entries,
            parked: depth.parked,
            oldest_age_seconds: now.since(Timestamp::from_millis(depth.oldest_at)).as_secs_f64(),
        })
        .collect();
    let entries = data.iter().map(|depth| depth.entries).sum();
    let stale_after_seconds = stale_after.as_secs_f64();
    Ok(HttpResponse::Ok().json(BufferView { data, entries, stale, stale_after_seconds }))
}
