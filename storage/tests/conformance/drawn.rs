//! Runs that came in over HTTP in the hands of a job: drawn by one, ended with their requests, given back.

use crate::fixture::{COST, Driven, Fixture, at, ceilings, says, scope};
use crate::sent::{ENV, OTHER_ENV, QUEUE, ids};
use storage::StoreError;
use storage::model::{
    BatchState, Draw, JobEvent, JobState, Lane, Policy, RequestState, RunId, RunState, Source, Timestamp,
};
use storage::store::{
    Cancelled, Drawn, Dressed, Fence, JobAsked, Made, NewJob, NewRecord, RunFilter, Settled, Taker, Waiting, WaitingAt,
};

const TASK: &str = "summarise";

pub fn draw() -> Draw {
    Draw {
        task: TASK.to_owned(),
        since_ms: None,
        until_ms: None,
        queue: None,
        tags: Vec::new(),
        session_id: None,
        concurrency_key: None,
        priority_min: None,
        policy: Policy::Disjoint,
        standing: None,
    }
}

/// Every payload is a request but those that say so.
fn dress(_: &RunId, payload: &str) -> Result<Dressed, String> {
    if payload.contains("nonsense") {
        return Err("is nonsense".to_owned());
    }
    Ok(Dressed { pack: "chat small".to_owned(), body: payload.to_owned(), reserve_nanos: Some(7) })
}

impl Fixture {
    pub fn prompts(&self, count: i64) -> Vec<NewRecord> {
        let pull = |n| NewRecord { accepted_at: at(n), ..self.for_pull(TASK, ENV) };
        (0..count).map(pull).collect()
    }

    fn task_job(&self, source: Source) -> NewJob {
        let id = self.job_id();
        let (pool, label) = (id.to_string(), TASK.to_owned());
        NewJob { id, env: ENV.to_owned(), pool, source, label, scope: scope(), ceilings: ceilings(), expected: 0 }
    }

    async fn made(&self, source: Source, draw: &Draw) -> NewJob {
        let job = self.task_job(source);
        assert_eq!(self.create_task_job(&job, draw, at(0)).await.unwrap(), Made::Job);
        job
    }

    /// A job that runs and is driven by this node.
    pub async fn drawing(&self, source: Source, draw: &Draw) -> Driven {
        let job = self.made(source, draw).await;
        let epoch = self.take_job(&job.id, at(1)).await.unwrap().expect("nobody has it");
        let driven = Driven { id: job.id, epoch, pool: job.pool };
        self.step(&driven, JobState::Created, JobEvent::Started).await.unwrap();
        driven
    }

    async fn draws(&self, job: &Driven, draw: &Draw, limit: i64) -> Result<Drawn, StoreError> {
        self.draw_runs((&job.id, job.epoch), draw, &dress, limit, at(50)).await
    }

    /// Whose runs are drawn and whose first round is open.
    pub async fn drawn(&self, records: &[NewRecord]) -> Driven {
        self.take_in(records).await;
        let job = self.drawing(Source::Backfill, &draw()).await;
        assert_eq!(self.draws(&job, &draw(), 99).await.unwrap().runs, records.len() as u64);
        self.open_round(&job.id, job.epoch, 1, at(1)).await.unwrap();
        job
    }

    async fn state_of(&self, run: &RunId) -> RunState {
        self.stands(run).await.state
    }
}

on_both! {
    async fn a_job_draws_what_is_in_its_scope_and_nothing_else(store: Fixture) {
        let mut records = store.prompts(9);
        records[1].accepted_at = at(100);
        records[2].lane = Lane::new("other", "");
        records[3].lane = Lane::new("paused", "");
        records[4].expires_at = Some(at(20));
        records[5].not_before = Some(at(9_000));
        records[6].task = "translate".to_owned();
        records[6].basin = storage::model::Basin::pull("translate", ENV);
        records[7].env = OTHER_ENV.to_owned();
        records[7].basin = storage::model::Basin::pull(TASK, OTHER_ENV);
        records[8].accepted_at = at(-1);
        store.take_in(&records).await;
        store.pause_queue(ENV, "paused", Some(at(1))).await.unwrap();
        let scope = Draw { since_ms: Some(at(0).millis()), until_ms: Some(at(100).millis()), ..draw() };
        let all = store.waiting_for(ENV, &draw(), 99, at(50)).await.unwrap();
        assert_eq!(all.runs, 4, "what is paused, expired, delayed, another task's or another env's does not wait for it");
        let job = store.drawing(Source::Backfill, &scope).await;
        let of_queue = Draw { queue: Some("other".to_owned()), ..scope.clone() };
        let bytes = i64::try_from(records[0].payload.len()).unwrap();
        assert_eq!(store.waiting_for(ENV, &of_queue, 9, at(50)).await.unwrap(), Waiting { runs: 1, bytes });
        assert_eq!(store.draws(&job, &of_queue, 9).await.unwrap().runs, 1);
        assert_eq!(store.draws(&job, &scope, 9).await.unwrap().runs, 1);
        assert_eq!(store.draws(&job, &scope, 9).await.unwrap(), Drawn::default());
        for (nth, places) in [(0, vec![]), (1, vec!["ready"]), (2, vec![]), (8, vec!["ready"])] {
            assert_eq!(store.places(&records[nth].id).await, places, "{nth}");
        }
    }

    async fn a_filter_lets_through_what_fulfils_all_of_it_and_leaves_the_rest_as_it_is(store: Fixture) {
        let mut records = store.prompts(7);
        for (nth, record) in records.iter_mut().enumerate() {
            record.payload = nth.to_string();
        }
        let tags = ["[]", r#"["a"]"#, r#"["b","a"]"#, r#"["aa","b","A"]"#, r#"["%","it's \"a\", [b]"]"#, r#"["\u0000"]"#];
        for (record, tags) in records.iter_mut().zip(tags) {
            record.tags = tags.to_owned();
        }
        (records[1].session_id, records[2].session_id) = (Some("ses_1".to_owned()), Some("ses_2".to_owned()));
        (records[2].lane, records[3].lane) = (Lane::new(QUEUE, "k"), Lane::new("other", "k"));
        (records[0].priority, records[3].priority, records[4].priority) = (-1, 5, 6);
        store.take_in(&records).await;
        let (some, tagged) = (|text: &str| Some(text.to_owned()), |tags: &[&str]| Draw {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..draw()
        });
        let both = Draw { concurrency_key: some("k"), ..tagged(&["b"]) };
        for (wanted, expected) in [
            (tagged(&["a"]), vec!["1", "2"]),
            (tagged(&["a", "b"]), vec!["2"]),
            (tagged(&["it's \"a\", [b]"]), vec!["4"]),
            (tagged(&["%"]), vec!["4"]),
            (tagged(&["c"]), vec![]),
            (tagged(&[]), vec!["0", "1", "2", "3", "4", "5", "6"]),
            (Draw { session_id: some("ses_1"), ..draw() }, vec!["1"]),
            (Draw { concurrency_key: some("k"), ..draw() }, vec!["2", "3"]),
            (Draw { priority_min: Some(5), ..draw() }, vec!["3", "4"]),
            (Draw { priority_min: Some(0), ..draw() }, vec!["1", "2", "3", "4", "5", "6"]),
            (both.clone(), vec!["2", "3"]),
            (Draw { queue: some("other"), ..both.clone() }, vec!["3"]),
            (Draw { session_id: some("ses_1"), ..both.clone() }, vec![]),
        ] {
            let mut found: Vec<_> = store.waiting_payloads(ENV, &wanted, &WaitingAt::default(), 9, at(50)).await.unwrap()
                .into_iter().map(|run| run.payload).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{wanted:?}");
            let waiting = store.waiting_for(ENV, &wanted, 9, at(50)).await.unwrap();
            assert_eq!(waiting.runs, i64::try_from(expected.len()).unwrap(), "{wanted:?}");
        }
        let left = [0, 1, 4, 5, 6].map(|nth: usize| records[nth].id.clone());
        let mut before = Vec::new();
        for run in &left {
            before.push(store.stands(run).await);
        }
        let job = store.drawing(Source::Daemon, &both).await;
        assert_eq!(store.draws(&job, &both, 9).await.unwrap().runs, 2);
        assert_eq!(store.draws(&job, &both, 9).await.unwrap(), Drawn::default());
        for (run, before) in left.iter().zip(before) {
            assert_eq!((store.places(run).await, store.stands(run).await), (vec!["ready"], before), "invariant 20");
        }
    }

    /// Nodes of the version before read what asks for nothing new, and this one reads what they have written.
    async fn a_scope_is_stored_without_what_it_does_not_ask_for(store: Fixture) {
        let scope = Draw { since_ms: Some(5), ..draw() };
        let job = store.made(Source::Daemon, &scope).await;
        let text = format!("SELECT COUNT(*) FROM jobs WHERE id = '{}' AND draw = ", job.id);
        let old = r#"'{"task":"summarise","since_ms":5,"until_ms":null,"queue":null,"policy":"disjoint","standing":null}'"#;
        assert_eq!(store.raw.number(&(text + old)).await, 1);
        let read = async |id| store.job_of_env(ENV, id).await.unwrap().expect("it is there").draw;
        assert_eq!(read(&job.id).await, Some(scope.clone()));
        let some = |text: &str| Some(text.to_owned());
        let whole = Draw {
            tags: vec!["a \"b\"".to_owned()], session_id: some("s"), concurrency_key: some("k"), priority_min: Some(-3),
            ..scope
        };
        let job = store.made(Source::Backfill, &whole).await;
        assert_eq!(read(&job.id).await, Some(whole));
    }

    async fn the_first_instant_of_a_scope_is_in_it_and_the_one_before_is_not(store: Fixture) {
        let mut records = store.prompts(2);
        let midnight = Timestamp::from_millis(1_767_225_600_000);
        (records[0].accepted_at, records[1].accepted_at) = (midnight - std::time::Duration::from_secs(1), midnight);
        store.take_in(&records).await;
        let since = Draw { since_ms: Some(midnight.millis()), ..draw() };
        let job = store.drawing(Source::Backfill, &since).await;
        assert_eq!(store.draws(&job, &since, 9).await.unwrap().runs, 1);
        assert_eq!(store.places(&records[0].id).await, ["ready"], "its state is what it was (invariant 20)");
        assert_eq!(store.stands(&records[0].id).await.attempts, 0);
        assert!(store.places(&records[1].id).await.is_empty());
    }

    async fn a_run_is_drawn_by_one_of_two_jobs_that_race_for_it(store: Fixture) {
        store.take_in(&store.prompts(200)).await;
        let jobs = [store.drawing(Source::Backfill, &draw()).await, store.drawing(Source::Daemon, &draw()).await];
        let callers = store.callers(4).await;
        let racing: Vec<_> = callers.into_iter().enumerate().map(|(nth, caller)| {
            let (id, epoch) = (jobs[nth % 2].id.clone(), jobs[nth % 2].epoch);
            tokio::spawn(async move {
                let mut drawn = 0;
                loop {
                    match caller.draw_runs((&id, epoch), &draw(), &dress, 7, at(50)).await {
                        Ok(some) if some.runs > 0 => drawn += some.runs,
                        Ok(_) => return drawn,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        }).collect();
        let mut drawn = 0;
        for caller in racing {
            drawn += caller.await.unwrap();
        }
        assert_eq!(drawn, 200);
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM ready").await, 0);
        let totals = [store.pool_counts(&jobs[0].pool).await.unwrap(), store.pool_counts(&jobs[1].pool).await.unwrap()];
        assert_eq!(totals[0].total + totals[1].total, 200);
    }

    async fn who_does_not_drive_the_job_draws_nothing(store: Fixture) {
        store.take_in(&store.prompts(1)).await;
        let job = store.drawing(Source::Backfill, &draw()).await;
        let before = store.snapshot().await;
        for stale in [job.epoch.number() - 1, job.epoch.number() + 1] {
            let epoch = storage::model::Epoch::from_number(stale);
            let drawn = store.draw_runs((&job.id, epoch), &draw(), &dress, 9, at(50)).await;
            assert!(matches!(drawn, Err(StoreError::Moved { .. })), "{drawn:?}");
        }
        assert_eq!(store.snapshot().await, before);
        store.ask_job(ENV, &job.id, JobEvent::Suspended, None, at(2)).await.unwrap();
        assert!(matches!(store.draws(&job, &draw(), 9).await, Err(StoreError::Moved { .. })));
    }

    async fn a_drawn_run_reads_and_lists_as_it_stands_and_ends_with_its_request(store: Fixture) {
        let records = store.prompts(3);
        let job = store.drawn(&records).await;
        let runs = ids(&records);
        assert_eq!(store.state_of(&runs[0]).await, RunState::Queued);
        assert_eq!(store.stands(&runs[0]).await.holder.as_deref(), Some(job.id.as_str()));
        let listed = async |state| {
            let filter = RunFilter { state: Some(state), ..RunFilter::default() };
            let rows = store.list_runs(ENV, &filter, None, 9).await.unwrap();
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        let newest_first: Vec<_> = runs.iter().rev().cloned().collect();
        assert_eq!(listed(RunState::Queued).await, newest_first);
        assert_eq!(store.fresh_in_pool(&job.id, 2).await.unwrap().runs, 2);
        let fence = store.opened(&job, 3).await;
        assert_eq!(listed(RunState::Running).await, newest_first);
        assert!(listed(RunState::Queued).await.is_empty());
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts = [says(0, RequestState::Succeeded), says(1, RequestState::Errored), says(2, RequestState::Refused)];
        let settled = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(30)).await.unwrap();
        let ended = vec![
            (runs[0].clone(), ENV.to_owned(), RunState::Succeeded),
            (runs[2].clone(), ENV.to_owned(), RunState::Failed),
        ];
        assert_eq!((settled.positions.len(), settled.ignored), (3, 0));
        assert_eq!((settled.succeeded, settled.failed, settled.requeued, settled.ended), (1, 1, 1, ended));
        let done = store.stands(&runs[0]).await;
        assert_eq!((done.state, done.attempts, done.finished_at), (RunState::Succeeded, 1, Some(at(30))));
        let line = done.output.expect("it has the provider's line");
        assert!(line.contains(&format!("\"custom_id\":\"{}\"", runs[0])) && line.contains("succeeded"), "{line}");
        let refused = store.stands(&runs[2]).await;
        assert_eq!((refused.state, refused.code.as_deref()), (RunState::Failed, Some("code of refused")));
        assert!(refused.reason.is_some_and(|reason| reason.contains("code of refused")));
        assert_eq!(store.state_of(&runs[1]).await, RunState::Queued);
        assert_eq!(store.stands(&runs[1]).await.attempts, 1);
        assert_eq!(store.fresh_in_pool(&job.id, 9).await.unwrap(), Waiting::default(), "it was tried");
        let again = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(31)).await.unwrap();
        assert_eq!(again, Settled { ignored: 3, ..Settled::default() });
    }

    async fn each_try_in_a_batch_is_told_with_its_verdict_whoever_has_the_run_by_then(store: Fixture) {
        let records = store.prompts(1);
        let job = store.drawn(&records).await;
        let run = &records[0].id;
        let tries = async || {
            let told = store.past_attempts(run).await.unwrap();
            told.into_iter().map(|a| (a.epoch, a.state, a.batch_id, a.verdict, a.cost_nanos)).collect::<Vec<_>>()
        };
        let told = |epoch, state: &str, fence: &Fence, verdict: &str, cost| {
            (epoch, state.to_owned(), Some(fence.batch.to_string()), Some(verdict.to_owned()), cost)
        };
        assert_eq!(tries().await, []);
        let first = store.opened(&job, 9).await;
        assert_eq!((store.stands(run).await.attempts, tries().await), (1, vec![told(1, "leased", &first, "open", None)]));
        store.bring(&first, BatchState::Ended).await.unwrap();
        assert_eq!(tries().await, [told(1, "started", &first, "open", None)]);
        store.settle_all(&first, BatchState::Ended, RequestState::Errored).await.unwrap();
        store.collected(&first, at(9)).await.unwrap();
        let failed = told(1, "failed", &first, "errored", Some(0));
        store.ask_job(ENV, &job.id, JobEvent::Cancelled, None, at(10)).await.unwrap();
        assert_eq!(store.give_back(&job.id, 9, at(11)).await.unwrap(), 1);
        assert_eq!((store.stands(run).await.attempts, tries().await), (1, vec![failed.clone()]));
        let next = store.drawing(Source::Daemon, &draw()).await;
        store.draws(&next, &draw(), 9).await.unwrap();
        store.open_round(&next.id, next.epoch, 1, at(12)).await.unwrap();
        let second = store.opened(&next, 9).await;
        store.bring(&second, BatchState::Ended).await.unwrap();
        store.settle_all(&second, BatchState::Ended, RequestState::Succeeded).await.unwrap();
        let done = store.stands(run).await;
        assert_eq!((done.state, done.attempts), (RunState::Succeeded, 2));
        assert_eq!(tries().await, [failed, told(2, "succeeded", &second, "succeeded", Some(COST))]);
    }

    async fn a_payload_that_is_no_request_fails_and_says_why(store: Fixture) {
        let mut records = store.prompts(2);
        records[0].payload = "\"nonsense\"".to_owned();
        store.take_in(&records).await;
        let job = store.drawing(Source::Backfill, &draw()).await;
        let drawn = store.draws(&job, &draw(), 9).await.unwrap();
        assert_eq!(drawn, Drawn { runs: 2, refused: vec![records[0].id.clone()] });
        let failed = store.stands(&records[0].id).await;
        assert_eq!((failed.state, failed.code.as_deref()), (RunState::Failed, Some("bad_request")));
        assert_eq!((failed.reason.as_deref(), failed.attempts), (Some("is nonsense"), 0));
        let counts = store.pool_counts(&job.pool).await.unwrap();
        assert_eq!((counts.total, counts.queued, counts.failed), (2, 1, 1));
    }

    async fn a_drawn_run_is_cancelled_at_once_and_one_in_a_batch_before_its_next_try(store: Fixture) {
        let records = store.prompts(3);
        let job = store.drawn(&records).await;
        let runs = ids(&records);
        assert_eq!(store.cancel_run(ENV, &runs[0], at(40)).await.unwrap(), Cancelled::AtOnce);
        assert_eq!(store.state_of(&runs[0]).await, RunState::Cancelled);
        assert_eq!(store.cancel_run(ENV, &runs[0], at(41)).await.unwrap(), Cancelled::Ended(RunState::Cancelled));
        let fence = store.opened(&job, 9).await;
        for run in &runs[1..] {
            let holder = job.id.to_string();
            assert_eq!(store.cancel_run(ENV, run, at(42)).await.unwrap(), Cancelled::Asked { holder });
            assert!(store.stands(run).await.cancel_requested);
        }
        assert_eq!(store.cancel_run(OTHER_ENV, &runs[1], at(42)).await.unwrap(), Cancelled::NotFound);
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts = [says(0, RequestState::Errored), says(1, RequestState::Succeeded)];
        let settled = store.settle(&fence, BatchState::Ended, 1, &verdicts, at(43)).await.unwrap();
        assert_eq!((settled.failed, settled.succeeded, settled.requeued), (1, 1, 0));
        assert_eq!(store.state_of(&runs[1]).await, RunState::Cancelled, "not tried again");
        assert_eq!(store.state_of(&runs[2]).await, RunState::Succeeded, "it is paid for, so that it counts");
    }

    async fn a_job_that_is_over_gives_back_what_it_has_not_carried_out(store: Fixture) {
        let records = store.prompts(4);
        let job = store.drawn(&records).await;
        let runs = ids(&records);
        let fence = store.opened(&job, 2).await;
        assert_eq!(store.give_back(&job.id, 9, at(60)).await.unwrap(), 0, "it is not over");
        let cancelled = store.ask_job(ENV, &job.id, JobEvent::Cancelled, Some("enough"), at(60)).await.unwrap();
        assert!(matches!(&cancelled, JobAsked::Is(row) if row.state == JobState::Cancelled), "{cancelled:?}");
        assert_eq!(store.over_with_runs(9).await.unwrap(), std::slice::from_ref(&job.id));
        assert_eq!(store.give_back(&job.id, 1, at(61)).await.unwrap(), 1);
        assert_eq!(store.give_back(&job.id, 9, at(62)).await.unwrap(), 1);
        assert_eq!(store.places(&runs[3]).await, ["ready"]);
        assert!(store.over_with_runs(9).await.unwrap().is_empty());
        // What is in its batch is its own still, and comes back after one try.
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts = [says(0, RequestState::Errored), says(1, RequestState::Canceled)];
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(63)).await.unwrap();
        store.collected(&fence, at(64)).await.unwrap();
        assert_eq!(store.over_with_runs(9).await.unwrap(), std::slice::from_ref(&job.id));
        assert_eq!(store.give_back(&job.id, 9, at(65)).await.unwrap(), 2);
        let counts = store.pool_counts(&job.pool).await.unwrap();
        assert_eq!((counts.total, counts.given_back), (0, 4));
        assert_eq!((store.stands(&runs[0]).await.attempts, store.stands(&runs[1]).await.attempts), (1, 0));
        let next = store.drawing(Source::Backfill, &draw()).await;
        assert_eq!(store.draws(&next, &draw(), 9).await.unwrap().runs, 4);
        store.open_round(&next.id, next.epoch, 1, at(66)).await.unwrap();
        for round in 1..=2 {
            let fence = store.opened(&next, 9).await;
            store.bring(&fence, BatchState::Ended).await.unwrap();
            store.settle_all(&fence, BatchState::Ended, RequestState::Errored).await.unwrap();
            store.collected(&fence, at(69)).await.unwrap();
            store.close_round(&next.id, next.epoch, round, at(70)).await.unwrap();
            if round < 2 {
                store.open_round(&next.id, next.epoch, round + 1, at(71)).await.unwrap();
            }
        }
        assert_eq!(store.state_of(&runs[0]).await, RunState::Failed, "its first try counts with the second job too");
        assert_eq!(store.state_of(&runs[1]).await, RunState::Queued);
    }

    async fn a_task_has_one_live_job_a_source_and_an_exclusive_one_is_alone(store: Fixture) {
        let (mine, alone) = (draw(), Draw { policy: Policy::Exclusive, ..draw() });
        let daemon = store.made(Source::Daemon, &mine).await;
        let barred = async |source, wanted: &Draw| {
            match store.create_task_job(&store.task_job(source), wanted, at(3)).await.unwrap() {
                Made::Job => None,
                Made::BarredBy(owner) => Some(owner.id),
            }
        };
        assert_eq!(barred(Source::Daemon, &mine).await, Some(daemon.id.clone()));
        assert_eq!(barred(Source::Backfill, &alone).await, Some(daemon.id.clone()));
        let backfill = store.made(Source::Backfill, &mine).await;
        let other = Draw { task: "translate".to_owned(), ..alone.clone() };
        store.made(Source::Daemon, &other).await;
        assert!(barred(Source::Backfill, &Draw { task: "translate".to_owned(), ..mine.clone() }).await.is_some());
        for id in [&daemon.id, &backfill.id] {
            store.ask_job(ENV, id, JobEvent::Cancelled, None, at(4)).await.unwrap();
        }
        let only = store.made(Source::Backfill, &alone).await;
        assert_eq!(barred(Source::Daemon, &mine).await, Some(only.id));
    }

    async fn of_jobs_that_are_made_at_once_one_is(store: Fixture) {
        let alone = Draw { policy: Policy::Exclusive, ..draw() };
        let jobs: Vec<NewJob> =
            (0..8).map(|nth| store.task_job([Source::Daemon, Source::Backfill][nth % 2])).collect();
        let racing: Vec<_> = store.callers(8).await.into_iter().zip(jobs).map(|(caller, job)| {
            let alone = alone.clone();
            tokio::spawn(async move { caller.create_task_job(&job, &alone, at(1)).await })
        }).collect();
        let mut made = 0;
        for caller in racing {
            made += usize::from(matches!(caller.await.unwrap(), Ok(Made::Job)));
        }
        assert_eq!((made, store.raw.number("SELECT COUNT(*) FROM jobs").await), (1, 1));
    }

    async fn a_job_is_suspended_resumed_and_cancelled_along_its_edges_and_logged(store: Fixture) {
        let job = store.made(Source::Daemon, &draw()).await;
        let ask = async |event| store.ask_job(ENV, &job.id, event, None, at(5)).await.unwrap();
        assert_eq!(ask(JobEvent::Suspended).await, JobAsked::Cannot(JobState::Created));
        let epoch = store.take_job(&job.id, at(1)).await.unwrap().expect("nobody has it");
        let driven = Driven { id: job.id.clone(), epoch, pool: job.pool.clone() };
        store.step(&driven, JobState::Created, JobEvent::Started).await.unwrap();
        let state = async |event| match ask(event).await {
            JobAsked::Is(row) => row.state,
            other => panic!("{other:?}"),
        };
        assert_eq!(state(JobEvent::Suspended).await, JobState::Suspended);
        assert_eq!(state(JobEvent::Suspended).await, JobState::Suspended, "asked again, nothing changes");
        assert_eq!(state(JobEvent::Resumed).await, JobState::Running);
        assert_eq!(state(JobEvent::Cancelled).await, JobState::Cancelled);
        assert_eq!(ask(JobEvent::Resumed).await, JobAsked::Cannot(JobState::Cancelled));
        assert_eq!(store.ask_job(OTHER_ENV, &job.id, JobEvent::Cancelled, None, at(6)).await.unwrap(), JobAsked::NotFound);
        let log = store.job_log(&job.id, 0, 99).await.unwrap();
        let events: Vec<_> = log.iter().map(|entry| entry.event.as_str()).collect();
        assert_eq!(events, ["created", "started", "suspended", "resumed", "cancelled"]);
        let rest = store.job_log(&job.id, log[2].seq, 99).await.unwrap();
        assert_eq!(rest, log[3..]);
    }

    async fn jobs_of_an_env_are_listed_newest_first_and_no_others(store: Fixture) {
        let mine = store.made(Source::Daemon, &draw()).await;
        let other = store.made(Source::Backfill, &draw()).await;
        let elsewhere = NewJob { env: OTHER_ENV.to_owned(), ..store.task_job(Source::Daemon) };
        store.create_task_job(&elsewhere, &draw(), at(0)).await.unwrap();
        let page = store.jobs_of_env(ENV, None, 9).await.unwrap();
        let listed: Vec<_> = page.iter().map(|job| job.id.clone()).collect();
        assert_eq!(listed, [other.id, mine.id.clone()]);
        let from = (page[0].created_at, page[0].id.as_str());
        assert_eq!(store.jobs_of_env(ENV, Some(from), 9).await.unwrap()[0].id, mine.id);
        assert_eq!(store.job_of_env(OTHER_ENV, &mine.id).await.unwrap(), None);
    }

    async fn what_waits_is_walked_in_pages_and_left_as_it_is(store: Fixture) {
        let mut records = store.prompts(7);
        records[5].lane = Lane::new("another", "");
        store.take_in(&records).await;
        let before = store.snapshot().await;
        let (mut seen, mut after) = (0, WaitingAt::default());
        loop {
            let page = store.waiting_payloads(ENV, &draw(), &after, 3, at(50)).await.unwrap();
            seen += page.len();
            match page.into_iter().last() {
                Some(last) => after = last.at,
                None => break,
            }
        }
        assert_eq!(seen, 7);
        assert_eq!(store.snapshot().await, before);
    }

    async fn a_job_that_was_let_go_is_taken_by_another_node_and_one_that_is_held_is_not(store: Fixture) {
        let job = store.drawing(Source::Daemon, &draw()).await;
        store.let_job_go(&job.id, storage::model::Epoch::from_number(job.epoch.number() + 1)).await.unwrap();
        assert!(store.job(&job.id).await.unwrap().unwrap().holder.is_some());
        store.let_job_go(&job.id, job.epoch).await.unwrap();
        assert_eq!(store.job(&job.id).await.unwrap().unwrap().holder, None);
        let next = store.take_job(&job.id, at(7)).await.unwrap().expect("it was let go");
        assert_eq!(next.number(), job.epoch.number() + 1);
        let file = store.driven("a file's", 1).await;
        store.let_job_go(&file.id, file.epoch).await.unwrap();
        assert!(store.job(&file.id).await.unwrap().unwrap().holder.is_some(), "its command drives it");
    }

    async fn runs_of_pull_workers_are_not_drawn_and_drawn_ones_are_not_pulled(store: Fixture) {
        let records = store.prompts(2);
        store.drawn(&records).await;
        let share = storage::store::Share::new(storage::model::Basin::pull(TASK, ENV), Lane::new(QUEUE, ""), 9);
        let taker = Taker::Pull { worker: "w", until: at(90), token: &|run| run.to_string() };
        assert!(store.claim_ready(&[share], &[], taker, at(50)).await.unwrap().is_empty());
    }
}
