//! Creating a batch: the body goes to disk as it arrives, then request by request into the batch's file.

use std::fs::File;
use std::io::BufReader;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use futures_util::StreamExt;

use super::batches;
use crate::sim::SimError;
use crate::sim::create::{Created, Draft};
use crate::sim::envelope::{self, Refusal};
use crate::sim::error::ApiError;
use crate::sim::event::Dialect;
use crate::sim::http::{Caller, hang_up, off_thread};
use crate::sim::ids;
use crate::sim::spool::Spool;
use crate::sim::world::World;

const ANTHROPIC: Dialect = Dialect::Anthropic;
const MOST_BYTES: u64 = 256 << 20;

pub(in crate::sim) async fn create(
    request: actix_web::HttpRequest,
    caller: Caller,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let host = batches::results_host(&request, &caller);
    let id = ids::mint("msgbatch_");
    let body = receive(&caller, &id, payload).await;
    // From here on the caller's departure changes nothing, as at any provider.
    let accepting = actix_web::rt::spawn(async move {
        let scanned = match body {
            Ok(body) => scan(&caller, &id, body).await,
            Err(error) => Err(error),
        };
        decide(&caller, &id, scanned, &host).await
    });
    accepting.await.unwrap_or_else(|_| Err(ApiError::internal(ANTHROPIC)))
}

async fn receive(caller: &Caller, id: &str, mut payload: web::Payload) -> Result<Spool, ApiError> {
    let path = caller.world.path(&format!("{id}.body"));
    let broken = |source| ApiError::broken(ANTHROPIC, &SimError::io(&path, source));
    let mut spool = Spool::create(path.clone()).map_err(broken)?;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::invalid(ANTHROPIC, "The request body ended early."))?;
        if spool.bytes() + chunk.len() as u64 > MOST_BYTES {
            let message = "Request exceeds the maximum allowed number of bytes.";
            return Err(ApiError::too_large(ANTHROPIC, message));
        }
        spool.write(&chunk).map_err(broken)?;
    }
    spool.flush().map_err(broken)?;
    Ok(spool)
}

/// Checks the envelope and writes the batch's file; gives the file and the number of its requests.
async fn scan(caller: &Caller, id: &str, body: Spool) -> Result<Spool, ApiError> {
    let path = caller.world.path(id);
    let copied = off_thread(ANTHROPIC, move || {
        let io = |source| SimError::io(body.path(), source);
        let input = BufReader::with_capacity(1 << 18, File::open(body.path()).map_err(io)?);
        let mut requests = Spool::create(path).map_err(io)?;
        let checked = envelope::copy(input, &mut requests);
        requests.flush().map_err(io)?;
        Ok(checked.map(|()| requests))
    });
    copied.await?.map_err(|refusal| match refusal {
        Refusal::Invalid(message) => ApiError::invalid(ANTHROPIC, message),
        Refusal::TooMany => ApiError::too_large(ANTHROPIC, "A batch may have at most 100000 requests."),
        Refusal::Unwritten(source) => ApiError::broken(ANTHROPIC, &SimError::io(caller.world.path(id), source)),
    })
}

async fn decide(
    caller: &Caller,
    id: &str,
    scanned: Result<Spool, ApiError>,
    host: &str,
) -> Result<HttpResponse, ApiError> {
    let mut requests = None;
    let created = caller.world.create(&caller.account, ANTHROPIC, |_| {
        let spool = requests.insert(scanned?);
        Ok(Draft {
            id: id.to_owned(),
            dialect: ANTHROPIC,
            endpoint: "/v1/messages".to_owned(),
            requests: spool.lines(),
            input_file: None,
            metadata: None,
            version: caller.version.map(str::to_owned),
        })
    })?;
    let Some(requests) = requests else { return Err(ApiError::internal(ANTHROPIC)) };
    match created {
        Created::Delayed { draft, after_ms } => {
            let (world, account) = (caller.world.clone(), caller.account.clone());
            actix_web::rt::spawn(async move {
                crate::sim::ids::dawdle(Duration::from_millis(after_ms)).await;
                match world.straggle(&account, draft) {
                    Ok(_) => requests.keep(),
                    Err(error) => tracing::warn!(%error, "delayed create was not accepted"),
                }
            });
            Ok(hang_up(caller.connection.as_ref()))
        }
        Created::Lost => {
            requests.keep();
            Ok(hang_up(caller.connection.as_ref()))
        }
        Created::Failed { stall_ms } => {
            requests.keep();
            crate::sim::ids::dawdle(Duration::from_millis(stall_ms)).await;
            Err(ApiError::internal(ANTHROPIC))
        }
        Created::Answered { batch, stall_ms } => {
            requests.keep();
            crate::sim::ids::dawdle(Duration::from_millis(stall_ms)).await;
            Ok(HttpResponse::Ok().json(batches::object(&World::begun(&batch), host)))
        }
    }
}
