//! The running part of the command: node lease, actors, progress and signals, until the job is over.

use super::import;
use super::progress::Reporter;
use crate::chaos::Chaos;
use crate::cli::Progress;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::input::Kinds;
use crate::ops::Ops;
use crate::providers::Chosen;
use crate::session::lease;
use crate::signals::Signals;
use actors::config::{Settings, Supervision};
use actors::current::Current;
use actors::price::PriceTable;
use actors::supervisor::RegisterJob;
use actors::{Parts, Running};
use rand::SeedableRng;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::StoreError;
use storage::model::{BatchId, BatchState, Epoch, IdMint, JobId, NodeId, Timestamp};
use storage::store::{FailedOver, JobRow, Store};
use tokio::runtime::Runtime;
use tokio::time::{interval, timeout};

const LOOK_EVERY: Duration = Duration::from_millis(100);
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// How the drive of a job came to an end in this process.
pub enum Ended {
    JobIsOver,
    Suspended,
    Signalled(Exit),
}

/// Everything that runs.
pub struct Engine {
    parts: Parts,
    runtime: Arc<Runtime>,
    chosen: Chosen,
    supervision: Supervision,
    sweep_every: Duration,
    /// Answers until everything is over.
    _ops: Ops,
    lease: Duration,
}

impl Engine {
    pub fn new(
        store: Store,
        runtime: Arc<Runtime>,
        prices: Arc<PriceTable>,
        chosen: Chosen,
        config: &Config,
        ops: Ops,
    ) -> Engine {
        let supervision = Supervision {
            hang_after: Duration::from_secs_f64(config.supervisor.hang_seconds),
            max_restarts: config.supervisor.max_restarts,
            window: Duration::from_secs_f64(config.supervisor.window_seconds),
            ..Supervision::default()
        };
        let parts = Parts {
            store,
            settings: Current::new(Settings { following: chosen.following, ..Settings::default() }),
            prices: prices.into(),
            providers: Arc::new([(chosen.account.clone(), chosen.client.clone())].into()),
            llm: Arc::default(),
            runs: None,
            ids: Arc::new(Mutex::new(IdMint::new(rand::rngs::StdRng::from_rng(&mut rand::rng())))),
            in_hand: Arc::default(),
            lane: Arc::default(),
            draining: Arc::default(),
            runtime: runtime.handle().clone(),
        };
        let sweep_every = Duration::from_secs_f64(config.supervisor.sweep_seconds);
        Engine { parts, runtime, chosen, supervision, sweep_every, _ops: ops, lease: lease(config) }
    }

    pub fn store(&self) -> &Store {
        &self.parts.store
    }

    pub fn mint_job(&self) -> JobId {
        let mut ids = self.parts.ids.lock().unwrap_or_else(PoisonError::into_inner);
        JobId::mint(&mut ids, self.parts.store.now())
    }

    /// A batch's id, and the key that is its own.
    pub fn mint_batch(&self) -> (BatchId, String) {
        self.parts.mint_batch()
    }

    pub fn price_version(&self) -> String {
        self.parts.prices.now().version().to_owned()
    }

    pub async fn import(&self, path: &Path, job: &JobRow, kinds: &Kinds) -> Result<(), Failure> {
        import::import(path, job, kinds, &self.parts).await
    }

    /// What the store may have forgotten, if this is the first look since.
    pub async fn look_for_failover(&self) -> Option<FailedOver> {
        actors::node_lease::look_for_failover(&self.parts.store, self.lease).await
    }

    /// Takes a job's drive. A holder that is dead is waited out; one that renews its lease is alive, and the
    /// command is refused, naming it.
    pub async fn take(&self, job: &JobRow) -> Result<Epoch, Failure> {
        let store = &self.parts.store;
        let mut seen: Option<i64> = None;
        let mut look = interval(LOOK_EVERY);
        loop {
            look.tick().await;
            if let Some(epoch) = store.take_job(&job.id, store.now()).await? {
                return Ok(epoch);
            }
            let row = store.job(&job.id).await?.filter(|row| !row.state.is_terminal());
            let Some(holder) = row.and_then(|row| row.holder) else {
                return Err(Failure::new(Exit::Conflict, format!("{} has just ended; run the command again", job.id)));
            };
            let Some(node) = store.node_row(&NodeId::from_text(holder)).await? else { continue };
            if seen.is_some_and(|until| node.lease_until > until) {
                let what = format!("{} is driven by process {} on {} (node {})", job.id, node.pid, node.host, node.id);
                return Err(Failure::new(Exit::Conflict, what).hint("wait for it to end, or stop it first"));
            }
            if seen.is_none() {
                say!("{} was driven by process {} on {}; waiting for its lease to end", job.id, node.pid, node.host);
            }
            seen = Some(node.lease_until);
        }
    }

    /// Runs the actors until the job is over, or something else ends this process's part in it.
    pub async fn drive(&mut self, job: &JobRow, progress: Progress) -> Result<Ended, Failure> {
        self.parts.settings = Current::new(Settings {
            supervision: self.supervision,
            following: self.chosen.following,
            sweep_every: self.sweep_every,
            lease: self.lease,
            pool: Some(job.pool.clone()),
            ..Settings::default()
        });
        let running = actors::start(self.parts.clone(), self.runtime.clone());
        let chaos = Chaos::start(&running)?;
        let register =
            RegisterJob { job: job.id.clone(), epoch: job.epoch, pool: job.pool.clone(), source: job.source };
        let registered = running.supervisor.send(register).await;
        if let Ok(Err(refused)) = registered {
            running.stop().await;
            return Err(Failure::new(Exit::Conflict, refused));
        }
        let ended = self.watch(job, &running, progress).await;
        if let Some(chaos) = chaos {
            chaos.report(&running).await;
        }
        running.stop().await;
        ended
    }

    async fn watch(&self, job: &JobRow, running: &Running, progress: Progress) -> Result<Ended, Failure> {
        let store = &self.parts.store;
        let mut signals = Signals::listen()?;
        let mut gave_up = running.gave_up.clone();
        let began = store.now();
        let counts = store.pool_counts(&job.pool).await?;
        let mut reporter = Reporter::new(progress, &counts, job.ceilings.max_usd());
        let mut look = interval(LOOK_EVERY);
        let mut lease = tokio::spawn(keep_lease(store.clone(), self.lease));
        let ended = loop {
            tokio::select! {
                _ = look.tick() => {
                    if let Some(ended) = self.look(job, &mut reporter, began).await? {
                        break ended;
                    }
                }
                exit = signals.next() => break Ended::Signalled(exit),
                lost = &mut lease => return Err(lost.map_or_else(|error| Failure::new(Exit::Unexpected, error), Failure::from)),
                Ok(()) = gave_up.changed() => {
                    let reason = gave_up.borrow().as_ref().map(ToString::to_string).unwrap_or_default();
                    let failure = Failure::new(Exit::GaveUp, format!("the supervisor gave up: {reason}"));
                    return Err(failure.hint("nothing is lost; run the same command again to continue"));
                }
            }
        };
        lease.abort();
        reporter.finish();
        if matches!(ended, Ended::Signalled(_)) {
            say!("stopping; once more to stop at once");
            signals.once_more_ends_at_once();
        }
        Ok(ended)
    }

    async fn look(&self, job: &JobRow, reporter: &mut Reporter, began: Timestamp) -> Result<Option<Ended>, Failure> {
        let store = &self.parts.store;
        let Some(row) = store.job(&job.id).await? else { return Ok(None) };
        let in_flight = self.parts.batches_in_flight().await?;
        reporter.show(&row, &store.pool_counts(&job.pool).await?, in_flight.len(), store.now());
        if row.state == storage::model::JobState::Suspended {
            return Ok(Some(Ended::Suspended));
        }
        // A finished job's batches are collected as far as they have come: each is asked about once.
        let asked_about = |next_at: Timestamp, state: BatchState| {
            next_at > began && matches!(state, BatchState::Submitted | BatchState::Cancelling | BatchState::Unknown)
        };
        let settled = in_flight.iter().all(|batch| asked_about(batch.next_at, batch.state));
        Ok((row.state.is_terminal() && (settled || job.state != row.state)).then_some(Ended::JobIsOver))
    }

    /// Ends in the order in which nothing is written after its store is closed.
    pub async fn close(self) {
        let Engine { parts, chosen, .. } = self;
        let idle = async {
            let mut look = interval(Duration::from_millis(5));
            while !parts.in_hand.is_empty() {
                look.tick().await;
            }
        };
        let _ = timeout(STOP_WITHIN, idle).await;
        // A store that is gone already has nothing to leave; the lease then lapses by itself.
        let _ = timeout(STOP_WITHIN, parts.store.leave()).await;
        parts.store.close().await;
        if let Some(sim) = chosen.sim {
            sim.stop();
        }
    }
}

/// Renews the node's lease three times within it, and returns once it is lost.
async fn keep_lease(store: Store, lease: Duration) -> StoreError {
    let mut until = store.now() + lease;
    let mut renew = interval(lease / 3);
    loop {
        renew.tick().await;
        match timeout(lease / 3, store.renew_lease(lease)).await {
            Ok(Ok(renewed)) => {
                until = renewed.until;
                let _ = actors::node_lease::look_for_failover(&store, lease / 3).await;
            }
            Ok(Err(error @ StoreError::Moved { .. })) => return error,
            Ok(Err(_)) | Err(_) if store.now() < until - lease / 6 => {}
            Ok(Err(_)) | Err(_) => return StoreError::LeaseLost { until },
        }
    }
}
