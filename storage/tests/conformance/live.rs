//! Batches whose requests are called one by one, canaries, and what a provider's queue was found to take.

use crate::fixture::{Driven, Fixture, RESERVE, assert_moved, at, says, up_to};
use std::time::Duration;
use storage::model::{BatchState, Epoch, Mode, RequestState};
use storage::store::{Canary, CanaryState, Fence, Opened};

async fn opened_as(store: &Fixture, job: &Driven, mode: Mode, requests: i64) -> Fence {
    match store.ask_as(job, mode, up_to(requests), at(2)).await.expect("the store answers") {
        (batch, Opened::Batch { epoch, .. }) => Fence { batch, epoch },
        (_, other) => panic!("no batch was opened: {other:?}"),
    }
}

fn positions(requests: &[storage::store::LiveRequest]) -> Vec<i64> {
    requests.iter().map(|request| request.pos).collect()
}

on_both! {
    async fn a_live_batch_reserves_the_live_price_and_leaves_batches_alone(store: Fixture) {
        let job = store.driven("letters", 6).await;
        let (batch, live) = (store.opened(&job, 2).await, opened_as(&store, &job, Mode::Live, 2).await);
        assert_eq!(store.batch_row(&batch).await.reserved.nanos(), 2 * RESERVE);
        let row = store.batch_row(&live).await;
        assert_eq!((row.mode, row.reserved.nanos()), (Mode::Live, 4 * RESERVE));
        assert_eq!(store.pool_counts("letters").await.unwrap().reserved_nanos, 6 * RESERVE);
    }

    async fn each_call_is_marked_before_it_leaves_and_what_was_marked_is_in_doubt(store: Fixture) {
        let job = store.driven("letters", 5).await;
        let fence = opened_as(&store, &job, Mode::Live, 5).await;
        store.go_live(&fence, at(3)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.submitted_at), (BatchState::Submitted, Some(at(3))));
        assert_eq!(store.in_doubt(&fence, 9).await.unwrap(), vec![]);
        let uncalled = store.uncalled(&fence, 2).await.unwrap();
        assert_eq!(positions(&uncalled), [0, 1]);
        assert_eq!((uncalled[1].body.as_str(), uncalled[1].reserve_nanos), ("{\"n\":1}", Some(RESERVE)));
        store.calling(&fence, BatchState::Submitted, &[0, 1]).await.unwrap();
        assert_eq!(positions(&store.in_doubt(&fence, 9).await.unwrap()), [0, 1]);
        assert_eq!(positions(&store.uncalled(&fence, 9).await.unwrap()), [2, 3, 4]);
        assert_moved(store.calling(&fence, BatchState::Submitted, &[1, 2]).await, "a call that was made");
        assert_eq!(positions(&store.uncalled(&fence, 9).await.unwrap()), [2, 3, 4], "all or none is marked");
        let verdicts = [says(0, RequestState::Succeeded), says(1, RequestState::Missing)];
        store.settle(&fence, BatchState::Submitted, 1, &verdicts, at(4)).await.unwrap();
        assert_eq!(store.in_doubt(&fence, 9).await.unwrap(), vec![]);
        let rest: Vec<_> = (2..5).map(|pos| says(pos, RequestState::Canceled)).collect();
        store.settle(&fence, BatchState::Submitted, 1, &rest, at(4)).await.unwrap();
        store.ended(&fence, BatchState::Submitted, "called", (None, None), at(5)).await.unwrap();
        store.collected(&fence, at(6)).await.unwrap();
        assert_eq!(store.pool_counts("letters").await.unwrap().reserved_nanos, 0);
    }

    async fn whoever_took_the_batch_over_alone_may_call(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let fence = opened_as(&store, &job, Mode::Live, 2).await;
        let stale = Fence { batch: fence.batch.clone(), epoch: Epoch::default() };
        assert_moved(store.go_live(&stale, at(3)).await, "going live under another epoch");
        store.go_live(&fence, at(3)).await.unwrap();
        assert_moved(store.go_live(&fence, at(3)).await, "going live twice");
        store.take_batch(&fence.batch, at(4)).await.unwrap().expect("it is ours to take");
        let before = store.snapshot().await;
        assert_moved(store.calling(&fence, BatchState::Submitted, &[0]).await, "calling under an old epoch");
        before.assert_same(&store.snapshot().await, "a call of a fenced holder");
    }

    async fn a_canary_is_tried_while_its_batch_is_open_and_its_first_word_stands(store: Fixture) {
        let job = store.driven("letters", 6).await;
        let (account, pack) = ("acme", "chat small");
        assert_eq!(store.canary(account, pack).await.unwrap(), None);
        let fence = opened_as(&store, &job, Mode::Canary, 2).await;
        let trying = Canary { state: CanaryState::Trying, tried_at: at(2) };
        assert_eq!(store.canary(account, pack).await.unwrap(), Some(trying));
        assert_eq!(store.canary("another", pack).await.unwrap(), None);
        let refused = CanaryState::Refused { code: "unsupported_value".to_owned(), message: "no".to_owned() };
        store.canary_said(&fence.batch, &refused, at(7)).await.unwrap();
        store.canary_said(&fence.batch, &CanaryState::Passed, at(8)).await.unwrap();
        let known = store.canary(account, pack).await.unwrap();
        assert_eq!(known, Some(Canary { state: refused, tried_at: at(7) }));
        let again = opened_as(&store, &job, Mode::Canary, 2).await;
        assert_eq!(store.canary(account, pack).await.unwrap().unwrap().state, CanaryState::Trying);
        store.settle_all(&again, BatchState::Planned, RequestState::Missing).await.unwrap();
        store.abandoned(&again, BatchState::Planned, "gone", at(9)).await.unwrap();
        assert_eq!(store.canary(account, pack).await.unwrap().unwrap().state, CanaryState::Unclear);
        store.canary_said(&fence.batch, &CanaryState::Passed, at(9)).await.unwrap();
        let known = store.canary(account, pack).await.unwrap().unwrap();
        assert_eq!(known.state, CanaryState::Unclear, "an older try has no say any more");
    }

    async fn a_limit_of_the_queue_is_believed_for_a_time_and_for_its_model(store: Fixture) {
        let ago = |hours: u64| at(0) - Duration::from_secs(hours * 3_600);
        assert_eq!(store.queue_limit("acme", "small", ago(1)).await.unwrap(), None);
        store.learn_queue_limit("acme", "small", 500, at(0)).await.unwrap();
        assert_eq!(store.queue_limit("acme", "small", ago(1)).await.unwrap(), Some(500));
        store.learn_queue_limit("acme", "small", 250, at(1)).await.unwrap();
        assert_eq!(store.queue_limit("acme", "small", at(1)).await.unwrap(), Some(250));
        assert_eq!(store.queue_limit("acme", "small", at(2)).await.unwrap(), None);
        assert_eq!(store.queue_limit("acme", "large", ago(1)).await.unwrap(), None);
        assert_eq!(store.queue_limit("other", "small", ago(1)).await.unwrap(), None);
    }

    async fn the_depth_of_a_pack_is_counted_to_a_limit_and_not_beyond_the_round(store: Fixture) {
        let job = store.driven("letters", 6).await;
        assert_eq!(store.pack_depth("letters", 1, "chat small", 100).await.unwrap(), 6);
        assert_eq!(store.pack_depth("letters", 1, "chat small", 4).await.unwrap(), 4);
        assert_eq!(store.pack_depth("letters", 1, "another", 100).await.unwrap(), 0);
        let fence = store.opened(&job, 2).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        store.settle_all(&fence, BatchState::Ended, RequestState::Errored).await.unwrap();
        assert_eq!(store.pack_depth("letters", 1, "chat small", 100).await.unwrap(), 4, "the next round's are not due");
        assert_eq!(store.pack_depth("letters", 2, "chat small", 100).await.unwrap(), 6);
    }
}
