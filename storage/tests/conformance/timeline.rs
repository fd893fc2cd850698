//! What a failover puts in doubt: PostgreSQL only.

use crate::fixture::at;
use storage::StoreError;
use storage::model::{BatchState, JobState};

only_on! { Postgres:
    async fn f17_on_a_timeline_that_nobody_has_looked_into_nothing_is_bought(store: Fixture) {
        let planned = store.batch_in(BatchState::Planned).await;
        let submitted = store.batch_in(BatchState::Submitted).await;
        assert_eq!(store.look_for_failover(at(5)).await.unwrap(), None, "the first look notes where it is");
        assert_eq!(store.look_for_failover(at(5)).await.unwrap(), None);
        store.raw.exec("UPDATE compatibility SET timeline = 0").await;
        let refused = store.commit_create(&planned, at(6)).await;
        assert!(matches!(refused, Err(StoreError::FailedOver { from: 0, to: 1 })), "{refused:?}");
        assert_eq!(store.batch_row(&planned).await.state, BatchState::Planned);
        let found = store.look_for_failover(at(7)).await.unwrap().expect("it was failed over");
        assert_eq!((found.from, found.to, found.batches, found.jobs), (0, 1, 1, 2));
        assert_eq!(store.look_for_failover(at(8)).await.unwrap(), None, "once");
        let row = store.batch_row(&planned).await;
        assert_eq!((row.state, row.holder.as_deref(), row.next_at), (BatchState::Unknown, None, at(7)));
        assert!(row.epoch > planned.epoch && row.intent_at.is_some());
        let events = store.batch_events(&planned.batch).await.unwrap();
        let words: Vec<&str> = events.iter().map(|(_, _, event, _)| event.as_str()).collect();
        assert!(words.ends_with(&["committed", "answer_lost"]), "{words:?}");
        for fence in [&planned, &submitted] {
            let job = store.job(&store.batch_row(fence).await.job).await.unwrap().expect("its job");
            assert_eq!(job.state, JobState::Suspended);
            assert!(job.detail.is_some_and(|detail| detail.starts_with("failover|") && detail.contains("timeline 0 to 1")));
        }
        assert_eq!(store.batch_row(&submitted).await.state, BatchState::Submitted, "the provider has that one");
    }
}
