//! What contradicts the model, as only a hand in the database makes it: found, mended once, and nothing else touched.

use crate::fixture::{Fixture, at, says};
use crate::sent::{ENV, OTHER_ENV};
use std::time::Duration;
use storage::model::{BatchState, Epoch, RequestState, RunId, RunState};
use storage::store::{Ending, Fault, Faulty, NewChunk, NewRecord, Part};

const DAY: Duration = Duration::from_secs(86_400);

fn faulty(run: &RunId, env: &str, fault: Fault) -> Faulty {
    Faulty { run: run.clone(), env: env.to_owned(), fault }
}

async fn faults(store: &Fixture) -> Vec<Faulty> {
    let part = store.faulty_runs("", 99).await.unwrap();
    assert_eq!(part.next, None);
    part.found
}

async fn mends(store: &Fixture, faulty: &Faulty) -> bool {
    store.mend_run(faulty, |task| task == "train", at(90)).await.unwrap()
}

fn piece(run: &RunId) -> NewChunk {
    let data = b"ab".to_vec();
    NewChunk { run: run.clone(), epoch: Epoch::from_number(1), stream: "stdout", seq: 0, bytes: 2, data, dropped: None }
}

on_both! {
    async fn nothing_is_wrong_with_runs_wherever_they_are(store: Fixture) {
        store.leased(store.record(ENV)).await;
        let ended = store.leased(store.record(ENV)).await;
        store.settle_one(&ended, Ending::Succeeded).await;
        store.sent(store.record(ENV)).await;
        store.take_in(&store.buffered(OTHER_ENV, 2)).await;
        store.sent(store.for_pull("train", ENV)).await;
        assert_eq!(faults(&store).await, []);
    }

    async fn a_run_that_nothing_holds_is_lost_by_nobody_and_goes_on(store: Fixture) {
        let once = store.sent(NewRecord { max_attempts: 1, ..store.record(ENV) }).await;
        let again = store.sent(NewRecord { max_attempts: 2, ..store.for_pull("train", ENV) }).await;
        store.raw.exec("DELETE FROM ready").await;
        let found = faults(&store).await;
        assert_eq!(found, [faulty(&once, ENV, Fault::Nowhere), faulty(&again, ENV, Fault::Nowhere)]);
        for faulty in &found {
            assert!(mends(&store, faulty).await);
            assert!(!mends(&store, faulty).await, "it is mended already");
        }
        assert_eq!(store.lost_runs(at(91), 9).await.unwrap(), 2);
        store.take_back(at(91), 9).await.unwrap();
        assert_eq!(store.stands(&once).await.state, RunState::Failed, "it may have been carried out");
        assert_eq!((store.stands(&again).await.state, store.places(&again).await), (RunState::Queued, vec!["ready"]));
        assert_eq!(faults(&store).await, []);
    }

    async fn whoever_carried_a_run_that_was_torn_from_it_settles_nothing_any_more(store: Fixture) {
        let lease = store.leased(NewRecord { max_attempts: 3, ..store.record(ENV) }).await;
        store.raw.exec("DELETE FROM leases").await;
        assert!(mends(&store, &faulty(&lease.run, ENV, Fault::Nowhere)).await);
        store.take_back(at(91), 9).await.unwrap();
        let next = store.lease_again(&lease.basin, &lease.lane).await;
        assert!(next.epoch > lease.epoch, "{next:?}");
        let late = crate::sent::verdict(&lease, Ending::Succeeded);
        assert_eq!(store.settle_runs(&[late], at(93)).await.unwrap()[0].state, None);
        assert_eq!(store.stands(&lease.run).await.state, RunState::Running);
    }

    async fn a_run_that_is_held_after_its_end_is_let_go(store: Fixture) {
        let lease = store.leased(store.record(ENV)).await;
        store.settle_one(&lease, Ending::Succeeded).await;
        let (run, held) = (&lease.run, store.leased(store.record(ENV)).await);
        store.raw.exec(&format!("UPDATE leases SET run_id = '{run}' WHERE run_id = '{}'", held.run)).await;
        let found = faults(&store).await;
        assert_eq!(found, [faulty(run, ENV, Fault::StillHeld), faulty(&held.run, ENV, Fault::Nowhere)]);
        for faulty in &found {
            assert!(mends(&store, faulty).await);
        }
        store.take_back(at(91), 9).await.unwrap();
        assert_eq!(store.places(run).await, [""; 0]);
        assert_eq!(faults(&store).await, []);
    }

    /// As a poller of before jobs were served would have left it.
    async fn a_run_whose_request_ended_without_it_is_ended_by_a_repair(store: Fixture) {
        let records = store.prompts(2);
        let job = store.drawn(&records).await;
        let fence = store.opened(&job, 9).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts = [says(0, RequestState::Refused), says(1, RequestState::Succeeded)];
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        let ended = store.snapshot().await;
        store.raw.exec(&format!("UPDATE runs SET env = '{ENV}'")).await;
        store.raw.exec("DELETE FROM unsuccessful").await;
        let open = "state = 'open', code = NULL, reason = NULL, output = NULL, epoch = NULL, attempts = NULL";
        store.raw.exec(&format!("UPDATE run_records SET {open}, started_at = NULL, finished_at = NULL")).await;
        let found = store.faulty_runs("", 9).await.unwrap().found;
        assert_eq!(found.len(), 2);
        for faulty in &found {
            assert_eq!(faulty.fault, Fault::EndedInPool);
            assert!(store.mend_run(faulty, |_| true, at(70)).await.unwrap());
            assert!(!store.mend_run(faulty, |_| true, at(71)).await.unwrap());
        }
        ended.assert_same(&store.snapshot().await, "mending");
    }

    async fn a_fault_that_somebody_else_has_mended_is_left_alone(store: Fixture) {
        let run = store.sent(store.record(ENV)).await;
        let before = store.snapshot().await;
        for fault in [Fault::Nowhere, Fault::StillHeld, Fault::EndedInPool] {
            assert!(!mends(&store, &faulty(&run, ENV, fault)).await, "{fault:?}");
        }
        assert!(!mends(&store, &faulty(&store.run_id(), ENV, Fault::Nowhere)).await, "there is no such run");
        before.assert_same(&store.snapshot().await, "faults that are none");
    }

    async fn a_walk_over_runs_is_in_parts_of_the_size_that_was_asked_for(store: Fixture) {
        let runs = store.sent_all(store.records(ENV, 5)).await;
        store.sent(store.record(OTHER_ENV)).await;
        store.raw.exec(&format!("DELETE FROM ready WHERE run_id IN ('{}', '{}')", runs[1], runs[3])).await;
        let mut found = Vec::new();
        let (mut after, mut parts) = (Some(String::new()), 0);
        while let Some(place) = after {
            let part = store.faulty_runs(&place, 2).await.unwrap();
            assert!(part.found.len() <= 1, "{part:?}");
            found.extend(part.found.into_iter().map(|faulty| faulty.run));
            (after, parts) = (part.next, parts + 1);
        }
        assert_eq!((found, parts), (vec![runs[1].clone(), runs[3].clone()], 4));
        store.raw.exec("DELETE FROM run_records WHERE NOT EXISTS (SELECT 1 FROM ready p WHERE p.run_id = id)").await;
    }

    async fn output_of_runs_that_are_no_more_is_dropped_and_no_other(store: Fixture) {
        let runs = store.sent_all([store.records(ENV, 3), store.records(OTHER_ENV, 2)].concat()).await;
        for run in &runs {
            store.append_output(&[piece(run)], at(20)).await.unwrap();
        }
        for gone in [&runs[0], &runs[2], &runs[4]] {
            store.raw.exec(&format!("DELETE FROM ready WHERE run_id = '{gone}'")).await;
            store.raw.exec(&format!("DELETE FROM run_records WHERE id = '{gone}'")).await;
        }
        let first = store.orphaned_output("", 2).await.unwrap();
        assert_eq!(first, Part { found: vec![runs[0].clone()], next: Some(runs[1].to_string()) });
        let rest = store.orphaned_output(&first.next.unwrap(), 9).await.unwrap();
        assert_eq!(rest, Part { found: vec![runs[2].clone(), runs[4].clone()], next: None });
        store.drop_output(&[first.found, rest.found].concat()).await.unwrap();
        store.drop_output(&[]).await.unwrap();
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM output_chunks").await, 2);
        assert_eq!(store.orphaned_output("", 9).await.unwrap(), Part { found: vec![], next: None });
    }

    async fn a_walk_is_kept_where_it_has_come_to(store: Fixture) {
        assert_eq!(store.walk_place("faulty_runs").await.unwrap(), "");
        store.set_walk_place("faulty_runs", "acme/prod run_1", at(1)).await.unwrap();
        store.set_walk_place("orphaned_output", "run_9", at(1)).await.unwrap();
        assert_eq!(store.walk_place("faulty_runs").await.unwrap(), "acme/prod run_1");
        store.set_walk_place("faulty_runs", "", at(2)).await.unwrap();
        assert_eq!(store.walk_place("faulty_runs").await.unwrap(), "");
        assert_eq!(store.walk_place("orphaned_output").await.unwrap(), "run_9");
    }

    async fn what_is_due_is_counted_and_left(store: Fixture) {
        store.rival(at(5)).await;
        store.sent(NewRecord { expires_at: Some(at(6)), ..store.record(ENV) }).await;
        store.take_in(&[NewRecord { expires_at: Some(at(6)), ..store.buffered(ENV, 1).remove(0) }]).await;
        store.sent(NewRecord { idempotency: crate::sent::keyed(&store, "k", "f"), ..store.record(ENV) }).await;
        store.pulled(store.for_pull("train", ENV), "w", at(30)).await;
        let before = store.snapshot().await;
        assert_eq!(store.lapsed_nodes(at(5)).await.unwrap(), 0);
        assert_eq!(store.lapsed_nodes(at(6)).await.unwrap(), 1);
        assert_eq!((store.lost_runs(at(30), 9).await.unwrap(), store.lost_runs(at(31), 9).await.unwrap()), (0, 1));
        assert_eq!((store.expired_runs(at(5), 9).await.unwrap(), store.expired_runs(at(6), 9).await.unwrap()), (0, 2));
        assert_eq!(store.expired_keys(store.now() + 2 * DAY, 9).await.unwrap(), 1);
        before.assert_same(&store.snapshot().await, "counting");
    }
}
