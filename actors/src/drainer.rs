//! Moves work downstream fairly: buffered runs into the ready table, and ready runs to this node's workers.
//!
//! Owns: where its rotations stand, and the breaker before the store. Wakes: when the doorbell rings and every
//! `tick_every`. Never: carries a run out, or decides whether a run is buffered.

pub mod plan;

use crate::metrics::BUFFER_DRAINED;
use crate::runs::{Breaker, Held, Pace, RunParts, RunSettings, TaskKind, tell_wait};
use crate::supervisor::supervised_child;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use plan::{Rotation, Turn, Waiting, Weights};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use storage::model::{Basin, Lane, RunId};
use storage::store::{Brief, Cap, Capped, Claimed, Door, Ending, LaneHead, Leased, Share, Taker, WriteTurn};
use storage::{Class, Store, StoreError};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

/// Basins, and lanes of each, in one scan.
const SCAN_BASINS: i64 = 1_000;
const SCAN_LANES: i64 = 100;
/// A scan takes one part in so many of the time: where a reader keeps PostgreSQL from removing what was claimed,
/// it walks over all of that.
const SCAN_SHARE: u32 = 20;
/// A look that takes longer than this is given up; what it has claimed is not lost by that.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// Look once for everything. Carries nothing: the database is the input.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// What a generation needs to know again and again, and may lose.
#[derive(Debug, Default)]
struct Memory {
    ready: Rotation,
    buffered: Rotation,
    breaker: Breaker,
    /// When the next scan is due; one that takes long is made less often.
    scan_at: Option<Instant>,
    buffer: BufferMemory,
    /// Where the scan goes on, when there are more basins than one scan takes.
    scan_after: String,
    pace: Pace,
}

impl Memory {
    /// Rows for the next commit.
    fn rows(&self, parts: &RunParts) -> usize {
        self.pace.rows(Door::Many, 0, parts.courtesy.is_due(now()))
    }
}

/// What is known of the buffer. PostgreSQL walks over all that left it since its last vacuum to find what is first, so
/// that this is not asked for every move.
#[derive(Debug, Default)]
struct BufferMemory {
    /// Envs with entries; asked for again at `list_at`.
    envs: Vec<String>,
    list_at: Option<Instant>,
    /// Where the last move of each env ended, until the next scan.
    moved_to: HashMap<String, i64>,
}

/// See the module's first lines.
pub struct Drainer {
    parts: RunParts,
    memory: Arc<Mutex<Memory>>,
}

impl Drainer {
    pub const NAME: &'static str = "drainer";

    pub fn new(parts: RunParts) -> Drainer {
        Drainer { parts, memory: Arc::default() }
    }
}

impl Actor for Drainer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let (parts, memory) = (self.parts.clone(), self.memory.clone());
        let watch = async move {
            let mut tick = interval(parts.settings.now().tick_every);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = parts.doorbell.notified() => {}
                    _ = tick.tick() => {}
                }
                look(&parts, &memory).await;
            }
        };
        context.spawn(watch.into_actor(self).map(|(), _, _| {}));
    }
}

impl Handler<Drain> for Drainer {
    type Result = actix::ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        let (parts, memory) = (self.parts.clone(), self.memory.clone());
        Box::pin(async move { look(&parts, &memory).await })
    }
}

/// One look, as a task that outlives this actor: what it claims reaches the local queue in any case.
async fn look(parts: &RunParts, memory: &Arc<Mutex<Memory>>) {
    let memory = memory.clone();
    parts
        .on_runtime(move |parts| async move {
            let mut state = std::mem::take(&mut *memory.lock().unwrap_or_else(PoisonError::into_inner));
            let now = parts.store.now();
            if state.breaker.allows(now) {
                match timeout(LOOK_WITHIN, drain_once(&parts, &mut state)).await {
                    Ok(Ok(())) => state.breaker.succeeded(),
                    // A look that was under way when the store was closed for good has nobody to tell.
                    Ok(Err(_)) if parts.store.is_closed() => {}
                    Ok(Err(error)) => {
                        if !state.breaker.is_open() {
                            warn!(%error, "draining is paused until the store answers");
                        }
                        state.breaker.failed(parts.store.now(), &mut rand::rng());
                    }
                    Err(_) => warn!("draining took too long; starting over"),
                }
            }
            *memory.lock().unwrap_or_else(PoisonError::into_inner) = state;
        })
        .await;
}

/// Goes on until there is nothing to move, or no place for it.
async fn drain_once(parts: &RunParts, memory: &mut Memory) -> Result<(), StoreError> {
    scan_if_due(parts, memory).await?;
    if !parts.gates.drainer_off.load(Ordering::Acquire) && parts.gates.buffered.swap(false, Ordering::AcqRel) {
        let_through(parts, memory).await?;
    }
    while parts.may_claim() {
        // The settler rings when it has caught up.
        let slots = parts.settings.now().slots;
        let wanted = if parts.settler.is_behind() { 0 } else { parts.queue.wants(slots) };
        let mut free = wanted.min(memory.rows(parts));
        let mut waiting = waiting(parts);
        if free == 0 {
            // There is enough here, but of others: an env that is late does not wait for that.
            waiting.retain(|place| parts.queue.is_late(place.basin.env(), slots));
            free = waiting.len().min(parts.queue.wants_late(slots));
        }
        if free == 0 || waiting.is_empty() {
            return Ok(());
        }
        let turns = memory.ready.plan(&waiting, free, &Shares(parts));
        let leave = parts.store.write_turn().await?;
        let began = now();
        let leased = claim(parts, leave, &turns).await?;
        memory.pace.took(leased.len(), now().duration_since(began));
        debug!(claimed = leased.len(), "claimed");
        hand_over(parts, leased).await?;
    }
    Ok(())
}

struct Shares<'a>(&'a RunParts);

impl Weights for Shares<'_> {
    fn of_org(&self, org: &str) -> usize {
        self.0.settings.now().org_weight(org) as usize
    }

    fn of_env(&self, env: &str) -> usize {
        self.0.settings.now().env(env).weight as usize
    }
}

fn waiting(parts: &RunParts) -> Vec<Waiting> {
    let known = parts.lanes.snapshot().into_iter().map(|(basin, lane, rank)| Waiting { basin, lane, rank });
    known.filter(|place| !parts.gates.is_paused(place.basin.env(), place.lane.queue())).collect()
}

/// Looks for lanes that nobody has told this node about, and has the buffer looked into: other nodes' runs, runs
/// that came due, and what was there before this process.
async fn scan_if_due(parts: &RunParts, memory: &mut Memory) -> Result<(), StoreError> {
    let began = now();
    let due = memory.scan_at.is_none_or(|at| began >= at);
    if !parts.gates.takes_look_anew() && !due {
        return Ok(());
    }
    memory.buffer.moved_to.clear();
    memory.buffer.list_at = None;
    parts.gates.buffered.store(true, Ordering::Release);
    let store = &parts.store;
    store.come_due(store.now(), 5_000).await?;
    parts.gates.set_paused(store.paused_queues().await?);
    let basins = store.ready_basins(None, &memory.scan_after, SCAN_BASINS).await?;
    memory.scan_after = match basins.last() {
        Some(last) if basins.len() as i64 == SCAN_BASINS => last.as_str().to_owned(),
        _ => String::new(),
    };
    for basin in &basins {
        for head in store.ready_lanes(basin, "", SCAN_LANES).await? {
            parts.lanes.note(&head.basin, &head.lane, head.rank);
        }
    }
    parts.lanes.unblock();
    let took = now().duration_since(began);
    memory.scan_at = Some(began + parts.settings.now().scan_every.max(took * SCAN_SHARE));
    Ok(())
}

/// One turn for every env that has something in the buffer, unless it has enough ready already.
async fn let_through(parts: &RunParts, memory: &mut Memory) -> Result<(), StoreError> {
    let (store, buffer) = (&parts.store, parts.settings.now().buffer);
    list_buffered(store, &mut memory.buffer).await?;
    if memory.buffer.envs.is_empty() {
        return Ok(());
    }
    // Until nothing is found in it.
    parts.gates.buffered.store(true, Ordering::Release);
    let no_lane = Lane::new("", "");
    let envs = &memory.buffer.envs;
    let waiting: Vec<Waiting> =
        envs.iter().map(|env| Waiting { basin: Basin::own(env), lane: no_lane.clone(), rank: 0 }).collect();
    let turns = memory.buffered.plan(&waiting, envs.len(), &Shares(parts));
    let ready = parts.lanes.by_env();
    for turn in turns {
        let env = turn.basin.env();
        if has_ready(store, ready.get(env), buffer.ready_enough).await? {
            continue;
        }
        // Moving a run costs about what claiming one does.
        let limit = (buffer.turn * turn.runs as i64).min(memory.rows(parts) as i64);
        let from = memory.buffer.moved_to.get(env).copied().unwrap_or(i64::MIN);
        match store.let_through(env, from, limit).await {
            Ok(moved) => {
                metrics::counter!(BUFFER_DRAINED, "outcome" => "materialised").increment(moved.runs);
                if parts.traces.is_on() {
                    let now = store.now();
                    let runs: Vec<(&str, &RunId)> = moved.moved.iter().map(|run| (env, run)).collect();
                    parts.traces.let_through(parts.traces.of_runs(store, &runs).await, now);
                }
                for head in &moved.lanes {
                    parts.lanes.note(&head.basin, &head.lane, head.rank);
                }
                match moved.last_rank {
                    Some(last) => drop(memory.buffer.moved_to.insert(env.to_owned(), last)),
                    // What is left of it lies before that, or nothing is.
                    None if memory.buffer.moved_to.remove(env).is_some() => {}
                    None => memory.buffer.envs.retain(|known| known != env),
                }
                parts.doorbell.notify_one();
            }
            Err(error) if error.class() == Class::Retryable => return Err(error),
            // One entry at fault must not hold up those behind it.
            Err(error) => one_by_one(parts, env, &error).await?,
        }
    }
    Ok(())
}

async fn list_buffered(store: &Store, memory: &mut BufferMemory) -> Result<(), StoreError> {
    let began = now();
    if memory.list_at.is_none_or(|at| began >= at) {
        memory.envs = store.buffer_envs("", SCAN_BASINS).await?;
        memory.list_at = Some(began + now().duration_since(began) * SCAN_SHARE);
    }
    Ok(())
}

/// Whether so many runs of an env may start, as far as this node knows its lanes.
async fn has_ready(store: &Store, lanes: Option<&Vec<LaneHead>>, enough: i64) -> Result<bool, StoreError> {
    let mut left = enough;
    for head in lanes.into_iter().flatten() {
        left -= store.ready_in_lane(head, left).await?;
        if left <= 0 {
            return Ok(true);
        }
    }
    Ok(left <= 0)
}

async fn one_by_one(parts: &RunParts, env: &str, error: &StoreError) -> Result<(), StoreError> {
    if parts.store.let_through(env, i64::MIN, 1).await.is_ok() {
        return Ok(());
    }
    if let Some(run) = parts.store.park_first(env, &error.to_string()).await? {
        metrics::counter!(BUFFER_DRAINED, "outcome" => "parked").increment(1);
        warn!(run.id = %run, %error, "a buffered run cannot be let through; it is parked");
    }
    Ok(())
}

/// Takes what the turns say, as far as it is there and caps allow.
async fn claim(parts: &RunParts, leave: WriteTurn, turns: &[Turn]) -> Result<Vec<Leased>, StoreError> {
    let store = &parts.store;
    let shares: Vec<Share> = turns
        .iter()
        .map(|turn| {
            let whole = Share::new(turn.basin.clone(), turn.lane.clone(), turn.runs as i64);
            Share { from_rank: turn.rank, ..whole }
        })
        .collect();
    let caps = caps(&parts.settings.now(), &shares);
    for share in &shares {
        parts.lanes.begin(&share.basin, &share.lane, share.from_rank);
    }
    let Claimed { leased, emptied } = store.claim_in(leave, &shares, &caps, Taker::Node, store.now()).await?;
    for (basin, lane) in &emptied {
        parts.lanes.forget(basin, lane);
    }
    for share in &shares {
        let of_it = leased.iter().filter(|run| run.basin == share.basin && run.lane == share.lane);
        let (got, last) = of_it.fold((0, None), |(got, _), run| (got + 1, Some(run.rank)));
        if let Some(rank) = last {
            parts.lanes.passed(&share.basin, &share.lane, rank);
        }
        let is_empty = emptied.iter().any(|(basin, lane)| *basin == share.basin && *lane == share.lane);
        if got < share.runs && !is_empty {
            // A cap held it up.
            parts.lanes.block(&share.basin, &share.lane);
        }
    }
    Ok(leased)
}

/// The caps over some shares.
pub fn caps(settings: &RunSettings, shares: &[Share]) -> Vec<Cap> {
    let mut caps = Vec::new();
    let mut add = |of: Capped, max: Option<i64>| {
        if let Some(max) = max.filter(|_| !caps.iter().any(|cap: &Cap| cap.of == of)) {
            caps.push(Cap { of, max });
        }
    };
    add(Capped::All, settings.max_running);
    for share in shares {
        let (env, queue) = (share.basin.env().to_owned(), share.lane.queue().to_owned());
        let of_queue = settings.queue(&queue);
        add(Capped::Env(env.clone()), settings.env(&env).max_running);
        add(Capped::Queue { env: env.clone(), queue }, of_queue.max_running);
        if !share.lane.key().is_empty() {
            let max = of_queue.max_running_per_key.unwrap_or(settings.max_running_per_key);
            add(Capped::Key { env, lane: share.lane.clone() }, Some(max));
        }
    }
    caps
}

/// Puts claimed runs where workers find them. From here on each is a `Held`, which gives itself back.
async fn hand_over(parts: &RunParts, leased: Vec<Leased>) -> Result<(), StoreError> {
    let now = parts.store.now();
    let mut held: Vec<Held> =
        leased.into_iter().map(|run| Held::new(run, Brief::default(), now, parts.settler.clone())).collect();
    // Of which trace a run is stands there too.
    let reads = |task: &str| parts.traces.is_on() || parts.tasks.get(task).is_some_and(|task| task.reads_payload);
    let wanting = held.iter().map(|held| &held.leased).filter(|leased| reads(&leased.task));
    let wanted: Vec<(&str, &RunId)> = wanting.map(|leased| (leased.env.as_str(), &leased.run)).collect();
    if !wanted.is_empty() {
        let mut briefs = parts.store.briefs(&wanted).await?;
        for held in &mut held {
            if let Some(brief) = briefs.remove(&held.leased.run) {
                held.brief = brief;
            }
        }
    }
    let mut mine = Vec::with_capacity(held.len());
    for held in held {
        let task = held.leased.task.clone();
        parts.traces.claimed(held.brief.trace, &held.leased, now);
        tell_wait(&held.leased, now);
        if parts.tasks.get(&task).is_some_and(|task| matches!(task.kind, TaskKind::Own(_))) {
            mine.push(held);
        } else {
            let reason = format!("no worker of this system has a task `{task}`");
            held.end(Ending::Failed, Some("unknown_task".to_owned()), Some(reason), None);
        }
    }
    parts.queue.push(mine);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "spans between scans")]
fn now() -> Instant {
    Instant::now()
}

supervised_child!(Drainer);
