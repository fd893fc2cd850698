//! What tests ask the simulator itself: switching faults, and reading the ledger.

use actix_web::{HttpResponse, web};

use super::error::ApiError;
use super::event::{Dialect, Event};
use super::faults::Faults;
use super::http::{Caller, download, off_thread};
use super::world::held;

const SHAPE: Dialect = Dialect::Openai;

/// Replaces the account's switches; its "first k" counters begin anew.
pub(super) async fn set_faults(caller: Caller, body: web::Bytes) -> Result<HttpResponse, ApiError> {
    let faults: Box<Faults> = serde_json::from_slice(&body).map_err(|error| {
        let known = super::faults::known_names();
        ApiError::invalid(SHAPE, format!("not a set of faults: {error}; known are {known}"))
    })?;
    let shared = caller.world.account(&caller.account);
    let mut account = held(&shared);
    let recorded = caller.world.record(&caller.account, &mut account, Event::FaultsSet { faults });
    recorded.map_err(|error| ApiError::broken(SHAPE, &error))?;
    Ok(HttpResponse::Ok().json(&account.faults))
}

pub(super) async fn ledger(caller: Caller) -> Result<HttpResponse, ApiError> {
    let ledger = off_thread(SHAPE, move || caller.world.ledger(&caller.account)).await?;
    Ok(HttpResponse::Ok().json(ledger))
}

pub(super) async fn items(caller: Caller) -> Result<HttpResponse, ApiError> {
    let lines = download(move |emit| caller.world.ledger_items(&caller.account, emit), None);
    Ok(HttpResponse::Ok().content_type("application/x-jsonl").streaming(lines))
}
