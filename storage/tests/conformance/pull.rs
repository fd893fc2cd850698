//! Pull workers: leases that a token proves, heartbeats renew, and time ends.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV, verdict};
use storage::model::{RunId, RunState};
use storage::store::{Ending, PullWorker};

fn token(run: &RunId) -> String {
    format!("token of {run}")
}

on_both! {
    async fn s003_h6_a_heartbeat_renews_its_lease_and_tells_how_it_stands(store: Fixture) {
        let lease = store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
        let found = store.pull_lease(ENV, &lease.run, &token(&lease.run)).await.unwrap().unwrap();
        assert_eq!((found.epoch(), found.leased_at, found.lease_until), (lease.epoch, at(10).millis(), at(100).millis()));
        assert_eq!(found.cancel_requested, 0);
        let beaten = store.beat(ENV, &lease.run, &token(&lease.run), at(200), at(100)).await.unwrap().unwrap();
        assert_eq!((beaten.epoch(), beaten.lease_until), (lease.epoch, at(200).millis()));
        assert_eq!(store.pull_lease(ENV, &lease.run, &token(&lease.run)).await.unwrap(), Some(beaten));
        assert_eq!(store.take_back(at(200), 9).await.unwrap(), [], "it holds until the new time");
        store.cancel_run(ENV, &lease.run, at(150)).await.unwrap();
        let told = store.beat(ENV, &lease.run, &token(&lease.run), at(300), at(160)).await.unwrap().unwrap();
        assert_eq!(told.cancel_requested, 1, "so it hears of a cancel");
    }

    async fn a_lapsed_lease_is_not_renewed_though_nobody_took_it_back_yet(store: Fixture) {
        let lease = store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
        let before = store.snapshot().await;
        assert_eq!(store.beat(ENV, &lease.run, &token(&lease.run), at(900), at(101)).await.unwrap(), None);
        before.assert_same(&store.snapshot().await, "a late heartbeat");
        let finished = store.settle_runs(&[verdict(&lease, Ending::Succeeded)], at(102)).await.unwrap();
        assert_eq!(finished[0].state, Some(RunState::Succeeded), "what it has done still counts");
    }

    async fn a_wrong_token_env_or_run_proves_nothing(store: Fixture) {
        let (one, other) = (
            store.pulled(store.for_pull("train", ENV), "w", at(100)).await,
            store.pulled(store.for_pull("train", ENV), "w", at(100)).await,
        );
        let own = store.leased(store.record(ENV)).await;
        let before = store.snapshot().await;
        for (env, run, token) in [
            (ENV, &one.run, token(&other.run)),
            (OTHER_ENV, &one.run, token(&one.run)),
            (ENV, &other.run, token(&one.run)),
            (ENV, &one.run, String::new()),
            (ENV, &own.run, String::new()),
            (ENV, &own.run, token(&own.run)),
            (ENV, &RunId::from_text("run_none"), token(&one.run)),
        ] {
            assert_eq!(store.beat(env, run, &token, at(900), at(20)).await.unwrap(), None);
            assert_eq!(store.pull_lease(env, run, &token).await.unwrap(), None);
        }
        before.assert_same(&store.snapshot().await, "heartbeats that prove nothing");
    }

    async fn a_token_proves_nothing_once_its_lease_has_ended_or_is_anothers(store: Fixture) {
        let lease = store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
        store.take_back(at(101), 9).await.unwrap();
        let old = token(&lease.run);
        let is_gone = async || {
            let beaten = store.beat(ENV, &lease.run, &old, at(900), at(50)).await.unwrap();
            (beaten, store.pull_lease(ENV, &lease.run, &old).await.unwrap())
        };
        assert_eq!(is_gone().await, (None, None));
        let again = [storage::store::Share::new(lease.basin.clone(), lease.lane.clone(), 1)];
        let newer = |_: &RunId| "newer".to_owned();
        let taker = storage::store::Taker::Pull { worker: "v", until: at(900), token: &newer };
        assert_eq!(store.claim_ready(&again, &[], taker, at(110)).await.unwrap()[0].epoch.number(), 2);
        assert_eq!(is_gone().await, (None, None));
        assert!(store.pull_lease(ENV, &lease.run, "newer").await.unwrap().is_some());
    }

    async fn s003_h3_workers_are_listed_with_what_they_hold_while_they_are_seen(store: Fixture) {
        assert_eq!(store.pull_workers(ENV, at(0)).await.unwrap(), []);
        store.pull_worker_seen(ENV, "b", "train", at(10)).await.unwrap();
        store.pull_worker_seen(ENV, "a", "train", at(20)).await.unwrap();
        store.pull_worker_seen(ENV, "a", "train,test", at(30)).await.unwrap();
        store.pull_worker_seen(OTHER_ENV, "a", "other", at(40)).await.unwrap();
        let lease = store.pulled(store.for_pull("train", ENV), "a", at(100)).await;
        store.pulled(store.for_pull("train", OTHER_ENV), "a", at(100)).await;
        let worker = |name: &str, tasks: &str, seen: i64, running| PullWorker {
            name: name.to_owned(),
            tasks: tasks.to_owned(),
            last_seen_at: at(seen).millis(),
            running,
        };
        let (a, b) = (worker("a", "train,test", 30, 1), worker("b", "train", 10, 0));
        assert_eq!(store.pull_workers(ENV, at(0)).await.unwrap(), [a.clone(), b]);
        assert_eq!(store.pull_workers(ENV, at(10)).await.unwrap(), [a]);
        assert_eq!(store.pull_workers(ENV, at(30)).await.unwrap(), []);
        store.leased(store.record(ENV)).await;
        assert_eq!(store.pull_leases().await.unwrap(), 2, "what a node has is not pulled");
        store.settle_one(&lease, Ending::Succeeded).await;
        assert_eq!(store.pull_workers(ENV, at(29)).await.unwrap()[0].running, 0);
        assert_eq!(store.pull_workers(OTHER_ENV, at(0)).await.unwrap()[0].running, 1);
        assert_eq!(store.pull_leases().await.unwrap(), 1);
    }

    async fn heartbeats_and_the_sweeper_agree_about_one_lease(store: Fixture) {
        for _ in 0..20 {
            let lease = store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
            let callers = store.callers(2).await;
            let (worker, sweeper) = (callers[0].clone(), callers[1].clone());
            let (run, proof) = (lease.run.clone(), token(&lease.run));
            // Each by its own clock: the worker's says that there is time, the sweeper's that there is none.
            let beats = tokio::spawn(async move { worker.beat(ENV, &run, &proof, at(900), at(100)).await.unwrap() });
            let sweeps = tokio::spawn(async move { sweeper.take_back(at(101), 9).await.unwrap() });
            let (beaten, taken) = (beats.await.unwrap(), sweeps.await.unwrap());
            let lost = taken.iter().any(|one| one.run == lease.run && one.state.is_some());
            assert!(beaten.is_some() || lost, "somebody has it");
            let state = store.stands(&lease.run).await.state;
            assert_eq!(state, if lost { RunState::Queued } else { RunState::Running });
        }
    }
}
