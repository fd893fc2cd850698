//! Runs as they are sent in over HTTP, brought to wherever a test wants them by the store's own operations.

use crate::fixture::{Fixture, Kind, at};
use std::time::Duration;
use storage::Store;
use storage::model::{Basin, Epoch, Lane, RunId, Source, Timestamp};
use storage::store::{Accepted, Ending, Idempotency, Leased, NewRecord, RunRecord, RunVerdict, Share, Taker};

pub const ENV: &str = "acme/prod";
pub const OTHER_ENV: &str = "acme/dev";
pub const QUEUE: &str = "mail";
pub const TASK: &str = "send";
/// How often a sent run is tried.
pub const TRIES: i64 = 3;
pub const DAY: Duration = Duration::from_secs(86_400);

impl Fixture {
    /// A run of an env with nothing special about it, accepted at `at(0)`. Each sorts after those before it.
    pub fn record(&self, env: &str) -> NewRecord {
        NewRecord {
            id: self.run_id(),
            env: env.to_owned(),
            task: TASK.to_owned(),
            basin: Basin::own(env),
            lane: Lane::new(QUEUE, ""),
            priority: 0,
            payload: "{\"to\": \"you\"}".to_owned(),
            tags: "[]".to_owned(),
            metadata: "{}".to_owned(),
            source: Source::Daemon,
            session_id: None,
            replay_of: None,
            max_attempts: TRIES,
            max_duration_ms: 0,
            accepted_at: at(0),
            not_before: None,
            expires_at: None,
            buffered: false,
            leased: false,
            trace: None,
            idempotency: None,
        }
    }

    /// Runs that were accepted a millisecond apart.
    pub fn records(&self, env: &str, count: i64) -> Vec<NewRecord> {
        (0..count).map(|n| NewRecord { accepted_at: at(n), ..self.record(env) }).collect()
    }

    pub fn buffered(&self, env: &str, count: i64) -> Vec<NewRecord> {
        self.records(env, count).into_iter().map(|record| NewRecord { buffered: true, ..record }).collect()
    }

    /// A run for the pull workers of a task.
    pub fn for_pull(&self, task: &str, env: &str) -> NewRecord {
        NewRecord { task: task.to_owned(), basin: Basin::pull(task, env), ..self.record(env) }
    }

    pub fn run_id(&self) -> RunId {
        RunId::from_text(format!("run_{}", self.ulid()))
    }

    /// Takes runs in that are all new.
    pub async fn take_in(&self, records: &[NewRecord]) {
        let answers = self.accept(records).await.expect("they are accepted");
        assert!(answers.len() == records.len() && answers.iter().all(|answer| *answer == Accepted::New), "{answers:?}");
    }

    pub async fn sent(&self, record: NewRecord) -> RunId {
        self.take_in(std::slice::from_ref(&record)).await;
        record.id
    }

    pub async fn sent_all(&self, records: Vec<NewRecord>) -> Vec<RunId> {
        self.take_in(&records).await;
        records.into_iter().map(|record| record.id).collect()
    }

    /// Sends a run to a lane of its own and leases it to this node.
    pub async fn leased(&self, record: NewRecord) -> Leased {
        let lane = Lane::new(&format!("only-{}", self.ulid()), "");
        let record = NewRecord { lane, ..record };
        self.take_in(std::slice::from_ref(&record)).await;
        self.lease_again(&record.basin, &record.lane).await
    }

    /// Sends a pull run to a lane of its own and leases it to a pull worker, with the run's own id as its token.
    pub async fn pulled(&self, record: NewRecord, worker: &str, until: Timestamp) -> Leased {
        let lane = Lane::new(&format!("only-{}", self.ulid()), "");
        let record = NewRecord { lane, ..record };
        self.take_in(std::slice::from_ref(&record)).await;
        let taker = Taker::Pull { worker, until, token: &|run| format!("token of {run}") };
        let shares = [Share::new(record.basin, record.lane, 1)];
        only(self.claim_ready(&shares, &[], taker, at(10)).await.expect("it is claimed"))
    }

    /// Leases the only run of a lane to this node.
    pub async fn lease_again(&self, basin: &Basin, lane: &Lane) -> Leased {
        let shares = [Share::new(basin.clone(), lane.clone(), 9)];
        only(self.claim_ready(&shares, &[], Taker::Node, at(10)).await.expect("it is claimed"))
    }

    /// Leases a run until its tries are used up but for what is left.
    pub async fn leased_at_try(&self, attempt: i64) -> Leased {
        let mut leased = self.leased(self.record(ENV)).await;
        while leased.attempt < attempt {
            self.settle_one(&leased, Ending::Lost).await;
            leased = self.lease_again(&leased.basin, &leased.lane).await;
        }
        leased
    }

    /// Ends an attempt that is still this carrier's.
    pub async fn settle_one(&self, leased: &Leased, ending: Ending) {
        let finished = self.settle_runs(&[verdict(leased, ending)], at(20)).await.expect("it is settled");
        assert!(finished.len() == 1 && finished[0].state.is_some(), "{finished:?}");
    }

    /// A run of `ENV` as it stands.
    pub async fn stands(&self, run: &RunId) -> RunRecord {
        self.run_record(ENV, run).await.expect("it is read").expect("the run is there")
    }

    /// Which of the narrow tables hold a run.
    pub async fn places(&self, run: &RunId) -> Vec<&'static str> {
        let mut places = Vec::new();
        for table in ["buffer", "ready", "leases"] {
            if self.raw.number(&format!("SELECT COUNT(*) FROM {table} WHERE run_id = '{run}'")).await > 0 {
                places.push(table);
            }
        }
        places
    }

    /// Handles for concurrent callers: on PostgreSQL of two nodes, on SQLite of the only one.
    pub async fn callers(&self, count: usize) -> Vec<Store> {
        let other = match self.kind() {
            Kind::Sqlite => self.store.clone(),
            Kind::Postgres => self.another_node().await,
        };
        (0..count).map(|n| if n % 2 == 0 { self.store.clone() } else { other.clone() }).collect()
    }

    pub fn kind(&self) -> Kind {
        if self.is_sqlite() { Kind::Sqlite } else { Kind::Postgres }
    }
}

fn only(mut leased: Vec<Leased>) -> Leased {
    assert_eq!(leased.len(), 1, "{leased:?}");
    leased.remove(0)
}

/// The first runs of a lane of an env's own.
pub fn share(env: &str, queue: &str, runs: i64) -> Share {
    Share::new(Basin::own(env), Lane::new(queue, ""), runs)
}

pub fn verdict(leased: &Leased, ending: Ending) -> RunVerdict {
    RunVerdict {
        run: leased.run.clone(),
        epoch: leased.epoch,
        ending,
        code: None,
        reason: None,
        output: None,
        started_at: Some(at(11)),
    }
}

/// A verdict that says why.
pub fn because(leased: &Leased, ending: Ending, code: &str, reason: &str) -> RunVerdict {
    RunVerdict { code: Some(code.to_owned()), reason: Some(reason.to_owned()), ..verdict(leased, ending) }
}

pub fn stale(verdict: RunVerdict) -> RunVerdict {
    RunVerdict { epoch: Epoch::from_number(verdict.epoch.number() - 1), ..verdict }
}

/// A key that holds for a day from now on.
pub fn keyed(store: &Store, key: &str, fingerprint: &str) -> Option<Idempotency> {
    Some(Idempotency {
        key: key.to_owned(),
        fingerprint: fingerprint.to_owned(),
        answer: format!("{{\"said\":\"{fingerprint}\"}}"),
        expires_at: store.now() + DAY,
    })
}

pub fn ids(records: &[NewRecord]) -> Vec<RunId> {
    records.iter().map(|record| record.id.clone()).collect()
}

pub fn runs_of(leased: &[Leased]) -> Vec<RunId> {
    leased.iter().map(|lease| lease.run.clone()).collect()
}
