//! Changing a run: what its owner may still change, version by version.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV, QUEUE, runs_of, share};
use storage::model::{RunId, RunState, Timestamp};
use storage::store::{Ending, NewRecord, Patch, Patched, Taker};

fn tags(text: &str) -> Patch {
    Patch { tags: Some(text.to_owned()), ..Patch::default() }
}

fn metadata(text: &str) -> Patch {
    Patch { metadata: Some(text.to_owned()), ..Patch::default() }
}

fn priority(seconds: i64) -> Patch {
    Patch { priority: Some(seconds), ..Patch::default() }
}

fn not_before(time: Timestamp) -> Patch {
    Patch { not_before: Some(time), ..Patch::default() }
}

const TWO: Patched = Patched::Done { version: 2 };

on_both! {
    async fn s004_m1_another_envs_run_or_none_is_not_found(store: Fixture) {
        let run = store.sent(NewRecord { not_before: Some(at(50)), ..store.record(ENV) }).await;
        let before = store.snapshot().await;
        for patch in [tags("[]"), metadata("{}"), priority(1), not_before(at(60))] {
            for version in [None, Some(1), Some(9)] {
                let found = store.patch_run(OTHER_ENV, &run, version, &patch).await.unwrap();
                assert_eq!(found, Patched::NotFound);
                let none = RunId::from_text("run_none");
                assert_eq!(store.patch_run(ENV, &none, version, &patch).await.unwrap(), Patched::NotFound);
            }
        }
        before.assert_same(&store.snapshot().await, "changing what is not there");
    }

    async fn s004_m2_tags_and_metadata_are_replaced_and_the_rest_left(store: Fixture) {
        for buffered in [false, true] {
            let record = NewRecord {
                tags: "[\"old\"]".to_owned(),
                metadata: "{\"old\":1}".to_owned(),
                buffered,
                ..store.record(ENV)
            };
            let run = store.sent(record).await;
            let first = store.stands(&run).await;
            assert_eq!(store.patch_run(ENV, &run, None, &tags("[\"new\", \"x\"]")).await.unwrap(), TWO);
            let read = store.stands(&run).await;
            assert_eq!((read.tags.as_str(), read.version), ("[\"new\", \"x\"]", 2));
            assert_eq!(read, storage::store::RunRecord { tags: read.tags.clone(), version: 2, ..first.clone() });
            let done = store.patch_run(ENV, &run, None, &metadata("{\"n\": 1e30}")).await.unwrap();
            assert_eq!(done, Patched::Done { version: 3 });
            let read = store.stands(&run).await;
            assert_eq!((read.metadata.as_str(), read.tags.as_str()), ("{\"n\": 1e30}", "[\"new\", \"x\"]"));
        }
    }

    async fn s004_m7_a_run_can_be_tagged_wherever_it_is_and_nothing_else_of_it_changes(store: Fixture) {
        let ended = store.leased(store.record(ENV)).await;
        store.settle_one(&ended, Ending::Failed).await;
        for run in [store.leased(store.record(ENV)).await.run, ended.run] {
            let first = store.stands(&run).await;
            assert_eq!(store.patch_run(ENV, &run, Some(1), &tags("[\"t\"]")).await.unwrap(), TWO);
            let read = store.stands(&run).await;
            assert_eq!(read, storage::store::RunRecord { tags: "[\"t\"]".to_owned(), version: 2, ..first });
        }
    }

    async fn s004_m4_the_last_write_wins_where_no_version_is_named(store: Fixture) {
        let run = store.sent(store.record(ENV)).await;
        for text in ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"] {
            store.patch_run(ENV, &run, None, &metadata(text)).await.unwrap();
        }
        let read = store.stands(&run).await;
        assert_eq!((read.metadata.as_str(), read.version), ("{\"n\":3}", 4));
    }

    async fn s004_m9_the_right_version_applies_and_a_stale_one_is_told_the_current(store: Fixture) {
        let run = store.sent(NewRecord { not_before: Some(at(50)), ..store.record(ENV) }).await;
        assert_eq!(store.patch_run(ENV, &run, Some(1), &tags("[\"a\"]")).await.unwrap(), TWO);
        let before = store.snapshot().await;
        for version in [0, 1, 3, -1] {
            for patch in [tags("[]"), priority(5), not_before(at(60))] {
                let told = store.patch_run(ENV, &run, Some(version), &patch).await.unwrap();
                assert_eq!(told, Patched::VersionIs(2));
            }
        }
        before.assert_same(&store.snapshot().await, "changes under a stale version");
    }

    async fn s004_m11_a_change_without_a_version_makes_one_under_way_stale(store: Fixture) {
        let run = store.sent(store.record(ENV)).await;
        let read = store.stands(&run).await.version;
        store.patch_run(ENV, &run, None, &metadata("{\"by\":1}")).await.unwrap();
        let told = store.patch_run(ENV, &run, Some(read), &metadata("{\"by\":2}")).await.unwrap();
        assert_eq!(told, Patched::VersionIs(2));
        assert_eq!(store.stands(&run).await.metadata, "{\"by\":1}");
    }

    async fn s004_m8_of_many_changes_at_once_none_is_lost(store: Fixture) {
        let run = store.sent(store.record(ENV)).await;
        let racing: Vec<_> = store.callers(50).await.into_iter().enumerate().map(|(nth, caller)| {
            let run = run.clone();
            tokio::spawn(async move {
                for _ in 0..1_000 {
                    let read = caller.run_record(ENV, &run).await.unwrap().unwrap();
                    let mut list: Vec<usize> = serde_json::from_str(&read.tags).unwrap();
                    list.push(nth);
                    let patch = tags(&serde_json::to_string(&list).unwrap());
                    match caller.patch_run(ENV, &run, Some(read.version), &patch).await.expect("it answers") {
                        Patched::Done { .. } => return,
                        Patched::VersionIs(now) => assert!(now > read.version),
                        other => panic!("{other:?}"),
                    }
                }
                panic!("never applied");
            })
        }).collect();
        for caller in racing {
            caller.await.unwrap();
        }
        let read = store.stands(&run).await;
        let mut list: Vec<usize> = serde_json::from_str(&read.tags).unwrap();
        list.sort_unstable();
        assert_eq!((list, read.version), ((0..50).collect(), 51));
    }

    async fn changes_without_a_version_all_apply_whoever_else_changes(store: Fixture) {
        let run = store.sent(store.record(ENV)).await;
        let racing: Vec<_> = store.callers(20).await.into_iter().enumerate().map(|(nth, caller)| {
            let (run, seconds) = (run.clone(), i64::try_from(nth).unwrap());
            tokio::spawn(async move { caller.patch_run(ENV, &run, None, &priority(seconds)).await.expect("it answers") })
        }).collect();
        let mut versions = Vec::new();
        for caller in racing {
            let Patched::Done { version } = caller.await.unwrap() else { panic!("it was there all the time") };
            versions.push(version);
        }
        versions.sort_unstable();
        assert_eq!(versions, (2..22).collect::<Vec<_>>());
    }

    async fn s004_m5_a_delayed_run_is_moved_to_another_time(store: Fixture) {
        for buffered in [false, true] {
            let run = store.sent(NewRecord { not_before: Some(at(50)), buffered, ..store.record(ENV) }).await;
            for time in [at(90), at(60)] {
                store.patch_run(ENV, &run, None, &not_before(time)).await.unwrap();
                assert_eq!(store.stands(&run).await.not_before, Some(time));
            }
            store.let_through(ENV, i64::MIN, 9).await.unwrap();
            assert_eq!(store.come_due(at(59), 9).await.unwrap(), []);
            assert_eq!(store.come_due(at(60), 9).await.unwrap().len(), 1);
            let told = store.patch_run(ENV, &run, None, &not_before(at(99))).await.unwrap();
            assert_eq!(told, Patched::NotDelayed, "it came due");
        }
    }

    async fn a_run_moved_to_a_time_before_all_times_comes_due_at_the_next_look(store: Fixture) {
        for time in [0, -5, i64::MIN] {
            let run = store.sent(NewRecord { not_before: Some(at(50)), ..store.record(ENV) }).await;
            store.patch_run(ENV, &run, None, &not_before(Timestamp::from_millis(time))).await.unwrap();
            store.come_due(at(1), 9).await.unwrap();
            assert_eq!(store.stands(&run).await.state, RunState::Queued);
            let leased = store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(2)).await.unwrap();
            assert_eq!((runs_of(&leased), leased[0].since), (vec![run], at(0)));
        }
    }

    async fn what_is_not_delayed_is_not_rescheduled_and_keeps_the_rest_too(store: Fixture) {
        let again = store.leased(store.record(ENV)).await;
        store.settle_one(&again, Ending::Retry(at(900))).await;
        let done = store.leased(NewRecord { not_before: None, ..store.record(ENV) }).await;
        store.settle_one(&done, Ending::Succeeded).await;
        let runs = [
            store.sent(store.record(ENV)).await,
            store.sent(NewRecord { buffered: true, ..store.record(ENV) }).await,
            store.leased(store.record(ENV)).await.run,
            again.run,
            done.run,
        ];
        let before = store.snapshot().await;
        for run in runs {
            let patch = Patch { tags: Some("[\"t\"]".to_owned()), priority: Some(4), ..not_before(at(950)) };
            assert_eq!(store.patch_run(ENV, &run, None, &patch).await.unwrap(), Patched::NotDelayed, "{run}");
        }
        before.assert_same(&store.snapshot().await, "changes that were refused in one part");
    }

    async fn a_new_priority_gives_a_new_place_in_the_lane(store: Fixture) {
        for buffered in [false, true] {
            let records: Vec<_> = (0..3)
                .map(|n| NewRecord { accepted_at: at(1_000 * n), buffered, ..store.record(ENV) })
                .collect();
            store.take_in(&records).await;
            store.patch_run(ENV, &records[2].id, None, &priority(5)).await.unwrap();
            store.patch_run(ENV, &records[0].id, None, &priority(-9)).await.unwrap();
            let order = [&records[2].id, &records[1].id, &records[0].id];
            for run in order {
                if buffered {
                    assert_eq!(store.let_through(ENV, i64::MIN, 1).await.unwrap().runs, 1);
                }
                let leased = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(9_000)).await.unwrap();
                assert_eq!(runs_of(&leased), std::slice::from_ref(run));
            }
        }
    }

    async fn a_priority_that_changes_during_a_try_counts_for_the_next(store: Fixture) {
        let record = NewRecord { accepted_at: at(5_000), ..store.record(ENV) };
        store.take_in(std::slice::from_ref(&record)).await;
        let leased = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(6_000)).await.unwrap();
        store.patch_run(ENV, &record.id, None, &priority(9)).await.unwrap();
        store.sent(NewRecord { accepted_at: at(0), ..store.record(ENV) }).await;
        store.settle_one(&leased[0], Ending::Lost).await;
        let leased = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(7_000)).await.unwrap();
        assert_eq!(runs_of(&leased), [record.id]);
    }

    async fn priorities_at_their_limits_lead_nowhere_odd(store: Fixture) {
        let records = store.records(ENV, 3);
        store.take_in(&records).await;
        store.patch_run(ENV, &records[2].id, None, &priority(i64::MAX)).await.expect("it is the first");
        store.patch_run(ENV, &records[0].id, None, &priority(i64::MIN)).await.expect("it is the last");
        let leased = store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(30)).await.unwrap();
        assert_eq!(runs_of(&leased), [2, 1, 0].map(|nth: usize| records[nth].id.clone()));
    }

    async fn text_that_one_database_cannot_hold_is_refused_by_both(store: Fixture) {
        let run = store.sent(store.record(ENV)).await;
        for patch in [tags("[\"\0\"]"), metadata("{\"\0\":1}")] {
            let refusal = store.patch_run(ENV, &run, None, &patch).await.unwrap_err();
            assert!(matches!(refusal, storage::StoreError::NulInText { .. }), "{refusal:?}");
        }
        assert_eq!(store.stands(&run).await.version, 1);
    }

    /// One locks the record first and the other the place where the run waits: they must not wait in a circle.
    async fn a_change_and_a_cancel_of_one_run_at_once_both_get_their_answers(store: Fixture) {
        for _ in 0..30 {
            let run = store.sent(NewRecord { not_before: Some(at(50)), ..store.record(ENV) }).await;
            let racing: Vec<_> = store.callers(6).await.into_iter().enumerate().map(|(nth, caller)| {
                let run = run.clone();
                tokio::spawn(async move {
                    match nth {
                        0 | 3 => caller.cancel_run(ENV, &run, at(60)).await.map(|_| ()),
                        1 | 4 => caller.patch_run(ENV, &run, None, &not_before(at(90))).await.map(|_| ()),
                        _ => caller.patch_run(ENV, &run, None, &priority(5)).await.map(|_| ()),
                    }
                })
            }).collect();
            for caller in racing {
                caller.await.unwrap().expect("nobody waits in a circle");
            }
            assert_eq!(store.stands(&run).await.state, RunState::Cancelled);
        }
    }

    /// While it is let through it is in one of the two places at any time.
    async fn a_delayed_run_can_be_moved_while_it_is_let_through(store: Fixture) {
        for _ in 0..30 {
            let run = store.sent(NewRecord { buffered: true, not_before: Some(at(50)), ..store.record(ENV) }).await;
            let callers = store.callers(2).await;
            let (drainer, owner, moved) = (callers[0].clone(), callers[1].clone(), run.clone());
            let drains = tokio::spawn(async move { drainer.let_through(ENV, i64::MIN, 9).await.unwrap().runs });
            let patches = tokio::spawn(async move { owner.patch_run(ENV, &moved, None, &not_before(at(90))).await.unwrap() });
            assert_eq!(patches.await.unwrap(), TWO);
            // An entry that is just being changed is passed by; the next look finds it.
            assert_eq!(drains.await.unwrap() + store.let_through(ENV, i64::MIN, 9).await.unwrap().runs, 1);
            let due = format!("SELECT due_at FROM ready WHERE run_id = '{run}'");
            assert_eq!(store.raw.number(&due).await, at(90).millis());
        }
    }
}
