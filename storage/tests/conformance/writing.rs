//! SQLite's one writer: whose turn it is, and its log.

use crate::sent::ENV;
use std::future::ready;
use std::pin::pin;
use storage::store::NewRecord;

only_on! { Sqlite:
    async fn a_first_turn_comes_before_all_who_wait_and_the_others_come_in_order(store: Fixture) {
        let now = store.write_turn().await.unwrap();
        let (mut second, mut third, mut first) =
            (pin!(store.write_turn()), pin!(store.write_turn()), pin!(store.write_turn_first()));
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = &mut second => panic!("somebody else has the turn"),
                _ = &mut third => panic!("somebody else has the turn"),
                _ = &mut first => panic!("somebody else has the turn"),
                () = ready(()) => {}
            }
        }
        drop(now);
        let now = tokio::select! {
            biased;
            _ = &mut second => panic!("it came first, but has no precedence"),
            _ = &mut third => panic!("it has no precedence"),
            turn = &mut first => turn.unwrap(),
        };
        drop(now);
        let now = tokio::select! {
            biased;
            _ = &mut third => panic!("it came later"),
            turn = &mut second => turn.unwrap(),
        };
        drop(now);
        third.await.unwrap();
    }

    /// Whoever writes all the time keeps SQLite from beginning its log anew, unless it waits for that now and then.
    async fn the_log_begins_anew_beside_somebody_who_writes_all_the_time(store: Fixture) {
        let (mut most, mut writes) = (0, 0);
        loop {
            let large = NewRecord { payload: format!("\"{}\"", "x".repeat(200_000)), ..store.record(ENV) };
            store.accept(std::slice::from_ref(&large)).await.unwrap();
            writes += 1;
            let rows = store.raw.rows("PRAGMA wal_checkpoint(NOOP)").await;
            let pages: i64 = rows[0][1].as_deref().and_then(|pages| pages.parse().ok()).expect("pages of the log");
            if pages < most {
                break;
            }
            // SQLite's own limit is 16,000.
            assert!(pages < 15_000, "after {writes} writes it has {pages} pages");
            most = pages;
        }
    }
}
