//! Batches that somebody else has bought: bound to the runs that wait for the same results.

use crate::fixture::{COST, Driven, Fixture, assert_moved, at, says, up_to};
use storage::StoreError;
use storage::model::{BatchState, Epoch, JobEvent, JobState, RequestState, RunId};
use storage::store::{Fence, Import, NamedRequest, Opened, QueuedName};

impl Fixture {
    async fn names(&self, pool: &str) -> Vec<QueuedName> {
        self.queued_names(pool, -1, 99).await.unwrap()
    }

    async fn imports(&self, job: &Driven, provider_id: &str, runs: &[RunId]) -> Result<Fence, StoreError> {
        let (batch, wire_key) = (self.batch_id(), self.ulid());
        let import = Import {
            job: &job.id,
            job_epoch: job.epoch,
            batch: &batch,
            wire_key: &wire_key,
            provider_batch_id: provider_id,
            status: "completed",
            price_version: "prices 1",
            runs,
            now: at(3),
        };
        self.import_batch(&import).await?;
        Ok(Fence { batch, epoch: Epoch::from_number(1) })
    }

    /// The runs of these lines, which wait.
    async fn of_lines(&self, pool: &str, lines: &[&str]) -> Vec<RunId> {
        let names = self.names(pool).await;
        let named = |line: &&str| names.iter().find(|name| name.custom_id == **line).expect("it waits").id.clone();
        lines.iter().map(named).map(RunId::from_text).collect()
    }
}

on_both! {
    async fn its_runs_are_bound_to_it_and_the_others_wait(store: Fixture) {
        let job = store.driven("letters", 4).await;
        let seen = |names: Vec<QueuedName>| names.into_iter().map(|name| name.custom_id).collect::<Vec<_>>();
        assert_eq!(seen(store.queued_names("letters", 0, 2).await.unwrap()), ["line 1", "line 2"]);
        let runs = store.of_lines("letters", &["line 3", "line 1"]).await;
        let fence = store.imports(&job, "theirs_1", &runs).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.requests, row.imported, row.reserved.nanos()), (BatchState::Submitted, 2, true, 0));
        assert_eq!((row.provider_batch_id.as_deref(), row.account.as_str()), (Some("theirs_1"), "acme"));
        assert_eq!(seen(store.names("letters").await), ["line 0", "line 2"]);
        let named = |pos, line: &str| NamedRequest { pos, custom_id: line.to_owned(), pack: "chat small".to_owned() };
        let names = store.names_of_batch(&fence.batch, -1, 9).await.unwrap();
        assert_eq!(names, [named(0, "line 1"), named(1, "line 3")], "in the order of the input");
        assert_eq!(store.names_of_batch(&fence.batch, 0, 9).await.unwrap(), names[1..]);
        let (_, opened) = store.ask(&job, up_to(9), at(4)).await.unwrap();
        assert!(matches!(opened, Opened::Batch { requests: 2, .. }), "the rest is bought: {opened:?}");
    }

    async fn it_is_collected_like_any_other_and_its_cost_is_booked(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let runs = store.of_lines("letters", &["line 0", "line 1"]).await;
        let imported = store.imports(&job, "theirs_1", &runs).await.unwrap();
        let epoch = store.take_batch(&imported.batch, at(4)).await.unwrap().expect("nobody follows it yet");
        let fence = Fence { batch: imported.batch, epoch };
        store.ended(&fence, BatchState::Submitted, "completed", (Some("out"), None), at(5)).await.unwrap();
        let verdicts = [says(0, RequestState::Succeeded), says(1, RequestState::Errored)];
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(6)).await.unwrap();
        store.collected(&fence, at(7)).await.unwrap();
        let counts = store.pool_counts("letters").await.unwrap();
        assert_eq!((counts.succeeded, counts.queued, counts.running, counts.reserved_nanos), (1, 1, 0, 0));
        assert_eq!(counts.spent_nanos, COST);
    }

    async fn a_job_that_was_not_started_yet_takes_it_too(store: Fixture) {
        let job = store.created(&store.new_job("letters")).await;
        store.import(&job, 0, &store.runs(0..2)).await.unwrap();
        let runs = store.of_lines("letters", &["line 0"]).await;
        let fence = store.imports(&job, "theirs_1", &runs).await.unwrap();
        assert_eq!(store.batch_row(&fence).await.round, 0);
    }

    async fn a_run_that_does_not_wait_any_more_is_not_bound_and_nothing_is(store: Fixture) {
        let job = store.driven("letters", 3).await;
        let runs = store.of_lines("letters", &["line 0", "line 2"]).await;
        store.opened(&job, 1).await;
        let before = store.snapshot().await;
        assert_moved(store.imports(&job, "theirs_1", &runs).await, "one of them is in a batch");
        before.assert_same(&store.snapshot().await, "an import that was refused");
    }

    async fn one_that_is_known_is_not_imported_again(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let runs = store.of_lines("letters", &["line 0", "line 1"]).await;
        store.imports(&job, "theirs_1", &runs[..1]).await.unwrap();
        let before = store.snapshot().await;
        let again = store.imports(&job, "theirs_1", &runs[1..]).await.expect_err("it is known");
        assert_eq!(again.class(), storage::Class::Conflict, "{again}");
        before.assert_same(&store.snapshot().await, "an import that was refused");
        assert_eq!(store.owners_of_provider_id("acme", "theirs_1").await.unwrap().len(), 1);
    }

    async fn nobody_imports_for_a_job_that_another_drives_or_that_is_over(store: Fixture) {
        let job = store.driven("letters", 1).await;
        let runs = store.of_lines("letters", &["line 0"]).await;
        let stale = Driven { epoch: Epoch::from_number(job.epoch.number() + 1), id: job.id.clone(), pool: job.pool.clone() };
        assert_moved(store.imports(&stale, "theirs_1", &runs).await, "another epoch");
        store.step(&job, JobState::Running, JobEvent::Cancelled).await.unwrap();
        assert_moved(store.imports(&job, "theirs_1", &runs).await, "a job that is over");
    }

    /// It would look for the batch's key in the results, find it nowhere, and have all of it bought again.
    async fn a_node_that_does_not_know_of_such_batches_keeps_everybody_from_it(store: Fixture) {
        let job = store.driven("letters", 1).await;
        let runs = store.of_lines("letters", &["line 0"]).await;
        let old = store.rival(at(9)).await;
        let refused = store.imports(&job, "theirs_1", &runs).await.expect_err("it is there");
        assert!(matches!(&refused, StoreError::OlderNode { node } if *node == old.to_string()), "{refused}");
        assert_eq!(store.raw.number("SELECT least_level FROM compatibility").await, 1);
        assert_eq!(store.bury_lapsed(at(10)).await.unwrap(), 1);
        store.imports(&job, "theirs_1", &runs).await.unwrap();
        assert_eq!(store.raw.number("SELECT least_level FROM compatibility").await, 2, "it does not come back");
    }
}
