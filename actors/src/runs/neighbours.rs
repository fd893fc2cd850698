//! Tells the other nodes on the same database what has come about here, and hears what has come about there.
//!
//! Everything told is a hint, collected for a moment: whoever misses it finds the same at its next scan.

use super::following::{self, Followers, Following};
use super::{Gates, LaneIndex, RunParts, Settled};
use crate::executor::Stop;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::Store;
use storage::model::{Basin, Lane, RunId};
use storage::store::{Bell, Heard};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

/// Between two rings; what comes meanwhile goes with the next.
const RING_EVERY: Duration = Duration::from_millis(30);
/// Before listening is tried again.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// PostgreSQL takes 8,000 bytes at a time.
const HINT_BYTES: usize = 7_000;

/// The door to the other nodes. Clones share what is to be told.
#[derive(Debug, Clone)]
pub struct Neighbours {
    /// `None` where there can be none.
    news: Option<Arc<News>>,
}

#[derive(Debug, Default)]
pub(super) struct News {
    collected: Mutex<Collected>,
    more: Notify,
    pub(super) followers: Followers,
}

impl News {
    fn collect(&self, add: impl FnOnce(&mut Collected)) {
        add(&mut self.collected.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_one();
    }

    /// Envs are followed on this node.
    pub(super) fn follow(&self, envs: Vec<String>) {
        self.collect(|collected| collected.following.extend(envs));
    }

    /// A run has changed of which somebody elsewhere wants to know.
    pub(super) fn settled(&self, settled: Settled) {
        self.collect(|collected| collected.settled.push(settled));
    }

    /// Runs have changed, and nobody knows which.
    pub(super) fn missed(&self) {
        self.collect(|collected| collected.missed = true);
    }
}

#[derive(Debug, Default)]
struct Collected {
    /// The lowest rank of each lane into which runs have come.
    lanes: BTreeMap<(Basin, Lane), i64>,
    buffered: bool,
    cancelled: Vec<RunId>,
    following: BTreeSet<String>,
    settled: Vec<Settled>,
    missed: bool,
}

/// What one ring tells.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Hint {
    /// Who tells: a node hears its own rings too.
    node: String,
    /// Basin, lane and lowest rank of runs that are ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ready: Vec<(String, String, i64)>,
    /// There are runs in the buffer.
    #[serde(default)]
    buffered: bool,
    /// Runs that whoever carries them is to stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cancelled: Vec<String>,
    /// There is more than could be told: look for yourself.
    #[serde(default)]
    look: bool,
    /// Envs of which this node wants to know what is settled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    following: Vec<String>,
    /// Run, env and state of what was settled and is followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settled: Vec<(String, String, String)>,
    /// More was settled than could be told.
    #[serde(default)]
    missed: bool,
}

impl Neighbours {
    pub(super) fn start(store: &Store, runtime: &Handle) -> Neighbours {
        if store.is_sqlite() {
            return Neighbours { news: None };
        }
        let news = Arc::new(News::default());
        runtime.spawn(ring(store.clone(), news.clone()));
        Neighbours { news: Some(news) }
    }

    /// Runs are ready that this node may not have a place for.
    pub fn ready(&self, basin: &Basin, lane: &Lane, rank: i64) {
        self.collect(|collected| {
            // Most of a burst goes into one lane.
            if let Some(lowest) = collected.lanes.get_mut(&(basin.clone(), lane.clone())) {
                *lowest = rank.min(*lowest);
            } else {
                collected.lanes.insert((basin.clone(), lane.clone()), rank);
            }
        });
    }

    pub fn buffered(&self) {
        self.collect(|collected| collected.buffered = true);
    }

    /// A run is to be stopped by whoever carries it.
    pub fn cancelled(&self, run: &RunId) {
        self.collect(|collected| collected.cancelled.push(run.clone()));
    }

    /// Follows what the other nodes settle in an env; `None` where there can be none.
    pub fn follow(&self, env: &str) -> Option<Following> {
        self.news.as_ref().map(|news| Following::begin(news, env))
    }

    fn collect(&self, add: impl FnOnce(&mut Collected)) {
        if let Some(news) = &self.news {
            news.collect(add);
        }
    }
}

impl Collected {
    fn into_hint(self, node: &str) -> Hint {
        let mut hint = Hint { node: node.to_owned(), buffered: self.buffered, missed: self.missed, ..Hint::default() };
        let mut room = HINT_BYTES - node.len();
        let mut fits = |bytes: usize| {
            // Escaped, a divider takes six bytes; and there are quotes, brackets, commas and a number of 64 bits.
            let needed = bytes + 48;
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        };
        for run in self.cancelled {
            if fits(run.as_str().len()) {
                hint.cancelled.push(run.to_string());
            }
        }
        for ((basin, lane), rank) in self.lanes {
            if fits(basin.as_str().len() + lane.as_str().len()) {
                hint.ready.push((basin.as_str().to_owned(), lane.as_str().to_owned(), rank));
            } else {
                hint.look = true;
            }
        }
        for env in self.following {
            if fits(env.len()) {
                hint.following.push(env);
            }
        }
        for Settled { run, env, state } in self.settled {
            if fits(run.as_str().len() + env.len() + state.word().len()) {
                hint.settled.push((run.to_string(), env, state.word().to_owned()));
            } else {
                hint.missed = true;
            }
        }
        hint
    }
}

/// For as long as the store is open.
async fn ring(store: Store, news: Arc<News>) {
    let mut pace = interval(RING_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !store.is_closed() {
        news.more.notified().await;
        pace.tick().await;
        let collected = std::mem::take(&mut *news.collected.lock().unwrap_or_else(PoisonError::into_inner));
        let Ok(hint) = serde_json::to_string(&collected.into_hint(store.node().as_str())) else { continue };
        if let Err(error) = store.ring(&hint).await {
            debug!(%error, "could not tell the other nodes; they will look for themselves");
        }
    }
}

/// Listens for as long as the store is open.
pub(super) async fn listen(parts: RunParts) {
    if let Some(news) = parts.neighbours.news.clone() {
        parts.runtime.spawn(following::repeat(parts.clone(), news.clone()));
        parts.runtime.spawn(following::share(parts.clone(), news));
    }
    let mut heard_of_trouble = false;
    while !parts.store.is_closed() {
        match parts.store.bell().await {
            Ok(None) => return,
            Ok(Some(bell)) => {
                heard_of_trouble = false;
                // Whatever was told before is lost.
                look_anew(&parts);
                until_trouble(&parts, bell).await;
            }
            Err(error) if !heard_of_trouble => {
                heard_of_trouble = true;
                warn!(%error, "cannot hear the other nodes; looking from time to time instead");
            }
            Err(_) => {}
        }
        #[expect(clippy::disallowed_methods, reason = "waits for the database to come back")]
        tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
    }
}

async fn until_trouble(parts: &RunParts, mut bell: Bell) {
    while let Ok(heard) = bell.heard().await {
        match heard {
            Heard::Missed => look_anew(parts),
            Heard::Told(text) => match serde_json::from_str::<Hint>(&text) {
                Ok(hint) => take(parts, hint),
                // Of a node of another version.
                Err(_) => look_anew(parts),
            },
        }
    }
}

fn look_anew(parts: &RunParts) {
    if let Some(news) = &parts.neighbours.news {
        news.followers.miss();
    }
    parts.gates.look_anew();
    parts.doorbell.notify_one();
    parts.intake.announce();
}

fn take(parts: &RunParts, hint: Hint) {
    if hint.node == parts.store.node().as_str() {
        return;
    }
    for run in hint.cancelled {
        parts.stop_run(&RunId::from_text(run), Stop::Cancelled);
    }
    if let Some(news) = &parts.neighbours.news {
        if !hint.following.is_empty() {
            news.followers.ask(hint.following);
        }
        news.followers.hear(hint.settled, hint.missed);
    }
    if hint.look {
        return look_anew(parts);
    }
    note(&parts.lanes, &parts.gates, &hint.ready, hint.buffered);
    if hint.buffered || !hint.ready.is_empty() {
        parts.doorbell.notify_one();
        parts.intake.announce();
    }
}

fn note(lanes: &LaneIndex, gates: &Gates, ready: &[(String, String, i64)], buffered: bool) {
    for (basin, lane, rank) in ready {
        lanes.note(&Basin::from_text(basin), &Lane::from_text(lane), *rank);
    }
    if buffered {
        gates.buffered.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(lanes: usize) -> Collected {
        let place = |nth: usize| (Basin::own(&format!("org/env-{nth:05}")), Lane::new("default", "key"));
        Collected { lanes: (0..lanes).map(|nth| (place(nth), nth as i64)).collect(), ..Collected::default() }
    }

    #[test]
    fn what_is_told_fits_and_comes_back_as_it_was() {
        for lanes in [0, 1, 50, 5_000] {
            let hint = collected(lanes).into_hint("node_x");
            let text = serde_json::to_string(&hint).unwrap();
            assert!(text.len() < 8_000, "{lanes} lanes are {} bytes", text.len());
            assert_eq!(hint.look, hint.ready.len() < lanes, "what does not fit has to be looked for");
            assert_eq!(serde_json::from_str::<Hint>(&text).unwrap(), hint);
        }
    }

    #[test]
    fn of_what_is_followed_the_rest_is_said_to_be_missed() {
        for runs in [0, 10, 1_000] {
            let settled = |nth: usize| Settled {
                run: RunId::from_text(format!("run_{nth:026}")),
                env: "org/env".to_owned(),
                state: storage::model::RunState::Succeeded,
            };
            let following = BTreeSet::from(["org/env".to_owned()]);
            let collected = Collected { following, settled: (0..runs).map(settled).collect(), ..Collected::default() };
            let hint = collected.into_hint("node_x");
            assert!(serde_json::to_string(&hint).unwrap().len() < 8_000);
            assert_eq!(hint.following, ["org/env"]);
            assert_eq!(hint.missed, hint.settled.len() < runs, "{runs}");
            assert!(!hint.look, "nobody has to look for runs to carry out");
        }
    }

    #[test]
    fn a_lane_is_told_with_its_lowest_rank() {
        let neighbours = Neighbours { news: Some(Arc::default()) };
        let (basin, lane) = (Basin::own("org/env"), Lane::new("default", ""));
        for rank in [7, 3, 9] {
            neighbours.ready(&basin, &lane, rank);
        }
        neighbours.cancelled(&RunId::from_text("run_x"));
        let news = neighbours.news.as_ref().unwrap();
        let hint = std::mem::take(&mut *news.collected.lock().unwrap()).into_hint("node_x");
        assert_eq!(hint.ready, [("org/env".to_owned(), lane.as_str().to_owned(), 3)]);
        assert_eq!(hint.cancelled, ["run_x"]);
        let lanes = LaneIndex::default();
        note(&lanes, &Gates::default(), &hint.ready, false);
        assert!(lanes.knows("org/env"));
    }
}
