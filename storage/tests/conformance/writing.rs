//! SQLite's one writer: whose turn it is.

use std::future::ready;
use std::pin::pin;

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
}
