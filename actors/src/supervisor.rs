//! The root actor: builds the children, watches them, rebuilds the dead, and owns the registry.
//!
//! Owns: the children, the registry of live jobs with their sources, the opening of batches. Wakes: every
//! quarter of the hang limit, to ping. Never: waits for the store in a handler, talks to a provider, decides
//! about a round. Past its restart budget it stops loudly, and the process exits with code 70.

mod child;
mod mailbox;
mod registry;
mod restarts;

pub(crate) use child::supervised_child;
pub use child::{Child, ChildRef, Exit, Factory, Misbehave, Ping};
pub use mailbox::{ChildAddr, Letter, Reply};
pub use registry::{ForgetJob, OpenBatch, OpenRefused, RegisterJob, Registry};

use crate::batch_poller::{BatchPoller, ResumeBatch};
use crate::config::Supervision;
use crate::metrics::{ACTOR_RESTART_SECONDS, ACTOR_RESTARTS, CHAOS_KILLS, MAILBOX_DEPTH, SUPERVISOR_TRIPPED};
use crate::parts::Parts;
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, WrapFuture};
use child::Running;
use restarts::{History, Verdict};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// A child has ended; carries what only its watcher knows.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ChildDown {
    index: usize,
    generation: u64,
    exit: Exit,
}

/// Kills a child on purpose.
#[derive(Debug, Message)]
#[rtype(result = "Killed")]
pub struct KillChild {
    pub name: String,
    pub mode: Misbehave,
    /// Whether it is a drill of faults: the death counts towards the restart budget, makes the next start wait longer, and
    /// is told like any other.
    pub counts: bool,
}

/// What became of the wish to kill a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, actix::MessageResponse)]
pub enum Killed {
    /// It was told to die, as this generation.
    Told {
        generation: u64,
    },
    /// It is dead, or dying of another kill.
    Down,
    NoSuchChild,
}

/// How every child stands.
#[derive(Debug, Message)]
#[rtype(result = "Vec<ChildStatus>")]
pub struct Tree;

/// Stops all children; nothing is rebuilt after it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopAll;

/// One line of the supervision tree.
#[derive(Debug, Clone)]
pub struct ChildStatus {
    pub name: &'static str,
    pub generation: u64,
    pub up: bool,
    pub restarts: u64,
    /// Those of them that somebody wanted, and that count for nothing.
    pub injected: u64,
    /// Deaths that count towards the restart budget now.
    pub recent_deaths: usize,
    /// Messages to it that it has not begun to handle.
    pub mailbox_depth: usize,
    /// How long it has left a ping unanswered by now.
    pub silent_for: Option<Duration>,
    pub last_exit: Option<Exit>,
    pub last_panic: Option<String>,
    /// From each of its latest deaths to the successor's first answer, with the cause.
    pub latencies: Vec<(&'static str, Duration)>,
}

/// Latest deaths of a child of which it is known how long its successor took.
const LATENCIES: usize = 10_000;

/// Why the supervisor gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GaveUp {
    pub child: &'static str,
    pub exit: Exit,
    pub restarts: usize,
    pub window: Duration,
}

impl std::fmt::Display for GaveUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let GaveUp { child, restarts, window, exit } = self;
        write!(
            f,
            "the actor {child} died more than {restarts} times in {} s; last by {}",
            window.as_secs(),
            exit.word()
        )?;
        match exit {
            Exit::Panicked(text) => write!(f, ": {text}"),
            Exit::Stopped | Exit::Hung => Ok(()),
        }
    }
}

struct Slot {
    child: Child,
    running: Option<Running>,
    generation: u64,
    history: History,
    restarts: u64,
    injected: u64,
    /// When the ping under way was sent; `None` when none is.
    pinged_at: Option<Instant>,
    /// When it was last told to die, and whether that counts; its death is as old as that.
    kill_sent: Option<(Instant, bool)>,
    died_at: Option<(Instant, &'static str)>,
    last_exit: Option<Exit>,
    last_panic: Option<String>,
    latencies: VecDeque<(&'static str, Duration)>,
}

/// See the module's first lines.
pub struct Supervisor {
    parts: Parts,
    settings: Supervision,
    slots: Vec<Slot>,
    poller: ChildRef<BatchPoller>,
    registry: Registry,
    started: Instant,
    gave_up: watch::Sender<Option<GaveUp>>,
    stopping: bool,
}

impl Supervisor {
    pub fn new(
        parts: Parts,
        children: Vec<Child>,
        poller: ChildRef<BatchPoller>,
        gave_up: watch::Sender<Option<GaveUp>>,
    ) -> Supervisor {
        let slots = children.into_iter().map(Slot::new).collect();
        let settings = parts.settings.now().supervision;
        let registry = Registry::new(parts.clone());
        Supervisor { parts, settings, slots, poller, registry, started: now(), gave_up, stopping: false }
    }

    fn start_child(&mut self, index: usize, context: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.generation += 1;
        slot.pinged_at = None;
        let (generation, supervisor) = (slot.generation, context.address());
        let on_exit = Box::new(move |exit| {
            let down = ChildDown { index, generation, exit };
            Box::pin(async move {
                let _ = supervisor.send(down).await;
            }) as futures_util::future::BoxFuture<'static, ()>
        });
        slot.running = Some(slot.child.launch(generation, on_exit));
        slot.tell_mailbox();
        if slot.child.name == BatchPoller::NAME {
            self.hand_back(context);
        }
        self.ping(index, context);
    }

    /// Hands every batch in flight to the BatchPoller; one that it has already is no matter.
    fn hand_back(&self, context: &mut Context<Self>) {
        if self.poller.addr().is_none() {
            return;
        }
        let (parts, poller) = (self.parts.clone(), self.poller.clone());
        let work = async move {
            let in_flight = match parts.on_runtime(|parts| async move { parts.batches_in_flight().await }).await {
                Ok(in_flight) => in_flight,
                Err(error) => return warn!(%error, "cannot read what is in flight; will look again"),
            };
            let Some(poller) = poller.addr() else { return };
            for batch in in_flight {
                let _ = poller.send(ResumeBatch { batch: batch.id }).await;
            }
        };
        context.spawn(work.into_actor(self));
    }

    fn ping(&mut self, index: usize, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let (Some(running), None) = (&slot.running, slot.pinged_at) else { return };
        slot.pinged_at = Some(now());
        let generation = slot.generation;
        let answer =
            running.ping().into_actor(self).map(move |answered, this, _| this.ponged(index, generation, answered));
        context.spawn(answer);
    }

    fn ponged(&mut self, index: usize, generation: u64, answered: bool) {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.generation == generation) else { return };
        slot.pinged_at = None;
        if !answered {
            return;
        }
        if let Some((died_at, cause)) = slot.died_at.take() {
            let latency = now().duration_since(died_at);
            metrics::histogram!(ACTOR_RESTART_SECONDS, "actor" => slot.child.name).record(latency.as_secs_f64());
            if slot.latencies.len() >= LATENCIES {
                slot.latencies.pop_front();
            }
            slot.latencies.push_back((cause, latency));
        }
    }

    /// Pings all, and takes those for hung that left the last ping unanswered. Tells how much waits for each.
    fn check(&mut self, context: &mut Context<Self>) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            slot.tell_mailbox();
            let hung = slot.pinged_at.is_some_and(|at| now().duration_since(at) >= self.settings.hang_after);
            if hung && slot.running.is_some() {
                self.child_down(ChildDown { index, generation: slot.generation, exit: Exit::Hung }, context);
            } else {
                self.ping(index, context);
            }
        }
    }

    fn child_down(&mut self, down: ChildDown, context: &mut Context<Self>) {
        let since_start = now().duration_since(self.started);
        let (settings, stopping) = (self.settings, self.stopping);
        let Some(slot) = self.slots.get_mut(down.index).filter(|slot| slot.generation == down.generation) else {
            return;
        };
        if slot.running.take().is_none() || stopping {
            return;
        }
        let name = slot.child.name;
        let kill_sent = slot.kill_sent.take();
        let died_at = kill_sent.map_or_else(now, |(at, _)| at);
        slot.died_at.get_or_insert((died_at, down.exit.word()));
        slot.last_exit = Some(down.exit.clone());
        if let Exit::Panicked(text) = &down.exit {
            slot.last_panic = Some(text.clone());
        }
        let counts = kill_sent.is_none_or(|(_, counts)| counts);
        let verdict = match counts {
            true => slot.history.death(since_start, &settings),
            false => Verdict::Rebuild { failures: 1 },
        };
        match verdict {
            Verdict::Rebuild { failures } => {
                slot.restarts += 1;
                slot.injected += u64::from(!counts);
                let (cause, injected) = (down.exit.word(), if counts { "false" } else { "true" });
                metrics::counter!(ACTOR_RESTARTS, "actor" => name, "cause" => cause, "injected" => injected)
                    .increment(1);
                let wait = settings.backoff.after(failures, &mut rand::rng());
                warn!(actor = name, cause = down.exit.word(), wait_ms = wait.as_millis(), "child died; rebuilding it");
                context.run_later(wait, move |this, context| this.start_child(down.index, context));
            }
            Verdict::GiveUp => {
                let gave_up =
                    GaveUp { child: name, exit: down.exit, restarts: settings.max_restarts, window: settings.window };
                error!(actor = name, reason = %gave_up, "restart budget is used up; stopping the node");
                metrics::gauge!(SUPERVISOR_TRIPPED).set(1.0);
                self.stop_all();
                self.gave_up.send_replace(Some(gave_up));
            }
        }
    }

    fn stop_all(&mut self) {
        self.stopping = true;
        for slot in &mut self.slots {
            slot.running = None;
        }
    }
}

impl Slot {
    fn new(child: Child) -> Slot {
        Slot {
            child,
            running: None,
            generation: 0,
            history: History::default(),
            restarts: 0,
            pinged_at: None,
            injected: 0,
            kill_sent: None,
            died_at: None,
            last_exit: None,
            last_panic: None,
            latencies: VecDeque::new(),
        }
    }

    /// Of the generation that runs; what waited for an earlier one went with it.
    fn mailbox_depth(&self) -> usize {
        self.running.as_ref().map_or(0, Running::mailbox_depth)
    }

    fn tell_mailbox(&self) {
        metrics::gauge!(MAILBOX_DEPTH, "actor" => self.child.name).set(self.mailbox_depth() as f64);
    }

    /// It has answered, and nobody has told it to die since.
    fn is_up(&self) -> bool {
        self.running.is_some() && self.died_at.is_none() && self.kill_sent.is_none()
    }
}

/// Supervision measures spans that no clock change may touch.
#[expect(clippy::disallowed_methods, reason = "monotonic spans only; no decision about stored times")]
fn now() -> Instant {
    Instant::now()
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        metrics::gauge!(SUPERVISOR_TRIPPED).set(0.0);
        for index in 0..self.slots.len() {
            self.start_child(index, context);
        }
        context.run_interval(self.settings.hang_after / 4, |this, context| this.check(context));
        context.run_interval(Duration::from_secs(2), |this, context| this.hand_back(context));
    }
}

impl Handler<ChildDown> for Supervisor {
    type Result = ();

    fn handle(&mut self, down: ChildDown, context: &mut Context<Self>) {
        self.child_down(down, context);
    }
}

impl Handler<KillChild> for Supervisor {
    type Result = Killed;

    fn handle(&mut self, kill: KillChild, context: &mut Context<Self>) -> Killed {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.child.name == kill.name) else {
            return Killed::NoSuchChild;
        };
        let Some(running) = slot.running.as_ref().filter(|_| slot.is_up()) else { return Killed::Down };
        let act = running.misbehave(kill.mode);
        info!(actor = slot.child.name, mode = kill.mode.word(), "killing a child on purpose");
        metrics::counter!(CHAOS_KILLS, "target" => slot.child.name, "mode" => kill.mode.word()).increment(1);
        slot.kill_sent = Some((now(), kill.counts));
        let generation = slot.generation;
        context.spawn(act.into_actor(self));
        Killed::Told { generation }
    }
}

impl Handler<Tree> for Supervisor {
    type Result = MessageResult<Tree>;

    fn handle(&mut self, _: Tree, _: &mut Context<Self>) -> MessageResult<Tree> {
        let (since_start, settings) = (now().duration_since(self.started), self.settings);
        let status = |slot: &Slot| ChildStatus {
            name: slot.child.name,
            generation: slot.generation,
            up: slot.is_up(),
            restarts: slot.restarts,
            injected: slot.injected,
            recent_deaths: slot.history.recent(since_start, &settings),
            mailbox_depth: slot.mailbox_depth(),
            silent_for: slot.pinged_at.map(|at| now().duration_since(at)),
            last_exit: slot.last_exit.clone(),
            last_panic: slot.last_panic.clone(),
            latencies: slot.latencies.iter().copied().collect(),
        };
        MessageResult(self.slots.iter().map(status).collect())
    }
}

impl Handler<StopAll> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: StopAll, context: &mut Context<Self>) {
        self.stop_all();
        context.stop();
    }
}
