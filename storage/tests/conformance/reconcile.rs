//! What happens while it is not known whether a provider has a batch, and to what a provider has twice.

use crate::fixture::{assert_moved, at, provider_id};
use storage::model::{BatchState, Money, RequestState};
use storage::store::Stray;

on_both! {
    async fn an_unknown_batch_that_is_found_goes_on_as_submitted(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        assert_eq!(store.batch_row(&fence).await.reason.as_deref(), Some("cut"));
        store.look_again(&fence, BatchState::Unknown, at(20)).await.unwrap();
        store.found(&fence, "provider 7", false, at(21)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.provisional, row.create_no), (BatchState::Submitted, false, 1));
        assert_eq!((row.provider_batch_id.as_deref(), row.submitted_at), (Some("provider 7"), Some(at(21))));
        assert_eq!((row.strikes, row.next_at), (0, at(21)));
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM attempts WHERE state = 'started'").await, 2);
        let log = store.batch_events(&fence.batch).await.unwrap();
        let names: Vec<_> = log.iter().map(|(_, _, name, _)| name.as_str()).collect();
        assert_eq!(names, ["planned", "committed", "answer_lost", "found"]);
        assert_eq!(log[3].3, r#"{"provider_batch_id":"provider 7","provisional":false}"#);
    }

    /// Invariant 13.
    async fn a_batch_is_created_again_only_with_its_absence_on_record(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let fence = store.opened(&job, 2).await;
        store.upload_started(&fence, at(3)).await.unwrap();
        store.file_stored(&fence, "file-1").await.unwrap();
        store.bring(&fence, BatchState::Unknown).await.unwrap();
        let first_key = store.batch_row(&fence).await.create_key();
        store.first_absence(&fence, at(20), at(30)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.first_absent_at, row.next_at), (BatchState::Unknown, Some(at(20)), at(30)));
        assert_eq!(row.input_file_id.as_deref(), Some("file-1"), "one look proves nothing");
        store.absence_proven(&fence, at(20), at(31)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.create_no, row.epoch), (BatchState::Planned, 2, fence.epoch));
        assert_eq!((row.input_file_id.clone(), row.upload_started_at, row.intent_at), (None, None, None));
        assert_eq!((row.first_absent_at, row.reason.clone(), row.next_at), (None, None, at(31)));
        assert_ne!(row.create_key(), first_key);
        assert_eq!(row.requests, 2, "the same runs, not claimed anew");
        let log = store.batch_events(&fence.batch).await.unwrap();
        let proof = format!("{{\"absent_at\":[{},{}]}}", at(20).millis(), at(31).millis());
        assert_eq!(
            log.last().map(|(_, _, name, data)| (name.as_str(), data.as_str())),
            Some(("absence_proven", proof.as_str()))
        );
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM attempts").await, 2);
        store.bring(&fence, BatchState::Collected).await.expect("the second create runs its course");
    }

    async fn an_operator_may_give_an_unknown_batch_up(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        store.settle_all(&fence, BatchState::Unknown, RequestState::Missing).await.unwrap();
        store.abandoned(&fence, BatchState::Unknown, "operator", at(40)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.reason.as_deref()), (BatchState::Abandoned, Some("operator")));
        assert_eq!((row.finished_at, row.reserved), (Some(at(40)), Money::ZERO));
        assert_eq!(store.raw.number("SELECT COUNT(*) FROM runs WHERE state = 'queued' AND attempts = 1").await, 2);
    }

    async fn an_adoption_that_its_results_prove_is_certain(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        store.found(&fence, "provider 7", true, at(20)).await.unwrap();
        assert!(store.batch_row(&fence).await.provisional);
        store.ended(&fence, BatchState::Submitted, "ended", (Some("out"), None), at(21)).await.unwrap();
        assert!(store.batch_row(&fence).await.provisional);
        store.adoption_proved(&fence).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.provisional), (BatchState::Ended, false));
        assert_eq!(row.provider_batch_id.as_deref(), Some("provider 7"));
    }

    async fn an_adoption_that_its_results_disprove_is_undone(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        store.found(&fence, "somebody else's", true, at(20)).await.unwrap();
        store.ended(&fence, BatchState::Submitted, "ended", (Some("out"), Some("err")), at(21)).await.unwrap();
        store.adoption_disproved(&fence, at(22)).await.unwrap();
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.provisional, row.create_no), (BatchState::Unknown, false, 1));
        assert_eq!((row.provider_batch_id.clone(), row.submitted_at, row.ended_at), (None, None, None));
        assert_eq!((row.output_ref.clone(), row.error_ref.clone(), row.next_at), (None, None, at(22)));
        assert_eq!(store.open_positions(&fence, 9).await.unwrap(), [0, 1], "nothing was settled by another's results");
        let owner = store.batch_in(BatchState::Submitting).await;
        store.accepted(&owner, "somebody else's", at(23)).await.expect("its owner can have it");
        store.found(&fence, "ours", false, at(24)).await.unwrap();
        store.ended(&fence, BatchState::Submitted, "ended", (Some("out 2"), None), at(25)).await.unwrap();
        store.settle_all(&fence, BatchState::Ended, RequestState::Succeeded).await.unwrap();
        store.collected(&fence, at(26)).await.unwrap();
    }

    async fn a_disproved_batch_can_still_be_proven_absent(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        store.first_absence(&fence, at(19), at(20)).await.unwrap();
        store.found(&fence, "somebody else's", true, at(20)).await.unwrap();
        store.ended(&fence, BatchState::Submitted, "ended", (None, None), at(21)).await.unwrap();
        store.adoption_disproved(&fence, at(22)).await.unwrap();
        assert_eq!(store.batch_row(&fence).await.first_absent_at, None, "the proof begins anew");
        store.first_absence(&fence, at(30), at(40)).await.unwrap();
        store.absence_proven(&fence, at(30), at(40)).await.unwrap();
        store.bring(&fence, BatchState::Collected).await.expect("the second create runs its course");
    }

    async fn a_stray_is_booked_once_and_cancelled_once(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        assert!(store.book_stray(&fence.batch, "acme", "stray b", 5, at(20)).await.unwrap());
        assert!(store.book_stray(&fence.batch, "acme", "stray a", 4, at(20)).await.unwrap());
        assert!(store.book_stray(&fence.batch, "another", "stray a", 3, at(20)).await.unwrap());
        let before = store.snapshot().await;
        assert!(!store.book_stray(&fence.batch, "acme", "stray b", 99, at(21)).await.unwrap());
        before.assert_same(&store.snapshot().await, "a stray booked again");
        assert_eq!(names(&store.open_strays("acme").await.unwrap()), ["stray a", "stray b"]);
        store.stray_cancelled("acme", "stray a").await.unwrap();
        assert_eq!(names(&store.open_strays("acme").await.unwrap()), ["stray b"]);
        assert_eq!(names(&store.open_strays("another").await.unwrap()), ["stray a"]);
        let before = store.snapshot().await;
        store.stray_cancelled("acme", "stray a").await.unwrap();
        store.stray_cancelled("acme", "never booked").await.unwrap();
        assert!(!store.book_stray(&fence.batch, "acme", "stray a", 4, at(22)).await.unwrap(), "it stays cancelled");
        before.assert_same(&store.snapshot().await, "a stray cancelled again");
        let all = store.strays(&fence.batch).await.unwrap();
        assert_eq!(all.len(), 3);
        assert!(all.contains(&Stray {
            account: "acme".to_owned(),
            provider_batch_id: "stray a".to_owned(),
            batch_id: fence.batch.to_string(),
            requests: 4,
            state: "cancelled".to_owned(),
        }));
        let other = store.batch_in(BatchState::Planned).await;
        assert_eq!(store.strays(&other.batch).await.unwrap(), []);
    }

    async fn what_is_known_of_an_account_is_what_we_hold_its_strays_and_what_is_foreign(store: Fixture) {
        let submitted = store.batch_in(BatchState::Submitted).await;
        store.batch_in(BatchState::Planned).await;
        store.book_stray(&submitted.batch, "acme", "a stray", 2, at(20)).await.unwrap();
        store.book_stray(&submitted.batch, "acme", &provider_id(&submitted), 2, at(20)).await.unwrap();
        store.book_foreign(&submitted.batch, "acme", "foreign", at(20)).await.unwrap();
        store.book_stray(&submitted.batch, "another", "elsewhere", 2, at(20)).await.unwrap();
        let mut known = store.known_provider_ids("acme").await.unwrap();
        known.sort();
        let expected = ["a stray".to_owned(), "foreign".to_owned(), provider_id(&submitted)];
        assert_eq!(known, expected, "each of them once");
        assert_eq!(store.known_provider_ids("nobody").await.unwrap(), Vec::<String>::new());
    }

    async fn what_is_foreign_is_remembered_and_never_cancelled(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        store.book_foreign(&fence.batch, "acme", "theirs", at(20)).await.unwrap();
        store.book_stray(&fence.batch, "acme", "ours twice", 3, at(20)).await.unwrap();
        let before = store.snapshot().await;
        store.book_foreign(&fence.batch, "acme", "theirs", at(21)).await.unwrap();
        store.book_foreign(&fence.batch, "acme", "ours twice", at(21)).await.unwrap();
        assert!(!store.book_stray(&fence.batch, "acme", "theirs", 9, at(21)).await.unwrap());
        store.stray_cancelled("acme", "theirs").await.unwrap();
        before.assert_same(&store.snapshot().await, "what is foreign already");
        assert_eq!(names(&store.open_strays("acme").await.unwrap()), ["ours twice"], "what is foreign is left alone");
        let states: Vec<_> = store.strays(&fence.batch).await.unwrap().into_iter().map(|stray| stray.state).collect();
        assert_eq!(states, ["found", "foreign"]);
    }

    async fn a_lane_is_busy_while_another_create_has_no_definite_answer(store: Fixture) {
        let waiting = store.batch_in(BatchState::Planned).await;
        for state in BatchState::ALL {
            let other = store.batch_in(*state).await;
            let open = matches!(state, BatchState::Submitting | BatchState::Unknown);
            assert_eq!(store.lane_is_busy("acme", &waiting.batch).await.unwrap(), open, "{state}");
            assert!(!store.lane_is_busy("acme", &other.batch).await.unwrap(), "nobody waits for itself");
            assert!(!store.lane_is_busy("another", &waiting.batch).await.unwrap());
            if open {
                store.raw.exec(&format!("UPDATE batches SET account = 'past' WHERE id = '{}'", other.batch)).await;
            }
        }
    }

    async fn batches_that_were_created_twice_are_found(store: Fixture) {
        let once = store.batch_in(BatchState::Unknown).await;
        let pool = store.batch_row(&once).await.pool;
        assert_eq!(store.created_twice(Some(&pool)).await.unwrap(), []);
        store.absence_proven(&once, at(10), at(20)).await.unwrap();
        let twice = store.created_twice(Some(&pool)).await.unwrap();
        assert_eq!(twice, [store.batch_row(&once).await]);
        let elsewhere = store.batch_in(BatchState::Unknown).await;
        store.absence_proven(&elsewhere, at(10), at(20)).await.unwrap();
        assert_eq!(store.created_twice(Some(&pool)).await.unwrap().len(), 1);
        assert_eq!(store.created_twice(None).await.unwrap().len(), 2);
        assert_eq!(store.created_twice(Some("another pool")).await.unwrap(), []);
    }

    async fn an_absence_cannot_be_proven_of_what_the_provider_has(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        store.found(&fence, "provider 7", false, at(20)).await.unwrap();
        let before = store.snapshot().await;
        assert_moved(store.first_absence(&fence, at(21), at(22)).await, "a late look");
        assert_moved(store.absence_proven(&fence, at(10), at(21)).await, "a late proof");
        before.assert_same(&store.snapshot().await, "a late proof");
    }
}

fn names(strays: &[Stray]) -> Vec<&str> {
    strays.iter().map(|stray| stray.provider_batch_id.as_str()).collect()
}
