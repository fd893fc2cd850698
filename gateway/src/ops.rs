//! The ops listener: `/livez`, which never touches the store, and `/metrics` in Prometheus text.

mod process;

use crate::cli::Role;
use crate::exit::{Exit, Failure};
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};
use actors::metrics::{BUILD_INFO, DB_POOL_CONNECTIONS, NODE_INFO, WORKER_SLOTS, WORKER_SLOTS_BUSY};
use actors::runs::{LocalQueue, Presence, RunParts};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use storage::Store;

/// Histograms hold every observation until somebody scrapes or this runs.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Whether requests are welcome here: after the start, before the stop, and while the store is there and nobody has
/// asked this node to drain.
#[derive(Default)]
pub struct Readiness {
    pub ready: AtomicBool,
    node: OnceLock<Node>,
}

/// What is asked about this node whenever somebody wants to know.
struct Node {
    store: Store,
    presence: Presence,
    draining: Arc<AtomicBool>,
    queue: Arc<LocalQueue>,
    /// Runs that it can carry out at once.
    slots: usize,
}

impl Node {
    fn is_out(&self) -> bool {
        self.presence.is_away() || self.draining.load(Ordering::Acquire)
    }

    fn tell(&self) {
        metrics::gauge!(WORKER_SLOTS).set(self.slots as f64);
        metrics::gauge!(WORKER_SLOTS_BUSY).set(self.queue.at_work() as f64);
        let (used, idle) = self.store.pool_connections();
        metrics::gauge!(DB_POOL_CONNECTIONS, "state" => "used").set(f64::from(used));
        metrics::gauge!(DB_POOL_CONNECTIONS, "state" => "idle").set(f64::from(idle));
    }
}

impl Readiness {
    fn of_a_command() -> Readiness {
        Readiness { ready: AtomicBool::new(true), node: OnceLock::new() }
    }

    /// From now on it is not ready while the store is away, nor once it drains.
    pub fn follow(&self, runs: &RunParts, roles: &[Role]) {
        let node = Node {
            store: runs.store.clone(),
            presence: runs.presence.clone(),
            draining: runs.gates.draining.clone(),
            queue: runs.queue.clone(),
            slots: runs.settings.now().slots,
        };
        let settings = runs.settings.now();
        let queues = runs.tasks.iter().map(|(_, task)| task.queue.as_str());
        actors::metrics::reserve("queue", settings.queues.keys().map(String::as_str).chain(queues));
        actors::metrics::reserve("task", runs.tasks.iter().map(|(name, _)| name));
        let roles: Vec<&str> = roles.iter().map(|role| role.word()).collect();
        let labels = [("node", runs.store.node().as_str().to_owned()), ("roles", roles.join(","))];
        metrics::gauge!(NODE_INFO, &labels).set(1.0);
        tell_build(&runs.store);
        // Only the first one counts, and there is no second.
        let _ = self.node.set(node);
    }

    fn has_started(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn is_ready(&self) -> bool {
        self.has_started() && !self.node.get().is_some_and(Node::is_out)
    }
}

async fn ready(readiness: web::Data<Readiness>) -> HttpResponse {
    answer(readiness.is_ready())
}

async fn started(readiness: web::Data<Readiness>) -> HttpResponse {
    answer(readiness.has_started())
}

fn answer(yes: bool) -> HttpResponse {
    if yes {
        HttpResponse::Ok().body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable().insert_header(("Retry-After", "1")).body("not ready\n")
    }
}

/// The listener while it runs.
pub struct Ops {
    server: Option<ServerHandle>,
}

impl Ops {
    /// Starts nothing without an address; a port that is taken is an error with its cause.
    pub fn start(listen: Option<SocketAddr>) -> Result<Ops, Failure> {
        match listen {
            None => Ok(Ops { server: None }),
            Some(listen) => Ops::serve(listen, Arc::new(Readiness::of_a_command())),
        }
    }

    /// The same for a server, which is not ready before it is.
    pub fn serve(listen: SocketAddr, readiness: Arc<Readiness>) -> Result<Ops, Failure> {
        let cannot = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(Exit::Unexpected, format!("--ops-listen {listen}: {what}: {error}"))
        };
        let handle = recorder().map_err(|error| cannot("cannot record metrics", &error))?;
        actors::metrics::describe();
        actors::metrics::begin();
        let upkeep = handle.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(UPKEEP_EVERY);
            loop {
                every.tick().await;
                upkeep.run_upkeep();
            }
        });
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(handle.clone()))
                .app_data(web::Data::from(readiness.clone()))
                .route("/livez", web::get().to(|| async { HttpResponse::Ok().body("ok\n") }))
                .route("/readyz", web::get().to(ready))
                .route("/startupz", web::get().to(started))
                .route("/metrics", web::get().to(scrape))
        })
        .workers(1)
        .disable_signals()
        .bind(listen)
        .map_err(|error| cannot("cannot listen", &error))?;
        for addr in server.addrs() {
            say!("ops on http://{addr}/metrics");
        }
        let server = server.run();
        let stop = server.handle();
        actix_web::rt::spawn(server);
        Ok(Ops { server: Some(stop) })
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            actix_web::rt::spawn(server.stop(false));
        }
    }
}

fn recorder() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in actors::metrics::histograms() {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    builder.install_recorder()
}

/// Says what runs here, and on what.
pub fn tell_build(store: &Store) {
    let kind = if store.is_sqlite() { "sqlite" } else { "postgres" };
    let commit = option_env!("TIDEGATE_COMMIT").unwrap_or("unknown");
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "commit" => commit, "store" => kind).set(1.0);
}

async fn scrape(handle: web::Data<PrometheusHandle>, readiness: web::Data<Readiness>) -> HttpResponse {
    if let Some(node) = readiness.node.get() {
        node.tell();
    }
    let text = handle.render() + &process::text();
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
}
