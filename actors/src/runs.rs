//! What the actors that carry runs out share: the tasks, the runs in hand, and the doors to the store.

mod intake;
mod local_queue;
mod lanes;
mod settler;
mod recorder;
mod breaker;
mod courtesy;
mod presence;
mod neighbours;
mod following;
mod fate;
mod express;
mod tasks;
mod settings;
mod pace;
mod under_way;
mod replay;
mod turns;
mod waits;

pub use breaker::Breaker;
pub use courtesy::Courtesy;
pub use fate::fate;
pub use following::{Elsewhere, Following};
pub use intake::{Intake, IntakeError, StoreHealth, Verdict};
pub use lanes::LaneIndex;
pub use local_queue::{Held, LocalQueue};
pub use neighbours::Neighbours;
pub use pace::Pace;
pub use presence::Presence;
pub use recorder::Recorder;
pub use replay::replay;
pub use settings::{BufferSettings, EnvSettings, QueueSettings, RunSettings};
pub use settler::{Settled, Settler};
pub use tasks::{PayloadCheck, Task, TaskKind, Tasks};
pub use waits::tell_wait;

use crate::current::Current;
use crate::executor::Stop;
use crate::sweeper::Looks;
use crate::traces::Traces;
use dashmap::DashMap;
use express::Express;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use storage::model::RunId;
use storage::store::NewRecord;
use storage::{Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use under_way::UnderWay;

/// Shared by clones. What is in memory here is hints and hands; the truth is in the store.
#[derive(Clone)]
pub struct RunParts {
    pub store: Store,
    pub settings: Current<RunSettings>,
    pub tasks: Arc<Tasks>,
    pub lanes: Arc<LaneIndex>,
    pub queue: Arc<LocalQueue>,
    pub settler: Settler,
    pub recorder: Recorder,
    pub intake: Intake,
    /// Rung when there may be something to drain.
    pub doorbell: Arc<Notify>,
    /// How to stop each run that this node is carrying out.
    pub in_hand: Arc<DashMap<RunId, watch::Sender<Option<Stop>>>>,
    pub gates: Arc<Gates>,
    pub courtesy: Arc<Courtesy>,
    pub presence: Presence,
    pub neighbours: Neighbours,
    pub traces: Traces,
    pub(crate) looks: Arc<Looks>,
    /// Store work that outlives who asked for it.
    under_way: Arc<AtomicUsize>,
    pub runtime: Handle,
}

/// What is let happen on this node now.
#[derive(Debug, Default)]
pub struct Gates {
    /// No run is claimed any more.
    pub no_claims: AtomicBool,
    /// This node's lease could not be kept: what it claims it could not begin, until it has it again.
    pub cut_off: AtomicBool,
    /// No run is let through from the buffer.
    pub drainer_off: AtomicBool,
    /// There may be runs in the buffer; it is not asked otherwise.
    pub buffered: AtomicBool,
    /// This node has just been cut off from the store, and so may the others have been: nobody is declared gone
    /// before all have had the time to renew.
    pub no_burials: AtomicBool,
    /// This node takes nothing on any more: somebody asked it to drain. Shared with the actors of batches.
    pub draining: Arc<AtomicBool>,
    /// Something may be ready that nobody here knows of.
    look_anew: AtomicBool,
    /// `(env, queue)` pairs that are paused, as this node knows them.
    paused: RwLock<HashSet<(String, String)>>,
}

impl Gates {
    pub fn may_claim(&self) -> bool {
        !self.no_claims.load(Ordering::Acquire) && !self.cut_off.load(Ordering::Acquire)
    }

    /// Something may be ready that nobody here knows of.
    pub fn look_anew(&self) {
        self.look_anew.store(true, Ordering::Release);
    }

    /// Whether that was said since it was last asked.
    pub(crate) fn takes_look_anew(&self) -> bool {
        self.look_anew.swap(false, Ordering::AcqRel)
    }

    pub fn is_paused(&self, env: &str, queue: &str) -> bool {
        let paused = self.paused.read().unwrap_or_else(PoisonError::into_inner);
        !paused.is_empty() && paused.contains(&(env.to_owned(), queue.to_owned()))
    }

    pub fn set_paused(&self, paused: impl IntoIterator<Item = (String, String)>) {
        *self.paused.write().unwrap_or_else(PoisonError::into_inner) = paused.into_iter().collect();
    }
}

impl RunParts {
    /// Starts the tasks that write in groups; they end when the last clone is gone. Fails when the system gives no
    /// thread for it.
    pub fn start(
        store: Store,
        settings: RunSettings,
        tasks: Tasks,
        traces: Traces,
        runtime: Handle,
    ) -> std::io::Result<RunParts> {
        let doorbell = Arc::new(Notify::new());
        let (settings, tasks) = (Current::new(settings), Arc::new(tasks));
        let (lanes, queue, gates) =
            (Arc::<LaneIndex>::default(), Arc::<LocalQueue>::default(), Arc::<Gates>::default());
        let courtesy = Arc::<Courtesy>::default();
        let settler = Settler::start(store.clone(), lanes.clone(), doorbell.clone(), &courtesy, &runtime);
        let recorder = Recorder::start(store.clone(), &runtime);
        let express = Express {
            settings: settings.clone(),
            tasks: tasks.clone(),
            lanes: lanes.clone(),
            queue: queue.clone(),
            gates: gates.clone(),
            settler: settler.clone(),
        };
        let presence = Presence::start(store.clone(), doorbell.clone(), &runtime);
        let neighbours = Neighbours::start(&store, &runtime);
        let intake = Intake::start(store.clone(), express, doorbell.clone(), neighbours.clone(), &courtesy)?;
        let parts = RunParts {
            in_hand: Arc::default(),
            looks: Arc::default(),
            under_way: Arc::default(),
            queue,
            gates,
            courtesy,
            presence,
            neighbours,
            traces,
            tasks,
            store,
            settings,
            lanes,
            settler,
            recorder,
            intake,
            doorbell,
            runtime,
        };
        parts.runtime.spawn(neighbours::listen(parts.clone()));
        Ok(parts)
    }

    /// Runs store work as a task on the shared runtime, whatever becomes of the caller meanwhile.
    pub async fn on_runtime<T, F, W>(&self, work: F) -> T
    where
        T: Send + 'static,
        W: Future<Output = T> + Send,
        F: FnOnce(RunParts) -> W + Send + 'static,
    {
        let (parts, under_way) = (self.clone(), UnderWay::in_addition(&self.under_way));
        let work = async move {
            let _until_here = under_way;
            work(parts).await
        };
        match self.runtime.spawn(work).await {
            Ok(value) => value,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only the end of the runtime cancels such a task; then nobody waits for an answer any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Store work for somebody who waits for the answer: refused at once while the store is away, and not waited
    /// for any longer when it goes away meanwhile. The work itself goes on, because it may hold a lock.
    pub async fn ask<T, F, W>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, StoreError>> + Send,
        F: FnOnce(RunParts) -> W + Send + 'static,
    {
        if self.presence.is_away() {
            return Err(StoreError::Away);
        }
        tokio::select! {
            biased;
            answer = self.on_runtime(work) => {
                if answer.as_ref().is_err_and(StoreError::is_unreachable) {
                    self.presence.doubt();
                }
                answer
            }
            () = self.presence.gone() => Err(StoreError::Unanswered),
        }
    }

    /// Takes runs in for somebody who waits for the answer, as with `ask`.
    pub async fn take_in(&self, records: Vec<NewRecord>) -> Result<Vec<Verdict>, IntakeError> {
        let error = |error| Err(IntakeError::Store(Arc::new(error)));
        if self.presence.is_away() {
            return error(StoreError::Away);
        }
        let unreachable =
            |verdict: &Verdict| matches!(verdict, Err(IntakeError::Store(error)) if error.is_unreachable());
        tokio::select! {
            biased;
            answer = self.intake.take(records) => {
                if answer.as_ref().is_ok_and(|verdicts| verdicts.iter().any(unreachable)) {
                    self.presence.doubt();
                }
                answer
            }
            () = self.presence.gone() => error(StoreError::Unanswered),
        }
    }

    /// Tells a run that this node carries out to stop; false when it is not here.
    pub fn stop_run(&self, run: &RunId, why: Stop) -> bool {
        self.in_hand.get(run).is_some_and(|stop| stop.send(Some(why)).is_ok())
    }

    /// Tells all of them: this node may not act any more.
    pub fn stop_all(&self, why: Stop) {
        for stop in self.in_hand.iter() {
            let _ = stop.send(Some(why));
        }
    }

    /// Whether nothing of this node's will touch the store any more, but for what is begun from now on.
    pub fn is_quiet(&self) -> bool {
        self.in_hand.is_empty() && self.under_way.load(Ordering::Acquire) == 0 && !self.settler.has_attempts()
    }

    pub fn may_claim(&self) -> bool {
        self.gates.may_claim()
    }
}
