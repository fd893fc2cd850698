//! SQLite's one writer: whose turn it is, and where what was written goes.

use crate::sent::ENV;
use std::future::ready;
use std::pin::pin;

/// Megabytes.
const MB: u64 = 1_000_000;

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

    /// Without it the log would be as long as all that was written.
    async fn the_log_is_brought_into_the_file_while_others_write_and_begins_anew(store: Fixture) {
        let size = |name: &str| std::fs::metadata(store.folder.path().join(name)).unwrap().len();
        let (mut longest, mut commits) = (0, 0);
        while size("store.db") < 30 * MB {
            let mut records = store.records(ENV, 5);
            records.iter_mut().for_each(|record| record.payload = format!("\"{}\"", "x".repeat(20_000)));
            store.take_in(&records).await;
            longest = longest.max(size("store.db-wal"));
            commits += 1;
            assert!(commits < 1_000, "the file does not grow: {} bytes", size("store.db"));
        }
        assert!(longest < 20 * MB, "the log had {longest} bytes after {commits} commits");
        let count = store.raw.number("SELECT COUNT(*) FROM run_records").await;
        assert_eq!(count, commits * 5);
    }
}
