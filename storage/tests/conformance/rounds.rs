//! Rounds: opened in order, closed once, with counts that are computed or absent.

use crate::fixture::{Driven, assert_moved, at, up_to};
use storage::model::{BatchState, Epoch, JobEvent, JobState, RequestState, Source};
use storage::store::{Opened, RoundRow};

on_both! {
    /// Invariant 25.
    async fn a_rounds_counts_are_absent_until_it_is_closed(store: Fixture) {
        let job = store.driven("letters", 5).await;
        let open =
            RoundRow { round: 1, pending_before: 5, pending_after: None, carried: None, errored: None, ended_at: None };
        assert_eq!(store.rounds(&job.id, 9).await.unwrap(), [open]);
        let fence = store.opened(&job, 4).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        let verdicts = [RequestState::Succeeded, RequestState::Errored, RequestState::Canceled, RequestState::Refused];
        let verdicts: Vec<_> =
            verdicts.into_iter().zip(0..).map(|(state, pos)| crate::fixture::says(pos, state)).collect();
        store.settle(&fence, BatchState::Ended, 1, &verdicts, at(8)).await.unwrap();
        store.close_round(&job.id, job.epoch, 1, at(9)).await.unwrap();
        let closed = RoundRow {
            round: 1,
            pending_before: 5,
            pending_after: Some(3),
            carried: Some(3),
            errored: Some(2),
            ended_at: Some(at(9).millis()),
        };
        assert_eq!(store.rounds(&job.id, 9).await.unwrap(), [closed]);
    }

    async fn a_round_in_which_nothing_was_carried_closes_with_zeros(store: Fixture) {
        let job = store.driven("letters", 5).await;
        store.close_round(&job.id, job.epoch, 1, at(9)).await.unwrap();
        let row = &store.rounds(&job.id, 1).await.unwrap()[0];
        assert_eq!((row.pending_after, row.carried, row.errored), (Some(5), Some(0), Some(0)));
    }

    /// Whoever closes it may have looked just before the batch was opened.
    async fn a_round_with_runs_in_a_batch_stays_open(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let fence = store.opened(&job, 2).await;
        store.close_round(&job.id, job.epoch, 1, at(3)).await.unwrap();
        assert_eq!(store.rounds(&job.id, 9).await.unwrap()[0].ended_at, None);
        store.bring(&fence, BatchState::Collected).await.unwrap();
        store.close_round(&job.id, job.epoch, 1, at(9)).await.unwrap();
        assert_eq!(store.rounds(&job.id, 9).await.unwrap()[0].carried, Some(2));
    }

    /// Invariant 22.
    async fn rounds_open_only_in_order_and_only_by_who_drives(store: Fixture) {
        let job = store.driven("letters", 1).await;
        let before = store.snapshot().await;
        for round in [-1, 0, 1, 3] {
            assert_moved(store.open_round(&job.id, job.epoch, round, at(2)).await, &format!("round {round}"));
        }
        for wrong in [0, 2] {
            assert_moved(store.open_round(&job.id, Epoch::from_number(wrong), 2, at(2)).await, "another epoch");
            assert_moved(store.close_round(&job.id, Epoch::from_number(wrong), 1, at(2)).await, "another epoch");
        }
        for round in [0, 2] {
            assert_moved(store.close_round(&job.id, job.epoch, round, at(2)).await, "another round");
        }
        before.assert_same(&store.snapshot().await, "rounds out of order");
        store.open_round(&job.id, job.epoch, 2, at(2)).await.unwrap();
        assert_moved(store.close_round(&job.id, job.epoch, 1, at(3)).await, "a round that is past");
        assert_eq!(store.job(&job.id).await.unwrap().unwrap().round, 2);
    }

    async fn nothing_is_claimed_between_two_rounds(store: Fixture) {
        let job = store.driven("letters", 2).await;
        store.close_round(&job.id, job.epoch, 1, at(9)).await.unwrap();
        let before = store.snapshot().await;
        let (_, opened) = store.ask(&job, up_to(9), at(10)).await.unwrap();
        assert_eq!(opened, Opened::NothingQueued);
        before.assert_same(&store.snapshot().await, "a claim between two rounds");
        store.open_round(&job.id, job.epoch, 2, at(11)).await.unwrap();
        let (_, opened) = store.ask(&job, up_to(9), at(12)).await.unwrap();
        assert!(matches!(opened, Opened::Batch { requests: 2, .. }), "{opened:?}");
    }

    async fn closing_a_round_again_changes_nothing(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let fence = store.opened(&job, 2).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        store.settle_all(&fence, BatchState::Ended, RequestState::Succeeded).await.unwrap();
        store.close_round(&job.id, job.epoch, 1, at(9)).await.unwrap();
        let before = store.snapshot().await;
        store.close_round(&job.id, job.epoch, 1, at(10)).await.unwrap();
        before.assert_same(&store.snapshot().await, "closing again");
    }

    async fn a_job_that_is_not_running_opens_and_closes_no_round(store: Fixture) {
        let job = store.driven("letters", 1).await;
        store.step(&job, JobState::Running, JobEvent::Suspended).await.unwrap();
        let before = store.snapshot().await;
        assert_moved(store.open_round(&job.id, job.epoch, 2, at(2)).await, "a round of a suspended job");
        assert_moved(store.close_round(&job.id, job.epoch, 1, at(2)).await, "a round of a suspended job");
        before.assert_same(&store.snapshot().await, "a suspended job");
        store.step(&job, JobState::Suspended, JobEvent::Resumed).await.unwrap();
        let epoch = store.take_job(&job.id, at(3)).await.unwrap().unwrap();
        let job = Driven { epoch, ..job };
        store.open_round(&job.id, job.epoch, 2, at(4)).await.expect("resumed at the next round, as the same job");
    }

    async fn the_latest_rounds_come_first(store: Fixture) {
        let job = store.driven("letters", 3).await;
        for round in 2..=5 {
            store.open_round(&job.id, job.epoch, round, at(round)).await.unwrap();
        }
        let rounds: Vec<_> = store.rounds(&job.id, 3).await.unwrap().into_iter().map(|row| row.round).collect();
        assert_eq!(rounds, [5, 4, 3]);
        assert_eq!(store.rounds(&job.id, 99).await.unwrap().len(), 5);
        assert_eq!(store.rounds(&storage::model::JobId::from_text("job_none"), 9).await.unwrap(), []);
    }

    async fn a_round_counts_its_own_jobs_batches_and_not_its_neighbours(store: Fixture) {
        let backfill = store.driven("letters", 4).await;
        store.opened(&backfill, 1).await;
        let mut asked = store.new_job("letters");
        asked.source = Source::Daemon;
        let daemon = store.driven_with(&asked, &[]).await;
        assert_eq!(store.job(&daemon.id).await.unwrap().unwrap().round, 2);
        store.open_round(&backfill.id, backfill.epoch, 2, at(3)).await.unwrap();
        let fence = store.opened(&daemon, 2).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        store.settle_all(&fence, BatchState::Ended, RequestState::Errored).await.unwrap();
        store.close_round(&backfill.id, backfill.epoch, 2, at(9)).await.unwrap();
        let row = &store.rounds(&backfill.id, 1).await.unwrap()[0];
        assert_eq!((row.carried, row.errored), (Some(0), Some(0)));
        store.close_round(&daemon.id, daemon.epoch, 2, at(9)).await.unwrap();
        let row = &store.rounds(&daemon.id, 1).await.unwrap()[0];
        assert_eq!((row.carried, row.errored), (Some(2), Some(2)));
    }
}
