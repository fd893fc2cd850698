//! Old sessions and jobs: cleared away a bounded number of rows at a time, and never while something needs them.

use crate::drawn::draw;
use crate::fixture::{Driven, Fixture, at};
use crate::sent::ENV;
use std::time::Duration;
use storage::model::{BatchState, Closing, JobEvent, JobState, RequestState, SessionId, Source, Timestamp};
use storage::store::Retained;

const DAY: Duration = Duration::from_secs(86_400);
/// What a job has and what hangs on its runs.
const OWNED: [&str; 9] =
    ["job_rounds", "runs", "run_bodies", "run_results", "attempts", "batches", "batch_events", "job_events", "jobs"];
const NOTHING: Retained = Retained { deleted: 0, wrapped: true };

/// Later than all that the tests do, by more than any day that counts.
fn later() -> Timestamp {
    at(1_000) + 3 * DAY
}

impl Fixture {
    /// A served job that has carried out so many runs, in batches of at most `each`.
    async fn served(&self, runs: i64, each: i64) -> Driven {
        let job = self.drawn(&self.prompts(runs)).await;
        for _ in 0..(runs + each - 1) / each {
            let fence = self.opened(&job, each).await;
            self.bring(&fence, BatchState::Collected).await.unwrap();
        }
        self.is_over(&job).await;
        job
    }

    async fn is_over(&self, job: &Driven) {
        self.close_round(&job.id, job.epoch, 1, at(10)).await.unwrap();
        self.step(job, JobState::Running, JobEvent::Stopping).await.unwrap();
        self.step(job, JobState::Finishing, JobEvent::Finished).await.unwrap();
    }

    /// Rows of these tables, one after the other.
    async fn owned(&self) -> Vec<i64> {
        let mut counts = Vec::new();
        for table in OWNED {
            counts.push(self.raw.number(&format!("SELECT COUNT(*) FROM {table}")).await);
        }
        counts
    }

    async fn ends_of_runs_are_forgotten(&self) {
        while !self.retain_runs(later(), 99, later()).await.unwrap().wrapped {}
    }

    async fn jobs_left(&self) -> i64 {
        self.raw.number("SELECT COUNT(*) FROM jobs").await
    }

    async fn clears(&self) -> Retained {
        self.retain_jobs(later(), 999, later()).await.unwrap()
    }

    async fn is_there(&self, id: &SessionId) -> bool {
        let events = self.session_log(id, 0, 9).await.unwrap();
        let there = self.session(ENV, id).await.unwrap().is_some();
        assert_eq!(there, !events.is_empty(), "it goes with its events");
        there
    }
}

on_both! {
    async fn old_sessions_go_with_their_events_once_no_run_is_left_of_them_and_no_others(store: Fixture) {
        let mut sessions = Vec::new();
        for _ in 0..5 {
            sessions.push(store.session_of(None).await.id);
        }
        let [gone, with_a_run, young, active, again] = &sessions[..] else { panic!("five") };
        store.child(with_a_run).await;
        for id in [gone, with_a_run, again] {
            store.closes(id, Closing::Aborted, at(20)).await;
        }
        store.closes(young, Closing::Aborted, at(21)).await;
        store.reopens(again, at(20)).await;
        assert_eq!(store.retain_sessions(at(20), 99).await.unwrap(), NOTHING, "what closed just then is kept");
        assert_eq!(store.retain_sessions(at(21), 99).await.unwrap(), Retained { deleted: 1, wrapped: true });
        assert!(!store.is_there(gone).await);
        for id in [with_a_run, young, active, again] {
            assert!(store.is_there(id).await);
        }
        assert_eq!(store.retain_sessions(at(21), 99).await.unwrap(), NOTHING);
    }

    async fn sessions_go_a_bounded_number_of_events_at_a_time_and_never_in_part(store: Fixture) {
        let mut sessions = Vec::new();
        for nth in 0..7 {
            let id = store.session_of(None).await.id;
            if nth == 3 {
                store.child(&id).await;
            }
            store.walks(&id, "reviews", at(nth)).await;
            store.closes(&id, Closing::Aborted, at(20 + nth)).await;
            sessions.push(id);
        }
        let (mut goes, mut left) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            goes.push(store.retain_sessions(at(90), 6).await.unwrap());
            left.push(store.raw.number("SELECT COUNT(*) FROM session_events").await);
        }
        assert_eq!(left, [15, 12, 6, 3], "the one with a run is walked over");
        assert_eq!(goes.iter().map(|go| go.wrapped).collect::<Vec<_>>(), [false, false, false, true]);
        assert!(store.is_there(&sessions[3]).await);
        store.raw.exec("DELETE FROM ready").await;
        store.raw.exec("DELETE FROM run_records").await;
        assert_eq!(store.retain_sessions(at(90), 1).await.unwrap().deleted, 1, "one that is larger goes all the same");
    }

    async fn an_old_job_goes_in_bounded_goes_with_all_that_it_had_and_itself_last(store: Fixture) {
        let file = store.driven("letters", 3).await;
        let fence = store.opened(&file, 3).await;
        store.bring(&fence, BatchState::Collected).await.unwrap();
        store.is_over(&file).await;
        let before = store.owned().await;
        let job = store.served(12, 5).await;
        assert_eq!(store.clears().await.deleted, 0, "its runs have their records");
        assert!(store.job(&job.id).await.unwrap().is_some());
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM runs").await, 15);
        store.ends_of_runs_are_forgotten().await;
        let mut goes = 0;
        loop {
            let rows = store.owned().await;
            let went = store.retain_jobs(later(), 4, later()).await.unwrap();
            let gone: Vec<_> = rows.iter().zip(store.owned().await).map(|(before, after)| before - after).collect();
            // Bodies and results hang on runs, logs on batches and on the job.
            assert!(gone[0] + gone[1] + gone[4] + gone[5] + gone[8] <= 4, "{gone:?}");
            goes += 1;
            if went.deleted > 0 {
                assert_eq!(went, Retained { deleted: 1, wrapped: true });
                break;
            }
            assert!(store.job(&job.id).await.unwrap().is_some(), "the job goes last");
            assert!(goes < 99, "{rows:?}");
        }
        assert!(goes >= 7, "{goes}");
        assert_eq!(store.owned().await, before, "what was read from a file is its owner's");
        assert_eq!(store.raw.number(&format!("SELECT COUNT(*) FROM pools WHERE name = '{}'", job.id)).await, 0);
        assert_eq!(store.clears().await, NOTHING);
        assert_eq!(store.jobs_left().await, 1);
    }

    async fn what_is_not_over_or_not_old_or_needed_by_a_run_is_kept(store: Fixture) {
        let young = store.served(1, 1).await;
        store.ends_of_runs_are_forgotten().await;
        assert_eq!(store.retain_jobs(at(1), 99, later()).await.unwrap(), NOTHING, "it ended just then");
        assert_eq!(store.retain_jobs(at(9), 99, later()).await.unwrap().deleted, 0, "its batch ended later");
        assert_eq!(store.clears().await.deleted, 1);
        assert!(store.job(&young.id).await.unwrap().is_none());

        // One that was given back waits for another job, and its tries with it.
        let records = store.prompts(3);
        let job = store.drawn(&records).await;
        let fence = store.opened(&job, 2).await;
        assert_eq!(store.clears().await, NOTHING, "it runs");
        store.ask_job(ENV, &job.id, JobEvent::Cancelled, None, at(60)).await.unwrap();
        store.give_back(&job.id, 9, at(61)).await.unwrap();
        assert_eq!(store.clears().await.deleted, 0, "its batch is under way");
        store.bring(&fence, BatchState::Ended).await.unwrap();
        store.settle_all(&fence, BatchState::Ended, RequestState::Errored).await.unwrap();
        store.collected(&fence, at(62)).await.unwrap();
        assert_eq!(store.clears().await.deleted, 0, "its runs are not given back yet");
        assert_eq!(store.give_back(&job.id, 9, at(63)).await.unwrap(), 2);
        assert_eq!(store.clears().await.deleted, 0, "its runs are open");
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM attempts").await, 2);
        let next = store.drawing(Source::Backfill, &draw()).await;
        assert_eq!(store.clears().await.deleted, 0, "another job has them");
        store.ask_job(ENV, &next.id, JobEvent::Cancelled, None, at(64)).await.unwrap();
        for record in &records {
            store.cancel_run(ENV, &record.id, at(65)).await.unwrap();
        }
        store.ends_of_runs_are_forgotten().await;
        assert_eq!(store.clears().await.deleted, 2);
        assert_eq!(store.owned().await, [0; OWNED.len()]);
    }

    async fn what_a_day_counts_is_kept_however_little_is_asked_to_be_kept(store: Fixture) {
        store.served(2, 2).await;
        let hour = Duration::from_secs(3_600);
        let now = at(20) + 24 * hour;
        store.retain_runs(now, 99, now).await.unwrap();
        let spent = "SELECT SUM(spent_nanos) FROM batches";
        let before = store.raw.number(spent).await;
        assert_eq!(store.retain_jobs(now, 99, now).await.unwrap(), NOTHING);
        assert_eq!(store.raw.number(spent).await, before);
        assert_eq!(store.retain_jobs(now + hour, 99, now + hour).await.unwrap().deleted, 1);
    }

    async fn many_who_clear_away_at_once_do_it_once(store: Fixture) {
        for _ in 0..4 {
            store.served(9, 4).await;
        }
        store.ends_of_runs_are_forgotten().await;
        let callers = store.callers(3).await;
        let clear = async |caller: &storage::Store| {
            let mut deleted = 0;
            loop {
                let went = caller.retain_jobs(later(), 5, later()).await.unwrap();
                deleted += went.deleted;
                if went == NOTHING {
                    return deleted;
                }
            }
        };
        let deleted: u64 = futures_util::future::join_all(callers.iter().map(clear)).await.into_iter().sum();
        assert_eq!(deleted, 4);
        assert_eq!(store.owned().await, [0; OWNED.len()]);
    }

    async fn a_batch_that_went_is_not_taken_for_another_ones_duplicate(store: Fixture) {
        let ids = async || store.known_provider_ids("acme").await.unwrap().len();
        store.served(2, 2).await;
        store.ends_of_runs_are_forgotten().await;
        assert_eq!((ids().await, store.clears().await.deleted, ids().await), (1, 1, 0), "nobody looks for any");
        let twice = store.batch_in(BatchState::Collected).await;
        store.raw.exec(&format!("UPDATE batches SET create_no = 2 WHERE id = '{}'", twice.batch)).await;
        store.served(2, 2).await;
        store.ends_of_runs_are_forgotten().await;
        assert_eq!((ids().await, store.clears().await.deleted, ids().await), (2, 1, 2), "one is looked for");
        assert_eq!(store.created_twice(None).await.unwrap().len(), 1);
    }
}
