//! The API under `/api/v1`: each handler reads what came strictly, makes one call, and writes the answer.
//!
//! Handlers run on threads that own no database connection: store work is a task on the shared runtime, and
//! runs are taken in by the intake, which commits for many requests at once.

pub mod new_run;
pub mod view;
mod create;
mod gate;
mod quota;
mod trace;
mod read;
mod change;
mod output;
mod events;
mod queues;
mod pull;
mod buffer;
mod buffer_entries;
mod fleet;
mod tree;
mod audit;
mod jobs;
mod batches;
mod sessions;
mod sweeps;
mod docs;
mod queries;

pub use gate::Gate;

use crate::config::Config;
use crate::http::body;
use crate::http::cursor::Cursors;
use crate::http::fields::Fields;
use crate::http::problem::Problem;
use crate::http::rate::{Limiter, Quota, Uptime};
use crate::http::room::{Body, Room};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, web};
use actors::Parts;
use actors::runs::{IntakeError, RunParts, Verdict};
use actors::supervisor::Supervisor;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::StoreError;
use storage::model::{IdMint, JobId, RunId, SessionId, Timestamp};
use storage::store::{Accepted, NewRecord, SessionRules};

/// What handlers share.
pub struct Api {
    pub runs: RunParts,
    pub supervisor: actix::Addr<Supervisor>,
    pub gate: Gate,
    quotas: quota::Quotas,
    /// Requests for runs by env, where they are limited at all.
    limiter: Option<Limiter>,
    uptime: Uptime,
    cursors: Cursors,
    pub chaos: bool,
    /// Runs that a node with workers carries out at once.
    slots: usize,
    pub body_limits: body::Limits,
    room: Room,
    pub idempotency: Duration,
    pub draining: Arc<std::sync::atomic::AtomicBool>,
    ids: Mutex<IdMint<rand::rngs::StdRng>>,
    /// The types of sessions that may be opened.
    sessions: BTreeMap<String, SessionRules>,
    /// What the actors of batches have too: `llm` tasks, prices and providers.
    parts: Parts,
}

impl Api {
    pub fn new(
        runs: RunParts,
        supervisor: actix::Addr<Supervisor>,
        config: &Config,
        secret: &[u8; 32],
        draining: Arc<std::sync::atomic::AtomicBool>,
        parts: Parts,
    ) -> Api {
        use rand::SeedableRng;
        Api {
            gate: Gate::new(config, runs.settings.clone()),
            quotas: quota::Quotas::default(),
            limiter: limiter(config.server.requests_per_second),
            uptime: Uptime::begin(),
            cursors: Cursors::new(secret),
            runs,
            supervisor,
            chaos: config.chaos.enabled,
            slots: config.sections().settings().slots,
            body_limits: body::Limits::of(config.server.body_limit_bytes),
            room: Room::default(),
            idempotency: Duration::from_secs_f64(config.server.idempotency_hours * 3_600.0),
            draining,
            ids: Mutex::new(IdMint::new(rand::rngs::StdRng::from_rng(&mut rand::rng()))),
            sessions: session_rules(config),
            parts,
        }
    }

    pub fn now(&self) -> Timestamp {
        self.runs.store.now()
    }

    pub fn mint(&self, now: Timestamp) -> RunId {
        RunId::mint(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    pub fn mint_job(&self, now: Timestamp) -> JobId {
        JobId::mint(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    pub fn mint_session(&self, now: Timestamp) -> SessionId {
        SessionId::mint(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// The whole of a JSON body, within the limits of size and time, and of what is in memory at once.
    pub async fn body(&self, payload: web::Payload, request: &HttpRequest) -> Result<Body, Problem> {
        let most = self.body_limits.bytes_max;
        let seat = self.room.enter(body::expected(request, most)?.unwrap_or(most)).await?;
        Ok(Body { bytes: body::read(payload, request, &self.body_limits).await?, seat })
    }

    /// The same where the body may be left away.
    pub async fn optional_body(&self, payload: web::Payload, request: &HttpRequest) -> Result<Body, Problem> {
        let most = self.body_limits.bytes_max;
        let seat = self.room.enter(body::expected(request, most)?.unwrap_or(most)).await?;
        Ok(Body { bytes: body::read_optional(payload, request, &self.body_limits).await?, seat })
    }

    /// For a request that takes no fields: what was sent all the same was meant to do something. `null` says nothing.
    pub async fn no_fields(&self, payload: web::Payload, request: &HttpRequest) -> Result<(), Problem> {
        let body = self.optional_body(payload, request).await?;
        if body.bytes.trim_ascii() == b"null" {
            return Ok(());
        }
        let mut fields = Fields::parse_or_empty(&body)?;
        fields.reject_unknown();
        fields.finish()
    }

    /// Store work for a handler; its errors become problems.
    pub async fn store<T, W, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, StoreError>> + Send,
        F: FnOnce(RunParts) -> W + Send + 'static,
    {
        self.runs.ask(work).await.map_err(|error| Problem::from(&error))
    }

    /// Takes runs in for a handler.
    pub async fn take(&self, records: Vec<NewRecord>) -> Result<Vec<Verdict>, Problem> {
        let count = records.len();
        self.runs.take_in(records).await.map_err(|error| create::refused(error, count))
    }

    /// Takes one run in.
    pub async fn take_one(&self, record: NewRecord) -> Result<Accepted, Problem> {
        let verdict = self.take(vec![record]).await?.pop().unwrap_or(Err(IntakeError::NoAnswer));
        verdict.map_err(|error| create::refused(error, 1))
    }
}

/// Graphs that are wrong were refused when the configuration was read.
fn session_rules(config: &Config) -> BTreeMap<String, SessionRules> {
    let rules = config.sessions.iter().filter_map(|(name, session)| Some((name.clone(), session.rules().ok()?)));
    rules.collect()
}

/// A second's worth of requests may come at once.
fn limiter(per_second: f64) -> Option<Limiter> {
    // Casting a float saturates: a rate beyond all counts is no limit.
    let rate = per_second as u32;
    (rate > 0).then(|| Limiter::new(Quota::per_second(rate, rate), 10_000))
}

/// All routes, in one place; the OpenAPI document is held against this table.
pub const ROUTES: &[(&str, &str)] = &[
    ("POST", "/runs"),
    ("GET", "/runs"),
    ("POST", "/runs/batch"),
    ("GET", "/runs/{id}"),
    ("PATCH", "/runs/{id}"),
    ("POST", "/runs/{id}/cancel"),
    ("POST", "/runs/{id}/replay"),
    ("GET", "/runs/{id}/output"),
    ("GET", "/runs/{id}/events"),
    ("GET", "/events"),
    ("GET", "/tasks"),
    ("GET", "/queues"),
    ("POST", "/queues/{queue}/pause"),
    ("POST", "/queues/{queue}/resume"),
    ("GET", "/workers"),
    ("POST", "/workers/lease"),
    ("POST", "/workers/heartbeat"),
    ("POST", "/workers/output"),
    ("POST", "/workers/complete"),
    ("POST", "/workers/fail"),
    ("POST", "/workers/release"),
    ("GET", "/buffer"),
    ("GET", "/buffer/entries"),
    ("POST", "/jobs"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{id}"),
    ("POST", "/jobs/{id}/suspend"),
    ("POST", "/jobs/{id}/resume"),
    ("POST", "/jobs/{id}/cancel"),
    ("GET", "/jobs/{id}/events"),
    ("GET", "/batches"),
    ("GET", "/batches/{id}"),
    ("POST", "/batches/{id}/cancel"),
    ("POST", "/batches/{id}/adopt"),
    ("POST", "/batches/{id}/abandon"),
    ("POST", "/sessions"),
    ("GET", "/sessions"),
    ("GET", "/sessions/{id}"),
    ("POST", "/sessions/{id}/transition"),
    ("POST", "/sessions/{id}/complete-round"),
    ("POST", "/sessions/{id}/close"),
    ("GET", "/sweeps"),
    ("POST", "/sweeps/{kind}/run"),
    ("GET", "/nodes"),
    ("POST", "/nodes/{id}/drain"),
    ("GET", "/actors"),
    ("POST", "/actors/{name}/kill"),
    ("GET", "/audit"),
    ("GET", "/autoscale"),
];

/// Mounts the routes.
pub fn routes(config: &mut web::ServiceConfig) {
    let resource = |path: &str| web::resource(path.to_owned());
    // In this order, because each is tried in turn: first what is asked for thousands of times a second.
    config.service(
        web::scope("/api/v1")
            .service(resource("/runs").route(web::post().to(create::one)).route(web::get().to(read::list)))
            .service(resource("/runs/batch").route(web::post().to(create::batch)))
            .service(resource("/runs/{id}").route(web::get().to(read::one)).route(web::patch().to(change::patch)))
            .service(resource("/runs/{id}/cancel").route(web::post().to(change::cancel)))
            .service(resource("/runs/{id}/replay").route(web::post().to(change::replay)))
            .service(resource("/runs/{id}/output").route(web::get().to(output::read)))
            .service(resource("/runs/{id}/events").route(web::get().to(events::of_run)))
            .service(resource("/events").route(web::get().to(events::of_env)))
            .service(resource("/tasks").route(web::get().to(queues::tasks)))
            .service(resource("/queues").route(web::get().to(queues::list)))
            .service(resource("/queues/{queue}/pause").route(web::post().to(queues::pause)))
            .service(resource("/queues/{queue}/resume").route(web::post().to(queues::resume)))
            .service(resource("/workers").route(web::get().to(pull::list)))
            .service(resource("/workers/lease").route(web::post().to(pull::lease)))
            .service(resource("/workers/heartbeat").route(web::post().to(pull::heartbeat)))
            .service(resource("/workers/output").route(web::post().to(pull::output)))
            .service(resource("/workers/complete").route(web::post().to(pull::complete)))
            .service(resource("/workers/fail").route(web::post().to(pull::fail)))
            .service(resource("/workers/release").route(web::post().to(pull::release)))
            .service(resource("/buffer").route(web::get().to(buffer::depths)))
            .service(resource("/buffer/entries").route(web::get().to(buffer_entries::list)))
            .service(resource("/jobs").route(web::post().to(jobs::create)).route(web::get().to(jobs::list)))
            .service(resource("/jobs/{id}").route(web::get().to(jobs::one)))
            .service(resource("/jobs/{id}/suspend").route(web::post().to(jobs::suspend)))
            .service(resource("/jobs/{id}/resume").route(web::post().to(jobs::resume)))
            .service(resource("/jobs/{id}/cancel").route(web::post().to(jobs::cancel)))
            .service(resource("/jobs/{id}/events").route(web::get().to(jobs::of_job)))
            .service(resource("/batches").route(web::get().to(batches::list)))
            .service(resource("/batches/{id}").route(web::get().to(batches::one)))
            .service(resource("/batches/{id}/cancel").route(web::post().to(batches::cancel)))
            .service(resource("/batches/{id}/adopt").route(web::post().to(batches::adopt)))
            .service(resource("/batches/{id}/abandon").route(web::post().to(batches::abandon)))
            .service(resource("/sessions").route(web::post().to(sessions::open)).route(web::get().to(sessions::list)))
            .service(resource("/sessions/{id}").route(web::get().to(sessions::one)))
            .service(resource("/sessions/{id}/transition").route(web::post().to(sessions::transition)))
            .service(resource("/sessions/{id}/complete-round").route(web::post().to(sessions::complete_round)))
            .service(resource("/sessions/{id}/close").route(web::post().to(sessions::close)))
            .service(resource("/sweeps").route(web::get().to(sweeps::list)))
            .service(resource("/sweeps/{kind}/run").route(web::post().to(sweeps::run)))
            .service(resource("/nodes").route(web::get().to(fleet::nodes)))
            .service(resource("/nodes/{id}/drain").route(web::post().to(fleet::drain)))
            .service(resource("/actors").route(web::get().to(tree::list)))
            .service(resource("/actors/{name}/kill").route(web::post().to(tree::kill)))
            .service(resource("/audit").route(web::get().to(audit::list)))
            .service(resource("/autoscale").route(web::get().to(fleet::autoscale)))
            .wrap(from_fn(queries::check)),
    );
    docs::routes(config);
}
