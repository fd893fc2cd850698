//! Sweeps: how each kind last went, and one done now.

use super::Api;
use super::read::Page;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use actix_web::{HttpResponse, web};
use actors::sweeper::{Kind, sweep_kind};
use serde_json::{Value, json};
use storage::model::Timestamp;
use storage::store::SweepRow;

/// `GET /sweeps`: every kind, whether it has been done yet or not.
pub async fn list(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let rows = api.store(|runs| async move { runs.store.sweeps().await }).await?;
    let last = |kind: &Kind| rows.iter().find(|row| row.kind == kind.word());
    let data: Vec<Value> = Kind::ALL.iter().map(|kind| view(kind.word(), last(kind))).collect();
    Ok(HttpResponse::Ok().json(Page::whole(data)))
}

fn view(kind: &str, last: Option<&SweepRow>) -> Value {
    json!({
        "kind": kind,
        "last_at": last.map(|row| Timestamp::from_millis(row.last_at).to_string()),
        "took_seconds": last.map(|row| row.took_ms as f64 / 1_000.0),
        "found": last.map(|row| row.found),
        "found_in_all": last.map(|row| row.found_in_all),
        "node": last.map(|row| row.node.as_str()),
    })
}

/// `POST /sweeps/{kind}/run`: one pass on this node, beside whoever does it by itself: each is guarded by what it
/// expects to find.
pub async fn run(api: web::Data<Api>, caller: Caller, kind: web::Path<String>) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let kind = Kind::from_word(&kind).ok_or_else(|| Problem::not_found("kind of sweep"))?;
    if kind == Kind::Retention && api.parts.settings.keep_runs.is_none() {
        return Err(Problem::new(Code::Conflict, "what has ended is kept for ever: `sweeps.keep_runs_days` is 0"));
    }
    let parts = api.parts.clone();
    let swept = api
        .store(move |runs| async move {
            match sweep_kind(kind, &parts, Some(&runs)).await {
                Ok(done) => {
                    runs.store.record_sweeps(std::slice::from_ref(&done), runs.store.now()).await?;
                    Ok(Ok(done))
                }
                Err(actors::batch_poller::CallOrStore::Store(error)) => Err(error),
                Err(error) => Ok(Err(error.to_string())),
            }
        })
        .await?;
    let done =
        swept.map_err(|why| Problem::new(Code::Conflict, "a provider did not answer as it must").because(why))?;
    Ok(HttpResponse::Ok().json(json!({
        "kind": done.kind,
        "found": done.found,
        "took_seconds": done.took_ms as f64 / 1_000.0,
        "node": api.runs.store.node().as_str(),
    })))
}
