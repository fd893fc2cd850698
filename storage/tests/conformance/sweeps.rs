//! What sweeps tell of themselves, and what they clear away: never more than was asked for, and nothing that is open.

use crate::fixture::{Fixture, at};
use crate::sent::{ENV, OTHER_ENV, QUEUE, share, verdict};
use std::time::Duration;
use storage::model::{Epoch, RunId, Timestamp};
use storage::store::{Ending, Idempotency, NewChunk, NewRecord, Retained, SweepDone, Taker};

const DAY: Duration = Duration::from_secs(86_400);

fn done(kind: &'static str, found: i64) -> SweepDone {
    SweepDone { kind, took_ms: 7, found }
}

/// A run that ended at a time.
async fn ended(store: &Fixture, env: &str, ending: Ending, when: Timestamp) -> RunId {
    let run = store.sent(NewRecord { max_attempts: 1, ..store.record(env) }).await;
    let lease = store.claim_ready(&[share(env, QUEUE, 1)], &[], Taker::Node, at(10)).await.unwrap().remove(0);
    store.settle_runs(&[verdict(&lease, ending)], when).await.unwrap();
    run
}

async fn runs(store: &Fixture) -> i64 {
    store.raw.number("SELECT COUNT(*) FROM run_records").await
}

on_both! {
    async fn a_sweep_tells_how_it_last_went_and_what_it_found_in_all(store: Fixture) {
        assert_eq!(store.sweeps().await.unwrap(), []);
        store.record_sweeps(&[], at(1)).await.unwrap();
        store.record_sweeps(&[done("sessions", 2), done("lost_runs", 0)], at(1)).await.unwrap();
        store.record_sweeps(&[done("sessions", 3)], at(2)).await.unwrap();
        let rows = store.sweeps().await.unwrap();
        let told: Vec<_> = rows.iter().map(|row| (row.kind.as_str(), row.last_at, row.found, row.found_in_all)).collect();
        assert_eq!(told, [("lost_runs", at(1).millis(), 0, 0), ("sessions", at(2).millis(), 3, 5)]);
        assert!(rows.iter().all(|row| row.node == store.node().as_str() && row.took_ms == 7));
    }

    async fn keys_that_have_expired_are_forgotten_a_few_at_a_time_and_no_others(store: Fixture) {
        let keyed = |nth: i64| Idempotency {
            key: format!("key-{nth}"),
            fingerprint: "f".to_owned(),
            answer: "a".to_owned(),
            expires_at: at(nth),
        };
        for nth in 1..=5 {
            store.sent(NewRecord { idempotency: Some(keyed(nth)), ..store.record(ENV) }).await;
        }
        let keys = async || store.raw.number("SELECT COUNT(*) FROM idempotency").await;
        assert_eq!(store.drop_expired_keys(at(0), 9).await.unwrap(), 0);
        assert_eq!((store.drop_expired_keys(at(3), 2).await.unwrap(), keys().await), (2, 3));
        assert_eq!((store.drop_expired_keys(at(3), 2).await.unwrap(), keys().await), (1, 2));
        assert_eq!(store.drop_expired_keys(at(3), 2).await.unwrap(), 0);
        assert_eq!(runs(&store).await, 5, "their runs are no matter of theirs");
    }

    async fn ended_runs_that_are_old_go_with_all_that_they_left_and_no_others(store: Fixture) {
        let old = ended(&store, ENV, Ending::Failed, at(20)).await;
        let piece = |seq, dropped, data: &[u8]| NewChunk {
            run: old.clone(),
            epoch: Epoch::from_number(1),
            stream: "stdout",
            seq,
            bytes: 2,
            data: data.to_vec(),
            dropped,
        };
        store.append_output(&[piece(0, None, b"ab"), piece(0, Some(0), b"")], at(20)).await.unwrap();
        let other = ended(&store, OTHER_ENV, Ending::Succeeded, at(20)).await;
        let young = ended(&store, ENV, Ending::Failed, at(20) + DAY).await;
        let open = store.sent(store.record(ENV)).await;
        let first = store.retain_runs(at(20), 99, at(90)).await.unwrap();
        assert_eq!(first, Retained { deleted: 0, wrapped: true }, "what ended just then is kept");
        let gone = store.retain_runs(at(21), 99, at(91)).await.unwrap();
        assert_eq!((gone.deleted, runs(&store).await), (2, 2));
        for run in [&old, &other] {
            for table in ["unsuccessful", "output_ends", "output_chunks", "attempts"] {
                let left = format!("SELECT COUNT(*) FROM {table} WHERE run_id = '{run}'");
                assert_eq!(store.raw.number(&left).await, 0, "{table}");
            }
        }
        assert!(store.run_record(ENV, &young).await.unwrap().is_some());
        assert!(store.run_record(ENV, &open).await.unwrap().is_some(), "an open run is never old");
    }

    async fn the_walk_over_ended_runs_goes_on_where_it_was_and_begins_again_at_its_end(store: Fixture) {
        for _ in 0..7 {
            ended(&store, ENV, Ending::Succeeded, at(20)).await;
        }
        let kept = ended(&store, OTHER_ENV, Ending::Succeeded, at(20) + DAY).await;
        let mut goes = Vec::new();
        for go in 0..3 {
            let went = store.retain_runs(at(30), 3, at(90 + go)).await.unwrap();
            assert_eq!(store.retention_cursor().await.unwrap().run.is_empty(), went.wrapped, "{went:?}");
            goes.push(went);
        }
        assert_eq!(goes.iter().map(|go| go.deleted).sum::<u64>(), 7);
        assert_eq!(goes.iter().map(|go| go.wrapped).collect::<Vec<_>>(), [false, false, true], "{goes:?}");
        assert!(store.run_record(OTHER_ENV, &kept).await.unwrap().is_some());
        assert_eq!(store.retain_runs(at(30), 3, at(99)).await.unwrap(), Retained { deleted: 0, wrapped: true });
    }
}
