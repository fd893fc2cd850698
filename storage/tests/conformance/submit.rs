//! The submit protocol: from a plan to a batch that the provider has, and to its end.

use crate::fixture::{Fixture, assert_moved, at, provider_id, says, up_to};
use crate::writes::{LIVE, WRITES};
use storage::model::{BatchEvent, BatchId, BatchState, Epoch, RequestState, batch};
use storage::store::{Fence, Opened};
use storage::{Class, StoreError};

on_both! {
    async fn every_edge_of_a_batch_is_walked_by_one_write_and_logged_once(store: Fixture) {
        // A batch that is imported is not there before: see `imported.rs`.
        for (from, event, to) in batch::EDGES.iter().filter(|(_, event, _)| *event != BatchEvent::Imported) {
            let write = WRITES.iter().find(|write| write.from() == *from && write.event() == Some(*event));
            let write = write.unwrap_or_else(|| panic!("no operation moves a batch from {from} by {event:?}"));
            let fence = store.ready_for(*write).await;
            let before = store.batch_events(&fence.batch).await.unwrap();
            write.carry_out(&store, &fence).await.unwrap_or_else(|error| panic!("{write:?}: {error}"));
            assert_eq!(store.batch_row(&fence).await.state, *to, "{write:?}");
            let after = store.batch_events(&fence.batch).await.unwrap();
            assert_eq!(after[..before.len()], before, "a log is only ever appended to");
            let [(when, epoch, name, _)] = &after[before.len()..] else { panic!("{write:?} logged {after:?}") };
            assert_eq!((*when, *epoch, name.as_str()), (at(50).millis(), fence.epoch.number(), event.word()));
        }
    }

    async fn a_write_that_is_no_move_changes_one_row_and_logs_nothing(store: Fixture) {
        for write in WRITES.iter().filter(|write| write.event().is_none()) {
            let fence = store.ready_for(*write).await;
            let log = store.batch_events(&fence.batch).await.unwrap();
            let others = store.raw.rows("SELECT * FROM batches ORDER BY id").await;
            write.carry_out(&store, &fence).await.unwrap_or_else(|error| panic!("{write:?}: {error}"));
            assert_eq!(store.batch_row(&fence).await.state, write.from());
            assert_eq!(store.batch_events(&fence.batch).await.unwrap(), log, "{write:?}");
            let now = store.raw.rows("SELECT * FROM batches ORDER BY id").await;
            let changed = others.iter().zip(&now).filter(|(before, after)| before != after).count();
            assert!(changed <= 1, "{write:?} changed {changed} batches");
        }
    }

    async fn a_write_from_a_wrong_state_changes_nothing(store: Fixture) {
        for state in BatchState::ALL {
            let fence = store.batch_in(*state).await;
            let before = store.snapshot().await;
            for write in WRITES.iter().filter(|write| write.from() != *state) {
                assert_moved(write.carry_out(&store, &fence).await, &format!("{write:?} on a {state} batch"));
                before.assert_same(&store.snapshot().await, &format!("{write:?} on a {state} batch"));
            }
        }
    }

    /// Invariant 4, for the epoch before and for one that was never given out.
    async fn a_write_with_another_epoch_changes_nothing(store: Fixture) {
        for write in WRITES {
            let fence = store.ready_for(*write).await;
            let epoch = store.take_batch(&fence.batch, at(10)).await.unwrap().expect("it is ours to take");
            assert!(epoch > fence.epoch);
            let before = store.snapshot().await;
            for wrong in [fence.epoch, Epoch::from_number(epoch.number() + 1), Epoch::default()] {
                let stale = Fence { batch: fence.batch.clone(), epoch: wrong };
                assert_moved(write.carry_out(&store, &stale).await, &format!("{write:?} under epoch {wrong}"));
                before.assert_same(&store.snapshot().await, &format!("{write:?} under epoch {wrong}"));
            }
            let held = Fence { batch: fence.batch, epoch };
            write.carry_out(&store, &held).await.unwrap_or_else(|error| panic!("{write:?}: {error}"));
        }
    }

    async fn a_batch_that_does_not_exist_cannot_be_written(store: Fixture) {
        let fence = Fence { batch: BatchId::from_text("bat_none"), epoch: Epoch::from_number(1) };
        for write in WRITES {
            assert_moved(write.carry_out(&store, &fence).await, &format!("{write:?}"));
        }
        assert_eq!(store.batch(&fence.batch).await.unwrap(), None);
        assert_eq!(store.batch_events(&fence.batch).await.unwrap(), []);
    }

    async fn each_step_of_a_submit_is_durable_before_the_next(store: Fixture) {
        let job = store.driven("letters", 3).await;
        let fence = store.opened(&job, 3).await;
        store.upload_started(&fence, at(10)).await.unwrap();
        assert_eq!(store.batch_row(&fence).await.upload_started_at, Some(at(10)));
        store.file_stored(&fence, "file-1").await.unwrap();
        assert_eq!(store.batch_row(&fence).await.input_file_id.as_deref(), Some("file-1"));
        store.arm(&fence, Some("newest before"), at(11)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.intent_at, row.lane_cursor.as_deref()), (Some(at(11)), Some("newest before")));
        assert_eq!(row.state, BatchState::Planned);
        store.commit_create(&fence, at(12)).await.unwrap();
        assert_eq!(attempts(&store, &fence).await, ["leased", "leased", "leased"]);
        store.accepted(&fence, "provider 1", at(13)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.provider_batch_id.as_deref(), row.submitted_at), (Some("provider 1"), Some(at(13))));
        assert!(!row.provisional);
        assert_eq!(attempts(&store, &fence).await, ["started", "started", "started"]);
        store.polled(&fence, BatchState::Submitted, "in_progress", at(20)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.provider_status.as_deref(), row.next_at, row.strikes), (Some("in_progress"), at(20), 0));
        store.ended(&fence, BatchState::Submitted, "completed", (Some("out"), None), at(21)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.ended_at, row.next_at), (BatchState::Ended, Some(at(21)), at(21)));
        assert_eq!((row.output_ref.as_deref(), row.error_ref.as_deref()), (Some("out"), None));
        assert_eq!((row.provider_status.as_deref(), row.finished_at), (Some("completed"), None));
        let log = store.batch_events(&fence.batch).await.unwrap();
        let names: Vec<_> = log.iter().map(|(_, _, name, _)| name.as_str()).collect();
        assert_eq!(names, ["planned", "committed", "accepted", "ended"]);
        assert_eq!(log[2].3, r#"{"provider_batch_id":"provider 1"}"#);
        assert_eq!(log[3].3, r#"{"provider_status":"completed"}"#);
    }

    async fn a_create_that_was_not_armed_cannot_be_committed(store: Fixture) {
        let fence = store.batch_in(BatchState::Planned).await;
        let before = store.snapshot().await;
        let answer = store.commit_create(&fence, at(10)).await;
        assert!(matches!(&answer, Err(StoreError::Database(_))), "{answer:?}");
        before.assert_same(&store.snapshot().await, "an unarmed commit");
    }

    async fn a_declined_create_is_planned_again_and_counts_its_strikes(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitting).await;
        store.declined(&fence, "429", at(70), at(10)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.next_at, row.strikes), (BatchState::Planned, at(70), 1));
        assert_eq!((row.reason.as_deref(), row.create_no), (Some("429"), 1));
        store.arm(&fence, None, at(70)).await.unwrap();
        assert_eq!(store.batch_row(&fence).await.lane_cursor, None);
        store.commit_create(&fence, at(71)).await.unwrap();
        store.declined(&fence, "503 busy", at(90), at(72)).await.unwrap();
        assert_eq!(store.batch_row(&fence).await.strikes, 2);
        store.arm(&fence, None, at(90)).await.unwrap();
        store.commit_create(&fence, at(91)).await.unwrap();
        store.accepted(&fence, "provider 3", at(92)).await.unwrap();
        assert_eq!(store.batch_row(&fence).await.strikes, 0);
    }

    async fn each_look_is_counted_until_one_brings_something_new(store: Fixture) {
        for state in LIVE {
            let fence = store.batch_in(state).await;
            let strikes = store.batch_row(&fence).await.strikes;
            store.look_again(&fence, state, at(60)).await.unwrap();
            store.look_again(&fence, state, at(61)).await.unwrap();
            let row = store.batch_row(&fence).await;
            assert_eq!((row.state, row.next_at, row.strikes), (state, at(61), strikes + 2));
        }
        let fence = store.batch_in(BatchState::Cancelling).await;
        store.look_again(&fence, BatchState::Cancelling, at(60)).await.unwrap();
        store.polled(&fence, BatchState::Cancelling, "cancelling", at(62)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.strikes, row.next_at, row.provider_status.as_deref()), (0, at(62), Some("cancelling")));
    }

    async fn a_cancelled_batch_still_ends_with_its_results(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        store.cancel_asked(&fence, "operator", at(10)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.reason.as_deref()), (BatchState::Cancelling, Some("operator")));
        store.ended(&fence, BatchState::Cancelling, "cancelled", (Some("partial"), None), at(11)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.output_ref.as_deref()), (BatchState::Ended, Some("partial")));
    }

    /// Invariant 1, also for who says that a terminal state is what it expects.
    async fn a_terminal_batch_never_changes_again(store: Fixture) {
        for state in [BatchState::Collected, BatchState::Abandoned] {
            let fence = store.batch_in(state).await;
            let before = store.snapshot().await;
            assert_moved(store.look_again(&fence, state, at(60)).await, "a look");
            assert_moved(store.polled(&fence, state, "busy", at(61)).await, "a poll");
            assert_moved(store.ended(&fence, state, "done", (None, None), at(62)).await, "an end");
            assert_moved(store.abandoned(&fence, state, "no", at(63)).await, "giving it up");
            let again = [says(0, RequestState::Succeeded)];
            assert_eq!(store.settle(&fence, state, 1, &again, at(64)).await.unwrap().ignored, 1);
            before.assert_same(&store.snapshot().await, &format!("writes on a batch that is {state}"));
        }
    }

    async fn a_provider_batch_belongs_to_one_batch_of_its_account(store: Fixture) {
        let first = store.batch_in(BatchState::Submitted).await;
        let second = store.batch_in(BatchState::Submitting).await;
        let before = store.snapshot().await;
        let answer = store.accepted(&second, &provider_id(&first), at(10)).await;
        assert_eq!(answer.unwrap_err().class(), Class::Conflict);
        before.assert_same(&store.snapshot().await, "a provider id taken twice");
        let mut elsewhere = store.new_job("elsewhere");
        elsewhere.scope.account = "another account".to_owned();
        let job = store.driven_with(&elsewhere, &store.runs(0..1)).await;
        let (batch, opened) = store.ask(&job, up_to(1), at(2)).await.unwrap();
        let Opened::Batch { epoch, .. } = opened else { panic!("{opened:?}") };
        let third = Fence { batch, epoch };
        store.bring(&third, BatchState::Submitting).await.unwrap();
        store.accepted(&third, &provider_id(&first), at(11)).await.expect("another account has its own ids");
    }
}

async fn attempts(store: &Fixture, fence: &Fence) -> Vec<String> {
    let sql = format!("SELECT state FROM attempts WHERE batch_id = '{}' ORDER BY batch_pos", fence.batch);
    store.raw.rows(&sql).await.into_iter().flatten().flatten().collect()
}
