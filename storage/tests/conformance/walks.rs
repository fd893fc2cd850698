//! Walks over basins and lanes: in order, page by page, each found however many runs wait in it.

use crate::fixture::{Fixture, at};
use crate::sent::{ENV, OTHER_ENV, QUEUE, share};
use std::collections::BTreeSet;
use storage::model::{Basin, Lane};
use storage::store::{Ending, LaneHead, NewRecord, Taker};

/// Names that stand in another order where a language orders them.
const NAMES: [&str; 13] = ["a", "A", "b", "B", "a-b", "a_b", "a b", "ä", "z", "Z", "0", "aa", "~"];

on_both! {
    async fn basins_are_walked_in_order_without_missing_any(store: Fixture) {
        let envs: Vec<_> = (0..400).map(|n| format!("org{}/env-{n}", n % 13)).collect();
        let mut records = Vec::new();
        for env in &envs {
            records.extend(store.records(env, 5));
            records.push(store.for_pull("train", env));
        }
        store.take_in(&records).await;
        for pull in [None, Some("train")] {
            let basin = |env: &String| pull.map_or_else(|| Basin::own(env), |task| Basin::pull(task, env));
            let mut expected: Vec<_> = envs.iter().map(basin).collect();
            expected.sort();
            assert_eq!(walk_basins(&store, pull, 7).await, expected);
            assert_eq!(store.ready_basins(pull, "", 9_999).await.unwrap(), expected);
        }
        assert_eq!(store.ready_basins(None, "", 0).await.unwrap(), []);
    }

    async fn lanes_are_walked_in_order_with_the_rank_of_their_first(store: Fixture) {
        let mut records = Vec::new();
        for n in 0..600_i64 {
            let lane = Lane::new(&format!("q{}", n % 5), &format!("key {}", n / 5));
            for later in 0..4 {
                let accepted_at = at(10 * n + 3 - later);
                records.push(NewRecord { lane: lane.clone(), accepted_at, ..store.record(ENV) });
            }
        }
        store.take_in(&records).await;
        store.take_in(&store.records(OTHER_ENV, 3)).await;
        let heads: BTreeSet<_> = records.iter().map(|record| {
            let first = record.accepted_at.millis() / 10 * 10;
            (record.lane.clone(), first)
        }).collect();
        let expected: Vec<_> = heads.into_iter().collect();
        let found: Vec<_> = walk_lanes(&store, &Basin::own(ENV), 11).await
            .into_iter().map(|head| (head.lane, head.rank)).collect();
        assert_eq!(found, expected);
        let others = store.ready_lanes(&Basin::own(OTHER_ENV), "", 9).await.unwrap();
        let lane = Lane::new(QUEUE, "");
        assert_eq!(others, [LaneHead { basin: Basin::own(OTHER_ENV), lane, rank: at(0).millis() }]);
        assert_eq!(store.ready_lanes(&Basin::own(ENV), "", 0).await.unwrap(), []);
    }

    async fn s004_a12_an_env_is_on_a_walk_exactly_while_it_has_something_for_it(store: Fixture) {
        let on = async || {
            let held = store.buffer_envs("", 9).await.unwrap().len();
            (held, store.ready_basins(None, "", 9).await.unwrap().len())
        };
        let records = store.buffered(ENV, 2);
        assert_eq!(on().await, (0, 0));
        store.take_in(&records).await;
        assert_eq!(on().await, (1, 0), "accepted");
        store.let_through(ENV, i64::MIN, 1).await.unwrap();
        assert_eq!(on().await, (1, 1), "one is let through");
        store.let_through(ENV, i64::MIN, 9).await.unwrap();
        assert_eq!(on().await, (0, 1), "both are");
        let leased = store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(60)).await.unwrap();
        assert_eq!(on().await, (0, 0), "claimed");
        store.settle_one(&leased[0], Ending::Lost).await;
        assert_eq!(on().await, (0, 1), "one is given back");
        store.settle_one(&leased[1], Ending::Failed).await;
        let again = store.lease_again(&leased[0].basin, &leased[0].lane).await;
        store.settle_one(&again, Ending::Failed).await;
        assert_eq!(on().await, (0, 0), "both have failed");
    }

    async fn a_basin_or_lane_is_found_only_while_something_in_it_may_start(store: Fixture) {
        let delayed = NewRecord { not_before: Some(at(50)), ..store.record(ENV) };
        store.take_in(&[delayed]).await;
        let seen = async || {
            let basins = store.ready_basins(None, "", 9).await.unwrap().len();
            (basins, store.ready_lanes(&Basin::own(ENV), "", 9).await.unwrap().len())
        };
        assert_eq!(seen().await, (0, 0), "it is delayed");
        store.come_due(at(50), 9).await.unwrap();
        assert_eq!(seen().await, (1, 1));
        store.claim_ready(&[share(ENV, QUEUE, 9)], &[], Taker::Node, at(60)).await.unwrap();
        assert_eq!(seen().await, (0, 0), "it is carried out");
    }

    async fn names_are_walked_byte_by_byte(store: Fixture) {
        named(&store).await;
        walks_every_name(&store).await;
    }
}

only_on! { Postgres:
    /// A database whose own order puts `a` before `B` and passes over hyphens.
    async fn names_are_walked_byte_by_byte_whatever_order_the_database_has(store: Fixture) {
        let name = format!("english_{}", store.ulid());
        let create = format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'"
        );
        store.raw.exec(&create).await;
        let (server, _) = store.url.rsplit_once('/').expect("a URL names its database");
        let url = format!("{server}/{name}");
        let english = store.beside(&url).await;
        assert_eq!(english.raw.value("SELECT 'a' < 'B'").await.as_deref(), Some("t"), "this order is another one");
        named(&english).await;
        walks_every_name(&english).await;
        crate::audit::audit(&english.raw).await;
    }
}

/// A run, and a buffered one, in each of a few envs and lanes.
async fn named(store: &Fixture) {
    let mut records = Vec::new();
    for name in NAMES {
        let env = format!("{name}/x");
        records.push(store.record(&env));
        records.extend(store.buffered(&env, 1));
        records.push(store.for_pull("train", &env));
        records.push(NewRecord { lane: Lane::new(name, "k"), ..store.record(ENV) });
        records.push(NewRecord { lane: Lane::new("q", name), ..store.record(ENV) });
    }
    store.take_in(&records).await;
}

async fn walks_every_name(store: &Fixture) {
    let sorted = |basin: &dyn Fn(&str) -> Basin, more: Option<Basin>| {
        let mut basins: Vec<_> = NAMES.iter().map(|name| basin(&format!("{name}/x"))).chain(more).collect();
        basins.sort();
        basins
    };
    let own = sorted(&Basin::own, Some(Basin::own(ENV)));
    assert_eq!(walk_basins(store, None, 2).await, own);
    assert_eq!(store.ready_basins(None, "", 99).await.unwrap(), own);
    let pull = sorted(&|env| Basin::pull("train", env), None);
    assert_eq!(walk_basins(store, Some("train"), 2).await, pull);
    let mut lanes: Vec<_> = NAMES.iter().flat_map(|name| [Lane::new(name, "k"), Lane::new("q", name)]).collect();
    lanes.sort();
    let found: Vec<_> = walk_lanes(store, &Basin::own(ENV), 2).await.into_iter().map(|head| head.lane).collect();
    assert_eq!(found, lanes);
    let (mut after, mut envs) = (String::new(), Vec::new());
    while let Some(env) = store.buffer_envs(&after, 1).await.unwrap().pop() {
        after.clone_from(&env);
        envs.push(env);
    }
    let mut expected: Vec<_> = NAMES.iter().map(|name| format!("{name}/x")).collect();
    expected.sort();
    assert_eq!(envs, expected);
}

async fn walk_basins(store: &Fixture, pull: Option<&str>, page: i64) -> Vec<Basin> {
    let (mut after, mut walked) = (String::new(), Vec::new());
    loop {
        let basins = store.ready_basins(pull, &after, page).await.expect("they are read");
        assert!(i64::try_from(basins.len()).unwrap() <= page);
        let Some(last) = basins.last() else { return walked };
        after = last.as_str().to_owned();
        walked.extend(basins);
    }
}

async fn walk_lanes(store: &Fixture, basin: &Basin, page: i64) -> Vec<LaneHead> {
    let (mut after, mut walked) = (String::new(), Vec::new());
    loop {
        let heads = store.ready_lanes(basin, &after, page).await.expect("they are read");
        assert!(i64::try_from(heads.len()).unwrap() <= page);
        let Some(last) = heads.last() else { return walked };
        after = last.lane.as_str().to_owned();
        walked.extend(heads);
    }
}
