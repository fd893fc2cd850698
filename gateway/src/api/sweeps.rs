//! Sweeps: how each kind last went, and one done now.

use super::Api;
use super::read::Page;
use crate::http::fields::{Charset, Fields};
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use actix_web::{HttpRequest, HttpResponse, web};
use actors::sweeper::{Kind, Repair, repair};
use serde_json::{Value, json};
use storage::model::Timestamp;
use storage::store::{SweepDone, SweepRow};

/// Of a place that a walk has come to: an env and a run.
const AFTER_CHARS: usize = 512;

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

/// `POST /sweeps/{kind}/run`: one go on this node, beside whoever does it by itself: each is guarded by what it expects
/// to find. A walk goes on from `after`; a dry run only tells what would be done.
pub async fn run(
    api: web::Data<Api>,
    caller: Caller,
    kind: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let kind = Kind::from_word(&kind).ok_or_else(|| Problem::not_found("kind of sweep"))?;
    let body = api.optional_body(payload, &request).await?;
    let mut fields = Fields::parse_or_empty(&body)?;
    let dry_run = fields.boolean("dry_run").unwrap_or(false);
    let after = fields.optional_text("after", 1..=AFTER_CHARS, Charset::Line);
    fields.reject_unknown();
    fields.finish()?;
    may(&api, kind, dry_run)?;
    if kind.mends() && !dry_run {
        api.tell(&caller, "sweep.run", kind.word(), &json!({})).await?;
    }
    let how = Repair { dry_run, after: after.unwrap_or_default() };
    let parts = api.parts.clone();
    let swept = api
        .store(move |runs| async move {
            match repair(kind, &parts, &runs, &how).await {
                Ok(done) => {
                    if !how.dry_run {
                        let (took_ms, found) = (done.took_ms, i64::try_from(done.found).unwrap_or(i64::MAX));
                        let told = SweepDone { kind: kind.word(), took_ms, found };
                        runs.store.record_sweeps(&[told], runs.store.now()).await?;
                    }
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
        "kind": kind.word(),
        "dry_run": dry_run,
        "found": done.found,
        "took_seconds": done.took_ms as f64 / 1_000.0,
        "next_after": done.next_after,
        "node": api.runs.store.node().as_str(),
    })))
}

fn may(api: &Api, kind: Kind, dry_run: bool) -> Result<(), Problem> {
    let settings = api.parts.settings.now();
    if kind == Kind::Retention && dry_run {
        return Err(Problem::field(
            "/dry_run",
            "unsupported",
            "what `retention` would delete is only known by doing it",
        ));
    }
    if kind == Kind::Retention && !settings.forgets() {
        let why = "what has ended is kept for ever: `sweeps.keep_runs_days` and `sweeps.keep_audit_days` are 0";
        return Err(Problem::new(Code::Conflict, why));
    }
    if kind.mends() && !settings.repair_enabled && !dry_run {
        return Err(Problem::new(Code::Conflict, "repairs are switched off: `sweeps.repair_enabled` is false"));
    }
    Ok(())
}
