//! Queues: what waits in each, and pausing them.

use crate::fixture::{at, says};
use crate::sent::{ENV, OTHER_ENV, QUEUE};
use storage::model::{BatchState, JobEvent, Lane, RequestState};
use storage::store::{Ending, InJobs, NewRecord, QueueRow, QueueTotal};

/// It is known that jobs have nothing.
const NONE: Option<InJobs> = Some(InJobs { queued: 0, running: 0 });

on_both! {
    async fn a_queue_is_there_as_soon_as_a_run_names_it_and_gone_with_its_last(store: Fixture) {
        assert_eq!(store.queues(ENV).await.unwrap(), []);
        let run = store.sent(store.record(ENV)).await;
        let queue = QueueRow { name: QUEUE.to_owned(), queued: 1, oldest_at: Some(at(0)), in_jobs: NONE, ..QueueRow::default() };
        assert_eq!(store.queues(ENV).await.unwrap(), [queue]);
        assert_eq!(store.queues(OTHER_ENV).await.unwrap(), []);
        store.cancel_run(ENV, &run, at(5)).await.unwrap();
        assert_eq!(store.queues(ENV).await.unwrap(), []);
    }

    async fn what_waits_of_a_queue_is_counted_over_all_envs_keys_and_workers(store: Fixture) {
        let record = |env: &str, queue: &str, key: &str, accepted| NewRecord {
            lane: Lane::new(queue, key),
            accepted_at: at(accepted),
            ..store.record(env)
        };
        let pulled = NewRecord { lane: Lane::new("mail", ""), accepted_at: at(9), ..store.for_pull("train", ENV) };
        let delayed = NewRecord { not_before: Some(at(99)), ..record(ENV, "mail", "", 0) };
        let records = [record(ENV, "mail", "", 7), record(OTHER_ENV, "mail", "k", 3), pulled, delayed];
        store.take_in(&records).await;
        let held = |accepted| NewRecord { buffered: true, ..record(ENV, "held", "", accepted) };
        store.take_in(&[record(ENV, "mail2", "", 1), held(4), held(2)]).await;
        let total = |queue: &str, waiting, oldest| QueueTotal {
            queue: queue.to_owned(),
            waiting,
            oldest_at: Some(at(oldest)),
        };
        assert_eq!(store.ready_totals().await.unwrap(), [total("mail", 3, 3), total("mail2", 1, 1)]);
        assert_eq!(store.buffered_totals().await.unwrap(), [total("held", 2, 2)]);
    }

    async fn what_waits_is_delayed_and_runs_is_counted_over_all_keys_of_a_queue(store: Fixture) {
        let record = |queue: &str, key: &str, accepted| NewRecord {
            lane: Lane::new(queue, key),
            accepted_at: at(accepted),
            ..store.record(ENV)
        };
        let delayed = NewRecord { not_before: Some(at(99)), ..record("mail", "k", -50) };
        store.take_in(&[record("mail", "", 7), record("mail", "k", 3), record("mail", "l", 9), delayed]).await;
        store.take_in(&[record("mail2", "", 1), NewRecord { buffered: true, ..record("held", "", 1) }]).await;
        let lease = store.lease_again(&record("mail2", "", 1).basin, &Lane::new("mail2", "")).await;
        let again = store.leased(store.record(ENV)).await;
        store.settle_one(&again, Ending::Retry(at(99))).await;
        let row = |name: &str, queued, delayed, running, oldest: Option<i64>| QueueRow {
            name: name.to_owned(),
            queued,
            delayed,
            running,
            oldest_at: oldest.map(at),
            paused_at: None,
            in_jobs: NONE,
        };
        let mut expected = vec![
            row("mail", 3, 1, 0, Some(3)),
            row("mail2", 0, 0, 1, None),
            row(again.lane.queue(), 0, 1, 0, None),
        ];
        expected.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(store.queues(ENV).await.unwrap(), expected);
        store.settle_one(&lease, Ending::Succeeded).await;
        assert_eq!(store.queues(ENV).await.unwrap().len(), 2);
    }

    async fn what_a_job_has_counts_in_the_queue_it_names_until_it_ends(store: Fixture) {
        let records = store.prompts(4);
        let job = store.drawn(&records[..3]).await;
        let counts = async |ready, queued, running| {
            let row = store.queues(ENV).await.unwrap().remove(0);
            assert_eq!((row.name.as_str(), row.queued, row.running), (QUEUE, ready, 0));
            assert_eq!(row.in_jobs, Some(InJobs { queued, running }));
            assert_eq!(store.queues(OTHER_ENV).await.unwrap(), []);
        };
        counts(0, 3, 0).await;
        store.take_in(&records[3..]).await;
        counts(1, 3, 0).await;
        let fence = store.opened(&job, 2).await;
        counts(1, 1, 2).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts = [says(0, RequestState::Succeeded), says(1, RequestState::Errored)];
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        counts(1, 2, 0).await;
        store.collected(&fence, at(31)).await.unwrap();
        store.ask_job(ENV, &job.id, JobEvent::Cancelled, None, at(32)).await.unwrap();
        store.give_back(&job.id, 9, at(33)).await.unwrap();
        counts(3, 0, 0).await;
    }

    async fn more_than_is_counted_of_what_jobs_have_is_not_told_as_none(store: Fixture) {
        store.sent(store.record(ENV)).await;
        let many = format!("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50001)
            INSERT INTO runs (id, pool, seq, custom_id, pack, state, max_attempts, bytes, accepted_at, env)
            SELECT 'run ' || x, 'many', x, 'run ' || x, '', 'queued', 1, 1, 1, '{ENV}' FROM n");
        store.raw.exec(&many).await;
        let row = store.queues(ENV).await.unwrap().remove(0);
        assert_eq!((row.queued, row.in_jobs), (1, None), "not counted is not 0 (invariant 25)");
        store.raw.exec("DELETE FROM runs WHERE pool = 'many'").await;
        assert_eq!(store.queues(ENV).await.unwrap()[0].in_jobs, NONE);
    }

    async fn pull_runs_count_in_the_queue_they_name(store: Fixture) {
        store.sent(store.for_pull("train", ENV)).await;
        store.sent(store.record(ENV)).await;
        let queues = store.queues(ENV).await.unwrap();
        assert_eq!(queues.iter().map(|row| (row.name.as_str(), row.queued)).collect::<Vec<_>>(), [(QUEUE, 2)]);
    }

    async fn a_queue_is_paused_from_the_first_time_on_until_it_is_resumed(store: Fixture) {
        let paused = async || {
            let mut paused = store.paused_queues().await.unwrap();
            paused.sort();
            paused
        };
        let of = |env: &str, name: &str| (env.to_owned(), name.to_owned());
        assert_eq!(paused().await, []);
        store.pause_queue(ENV, QUEUE, Some(at(5))).await.unwrap();
        store.pause_queue(ENV, QUEUE, Some(at(9))).await.unwrap();
        store.pause_queue(OTHER_ENV, "other", Some(at(6))).await.unwrap();
        assert_eq!(paused().await, [of(OTHER_ENV, "other"), of(ENV, QUEUE)]);
        let row = QueueRow { name: QUEUE.to_owned(), paused_at: Some(at(5)), in_jobs: NONE, ..QueueRow::default() };
        assert_eq!(store.queues(ENV).await.unwrap(), [row], "it is there though nothing waits in it");
        for _ in 0..2 {
            store.pause_queue(ENV, QUEUE, None).await.unwrap();
            assert_eq!(paused().await, [of(OTHER_ENV, "other")]);
        }
        store.pause_queue(ENV, QUEUE, Some(at(20))).await.unwrap();
        assert_eq!(store.queues(ENV).await.unwrap()[0].paused_at, Some(at(20)), "a new pause has a time of its own");
        store.pause_queue(ENV, "never paused", None).await.unwrap();
        assert_eq!(paused().await, [of(OTHER_ENV, "other"), of(ENV, QUEUE)]);
    }

    async fn what_runs_when_its_queue_is_paused_goes_on_to_its_end(store: Fixture) {
        let lease = store.leased(store.record(ENV)).await;
        store.pause_queue(ENV, lease.lane.queue(), Some(at(5))).await.unwrap();
        store.settle_one(&lease, Ending::Succeeded).await;
        assert!(store.stands(&lease.run).await.finished_at.is_some());
    }

    async fn a_pause_survives_a_restart(store: Fixture) {
        store.pause_queue(ENV, QUEUE, Some(at(5))).await.unwrap();
        let store = store.restarted().await;
        assert_eq!(store.paused_queues().await.unwrap(), [(ENV.to_owned(), QUEUE.to_owned())]);
    }

    async fn what_waits_in_an_env_is_counted_in_both_places_up_to_a_bound(store: Fixture) {
        assert_eq!(store.waiting_of_env(ENV, 9).await.unwrap(), 0);
        store.take_in(&store.records(ENV, 5)).await;
        store.take_in(&store.buffered(ENV, 4)).await;
        store.take_in(&store.buffered(OTHER_ENV, 3)).await;
        store.leased(store.record(ENV)).await;
        store.sent(NewRecord { not_before: Some(at(99)), ..store.record(ENV) }).await;
        assert_eq!(store.waiting_of_env(ENV, 99).await.unwrap(), 10);
        assert_eq!(store.waiting_of_env(OTHER_ENV, 99).await.unwrap(), 3);
        let counted = store.waiting_of_env(ENV, 3).await.unwrap();
        assert!((3..=6).contains(&counted), "{counted}");
    }
}
