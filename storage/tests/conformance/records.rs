//! Reading runs: one by one as they stand, and in lists that are complete, in order, and an env's own.

use crate::fixture::{Fixture, at};
use crate::sent::{ENV, OTHER_ENV, TRIES, ids};
use std::collections::BTreeSet;
use storage::model::{Lane, RunId, RunState, Source};
use storage::store::{Ending, NewRecord, RunFilter};

fn tagged(tag: &str) -> RunFilter {
    RunFilter { tag: Some(tag.to_owned()), ..RunFilter::default() }
}

fn in_state(state: RunState) -> RunFilter {
    RunFilter { state: Some(state), ..RunFilter::default() }
}

on_both! {
    async fn another_envs_run_and_an_unknown_one_look_the_same(store: Fixture) {
        for (run, _) in one_in_each_state(&store, ENV).await {
            assert!(store.run_record(ENV, &run).await.unwrap().is_some());
            for env in [OTHER_ENV, "", "acme", "ACME/PROD", "%"] {
                assert_eq!(store.run_record(env, &run).await.unwrap(), None);
            }
        }
        assert_eq!(store.run_record(ENV, &RunId::from_text("run_none")).await.unwrap(), None);
    }

    async fn runs_are_listed_by_the_state_they_read(store: Fixture) {
        let made = one_in_each_state(&store, ENV).await;
        one_in_each_state(&store, OTHER_ENV).await;
        let states: BTreeSet<_> = made.iter().map(|(_, state)| *state).collect();
        assert_eq!(states.len(), RunState::ALL.len(), "there is one in every state");
        for state in RunState::ALL {
            let listed = store.list_runs(ENV, &in_state(*state), None, 99).await.unwrap();
            let mut expected: Vec<_> =
                made.iter().filter(|(_, of)| of == state).map(|(run, _)| run.clone()).collect();
            expected.sort_by(|a, b| b.cmp(a));
            assert_eq!(listed.iter().map(|read| &read.id).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
            for read in listed {
                assert_eq!(read.state, *state);
                assert_eq!(store.stands(&read.id).await, read, "a list tells what the run itself tells");
            }
        }
        let all = listed(&store, &RunFilter::default()).await;
        let mut expected: Vec<_> = made.into_iter().map(|(run, _)| run).collect();
        expected.sort_by(|a, b| b.cmp(a));
        assert_eq!(all, expected);
    }

    async fn filters_are_met_one_by_one_and_together_in_every_state(store: Fixture) {
        let plain = store.record(ENV);
        let special = NewRecord {
            task: "special".to_owned(),
            lane: Lane::new("express", "k"),
            tags: "[\"x\", \"y\"]".to_owned(),
            source: Source::Backfill,
            session_id: Some("ses_x".to_owned()),
            accepted_at: at(500),
            ..plain.clone()
        };
        for buffered in [false, true] {
            store.sent(NewRecord { id: store.run_id(), buffered, ..plain.clone() }).await;
            let run = store.sent(NewRecord { id: store.run_id(), buffered, ..special.clone() }).await;
            let state = if buffered { RunState::Buffered } else { RunState::Queued };
            let filters = [
                RunFilter { task: Some("special".to_owned()), ..in_state(state) },
                RunFilter { queue: Some("express".to_owned()), ..in_state(state) },
                RunFilter { tag: Some("x".to_owned()), ..in_state(state) },
                RunFilter { tag: Some("y".to_owned()), ..in_state(state) },
                RunFilter { source: Some("backfill".to_owned()), ..in_state(state) },
                RunFilter { session: Some("ses_x".to_owned()), ..in_state(state) },
                RunFilter { accepted_after: Some(at(500)), ..in_state(state) },
                RunFilter { accepted_after: Some(at(1)), accepted_before: Some(at(501)), ..in_state(state) },
                RunFilter {
                    state: Some(state),
                    task: Some("special".to_owned()),
                    queue: Some("express".to_owned()),
                    tag: Some("x".to_owned()),
                    source: Some("backfill".to_owned()),
                    session: Some("ses_x".to_owned()),
                    accepted_after: Some(at(500)),
                    accepted_before: Some(at(501)),
                },
            ];
            for filter in &filters {
                assert_eq!(listed(&store, filter).await, std::slice::from_ref(&run), "{filter:?}");
                let anywhere = RunFilter { state: None, ..filter.clone() };
                assert!(listed(&store, &anywhere).await.contains(&run), "{anywhere:?}");
            }
            let none = [
                RunFilter { accepted_after: Some(at(501)), ..in_state(state) },
                RunFilter { accepted_before: Some(at(0)), ..in_state(state) },
                RunFilter { task: Some("Special".to_owned()), ..in_state(state) },
                RunFilter { queue: Some("express\u{1f}k".to_owned()), ..in_state(state) },
                RunFilter { task: Some("special".to_owned()), queue: Some("mail".to_owned()), ..in_state(state) },
            ];
            for filter in &none {
                assert_eq!(listed(&store, filter).await, Vec::<RunId>::new(), "{filter:?}");
            }
        }
    }

    async fn tags_are_met_as_they_are_written_and_no_wildcard_counts(store: Fixture) {
        let names = ["a", "A", "aa", "a%", "%", "_", "a_", "a\"b", "b", "\\", "a\\", "a,b", ",", "x,", "[", "ä", "🦀", "\n", "'"];
        let mut runs = Vec::new();
        for name in names {
            let tags = serde_json::to_string(&[name]).unwrap();
            runs.push(store.sent(NewRecord { tags, ..store.record(ENV) }).await);
        }
        for (name, run) in names.iter().zip(&runs) {
            assert_eq!(listed(&store, &tagged(name)).await, std::slice::from_ref(run), "{name:?}");
        }
        let many = store.sent(NewRecord { tags: "[ \"one\" , \"tw\\u006f\",\"x,\",\"y\"]".to_owned(), ..store.record(ENV) }).await;
        for name in ["one", "two", "y"] {
            assert_eq!(listed(&store, &tagged(name)).await, std::slice::from_ref(&many), "{name:?}");
        }
        for name in ["", "on", "tw", "one\",\"two", "ONE", "%one%", "[]", "c", ",\",\""] {
            assert_eq!(listed(&store, &tagged(name)).await, Vec::<RunId>::new(), "{name:?}");
        }
        store.sent(store.record(ENV)).await;
        store.sent(NewRecord { tags: "[\"nul \\u0000\"]".to_owned(), ..store.record(ENV) }).await;
        assert_eq!(listed(&store, &tagged(",")).await.len(), 1, "a comma between two tags is none");
    }

    async fn pages_have_no_holes_and_no_repeats(store: Fixture) {
        let mut records = store.records(ENV, 60);
        for (nth, record) in records.iter_mut().enumerate() {
            record.buffered = nth % 3 == 0;
            record.not_before = (nth % 3 == 1).then(|| at(99));
            record.tags = if nth % 2 == 0 { "[\"even\"]".to_owned() } else { "[]".to_owned() };
            // The ids decide, whatever the accept times say.
            record.accepted_at = at(i64::try_from(nth * 37 % 60).unwrap());
        }
        store.take_in(&records).await;
        let cancelled: Vec<_> = ids(&records).into_iter().step_by(5).collect();
        for run in &cancelled {
            store.cancel_run(ENV, run, at(90)).await.unwrap();
        }
        for state in [None, Some(RunState::Buffered), Some(RunState::Delayed), Some(RunState::Queued), Some(RunState::Cancelled)] {
            for tag in [None, Some("even".to_owned())] {
                let filter = RunFilter { state, tag, ..RunFilter::default() };
                let all = listed(&store, &filter).await;
                assert!(all.len() > 4 && all.is_sorted_by(|a, b| a > b), "{filter:?}: {all:?}");
                let (mut before, mut paged) = (None::<RunId>, Vec::new());
                loop {
                    let page = store.list_runs(ENV, &filter, before.as_ref().map(RunId::as_str), 4).await.unwrap();
                    assert!(page.len() <= 4);
                    let Some(last) = page.last() else { break };
                    before = Some(last.id.clone());
                    paged.extend(page.into_iter().map(|read| read.id));
                }
                assert_eq!(paged, all, "{filter:?}");
            }
        }
        assert_eq!(listed(&store, &in_state(RunState::Cancelled)).await.len(), cancelled.len());
    }

    async fn a_run_that_moves_between_pages_is_in_one_list_at_a_time(store: Fixture) {
        let records = store.buffered(ENV, 20);
        store.take_in(&records).await;
        let first = store.list_runs(ENV, &RunFilter::default(), None, 10).await.unwrap();
        store.let_through(ENV, i64::MIN, 20).await.unwrap();
        let rest = store.list_runs(ENV, &RunFilter::default(), Some(first[9].id.as_str()), 99).await.unwrap();
        let found: Vec<_> = first.iter().chain(&rest).map(|read| read.id.clone()).rev().collect();
        assert_eq!(found, ids(&records));
        assert_eq!(listed(&store, &in_state(RunState::Buffered)).await, Vec::<RunId>::new());
    }

    /// A reader that meets a run between two places would have to call the store corrupt.
    async fn a_run_is_seen_in_one_state_at_any_time_while_it_moves(store: Fixture) {
        let run = store.sent(NewRecord { buffered: true, max_attempts: 99, ..store.record(ENV) }).await;
        let callers = store.callers(2).await;
        let (mover, at_work) = (callers[1].clone(), run.clone());
        let moves = tokio::spawn(async move {
            mover.let_through(ENV, i64::MIN, 1).await.unwrap();
            for _ in 0..60 {
                let shares = [crate::sent::share(ENV, crate::sent::QUEUE, 1)];
                let leased = mover.claim_ready(&shares, &[], storage::store::Taker::Node, at(30)).await.unwrap();
                mover.settle_runs(&[crate::sent::verdict(&leased[0], Ending::Lost)], at(40)).await.unwrap();
            }
            mover.cancel_run(ENV, &at_work, at(50)).await.unwrap();
        });
        let mut seen = BTreeSet::new();
        loop {
            let read = store.stands(&run).await;
            let rows = store.list_runs(ENV, &RunFilter::default(), None, 9).await.expect("it is somewhere");
            assert_eq!(rows.len(), 1);
            seen.insert(read.state);
            if read.state == RunState::Cancelled {
                break;
            }
        }
        moves.await.unwrap();
        assert!(seen.len() > 1, "{seen:?}");
    }

    async fn lists_of_an_env_without_runs_are_empty(store: Fixture) {
        store.sent(store.record(ENV)).await;
        for state in RunState::ALL {
            assert_eq!(store.list_runs("acme/none", &in_state(*state), None, 9).await.unwrap(), []);
        }
        assert_eq!(store.list_runs("acme/none", &RunFilter::default(), None, 9).await.unwrap(), []);
        assert_eq!(store.list_runs(ENV, &RunFilter::default(), None, 0).await.unwrap(), []);
    }
}

async fn listed(store: &Fixture, filter: &RunFilter) -> Vec<RunId> {
    let rows = store.list_runs(ENV, filter, None, 999).await.expect("they are listed");
    rows.into_iter().map(|read| read.id).collect()
}

/// A run in every state there is, and those that are tried again.
async fn one_in_each_state(store: &Fixture, env: &str) -> Vec<(RunId, RunState)> {
    let record = || store.record(env);
    let mut made = vec![
        (store.sent(NewRecord { expires_at: Some(at(1)), ..record() }).await, RunState::Expired),
        (store.sent(NewRecord { expires_at: Some(at(1)), buffered: true, ..record() }).await, RunState::Expired),
    ];
    store.expire_runs(at(1), 9).await.expect("they expire");
    made.push((store.sent(record()).await, RunState::Queued));
    made.push((store.sent(NewRecord { not_before: Some(at(99)), ..record() }).await, RunState::Delayed));
    made.push((store.sent(NewRecord { buffered: true, ..record() }).await, RunState::Buffered));
    made.push((store.leased(record()).await.run, RunState::Running));
    let waits = store.sent(record()).await;
    store.cancel_run(env, &waits, at(5)).await.expect("it is cancelled");
    made.push((waits, RunState::Cancelled));
    for (ending, state) in [
        (Ending::Succeeded, RunState::Succeeded),
        (Ending::Failed, RunState::Failed),
        (Ending::TimedOut, RunState::TimedOut),
        (Ending::Cancelled, RunState::Cancelled),
        (Ending::Lost, RunState::Queued),
        (Ending::Retry(at(99)), RunState::Queued),
    ] {
        let lease = store.leased(NewRecord { max_attempts: TRIES, ..record() }).await;
        store.settle_one(&lease, ending).await;
        made.push((lease.run, state));
    }
    made
}
