//! What a failover, a dump that is restored and a copy put in doubt.

use crate::fixture::{Fixture, assert_moved, at, up_to};
use storage::StoreError;
use storage::model::{BatchState, JobState, Mode};
use storage::store::{Doubt, Fence, Opened, copy_into, mark_copy};

/// What is known of a batch: its state, whether its fence still holds, and whether its absence has begun to be proven.
async fn stands(store: &Fixture, fence: &Fence) -> (BatchState, bool, bool) {
    let row = store.batch_row(fence).await;
    (row.state, row.epoch == fence.epoch, row.first_absent_at.is_some())
}

/// Every state of a batch before and after a doubt that nobody has announced to it.
async fn every_batch_is_judged_by_its_state(store: &Fixture, doubt: Doubt) {
    let mut fences = Vec::new();
    for &state in BatchState::ALL {
        fences.push((state, store.batch_in(state).await));
    }
    let looked = store.batch_in(BatchState::Unknown).await;
    store.first_absence(&looked, at(3), at(4)).await.unwrap();
    let ghost = store.created(&store.new_job("ghost")).await;
    match doubt {
        Doubt::Copied { at } => {
            store.raw.exec(&format!("UPDATE compatibility SET copied_at = {}", at.millis())).await;
        }
        Doubt::Elsewhere => {
            store.raw.exec("UPDATE compatibility SET origin = 'elsewhere'").await;
        }
        Doubt::Timeline { from, .. } => {
            store.raw.exec(&format!("UPDATE compatibility SET timeline = {from}")).await;
        }
    }
    let planned =
        fences.iter().find(|(state, _)| *state == BatchState::Planned).map(|(_, fence)| fence.clone()).unwrap();
    let refused = store.commit_create(&planned, at(6)).await;
    assert!(matches!(refused, Err(StoreError::InDoubt { doubt: why }) if why == doubt), "{refused:?}");
    assert_eq!(store.batch_row(&planned).await.state, BatchState::Planned);
    let found = store.look_for_failover(at(7)).await.unwrap().expect("it is in doubt");
    assert_eq!((found.doubt, found.batches), (doubt, 1));
    assert_eq!(store.look_for_failover(at(8)).await.unwrap(), None, "once");
    for (state, fence) in &fences {
        let expected = match state {
            BatchState::Planned => (BatchState::Unknown, false, false),
            // Whoever takes it up marks it as unknown.
            _ => (*state, true, false),
        };
        assert_eq!(stands(store, fence).await, expected, "{state}");
        let job = store.job(&store.batch_row(fence).await.job).await.unwrap().expect("its job");
        assert_eq!(job.state, JobState::Suspended, "{state}");
        assert!(job.detail.as_deref().is_some_and(|detail| detail.starts_with(&format!("failover|{doubt}"))));
    }
    assert_eq!(stands(store, &looked).await, (BatchState::Unknown, false, false), "its proof begins anew");
    assert_moved(store.absence_proven(&looked, at(3), at(9)).await, "a proof from before");
    let row = store.batch_row(&planned).await;
    assert_eq!((row.holder.as_deref(), row.next_at), (None, at(7)));
    assert!(row.intent_at.is_some());
    let events = store.batch_events(&planned.batch).await.unwrap();
    let words: Vec<&str> = events.iter().map(|(_, _, event, _)| event.as_str()).collect();
    assert!(words.ends_with(&["committed", "answer_lost"]), "{words:?}");
    // Its lines are not all there yet: its own command says what is in doubt.
    assert_eq!(store.job(&ghost.id).await.unwrap().expect("a job").state, JobState::Created);
}

on_both! {
    async fn f17_a_copy_doubts_every_batch_that_may_have_been_created_since(store: Fixture) {
        every_batch_is_judged_by_its_state(&store, Doubt::Copied { at: at(2) }).await;
    }

    async fn what_no_listing_shows_is_not_called_from_a_copy(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let (batch, opened) = store.ask_as(&job, Mode::Live, up_to(2), at(2)).await.unwrap();
        let Opened::Batch { epoch, .. } = opened else { panic!("{opened:?}") };
        let fence = Fence { batch, epoch };
        store.go_live(&fence, at(3)).await.unwrap();
        store.raw.exec("UPDATE compatibility SET copied_at = 5").await;
        let refused = store.calling(&fence, BatchState::Submitted, &[0]).await;
        assert!(matches!(refused, Err(StoreError::InDoubt { .. })), "{refused:?}");
        let found = store.look_for_failover(at(7)).await.unwrap().expect("it is in doubt");
        assert_eq!((found.batches, found.jobs), (0, 1));
        assert_eq!(stands(&store, &fence).await, (BatchState::Submitted, true, false));
    }

    async fn what_is_marked_as_a_copy_is_in_doubt_once(store: Fixture) {
        let url = store.url.clone();
        let store = if store.is_sqlite() {
            let refused = mark_copy(&url, at(2)).await;
            assert!(matches!(refused, Err(StoreError::Owned { .. })), "{refused:?}");
            store.marked(at(2)).await
        } else {
            mark_copy(&url, at(2)).await.unwrap();
            // The first mark is the one that says since when.
            mark_copy(&url, at(3)).await.unwrap();
            store
        };
        let doubted = store.doubt().await.unwrap().expect("it is in doubt");
        assert_eq!((doubted.doubt, doubted.since), (Doubt::Copied { at: at(2) }, at(2)));
        assert!(doubted.keys.is_empty() && doubted.ids.is_empty());
        let found = store.look_for_failover(at(7)).await.unwrap().expect("it is in doubt");
        assert_eq!((found.doubt, found.batches, found.jobs), (Doubt::Copied { at: at(2) }, 0, 0));
        assert_eq!(store.look_for_failover(at(8)).await.unwrap(), None);
    }
}

only_on! { Postgres:
    async fn f17_on_a_timeline_that_nobody_has_looked_into_nothing_is_bought(store: Fixture) {
        assert_eq!(store.look_for_failover(at(5)).await.unwrap(), None, "the first look notes where it is");
        assert_eq!(store.look_for_failover(at(5)).await.unwrap(), None);
        every_batch_is_judged_by_its_state(&store, Doubt::Timeline { from: 0, to: 1 }).await;
    }

    async fn f17_in_a_database_that_has_moved_nothing_is_bought(store: Fixture) {
        assert_eq!(store.look_for_failover(at(5)).await.unwrap(), None, "the first look notes where it is");
        every_batch_is_judged_by_its_state(&store, Doubt::Elsewhere).await;
    }
}

only_on! { Sqlite:
    async fn f17_a_copy_knows_that_it_is_one_and_its_original_does_not(store: Fixture) {
        let planned = store.batch_in(BatchState::Planned).await;
        store.arm(&planned, None, at(1)).await.unwrap();
        let path = store.folder.path().join("copy.db");
        assert!(copy_into(&store.url, path.to_str().unwrap(), at(2)).await.unwrap());
        let files: Vec<_> = std::fs::read_dir(store.folder.path()).unwrap().flatten().map(|file| file.file_name()).collect();
        assert!(!files.iter().any(|name| name.to_string_lossy().starts_with("copy.db-")), "{files:?}");
        let copy = crate::fixture::open(&format!("sqlite:{}", path.display()), store.node_id()).await.unwrap();
        let refused = copy.commit_create(&planned, at(3)).await;
        assert!(matches!(refused, Err(StoreError::InDoubt { doubt: Doubt::Copied { .. } })), "{refused:?}");
        assert_eq!(copy.look_for_failover(at(3)).await.unwrap().map(|found| (found.batches, found.jobs)), Some((1, 1)));
        copy.close().await;
        assert_eq!(store.look_for_failover(at(3)).await.unwrap(), None);
        store.commit_create(&planned, at(4)).await.unwrap();
    }

    async fn a_copy_of_a_store_that_has_no_place_for_the_mark_says_so(store: Fixture) {
        store.raw.exec("ALTER TABLE compatibility DROP COLUMN copied_at").await;
        let path = store.folder.path().join("copy.db");
        assert!(!copy_into(&store.url, path.to_str().unwrap(), at(2)).await.unwrap());
        store.raw.exec("ALTER TABLE compatibility ADD COLUMN copied_at BIGINT").await;
    }
}
