//! The buffer: entries are as real as any run, and each is let through once, in the order of its rank.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV, QUEUE, ids, share};
use std::collections::BTreeSet;
use storage::model::{Basin, Lane, RunId, RunState};
use storage::store::{BufferDepth, LaneHead, LetThrough, NewRecord, RunFilter, Taker};

on_both! {
    async fn buffered_and_direct_runs_read_alike_but_for_their_state(store: Fixture) {
        let plain = NewRecord {
            lane: Lane::new("bulk", "k"),
            priority: 3,
            tags: "[\"t\"]".to_owned(),
            not_before: Some(at(70)),
            expires_at: Some(at(90)),
            ..store.record(ENV)
        };
        let direct = store.stands(&store.sent(plain.clone()).await).await;
        let held = NewRecord { id: store.run_id(), buffered: true, ..plain.clone() };
        let held = store.sent(held).await;
        let mut buffered = store.stands(&held).await;
        assert_eq!((direct.state, buffered.state), (RunState::Delayed, RunState::Buffered));
        buffered.state = direct.state;
        buffered.id = direct.id.clone();
        assert_eq!(buffered, direct);
        let filter = RunFilter { tag: Some("t".to_owned()), queue: Some("bulk".to_owned()), ..RunFilter::default() };
        assert_eq!(store.list_runs(ENV, &filter, None, 9).await.unwrap().len(), 2, "both are listed");
    }

    async fn what_is_let_through_stands_as_if_it_had_come_directly(store: Fixture) {
        let plain = NewRecord {
            lane: Lane::new("bulk", "k"),
            priority: -4,
            max_attempts: 5,
            max_duration_ms: 600,
            accepted_at: at(3),
            not_before: Some(at(70)),
            expires_at: Some(at(90)),
            ..store.record(ENV)
        };
        let direct = store.sent(plain.clone()).await;
        let held = store.sent(NewRecord { id: store.run_id(), buffered: true, ..plain }).await;
        assert_eq!(store.let_through(ENV, i64::MIN, 9).await.unwrap().runs, 1);
        let row = async |run: &RunId| {
            let sql = format!("SELECT * FROM ready WHERE run_id = '{run}'");
            store.raw.rows(&sql).await.remove(0).split_off(1)
        };
        assert_eq!(row(&held).await, row(&direct).await);
        assert_eq!(store.stands(&held).await.state, RunState::Delayed);
    }

    /// Here the ids are in the reverse order of the accept times.
    async fn s004_a9_entries_are_let_through_in_the_order_they_were_accepted(store: Fixture) {
        let mut records = store.buffered(ENV, 20);
        records.reverse();
        for (nth, record) in records.iter_mut().enumerate() {
            record.accepted_at = at(i64::try_from(nth).unwrap());
        }
        store.take_in(&records).await;
        let mut order = Vec::new();
        while store.let_through(ENV, i64::MIN, 7).await.unwrap().runs > 0 {
            let leased = store.claim_ready(&[share(ENV, QUEUE, 99)], &[], Taker::Node, at(30)).await.unwrap();
            let mut runs: Vec<_> = leased.into_iter().map(|lease| lease.run).collect();
            runs.sort_by(|a, b| b.cmp(a));
            order.extend(runs);
        }
        assert_eq!(order, ids(&records));
    }

    async fn priority_overtakes_in_the_buffer_by_as_many_seconds(store: Fixture) {
        let early = NewRecord { buffered: true, accepted_at: at(0), ..store.record(ENV) };
        let late = NewRecord { buffered: true, accepted_at: at(1_999), priority: 2, ..store.record(ENV) };
        let later = NewRecord { buffered: true, accepted_at: at(2_001), priority: 2, ..store.record(ENV) };
        store.take_in(&[later.clone(), early.clone(), late.clone()]).await;
        for run in [&late.id, &early.id, &later.id] {
            assert_eq!(store.places(run).await, ["buffer"]);
            assert_eq!(store.let_through(ENV, i64::MIN, 1).await.unwrap().runs, 1);
            assert_eq!(store.places(run).await, ["ready"]);
        }
    }

    async fn what_is_let_through_says_where_it_waits_now_and_where_to_go_on(store: Fixture) {
        let records = store.buffered(ENV, 5);
        store.take_in(&records).await;
        let first = store.let_through(ENV, i64::MIN, 2).await.unwrap();
        let first_rank = store.raw.number("SELECT MIN(rank) FROM ready").await;
        let last_rank = store.raw.number("SELECT MAX(rank) FROM ready").await;
        let lanes: Vec<_> = first.lanes.iter().map(|head| (head.basin.env(), head.lane.queue(), head.rank)).collect();
        assert_eq!((first.runs, lanes), (2, vec![(ENV, QUEUE, first_rank)]));
        assert_eq!(first.last_rank, Some(last_rank));
        let (moved, first_two): (BTreeSet<_>, _) = (first.moved.iter().collect(), ids(&records[..2]));
        assert_eq!(moved, first_two.iter().collect());
        let beyond = store.let_through(ENV, i64::MAX, 9).await.unwrap();
        assert_eq!(beyond, LetThrough::default());
        assert_eq!(store.let_through(ENV, last_rank, 9).await.unwrap().runs, 3);
    }

    async fn what_may_start_in_a_lane_is_counted_from_a_rank_on_and_to_a_bound(store: Fixture) {
        store.take_in(&store.buffered(ENV, 5)).await;
        let moved = store.let_through(ENV, i64::MIN, 5).await.unwrap();
        let first = moved.lanes[0].clone();
        let last = LaneHead { rank: moved.last_rank.unwrap(), ..first.clone() };
        assert_eq!(store.ready_in_lane(&first, 9).await.unwrap(), 5);
        assert_eq!(store.ready_in_lane(&first, 3).await.unwrap(), 3);
        assert_eq!(store.ready_in_lane(&last, 9).await.unwrap(), 1);
        let elsewhere = LaneHead { lane: Lane::new("other", ""), ..first };
        assert_eq!(store.ready_in_lane(&elsewhere, 9).await.unwrap(), 0);
    }

    async fn s004_a7_entries_are_let_through_once_by_many_callers_at_once(store: Fixture) {
        store.take_in(&store.buffered(ENV, 400)).await;
        let racing: Vec<_> = store.callers(8).await.into_iter().map(|caller| {
            tokio::spawn(async move {
                let mut moved = 0;
                loop {
                    match caller.let_through(ENV, i64::MIN, 13).await.expect("it is let through").runs {
                        0 => return moved,
                        some => moved += some,
                    }
                }
            })
        }).collect();
        let mut moved = 0;
        for caller in racing {
            moved += caller.await.unwrap();
        }
        assert_eq!(moved, 400);
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM ready").await, 400);
    }

    async fn letting_through_an_empty_buffer_changes_nothing(store: Fixture) {
        assert_eq!(store.let_through(ENV, i64::MIN, 9).await.unwrap().runs, 0);
        store.take_in(&store.buffered(ENV, 2)).await;
        assert_eq!(store.let_through(ENV, i64::MIN, 9).await.unwrap().runs, 2);
        let before = store.snapshot().await;
        assert_eq!(store.let_through(ENV, i64::MIN, 9).await.unwrap().runs, 0);
        assert_eq!(store.let_through(ENV, i64::MIN, 0).await.unwrap().runs, 0);
        assert_eq!(store.let_through("nowhere/else", i64::MIN, 9).await.unwrap().runs, 0);
        before.assert_same(&store.snapshot().await, "letting through again");
    }

    async fn one_envs_entries_are_let_through_without_touching_anothers(store: Fixture) {
        store.take_in(&store.buffered(ENV, 3)).await;
        store.take_in(&store.buffered(OTHER_ENV, 3)).await;
        assert_eq!(store.let_through(OTHER_ENV, i64::MIN, 2).await.unwrap().runs, 2);
        assert_eq!(store.raw.number(&format!("SELECT COUNT(*) FROM buffer WHERE env = '{ENV}'")).await, 3);
        assert_eq!(store.raw.number(&format!("SELECT COUNT(*) FROM ready WHERE env = '{OTHER_ENV}'")).await, 2);
    }

    async fn s004_a8_a_parked_entry_is_passed_by_and_keeps_its_reason(store: Fixture) {
        let records = store.buffered(ENV, 3);
        store.take_in(&records).await;
        assert_eq!(store.park_first(ENV, "it does not fit").await.unwrap(), Some(records[0].id.clone()));
        assert_eq!(store.let_through(ENV, i64::MIN, 1).await.unwrap().runs, 1);
        assert_eq!(store.places(&records[1].id).await, ["ready"]);
        assert_eq!(store.park_first(ENV, "nor does it").await.unwrap(), Some(records[2].id.clone()));
        assert_eq!(store.let_through(ENV, i64::MIN, 9).await.unwrap().runs, 0);
        assert_eq!(store.park_first(ENV, "nothing is left").await.unwrap(), None);
        assert_eq!(store.stands(&records[0].id).await.state, RunState::Buffered);
        let entries = store.buffer_entries(None, "", 9).await.unwrap();
        let parked: Vec<_> = entries.iter().map(|entry| (entry.run_id.as_str(), entry.parked.as_deref())).collect();
        let [first, _, last] = &records[..] else { panic!() };
        assert_eq!(parked, [(first.id.as_str(), Some("it does not fit")), (last.id.as_str(), Some("nor does it"))]);
    }

    async fn s004_a11_an_env_is_listed_exactly_while_something_of_it_may_be_let_through(store: Fixture) {
        let envs = async || store.buffer_envs("", 9).await.unwrap();
        assert_eq!(envs().await, Vec::<String>::new());
        store.take_in(&store.buffered(ENV, 2)).await;
        assert_eq!(envs().await, [ENV]);
        store.let_through(ENV, i64::MIN, 1).await.unwrap();
        assert_eq!(envs().await, [ENV], "one is left");
        store.let_through(ENV, i64::MIN, 1).await.unwrap();
        assert_eq!(envs().await, Vec::<String>::new());
        store.take_in(&store.buffered(ENV, 1)).await;
        assert_eq!(envs().await, [ENV], "it comes back");
        store.park_first(ENV, "no").await.unwrap();
        assert_eq!(envs().await, Vec::<String>::new(), "a parked entry waits for an operator");
    }

    async fn s004_l3_entries_are_listed_in_order_in_pages_and_stay_where_they_are(store: Fixture) {
        assert_eq!(store.buffer_entries(None, "", 9).await.unwrap(), []);
        let mut records = store.buffered(ENV, 10);
        records.extend(store.buffered(OTHER_ENV, 10));
        store.take_in(&records).await;
        let before = store.snapshot().await;
        let list = async |env: Option<&'static str>| {
            let (mut after, mut runs) = (String::new(), Vec::new());
            loop {
                let page = store.buffer_entries(env, &after, 3).await.unwrap();
                assert!(page.len() <= 3);
                let Some(last) = page.last() else { return runs };
                after = last.run_id.clone();
                runs.extend(page.into_iter().map(|entry| RunId::from_text(entry.run_id)));
            }
        };
        assert_eq!(list(None).await, ids(&records));
        assert_eq!(list(Some(ENV)).await, ids(&records[..10]));
        assert_eq!(store.buffer_entries(None, "", 0).await.unwrap(), []);
        assert_eq!(list(Some("acme/none")).await, []);
        before.assert_same(&store.snapshot().await, "looking at the buffer");
    }

    async fn envs_of_the_buffer_are_walked_without_missing_any(store: Fixture) {
        let mut envs: Vec<String> = (0..300).map(|n| format!("org{}/env-{}", n % 7, n)).collect();
        envs.extend(["A/b", "a/B", "z/z", "Z/a", "0/0", "a-b/c", "a_b/c"].map(str::to_owned));
        let records: Vec<_> = envs.iter().flat_map(|env| store.buffered(env, 2)).collect();
        store.take_in(&records).await;
        envs.sort();
        let (mut after, mut walked) = (String::new(), Vec::new());
        loop {
            let page = store.buffer_envs(&after, 11).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.clone();
            walked.extend(page);
        }
        assert_eq!(walked, envs);
    }

    async fn depths_count_what_waits_what_is_parked_and_how_old_it_is(store: Fixture) {
        assert_eq!(store.buffer_depths(None).await.unwrap(), []);
        store.take_in(&store.buffered(ENV, 5)).await;
        let mut others = store.buffered(OTHER_ENV, 2);
        others[0].accepted_at = at(-9);
        store.take_in(&others).await;
        store.park_first(ENV, "no").await.unwrap();
        let depth = |env: &str, entries, parked, oldest: i64| BufferDepth {
            env: env.to_owned(),
            entries,
            parked,
            oldest_at: at(oldest).millis(),
        };
        let (other, own) = (depth(OTHER_ENV, 2, 0, -9), depth(ENV, 5, 1, 0));
        assert_eq!(store.buffer_depths(None).await.unwrap(), [other, own.clone()]);
        assert_eq!(store.buffer_depths(Some(ENV)).await.unwrap(), [own]);
        assert_eq!(store.buffer_depths(Some("acme/none")).await.unwrap(), []);
    }

    async fn s004_s3_stale_are_those_accepted_before_the_threshold_not_at_it(store: Fixture) {
        store.take_in(&store.buffered(ENV, 5)).await;
        store.sent(store.record(ENV)).await;
        for (before, stale) in [(-1, 0), (0, 0), (1, 1), (4, 4), (5, 5), (99, 5)] {
            assert_eq!(store.stale_entries(None, at(before)).await.unwrap(), stale, "before {before}");
            assert_eq!(store.stale_entries(Some(ENV), at(before)).await.unwrap(), stale, "before {before}");
            assert_eq!(store.stale_entries(Some(OTHER_ENV), at(before)).await.unwrap(), 0, "before {before}");
        }
    }

    async fn pull_runs_are_buffered_under_their_env_and_wait_in_their_own_basin(store: Fixture) {
        let run = store.sent(NewRecord { buffered: true, ..store.for_pull("train", ENV) }).await;
        assert_eq!(store.buffer_envs("", 9).await.unwrap(), [ENV]);
        store.let_through(ENV, i64::MIN, 9).await.unwrap();
        assert_eq!(store.places(&run).await, ["ready"]);
        assert_eq!(store.ready_basins(None, "", 9).await.unwrap(), []);
        assert_eq!(store.ready_basins(Some("train"), "", 9).await.unwrap(), [Basin::pull("train", ENV)]);
    }

    async fn what_is_buffered_and_parked_survives_a_restart(store: Fixture) {
        let records = store.buffered(ENV, 3);
        store.take_in(&records).await;
        store.park_first(ENV, "no").await.unwrap();
        let before = store.buffer_entries(None, "", 9).await.unwrap();
        let store = store.restarted().await;
        assert_eq!(store.buffer_entries(None, "", 9).await.unwrap(), before);
        assert_eq!(store.let_through(ENV, i64::MIN, 9).await.unwrap().runs, 2);
    }
}

only_on! { Postgres:
    /// Two callers that park at once set one entry aside, not the same one twice under two reasons.
    async fn an_entry_is_parked_by_one_caller_only(store: Fixture) {
        store.take_in(&store.buffered(ENV, 40)).await;
        let racing: Vec<_> = store.callers(8).await.into_iter().enumerate().map(|(nth, caller)| {
            tokio::spawn(async move {
                let mut parked = Vec::new();
                for _ in 0..5 {
                    parked.extend(caller.park_first(ENV, &format!("by {nth}")).await.expect("it answers"));
                }
                (nth, parked)
            })
        }).collect();
        for caller in racing {
            let (nth, parked) = caller.await.unwrap();
            for run in parked {
                let why = store.raw.value(&format!("SELECT parked FROM buffer WHERE run_id = '{run}'")).await;
                assert_eq!(why, Some(format!("by {nth}")), "{run} was parked again");
            }
        }
    }
}
