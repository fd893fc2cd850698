//! The registry: which jobs this node drives, under which source; and the only door to a new batch.

mod choose;

use super::Supervisor;
use crate::batch_poller::ledger;
use crate::parts::Parts;
use crate::provider::request::{has_shape, model_of_pack, url_of_pack};
use actix::{Context, Handler, Message, ResponseFuture};
use choose::{Choice, Facts};
use std::collections::HashMap;
use storage::StoreError;
use storage::model::{BatchId, Epoch, JobId, Mode, Source};
use storage::store::{Claim, JobRow, Limits, Opened};
use tracing::info;

/// Puts a job that this node drives on the registry.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), OpenRefused>")]
pub struct RegisterJob {
    pub job: JobId,
    pub epoch: Epoch,
    pub pool: String,
    pub source: Source,
}

/// Takes a job off the registry that this node does not drive any more.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ForgetJob {
    pub job: JobId,
}

/// Opens the next batch of a job, if its source owns the pool here.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(BatchId, Opened), OpenRefused>")]
pub struct OpenBatch {
    pub job: JobId,
}

/// Why no batch is opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenRefused {
    #[error("the pool is driven by the {driven_as} job {owner}")]
    Foreign { owner: JobId, driven_as: Source },
    #[error("the job {job} is not driven by this node")]
    NotRegistered { job: JobId },
    #[error("no provider of this node has the account {account}")]
    NoProvider { account: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone)]
struct Registered {
    epoch: Epoch,
    pool: String,
    source: Source,
}

/// The live jobs of this node.
pub struct Registry {
    parts: Parts,
    jobs: HashMap<JobId, Registered>,
}

impl Registry {
    pub fn new(parts: Parts) -> Registry {
        Registry { parts, jobs: HashMap::new() }
    }

    fn register(&mut self, job: RegisterJob) -> Result<(), OpenRefused> {
        let foreign = self.jobs.iter().find(|(id, known)| known.pool == job.pool && **id != job.job);
        if let Some((owner, known)) = foreign.filter(|(_, known)| known.source != job.source) {
            return Err(OpenRefused::Foreign { owner: owner.clone(), driven_as: known.source });
        }
        self.jobs.retain(|id, known| known.pool != job.pool || *id == job.job);
        self.jobs.insert(job.job, Registered { epoch: job.epoch, pool: job.pool, source: job.source });
        Ok(())
    }

    fn epoch_of(&self, job: &JobId) -> Result<Epoch, OpenRefused> {
        let known = self.jobs.get(job).ok_or_else(|| OpenRefused::NotRegistered { job: job.clone() })?;
        Ok(known.epoch)
    }
}

impl Handler<RegisterJob> for Supervisor {
    type Result = Result<(), OpenRefused>;

    fn handle(&mut self, job: RegisterJob, _: &mut Context<Self>) -> Self::Result {
        info!(job.id = %job.job, source = %job.source, "job is on the registry");
        self.registry.register(job)
    }
}

impl Handler<ForgetJob> for Supervisor {
    type Result = ();

    fn handle(&mut self, forget: ForgetJob, _: &mut Context<Self>) {
        self.registry.jobs.remove(&forget.job);
    }
}

impl Handler<OpenBatch> for Supervisor {
    type Result = ResponseFuture<Result<(BatchId, Opened), OpenRefused>>;

    fn handle(&mut self, wish: OpenBatch, _: &mut Context<Self>) -> Self::Result {
        let (parts, epoch) = (self.registry.parts.clone(), self.registry.epoch_of(&wish.job));
        Box::pin(async move {
            let epoch = epoch?;
            parts.on_runtime(move |parts| async move { open(&parts, &wish.job, epoch).await }).await
        })
    }
}

/// Claims runs, manifest and key in one transaction, before anybody is told that there is a batch.
async fn open(parts: &Parts, job: &JobId, epoch: Epoch) -> Result<(BatchId, Opened), OpenRefused> {
    let not_registered = || OpenRefused::NotRegistered { job: job.clone() };
    let row = parts.store.job(job).await?.ok_or_else(not_registered)?;
    let account = &row.scope.account;
    let provider = parts.provider_of(account).ok_or_else(|| OpenRefused::NoProvider { account: account.clone() })?;
    let pack = parts.store.next_pack(&row.pool, row.round).await?.unwrap_or_default();
    let (batch, wire_key) = parts.mint_batch();
    let facts = facts(parts, &row, &pack, provider.limits(url_of_pack(&pack))).await?;
    let Choice::Open { mode, limits } = choose::choose(&facts) else {
        return Ok((batch, Opened::Held { until: facts.now }));
    };
    let day_caps = parts.settings.now().day_caps(&row.env);
    let prices = parts.prices.now();
    let claim = Claim {
        job,
        job_epoch: epoch,
        batch: &batch,
        wire_key: &wire_key,
        limits,
        mode,
        price_version: prices.version(),
        day_caps: &day_caps,
        now: facts.now,
    };
    let mut opened = parts.store.open_batch(&claim).await?;
    if let Opened::Held { until } = opened
        && !day_caps.is_empty()
    {
        info!(job.id = %job, %until, env = row.env, "held: the provider's queue is full, or a day's cap is reached");
    }
    if mode.is_live() && matches!(opened, Opened::OverCap { .. }) {
        // Live is dearer: what the cap does not allow live it may allow in a batch.
        let Choice::Open { limits, .. } = choose::as_batch(&facts) else {
            return Ok((batch, Opened::Held { until: facts.now }));
        };
        opened = parts.store.open_batch(&Claim { mode: Mode::Batch, limits, ..claim }).await?;
    }
    Ok((batch, opened))
}

/// Everything that the choice of a mode depends on.
async fn facts(parts: &Parts, job: &JobRow, pack: &str, limits: Limits) -> Result<Facts, StoreError> {
    let store = &parts.store;
    let (now, live, account, model) = (store.now(), job.ceilings.live, &job.scope.account, model_of_pack(pack));
    let most = choose::TELLING_DEPTH.max(i64::from(live.below));
    let in_flight = store.in_flight().await?;
    Ok(Facts {
        now,
        below: i64::from(live.below),
        too_late_from: job.too_late_from(),
        depth: store.pack_depth(&job.pool, job.round, pack, most).await?,
        wants_canary: live.canary && has_shape(pack),
        canary: store.canary(account, pack).await?,
        queue_limit: store.queue_limit(account, model, now - ledger::BELIEVED_FOR).await?,
        queued: ledger::queued(&in_flight, account, model),
        limits,
    })
}
