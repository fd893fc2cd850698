//! Lists and pages: complete, in order, without gap or repeat.

use crate::fixture::{Fixture, RESERVE, at, own_line, says};
use storage::model::{BatchId, BatchState, JobEvent, JobState, RequestState, Timestamp};
use storage::store::BatchFilter;

on_both! {
    async fn batches_are_listed_newest_first_filtered_and_paged(store: Fixture) {
        let mut all = Vec::new();
        for state in BatchState::ALL {
            all.insert(0, store.batch_in(*state).await.batch);
        }
        let everything = BatchFilter::default();
        assert_eq!(ids(&store, &everything, None, 99).await, all);
        let mut paged = Vec::new();
        let mut before: Option<BatchId> = None;
        for _ in 0..10 {
            // All of them were made at the same moment, so that only the id decides.
            let page = ids(&store, &everything, before.as_ref().map(|id| (at(2), id.as_str())), 3).await;
            let Some(last) = page.last() else { break };
            before = Some(last.clone());
            paged.extend(page);
        }
        assert_eq!(paged, all);
        for (state, id) in BatchState::ALL.iter().zip(all.iter().rev()) {
            let filter = BatchFilter { state: Some(*state), ..BatchFilter::default() };
            assert_eq!(ids(&store, &filter, None, 99).await, std::slice::from_ref(id));
            let pool = store.batch(id).await.unwrap().unwrap().pool;
            let filter = BatchFilter { state: Some(*state), pool: Some(pool.clone()), env: Some("home".to_owned()) };
            assert_eq!(ids(&store, &filter, None, 99).await, std::slice::from_ref(id));
            let filter = BatchFilter { pool: Some(pool), ..BatchFilter::default() };
            assert_eq!(ids(&store, &filter, None, 99).await, std::slice::from_ref(id));
        }
        let filter = BatchFilter { env: Some("nowhere".to_owned()), ..BatchFilter::default() };
        assert!(store.list_batches(&filter, None, 9).await.unwrap().is_empty());
        let filter = BatchFilter { pool: Some("nowhere".to_owned()), ..BatchFilter::default() };
        assert_eq!(ids(&store, &filter, None, 99).await, []);
    }

    /// Invariant 17.
    async fn in_flight_is_what_is_not_over_whatever_became_of_its_job(store: Fixture) {
        let mut flying = Vec::new();
        for state in BatchState::ALL {
            let fence = store.batch_in(*state).await;
            let job = store.batch_row(&fence).await.job;
            let row = store.job(&job).await.unwrap().unwrap();
            let job = crate::fixture::Driven { id: job, epoch: row.epoch, pool: row.pool };
            store.step(&job, JobState::Running, JobEvent::Failed).await.unwrap();
            if !state.is_terminal() {
                flying.push(fence.batch);
            }
        }
        let found: Vec<_> = store.in_flight().await.unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(found, flying);
    }

    async fn the_owner_of_a_key_is_the_batch_that_carries_it(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        let key = store.batch_row(&fence).await.wire_key;
        assert_eq!(store.owner_of_key(&key).await.unwrap(), Some(fence.batch.clone()));
        assert_eq!(store.owner_of_key(&format!("{key}-1")).await.unwrap(), None, "a create's key is longer");
        assert_eq!(store.owner_of_key("").await.unwrap(), None);
        store.absence_proven(&fence, at(10), at(20)).await.unwrap();
        assert_eq!(store.owner_of_key(&key).await.unwrap(), Some(fence.batch), "it keeps its key over creates");
    }

    async fn bodies_are_paged_in_the_order_of_their_positions(store: Fixture) {
        let job = store.driven("letters", 25).await;
        store.opened(&job, 5).await;
        let fence = store.opened(&job, 20).await;
        let expected: Vec<_> = (0..20).map(|pos| (pos, format!("{{\"n\":{}}}", pos + 5))).collect();
        assert_eq!(store.bodies(&fence.batch, 0, 99).await.unwrap(), expected);
        let mut paged = Vec::new();
        for _ in 0..10 {
            let from = paged.last().map_or(0, |(pos, _): &(i64, String)| pos + 1);
            let page = store.bodies(&fence.batch, from, 6).await.unwrap();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, expected);
        assert_eq!(store.bodies(&BatchId::from_text("bat_none"), 0, 9).await.unwrap(), []);
    }

    async fn bodies_of_a_batch_stay_readable_after_it_was_settled(store: Fixture) {
        let fence = store.batch_in(BatchState::Collected).await;
        assert_eq!(store.bodies(&fence.batch, 0, 9).await.unwrap().len(), 2);
    }

    async fn open_positions_are_those_without_a_verdict_lowest_first(store: Fixture) {
        let job = store.driven("letters", 6).await;
        let fence = store.opened(&job, 6).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts = [says(4, RequestState::Errored), says(1, RequestState::Succeeded)];
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(8)).await.unwrap();
        assert_eq!(store.open_positions(&fence, 99).await.unwrap(), [0, 2, 3, 5]);
        assert_eq!(store.open_positions(&fence, 2).await.unwrap(), [0, 2]);
        store.settle_all(&fence, BatchState::Ended, RequestState::Missing).await.unwrap();
        assert_eq!(store.open_positions(&fence, 99).await.unwrap(), Vec::<i64>::new());
    }

    async fn results_come_in_input_order_whichever_batch_brought_them(store: Fixture) {
        let mut runs = store.runs(0..6);
        for (run, pack) in runs.iter_mut().zip(["b", "a", "b", "a", "b", "a"]) {
            run.pack = pack.to_owned();
        }
        let job = store.driven_with(&store.new_job("letters"), &runs).await;
        let (first, second) = (store.opened(&job, 3).await, store.opened(&job, 2).await);
        for fence in [&second, &first] {
            store.bring(fence, BatchState::Ended).await.unwrap();
            store.settle_all(fence, BatchState::Ended, RequestState::Succeeded).await.unwrap();
        }
        let mut paged = Vec::new();
        for _ in 0..10 {
            let after = paged.last().map_or(-1, |row: &storage::store::ResultRow| row.seq);
            let page = store.results("letters", after, 4).await.unwrap();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        let told: Vec<_> = paged.iter().map(|row| (row.seq, row.custom_id.as_str(), row.state.as_str())).collect();
        let done = |seq: i64| if seq == 4 { "queued" } else { "succeeded" };
        let names: Vec<_> = (0..6).map(|seq| format!("line {seq}")).collect();
        assert_eq!(told, (0..6).zip(&names).map(|(seq, name)| (seq, name.as_str(), done(seq))).collect::<Vec<_>>());
        for row in &paged {
            let line = (row.seq != 4).then(|| own_line(row.seq, RequestState::Succeeded));
            assert_eq!(row.line, line);
        }
        assert_eq!(store.results("another pool", -1, 9).await.unwrap(), []);
    }

    async fn results_of_a_batch_come_in_the_order_of_its_requests(store: Fixture) {
        let job = store.driven("letters", 6).await;
        store.opened(&job, 2).await;
        let fence = store.opened(&job, 4).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts =
            [says(3, RequestState::Errored), says(0, RequestState::Succeeded), says(2, RequestState::Canceled)];
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(8)).await.unwrap();
        let rows = store.batch_results(&fence.batch, -1, 99).await.unwrap();
        let told: Vec<_> = rows.iter().map(|row| (row.seq, row.custom_id.as_str(), row.state.as_str())).collect();
        assert_eq!(
            told,
            [(0, "line 2", "succeeded"), (1, "line 3", "open"), (2, "line 4", "canceled"), (3, "line 5", "errored")]
        );
        let lines: Vec<_> = rows.iter().map(|row| row.line.clone()).collect();
        assert_eq!(
            lines,
            [Some(own_line(2, RequestState::Succeeded)), None, None, Some(own_line(5, RequestState::Errored))]
        );
        let page: Vec<_> =
            store.batch_results(&fence.batch, 1, 1).await.unwrap().into_iter().map(|row| row.seq).collect();
        assert_eq!(page, [2]);
    }

    async fn another_process_finds_everything_as_it_was_left(store: Fixture) {
        for state in BatchState::ALL {
            store.batch_in(*state).await;
        }
        let (before, listed) =
            (without_nodes(&store).await, store.list_batches(&BatchFilter::default(), None, 99).await.unwrap());
        let store = store.restarted().await;
        assert_eq!(without_nodes(&store).await, before);
        assert_eq!(store.list_batches(&BatchFilter::default(), None, 99).await.unwrap(), listed);
        assert_eq!(listed.iter().map(|row| row.reserved.nanos()).sum::<i64>(), 6 * 2 * RESERVE);
    }
}

async fn ids(store: &Fixture, filter: &BatchFilter, before: Option<(Timestamp, &str)>, limit: u32) -> Vec<BatchId> {
    let rows = store.list_batches(filter, before, limit).await.expect("they are listed");
    rows.into_iter().map(|row| row.id).collect()
}

async fn without_nodes(store: &Fixture) -> Vec<Vec<Vec<Option<String>>>> {
    let mut tables = Vec::new();
    for table in crate::raw::TABLES.iter().filter(|table| **table != "nodes") {
        let mut rows = store.raw.rows(&format!("SELECT * FROM {table}")).await;
        rows.sort();
        tables.push(rows);
    }
    tables
}
