//! A server of two resources on the modules that the real one stands on, and nothing behind them.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use gateway::http::body::{self, Limits};
use gateway::http::connections::{Connections, Patience};
use gateway::http::cursor::{Cursors, List};
use gateway::http::fields::{Charset, Fields};
use gateway::http::guard::{Guard, Rules};
use gateway::http::keys::{Caller, Gate, KeyId, NewKey, Scope, Scopes, StoredKey};
use gateway::http::problem::Problem;
use gateway::http::query::{Query, path_id};
use std::sync::Arc;
use storage::model::{SystemClock, Timestamp};

pub const BODY_BYTES_MAX: usize = 100_000;
/// More than the driver has open at once.
pub const PER_ADDRESS_MAX: u32 = 200;
/// More than all buffers between a server and its client hold.
const LARGE_BYTES: usize = 64 * 1024 * 1024;
const PATIENCE: Patience =
    Patience { between: Duration::from_secs(2), reading: Duration::from_secs(2), per_address_max: PER_ADDRESS_MAX };

/// Runs until it is dropped.
pub struct Tiny {
    pub address: SocketAddr,
    pub key: String,
    connections: Arc<Connections>,
    server: ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Tiny {
    pub fn start() -> Tiny {
        let env = "acme/prod".parse().expect("an env");
        let key = NewKey::generate(&env).expect("randomness");
        let scopes: Scopes = [Scope::RunsRead, Scope::RunsWrite].into_iter().collect();
        let stored = StoredKey { sha256: key.sha256, env, scopes, expires_at: None, revoked_at: None };
        let find = move |id: KeyId| {
            let found = (id == key.id).then(|| stored.clone());
            async move { Ok(found) }
        };
        let gate = web::Data::new(Gate::with_keys(Arc::new(find), Arc::new(SystemClock)));
        let (started, starting) = mpsc::channel();
        let connections = Connections::new(PATIENCE);
        let watched = connections.clone();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = serve(gate, watched).expect("a listener");
                started.send((server.1, server.0.handle())).expect("somebody who waits");
                server.0.await.expect("a server");
            });
        });
        let (address, server) = starting.recv().expect("a server");
        Tiny { address, key: key.token.reveal().to_owned(), connections, server, thread: Some(thread) }
    }

    pub fn connections(&self) -> usize {
        self.connections.count()
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        drop(self.server.stop(false));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    gate: web::Data<Gate>,
    connections: Arc<Connections>,
) -> std::io::Result<(actix_web::dev::Server, SocketAddr)> {
    actix_web::rt::spawn(connections.clone().watch());
    let server =
        HttpServer::new(move || App::new().wrap(Guard::new(Rules::default())).app_data(gate.clone()).configure(routes))
            .on_connect(move |io, data| connections.opened(io, data))
            .workers(2)
            .keep_alive(Duration::from_millis(600))
            .disable_signals()
            .shutdown_timeout(1)
            .client_request_timeout(Duration::from_millis(700))
            .client_disconnect_timeout(Duration::from_secs(1))
            .bind("127.0.0.1:0")?;
    let address = server.addrs()[0];
    Ok((server.run(), address))
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/v1/runs").get(list).post(create))
        .service(web::resource("/api/v1/runs/batch").post(create_many))
        .service(web::resource("/api/v1/runs/{id}").get(one))
        .service(web::resource("/large").get(async || vec![b'a'; LARGE_BYTES]));
}

fn limits() -> Limits {
    Limits { stall: Duration::from_millis(300), whole: Duration::from_millis(900), ..Limits::of(BODY_BYTES_MAX) }
}

async fn create(caller: Caller, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    if let Some(key) = request.headers().get("idempotency-key") {
        let good = key.to_str().is_ok_and(|key| (1..=255).contains(&key.len()));
        if !good {
            return Err(Problem::field("Idempotency-Key", "format", "must be 1 to 255 ASCII characters"));
        }
    }
    let bytes = body::read(payload, &request, &limits()).await?;
    let mut fields = Fields::parse(&bytes)?;
    read_run(&mut fields);
    fields.finish()?;
    Ok(HttpResponse::Created().content_type("application/json").body("{\"id\":\"run_\"}"))
}

async fn create_many(caller: Caller, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let bytes = body::read(payload, &request, &limits()).await?;
    let mut fields = Fields::parse(&bytes)?;
    for mut item in fields.items("runs", 1..=1_000) {
        read_run(&mut item);
        item.finish()?;
    }
    fields.reject_unknown();
    fields.finish()?;
    Ok(HttpResponse::Created().content_type("application/json").body("{}"))
}

fn read_run(fields: &mut Fields<'_>) {
    let year = Duration::from_secs(366 * 86_400);
    fields.text("task", 1..=128, Charset::Name);
    fields.require("payload");
    fields.raw("payload", BODY_BYTES_MAX);
    fields.integer("priority", -100..=100);
    fields.integer("max_attempts", 1..=100);
    fields.seconds("max_duration_seconds", Duration::from_secs(1)..=year);
    fields.tags("tags", 10, 128);
    let latest = Timestamp::from_millis(4_000_000_000_000);
    if fields.timestamp("not_before").is_some_and(|at| at > latest) {
        fields.refuse_field("not_before", "range", "is too far ahead");
    }
    fields.reject_unknown();
}

async fn list(caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let mut query = Query::parse(request.query_string())?;
    query.limit(50, 200);
    query.any_of("status", &["queued", "running"]);
    let cursor = query.text("cursor", 1..=512, Charset::Visible);
    query.reject_unknown();
    query.finish()?;
    if let Some(cursor) = cursor {
        let list = List { name: "runs", env: caller.env.as_str(), filter: "" };
        Cursors::new(&[7; 32]).open(&cursor, &list)?;
    }
    Ok(HttpResponse::Ok().content_type("application/json").body("{\"data\":[],\"has_more\":false}"))
}

async fn one(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    path_id("run_", &id)?;
    Err(Problem::not_found("run"))
}
