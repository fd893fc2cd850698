//! What may be spent in a day: exact under many claimers, and never an end for a job that asks for more.

use crate::fixture::{Driven, Fixture, RESERVE, at, up_to};
use std::time::Duration;
use storage::Store;
use storage::model::{BatchState, Mode, Money, Timestamp};
use storage::store::{Claim, DayCap, NewJob, Opened};

/// `at(0)` is 17 seconds before a midnight and some hours; this much after it another day has begun for certain.
const DAY: Duration = Duration::from_secs(86_400);

fn cap(env: Option<&str>, runs: i64) -> DayCap {
    DayCap { env: env.map(str::to_owned), max: Money::from_nanos(runs * RESERVE) }
}

async fn asks(store: &Store, names: &Fixture, job: &Driven, runs: i64, caps: &[DayCap], now: Timestamp) -> Opened {
    let (batch, wire_key) = (names.batch_id(), names.ulid());
    let claim = Claim {
        job: &job.id,
        job_epoch: job.epoch,
        batch: &batch,
        wire_key: &wire_key,
        limits: up_to(runs),
        mode: Mode::Batch,
        price_version: "prices 1",
        day_caps: caps,
        now,
    };
    store.open_batch(&claim).await.expect("the store answers")
}

fn is_open(opened: &Opened) -> bool {
    matches!(opened, Opened::Batch { .. })
}

async fn job_of(store: &Fixture, pool: &str, env: &str, runs: i64) -> Driven {
    let job = NewJob { env: env.to_owned(), ..store.new_job(pool) };
    store.driven_with(&job, &store.runs(0..runs)).await
}

on_both! {
    async fn a_day_that_is_spent_holds_a_job_until_there_is_more(store: Fixture) {
        let caps = [cap(Some("home"), 5)];
        let (letters, cards) = (store.driven("letters", 9).await, store.driven("cards", 9).await);
        assert!(is_open(&asks(&store, &store, &letters, 3, &caps, at(3)).await));
        assert!(is_open(&asks(&store, &store, &cards, 2, &caps, at(3)).await), "both are of one env");
        let until = at(3) + Duration::from_secs(60);
        assert_eq!(asks(&store, &store, &letters, 1, &caps, at(3)).await, Opened::Held { until });
        let row = store.job(&letters.id).await.unwrap().unwrap();
        assert_eq!((row.state.word(), row.hold_until), ("running", until), "it is held, and not over");
        assert!(is_open(&asks(&store, &store, &letters, 1, &[cap(Some("home"), 6)], until).await), "somebody has raised it");
        assert!(is_open(&asks(&store, &store, &cards, 3, &caps, at(3) + DAY).await), "another day has its own");
    }

    async fn a_cap_of_all_envs_counts_all_of_them_and_one_of_an_env_its_own(store: Fixture) {
        let (home, work) = (job_of(&store, "a", "home", 9).await, job_of(&store, "b", "work", 9).await);
        let caps = [cap(None, 5), cap(Some("work"), 2)];
        assert!(is_open(&asks(&store, &store, &home, 3, &[cap(None, 5)], at(3)).await));
        assert!(!is_open(&asks(&store, &store, &work, 3, &caps, at(3)).await), "its own is smaller");
        let later = at(3) + Duration::from_secs(61);
        assert!(is_open(&asks(&store, &store, &work, 2, &caps, later).await));
        assert!(!is_open(&asks(&store, &store, &home, 1, &[cap(None, 5)], later).await), "all is spent");
    }

    async fn what_is_settled_for_less_leaves_more_of_the_day(store: Fixture) {
        let caps = [cap(Some("home"), 2)];
        let letters = store.driven("letters", 4).await;
        let Opened::Batch { .. } = asks(&store, &store, &letters, 2, &caps, at(3)).await else { panic!("no batch") };
        let fence = store.in_flight().await.unwrap().remove(0);
        let fence = storage::store::Fence { batch: fence.id, epoch: fence.epoch };
        store.bring(&fence, BatchState::Collected).await.unwrap();
        let spent = store.batch_row(&fence).await.spent;
        assert!(spent < Money::from_nanos(RESERVE), "{spent}");
        assert!(is_open(&asks(&store, &store, &letters, 1, &caps, at(4)).await));
    }

    async fn many_who_ask_at_once_never_pass_a_days_cap(store: Fixture) {
        let caps = [cap(None, 100), cap(Some("home"), 7)];
        let mut jobs = Vec::new();
        for nth in 0..6 {
            jobs.push(store.driven(&format!("pool {nth}"), 4).await);
        }
        let callers = store.callers(jobs.len()).await;
        let asked = callers.iter().zip(&jobs).map(|(caller, job)| asks(caller, &store, job, 2, &caps, at(3)));
        let opened = futures_util::future::join_all(asked).await;
        assert_eq!(opened.iter().filter(|opened| is_open(opened)).count(), 3, "{opened:?}");
        let reserved = store.raw.number("SELECT SUM(reserved_nanos) FROM batches").await;
        assert_eq!(reserved, 6 * RESERVE);
    }
}
