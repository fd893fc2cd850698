//! Wires every actor, in one readable function.

use crate::batch_poller::BatchPoller;
use crate::drainer::Drainer;
use crate::job_drive::JobDrive;
use crate::parts::Parts;
use crate::runs::RunParts;
use crate::supervisor::{Child, GaveUp, StopAll, Supervisor};
use crate::sweeper::Sweeper;
use crate::worker::Worker;
use actix::{Actor, Addr, Arbiter, Context};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The actors of this process, while they run.
pub struct Running {
    pub supervisor: Addr<Supervisor>,
    /// Set once, when the supervisor has given up on a child.
    pub gave_up: watch::Receiver<Option<GaveUp>>,
    arbiter: Arbiter,
}

impl Running {
    /// Stops all children and then the supervisor; what they were doing goes on at the next start.
    pub async fn stop(self) {
        let _ = self.supervisor.send(StopAll).await;
        self.arbiter.stop();
    }
}

/// Which actors a node has.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// Drainer and Workers.
    pub worker: bool,
    /// BatchPoller and JobDrive.
    pub poller: bool,
    /// Sweeps for all nodes; each sweeps after itself in any case.
    pub sweeper: bool,
}

/// Starts the supervisor and under it: BatchPoller, JobDrive, Sweeper. Needs an actix `System` on this thread.
pub fn start(parts: Parts, runtime: Arc<Runtime>) -> Running {
    start_all(parts, None, Roles { worker: false, poller: true, sweeper: true }, runtime)
}

/// Starts the supervisor and the actors of some roles, on a node where runs come in or are carried out.
pub fn start_runs(parts: Parts, runs: RunParts, roles: Roles, runtime: Arc<Runtime>) -> Running {
    start_all(parts, Some(runs), roles, runtime)
}

fn start_all(parts: Parts, runs: Option<RunParts>, roles: Roles, runtime: Arc<Runtime>) -> Running {
    let (gave_up, given_up) = watch::channel(None);
    let sweeper_factory = {
        let (parts, runs) = (parts.clone(), runs.clone());
        Arc::new(move |_| Sweeper::new(parts.clone(), runs.clone(), roles.sweeper))
    };
    let (sweeper, _) = Child::new(Sweeper::NAME, runtime.clone(), sweeper_factory);
    // The BatchPoller asks the Supervisor for batches, and the JobDrive tells it of jobs; the Supervisor builds both.
    let (sender, receiver) = actix::dev::channel::channel::<Supervisor>(64);
    let supervisor = Addr::new(sender);
    let drive_factory = {
        let (parts, supervisor) = (parts.clone(), supervisor.clone());
        Arc::new(move |_| JobDrive::new(parts.clone(), supervisor.clone()))
    };
    let (drive, drive_ref) = Child::new(JobDrive::NAME, runtime.clone(), drive_factory);
    let poller_factory = {
        let (parts, supervisor) = (parts.clone(), supervisor.clone());
        Arc::new(move |_| BatchPoller::new(parts.clone(), supervisor.clone(), drive_ref.clone()))
    };
    let (poller, poller_ref) = Child::new(BatchPoller::NAME, runtime.clone(), poller_factory);
    let mut children = Vec::new();
    if roles.poller {
        children.extend([drive, poller]);
    }
    children.push(sweeper);
    if let Some(runs) = runs.filter(|_| roles.worker) {
        children.extend(carriers(&runs, &runtime));
    }
    let root = Supervisor::new(parts, children, poller_ref, gave_up);
    let arbiter = Arbiter::with_tokio_rt(move || runtime);
    arbiter.spawn_fn(move || {
        actix::spawn(Context::with_receiver(receiver).into_future(root));
    });
    Running { supervisor, gave_up: given_up, arbiter }
}

/// The Drainer, and a Worker for every slot.
fn carriers(runs: &RunParts, runtime: &Arc<Runtime>) -> Vec<Child> {
    let mut children = vec![Child::new(Drainer::NAME, runtime.clone(), factory(runs, Drainer::new)).0];
    for slot in 0..runs.settings.now().slots {
        // A handful of names for the life of the process.
        let name: &'static str = Box::leak(format!("worker-{slot}").into_boxed_str());
        children.push(Child::new(name, runtime.clone(), factory(runs, Worker::new)).0);
    }
    children
}

fn factory<P, A>(parts: &P, build: fn(P) -> A) -> crate::supervisor::Factory<A>
where
    P: Clone + Send + Sync + 'static,
    A: Actor,
{
    let parts = parts.clone();
    Arc::new(move |_| build(parts.clone()))
}
