//! Ends that need no attempt, and what becomes due: cancelled, expired, come due.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV, QUEUE, TRIES, ids, runs_of, share, verdict};
use std::collections::BTreeSet;
use storage::model::{RunId, RunState};
use storage::store::{Cancelled, Ending, NewRecord, Taker};

on_both! {
    async fn s004_m6_a_run_that_waits_is_cancelled_at_once_wherever_it_waits(store: Fixture) {
        let parked = store.sent(NewRecord { buffered: true, ..store.record(ENV) }).await;
        store.park_first(ENV, "no").await.unwrap();
        let waiting = [
            store.sent(store.record(ENV)).await,
            store.sent(NewRecord { not_before: Some(at(99)), ..store.record(ENV) }).await,
            store.sent(NewRecord { buffered: true, ..store.record(ENV) }).await,
            store.sent(store.for_pull("train", ENV)).await,
            parked,
        ];
        for run in waiting {
            assert_eq!(store.cancel_run(ENV, &run, at(20)).await.unwrap(), Cancelled::AtOnce);
            let read = store.stands(&run).await;
            assert_eq!((read.state, read.code.as_deref()), (RunState::Cancelled, Some("cancelled")));
            assert_eq!((read.reason.as_deref(), read.finished_at), (Some("cancelled before it was started"), Some(at(20))));
            assert_eq!((read.attempts, read.epoch.number()), (0, 0));
            assert_eq!(store.places(&run).await, Vec::<&str>::new());
            let before = store.snapshot().await;
            let again = store.cancel_run(ENV, &run, at(30)).await.unwrap();
            assert_eq!(again, Cancelled::Ended(RunState::Cancelled));
            before.assert_same(&store.snapshot().await, "cancelling again");
        }
    }

    /// What it has used up stays true of it.
    async fn a_run_that_waits_for_its_next_try_is_cancelled_with_its_past(store: Fixture) {
        for ending in [Ending::Lost, Ending::Retry(at(900))] {
            let lease = store.leased_at_try(2).await;
            store.settle_one(&lease, ending).await;
            assert_eq!(store.cancel_run(ENV, &lease.run, at(30)).await.unwrap(), Cancelled::AtOnce);
            let read = store.stands(&lease.run).await;
            assert_eq!((read.state, read.attempts, read.epoch), (RunState::Cancelled, 2, lease.epoch));
            assert_ne!(read.reason.as_deref(), Some("cancelled before it was started"), "it was started twice");
            assert_eq!(store.past_attempts(&lease.run).await.unwrap().len(), 2);
        }
    }

    async fn a_run_that_is_carried_out_is_cancelled_by_its_carrier(store: Fixture) {
        let lease = store.leased(store.record(ENV)).await;
        let other = store.leased(store.record(ENV)).await;
        let holder = store.node().as_str().to_owned();
        assert_eq!(store.cancels_asked(&holder).await.unwrap(), []);
        for _ in 0..2 {
            let asked = store.cancel_run(ENV, &lease.run, at(20)).await.unwrap();
            assert_eq!(asked, Cancelled::Asked { holder: holder.clone() });
            assert_eq!(store.cancels_asked(&holder).await.unwrap(), std::slice::from_ref(&lease.run));
        }
        let read = store.stands(&lease.run).await;
        assert!((read.state, read.cancel_requested) == (RunState::Running, true), "{read:?}");
        assert!(!store.stands(&other.run).await.cancel_requested);
        assert_eq!(store.cancels_asked("somebody else").await.unwrap(), []);
        store.settle_one(&lease, Ending::Cancelled).await;
        assert_eq!(store.stands(&lease.run).await.state, RunState::Cancelled);
        assert_eq!(store.cancels_asked(&holder).await.unwrap(), []);
    }

    async fn what_has_ended_is_not_cancelled_any_more(store: Fixture) {
        for (ending, state) in [
            (Ending::Succeeded, RunState::Succeeded),
            (Ending::Failed, RunState::Failed),
            (Ending::TimedOut, RunState::TimedOut),
        ] {
            let lease = store.leased(store.record(ENV)).await;
            store.settle_one(&lease, ending).await;
            let before = store.snapshot().await;
            assert_eq!(store.cancel_run(ENV, &lease.run, at(30)).await.unwrap(), Cancelled::Ended(state));
            before.assert_same(&store.snapshot().await, "cancelling what has ended");
        }
    }

    async fn another_envs_run_is_not_found_wherever_it_is(store: Fixture) {
        let done = store.leased(store.record(ENV)).await;
        store.settle_one(&done, Ending::Succeeded).await;
        let runs = [
            store.sent(store.record(ENV)).await,
            store.sent(NewRecord { buffered: true, ..store.record(ENV) }).await,
            store.leased(store.record(ENV)).await.run,
            done.run,
            RunId::from_text("run_none"),
            RunId::from_text(""),
        ];
        let before = store.snapshot().await;
        for run in runs {
            for env in [OTHER_ENV, "", "acme/pro_", "%"] {
                assert_eq!(store.cancel_run(env, &run, at(20)).await.unwrap(), Cancelled::NotFound);
            }
        }
        before.assert_same(&store.snapshot().await, "cancelling another env's runs");
    }

    /// Each run is cancelled before it starts or by its carrier: none gets away, none is done twice.
    async fn a_cancel_that_races_with_a_claim_reaches_the_run(store: Fixture) {
        let records = store.records(ENV, 120);
        let held = records.iter().map(|record| NewRecord { buffered: true, ..record.clone() });
        store.take_in(&held.collect::<Vec<_>>()).await;
        let callers = store.callers(4).await;
        let claimers: Vec<_> = callers[..2].iter().cloned().map(|caller| {
            tokio::spawn(async move {
                let mut runs = Vec::new();
                for _ in 0..40 {
                    caller.let_through(ENV, i64::MIN, 5).await.unwrap();
                    let leased = caller.claim_ready(&[share(ENV, QUEUE, 4)], &[], Taker::Node, at(30)).await.unwrap();
                    runs.extend(runs_of(&leased));
                }
                runs
            })
        }).collect();
        let cancellers: Vec<_> = callers[2..].iter().cloned().map(|caller| {
            let runs = ids(&records);
            tokio::spawn(async move {
                let mut told = Vec::new();
                for run in runs {
                    told.push((caller.cancel_run(ENV, &run, at(30)).await.expect("it is reached"), run));
                }
                told
            })
        }).collect();
        let mut claimed = BTreeSet::new();
        for claimer in claimers {
            claimed.extend(claimer.await.unwrap());
        }
        for canceller in cancellers {
            for (told, run) in canceller.await.unwrap() {
                match told {
                    Cancelled::AtOnce | Cancelled::Ended(RunState::Cancelled) => assert!(!claimed.contains(&run)),
                    Cancelled::Asked { .. } => assert!(claimed.contains(&run)),
                    other => panic!("{run}: {other:?}"),
                }
            }
        }
        let unasked = "SELECT COUNT(*) FROM leases WHERE cancel_requested = 0";
        assert_eq!(store.raw.number(unasked).await, 0);
    }

    async fn a_cancel_that_races_with_the_end_of_a_try_is_not_forgotten(store: Fixture) {
        for _ in 0..25 {
            let lease = store.leased(store.record(ENV)).await;
            let callers = store.callers(2).await;
            let (carrier, canceller, told) = (callers[0].clone(), callers[1].clone(), [verdict(&lease, Ending::Lost)]);
            let run = lease.run.clone();
            let ends = tokio::spawn(async move { carrier.settle_runs(&told, at(20)).await.unwrap() });
            let cancels = tokio::spawn(async move { canceller.cancel_run(ENV, &run, at(20)).await.unwrap() });
            ends.await.unwrap();
            let cancelled = cancels.await.unwrap();
            assert!(matches!(cancelled, Cancelled::AtOnce | Cancelled::Asked { .. }), "{cancelled:?}");
            assert_eq!(store.stands(&lease.run).await.state, RunState::Cancelled);
        }
    }

    async fn runs_expire_in_whichever_place_they_wait_and_no_earlier(store: Fixture) {
        let record = |expires, buffered| NewRecord { expires_at: Some(at(expires)), buffered, ..store.record(ENV) };
        let records = [record(50, false), record(51, false), record(50, true), record(51, true)];
        store.take_in(&records).await;
        let lease = store.leased(record(50, false)).await;
        assert_eq!(store.expire_runs(at(49), 99).await.unwrap(), 0);
        assert_eq!(store.expire_runs(at(50), 99).await.unwrap(), 2);
        for nth in [0, 2] {
            let read = store.stands(&records[nth].id).await;
            assert_eq!((read.state, read.code.as_deref()), (RunState::Expired, Some("expired")));
            assert_eq!((read.finished_at, read.attempts), (Some(at(50)), 0));
        }
        assert_eq!(store.stands(&lease.run).await.state, RunState::Running, "it was started in time");
        assert_eq!(store.expire_runs(at(50), 99).await.unwrap(), 0);
        assert_eq!(store.expire_runs(at(99), 99).await.unwrap(), 2);
    }

    async fn a_delayed_run_expires_only_once_it_is_due(store: Fixture) {
        let record = NewRecord { not_before: Some(at(80)), expires_at: Some(at(50)), ..store.record(ENV) };
        let run = store.sent(record).await;
        assert_eq!(store.expire_runs(at(79), 9).await.unwrap(), 0);
        store.come_due(at(80), 9).await.unwrap();
        assert_eq!(store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(80)).await.unwrap(), []);
        assert_eq!(store.expire_runs(at(80), 9).await.unwrap(), 1);
        assert_eq!(store.stands(&run).await.state, RunState::Expired);
    }

    async fn a_run_that_was_tried_and_waits_too_long_expires_with_its_past(store: Fixture) {
        let lease = store.leased(NewRecord { expires_at: Some(at(50)), ..store.record(ENV) }).await;
        store.settle_one(&lease, Ending::Lost).await;
        assert_eq!(store.expire_runs(at(50), 9).await.unwrap(), 1);
        let read = store.stands(&lease.run).await;
        assert_eq!((read.state, read.attempts, read.epoch), (RunState::Expired, 1, lease.epoch));
        assert!(!read.reason.unwrap().contains("not started"), "it was");
    }

    async fn expiring_goes_in_bounded_parts_and_by_many_at_once_counts_each_once(store: Fixture) {
        let records = [store.records(ENV, 700), store.buffered(ENV, 700)].concat();
        let expiring = records.into_iter().map(|record| NewRecord { expires_at: Some(at(1_000)), ..record });
        store.take_in(&expiring.collect::<Vec<_>>()).await;
        assert_eq!(store.expire_runs(at(1_000), 5).await.unwrap(), 10, "at most the limit in each table");
        let racing: Vec<_> = store.callers(4).await.into_iter().map(|caller| {
            tokio::spawn(async move {
                let mut expired = 0;
                for _ in 0..8 {
                    expired += caller.expire_runs(at(1_000), 600).await.expect("nobody waits in a circle");
                }
                expired
            })
        }).collect();
        let mut expired = 0;
        for caller in racing {
            expired += caller.await.unwrap();
        }
        assert_eq!(expired, 1_390);
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM unsuccessful WHERE state = 'expired'").await, 1_400);
    }

    async fn a_run_comes_due_at_its_time_and_waits_from_then_on(store: Fixture) {
        let record = |due| NewRecord { not_before: Some(at(due)), ..store.record(ENV) };
        let records = [record(50), record(51), record(-10)];
        store.take_in(&records).await;
        let lane = (ENV.to_owned(), records[0].lane.as_str().to_owned());
        assert_eq!(store.come_due(at(49), 9).await.unwrap(), std::slice::from_ref(&lane), "the past one only");
        assert_eq!(store.come_due(at(49), 9).await.unwrap(), []);
        assert_eq!(store.stands(&records[0].id).await.state, RunState::Delayed);
        assert_eq!(store.come_due(at(51), 1).await.unwrap().len(), 1, "at most so many");
        assert_eq!(store.stands(&records[0].id).await.state, RunState::Queued, "the earliest first");
        assert_eq!(store.come_due(at(60), 9).await.unwrap(), [lane]);
        let leased = store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(60)).await.unwrap();
        let since = |record: &NewRecord| leased.iter().find(|lease| lease.run == record.id).map(|lease| lease.since);
        assert_eq!(records.each_ref().map(since), [Some(at(50)), Some(at(51)), Some(at(0))], "none before it came");
    }

    async fn runs_come_due_once_for_many_who_look_at_once(store: Fixture) {
        for round in 0..4 {
            let delayed = store.records(ENV, 300).into_iter().enumerate();
            let delayed = delayed.map(|(nth, record)| {
                let due = at(1_000 + i64::try_from(nth).unwrap() * 7 % 300);
                NewRecord { not_before: Some(due), ..record }
            });
            store.take_in(&delayed.collect::<Vec<_>>()).await;
            let racing: Vec<_> = store.callers(6).await.into_iter().map(|caller| {
                tokio::spawn(async move { caller.come_due(at(9_000), 250).await.expect("nobody waits in a circle").len() })
            }).collect();
            let mut due = 0;
            for caller in racing {
                due += caller.await.unwrap();
            }
            due += store.come_due(at(9_000), 999).await.unwrap().len();
            assert_eq!(due, 300, "in round {round}");
            let early = format!("SELECT COUNT(*) FROM ready WHERE since < {}", at(1_000).millis());
            assert_eq!(store.raw.number(&early).await, 0);
            store.raw.exec("UPDATE ready SET since = 1900000000000").await;
        }
    }

    async fn a_buffered_run_that_is_delayed_comes_due_after_it_was_let_through(store: Fixture) {
        let run = store.sent(NewRecord { buffered: true, not_before: Some(at(50)), ..store.record(ENV) }).await;
        assert_eq!(store.come_due(at(99), 9).await.unwrap(), []);
        store.let_through(ENV, i64::MIN, 9).await.unwrap();
        assert_eq!(store.stands(&run).await.state, RunState::Delayed);
        assert_eq!(store.come_due(at(99), 9).await.unwrap().len(), 1);
        assert_eq!(store.stands(&run).await.state, RunState::Queued);
    }

    /// Invariant 1.
    async fn an_ended_run_never_changes_again(store: Fixture) {
        let leases = [store.leased_at_try(TRIES).await, store.leased(store.record(ENV)).await];
        store.settle_one(&leases[0], Ending::Lost).await;
        store.settle_one(&leases[1], Ending::Succeeded).await;
        let expired = store.sent(NewRecord { expires_at: Some(at(1)), ..store.record(ENV) }).await;
        store.expire_runs(at(30), 9).await.unwrap();
        let mut before = Vec::new();
        for run in [&leases[0].run, &leases[1].run, &expired] {
            before.push(store.stands(run).await);
        }
        store.settle_runs(&[verdict(&leases[0], Ending::Succeeded), verdict(&leases[1], Ending::Failed)], at(40)).await.unwrap();
        for read in &before {
            store.cancel_run(ENV, &read.id, at(40)).await.unwrap();
        }
        store.expire_runs(at(99), 9).await.unwrap();
        store.come_due(at(99), 9).await.unwrap();
        store.let_through(ENV, i64::MIN, 9).await.unwrap();
        store.take_back(at(99), 9).await.unwrap();
        for read in before {
            assert_eq!(store.stands(&read.id).await, read);
        }
    }
}
