//! What a person asks: sums, owners, nodes, and what the database is.

use crate::fixture::{at, provider_id, says};
use storage::model::{BatchState, JobId, RequestState};
use storage::store::{BatchTally, IdOwner};

on_both! {
    async fn a_tally_counts_each_batch_by_how_it_came_about(store: Fixture) {
        assert_eq!(store.tally("letters").await.unwrap(), BatchTally::default());
        let job = store.driven("letters", 9).await;
        let states = [BatchState::Planned, BatchState::Submitting, BatchState::Unknown, BatchState::Submitted];
        for state in states.into_iter().chain([BatchState::Cancelling, BatchState::Ended, BatchState::Abandoned]) {
            let fence = store.opened(&job, 1).await;
            store.bring(&fence, state).await.unwrap();
        }
        let adopted = store.opened(&job, 1).await;
        store.bring(&adopted, BatchState::Unknown).await.unwrap();
        store.found(&adopted, "found", false, at(9)).await.unwrap();
        for stray in ["cancelled", "only found"] {
            store.book_stray(&adopted.batch, "acme", stray, 1, at(9)).await.unwrap();
        }
        store.book_foreign(&adopted.batch, "acme", "foreign", at(9)).await.unwrap();
        store.stray_cancelled("acme", "cancelled").await.unwrap();
        store.batch_in(BatchState::Submitted).await;
        let expected = BatchTally { created: 4, adopted: 1, unknown: 1, cancelled: 1, in_flight: 7 };
        assert_eq!(store.tally("letters").await.unwrap(), expected);
    }

    async fn every_batch_that_a_provider_id_is_booked_for_is_named(store: Fixture) {
        let own = store.batch_in(BatchState::Submitted).await;
        let other = store.batch_in(BatchState::Unknown).await;
        let id = provider_id(&own);
        let owners = store.owners_of_provider_id("acme", &id).await.unwrap();
        let itself = IdOwner { batch_id: own.batch.to_string(), booked_as: None };
        assert_eq!(owners, std::slice::from_ref(&itself));
        store.book_foreign(&other.batch, "acme", &id, at(9)).await.unwrap();
        let owners = store.owners_of_provider_id("acme", &id).await.unwrap();
        let taken = IdOwner { batch_id: other.batch.to_string(), booked_as: Some("foreign".to_owned()) };
        assert!(owners.len() == 2 && owners.contains(&itself) && owners.contains(&taken), "{owners:?}");
        assert_eq!(store.owners_of_provider_id("another", &id).await.unwrap(), []);
        assert_eq!(store.owners_of_provider_id("acme", "").await.unwrap(), []);
    }

    async fn a_jobs_batches_are_counted_by_state_without_empty_states(store: Fixture) {
        let job = store.driven("letters", 5).await;
        for state in [BatchState::Ended, BatchState::Planned, BatchState::Ended] {
            let fence = store.opened(&job, 1).await;
            store.bring(&fence, state).await.unwrap();
        }
        store.batch_in(BatchState::Unknown).await;
        let counted = store.batch_states_of("letters", &job.id).await.unwrap();
        assert_eq!(counted, [(BatchState::Planned, 1), (BatchState::Ended, 2)]);
        assert_eq!(store.batch_states_of("another pool", &job.id).await.unwrap(), []);
        assert_eq!(store.batch_states_of("letters", &JobId::from_text("job_none")).await.unwrap(), []);
    }

    async fn only_a_batch_with_a_settled_request_of_no_price_is_unpriced(store: Fixture) {
        let job = store.driven("letters", 3).await;
        let mut fences = Vec::new();
        for price in [true, false] {
            let fence = store.opened(&job, 1).await;
            store.bring(&fence, BatchState::Ended).await.unwrap();
            let mut verdict = says(0, RequestState::Succeeded);
            verdict.cost = verdict.cost.filter(|_| price);
            store.settle(&fence, BatchState::Ended, 1, &[verdict], at(8)).await.unwrap();
            fences.push(fence.batch);
        }
        fences.push(store.opened(&job, 1).await.batch);
        let unpriced = store.unpriced_among(&fences).await.unwrap();
        assert_eq!(unpriced, [fences[1].to_string()].into());
        assert!(store.unpriced_among(&fences[..1]).await.unwrap().is_empty());
        assert!(store.unpriced_among(&[]).await.unwrap().is_empty());
    }

    async fn nodes_that_are_not_gone_are_listed_the_longest_lapsed_first(store: Fixture) {
        let (late, early, gone) = (store.rival(at(20)).await, store.rival(at(10)).await, store.rival(at(5)).await);
        store.raw.exec(&format!("UPDATE nodes SET state = 'gone' WHERE id = '{gone}'")).await;
        let listed: Vec<_> = store.nodes_not_gone().await.unwrap().into_iter().map(|node| node.id).collect();
        assert_eq!(listed, [early.as_str(), late.as_str(), store.node().as_str()]);
    }

    async fn a_store_says_which_database_it_is(store: Fixture) {
        let engine = store.engine().await.unwrap();
        let (name, journal) = if store.is_sqlite() { ("SQLite", Some("wal")) } else { ("PostgreSQL", None) };
        assert_eq!((engine.name, engine.journal.as_deref()), (name, journal));
        assert!(engine.version.starts_with(|first: char| first.is_ascii_digit()), "{}", engine.version);
        assert_eq!(engine.schema, Some(store.raw.number("SELECT MAX(version) FROM _sqlx_migrations").await));
    }
}
