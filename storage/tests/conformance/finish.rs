//! Ending attempts: each by its own verdict, under the epoch of its lease, once.

use crate::fixture::{Fixture, at};
use crate::sent::{ENV, QUEUE, TRIES, because, runs_of, share, stale, verdict};
use storage::model::{Basin, Epoch, Lane, RunId, RunState};
use storage::store::{Ending, Finished, Leased, NewRecord, RunVerdict, Taker};

/// An ending, the attempt it ends of three, whether a cancel was asked for, and what follows: the run's state,
/// and of a run that goes on the attempts that are used up and when it is due.
type Case = (Ending, i64, bool, RunState, Option<(i64, i64)>);

const LATER: i64 = 5_000;

fn cases() -> Vec<Case> {
    use RunState::{Cancelled, Failed, Queued, Succeeded, TimedOut};
    let (retry, due) = (Ending::Retry(at(LATER)), at(LATER).millis());
    vec![
        (Ending::Succeeded, 1, false, Succeeded, None),
        (Ending::Succeeded, 3, true, Succeeded, None),
        (Ending::Failed, 1, false, Failed, None),
        (Ending::Failed, 1, true, Failed, None),
        (Ending::TimedOut, 1, false, TimedOut, None),
        (Ending::TimedOut, 1, true, TimedOut, None),
        (Ending::Cancelled, 1, false, Cancelled, None),
        (Ending::Cancelled, 1, true, Cancelled, None),
        (retry, 1, false, Queued, Some((1, due))),
        (retry, 2, false, Queued, Some((2, due))),
        (retry, 3, false, Failed, None),
        (retry, 1, true, Cancelled, None),
        (Ending::Lost, 2, false, Queued, Some((2, 0))),
        (Ending::Lost, 3, false, Failed, None),
        (Ending::Lost, 1, true, Cancelled, None),
        (Ending::Declined, 1, false, Queued, Some((0, 0))),
        (Ending::Declined, 3, false, Queued, Some((2, 0))),
        (Ending::Declined, 1, true, Cancelled, None),
    ]
}

on_both! {
    async fn s004_l5_each_ending_takes_the_lease_away_and_does_what_the_table_says(store: Fixture) {
        for (ending, attempt, cancel, state, again) in cases() {
            let lease = store.leased_at_try(attempt).await;
            if cancel {
                store.cancel_run(ENV, &lease.run, at(15)).await.unwrap();
            }
            let told = because(&lease, ending, "a code", "a reason");
            let finished = store.settle_runs(&[told], at(20)).await.unwrap();
            let (run, basin, lane) = (lease.run.clone(), lease.basin.clone(), lease.lane.clone());
            let expected = Finished { run, env: ENV.to_owned(), state: Some(state), basin, lane };
            assert_eq!(finished, [expected], "{ending:?}");
            match again {
                None => ended(&store, &lease, state).await,
                Some((attempts, due)) => goes_on(&store, &lease, attempts, due).await,
            }
        }
    }

    async fn s004_k1_a_success_keeps_what_it_left_and_when_it_was(store: Fixture) {
        let output = "{\"n\": 123456789012345678901234567890, \"s\": \"\\u0000 \\\"ż🦀\"}";
        for output in [None, Some(output)] {
            let lease = store.leased(store.record(ENV)).await;
            let told = RunVerdict { output: output.map(str::to_owned), ..verdict(&lease, Ending::Succeeded) };
            store.settle_runs(&[told], at(20)).await.unwrap();
            let read = store.stands(&lease.run).await;
            assert_eq!((read.state, read.output.as_deref()), (RunState::Succeeded, output));
            assert_eq!((read.epoch, read.attempts, read.code, read.reason), (lease.epoch, 1, None, None));
            assert_eq!((read.started_at, read.finished_at, read.holder), (Some(at(11)), Some(at(20)), None));
            assert_eq!(store.places(&lease.run).await, Vec::<&str>::new());
        }
        let lease = store.leased(store.record(ENV)).await;
        let told = RunVerdict { output: Some("1".to_owned()), ..because(&lease, Ending::Failed, "exit", "code 7") };
        store.settle_runs(&[told], at(20)).await.unwrap();
        let read = store.stands(&lease.run).await;
        assert_eq!((read.output.as_deref(), read.code.as_deref(), read.reason.as_deref()), (Some("1"), Some("exit"), Some("code 7")));
    }

    /// Invariants 4 and 10.
    async fn s003_h2_a_stale_or_unknown_epoch_changes_nothing_and_says_so(store: Fixture) {
        let first = store.leased(store.record(ENV)).await;
        store.settle_one(&first, Ending::Lost).await;
        let lease = store.lease_again(&first.basin, &first.lane).await;
        let before = store.snapshot().await;
        for (ending, _, _, _, _) in cases() {
            let unknown = RunVerdict { run: RunId::from_text("run_none"), ..verdict(&lease, ending) };
            let future = RunVerdict { epoch: Epoch::from_number(3), ..verdict(&lease, ending) };
            for told in [verdict(&first, ending), stale(verdict(&lease, ending)), future, unknown] {
                let finished = store.settle_runs(std::slice::from_ref(&told), at(30)).await.unwrap();
                assert_eq!(finished, [moved_on(&told.run)], "{told:?}");
            }
        }
        before.assert_same(&store.snapshot().await, "verdicts of carriers that are not the run's");
    }

    async fn s004_k2_settling_twice_changes_nothing_the_second_time(store: Fixture) {
        for (ending, attempt, _, _, _) in cases() {
            let lease = store.leased_at_try(attempt).await;
            let told = [because(&lease, ending, "c", "r")];
            store.settle_runs(&told, at(20)).await.unwrap();
            let before = store.snapshot().await;
            assert_eq!(store.settle_runs(&told, at(30)).await.unwrap(), [moved_on(&lease.run)], "{ending:?}");
            before.assert_same(&store.snapshot().await, "settling again");
        }
    }

    async fn a_verdict_that_is_doubled_within_a_call_counts_for_the_first(store: Fixture) {
        for (ending, attempt, _, state, _) in cases().into_iter().filter(|(_, _, cancel, _, _)| !cancel) {
            let lease = store.leased_at_try(attempt).await;
            let first = RunVerdict { output: Some("1".to_owned()), ..verdict(&lease, ending) };
            let second = RunVerdict { output: Some("2".to_owned()), ..verdict(&lease, ending) };
            let finished = store.settle_runs(&[first, second], at(20)).await.expect("it is settled");
            let states: Vec<_> = finished.into_iter().map(|one| one.state).collect();
            assert_eq!(states, [Some(state), None], "{ending:?}");
            let read = store.stands(&lease.run).await;
            assert_eq!(read.output.as_deref(), read.finished_at.map(|_| "1"), "{ending:?}");
        }
    }

    async fn a_stale_verdict_beside_the_right_one_is_told_apart(store: Fixture) {
        for (ending, attempt, _, state, _) in cases().into_iter().filter(|(_, attempt, _, _, _)| *attempt > 1) {
            for stale_first in [true, false] {
                let lease = store.leased_at_try(attempt).await;
                let (old, right) = (stale(verdict(&lease, Ending::Succeeded)), verdict(&lease, ending));
                let told = if stale_first { [old, right] } else { [right, old] };
                let finished = store.settle_runs(&told, at(20)).await.expect("it is settled");
                let states: Vec<_> = finished.into_iter().map(|one| one.state).collect();
                let cancelled = store.stands(&lease.run).await.state;
                assert_eq!(states, if stale_first { [None, Some(cancelled)] } else { [Some(cancelled), None] });
                assert_eq!(cancelled, state, "{ending:?}");
            }
        }
    }

    async fn s004_d7_hundreds_of_mixed_verdicts_are_each_obeyed_in_one_call(store: Fixture) {
        for count in [500, 1_100] {
            store.take_in(&store.records(ENV, count)).await;
            let leased = store.claim_ready(&[share(ENV, QUEUE, count)], &[], Taker::Node, at(30)).await.unwrap();
            assert_eq!(i64::try_from(leased.len()).unwrap(), count);
            let (endings, states) = mixed();
            let told: Vec<_> = leased.iter().enumerate().map(|(nth, lease)| {
                let told = because(lease, endings[nth % endings.len()], &format!("c{nth}"), &format!("r{nth}"));
                if nth % 10 == 9 { stale(told) } else { told }
            }).collect();
            let finished = store.settle_runs(&told, at(40)).await.unwrap();
            assert_eq!(finished.iter().map(|one| &one.run).collect::<Vec<_>>(), told.iter().map(|one| &one.run).collect::<Vec<_>>());
            for (nth, one) in finished.iter().enumerate() {
                let expected = (nth % 10 != 9).then_some(states[nth % endings.len()]);
                assert_eq!(one.state, expected, "{nth}");
                if nth % 50 < 10 {
                    let read = store.stands(&one.run).await;
                    assert_eq!(read.state, expected.unwrap_or(RunState::Running), "{nth}");
                    assert_eq!(read.code, read.finished_at.map(|_| format!("c{nth}")), "{nth}");
                }
            }
            let rest: Vec<_> = told.iter().enumerate().filter(|(nth, _)| nth % 10 == 9).map(|(_, told)| told.clone()).collect();
            let rest: Vec<_> = rest.into_iter().map(|told| RunVerdict { epoch: Epoch::from_number(1), ..told }).collect();
            store.settle_runs(&rest, at(50)).await.unwrap();
            drain(&store).await;
        }
    }

    async fn s004_k7_giving_back_a_run_that_is_not_there_queues_nothing(store: Fixture) {
        let lease = store.leased(store.record(ENV)).await;
        store.settle_one(&lease, Ending::Succeeded).await;
        let before = store.snapshot().await;
        for ending in [Ending::Lost, Ending::Declined, Ending::Retry(at(LATER))] {
            let unknown = RunVerdict { run: RunId::from_text("run_none"), ..verdict(&lease, ending) };
            let finished = store.settle_runs(&[unknown, verdict(&lease, ending)], at(30)).await.unwrap();
            assert!(finished.iter().all(|one| one.state.is_none()), "{finished:?}");
        }
        before.assert_same(&store.snapshot().await, "giving back what is not leased");
    }

    async fn s004_k8_a_run_that_failed_is_held_nowhere_and_one_that_is_not_there_cannot_fail(store: Fixture) {
        let lease = store.leased(store.record(ENV)).await;
        store.settle_one(&lease, Ending::Failed).await;
        assert_eq!(store.places(&lease.run).await, Vec::<&str>::new());
        let before = store.snapshot().await;
        let unknown = RunVerdict { run: RunId::from_text("run_none"), ..verdict(&lease, Ending::Failed) };
        assert_eq!(store.settle_runs(std::slice::from_ref(&unknown), at(30)).await.unwrap(), [moved_on(&unknown.run)]);
        before.assert_same(&store.snapshot().await, "failing what is not there");
    }

    async fn s004_k4_a_try_that_is_to_be_repeated_waits_until_its_time(store: Fixture) {
        let lease = store.leased(NewRecord { accepted_at: at(0), ..store.record(ENV) }).await;
        store.settle_one(&lease, Ending::Retry(at(LATER))).await;
        let read = store.stands(&lease.run).await;
        assert_eq!((read.state, read.attempts, read.not_before), (RunState::Queued, 1, Some(at(LATER))));
        assert_eq!((read.accepted_at, read.finished_at, read.started_at), (at(0), None, None));
        assert_eq!(store.ready_basins(None, "", 9).await.unwrap(), []);
        assert_eq!(store.come_due(at(LATER - 1), 9).await.unwrap(), []);
        let due = store.come_due(at(LATER), 9).await.unwrap();
        assert_eq!(due, [(ENV.to_owned(), lease.lane.as_str().to_owned())]);
        let again = store.lease_again(&lease.basin, &lease.lane).await;
        assert_eq!((again.attempt, again.epoch.number(), again.since), (2, 2, at(LATER)), "it waits from its time on");
    }

    async fn s004_k5_a_run_that_is_given_back_goes_before_newer_ones(store: Fixture) {
        let records = store.records(ENV, 3);
        store.take_in(&records).await;
        let first = store.claim_ready(&[share(ENV, QUEUE, 2)], &[], Taker::Node, at(30)).await.unwrap();
        store.settle_runs(&[verdict(&first[1], Ending::Lost)], at(40)).await.unwrap();
        let next = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(50)).await.unwrap();
        assert_eq!(runs_of(&next), [records[1].id.clone()]);
        assert_eq!(store.stands(&records[1].id).await.accepted_at, at(1));
    }

    async fn s004_k6_a_run_that_is_given_back_puts_its_lane_back_on_the_walk(store: Fixture) {
        let lease = store.leased(store.record(ENV)).await;
        assert_eq!(store.ready_basins(None, "", 9).await.unwrap(), []);
        store.settle_one(&lease, Ending::Declined).await;
        assert_eq!(store.ready_basins(None, "", 9).await.unwrap(), std::slice::from_ref(&lease.basin));
        assert_eq!(store.ready_lanes(&lease.basin, "", 9).await.unwrap()[0].lane, lease.lane);
    }

    async fn past_tries_are_kept_with_who_made_them_and_why_they_ended(store: Fixture) {
        let mut lease = store.leased(NewRecord { max_attempts: 9, ..store.record(ENV) }).await;
        let told = [(Ending::Lost, "lost"), (Ending::Declined, "declined"), (Ending::Retry(at(0)), "failed")];
        for (ending, word) in told {
            let told = because(&lease, ending, &format!("code of {word}"), &format!("why {word}"));
            store.settle_runs(&[told], at(20)).await.unwrap();
            store.come_due(at(21), 9).await.unwrap();
            lease = store.lease_again(&lease.basin, &lease.lane).await;
        }
        store.settle_one(&lease, Ending::Succeeded).await;
        let past = store.past_attempts(&lease.run).await.unwrap();
        assert_eq!(past.len(), 3, "the one that ended the run is its record");
        for (nth, (past, (_, word))) in past.iter().zip(told).enumerate() {
            assert_eq!((past.epoch, past.state.as_str()), (i64::try_from(nth).unwrap() + 1, word));
            assert_eq!(past.code.as_deref(), Some(format!("code of {word}").as_str()));
            assert_eq!(past.reason.as_deref(), Some(format!("why {word}").as_str()));
            assert_eq!(past.holder.as_deref(), Some(store.node().as_str()));
            assert_eq!((past.leased_at, past.settled_at), (at(10).millis(), Some(at(20).millis())));
        }
        assert_eq!(store.past_attempts(&RunId::from_text("run_none")).await.unwrap(), []);
    }

    /// A process may say anything on its way out.
    async fn a_nul_in_what_a_carrier_says_does_not_keep_its_run_from_ending(store: Fixture) {
        for ending in [Ending::Succeeded, Ending::Failed, Ending::Lost] {
            let (lease, other) = (store.leased(store.record(ENV)).await, store.leased(store.record(ENV)).await);
            let told = RunVerdict { output: Some("\"o\0\"".to_owned()), ..because(&lease, ending, "c\0", "r\0 r") };
            let finished = store.settle_runs(&[told, verdict(&other, ending)], at(20)).await.expect("they are settled");
            assert!(finished.iter().all(|one| one.state.is_some()), "{finished:?}");
            let read = store.stands(&lease.run).await;
            let past = store.past_attempts(&lease.run).await.unwrap();
            let reason = read.reason.or(past.first().and_then(|past| past.reason.clone()));
            assert_eq!(reason.as_deref(), Some("r\u{fffd} r"));
        }
    }

    async fn of_many_who_settle_one_lease_one_is_heard(store: Fixture) {
        for _ in 0..10 {
            let lease = store.leased_at_try(TRIES).await;
            let endings = [Ending::Succeeded, Ending::Failed, Ending::Lost, Ending::Declined, Ending::Cancelled, Ending::TimedOut];
            let racing: Vec<_> = store.callers(6).await.into_iter().zip(endings).map(|(caller, ending)| {
                let told = [verdict(&lease, ending)];
                tokio::spawn(async move { caller.settle_runs(&told, at(20)).await.expect("it answers").remove(0) })
            }).collect();
            let mut heard = Vec::new();
            for caller in racing {
                heard.extend(caller.await.unwrap().state);
            }
            assert_eq!(heard, [store.stands(&lease.run).await.state]);
        }
    }

    async fn callers_that_settle_the_same_runs_in_another_order_all_get_their_answers(store: Fixture) {
        store.take_in(&store.records(ENV, 300)).await;
        let leased = store.claim_ready(&[share(ENV, QUEUE, 300)], &[], Taker::Node, at(30)).await.unwrap();
        let racing: Vec<_> = store.callers(6).await.into_iter().enumerate().map(|(nth, caller)| {
            let ending = if nth % 3 == 0 { Ending::Lost } else { Ending::Succeeded };
            let mut told: Vec<_> = leased.iter().map(|lease| verdict(lease, ending)).collect();
            if nth % 2 == 0 { told.reverse() } else { told.rotate_left(nth * 40) }
            tokio::spawn(async move { caller.settle_runs(&told, at(40)).await })
        }).collect();
        let mut heard = 0;
        for caller in racing {
            let finished = caller.await.unwrap().expect("nobody waits in a circle");
            heard += finished.iter().filter(|one| one.state.is_some()).count();
        }
        assert_eq!(heard, 300);
    }
}

fn mixed() -> ([Ending; 7], [RunState; 7]) {
    use RunState::{Cancelled, Failed, Queued, Succeeded, TimedOut};
    let (retry, lost) = (Ending::Retry(at(LATER)), Ending::Lost);
    (
        [Ending::Succeeded, Ending::Failed, Ending::TimedOut, Ending::Cancelled, retry, lost, Ending::Declined],
        [Succeeded, Failed, TimedOut, Cancelled, Queued, Queued, Queued],
    )
}

only_on! { Postgres:
    /// Who ends a run waits for who asks to cancel it, and finds the lease in its new place.
    async fn an_attempt_that_ends_while_a_cancel_is_being_asked_for_leaves_no_lease_behind(store: Fixture) {
        for plain in [true, false] {
            let lease = store.leased(store.record(ENV)).await;
            let verdict = match plain {
                true => verdict(&lease, Ending::Succeeded),
                false => because(&lease, Ending::Failed, "a code", "a reason"),
            };
            store.raw.exec("BEGIN").await;
            store.raw.exec(&format!("UPDATE leases SET cancel_requested = 1 WHERE run_id = '{}'", lease.run)).await;
            let (ender, told) = (store.store.clone(), verdict.clone());
            let ends = tokio::spawn(async move { ender.settle_runs(&[told], at(20)).await });
            store.raw.until("SELECT COUNT(*) FROM pg_locks WHERE NOT granted", |waiting| waiting > 0).await;
            store.raw.exec("COMMIT").await;
            let state = ends.await.unwrap().unwrap().remove(0).state;
            assert_eq!(state, Some(if plain { RunState::Succeeded } else { RunState::Failed }));
            assert_eq!(store.places(&lease.run).await, Vec::<&str>::new(), "{verdict:?}");
        }
    }
}

fn moved_on(run: &RunId) -> Finished {
    let (basin, lane) = (Basin::from_text(""), Lane::from_text(""));
    Finished { run: run.clone(), env: String::new(), state: None, basin, lane }
}

async fn ended(store: &Fixture, lease: &Leased, state: RunState) {
    let read = store.stands(&lease.run).await;
    assert_eq!((read.state, read.attempts, read.epoch), (state, lease.attempt, lease.epoch));
    assert_eq!((read.code.as_deref(), read.reason.as_deref()), (Some("a code"), Some("a reason")));
    assert_eq!((read.started_at, read.finished_at), (Some(at(11)), Some(at(20))));
    assert_eq!(store.places(&lease.run).await, Vec::<&str>::new());
    let unsuccessful = format!("SELECT state FROM unsuccessful WHERE run_id = '{}' AND env = '{ENV}'", lease.run);
    let word = (state != RunState::Succeeded).then(|| state.word().to_owned());
    assert_eq!(store.raw.value(&unsuccessful).await, word);
}

async fn goes_on(store: &Fixture, lease: &Leased, attempts: i64, due: i64) {
    let read = store.stands(&lease.run).await;
    assert_eq!((read.state, read.attempts, read.epoch), (RunState::Queued, attempts, lease.epoch));
    assert_eq!((read.code, read.reason, read.finished_at), (None, None, None));
    let row = format!("SELECT due_at, since FROM ready WHERE run_id = '{}'", lease.run);
    let row = store.raw.rows(&row).await.remove(0);
    assert_eq!(row, [Some(due.to_string()), Some(at(20).millis().to_string())]);
    let past = store.past_attempts(&lease.run).await.unwrap();
    assert_eq!(past.last().map(|past| past.epoch), Some(lease.epoch.number()));
}

/// Carries out whatever is left, so that the next round begins with an empty lane.
async fn drain(store: &Fixture) {
    store.come_due(at(LATER), 9_999).await.unwrap();
    let leased = store.claim_ready(&[share(ENV, QUEUE, 9_999)], &[], Taker::Node, at(60)).await.unwrap();
    let told: Vec<_> = leased.iter().map(|lease| verdict(lease, Ending::Succeeded)).collect();
    store.settle_runs(&told, at(70)).await.unwrap();
    assert_eq!(store.raw.number("SELECT COUNT(*) FROM leases").await, 0);
}
