//! Taking runs in: durable all of them or none, answered in order, once per idempotency key.

use crate::fixture::{Fixture, at};
use crate::sent::{DAY, ENV, OTHER_ENV, QUEUE, ids, keyed, verdict};
use std::collections::BTreeSet;
use storage::model::{Basin, Lane, RunId, RunState, Source, TraceParent};
use storage::store::{Accepted, Ending, Idempotency, NewRecord};
use storage::{Class, StoreError};

/// Names that somebody will use, each a different one.
const ODD_NAMES: &[&str] = &[
    "a",
    "a:b",
    "a:",
    ":a",
    ":",
    "a/b",
    "a|b",
    "a b",
    " a",
    "a ",
    "A",
    "ä",
    "a\u{301}",
    "'; DROP TABLE runs; --",
    "\"",
    "\\",
    "%",
    "_",
    "\n",
    "\t",
    "0",
    "NULL",
    "🦀",
    "",
];

on_both! {
    async fn s004_a1_an_accepted_run_is_held_and_its_env_is_listed(store: Fixture) {
        let direct = store.sent(store.record(ENV)).await;
        assert_eq!(store.places(&direct).await, ["ready"]);
        assert_eq!(store.ready_basins(None, "", 9).await.unwrap(), [Basin::own(ENV)]);
        let held = store.sent(NewRecord { buffered: true, ..store.record(OTHER_ENV) }).await;
        assert_eq!(store.places(&held).await, ["buffer"]);
        assert_eq!(store.buffer_envs("", 9).await.unwrap(), [OTHER_ENV]);
    }

    /// What a free worker is given at the door is leased like any other, and can be ended like any other.
    async fn a_run_that_is_leased_at_the_door_is_in_the_hands_of_its_node(store: Fixture) {
        let plain = || NewRecord { leased: true, ..store.record(ENV) };
        let with_key = || NewRecord { idempotency: keyed(&store, "k", "same"), ..plain() };
        for record in [plain(), with_key()] {
            store.accept(std::slice::from_ref(&record)).await.unwrap();
            assert_eq!(store.places(&record.id).await, ["leases"]);
            let own = store.own_leases(at(1), 99).await.unwrap();
            let lease = record.lease();
            assert!(own.contains(&(ENV.to_owned(), lease.run.clone(), lease.epoch)), "{own:?}");
            let read = store.run_record(ENV, &record.id).await.unwrap().unwrap();
            assert_eq!((read.state, read.attempts, read.epoch), (RunState::Running, 1, lease.epoch));
        }
        assert_eq!(store.accept(&[with_key()]).await.unwrap().len(), 1, "a key that is held leases nothing");
        assert_eq!(store.own_leases(at(1), 99).await.unwrap().len(), 2);
    }

    async fn everything_that_was_asked_for_is_kept(store: Fixture) {
        let (first, run) = (store.sent(store.record(ENV)).await, store.run_id());
        let record = NewRecord {
            id: run.clone(),
            lane: Lane::new("bulk", "user:7"),
            priority: 9,
            tags: "[\"a\", \"b\"]".to_owned(),
            metadata: "{\"k\": 1}".to_owned(),
            source: Source::Backfill,
            session_id: Some("ses_1".to_owned()),
            replay_of: Some(first.clone()),
            max_attempts: 7,
            max_duration_ms: 60_000,
            accepted_at: at(5),
            not_before: Some(at(50)),
            expires_at: Some(at(90)),
            idempotency: keyed(&store, "k", "f"),
            trace: Some(TraceParent::begin(7, 9)),
            ..store.record(ENV)
        };
        store.sent(record.clone()).await;
        let found = store.stands(&run).await;
        assert_eq!((found.queue.as_str(), found.concurrency_key.as_str(), found.lane()), ("bulk", "user:7", record.lane));
        assert_eq!((found.task, found.payload, found.tags), (record.task, record.payload, record.tags));
        assert_eq!((found.metadata, found.source.as_str(), found.priority), (record.metadata, "backfill", 9));
        assert_eq!((found.session_id.as_deref(), found.replay_of), (Some("ses_1"), Some(first)));
        assert_eq!((found.max_attempts, found.max_duration_ms, found.version), (7, 60_000, 1));
        assert_eq!((found.accepted_at, found.not_before, found.expires_at), (at(5), Some(at(50)), Some(at(90))));
        assert_eq!((found.idempotency_key.as_deref(), found.state), (Some("k"), RunState::Delayed));
        assert_eq!((found.attempts, found.epoch.number(), found.started_at, found.holder), (0, 0, None, None));
        assert_eq!((found.code, found.reason, found.output, found.finished_at), (None, None, None, None));
        assert_eq!(found.trace, record.trace);
        let queued = NewRecord { id: store.run_id(), not_before: None, ..store.record(ENV) };
        assert_eq!(store.stands(&store.sent(queued).await).await.not_before, None);
    }

    async fn s004_a2_a_run_id_that_is_there_is_refused_and_nothing_is_overwritten(store: Fixture) {
        for buffered in [false, true] {
            let first = NewRecord { buffered, ..store.record(ENV) };
            store.take_in(std::slice::from_ref(&first)).await;
            let before = store.snapshot().await;
            for again in [false, true] {
                let twin = NewRecord { buffered: again, payload: "\"other\"".to_owned(), ..first.clone() };
                let refusal = store.accept(&[store.record(ENV), twin]).await.unwrap_err();
                assert_eq!(refusal.class(), Class::Conflict, "{refusal}");
                before.assert_same(&store.snapshot().await, "a second run of one id");
            }
        }
    }

    async fn s004_a3_a_run_id_is_refused_while_it_is_carried_out_and_after_it_has_ended(store: Fixture) {
        let record = store.record(ENV);
        let leased = store.leased(record.clone()).await;
        let before = store.snapshot().await;
        assert_eq!(store.accept(std::slice::from_ref(&record)).await.unwrap_err().class(), Class::Conflict);
        before.assert_same(&store.snapshot().await, "while it is carried out");
        for ending in [Ending::Lost, Ending::Succeeded] {
            let leased = if ending == Ending::Lost { leased.clone() } else { store.lease_again(&leased.basin, &leased.lane).await };
            store.settle_one(&leased, ending).await;
            let before = store.snapshot().await;
            assert_eq!(store.accept(std::slice::from_ref(&record)).await.unwrap_err().class(), Class::Conflict);
            before.assert_same(&store.snapshot().await, "after it was given back, and after it has ended");
        }
    }

    async fn s004_a5_without_a_time_to_live_a_run_waits_for_ever(store: Fixture) {
        let direct = store.sent(store.record(ENV)).await;
        let held = store.sent(NewRecord { buffered: true, ..store.record(ENV) }).await;
        let century = at(0) + DAY * 36_525;
        assert_eq!(store.expire_runs(century, 99).await.unwrap(), 0);
        assert_eq!((store.places(&direct).await, store.places(&held).await), (vec!["ready"], vec!["buffer"]));
        store.let_through(ENV, i64::MIN, 9).await.unwrap();
        assert_eq!(store.expire_runs(century, 99).await.unwrap(), 0);
    }

    async fn s004_a10_a_payload_is_kept_byte_for_byte(store: Fixture) {
        let long = format!("[{}1]", "1,".repeat(200_000));
        for payload in [
            "{\"a\":\"quote \\\" slash \\\\ control \\u0000\\u001f\\n\"}",
            "{\"unicode\":\"żółć 🦀 \u{2028} \u{feff} e\u{301}\"}",
            "{ \"n\" : 123456789012345678901234567890.000, \"e\": 1e400, \"z\": -0 }",
            "{\"a\":1,\"a\":2}",
            "  \"\"  ",
            "null",
            "[]",
            &long,
        ] {
            for buffered in [false, true] {
                let record = NewRecord { payload: payload.to_owned(), buffered, ..store.record(ENV) };
                let run = store.sent(record).await;
                assert_eq!(store.stands(&run).await.payload, payload);
                let briefs = store.briefs(&[(ENV, &run)]).await.unwrap();
                assert_eq!(briefs[&run].payload, payload);
            }
        }
    }

    async fn a_call_is_all_or_nothing_however_many_runs_it_brings(store: Fixture) {
        let mut records = store.records(ENV, 1_200);
        records[700].idempotency = keyed(&store, "k", "f");
        records[1_199].id = records[0].id.clone();
        let before = store.snapshot().await;
        let refusal = store.accept(&records).await.unwrap_err();
        assert_eq!(refusal.class(), Class::Conflict, "{refusal}");
        before.assert_same(&store.snapshot().await, "a call that was refused");
        records[1_199].id = store.run_id();
        records[1_199].max_attempts = 0;
        store.accept(&records).await.unwrap_err();
        before.assert_same(&store.snapshot().await, "a call that was refused");
    }

    async fn answers_come_in_the_order_of_the_runs_however_many_they_are(store: Fixture) {
        let old = NewRecord { idempotency: keyed(&store, "old", "f"), ..store.record(ENV) };
        store.take_in(std::slice::from_ref(&old)).await;
        let mut records = store.records(ENV, 1_100);
        for (nth, record) in records.iter_mut().enumerate() {
            record.idempotency = match nth % 4 {
                0 => None,
                1 => keyed(&store, "old", "f"),
                2 => keyed(&store, &format!("new {}", nth % 8), "f"),
                _ => keyed(&store, "old", "another"),
            };
        }
        let answers = store.accept(&records).await.unwrap();
        for (nth, answer) in answers.iter().enumerate() {
            match (nth % 4, answer) {
                (0, Accepted::New) => {}
                (1, Accepted::Replayed { run, .. }) | (3, Accepted::Mismatch { run }) => assert_eq!(*run, old.id),
                (2, Accepted::New) => assert!(nth < 8, "only the first of a key is new"),
                (2, Accepted::Replayed { run, .. }) => assert_eq!(*run, records[if nth % 8 == 2 { 2 } else { 6 }].id),
                other => panic!("{nth}: {other:?}"),
            }
        }
        assert_eq!((answers.len(), store.raw.number("SELECT COUNT(*) FROM run_records").await), (1_100, 1 + 275 + 2));
    }

    async fn nothing_is_written_for_no_runs(store: Fixture) {
        let before = store.snapshot().await;
        assert_eq!(store.accept(&[]).await.unwrap(), []);
        before.assert_same(&store.snapshot().await, "an empty call");
    }

    async fn s004_i1_a_key_is_kept_with_its_run_its_answer_and_its_end(store: Fixture) {
        for buffered in [false, true] {
            let env = if buffered { OTHER_ENV } else { ENV };
            let record = NewRecord { buffered, idempotency: keyed(&store, "k", "f"), ..store.record(env) };
            let own = record.idempotency.clone().unwrap();
            let run = store.sent(record).await;
            let sql = format!("SELECT key, run_id, fingerprint, answer, expires_at FROM idempotency WHERE env = '{env}'");
            let expected = [own.key, run.to_string(), own.fingerprint, own.answer, own.expires_at.millis().to_string()];
            assert_eq!(store.raw.rows(&sql).await, [expected.map(Some).to_vec()]);
        }
    }

    async fn s004_i2_the_same_request_again_is_answered_as_the_first(store: Fixture) {
        let first = NewRecord { idempotency: keyed(&store, "k", "f"), ..store.record(ENV) };
        assert_eq!(store.accept(std::slice::from_ref(&first)).await.unwrap(), [Accepted::New]);
        let before = store.snapshot().await;
        for buffered in [false, true] {
            let mut again = NewRecord { buffered, idempotency: keyed(&store, "k", "f"), ..store.record(ENV) };
            again.idempotency.as_mut().unwrap().answer = "another answer".to_owned();
            let answer = first.idempotency.as_ref().unwrap().answer.clone();
            assert_eq!(store.accept(&[again]).await.unwrap(), [Accepted::Replayed { run: first.id.clone(), answer }]);
        }
        let other = NewRecord { idempotency: keyed(&store, "k", "g"), ..store.record(ENV) };
        assert_eq!(store.accept(&[other]).await.unwrap(), [Accepted::Mismatch { run: first.id }]);
        before.assert_same(&store.snapshot().await, "a key that is held");
    }

    async fn s004_i3_a_key_is_held_while_its_run_is_buffered_and_ever_after(store: Fixture) {
        let first = NewRecord { buffered: true, idempotency: keyed(&store, "k", "f"), ..store.record(ENV) };
        let run = store.sent(first).await;
        store.let_through(ENV, i64::MIN, 9).await.unwrap();
        let again = async || {
            let record = NewRecord { idempotency: keyed(&store, "k", "f"), ..store.record(ENV) };
            match store.accept(&[record]).await.unwrap().remove(0) {
                Accepted::Replayed { run: found, .. } => assert_eq!(found, run),
                other => panic!("{other:?}"),
            }
        };
        again().await;
        let leased = store.lease_again(&Basin::own(ENV), &Lane::new(QUEUE, "")).await;
        again().await;
        store.settle_runs(&[verdict(&leased, Ending::Succeeded)], at(20)).await.unwrap();
        again().await;
    }

    async fn a_key_that_is_taken_twice_in_one_call_counts_for_the_first(store: Fixture) {
        let with = |key: &str, fingerprint: &str| NewRecord {
            idempotency: keyed(&store, key, fingerprint),
            ..store.record(ENV)
        };
        let records = [with("k", "f"), with("k", "f"), with("k", "g"), with("l", "g"), with("k", "f")];
        let answers = store.accept(&records).await.unwrap();
        let first = records[0].id.clone();
        let replayed =
            Accepted::Replayed { run: first.clone(), answer: records[0].idempotency.clone().unwrap().answer };
        let mismatch = Accepted::Mismatch { run: first };
        assert_eq!(answers, [Accepted::New, replayed.clone(), mismatch, Accepted::New, replayed]);
        assert_eq!(written(&store).await, [&records[0].id, &records[3].id].map(RunId::to_string).into());
    }

    async fn s004_i5_a_key_is_free_again_once_its_time_is_over(store: Fixture) {
        let until = |millis: i64| Some(Idempotency { expires_at: at(millis), ..keyed(&store, "k", "f").unwrap() });
        // The tests' time line lies before the store's own present: these have expired as soon as they are written.
        let first = store.sent(NewRecord { idempotency: until(1), ..store.record(ENV) }).await;
        let second = NewRecord { idempotency: until(2), ..store.record(ENV) };
        assert_eq!(store.accept(std::slice::from_ref(&second)).await.unwrap(), [Accepted::New]);
        let third = NewRecord { idempotency: keyed(&store, "k", "other"), ..store.record(ENV) };
        assert_eq!(store.accept(std::slice::from_ref(&third)).await.unwrap(), [Accepted::New]);
        let again = NewRecord { idempotency: keyed(&store, "k", "other"), ..store.record(ENV) };
        let answer = third.idempotency.clone().unwrap().answer;
        assert_eq!(store.accept(&[again]).await.unwrap(), [Accepted::Replayed { run: third.id.clone(), answer }]);
        assert_eq!(written(&store).await, [first, second.id, third.id].map(|run| run.to_string()).into());
    }

    async fn s004_i8_keys_with_separators_and_odd_characters_never_alias(store: Fixture) {
        let envs = ["a:b", "a", "b", ENV, OTHER_ENV];
        let mut records = Vec::new();
        for env in envs {
            for name in ODD_NAMES {
                records.push(NewRecord { idempotency: keyed(&store, name, "f"), ..store.record(env) });
            }
        }
        store.take_in(&records).await;
        for record in &records {
            let again = NewRecord { id: store.run_id(), ..record.clone() };
            match store.accept(&[again]).await.unwrap().remove(0) {
                Accepted::Replayed { run, .. } => assert_eq!(run, record.id, "{:?} of {}", record.idempotency, record.env),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Of another env nothing is told, not even that its key is the same.
    async fn a_key_of_one_env_is_free_in_another(store: Fixture) {
        for env in [ENV, OTHER_ENV] {
            let record = NewRecord { idempotency: keyed(&store, "k", "f"), ..store.record(env) };
            assert_eq!(store.accept(&[record]).await.unwrap(), [Accepted::New], "in {env}");
        }
    }

    async fn s004_c12_of_many_callers_with_one_key_exactly_one_makes_a_run(store: Fixture) {
        let callers = store.callers(100).await;
        let racing: Vec<_> = callers.into_iter().enumerate().map(|(nth, caller)| {
            let fingerprint = if nth % 10 == 9 { "g" } else { "f" };
            let record = NewRecord {
                buffered: nth % 3 == 0,
                idempotency: keyed(&caller, "k", fingerprint),
                ..store.record(ENV)
            };
            tokio::spawn(async move { (record.id.clone(), fingerprint, caller.accept(&[record]).await) })
        }).collect();
        let mut answers = Vec::new();
        for caller in racing {
            let (run, fingerprint, answer) = caller.await.unwrap();
            answers.push((run, fingerprint, answer.expect("it is answered").remove(0)));
        }
        let winners: Vec<_> = answers.iter().filter(|(_, _, answer)| *answer == Accepted::New).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let (won, with, _) = winners[0].clone();
        for (run, fingerprint, answer) in answers.iter().filter(|(run, _, _)| *run != won) {
            match answer {
                Accepted::Replayed { run, .. } => assert_eq!((run, fingerprint), (&won, &with)),
                Accepted::Mismatch { run } => assert!(*run == won && *fingerprint != with),
                Accepted::New => panic!("{run} was made too"),
            }
        }
        assert_eq!(written(&store).await, [won.to_string()].into());
    }

    async fn callers_with_the_same_keys_in_another_order_all_get_their_answers(store: Fixture) {
        let callers = store.callers(8).await;
        let racing: Vec<_> = callers.into_iter().enumerate().map(|(nth, caller)| {
            let key = |step: usize| if nth % 2 == 0 { step } else { 59 - step };
            let records: Vec<_> = (0..60).map(|step| NewRecord {
                idempotency: keyed(&caller, &format!("key {}", key(step)), "f"),
                ..store.record(ENV)
            }).collect();
            tokio::spawn(async move { (ids(&records), caller.accept(&records).await) })
        }).collect();
        let mut made = BTreeSet::new();
        for caller in racing {
            let (runs, answers) = caller.await.unwrap();
            let answers = answers.expect("nobody waits in a circle");
            let new = runs.into_iter().zip(answers).filter(|(_, answer)| *answer == Accepted::New);
            made.extend(new.map(|(run, _)| run.to_string()));
        }
        assert_eq!(made.len(), 60);
        assert_eq!(written(&store).await, made);
    }

    async fn text_that_one_database_cannot_hold_is_refused_by_both(store: Fixture) {
        let before = store.snapshot().await;
        let plain = store.record(ENV);
        let nul = |text: &str| format!("{text}\0");
        let bad = [
            NewRecord { task: nul("t"), ..plain.clone() },
            NewRecord { lane: Lane::new(&nul("q"), ""), ..plain.clone() },
            NewRecord { lane: Lane::new("q", &nul("k")), ..plain.clone() },
            NewRecord { payload: nul("{}"), ..plain.clone() },
            NewRecord { tags: nul("[]"), ..plain.clone() },
            NewRecord { metadata: nul("{}"), ..plain.clone() },
            NewRecord { session_id: Some(nul("s")), ..plain.clone() },
            NewRecord { idempotency: keyed(&store, &nul("k"), "f"), ..plain.clone() },
        ];
        for record in bad {
            let refusal = store.accept(&[store.record(ENV), record]).await.unwrap_err();
            assert!(matches!(refusal, StoreError::NulInText { entity: "run", .. }), "{refusal:?}");
        }
        before.assert_same(&store.snapshot().await, "runs with a NUL");
    }

    async fn numbers_at_their_limits_are_taken_and_lead_nowhere_odd(store: Fixture) {
        for priority in [i64::MAX, i64::MIN] {
            let run = store.sent(NewRecord { priority, ..store.record(ENV) }).await;
            assert_eq!(store.stands(&run).await.priority, priority);
        }
        let long = NewRecord { max_attempts: i64::MAX, max_duration_ms: i64::MAX, ..store.record(ENV) };
        store.sent(long).await;
        let early = storage::model::Timestamp::from_millis(-1);
        let run = store.sent(NewRecord { not_before: Some(early), ..store.record(ENV) }).await;
        assert_eq!(store.stands(&run).await.state, RunState::Queued, "a time before all times has come already");
    }

    async fn s003_j8_what_was_accepted_waits_once_in_its_place_after_a_restart(store: Fixture) {
        let direct = store.sent(NewRecord { idempotency: keyed(&store, "k", "f"), ..store.record(ENV) }).await;
        let held = store.sent(NewRecord { buffered: true, ..store.record(ENV) }).await;
        let before = [store.stands(&direct).await, store.stands(&held).await];
        let store = store.restarted().await;
        assert_eq!([store.stands(&direct).await, store.stands(&held).await], before);
        assert_eq!((store.places(&direct).await, store.places(&held).await), (vec!["ready"], vec!["buffer"]));
        let again = NewRecord { idempotency: keyed(&store, "k", "f"), ..store.record(ENV) };
        assert!(matches!(store.accept(&[again]).await.unwrap()[0], Accepted::Replayed { .. }));
    }
}

async fn written(store: &Fixture) -> BTreeSet<String> {
    let rows = store.raw.rows("SELECT id FROM run_records").await;
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}
