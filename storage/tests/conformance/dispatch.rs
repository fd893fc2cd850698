//! Giving ready runs to carriers: in order, each to one only, under a number that rises.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV, QUEUE, TASK, because, ids, runs_of, share};
use std::collections::{BTreeSet, HashMap};
use storage::Store;
use storage::model::{Basin, Lane, RunId, RunState, TraceParent};
use storage::store::{Brief, Cap, Capped, Ending, NewRecord, Share, Taker};

on_both! {
    async fn s004_a6_a_claim_takes_the_oldest_and_an_empty_lane_gives_none(store: Fixture) {
        let records = store.records(ENV, 3);
        store.take_in(&records).await;
        let leased = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(30)).await.unwrap();
        assert_eq!(runs_of(&leased), ids(&records[..1]));
        assert_eq!(store.places(&records[0].id).await, ["leases"]);
        for nothing in [share(ENV, "other", 9), share(OTHER_ENV, QUEUE, 9)] {
            assert_eq!(store.claim_ready(&[nothing], &[], Taker::Node, at(30)).await.unwrap(), []);
        }
        let pull = Share::new(Basin::pull(TASK, ENV), Lane::new(QUEUE, ""), 9);
        assert_eq!(store.claim_ready(&[pull], &[], Taker::Node, at(30)).await.unwrap(), []);
    }

    async fn s003_h1_a_lease_is_found_by_its_run_and_tells_its_carrier_all_it_needs(store: Fixture) {
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM leases").await, 0);
        let lane = Lane::new("bulk", "user:7");
        let record = NewRecord { lane: lane.clone(), max_duration_ms: 600, accepted_at: at(4), ..store.record(ENV) };
        store.take_in(std::slice::from_ref(&record)).await;
        let lease = store.lease_again(&record.basin, &lane).await;
        assert_eq!((&lease.run, lease.env.as_str(), lease.task.as_str()), (&record.id, ENV, TASK));
        assert_eq!((&lease.basin, &lease.lane), (&record.basin, &lane));
        assert_eq!((lease.epoch.number(), lease.attempt, lease.max_attempts), (1, 1, 3));
        assert_eq!((lease.max_duration_ms, lease.since), (600, at(4)));
        let read = store.stands(&record.id).await;
        assert_eq!((read.state, read.attempts, read.epoch), (RunState::Running, 1, lease.epoch));
        assert_eq!((read.holder.as_deref(), read.started_at), (Some(store.node().as_str()), Some(at(10))));
        assert!(!read.cancel_requested);
    }

    async fn runs_are_claimed_by_rank_and_then_by_id_and_come_in_that_order(store: Fixture) {
        let mut records = store.records(ENV, 12);
        for (nth, record) in records.iter_mut().enumerate() {
            record.accepted_at = at([5, 3, 9, 3, 1, 5, 9, 0, 5, 1, 3, 0][nth]);
        }
        store.take_in(&records).await;
        records.sort_by(|a, b| (a.rank(), &a.id).cmp(&(b.rank(), &b.id)));
        let mut claimed = Vec::new();
        for runs in [1, 2, 5, 99] {
            let leased = store.claim_ready(&[share(ENV, QUEUE, runs)], &[], Taker::Node, at(30)).await.unwrap();
            claimed.extend(runs_of(&leased));
        }
        assert_eq!(claimed, ids(&records));
    }

    async fn a_claim_leaves_alone_what_lies_before_its_rank(store: Fixture) {
        let mut records = store.records(ENV, 4);
        for (record, accepted) in records.iter_mut().zip([1, 3, 3, 7]) {
            record.accepted_at = at(accepted);
        }
        store.take_in(&records).await;
        let cap = [Cap { of: Capped::All, max: 99 }];
        for (from, caps, found) in [(8, &[][..], 0..0), (3, &[], 1..3), (4, &cap[..], 3..4), (2, &cap, 0..0)] {
            let share = Share { from_rank: at(from).millis(), ..share(ENV, QUEUE, 2) };
            let leased = store.claim_ready(&[share], caps, Taker::Node, at(30)).await.unwrap();
            let mut expected: Vec<_> = records[found].iter().collect();
            expected.sort_by_key(|record| (record.rank(), record.id.clone()));
            assert_eq!(runs_of(&leased), expected.iter().map(|record| record.id.clone()).collect::<Vec<_>>(), "{from}");
            assert!(leased.iter().zip(expected).all(|(lease, record)| lease.rank == record.rank()));
        }
        let first = store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(30)).await.unwrap();
        assert_eq!(runs_of(&first), ids(&records[..1]), "it is there for who begins at the beginning");
    }

    async fn priority_overtakes_by_as_many_seconds_and_no_more(store: Fixture) {
        let record = |accepted, priority| NewRecord { accepted_at: at(accepted), priority, ..store.record(ENV) };
        let (early, over, under) = (record(10_000, 0), record(14_999, 5), record(15_001, 5));
        let (first, last) = (record(99_000, i64::MAX), record(0, i64::MIN));
        store.take_in(&[last.clone(), early.clone(), under.clone(), over.clone(), first.clone()]).await;
        let leased = store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(99)).await.unwrap();
        assert_eq!(runs_of(&leased), [first.id, over.id, early.id, under.id, last.id]);
    }

    async fn what_has_expired_or_is_not_due_is_never_claimed(store: Fixture) {
        let record = |not_before: Option<i64>, expires: Option<i64>| NewRecord {
            not_before: not_before.map(at),
            expires_at: expires.map(at),
            ..store.record(ENV)
        };
        let due = record(None, Some(31));
        let records = [record(None, Some(29)), record(None, Some(30)), due.clone(), record(Some(31), None)];
        store.take_in(&records).await;
        let leased = store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(30)).await.unwrap();
        assert_eq!(runs_of(&leased), [due.id]);
    }

    async fn many_lanes_are_claimed_from_at_once_each_to_its_share(store: Fixture) {
        let mut records = Vec::new();
        for lane in [Lane::new("a", ""), Lane::new("a", "k"), Lane::new("b", "")] {
            records.extend(store.records(ENV, 5).into_iter().map(|record| NewRecord { lane: lane.clone(), ..record }));
        }
        records.extend(store.records(OTHER_ENV, 5));
        store.take_in(&records).await;
        let keyed = Share { lane: Lane::new("a", "k"), ..share(ENV, "a", 2) };
        let shares = [share(ENV, "a", 3), keyed, share(ENV, "b", 0), share(OTHER_ENV, QUEUE, 9), share(ENV, "c", 9)];
        let leased = store.claim_ready(&shares, &[], Taker::Node, at(30)).await.unwrap();
        let (mut found, mut expected) = (runs_of(&leased), ids(&records[..3]));
        expected.extend(ids(&records[5..7]));
        expected.extend(ids(&records[15..]));
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    async fn a_share_of_nothing_or_less_takes_nothing(store: Fixture) {
        store.take_in(&store.records(ENV, 5)).await;
        let before = store.snapshot().await;
        for shares in [vec![], vec![share(ENV, QUEUE, 0)], vec![share(ENV, QUEUE, -1)]] {
            assert_eq!(store.claim_ready(&shares, &[], Taker::Node, at(30)).await.unwrap(), []);
        }
        before.assert_same(&store.snapshot().await, "claiming nothing");
        let shares = [share(ENV, QUEUE, -3), share(ENV, "other", 1)];
        assert_eq!(store.claim_ready(&shares, &[], Taker::Node, at(30)).await.unwrap(), []);
        before.assert_same(&store.snapshot().await, "less than nothing beside something");
    }

    async fn s003_h5_what_one_carrier_holds_no_other_gets_or_overwrites(store: Fixture) {
        let leased = store.leased(store.record(ENV)).await;
        let shares = [Share::new(leased.basin.clone(), leased.lane.clone(), 9)];
        let before = store.snapshot().await;
        for caller in store.callers(2).await {
            assert_eq!(caller.claim_ready(&shares, &[], Taker::Node, at(30)).await.unwrap(), []);
        }
        let twin = format!("INSERT INTO leases SELECT * FROM leases WHERE run_id = '{}'", leased.run);
        store.raw.try_exec(&twin).await.unwrap_err();
        let mut now = store.snapshot().await;
        now.ignore("nodes");
        let mut before = before;
        before.ignore("nodes");
        before.assert_same(&now, "a second carrier");
    }

    /// On PostgreSQL the callers belong to two nodes.
    async fn s004_a7_runs_are_claimed_by_one_of_many_callers_each(store: Fixture) {
        let records = store.records(ENV, 600);
        store.take_in(&records).await;
        let racing: Vec<_> = store.callers(8).await.into_iter().enumerate().map(|(nth, caller)| {
            let share = share(ENV, QUEUE, i64::try_from(nth).unwrap() % 5 + 1);
            tokio::spawn(async move { claim_all(&caller, share).await })
        }).collect();
        let mut claimed = Vec::new();
        for caller in racing {
            claimed.extend(caller.await.unwrap());
        }
        let distinct: BTreeSet<_> = claimed.iter().collect();
        assert_eq!((claimed.len(), distinct.len()), (600, 600), "each is claimed once, and none is left");
        let holders = store.raw.rows("SELECT holder, COUNT(*) FROM leases GROUP BY holder").await;
        assert_eq!(holders.len(), if store.is_sqlite() { 1 } else { 2 }, "{holders:?}");
    }

    async fn s004_l6_a_lease_is_dated_by_the_latest_claim(store: Fixture) {
        let run = store.sent(store.record(ENV)).await;
        for now in [30, 60] {
            let leased = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(now)).await.unwrap();
            assert_eq!(store.stands(&run).await.started_at, Some(at(now)));
            store.settle_one(&leased[0], Ending::Lost).await;
            assert_eq!(store.stands(&run).await.started_at, None);
        }
    }

    async fn the_epoch_rises_with_every_lease_and_the_attempt_with_those_that_count(store: Fixture) {
        let mut lease = store.leased(NewRecord { max_attempts: 4, ..store.record(ENV) }).await;
        let mut seen = vec![(lease.epoch.number(), lease.attempt)];
        for ending in [Ending::Declined, Ending::Lost, Ending::Declined, Ending::Declined, Ending::Lost] {
            store.settle_one(&lease, ending).await;
            lease = store.lease_again(&lease.basin, &lease.lane).await;
            seen.push((lease.epoch.number(), lease.attempt));
        }
        assert_eq!(seen, [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3)]);
    }

    async fn pull_runs_go_to_pull_workers_and_own_runs_to_this_systems(store: Fixture) {
        let own = store.sent(store.record(ENV)).await;
        let train = store.sent(store.for_pull("train", ENV)).await;
        let other = store.sent(store.for_pull("train", OTHER_ENV)).await;
        let trainer = store.sent(store.for_pull("trainer", ENV)).await;
        assert_eq!(store.ready_basins(None, "", 9).await.unwrap(), [Basin::own(ENV)]);
        let basins = store.ready_basins(Some("train"), "", 9).await.unwrap();
        assert_eq!(basins, [Basin::pull("train", OTHER_ENV), Basin::pull("train", ENV)]);
        assert_eq!(store.ready_basins(Some("tra"), "", 9).await.unwrap(), []);
        let token = |run: &RunId| format!("token of {run}");
        let taker = Taker::Pull { worker: "w", until: at(900), token: &token };
        let share = |basin: &Basin| [Share::new(basin.clone(), Lane::new(QUEUE, ""), 9)];
        let leased = store.claim_ready(&share(&Basin::pull("train", ENV)), &[], taker, at(30)).await.unwrap();
        assert_eq!(runs_of(&leased), [train]);
        let leased = store.claim_ready(&share(&Basin::own(ENV)), &[], Taker::Node, at(30)).await.unwrap();
        assert_eq!(runs_of(&leased), [own]);
        assert_eq!((store.places(&other).await, store.places(&trainer).await), (vec!["ready"], vec!["ready"]));
    }

    async fn each_lease_of_a_pull_worker_has_a_token_and_an_end_of_its_own(store: Fixture) {
        let runs = store.sent_all((0..3).map(|_| store.for_pull("train", ENV)).collect()).await;
        let token = |run: &RunId| format!("token of {run}");
        let taker = Taker::Pull { worker: "w 1", until: at(900), token: &token };
        let share = [Share::new(Basin::pull("train", ENV), Lane::new(QUEUE, ""), 9)];
        assert_eq!(store.claim_ready(&share, &[], taker, at(30)).await.unwrap().len(), 3);
        let until = at(900).millis().to_string();
        for run in &runs {
            let sql = format!("SELECT holder, token, lease_until FROM leases WHERE run_id = '{run}'");
            let row = store.raw.rows(&sql).await.remove(0);
            assert_eq!(row, [Some("w 1".to_owned()), Some(token(run)), Some(until.clone())]);
        }
        let own = store.leased(store.record(ENV)).await;
        let sql = format!("SELECT token, lease_until FROM leases WHERE run_id = '{}'", own.run);
        assert_eq!(store.raw.rows(&sql).await, [[None, None]], "a node's own lease covers its runs");
    }

    async fn briefs_come_by_run_and_unknown_runs_are_left_out(store: Fixture) {
        let mut records = store.records(ENV, 1_100);
        for (nth, record) in records.iter_mut().enumerate() {
            record.payload = format!("{{\"n\":{nth}}}");
            record.session_id = (nth % 2 == 0).then(|| format!("ses_{nth}"));
            record.trace = (nth % 3 == 0).then(|| TraceParent::begin(7, nth as u64));
        }
        store.take_in(&records).await;
        let runs: Vec<RunId> = ids(&records).into_iter().chain([RunId::from_text("run_none")]).collect();
        let asked: Vec<(&str, &RunId)> = runs.iter().map(|run| (ENV, run)).collect();
        let found = store.briefs(&asked).await.unwrap();
        let others: Vec<(&str, &RunId)> = runs.iter().map(|run| ("acme/other", run)).collect();
        assert_eq!(store.briefs(&others).await.unwrap(), HashMap::new(), "another env has none of them");
        let expected: HashMap<_, _> = records
            .into_iter()
            .map(|record| (record.id, Brief { payload: record.payload, session: record.session_id, trace: record.trace }))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(store.briefs(&[]).await.unwrap(), HashMap::new());
    }

    /// A request that goes away while its claim is under way must not take runs with it.
    async fn a_claim_that_is_dropped_half_way_is_whole_or_not_there(store: Fixture) {
        store.take_in(&store.records(ENV, 40)).await;
        let share = [share(ENV, QUEUE, 1)];
        for _ in 0..40 {
            let claim = store.claim_ready(&share, &[], Taker::Node, at(30));
            tokio::select! {
                biased;
                _ = tokio::task::yield_now() => {}
                _ = claim => {}
            }
        }
        // Waits for its turn behind whatever of the others is still under way.
        let rest = Share { runs: 99, ..share[0].clone() };
        store.claim_ready(&[rest], &[], Taker::Node, at(30)).await.unwrap();
        store.raw.until("SELECT COUNT(*) FROM leases", |leased| leased == 40).await;
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM ready").await, 0);
    }

    async fn a_run_that_is_tried_again_keeps_its_place_before_newer_ones(store: Fixture) {
        let records = store.records(ENV, 3);
        store.take_in(&records).await;
        let leased = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(30)).await.unwrap();
        store.settle_runs(&[because(&leased[0], Ending::Lost, "lost", "gone")], at(40)).await.unwrap();
        let leased = store.claim_ready(&[share(ENV, QUEUE, 1)], &[], Taker::Node, at(50)).await.unwrap();
        assert_eq!(runs_of(&leased), ids(&records[..1]));
    }
}

async fn claim_all(store: &Store, share: Share) -> Vec<RunId> {
    let mut claimed = Vec::new();
    loop {
        let leased =
            store.claim_ready(std::slice::from_ref(&share), &[], Taker::Node, at(30)).await.expect("it answers");
        if leased.is_empty() {
            return claimed;
        }
        claimed.extend(runs_of(&leased));
    }
}
