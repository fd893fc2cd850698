//! Taking runs back from carriers that are gone, and from those only.

use crate::fixture::{Fixture, LEASE, at};
use crate::sent::{ENV, TRIES, because, verdict};
use std::time::Duration;
use storage::model::{RunState, Timestamp};
use storage::store::{Ending, Finished, Leased, RunVerdict};

on_both! {
    async fn s003_j6_nothing_is_written_when_nobody_is_gone(store: Fixture) {
        assert_eq!(store.take_back(store.now(), 99).await.unwrap(), []);
        store.leased(store.record(ENV)).await;
        store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
        store.sent(store.record(ENV)).await;
        let before = store.snapshot().await;
        assert_eq!(store.take_back(at(100), 99).await.unwrap(), []);
        before.assert_same(&store.snapshot().await, "looking for the gone");
    }

    async fn s003_j2_only_runs_of_gone_nodes_are_taken_back(store: Fixture) {
        let (live, gone) = (store.leased(store.record(ENV)).await, store.leased(store.record(ENV)).await);
        let (rival, dead) = (store.rival(at(1_000)).await, store.rival(at(1)).await);
        let alive = store.leased(store.record(ENV)).await;
        hand_to(&store, &gone, dead.as_str()).await;
        hand_to(&store, &alive, rival.as_str()).await;
        assert_eq!(store.take_back(at(30), 99).await.unwrap(), [], "nobody was declared gone");
        store.bury_lapsed(at(30)).await.unwrap();
        let taken = store.take_back(at(30), 99).await.unwrap();
        assert_eq!(taken, [Finished {
            run: gone.run.clone(),
            env: ENV.to_owned(),
            state: Some(RunState::Queued),
            basin: gone.basin.clone(),
            lane: gone.lane.clone(),
        }]);
        let past = store.past_attempts(&gone.run).await.unwrap().remove(0);
        assert_eq!((past.state.as_str(), past.code.as_deref()), ("lost", Some("lost")));
        assert_eq!((past.holder.as_deref(), past.reason.as_deref()), (Some(dead.as_str()), Some("its node is gone")));
        assert_eq!((store.places(&live.run).await, store.places(&alive.run).await), (vec!["leases"], vec!["leases"]));
        let again = store.lease_again(&gone.basin, &gone.lane).await;
        assert_eq!((again.attempt, again.epoch.number()), (2, 2));
    }

    async fn s004_l7_a_pull_lease_is_taken_back_when_it_has_lapsed_and_not_before(store: Fixture) {
        let short = store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
        let long = store.pulled(store.for_pull("train", ENV), "w", at(101)).await;
        assert_eq!(store.take_back(at(100), 99).await.unwrap(), []);
        let taken = store.take_back(at(101), 99).await.unwrap();
        assert_eq!(taken.iter().map(|one| &one.run).collect::<Vec<_>>(), [&short.run]);
        let past = store.past_attempts(&short.run).await.unwrap().remove(0);
        assert_eq!((past.holder.as_deref(), past.reason.as_deref()), (Some("w"), Some("its worker did not renew the lease")));
        assert_eq!(store.places(&long.run).await, ["leases"]);
    }

    async fn a_lost_run_that_ends_shows_since_when_it_was_given_out(store: Fixture) {
        let (asked, spent) = (store.leased(store.record(ENV)).await, store.leased_at_try(TRIES).await);
        store.cancel_run(ENV, &asked.run, at(15)).await.unwrap();
        for (lease, state) in [(asked, RunState::Cancelled), (spent, RunState::Failed)] {
            let shown = store.stands(&lease.run).await.started_at;
            let taken = RunVerdict { started_at: None, ..verdict(&lease, Ending::Lost) };
            store.settle_runs(&[taken], at(20)).await.unwrap();
            let read = store.stands(&lease.run).await;
            assert_eq!((read.state, read.started_at, read.finished_at), (state, shown, Some(at(20))));
            assert!(shown.is_some(), "{state:?}");
        }
        let untouched = store.leased(store.record(ENV)).await;
        store.cancel_run(ENV, &untouched.run, at(15)).await.unwrap();
        let given_back = RunVerdict { started_at: None, ..verdict(&untouched, Ending::Declined) };
        store.settle_runs(&[given_back], at(20)).await.unwrap();
        assert_eq!(store.stands(&untouched.run).await.started_at, None, "it never began");
    }

    /// A pull worker may have any name.
    async fn a_pull_worker_that_is_named_like_a_gone_node_keeps_its_runs(store: Fixture) {
        let dead = store.rival(at(1)).await;
        store.bury_lapsed(at(30)).await.unwrap();
        let lease = store.pulled(store.for_pull("train", ENV), dead.as_str(), at(100)).await;
        assert_eq!(store.take_back(at(30), 99).await.unwrap(), []);
        assert_eq!(store.places(&lease.run).await, ["leases"]);
    }

    async fn s003_j1_a_run_that_is_lost_at_its_last_try_fails_and_says_so(store: Fixture) {
        let lease = store.leased_at_try(TRIES).await;
        let dead = store.rival(at(1)).await;
        hand_to(&store, &lease, dead.as_str()).await;
        store.bury_lapsed(at(30)).await.unwrap();
        let taken = store.take_back(at(30), 99).await.unwrap();
        assert_eq!(taken[0].state, Some(RunState::Failed));
        let read = store.stands(&lease.run).await;
        assert_eq!((read.state, read.code.as_deref(), read.attempts), (RunState::Failed, Some("lost"), TRIES));
        assert_eq!((read.reason.as_deref(), read.finished_at), (Some("its node is gone"), Some(at(30))));
        assert_eq!(store.places(&lease.run).await, Vec::<&str>::new());
    }

    async fn a_lost_run_that_was_to_be_cancelled_is_cancelled_and_not_tried_again(store: Fixture) {
        let lease = store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
        store.cancel_run(ENV, &lease.run, at(50)).await.unwrap();
        assert_eq!(store.take_back(at(200), 99).await.unwrap()[0].state, Some(RunState::Cancelled));
        assert_eq!(store.stands(&lease.run).await.state, RunState::Cancelled);
    }

    async fn s003_j4_a_run_that_ended_before_its_node_did_stays_as_it_ended(store: Fixture) {
        let dead = store.rival(at(1)).await;
        let leases = [store.leased(store.record(ENV)).await, store.leased(store.record(ENV)).await];
        for (lease, ending) in leases.iter().zip([Ending::Succeeded, Ending::Cancelled]) {
            hand_to(&store, lease, dead.as_str()).await;
            store.settle_runs(&[because(lease, ending, "c", "r")], at(20)).await.unwrap();
        }
        store.bury_lapsed(at(30)).await.unwrap();
        let before = store.snapshot().await;
        assert_eq!(store.take_back(at(30), 99).await.unwrap(), []);
        before.assert_same(&store.snapshot().await, "taking back what has ended");
    }

    async fn s003_h4_runs_are_taken_back_in_bounded_parts_until_none_is_left(store: Fixture) {
        let dead = store.rival(at(1)).await;
        let until = at(100);
        for _ in 0..5 {
            let lease = store.leased(store.record(ENV)).await;
            hand_to(&store, &lease, dead.as_str()).await;
            store.pulled(store.for_pull("train", ENV), "w", until).await;
        }
        store.bury_lapsed(at(30)).await.unwrap();
        let mut parts = Vec::new();
        for _ in 0..4 {
            parts.push(store.take_back(at(200), 2).await.unwrap().len());
        }
        assert_eq!(parts, [4, 4, 2, 0]);
    }

    /// Both may be right about the carrier; only one of them is heard.
    async fn s003_j13_a_carrier_that_ends_its_run_while_it_is_taken_back_is_heard_or_fenced(store: Fixture) {
        for _ in 0..20 {
            let lease = store.pulled(store.for_pull("train", ENV), "w", at(100)).await;
            let callers = store.callers(2).await;
            let (carrier, sweeper) = (callers[0].clone(), callers[1].clone());
            let told = [verdict(&lease, Ending::Succeeded)];
            let ends = tokio::spawn(async move { carrier.settle_runs(&told, at(101)).await.unwrap().remove(0) });
            let takes = tokio::spawn(async move { sweeper.take_back(at(101), 99).await.unwrap() });
            let (ended, taken) = (ends.await.unwrap(), takes.await.unwrap());
            let heard = taken.iter().filter(|one| one.state.is_some()).count();
            assert_eq!(heard + usize::from(ended.state.is_some()), 1);
            let state = if ended.state.is_some() { RunState::Succeeded } else { RunState::Queued };
            assert_eq!(store.stands(&lease.run).await.state, state);
        }
    }
}

only_on! { Sqlite:
    /// Whoever opens the file is alone with it: what the process before held is free at once.
    async fn s003_j12_after_a_restart_the_runs_of_the_process_before_are_tried_again(store: Fixture) {
        let (lease, last) = (store.leased(store.record(ENV)).await, store.leased_at_try(TRIES).await);
        let store = store.restarted().await;
        let mut taken = store.take_back(store.now(), 99).await.unwrap();
        taken.sort_by_key(|one| one.run.clone());
        let states: Vec<_> = taken.into_iter().map(|one| (one.run, one.state)).collect();
        assert_eq!(states, [(lease.run, Some(RunState::Queued)), (last.run, Some(RunState::Failed))]);
    }
}

only_on! { Postgres:
    async fn s004_l8_a_node_that_has_left_gives_its_runs_up_at_once_and_one_that_lapsed_after_its_lease(store: Fixture) {
        let (left, lapsed) = (store.another_node().await, store.another_node().await);
        let (first, second) = (store.leased(store.record(ENV)).await, store.leased(store.record(ENV)).await);
        hand_to(&store, &first, left.node().as_str()).await;
        hand_to(&store, &second, lapsed.node().as_str()).await;
        assert_eq!(store.take_back(store.now(), 99).await.unwrap(), []);
        left.leave().await.unwrap();
        let taken = store.take_back(store.now(), 99).await.unwrap();
        assert_eq!(taken.iter().map(|one| &one.run).collect::<Vec<_>>(), [&first.run]);
        let later: Timestamp = store.now() + LEASE + Duration::from_secs(1);
        store.bury_lapsed(later).await.unwrap();
        let taken = store.take_back(later, 99).await.unwrap();
        assert_eq!(taken.iter().map(|one| &one.run).collect::<Vec<_>>(), [&second.run]);
        let late = lapsed.settle_runs(&[verdict(&second, Ending::Succeeded)], later).await.unwrap();
        assert_eq!(late[0].state, None, "the zombie is fenced");
    }
}

/// Lets somebody else be the carrier of a lease.
async fn hand_to(store: &Fixture, lease: &Leased, holder: &str) {
    let sql = format!("UPDATE leases SET holder = '{holder}' WHERE run_id = '{}'", lease.run);
    assert_eq!(store.raw.exec(&sql).await, 1);
}
