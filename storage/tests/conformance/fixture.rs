//! A fresh store on either database, with what tests need in it made by the store's own operations.

use crate::audit;
use crate::postgres;
use crate::raw::{Raw, Snapshot};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::model::{
    BatchId, BatchState, Ceilings, Epoch, IdMint, JobEvent, JobId, JobState, LiveRules, Mode, Money, NewRun, NodeId,
    RequestState, RunId, Scope, Source, StopReason, Timestamp,
};
use storage::store::{BatchRow, Claim, Fence, JobMove, Limits, NewJob, OpenOptions, Opened, Verdict};
use storage::{Class, Store, StoreError};
use tempfile::TempDir;

pub const LEASE: Duration = Duration::from_secs(15);
pub const MAX_ATTEMPTS: u32 = 3;
/// What one run of a fixture may cost at most, and what a success costs.
pub const RESERVE: i64 = 100;
pub const COST: i64 = 7;

/// The tests' own time line; all of it lies before any lease that a store of today takes.
pub const fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// Runs a test's body on a fresh store and then audits the whole database, whatever the test was about.
pub fn run(kind: Kind, body: impl AsyncFnOnce(Fixture)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let store = Fixture::new(kind).await;
        let (raw, url, _folder) = (store.raw.clone(), store.url.clone(), store.folder.clone());
        body(store).await;
        audit::audit(&raw).await;
        // What operators ask of a store must find nothing where the audit finds nothing.
        let answers = storage::store::check(&url).await.expect("the store can be asked");
        let wrong: Vec<_> = answers.iter().filter(|answer| answer.wrong > 0).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    });
}

/// An open store with a way past it. Derefs to the store.
pub struct Fixture {
    pub store: Store,
    pub raw: Raw,
    pub url: String,
    pub folder: Arc<TempDir>,
    mint: Arc<Mutex<IdMint<StdRng>>>,
}

/// A job that this process drives.
#[derive(Debug, Clone)]
pub struct Driven {
    pub id: JobId,
    pub epoch: Epoch,
    pub pool: String,
}

impl Deref for Fixture {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Fixture {
    async fn new(kind: Kind) -> Fixture {
        let folder = Arc::new(tempfile::tempdir().expect("a folder can be made"));
        let mint = Arc::new(Mutex::new(IdMint::new(StdRng::seed_from_u64(7))));
        let path = folder.path().join("store.db");
        let url = match kind {
            Kind::Sqlite => format!("sqlite:{}", path.display()),
            Kind::Postgres => postgres::cluster().fresh_database(),
        };
        let node = NodeId::mint(&mut mint.lock().expect("unpoisoned"), at(0));
        let store = open(&url, node).await.expect("a fresh store opens");
        let raw = match kind {
            Kind::Sqlite => Raw::sqlite(&path).await,
            Kind::Postgres => Raw::postgres(&url).await,
        };
        Fixture { store, raw, url, folder, mint }
    }

    /// Closes the store and opens it again as another incarnation.
    pub async fn restarted(self) -> Fixture {
        let node = self.node_id();
        let Fixture { store, raw, url, folder, mint } = self;
        store.close().await;
        drop(store);
        let store = open(&url, node).await.expect("the store opens again");
        Fixture { store, raw, url, folder, mint }
    }

    /// Closes the store, marks it as a copy, and opens it again.
    pub async fn marked(self, copied_at: Timestamp) -> Fixture {
        let node = self.node_id();
        let Fixture { store, raw, url, folder, mint } = self;
        store.close().await;
        drop(store);
        storage::store::mark_copy(&url, copied_at).await.expect("it is marked");
        let store = open(&url, node).await.expect("the store opens again");
        Fixture { store, raw, url, folder, mint }
    }

    /// A fixture on another database, with what this one mints.
    pub async fn beside(&self, url: &str) -> Fixture {
        let store = open(url, self.node_id()).await.expect("the other store opens");
        let raw = Raw::postgres(url).await;
        Fixture { store, raw, url: url.to_owned(), folder: self.folder.clone(), mint: self.mint.clone() }
    }

    /// Opens the same database as one more node; only PostgreSQL allows that.
    pub async fn another_node(&self) -> Store {
        open(&self.url, self.node_id()).await.expect("a second node may open it")
    }

    pub fn node_id(&self) -> NodeId {
        NodeId::mint(&mut self.mint.lock().expect("unpoisoned"), at(0))
    }

    pub fn job_id(&self) -> JobId {
        JobId::mint(&mut self.mint.lock().expect("unpoisoned"), at(0))
    }

    pub fn batch_id(&self) -> BatchId {
        BatchId::mint(&mut self.mint.lock().expect("unpoisoned"), at(0))
    }

    pub fn ulid(&self) -> String {
        self.mint.lock().expect("unpoisoned").ulid(at(0))
    }

    /// Writes a node that is not this one and is alive until `lease_until`.
    pub async fn rival(&self, lease_until: Timestamp) -> NodeId {
        let id = self.node_id();
        let until = lease_until.millis();
        self.raw.exec(&format!("INSERT INTO nodes VALUES ('{id}', 'elsewhere', 1, 'live', 1, {until}, 0)")).await;
        id
    }

    pub fn new_job(&self, pool: &str) -> NewJob {
        NewJob {
            id: self.job_id(),
            env: "home".to_owned(),
            pool: pool.to_owned(),
            source: Source::Backfill,
            label: "letters.jsonl".to_owned(),
            scope: scope(),
            ceilings: ceilings(),
            expected: 4,
        }
    }

    /// Runs number `seqs` of a pool, all of one pack and one price.
    pub fn runs(&self, seqs: Range<i64>) -> Vec<NewRun> {
        let mut mint = self.mint.lock().expect("unpoisoned");
        let mut run = |seq| NewRun {
            id: RunId::mint(&mut mint, at(0)),
            seq,
            custom_id: format!("line {seq}"),
            pack: "chat small".to_owned(),
            body: format!("{{\"n\":{seq}}}"),
            reserve_nanos: Some(RESERVE),
        };
        seqs.map(&mut run).collect()
    }

    pub async fn created(&self, job: &NewJob) -> Driven {
        let epoch = self.create_job(job, at(0)).await.expect("the job is created");
        Driven { id: job.id.clone(), epoch, pool: job.pool.clone() }
    }

    pub async fn import(&self, job: &Driven, before: i64, runs: &[NewRun]) -> Result<(), StoreError> {
        self.import_runs((&job.id, job.epoch), &job.pool, before, MAX_ATTEMPTS, runs, at(0)).await
    }

    /// Moves a job; the reason is given where one has to be.
    pub async fn step(&self, job: &Driven, from: JobState, event: JobEvent) -> Result<JobState, StoreError> {
        let reason = (event == JobEvent::Stopping).then_some(StopReason::Drained);
        self.move_job(&job.id, job.epoch, JobMove { from, event, reason, detail: None }, at(1)).await
    }

    /// A running job in its first round, whose pool holds these runs.
    pub async fn driven_with(&self, job: &NewJob, runs: &[NewRun]) -> Driven {
        let driven = self.created(job).await;
        let before = self.pool_counts(&job.pool).await.expect("it is counted").total;
        self.import(&driven, before, runs).await.expect("the runs are taken in");
        self.step(&driven, JobState::Created, JobEvent::Started).await.expect("the job starts");
        let first = self.job(&driven.id).await.expect("it is read").expect("it is there").first_round;
        self.open_round(&driven.id, driven.epoch, first, at(1)).await.expect("its first round opens");
        driven
    }

    pub async fn driven(&self, pool: &str, runs: i64) -> Driven {
        self.driven_with(&self.new_job(pool), &self.runs(0..runs)).await
    }

    /// Asks for a batch under a fresh id and key.
    pub async fn ask(&self, job: &Driven, limits: Limits, now: Timestamp) -> Result<(BatchId, Opened), StoreError> {
        self.ask_as(job, Mode::Batch, limits, now).await
    }

    pub async fn ask_as(
        &self,
        job: &Driven,
        mode: Mode,
        limits: Limits,
        now: Timestamp,
    ) -> Result<(BatchId, Opened), StoreError> {
        let (batch, wire_key) = (self.batch_id(), self.ulid());
        let claim = Claim {
            job: &job.id,
            job_epoch: job.epoch,
            batch: &batch,
            wire_key: &wire_key,
            limits,
            mode,
            price_version: "prices 1",
            day_caps: &[],
            now,
        };
        let opened = self.open_batch(&claim).await?;
        Ok((batch, opened))
    }

    /// Opens a batch of at most `requests` of the job's runs.
    pub async fn opened(&self, job: &Driven, requests: i64) -> Fence {
        match self.ask(job, up_to(requests), at(2)).await.expect("the store answers") {
            (batch, Opened::Batch { epoch, .. }) => Fence { batch, epoch },
            (_, other) => panic!("no batch was opened: {other:?}"),
        }
    }

    /// A new batch of two runs of a new job, brought to `state` along legal moves. Up to `ended` its requests
    /// are open; those of a `collected` one have succeeded, those of an `abandoned` one are missing.
    pub async fn batch_in(&self, state: BatchState) -> Fence {
        let job = self.driven(&format!("pool {}", self.ulid()), 2).await;
        let fence = self.opened(&job, 2).await;
        self.bring(&fence, state).await.expect("the moves are legal");
        fence
    }

    /// Takes a planned batch along the moves that lead to `state`.
    pub async fn bring(&self, fence: &Fence, state: BatchState) -> Result<(), StoreError> {
        match state {
            BatchState::Planned => return Ok(()),
            BatchState::Abandoned => {
                self.settle_all(fence, BatchState::Planned, RequestState::Missing).await?;
                return self.abandoned(fence, BatchState::Planned, "refused", at(9)).await;
            }
            _ => {}
        }
        self.arm(fence, Some("lane 1"), at(3)).await?;
        self.commit_create(fence, at(4)).await?;
        if state == BatchState::Submitting {
            return Ok(());
        }
        if state == BatchState::Unknown {
            return self.answer_lost(fence, "cut", at(5)).await;
        }
        self.accepted(fence, &provider_id(fence), at(5)).await?;
        if state == BatchState::Submitted {
            return Ok(());
        }
        if state == BatchState::Cancelling {
            return self.cancel_asked(fence, "stop", at(6)).await;
        }
        self.ended(fence, BatchState::Submitted, "completed", (Some("out"), Some("err")), at(7)).await?;
        if state == BatchState::Collected {
            self.settle_all(fence, BatchState::Ended, RequestState::Succeeded).await?;
            self.collected(fence, at(9)).await?;
        }
        Ok(())
    }

    /// Settles whatever is open in a batch with one and the same verdict.
    pub async fn settle_all(&self, fence: &Fence, state: BatchState, verdict: RequestState) -> Result<(), StoreError> {
        let open = self.open_positions(fence, i64::MAX).await?;
        let verdicts: Vec<_> = open.into_iter().map(|pos| says(pos, verdict)).collect();
        self.settle(fence, state, 1, &verdicts, at(8)).await.map(|_| ())
    }

    pub async fn batch_row(&self, fence: &Fence) -> BatchRow {
        self.batch(&fence.batch).await.expect("it is read").expect("the batch is there")
    }

    pub async fn snapshot(&self) -> Snapshot {
        self.raw.snapshot().await
    }
}

pub async fn open(url: &str, node: NodeId) -> Result<Store, StoreError> {
    Store::open(OpenOptions { url: url.to_owned(), node, lease: LEASE }).await
}

pub fn scope() -> Scope {
    Scope {
        input_sha256: "a1".repeat(32),
        provider: "sim".to_owned(),
        account: "acme".to_owned(),
        max_attempts: MAX_ATTEMPTS,
        edition: 0,
    }
}

pub fn ceilings() -> Ceilings {
    Ceilings {
        max_rounds: 9,
        max_wallclock_ms: None,
        max_usd_nanos: None,
        max_batch_requests: 50_000,
        live: LiveRules::default(),
    }
}

/// Limits of which only the number of requests ever bites.
pub fn up_to(requests: i64) -> Limits {
    Limits { max_requests: requests, max_bytes: 1 << 40, max_bodies: i64::MAX, envelope_bytes: 0 }
}

pub fn provider_id(fence: &Fence) -> String {
    format!("provider of {}", fence.batch)
}

/// A result line about the request at `pos`; only a success costs something.
pub fn says(pos: i64, state: RequestState) -> Verdict {
    let wire_id = format!("\"wire-{pos}\"");
    let line = format!("{{\"custom_id\":{wire_id}, \"said\": \"{state}\",\"x\":1.50}}");
    let start = line.find(&wire_id).expect("it was put there");
    let cost = if state == RequestState::Succeeded { COST } else { 0 };
    Verdict {
        pos,
        state,
        code: (state != RequestState::Succeeded).then(|| format!("code of {state}")),
        cost: Some(Money::from_nanos(cost)),
        id_span: start..start + wire_id.len(),
        line,
    }
}

/// The line that `says` becomes in the caller's hands.
pub fn own_line(seq: i64, state: RequestState) -> String {
    format!("{{\"custom_id\":\"line {seq}\", \"said\": \"{state}\",\"x\":1.50}}")
}

#[track_caller]
pub fn assert_moved<T: std::fmt::Debug>(answer: Result<T, StoreError>, what: &str) {
    match answer {
        Err(error @ StoreError::Moved { .. }) => assert_eq!(error.class(), Class::Conflict),
        other => panic!("{what}: expected `Moved`, got {other:?}"),
    }
}
