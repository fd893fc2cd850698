//! Jobs: their edges, their one live drive per source, their ceilings and their lists.

use crate::fixture::{Driven, Fixture, assert_moved, at, ceilings};
use storage::model::{Ceilings, Epoch, JobEvent, JobId, JobState, LiveRules, Source, StopReason, Timestamp, job};
use storage::store::JobMove;
use storage::{Class, StoreError};

on_both! {
    async fn a_job_is_read_as_it_was_made(store: Fixture) {
        let mut asked = store.new_job("letters");
        asked.label = "письма 'at \"home\"'.jsonl".to_owned();
        asked.source = Source::Daemon;
        asked.ceilings.max_usd_nanos = Some(i64::MAX);
        let epoch = store.create_job(&asked, at(5)).await.unwrap();
        let row = store.job(&asked.id).await.unwrap().unwrap();
        assert_eq!((&row.id, &row.env, &row.pool, &row.label), (&asked.id, &asked.env, &asked.pool, &asked.label));
        assert_eq!((&row.scope, row.ceilings, row.source), (&asked.scope, asked.ceilings, Source::Daemon));
        assert_eq!((row.state, row.reason, row.detail), (JobState::Created, None, None));
        assert_eq!((row.expected, row.round, row.first_round), (4, 0, 1));
        assert_eq!((row.hold_until, row.learned_max_requests), (Timestamp::from_millis(0), None));
        assert_eq!((row.epoch, row.holder.as_deref()), (epoch, Some(store.node().as_str())));
        assert_eq!((row.created_at, row.started_at, row.finished_at), (at(5), None, None));
    }

    async fn a_job_that_does_not_exist_is_no_error_to_read_and_cannot_be_moved(store: Fixture) {
        let ghost = Driven { id: JobId::from_text("job_none"), epoch: Epoch::from_number(1), pool: String::new() };
        assert_eq!(store.job(&ghost.id).await.unwrap(), None);
        assert_eq!(store.take_job(&ghost.id, at(1)).await.unwrap(), None);
        assert_moved(store.step(&ghost, JobState::Created, JobEvent::Started).await, "a ghost starts");
        assert_moved(store.set_ceilings(&ghost.id, ghost.epoch, &ceilings()).await, "a ghost gets ceilings");
    }

    /// Invariant 18.
    async fn a_pool_has_one_live_job_per_source(store: Fixture) {
        let first = store.created(&store.new_job("letters")).await;
        let before = store.snapshot().await;
        let refusal = store.create_job(&store.new_job("letters"), at(1)).await.unwrap_err();
        assert_eq!(refusal.class(), Class::Conflict, "{refusal}");
        before.assert_same(&store.snapshot().await, "a second live job");
        let mut daemon = store.new_job("letters");
        daemon.source = Source::Daemon;
        store.create_job(&daemon, at(1)).await.expect("another source may have its own");
        store.create_job(&store.new_job("parcels"), at(1)).await.expect("another pool may have its own");
        for (from, event) in path_to(JobState::Finished) {
            assert!(store.create_job(&store.new_job("letters"), at(1)).await.is_err(), "while it is {from}");
            store.step(&first, from, event).await.unwrap();
        }
        store.create_job(&store.new_job("letters"), at(2)).await.expect("a finished job makes room");
    }

    async fn every_edge_of_a_job_can_be_walked_and_is_logged_once(store: Fixture) {
        for (from, event, to) in job::EDGES {
            let driven = in_state(&store, *from).await;
            let log = events(&store, &driven.id).await;
            assert_eq!(store.step(&driven, *from, *event).await.unwrap(), *to);
            let row = store.job(&driven.id).await.unwrap().unwrap();
            assert_eq!(row.state, *to);
            assert_eq!(row.finished_at.is_some(), to.is_terminal(), "{to}");
            assert_eq!(row.reason.is_some(), matches!(to, JobState::Finishing | JobState::Finished), "{to}");
            let mut expected = log;
            expected.push(event.word().to_owned());
            assert_eq!(events(&store, &driven.id).await, expected);
        }
    }

    /// Invariant 1 for the terminal ones: no event leads out of them.
    async fn a_move_that_is_no_edge_changes_nothing(store: Fixture) {
        for state in JobState::ALL {
            let driven = in_state(&store, *state).await;
            let before = store.snapshot().await;
            for event in all_events() {
                for told in JobState::ALL.iter().filter(|told| *told != state || told.after(event).is_none()) {
                    let answer = store.step(&driven, *told, event).await;
                    assert_moved(answer, &format!("{told} by {event:?} on a {state} job"));
                }
            }
            before.assert_same(&store.snapshot().await, &format!("illegal moves of a {state} job"));
        }
    }

    async fn a_stale_epoch_moves_no_job_and_sets_no_ceilings(store: Fixture) {
        for (from, event, _) in job::EDGES {
            let stale = in_state(&store, *from).await;
            let epoch = store.take_job(&stale.id, at(2)).await.unwrap().expect("it is ours to take");
            let before = store.snapshot().await;
            assert_moved(store.step(&stale, *from, *event).await, "a stale move");
            assert_moved(store.set_ceilings(&stale.id, stale.epoch, &ceilings()).await, "stale ceilings");
            before.assert_same(&store.snapshot().await, &format!("stale {event:?}"));
            store.step(&Driven { epoch, ..stale }, *from, *event).await.expect("the new epoch may");
        }
    }

    /// Invariant 23.
    async fn a_finished_job_keeps_the_reason_and_the_detail_it_was_stopped_for(store: Fixture) {
        for (index, reason) in StopReason::ALL.iter().enumerate() {
            let driven = in_state(&store, JobState::Running).await;
            let stop = JobMove {
                from: JobState::Running,
                event: JobEvent::Stopping,
                reason: Some(*reason),
                detail: Some("why"),
            };
            let now = at(100 + i64::try_from(index).unwrap());
            store.move_job(&driven.id, driven.epoch, stop, now).await.unwrap();
            store.step(&driven, JobState::Finishing, JobEvent::Finished).await.unwrap();
            let row = store.job(&driven.id).await.unwrap().unwrap();
            assert_eq!(
                (row.state, row.reason, row.detail.as_deref()),
                (JobState::Finished, Some(*reason), Some("why"))
            );
            let logged = format!("SELECT data FROM job_events WHERE job_id = '{}' AND event = 'stopping'", driven.id);
            assert_eq!(store.raw.value(&logged).await, Some(format!("{{\"reason\":\"{reason}\"}}")));
        }
    }

    async fn a_job_cannot_stop_without_a_reason_nor_be_cancelled_for_one(store: Fixture) {
        let driven = in_state(&store, JobState::Running).await;
        let before = store.snapshot().await;
        for (event, reason) in [(JobEvent::Stopping, None), (JobEvent::Cancelled, Some(StopReason::Drained))] {
            let step = JobMove { from: JobState::Running, event, reason, detail: None };
            let answer = store.move_job(&driven.id, driven.epoch, step, at(2)).await;
            assert!(matches!(answer, Err(StoreError::Database(_))), "{event:?}: {answer:?}");
        }
        before.assert_same(&store.snapshot().await, "half a stop");
    }

    async fn a_job_remembers_when_it_first_started_and_when_it_ended(store: Fixture) {
        let driven = store.created(&store.new_job("letters")).await;
        let steps = [
            (JobState::Created, JobEvent::Started),
            (JobState::Running, JobEvent::Suspended),
            (JobState::Suspended, JobEvent::Resumed),
            (JobState::Running, JobEvent::Cancelled),
        ];
        for (index, (from, event)) in steps.into_iter().enumerate() {
            let now = at(10 * (1 + i64::try_from(index).unwrap()));
            let step = JobMove { from, event, reason: None, detail: None };
            store.move_job(&driven.id, driven.epoch, step, now).await.unwrap();
        }
        let row = store.job(&driven.id).await.unwrap().unwrap();
        assert_eq!((row.started_at, row.finished_at, row.reason), (Some(at(10)), Some(at(40)), None));
    }

    /// Invariant 19.
    async fn ceilings_are_replaced_and_the_scope_is_not(store: Fixture) {
        for state in [JobState::Created, JobState::Running, JobState::Suspended, JobState::Finishing] {
            let driven = in_state(&store, state).await;
            let before = store.job(&driven.id).await.unwrap().unwrap();
            let wider = Ceilings {
                max_rounds: 99,
                max_wallclock_ms: Some(u64::MAX),
                max_usd_nanos: Some(5),
                max_batch_requests: u32::MAX,
                live: LiveRules { below: u32::MAX, after_ms: Some(u64::MAX), canary: true },
            };
            store.set_ceilings(&driven.id, driven.epoch, &wider).await.unwrap();
            let row = store.job(&driven.id).await.unwrap().unwrap();
            assert_eq!(row.ceilings, wider);
            assert_eq!(storage::store::JobRow { ceilings: before.ceilings, ..row }, before);
        }
        for state in [JobState::Finished, JobState::Cancelled, JobState::Failed] {
            let driven = in_state(&store, state).await;
            let before = store.snapshot().await;
            assert_moved(
                store.set_ceilings(&driven.id, driven.epoch, &ceilings()).await,
                "ceilings of a job that is over",
            );
            before.assert_same(&store.snapshot().await, "ceilings of a job that is over");
        }
    }

    async fn an_operator_case_suspends_a_running_job_whoever_drives_it(store: Fixture) {
        let driven = in_state(&store, JobState::Running).await;
        let epoch = store.take_job(&driven.id, at(2)).await.unwrap().unwrap();
        store.suspend_job(&driven.id, "no \"credit\"", at(20)).await.unwrap();
        let row = store.job(&driven.id).await.unwrap().unwrap();
        assert_eq!((row.state, row.detail.as_deref()), (JobState::Suspended, Some("no \"credit\"")));
        assert_eq!((row.epoch, row.finished_at, row.reason), (epoch, None, None));
        let log = "SELECT at, epoch, event, data FROM job_events ORDER BY seq DESC LIMIT 1";
        let expected = [
            at(20).millis().to_string(),
            "2".to_owned(),
            "suspended".to_owned(),
            "{\"why\":\"no \\\"credit\\\"\"}".to_owned(),
        ];
        assert_eq!(store.raw.rows(log).await, [expected.map(Some).to_vec()]);
        for state in JobState::ALL.iter().filter(|state| **state != JobState::Running) {
            let driven = in_state(&store, *state).await;
            let before = store.snapshot().await;
            store.suspend_job(&driven.id, "again", at(21)).await.unwrap();
            before.assert_same(&store.snapshot().await, &format!("suspending a {state} job"));
        }
    }

    async fn a_hold_keeps_what_was_learned_and_leaves_a_finished_job_alone(store: Fixture) {
        let driven = in_state(&store, JobState::Running).await;
        store.hold_job(&driven.id, at(50), Some(40)).await.unwrap();
        store.hold_job(&driven.id, at(60), None).await.unwrap();
        let row = store.job(&driven.id).await.unwrap().unwrap();
        assert_eq!((row.hold_until, row.learned_max_requests), (at(60), Some(40)));
        store.hold_job(&driven.id, at(60), Some(20)).await.unwrap();
        assert_eq!(store.job(&driven.id).await.unwrap().unwrap().learned_max_requests, Some(20));
        let over = in_state(&store, JobState::Finished).await;
        let before = store.snapshot().await;
        store.hold_job(&over.id, at(99), Some(1)).await.unwrap();
        before.assert_same(&store.snapshot().await, "a hold on a finished job");
    }

    async fn jobs_are_listed_newest_first_and_paged_without_gap_or_repeat(store: Fixture) {
        let mut expected = Vec::new();
        for index in 0..7 {
            let job = store.new_job(&format!("pool {index}"));
            // Two of them share each moment, so that the id has to decide.
            store.create_job(&job, at(index / 2)).await.unwrap();
            expected.insert(0, job.id);
        }
        assert_eq!(
            store.list_jobs(None, 100).await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>(),
            expected
        );
        let mut paged = Vec::new();
        let mut before: Option<(Timestamp, String)> = None;
        for _ in 0..10 {
            let place = before.as_ref().map(|(at, id)| (*at, id.as_str()));
            let page = store.list_jobs(place, 3).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some((last.created_at, last.id.to_string()));
            paged.extend(page.into_iter().map(|row| row.id));
        }
        assert_eq!(paged, expected);
        assert_eq!(store.list_jobs(None, 0).await.unwrap(), []);
    }

    async fn live_jobs_are_those_that_are_not_over_oldest_first(store: Fixture) {
        let mut live = Vec::new();
        for state in JobState::ALL {
            let driven = in_state(&store, *state).await;
            if !state.is_terminal() {
                live.push(driven.id);
            }
        }
        assert_eq!(store.live_jobs().await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>(), live);
    }

    async fn all_jobs_of_an_input_are_found_newest_first(store: Fixture) {
        let mut made = Vec::new();
        for (index, sha) in ["a1", "b2", "a1", "a1"].iter().enumerate() {
            let mut job = store.new_job(&format!("pool {index}"));
            job.scope.input_sha256 = sha.repeat(32);
            store.create_job(&job, at(i64::try_from(index).unwrap() / 2)).await.unwrap();
            made.push(job.id);
        }
        let found: Vec<_> =
            store.jobs_of_input(&"a1".repeat(32)).await.unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(found, [made[3].clone(), made[2].clone(), made[0].clone()]);
        assert_eq!(store.jobs_of_input("unknown").await.unwrap(), []);
    }

    async fn rounds_count_on_where_the_pools_batches_stopped(store: Fixture) {
        let first = store.driven("letters", 2).await;
        store.opened(&first, 1).await;
        for round in 2..=3 {
            store.close_round(&first.id, first.epoch, round - 1, at(3)).await.unwrap();
            store.open_round(&first.id, first.epoch, round, at(3)).await.unwrap();
        }
        store.opened(&first, 1).await;
        store.step(&first, JobState::Running, JobEvent::Cancelled).await.unwrap();
        let next = store.created(&store.new_job("letters")).await;
        let row = store.job(&next.id).await.unwrap().unwrap();
        assert_eq!((row.round, row.first_round), (3, 4));
    }

    async fn a_word_that_the_model_does_not_know_is_corrupt_and_names_the_job(store: Fixture) {
        let driven = store.created(&store.new_job("letters")).await;
        store.raw.exec("UPDATE jobs SET scope = '{}'").await;
        for error in [store.job(&driven.id).await.unwrap_err(), store.live_jobs().await.unwrap_err()] {
            assert_eq!(error.class(), Class::Corrupt);
            assert!(error.to_string().contains(driven.id.as_str()), "{error}");
        }
    }
}

/// The moves from `created` to a state.
fn path_to(state: JobState) -> Vec<(JobState, JobEvent)> {
    use JobState::{Created, Finishing, Running};
    match state {
        JobState::Created => vec![],
        JobState::Running => vec![(Created, JobEvent::Started)],
        JobState::Suspended => vec![(Created, JobEvent::Started), (Running, JobEvent::Suspended)],
        JobState::Finishing => vec![(Created, JobEvent::Started), (Running, JobEvent::Stopping)],
        JobState::Finished => {
            vec![(Created, JobEvent::Started), (Running, JobEvent::Stopping), (Finishing, JobEvent::Finished)]
        }
        JobState::Cancelled => vec![(Created, JobEvent::Cancelled)],
        JobState::Failed => vec![(Created, JobEvent::Failed)],
    }
}

async fn in_state(store: &Fixture, state: JobState) -> Driven {
    let driven = store.created(&store.new_job(&format!("pool {}", store.ulid()))).await;
    for (from, event) in path_to(state) {
        store.step(&driven, from, event).await.expect("the path is legal");
    }
    driven
}

fn all_events() -> Vec<JobEvent> {
    let mut events: Vec<JobEvent> = Vec::new();
    for (_, event, _) in job::EDGES {
        if !events.contains(event) {
            events.push(*event);
        }
    }
    events
}

async fn events(store: &Fixture, job: &JobId) -> Vec<String> {
    let sql = format!("SELECT event FROM job_events WHERE job_id = '{job}' ORDER BY seq");
    store.raw.rows(&sql).await.into_iter().flatten().flatten().collect()
}
