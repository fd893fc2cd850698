//! Settling: each run by its own verdict, each exactly once.

use crate::fixture::{COST, Driven, Fixture, MAX_ATTEMPTS, RESERVE, assert_moved, at, own_line, says, up_to};
use std::ops::Range;
use storage::model::{BatchState, Epoch, Money, RequestState};
use storage::store::{Fence, Opened, Settled, Verdict};

use RequestState::{Canceled, Errored, Expired, Missing, Open, Refused, Succeeded};

/// What was settled, without which requests those are.
fn counts(settled: &Settled) -> Settled {
    assert_eq!(settled.positions.len() as i64, settled.succeeded + settled.failed + settled.requeued);
    Settled { positions: Vec::new(), ..settled.clone() }
}

on_both! {
    /// Invariants 15 and 16.
    async fn each_run_is_settled_by_its_own_verdict(store: Fixture) {
        let (_, fence) = ended(&store, 7, 6).await;
        let verdicts = [(3, Expired), (0, Succeeded), (5, Missing), (1, Errored), (4, Refused), (2, Canceled)];
        let verdicts = verdicts.map(|(pos, state)| says(pos, state));
        let settled = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        assert_eq!(counts(&settled), Settled { succeeded: 1, failed: 1, requeued: 4, ..Settled::default() });
        let expected = [
            "0 succeeded attempts 1 due 2 code - finished 30 line succeeded attempt succeeded/succeeded",
            "1 queued attempts 1 due 2 code errored finished - line errored attempt failed/errored",
            "2 queued attempts 0 due 1 code canceled finished - line - attempt cancelled/canceled",
            "3 queued attempts 1 due 2 code expired finished - line expired attempt expired/expired",
            "4 failed attempts 1 due 2 code refused finished 30 line refused attempt failed/refused",
            "5 queued attempts 1 due 2 code missing finished - line missing attempt lost/missing",
        ];
        assert_eq!(told(&store, &fence).await, expected);
        let counts = store.pool_counts("letters").await.unwrap();
        assert_eq!((counts.queued, counts.running, counts.succeeded, counts.failed), (5, 0, 1, 1));
        let row = store.batch_row(&fence).await;
        assert_eq!((row.succeeded, row.errored, row.uncounted, row.spent.nanos()), (1, 4, 1, COST));
        assert_eq!(row.state, BatchState::Ended);
    }

    /// Invariant 14.
    async fn settling_twice_changes_nothing_and_counts_once(store: Fixture) {
        let (_, fence) = ended(&store, 4, 4).await;
        let verdicts: Vec<_> =
            [Succeeded, Errored, Canceled, Refused].into_iter().zip(0..).map(|(s, p)| says(p, s)).collect();
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        let before = store.snapshot().await;
        let again = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(31)).await.unwrap();
        assert_eq!(counts(&again), Settled { ignored: 4, ..Settled::default() });
        let others: Vec<_> = (0..4).map(|pos| says(pos, Succeeded)).collect();
        let changed_mind = store.settle(&fence, BatchState::Ended, 2, &others, at(32)).await.unwrap();
        assert_eq!(counts(&changed_mind), Settled { ignored: 4, ..Settled::default() });
        before.assert_same(&store.snapshot().await, "settling again");
    }

    async fn of_two_verdicts_on_one_request_the_first_counts(store: Fixture) {
        let (_, fence) = ended(&store, 1, 1).await;
        let verdicts = [says(0, Succeeded), says(0, Errored), says(0, Succeeded)];
        let settled = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        assert_eq!(counts(&settled), Settled { succeeded: 1, ignored: 2, ..Settled::default() });
        assert_eq!(store.results("letters", -1, 1).await.unwrap()[0].line, Some(own_line(0, Succeeded)));
        assert_eq!(store.pool_counts("letters").await.unwrap().spent_nanos, COST);
    }

    async fn a_verdict_on_a_place_that_the_batch_has_not_is_ignored(store: Fixture) {
        let (_, fence) = ended(&store, 3, 2).await;
        let verdicts = [says(-1, Succeeded), says(2, Succeeded), says(1, Succeeded), says(i64::MAX, Errored)];
        let settled = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        assert_eq!(counts(&settled), Settled { succeeded: 1, ignored: 3, ..Settled::default() });
        assert_eq!(store.open_positions(&fence, 9).await.unwrap(), [0]);
    }

    async fn an_open_verdict_settles_nothing(store: Fixture) {
        let (_, fence) = ended(&store, 1, 1).await;
        let before = store.snapshot().await;
        let settled = store.settle(&fence, BatchState::Ended, 1, &[says(0, Open)], at(30)).await.unwrap();
        assert_eq!(counts(&settled), Settled { ignored: 1, ..Settled::default() });
        assert_eq!(store.settle(&fence, BatchState::Ended, 1, &[], at(30)).await.unwrap(), Settled::default());
        before.assert_same(&store.snapshot().await, "an open verdict");
    }

    /// More than one statement's worth, with one place named in two of the chunks.
    async fn a_large_settlement_counts_like_a_small_one(store: Fixture) {
        let (_, fence) = ended(&store, 1_203, 1_203).await;
        let mut verdicts: Vec<_> =
            (0..1_203).rev().map(|pos| says(pos, if pos % 3 == 0 { Errored } else { Succeeded })).collect();
        verdicts.push(says(1_202, Succeeded));
        let settled = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        assert_eq!(counts(&settled), Settled { succeeded: 802, requeued: 401, ignored: 1, ..Settled::default() });
        assert_eq!(store.open_positions(&fence, 9).await.unwrap(), Vec::<i64>::new());
        assert_eq!(store.batch_row(&fence).await.spent.nanos(), 802 * COST);
        for row in store.results("letters", -1, 2_000).await.unwrap() {
            let (state, verdict) = if row.seq % 3 == 0 { ("queued", Errored) } else { ("succeeded", Succeeded) };
            assert_eq!((row.state.as_str(), row.line), (state, Some(own_line(row.seq, verdict))));
        }
    }

    /// Invariant 5.
    async fn a_run_is_given_up_when_its_attempts_are_used_up(store: Fixture) {
        let (job, mut fence) = ended(&store, 3, 3).await;
        for round in 1..=i64::from(MAX_ATTEMPTS) {
            let verdicts = [says(0, Errored), says(1, Expired), says(2, Missing)];
            let settled = store.settle(&fence, BatchState::Ended, round, &verdicts, at(30)).await.unwrap();
            if round == i64::from(MAX_ATTEMPTS) {
                assert_eq!(counts(&settled), Settled { failed: 3, ..Settled::default() });
                break;
            }
            assert_eq!(counts(&settled), Settled { requeued: 3, ..Settled::default() });
            store.collected(&fence, at(31)).await.unwrap();
            store.close_round(&job.id, job.epoch, round, at(32)).await.unwrap();
            store.open_round(&job.id, job.epoch, round + 1, at(33)).await.unwrap();
            fence = store.opened(&job, 3).await;
            store.bring(&fence, BatchState::Ended).await.unwrap();
        }
        let told = told(&store, &fence).await;
        assert!(told.iter().all(|run| run.contains("failed attempts 3")), "{told:?}");
        assert_eq!(store.pool_counts("letters").await.unwrap().failed, 3);
    }

    /// Invariant 16: whoever is canceled by us for ever is still never given up.
    async fn a_canceled_request_uses_up_no_attempt_and_is_due_in_the_same_round(store: Fixture) {
        let (job, mut fence) = ended(&store, 1, 1).await;
        for _ in 0..=MAX_ATTEMPTS {
            let settled = store.settle(&fence, BatchState::Ended, 1, &[says(0, Canceled)], at(30)).await.unwrap();
            assert_eq!(counts(&settled), Settled { requeued: 1, ..Settled::default() });
            fence = store.opened(&job, 1).await;
            store.bring(&fence, BatchState::Ended).await.unwrap();
        }
        assert_eq!(store.raw.number("SELECT attempts FROM runs").await, 1);
        assert_eq!(store.raw.number("SELECT epoch FROM runs").await, i64::from(MAX_ATTEMPTS) + 2);
        assert_eq!(store.results("letters", -1, 1).await.unwrap()[0].line, None, "a cancellation is no result");
    }

    async fn an_error_line_is_replaced_by_a_later_success_and_each_batch_tells_its_own(store: Fixture) {
        let (job, first) = ended(&store, 1, 1).await;
        store.settle(&first, BatchState::Ended, 1, &[says(0, Errored)], at(30)).await.unwrap();
        assert_eq!(store.results("letters", -1, 1).await.unwrap()[0].line, Some(own_line(0, Errored)));
        store.open_round(&job.id, job.epoch, 2, at(31)).await.unwrap();
        let second = store.opened(&job, 1).await;
        assert_eq!(
            store.results("letters", -1, 1).await.unwrap()[0].line,
            Some(own_line(0, Errored)),
            "until there is a better one"
        );
        store.bring(&second, BatchState::Ended).await.unwrap();
        store.settle(&second, BatchState::Ended, 2, &[says(0, Succeeded)], at(32)).await.unwrap();
        let row = &store.results("letters", -1, 1).await.unwrap()[0];
        assert_eq!((row.state.as_str(), row.line.clone()), ("succeeded", Some(own_line(0, Succeeded))));
        let late = store.settle(&first, BatchState::Ended, 2, &[says(0, Errored)], at(33)).await.unwrap();
        assert_eq!(late.ignored, 1, "the first batch has no say any more");
        let of_first = &store.batch_results(&first.batch, -1, 9).await.unwrap()[0];
        assert_eq!((of_first.state.as_str(), of_first.line.clone()), ("errored", None));
        let of_second = &store.batch_results(&second.batch, -1, 9).await.unwrap()[0];
        assert_eq!((of_second.state.as_str(), of_second.line.clone()), ("succeeded", Some(own_line(0, Succeeded))));
    }

    async fn a_line_without_a_place_for_the_id_is_kept_as_it_is(store: Fixture) {
        let (_, fence) = ended(&store, 3, 3).await;
        let line = "{\"ж\":1}".to_owned();
        let verdicts: Vec<_> = [0..99, 3..4, Range { start: 8, end: 2 }]
            .into_iter()
            .zip(0..)
            .map(|(id_span, pos)| Verdict { line: line.clone(), id_span, ..says(pos, Succeeded) })
            .collect();
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        for row in store.results("letters", -1, 9).await.unwrap() {
            assert_eq!(row.line.as_ref(), Some(&line));
        }
    }

    async fn spend_is_summed_and_what_has_no_price_is_counted_apart(store: Fixture) {
        let (_, fence) = ended(&store, 3, 3).await;
        let mut verdicts = [says(0, Succeeded), says(1, Succeeded), says(2, Errored)];
        verdicts[0].cost = Some(Money::from_nanos(1_000_000_007));
        verdicts[1].cost = None;
        verdicts[2].cost = Some(Money::from_nanos(5));
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        let counts = store.pool_counts("letters").await.unwrap();
        assert_eq!((counts.spent_nanos, counts.unpriced), (1_000_000_012, 1));
        assert_eq!(store.batch_row(&fence).await.spent.nanos(), 1_000_000_012);
    }

    async fn a_reserve_is_held_until_the_batch_is_collected_and_released_once(store: Fixture) {
        let (job, fence) = ended(&store, 4, 2).await;
        let other = store.opened(&job, 1).await;
        store.settle_all(&fence, BatchState::Ended, Succeeded).await.unwrap();
        assert_eq!(store.pool_counts("letters").await.unwrap().reserved_nanos, 3 * RESERVE);
        store.collected(&fence, at(40)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.finished_at, row.reserved), (BatchState::Collected, Some(at(40)), Money::ZERO));
        assert_eq!(store.pool_counts("letters").await.unwrap().reserved_nanos, RESERVE);
        let before = store.snapshot().await;
        assert_moved(store.collected(&fence, at(41)).await, "collecting again");
        before.assert_same(&store.snapshot().await, "collecting again");
        assert_eq!(store.batch_row(&other).await.reserved.nanos(), RESERVE);
    }

    async fn a_batch_with_an_open_request_is_neither_collected_nor_abandoned(store: Fixture) {
        let (_, fence) = ended(&store, 2, 2).await;
        store.settle(&fence, BatchState::Ended, 1, &[says(1, Succeeded)], at(30)).await.unwrap();
        let unknown = store.batch_in(BatchState::Unknown).await;
        let planned = store.batch_in(BatchState::Planned).await;
        let before = store.snapshot().await;
        assert_moved(store.collected(&fence, at(31)).await, "collecting half a batch");
        assert_moved(store.abandoned(&unknown, BatchState::Unknown, "no", at(31)).await, "abandoning what is open");
        assert_moved(store.abandoned(&planned, BatchState::Planned, "no", at(31)).await, "abandoning what is open");
        before.assert_same(&store.snapshot().await, "closing with open requests");
    }

    async fn a_create_that_was_refused_settles_its_runs_and_abandons_its_batch(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let fence = store.opened(&job, 2).await;
        let verdicts = [says(0, Errored), says(1, Canceled)];
        store.settle(&fence, BatchState::Planned, 1, &verdicts, at(30)).await.unwrap();
        store.abandoned(&fence, BatchState::Planned, "400 bad request", at(31)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.reason.as_deref()), (BatchState::Abandoned, Some("400 bad request")));
        assert_eq!((row.finished_at, row.reserved), (Some(at(31)), Money::ZERO));
        let counts = store.pool_counts("letters").await.unwrap();
        assert_eq!((counts.queued, counts.running, counts.reserved_nanos), (2, 0, 0));
        let log = store.batch_events(&fence.batch).await.unwrap();
        assert_eq!((log[1].2.as_str(), log[1].3.as_str()), ("abandoned", r#"{"why":"400 bad request"}"#));
    }

    /// Invariant 10.
    async fn stale_epoch_cannot_settle_a_run(store: Fixture) {
        let (_, stale) = ended(&store, 700, 700).await;
        let epoch = store.take_batch(&stale.batch, at(29)).await.unwrap().unwrap();
        let verdicts: Vec<_> = (0..700).map(|pos| says(pos, Succeeded)).collect();
        let before = store.snapshot().await;
        for wrong in [stale.epoch, Epoch::from_number(99)] {
            let fence = Fence { batch: stale.batch.clone(), epoch: wrong };
            assert_moved(store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await, "a stale settlement");
            assert_moved(store.collected(&fence, at(30)).await, "a stale collection");
        }
        before.assert_same(&store.snapshot().await, "a stale settlement");
        let fence = Fence { epoch, ..stale };
        assert_eq!(store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap().succeeded, 700);
    }

    async fn of_many_settlements_at_once_each_run_counts_one(store: Fixture) {
        let (_, fence) = ended(&store, 60, 60).await;
        let settlements = (0..6).map(|_| {
            let (store, fence) = (store.store.clone(), fence.clone());
            tokio::spawn(async move {
                let verdicts: Vec<_> = (0..60).map(|pos| says(pos, Succeeded)).collect();
                store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await
            })
        });
        let mut succeeded = 0;
        for settlement in settlements.collect::<Vec<_>>() {
            match settlement.await.unwrap() {
                Ok(settled) => succeeded += settled.succeeded,
                Err(error) => assert_moved::<()>(Err(error), "a settlement that was too late"),
            }
        }
        assert_eq!(succeeded, 60);
        assert_eq!(store.pool_counts("letters").await.unwrap().spent_nanos, 60 * COST);
    }

    /// Invariant 17.
    async fn a_batch_is_collected_although_its_job_is_gone(store: Fixture) {
        use storage::model::{JobEvent, JobState};
        let (job, fence) = ended(&store, 2, 2).await;
        store.step(&job, JobState::Running, JobEvent::Cancelled).await.unwrap();
        store.settle_all(&fence, BatchState::Ended, Errored).await.unwrap();
        store.collected(&fence, at(40)).await.unwrap();
        assert_eq!(store.pool_counts("letters").await.unwrap().queued, 2);
        let opened = store.ask(&job, up_to(2), at(41)).await.unwrap().1;
        assert_eq!(opened, Opened::NotDriven);
    }
}

/// A batch of `requests` of the `runs` of a pool, ended and with all of its requests open.
async fn ended(store: &Fixture, runs: i64, requests: i64) -> (Driven, Fence) {
    let job = store.driven("letters", runs).await;
    let fence = store.opened(&job, requests).await;
    store.bring(&fence, BatchState::Ended).await.expect("the moves are legal");
    (job, fence)
}

/// One sentence per run of a batch, with all that a settlement decides.
async fn told(store: &Fixture, fence: &Fence) -> Vec<String> {
    let sql = format!(
        "SELECT r.seq, r.state, r.attempts, r.due_round, r.code, r.finished_at, x.line, a.state, a.verdict
        FROM attempts a JOIN runs r ON r.id = a.run_id LEFT JOIN run_results x ON x.run_id = r.id AND x.epoch = a.epoch
        WHERE a.batch_id = '{}' ORDER BY r.seq",
        fence.batch
    );
    let sentence = |row: Vec<Option<String>>| {
        let text = |at: usize| row[at].clone().unwrap_or_else(|| "-".to_owned());
        let (seq, code) = (text(0), text(4).replace("code of ", ""));
        let finished = row[5].as_ref().map_or("-".to_owned(), |at| at.trim_start_matches("17000000000").to_owned());
        let said = RequestState::ALL.iter().find(|state| Some(own_line(seq.parse().unwrap(), **state)) == row[6]);
        let line = said.map_or(text(6), |state| state.to_string());
        let (state, attempts, due) = (text(1), text(2), text(3));
        let attempt = format!("attempt {}/{}", text(7), text(8));
        format!("{seq} {state} attempts {attempts} due {due} code {code} finished {finished} line {line} {attempt}")
    };
    store.raw.rows(&sql).await.into_iter().map(sentence).collect()
}
