//! Taking runs in, chunk by chunk.

use crate::fixture::{Driven, MAX_ATTEMPTS, assert_moved, at};
use storage::Class;
use storage::model::{Epoch, JobEvent, JobState, NewRun};
use storage::store::PoolCounts;

on_both! {
    /// More than one statement's worth, in uneven chunks.
    async fn an_import_in_chunks_counts_and_keeps_every_run(store: Fixture) {
        let job = store.created(&store.new_job("letters")).await;
        let runs = store.runs(0..1_203);
        let mut before = 0;
        for chunk in [&runs[..1], &runs[1..702], &runs[702..702], &runs[702..]] {
            store.import(&job, before, chunk).await.unwrap();
            before += i64::try_from(chunk.len()).unwrap();
            let counts = store.pool_counts("letters").await.unwrap();
            assert_eq!(counts, PoolCounts { total: before, queued: before, ..PoolCounts::default() });
            assert_eq!(counts.pending(), before);
        }
        let rows = store.results("letters", -1, 2_000).await.unwrap();
        assert_eq!(rows.len(), runs.len());
        for (row, run) in rows.iter().zip(&runs) {
            assert_eq!((row.seq, &row.custom_id, row.state.as_str()), (run.seq, &run.custom_id, "queued"));
            assert_eq!(row.line, None);
        }
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM runs WHERE accepted_at = 1700000000000").await, 1_203);
    }

    async fn a_pool_that_nobody_has_filled_counts_zero(store: Fixture) {
        assert_eq!(store.pool_counts("never heard of").await.unwrap(), PoolCounts::default());
    }

    /// The number that the pool holds is all that a resumed import needs to know.
    async fn an_import_goes_on_in_another_process_where_it_was_cut(store: Fixture) {
        let job = store.created(&store.new_job("letters")).await;
        let runs = store.runs(0..50);
        store.import(&job, 0, &runs[..30]).await.unwrap();
        let first = store.node().clone();
        let store = store.restarted().await;
        // PostgreSQL has no way of knowing that the first process is dead, until its lease lapses.
        let lapsed = store.node_row(&first).await.unwrap().unwrap().lease_until;
        let now = storage::model::Timestamp::from_millis(lapsed + 1);
        let epoch = store.take_job(&job.id, now).await.unwrap().expect("its holder is dead");
        let job = Driven { epoch, ..job };
        assert_moved(store.import(&job, 0, &runs[..30]).await, "the same chunk again");
        let before = store.pool_counts("letters").await.unwrap().total;
        assert_eq!(before, 30);
        store.import(&job, before, &runs[30..]).await.unwrap();
        assert_eq!(store.pool_counts("letters").await.unwrap().total, 50);
    }

    async fn an_import_with_another_count_or_epoch_or_job_state_writes_nothing(store: Fixture) {
        let job = store.created(&store.new_job("letters")).await;
        store.import(&job, 0, &store.runs(0..3)).await.unwrap();
        let more = store.runs(3..5);
        let before = store.snapshot().await;
        for wrong in [0, 2, 4, -1] {
            assert_moved(store.import(&job, wrong, &more).await, &format!("an import after {wrong}"));
        }
        for wrong in [0, 2] {
            let stale = Driven { epoch: Epoch::from_number(wrong), ..job.clone() };
            assert_moved(store.import(&stale, 3, &more).await, &format!("an import under epoch {wrong}"));
        }
        let elsewhere = Driven { pool: "never heard of".to_owned(), ..job.clone() };
        assert_moved(store.import(&elsewhere, 0, &more).await, "an import into no pool");
        before.assert_same(&store.snapshot().await, "imports that were refused");
        store.created(&store.new_job("parcels")).await;
        let elsewhere = Driven { pool: "parcels".to_owned(), ..job.clone() };
        assert_moved(store.import(&elsewhere, 0, &more).await, "an import into another job's pool");
        store.step(&job, JobState::Created, JobEvent::Started).await.unwrap();
        let before = store.snapshot().await;
        assert_moved(store.import(&job, 3, &more).await, "an import into a running job");
        before.assert_same(&store.snapshot().await, "an import into a running job");
    }

    async fn a_chunk_is_taken_in_whole_or_not_at_all(store: Fixture) {
        let job = store.created(&store.new_job("letters")).await;
        store.import(&job, 0, &store.runs(0..3)).await.unwrap();
        let mut runs = store.runs(3..900);
        runs[896].seq = 0;
        let before = store.snapshot().await;
        let refusal = store.import(&job, 3, &runs).await.unwrap_err();
        assert_eq!(refusal.class(), Class::Conflict, "{refusal}");
        before.assert_same(&store.snapshot().await, "a chunk with a place that is taken");
    }

    async fn of_two_importers_at_once_one_is_told_that_it_has_moved(store: Fixture) {
        let job = store.created(&store.new_job("letters")).await;
        let (one, two) = (store.runs(0..200), store.runs(0..200));
        let answers = tokio::join!(store.import(&job, 0, &one), store.import(&job, 0, &two));
        let (won, lost) = if answers.0.is_ok() { answers } else { (answers.1, answers.0) };
        won.expect("one of them is first");
        assert_moved(lost, "the second importer");
        assert_eq!(store.pool_counts("letters").await.unwrap().total, 200);
    }

    async fn texts_come_back_byte_for_byte(store: Fixture) {
        let job = store.new_job("letters");
        let mut runs = store.runs(0..4);
        let bodies = [
            "{\"a\": 1.50, \"b\":\"\\u0000\", \"a\": 2}".to_owned(),
            "{\"emoji\":\"👩‍👩‍👧\",\"quote\":\"it''s \\\" $1 ?1 {}\"}".to_owned(),
            format!("{{\"long\":\"{}\"}}", "ж".repeat(300_000)),
            " {\r\n\t}\u{2028}\u{feff} ".to_owned(),
        ];
        for (run, body) in runs.iter_mut().zip(&bodies) {
            run.body.clone_from(body);
            run.custom_id = format!("'{}\"; -- \u{1}\u{10ffff}", run.seq);
        }
        let driven = store.driven_with(&job, &runs).await;
        let fence = store.opened(&driven, 4).await;
        let read: Vec<_> = store.bodies(&fence.batch, 0, 9).await.unwrap().into_iter().map(|(_, body)| body).collect();
        assert_eq!(read, bodies);
        let bytes: usize = bodies.iter().map(String::len).sum();
        assert_eq!(store.batch_row(&fence).await.body_bytes, i64::try_from(bytes).unwrap(), "bytes, not characters");
        let rows = store.results("letters", -1, 9).await.unwrap();
        assert!(rows.iter().zip(&runs).all(|(row, run)| row.custom_id == run.custom_id));
    }

    async fn a_later_job_of_a_pool_adds_to_what_is_there(store: Fixture) {
        let first = store.created(&store.new_job("letters")).await;
        store.import(&first, 0, &store.runs(0..3)).await.unwrap();
        store.step(&first, JobState::Created, JobEvent::Cancelled).await.unwrap();
        let second = store.created(&store.new_job("letters")).await;
        store
            .import_runs((&second.id, second.epoch), "letters", 3, MAX_ATTEMPTS, &store.runs(3..5), at(1))
            .await
            .unwrap();
        assert_eq!(store.pool_counts("letters").await.unwrap().queued, 5);
    }

    /// PostgreSQL cannot hold one and SQLite could, so neither gets it.
    async fn a_nul_in_a_name_is_refused_with_its_run(store: Fixture) {
        let job = store.created(&store.new_job("letters")).await;
        let before = store.snapshot().await;
        for spoil in [|run: &mut NewRun| run.custom_id.push('\0'), |run: &mut NewRun| run.pack.insert(0, '\0')] {
            let mut runs = store.runs(0..2);
            spoil(&mut runs[1]);
            let refusal = store.import(&job, 0, &runs).await.unwrap_err();
            assert_eq!(refusal.class(), Class::Terminal);
            assert!(refusal.to_string().contains(runs[1].id.as_str()), "{refusal}");
        }
        before.assert_same(&store.snapshot().await, "a chunk with a NUL");
    }
}
