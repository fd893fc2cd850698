//! Caps: however many claimers there are on however many nodes, never more under way than allowed (invariant 8).

use crate::fixture::{Fixture, at};
use crate::sent::{ENV, OTHER_ENV, runs_of, share, verdict};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::Store;
use storage::model::{Basin, Lane, RunId};
use storage::store::{Cap, Capped, Ending, NewRecord, Share, Taker};

fn queue_of(env: &str, queue: &str) -> Capped {
    Capped::Queue { env: env.to_owned(), queue: queue.to_owned() }
}

fn key_of(env: &str, queue: &str, key: &str) -> Capped {
    Capped::Key { env: env.to_owned(), lane: Lane::new(queue, key) }
}

/// One of each kind, and how many of the runs under way count against it.
fn caps() -> Vec<(Cap, String)> {
    let env = format!("env = '{ENV}'");
    vec![
        (Cap { of: Capped::All, max: 11 }, "1 = 1".to_owned()),
        (Cap { of: Capped::Env(ENV.to_owned()), max: 8 }, env.clone()),
        (Cap { of: queue_of(ENV, "a"), max: 5 }, format!("{env} AND lane LIKE 'a\u{1f}%'")),
        (Cap { of: key_of(ENV, "a", "k"), max: 2 }, format!("{env} AND lane = 'a\u{1f}k'")),
    ]
}

/// Lanes in both envs, of which some lie under all four caps, some under fewer.
fn shares(runs: i64) -> Vec<Share> {
    let keyed = |env: &str, queue: &str, key: &str| Share { lane: Lane::new(queue, key), ..share(env, queue, runs) };
    vec![
        keyed(ENV, "a", "k"),
        keyed(ENV, "a", "l"),
        keyed(ENV, "a", ""),
        keyed(ENV, "ab", "k"),
        keyed(OTHER_ENV, "a", "k"),
        Share { basin: Basin::pull("train", ENV), ..keyed(ENV, "a", "k") },
    ]
}

on_both! {
    async fn a_claim_stops_at_the_narrowest_cap_over_each_lane(store: Fixture) {
        filled(&store, 20).await;
        let caps: Vec<_> = caps().into_iter().map(|(cap, _)| cap).collect();
        let leased = store.claim_ready(&shares(20), &caps, Taker::Node, at(30)).await.unwrap();
        let of = |basin: &Basin, lane: &Lane| leased.iter().filter(|l| l.basin == *basin && l.lane == *lane).count();
        let found: Vec<_> = shares(0).iter().map(|share| of(&share.basin, &share.lane)).collect();
        assert_eq!(found, [2, 3, 0, 3, 3, 0], "the first lanes come first");
        let again = store.claim_ready(&shares(20), &caps, Taker::Node, at(30)).await.unwrap();
        assert_eq!(again, [], "all 11 are under way");
    }

    async fn a_cap_counts_what_others_hold_and_leaves_room_when_they_are_done(store: Fixture) {
        filled(&store, 20).await;
        let claim = async |cap: Capped, max| {
            store.claim_ready(&shares(20)[..1], &[Cap { of: cap, max }], Taker::Node, at(30)).await.unwrap()
        };
        for of in [Capped::All, Capped::Env(ENV.to_owned()), queue_of(ENV, "a"), key_of(ENV, "a", "k")] {
            let held = claim(of.clone(), 3).await;
            assert_eq!(held.len(), 3, "{of:?}");
            assert_eq!(claim(of.clone(), 3).await, []);
            assert_eq!(claim(of.clone(), 2).await, [], "a cap that was lowered takes nothing back");
            store.settle_one(&held[0], Ending::Succeeded).await;
            assert_eq!(claim(of.clone(), 3).await.len(), 1, "one is done, one may start");
            let rest = store.raw.rows("SELECT run_id, epoch FROM leases").await.len();
            assert_eq!(rest, 3);
            release(&store).await;
        }
    }

    async fn a_cap_of_another_env_queue_or_key_holds_nothing_back(store: Fixture) {
        filled(&store, 9).await;
        for of in [Capped::Env(OTHER_ENV.to_owned()), queue_of(OTHER_ENV, "a"), queue_of(ENV, "ab"),
            queue_of(ENV, ""), key_of(ENV, "a", ""), key_of(ENV, "a", "l"), key_of(OTHER_ENV, "a", "k")] {
            let caps = [Cap { of, max: 0 }];
            let leased = store.claim_ready(&shares(1)[..1], &caps, Taker::Node, at(30)).await.unwrap();
            assert_eq!(leased.len(), 1, "{caps:?}");
        }
        let caps = [Cap { of: Capped::All, max: -5 }];
        assert_eq!(store.claim_ready(&shares(1), &caps, Taker::Node, at(30)).await.unwrap(), []);
    }

    /// A reader counts all along what is committed; a count over a cap at any commit would be seen or be there
    /// at the end of somebody's claim, where each caller counts too.
    async fn the_count_never_passes_a_cap_at_any_commit_whoever_claims(store: Fixture) {
        filled(&store, 60).await;
        let over = Arc::new(AtomicBool::new(false));
        let claimers: Vec<_> = store.callers(8).await.into_iter().enumerate().map(|(nth, caller)| {
            tokio::spawn(async move { claims_and_settles(&caller, nth).await })
        }).collect();
        let reader = {
            let (raw, over) = (store.raw.clone(), over.clone());
            tokio::spawn(async move {
                let mut looks = 0;
                while !over.load(Ordering::Relaxed) {
                    for (cap, which) in caps() {
                        let count = raw.number(&format!("SELECT COUNT(*) FROM leases WHERE {which}")).await;
                        assert!(count <= cap.max, "{count} under way, {cap:?}");
                    }
                    looks += 1;
                }
                looks
            })
        };
        let mut done = 0;
        for claimer in claimers {
            done += claimer.await.unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.await.unwrap() > 0);
        assert_eq!(done, 6 * 60, "every run was carried out once");
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM run_records WHERE state = 'succeeded'").await, done);
    }

    /// None of these caps has been claimed under before, and each caller names them in another order.
    async fn new_caps_are_claimed_under_by_many_at_once_without_waiting_in_a_circle(store: Fixture) {
        for round in 0..6 {
            let racing: Vec<_> = store.callers(8).await.into_iter().enumerate().map(|(nth, caller)| {
                let mut caps: Vec<_> = (0..12).map(|n| Cap { of: queue_of(&format!("e/{round}"), &format!("q{n}")), max: 1 }).collect();
                caps.rotate_left(nth);
                caps.truncate(7);
                let shares = [share(&format!("e/{round}"), "q0", 1)];
                tokio::spawn(async move { caller.claim_ready(&shares, &caps, Taker::Node, at(30)).await })
            }).collect();
            for caller in racing {
                assert_eq!(caller.await.unwrap().expect("nobody waits in a circle"), []);
            }
        }
    }
}

/// As many runs in each lane of `shares`.
async fn filled(store: &Fixture, runs: i64) {
    for share in shares(0) {
        let env = share.basin.env();
        let task = if share.basin.is_own() { "send" } else { "train" };
        let records = store.records(env, runs).into_iter().map(|record| NewRecord {
            task: task.to_owned(),
            basin: share.basin.clone(),
            lane: share.lane.clone(),
            ..record
        });
        store.take_in(&records.collect::<Vec<_>>()).await;
    }
}

/// Gives back whatever is under way, untouched.
async fn release(store: &Fixture) {
    for row in store.raw.rows("SELECT run_id, epoch FROM leases").await {
        let (run, epoch) = (row[0].clone().unwrap(), row[1].clone().unwrap().parse().unwrap());
        let verdict = storage::store::RunVerdict {
            run: RunId::from_text(run),
            epoch: storage::model::Epoch::from_number(epoch),
            ending: Ending::Declined,
            code: None,
            reason: None,
            output: None,
            started_at: None,
        };
        store.settle_runs(&[verdict], at(40)).await.unwrap();
    }
}

/// Claims under all caps and ends what it got, until nothing is left to claim; counts what it ended.
async fn claims_and_settles(store: &Store, nth: usize) -> i64 {
    let (caps, mut done) = (caps().into_iter().map(|(cap, _)| cap).collect::<Vec<_>>(), 0);
    let mut shares = shares(3);
    shares.rotate_left(nth % 6);
    loop {
        let leased = store.claim_ready(&shares, &caps, Taker::Node, at(30)).await.expect("it answers");
        assert!(leased.len() <= 11);
        let verdicts: Vec<_> = leased.iter().map(|lease| verdict(lease, Ending::Succeeded)).collect();
        let finished = store.settle_runs(&verdicts, at(40)).await.expect("they are settled");
        assert_eq!(finished.iter().filter(|one| one.state.is_some()).count(), runs_of(&leased).len());
        done += i64::try_from(leased.len()).unwrap();
        let mut left = store.ready_basins(None, "", 1).await.expect("it is read");
        left.extend(store.ready_basins(Some("train"), "", 1).await.expect("it is read"));
        if left.is_empty() {
            return done;
        }
    }
}
