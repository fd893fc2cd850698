//! Of which traces runs are: kept wherever a run is, and told of those only that are of one.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV, ids, verdict};
use std::collections::HashMap;
use storage::model::{RunId, TraceParent};
use storage::store::{Ending, NewRecord, RunVerdict, Traced};

/// One of a number.
fn trace(number: u64) -> TraceParent {
    TraceParent::begin(u128::from(number) + 1, number + 1)
}

fn asked<'a>(env: &'a str, runs: &'a [RunId]) -> Vec<(&'a str, &'a RunId)> {
    runs.iter().map(|run| (env, run)).collect()
}

on_both! {
    async fn a_trace_is_kept_wherever_its_run_is_and_none_is_made_up(store: Fixture) {
        for (buffered, leased) in [(false, false), (true, false), (false, true)] {
            let plain = NewRecord { buffered, leased, ..store.record(ENV) };
            let traced = NewRecord { id: store.run_id(), trace: Some(trace(7)), ..plain.clone() };
            store.take_in(&[plain.clone(), traced.clone()]).await;
            for record in [plain, traced] {
                assert_eq!(store.stands(&record.id).await.trace, record.trace, "{buffered} {leased}");
                assert_eq!(store.briefs(&[(ENV, &record.id)]).await.unwrap()[&record.id].trace, record.trace);
            }
        }
        let stored = store.raw.rows("SELECT DISTINCT traceparent FROM run_records ORDER BY 1").await;
        assert!(stored.contains(&vec![None]) && stored.contains(&vec![Some(trace(7).to_string())]), "{stored:?}");
    }

    async fn of_many_runs_those_are_told_that_are_of_a_trace(store: Fixture) {
        let mut records = store.records(ENV, 1_100);
        for (nth, record) in records.iter_mut().enumerate() {
            record.trace = (nth % 2 == 0).then(|| trace(nth as u64));
        }
        store.take_in(&records).await;
        let runs: Vec<RunId> = ids(&records).into_iter().chain([RunId::from_text("run_none")]).collect();
        let told = store.traced(&asked(ENV, &runs)).await.unwrap();
        let expected: HashMap<RunId, Traced> = records
            .into_iter()
            .filter_map(|record| Some((record.id, Traced { trace: record.trace?, accepted_at: record.accepted_at })))
            .collect();
        assert_eq!(told, expected);
        assert_eq!(store.traced(&asked(OTHER_ENV, &runs)).await.unwrap(), HashMap::new(), "another env has none of them");
        assert_eq!(store.traced(&[]).await.unwrap(), HashMap::new());
    }

    /// Somebody may have written into the store what is no trace.
    async fn what_is_stored_and_is_no_trace_is_none(store: Fixture) {
        let run = store.sent(NewRecord { trace: Some(trace(7)), ..store.record(ENV) }).await;
        store.raw.exec("UPDATE run_records SET traceparent = 'nonsense'").await;
        assert_eq!(store.stands(&run).await.trace, None);
        assert_eq!(store.briefs(&[(ENV, &run)]).await.unwrap()[&run].trace, None);
        assert_eq!(store.traced(&[(ENV, &run)]).await.unwrap(), HashMap::new());
    }

    async fn a_batch_tells_the_traces_of_its_first_runs(store: Fixture) {
        let mut records = store.prompts(6);
        for nth in [0, 2, 4, 5] {
            records[nth].trace = Some(trace(nth as u64));
        }
        let job = store.drawn(&records).await;
        let fence = store.opened(&job, 6).await;
        for (requests, told) in [(0, vec![]), (3, vec![0, 2]), (6, vec![0, 2, 4, 5])] {
            let expected: Vec<TraceParent> = told.into_iter().map(trace).collect();
            assert_eq!(store.traces_of_batch(&fence.batch, ENV, requests).await.unwrap(), expected, "{requests}");
        }
        assert_eq!(store.traces_of_batch(&fence.batch, OTHER_ENV, 6).await.unwrap(), []);
    }

    async fn the_last_attempt_that_was_lost_is_told_with_its_beginning(store: Fixture) {
        let once = store.leased_at_try(1).await;
        let never = store.sent(store.record(ENV)).await;
        let taken = RunVerdict { started_at: None, ..verdict(&once, Ending::Lost) };
        store.settle_runs(&[taken], at(20)).await.unwrap();
        let lost = store.lost_attempts(&[&once.run, &never]).await.unwrap();
        let past = store.past_attempts(&once.run).await.unwrap().remove(0);
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[&once.run].0, lost[&once.run].1.millis()), (once.epoch, past.leased_at));
        assert_eq!(store.lost_attempts(&[]).await.unwrap(), HashMap::new());
    }
}
