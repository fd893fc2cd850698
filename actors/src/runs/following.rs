//! Streams of what is settled in an env, on this node and on its neighbours: told where somebody follows that env, and
//! nowhere else.

use super::neighbours::News;
use super::{RunParts, Settled};
use dashmap::DashMap;
use std::sync::Arc;
use std::time::Duration;
use storage::boot_clock::since_boot;
use storage::model::{RunId, RunState};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};
use tokio::time::interval;

/// How often a node repeats what is followed on it; its words may be lost.
const REPEAT_EVERY: Duration = Duration::from_secs(5);
/// Nobody follows an env there any more, unless it was said again within this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15);
/// What a stream may be behind.
const HEARD: usize = 4_096;

/// What came about on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    Settled(Settled),
    /// Some of it was lost on its way.
    Missed,
}

/// Who follows what.
#[derive(Debug)]
pub(super) struct Followers {
    /// Streams of this node by env.
    here: DashMap<String, usize>,
    /// Until when, in time since boot, other nodes are told of an env.
    there: DashMap<String, Duration>,
    asked: Notify,
    heard: broadcast::Sender<Elsewhere>,
}

impl Default for Followers {
    fn default() -> Followers {
        let (heard, _) = broadcast::channel(HEARD);
        Followers { here: DashMap::new(), there: DashMap::new(), asked: Notify::new(), heard }
    }
}

impl Followers {
    /// Another node follows these envs.
    pub(super) fn ask(&self, envs: Vec<String>) {
        let until = since_boot() + FORGOTTEN_AFTER;
        for env in envs {
            self.there.insert(env, until);
        }
        self.asked.notify_one();
    }

    /// Passes on what was told by another node; what cannot be read is of another version.
    pub(super) fn hear(&self, settled: Vec<(String, String, String)>, missed: bool) {
        for (run, env, state) in settled {
            let told = RunState::from_word(&state).map_or(Elsewhere::Missed, |state| {
                Elsewhere::Settled(Settled { run: RunId::from_text(run), env, state })
            });
            let _ = self.heard.send(told);
        }
        if missed {
            self.miss();
        }
    }

    /// Something was told that never arrived.
    pub(super) fn miss(&self) {
        let _ = self.heard.send(Elsewhere::Missed);
    }

    pub(super) fn envs(&self) -> Vec<String> {
        self.here.iter().map(|entry| entry.key().clone()).collect()
    }

    fn is_asked(&self, env: &str) -> bool {
        self.there.get(env).is_some_and(|until| *until > since_boot())
    }

    fn forget(&self) {
        let now = since_boot();
        self.there.retain(|_, until| *until > now);
    }
}

/// One stream that follows an env; other nodes hear of its end by hearing nothing more of it.
#[derive(Debug)]
pub struct Following {
    news: Arc<News>,
    env: String,
    heard: broadcast::Receiver<Elsewhere>,
}

impl Following {
    pub(super) fn begin(news: &Arc<News>, env: &str) -> Following {
        *news.followers.here.entry(env.to_owned()).or_default() += 1;
        news.follow(vec![env.to_owned()]);
        Following { news: news.clone(), env: env.to_owned(), heard: news.followers.heard.subscribe() }
    }

    /// The next thing of any env that another node tells.
    pub async fn next(&mut self) -> Elsewhere {
        match self.heard.recv().await {
            Ok(told) => told,
            Err(RecvError::Lagged(_)) => Elsewhere::Missed,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.news.followers.here.remove_if_mut(&self.env, |_, streams| {
            *streams -= 1;
            *streams == 0
        });
    }
}

/// Repeats what is followed here, for as long as the store is open.
pub(super) async fn repeat(parts: RunParts, news: Arc<News>) {
    let mut pace = interval(REPEAT_EVERY);
    while !parts.store.is_closed() {
        pace.tick().await;
        let envs = news.followers.envs();
        if !envs.is_empty() {
            news.follow(envs);
        }
    }
}

/// Tells what is settled here while others follow it; costs nothing while nobody does.
pub(super) async fn share(parts: RunParts, news: Arc<News>) {
    while !parts.store.is_closed() {
        news.followers.asked.notified().await;
        let mut settled = parts.settler.follow();
        let mut pace = interval(REPEAT_EVERY);
        while !news.followers.there.is_empty() {
            tokio::select! {
                heard = settled.recv() => match heard {
                    Ok(settled) if news.followers.is_asked(&settled.env) => news.settled(settled),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => news.missed(),
                    Err(RecvError::Closed) => return,
                },
                _ = pace.tick() => news.followers.forget(),
            }
        }
    }
}
