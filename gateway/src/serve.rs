//! `tidegate serve`: the API, the actors that carry runs out, and the ops listener, until a signal.

mod keys;
mod reload;

use crate::api::{Api, routes};
use crate::chaos::Chaos;
use crate::cli::{Auth, Common, Role, ServeArgs};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::http::connections::{Connections, Patience};
use crate::http::guard::{self, Guard, Rules};
use crate::http::keys::Gate;
use crate::ops::{Ops, Readiness};
use crate::signals::{self, Signals};
use crate::telemetry::{self, Exporter};
use crate::{providers, session};
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use actors::config::{Settings, Supervision};
use actors::current::Current;
use actors::runs::RunParts;
use actors::{Parts, Roles, Running, node_lease};
use rand::SeedableRng;
use reload::Reloader;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::Store;
use storage::model::IdMint;
use tokio::runtime::Runtime;
use tokio::time::{interval, timeout};

/// What SIGHUP does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHangup {
    /// The settings are read again.
    Reload,
    /// The process ends: its settings are nowhere to be read.
    End,
}

/// Runs the command on a runtime and an actix system of its own.
pub fn run(args: &ServeArgs, common: &Common, config: &Config, on_hangup: OnHangup) -> Result<Exit, Failure> {
    telemetry::init(false, config.log.level)?;
    let runtime = session::runtime()?;
    let system = actix::System::with_tokio_rt({
        let runtime = runtime.clone();
        move || runtime
    });
    system.block_on(serve(args, common, config, on_hangup, runtime))
}

/// A server without keys speaks to this machine only.
fn check_address(listen: SocketAddr, auth: Option<Auth>, keys: bool) -> Result<bool, Failure> {
    let checks = match auth {
        Some(Auth::Keys) => true,
        Some(Auth::None) => return Ok(false),
        None => keys,
    };
    if !checks && !listen.ip().is_loopback() {
        let what = format!("--listen {listen}: without keys anybody who reaches this address could run anything");
        let failure = Failure::usage(what);
        return Err(failure.hint("make a key with `tidegate keys create`, or say --auth none if that is meant"));
    }
    Ok(checks)
}

async fn serve(
    args: &ServeArgs,
    common: &Common,
    config: &Config,
    on_hangup: OnHangup,
    runtime: Arc<Runtime>,
) -> Result<Exit, Failure> {
    if let Err(error) = actors::executor::exec::shield() {
        say!("warning: programs can look into this process: {error}");
    }
    let listen = args.listen.unwrap_or(config.server.listen);
    let hidden = crate::hidden::from_programs(common, config)?;
    if let Some(why) = crate::hidden::seen_because(&hidden, config) {
        say!("warning: programs can read this node's own files: {why}; `tidegate doctor` says what helps");
    }
    let tasks = crate::tasks::make(config, &hidden)?;
    let store = session::open_store(common, config).await?;
    let checked = check_address(listen, args.auth, store.has_keys().await?)?;
    // Before anything is said to listen: whoever reads that may send a signal at once.
    let signals = Signals::listen()?;
    let hangups = (on_hangup == OnHangup::Reload).then(signals::hangups).transpose()?;
    let readiness = Arc::new(Readiness::default());
    let ops = Ops::serve(args.ops_listen.unwrap_or(config.server.ops_listen), readiness.clone())?;
    let roles = args.roles();
    let mut settings = config.sections().settings();
    if !roles.contains(&Role::Worker) {
        settings.slots = 0;
    }
    let cannot = |error| Failure::new(Exit::Unexpected, format!("cannot start a thread: {error}"));
    let (traces, exporter) = Exporter::start(&config.telemetry, store.node().as_str(), runtime.handle());
    let runs = RunParts::start(store.clone(), settings, tasks, traces, runtime.handle().clone()).map_err(cannot)?;
    readiness.follow(&runs, &roles);
    runs.gates.drainer_off.store(!config.buffer.drainer_enabled, Ordering::Release);
    let parts = parts(&store, config, &runs, &runtime)?;
    let for_api = parts.clone();
    if let Some(hangups) = hangups {
        let (runs, batches) = (runs.settings.clone(), parts.settings.clone());
        runtime.spawn(Reloader::new(common, config, runs, batches, parts.prices.clone()).listen(hangups));
    }
    let of = |role| roles.contains(&role);
    let on = Roles {
        worker: of(Role::Worker),
        poller: of(Role::Poller),
        sweeper: of(Role::Sweeper) && config.sweeps.enabled,
    };
    // Before anything could be bought.
    let _ = node_lease::look_for_failover(&store, session::lease(config)).await;
    let running = actors::start_runs(parts, runs.clone(), on, runtime.clone());
    let chaos = Chaos::start(&running)?;
    let draining = Arc::new(AtomicBool::new(false));
    let http = if roles.contains(&Role::Api) {
        let secret = keys::digest(&store.secret("cursors", &fresh_secret()).await?).unwrap_or_default();
        let api = Api::new(runs.clone(), running.supervisor.clone(), config, &secret, draining.clone(), for_api);
        Some(Http::start(listen, api, keys::gate(checked, &runs), config)?)
    } else {
        None
    };
    readiness.ready.store(true, Ordering::Release);
    let ended = watch(signals, &running, &runs, session::lease(config)).await;
    readiness.ready.store(false, Ordering::Release);
    draining.store(true, Ordering::Release);
    if let Some(chaos) = chaos {
        chaos.report(&running).await;
    }
    stop(http, running, &runs, store).await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    drop(ops);
    ended
}

fn parts(store: &Store, config: &Config, runs: &RunParts, runtime: &Arc<Runtime>) -> Result<Parts, Failure> {
    let supervision = Supervision {
        hang_after: Duration::from_secs_f64(config.supervisor.hang_seconds),
        max_restarts: config.supervisor.max_restarts,
        window: Duration::from_secs_f64(config.supervisor.window_seconds),
        ..Supervision::default()
    };
    let (max_usd_per_day, env_usd_per_day) = config.day_caps();
    let configured = providers::configured(config)?;
    let llm = crate::llm::tasks(config, &configured);
    Ok(Parts {
        store: store.clone(),
        settings: Current::new(Settings {
            supervision,
            followings: configured.followings,
            sweep_every: Duration::from_secs_f64(config.supervisor.sweep_seconds),
            keep_runs: config.sweeps.keep_runs(),
            keep_audit: config.sweeps.keep_audit(),
            max_usd_per_day,
            env_usd_per_day,
            repair_enabled: config.sweeps.repair_enabled,
            resume_enabled: config.sweeps.resume_enabled,
            lease: session::lease(config),
            ..Settings::default()
        }),
        prices: crate::process::prices(config)?.into(),
        providers: Arc::new(configured.clients),
        llm: Arc::new(llm),
        runs: Some(runs.clone()),
        ids: Arc::new(Mutex::new(IdMint::new(rand::rngs::StdRng::from_rng(&mut rand::rng())))),
        in_hand: Arc::default(),
        lane: Arc::default(),
        draining: runs.gates.draining.clone(),
        runtime: runtime.handle().clone(),
    })
}

/// 256 random bits in hex digits.
fn fresh_secret() -> String {
    use rand::RngExt;
    let mut rng = rand::rng();
    format!("{:032x}{:032x}", rng.random::<u128>(), rng.random::<u128>())
}

/// How long an idle connection is kept for its next request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// What a connection may do; a proxy in front may well have many.
const PATIENCE: Patience =
    Patience { between: Duration::from_secs(90), reading: Duration::from_secs(30), per_address_max: 2_000 };

/// The HTTP listener while it runs.
struct Http(ServerHandle);

impl Http {
    fn start(listen: SocketAddr, api: Api, gate: Gate, config: &Config) -> Result<Http, Failure> {
        let (api, gate) = (web::Data::new(api), web::Data::new(gate));
        let connections = Connections::new(PATIENCE);
        actix_web::rt::spawn(connections.clone().watch());
        let server = HttpServer::new(move || {
            App::new().app_data(api.clone()).app_data(gate.clone()).wrap(Guard::new(Rules::default())).configure(routes)
        })
        .on_connect(move |io, data| connections.opened(io, data))
        .workers(config.server.threads)
        .max_connections(10_000)
        .client_request_timeout(Duration::from_secs(10))
        .client_disconnect_timeout(guard::CLOSE_WITHIN)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(10)
        .disable_signals()
        .bind(listen)
        .map_err(|error| Failure::usage(format!("--listen {listen}: cannot listen: {error}")))?;
        for addr in server.addrs() {
            say!("listening on http://{addr}");
        }
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Ok(Http(handle))
    }
}

/// Until a signal, or until this process may not go on.
async fn watch(mut signals: Signals, running: &Running, runs: &RunParts, lease: Duration) -> Result<Exit, Failure> {
    let mut gave_up = running.gave_up.clone();
    let keeper = runs.runtime.spawn(node_lease::keep(runs.clone(), lease));
    tokio::select! {
        _ = signals.next() => {}
        gone = keeper => {
            // What it has in hand is somebody else's by now.
            runs.gates.no_claims.store(true, Ordering::Release);
            runs.stop_all(actors::executor::Stop::Lost);
            let what = match gone {
                Ok(error) => format!("this node was declared gone: {error}"),
                Err(error) => format!("the lease keeper ended: {error}"),
            };
            return Err(Failure::new(Exit::Conflict, what).hint("start it again; its runs go on elsewhere"));
        }
        Ok(()) = gave_up.changed() => {
            let reason = gave_up.borrow().as_ref().map(ToString::to_string).unwrap_or_default();
            let failure = Failure::new(Exit::GaveUp, format!("the supervisor gave up: {reason}"));
            return Err(failure.hint("nothing is lost; start it again to carry on"));
        }
    }
    say!("stopping; once more to stop at once");
    signals.once_more_ends_at_once();
    Ok(Exit::Done)
}

/// Ends in the order in which nothing is lost: no new requests, no new claims, what runs comes to its end or is
/// given back, what is settled is written, and only then the store is closed (invariant 38).
async fn stop(http: Option<Http>, running: Running, runs: &RunParts, store: Store) {
    if let Some(Http(handle)) = http {
        handle.stop(true).await;
    }
    runs.gates.no_claims.store(true, Ordering::Release);
    runs.queue.give_back();
    let idle = until(|| runs.in_hand.is_empty());
    if timeout(runs.settings.now().drain_within, idle).await.is_err() {
        say!("{} runs did not end in time; they are given back", runs.in_hand.len());
        runs.stop_all(actors::executor::Stop::Lost);
    }
    // The actors stay until what they began has ended, and whatever one had between two hands is let go of with it.
    let _ = timeout(Duration::from_secs(10), until(|| !runs.settler.has_attempts())).await;
    running.stop().await;
    let _ = timeout(Duration::from_secs(10), until(|| runs.is_quiet())).await;
    // A store that is gone already has nothing to leave; the lease then lapses by itself.
    let _ = timeout(Duration::from_secs(5), store.leave()).await;
    // One that is frozen never gives back the connections that wait for it.
    let _ = timeout(Duration::from_secs(5), store.close()).await;
}

async fn until(so: impl Fn() -> bool) {
    let mut look = interval(Duration::from_millis(10));
    while !so() {
        look.tick().await;
    }
}
