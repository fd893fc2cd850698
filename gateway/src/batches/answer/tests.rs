use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::path::PathBuf;
use std::time::Duration;
use storage::model::{
    BatchId, Ceilings, Epoch, IdMint, JobEvent, JobId, JobState, LiveRules, Mode, NewRun, NodeId, RunId, Scope, Source,
    Timestamp,
};
use storage::store::{Claim, JobMove, Limits, NewJob, OpenOptions, Opened};

/// A store of its own with one job, whose file is removed at the end.
struct Desk {
    store: Store,
    mint: IdMint<StdRng>,
    job: JobId,
    job_epoch: Epoch,
    folder: PathBuf,
}

const POOL: &str = "letters";

impl Desk {
    async fn with_runs(name: &str, runs: i64) -> Desk {
        let folder = std::env::temp_dir().join(format!("tidegate-answer-{}-{name}", std::process::id()));
        let mut mint = IdMint::new(StdRng::seed_from_u64(7));
        let now = Timestamp::from_millis(1_700_000_000_000);
        let node = NodeId::mint(&mut mint, now);
        let url = format!("sqlite:{}", folder.join("store.sqlite").display());
        let store = Store::open(OpenOptions { url, node, lease: Duration::from_secs(60) }).await.expect("opens");
        let job = JobId::mint(&mut mint, now);
        let new = NewJob {
            id: job.clone(),
            env: "default/dev".into(),
            pool: POOL.into(),
            source: Source::Backfill,
            label: "letters.jsonl".into(),
            scope: Scope {
                input_sha256: "00".into(),
                provider: "openai".into(),
                account: "a".into(),
                max_attempts: 3,
                edition: 0,
            },
            ceilings: Ceilings {
                max_rounds: 3,
                max_wallclock_ms: None,
                max_usd_nanos: None,
                max_batch_requests: 50_000,
                live: LiveRules::default(),
            },
            expected: runs,
        };
        let job_epoch = store.create_job(&new, now).await.expect("a job");
        let run = |seq: i64| NewRun {
            id: RunId::from_text(format!("run_{seq}")),
            seq,
            custom_id: format!("letter {seq}"),
            pack: "/v1/responses m".into(),
            body: "{}".into(),
            reserve_nanos: Some(100),
        };
        let new: Vec<_> = (1..=runs).map(run).collect();
        store.import_runs((&job, job_epoch), POOL, 0, 3, &new, now).await.expect("imported");
        let start = JobMove { from: JobState::Created, event: JobEvent::Started, reason: None, detail: None };
        store.move_job(&job, job_epoch, start, now).await.expect("started");
        store.open_round(&job, job_epoch, 1, now).await.expect("a round");
        Desk { store, mint, job, job_epoch, folder }
    }

    async fn planned(&mut self, requests: i64) -> Fence {
        let now = self.store.now();
        let batch = BatchId::mint(&mut self.mint, now);
        let wire_key = self.mint.ulid(now);
        let claim = Claim {
            job: &self.job,
            job_epoch: self.job_epoch,
            batch: &batch,
            wire_key: &wire_key,
            limits: Limits { max_requests: requests, max_bytes: 1 << 30, max_bodies: i64::MAX, envelope_bytes: 10 },
            mode: Mode::Batch,
            price_version: "v",
            day_caps: &[],
            now,
        };
        match self.store.open_batch(&claim).await.expect("asked") {
            Opened::Batch { epoch, requests: held } if held == requests => Fence { batch, epoch },
            other => panic!("{other:?}"),
        }
    }

    async fn unknown(&mut self, requests: i64) -> Fence {
        let fence = self.planned(requests).await;
        let now = self.store.now();
        self.store.arm(&fence, None, now).await.expect("armed");
        self.store.commit_create(&fence, now).await.expect("committed");
        self.store.answer_lost(&fence, "cut", now).await.expect("lost");
        fence
    }

    async fn row(&self, fence: &Fence) -> BatchRow {
        self.store.batch(&fence.batch).await.expect("read").expect("there")
    }

    async fn close(self) {
        self.store.close().await;
        std::fs::remove_dir_all(&self.folder).expect("removed");
    }
}

#[tokio::test]
async fn an_abandoned_batch_queues_its_runs_again_without_using_up_an_attempt() {
    let mut desk = Desk::with_runs("abandon", 1_203).await;
    let fence = desk.unknown(1_203).await;
    assert!(abandon(&desk.store, &desk.row(&fence).await).await.expect("abandoned") > 0);
    let row = desk.row(&fence).await;
    assert_eq!((row.state, row.uncounted, row.reserved), (BatchState::Abandoned, 1_203, Money::ZERO));
    assert_eq!(row.reason.as_deref(), Some(WHY));
    let counts = desk.store.pool_counts(POOL).await.expect("counts");
    assert_eq!((counts.queued, counts.running, counts.reserved_nanos), (1_203, 0, 0));
    assert_eq!(counts.unpriced, 1_203, "what the provider took for them is not known");
    desk.planned(1_203).await;
    let refused = abandon(&desk.store, &row).await.expect_err("it is over");
    assert_eq!(refused.exit, Exit::Conflict);
    assert!(refused.what.contains("is abandoned"), "{refused}");
    desk.close().await;
}

#[tokio::test]
async fn a_planned_batch_was_not_sent_and_costs_nothing_when_abandoned() {
    let mut desk = Desk::with_runs("planned", 2).await;
    let fence = desk.planned(2).await;
    assert!(abandon(&desk.store, &desk.row(&fence).await).await.expect("abandoned") > 0);
    let counts = desk.store.pool_counts(POOL).await.expect("counts");
    assert_eq!((counts.queued, counts.unpriced, counts.spent_nanos), (2, 0, 0));
    desk.close().await;
}

#[tokio::test]
async fn an_adopted_batch_is_submitted_and_its_provider_batch_is_nobody_elses() {
    let mut desk = Desk::with_runs("adopt", 6).await;
    let (one, two, three) = (desk.unknown(2).await, desk.unknown(2).await, desk.planned(2).await);
    adopt(&desk.store, &desk.row(&one).await, "batch_x").await.expect("adopted");
    let row = desk.row(&one).await;
    assert_eq!((row.state, row.provider_batch_id.as_deref()), (BatchState::Submitted, Some("batch_x")));
    assert!(row.provisional, "a mistyped id is disproved by its results, not bought again");
    let owned = adopt(&desk.store, &desk.row(&two).await, "batch_x").await.expect_err("owned");
    assert_eq!((owned.exit, owned.what), (Exit::Conflict, format!("batch_x belongs to batch {}", one.batch)));
    let planned = adopt(&desk.store, &desk.row(&three).await, "batch_y").await.expect_err("not unknown");
    assert_eq!(planned.exit, Exit::Conflict);
    assert!(planned.what.contains("is planned"), "{planned}");
    assert!(abandon(&desk.store, &row).await.expect("an operator may give up what the provider lost") > 0);
    let blank = adopt(&desk.store, &desk.row(&two).await, "").await.expect_err("no id");
    assert_eq!(blank.exit, Exit::Usage);
    desk.close().await;
}

#[tokio::test]
async fn a_batch_proven_foreign_to_another_may_still_be_this_one() {
    let mut desk = Desk::with_runs("foreign", 4).await;
    let (one, two) = (desk.unknown(2).await, desk.unknown(2).await);
    let now = desk.store.now();
    desk.store.book_foreign(&one.batch, "a", "batch_x", now).await.expect("booked");
    desk.store.book_stray(&one.batch, "a", "batch_z", 2, now).await.expect("booked");
    let own = adopt(&desk.store, &desk.row(&one).await, "batch_x").await.expect_err("disproved before");
    assert_eq!(own.exit, Exit::Conflict);
    let stray = adopt(&desk.store, &desk.row(&two).await, "batch_z").await.expect_err("a duplicate");
    assert!(stray.what.contains("duplicate of batch"), "{stray}");
    adopt(&desk.store, &desk.row(&two).await, "batch_x").await.expect("adopted");
    desk.close().await;
}

#[test]
fn only_a_clear_yes_is_one() {
    for (answer, yes) in [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("n\n", false), ("yeah\n", false)]
    {
        assert_eq!(is_yes(answer), yes, "{answer:?}");
    }
}
