//! What every actor is built from: the store, the providers, the prices, the ids and the runtime.

use crate::config::Settings;
use crate::current::Current;
use crate::price::PriceTable;
use crate::provider::Provider;
use crate::runs::{RunParts, Settled};
use crate::traces::Traces;
use dashmap::DashMap;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use storage::StoreError;
use storage::model::{BatchId, IdMint, RunId, RunState};
use storage::store::{BatchRow, Dressed, Store};
use tokio::runtime::Handle;

type Mint = IdMint<rand::rngs::StdRng>;

/// Makes a request to a provider of a run's payload; `Err` says what is wrong with it.
pub type MakeRequest = Arc<dyn Fn(&str, &PriceTable) -> Result<Dressed, String> + Send + Sync>;

/// An `llm` task: who carries its runs out, and how they are asked.
#[derive(Clone)]
pub struct LlmTask {
    pub provider: String,
    pub account: String,
    pub max_attempts: u32,
    pub make_request: MakeRequest,
}

/// Shared by clones; holds nothing that a restart could lose.
#[derive(Clone)]
pub struct Parts {
    pub store: Store,
    pub settings: Current<Settings>,
    pub prices: Current<PriceTable>,
    /// By name; a job is driven only where its task is known.
    pub llm: Arc<HashMap<String, LlmTask>>,
    /// Where runs come in over HTTP too.
    pub runs: Option<RunParts>,
    pub providers: Arc<HashMap<String, Arc<dyn Provider>>>,
    pub ids: Arc<Mutex<Mint>>,
    /// Batches that a task of this process is at work on, across generations of the BatchPoller: a new
    /// generation never starts a second task for a batch whose old one has not ended yet.
    pub in_hand: Arc<DashMap<BatchId, ()>>,
    /// Held during a create where only its size tells a batch from another: one at a time.
    pub lane: Arc<tokio::sync::Mutex<()>>,
    /// This node takes no batch on any more, and lets others have those it has.
    pub draining: Arc<AtomicBool>,
    pub runtime: Handle,
}

impl Parts {
    /// The client for an account, if this process has its key.
    pub fn provider_of(&self, account: &str) -> Option<Arc<dyn Provider>> {
        self.providers.get(account).cloned()
    }

    /// Where spans go, in a server that exports them.
    pub fn traces(&self) -> Traces {
        self.runs.as_ref().map(|runs| runs.traces.clone()).unwrap_or_default()
    }

    /// Counts runs that have ended in a batch, and tells whoever follows them.
    pub fn announce(&self, ended: Vec<(RunId, String, RunState)>) {
        let Some(runs) = &self.runs else { return };
        for (run, env, state) in ended {
            runs.settler.announce(Settled { run, env, state });
        }
    }

    /// A fresh batch id and the key that goes wherever the provider echoes it.
    pub fn mint_batch(&self) -> (BatchId, String) {
        let now = self.store.now();
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        (BatchId::mint(&mut ids, now), ids.ulid(now))
    }

    pub fn mint_run(&self) -> RunId {
        RunId::mint(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner), self.store.now())
    }

    /// Batches that are not terminal and that this process may act on.
    pub async fn batches_in_flight(&self) -> Result<Vec<BatchRow>, StoreError> {
        let mut batches = self.store.in_flight().await?;
        batches.retain(|batch| {
            let ours = self.settings.now().pool.as_ref().is_none_or(|pool| *pool == batch.pool);
            ours && self.providers.contains_key(&batch.account)
        });
        Ok(batches)
    }

    /// Runs store work as a task on the shared runtime: database connections belong to it, and an actor that
    /// dies meanwhile does not tear the work apart.
    pub async fn on_runtime<T, F, W>(&self, work: F) -> T
    where
        T: Send + 'static,
        W: Future<Output = T> + Send,
        F: FnOnce(Parts) -> W + Send + 'static,
    {
        let parts = self.clone();
        match self.runtime.spawn(async move { work(parts).await }).await {
            Ok(value) => value,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only the end of the runtime cancels such a task; then nobody waits for an answer any more.
            Err(_) => std::future::pending().await,
        }
    }
}
