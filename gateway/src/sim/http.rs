//! The HTTP server: its URL table, and what every request has in common.

mod caller;
mod stream;

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::{self, Next};
use actix_web::{App, HttpRequest, HttpServer, web};

pub(super) use caller::Caller;
use stream::KillSwitch;
pub(super) use stream::{download, hang_up, off_thread};

use super::error::{self, ApiError};
use super::event::Dialect;
use super::ids;
use super::world::World;
use super::{anthropic, calls, control, openai};

/// Enough for tests that run hundreds of accounts at once; the work is on blocking threads.
const WORKERS: usize = 2;
/// Bytes of a request that is called by itself; what both vendors take.
const LARGEST_CALL: usize = 32 << 20;

pub(super) fn serve(world: Arc<World>, listener: TcpListener) -> io::Result<Server> {
    let world = web::Data::from(world);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(world.clone())
            .app_data(web::PayloadConfig::new(LARGEST_CALL))
            .wrap(middleware::from_fn(name_the_request))
            .configure(routes)
            .default_service(web::to(unknown_url))
    })
    .on_connect(|io, extensions| {
        let Some(io) = io.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
        // A second handle on the socket lets a handler close it without an answer.
        if let Ok(handle) = io.as_fd().try_clone_to_owned() {
            extensions.insert(KillSwitch::new(handle.into()));
        }
    })
    .workers(WORKERS)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/v1/files", web::post().to(openai::files::upload))
        .route("/v1/files", web::get().to(openai::files::list))
        .route("/v1/files/{id}", web::get().to(openai::files::get))
        .route("/v1/files/{id}", web::delete().to(openai::files::delete))
        .route("/v1/files/{id}/content", web::get().to(openai::files::content))
        .route("/v1/batches", web::post().to(openai::batches::create))
        .route("/v1/batches", web::get().to(openai::batches::list))
        .route("/v1/batches/{id}", web::get().to(openai::batches::get))
        .route("/v1/batches/{id}/cancel", web::post().to(openai::batches::cancel))
        .route("/v1/messages", web::post().to(calls::call))
        .route("/v1/responses", web::post().to(calls::call))
        .route("/v1/chat/completions", web::post().to(calls::call))
        .route("/v1/completions", web::post().to(calls::call))
        .route("/v1/embeddings", web::post().to(calls::call))
        .route("/v1/moderations", web::post().to(calls::call))
        .route("/v1/messages/batches", web::post().to(anthropic::create::create))
        .route("/v1/messages/batches", web::get().to(anthropic::batches::list))
        .route("/v1/messages/batches/{id}", web::get().to(anthropic::batches::get))
        .route("/v1/messages/batches/{id}", web::delete().to(anthropic::batches::delete))
        .route("/v1/messages/batches/{id}/cancel", web::post().to(anthropic::batches::cancel))
        .route("/v1/messages/batches/{id}/results", web::get().to(anthropic::batches::results))
        .route("/sim/faults", web::put().to(control::set_faults))
        .route("/sim/ledger", web::get().to(control::ledger))
        .route("/sim/ledger/items", web::get().to(control::items));
}

/// Whose protocol a path belongs to.
fn dialect_of(path: &str) -> Dialect {
    if path.starts_with("/v1/messages") { Dialect::Anthropic } else { Dialect::Openai }
}

async fn unknown_url(request: HttpRequest) -> Result<&'static str, ApiError> {
    let (method, path) = (request.method(), request.path());
    Err(ApiError::not_found(dialect_of(path), format!("Invalid URL ({method} {path})")))
}

/// Every answer carries the vendor's request id.
async fn name_the_request(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let name = HeaderName::from_static(error::request_id_header(dialect_of(request.path())));
    let mut response = next.call(request).await?;
    if !response.headers().contains_key(&name)
        && let Ok(value) = HeaderValue::from_str(&ids::mint("req_"))
    {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}
