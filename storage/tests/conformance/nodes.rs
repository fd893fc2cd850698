//! Nodes, their leases, and what changes hands when one is gone.

use crate::fixture::{LEASE, assert_moved, at, open};
use std::time::Duration;
use storage::Class;
use storage::model::{BatchState, JobEvent, JobState, NodeId, Timestamp};
use storage::store::Heard;

on_both! {
    async fn an_open_store_is_a_live_node_that_holds_its_lease(store: Fixture) {
        let row = store.node_row(store.node()).await.unwrap().unwrap();
        assert_eq!((row.state.as_str(), row.pid), ("live", i64::from(std::process::id())));
        assert!(!row.host.is_empty());
        let until = Timestamp::from_millis(row.lease_until);
        assert!(until.since(store.now()) <= LEASE);
        assert!(row.holds_its_lease(store.now()));
        assert!(row.holds_its_lease(until - Duration::from_millis(1)));
        assert!(!row.holds_its_lease(until));
        assert_eq!(store.node_row(&NodeId::from_text("node_none")).await.unwrap(), None);
    }

    async fn renewing_extends_the_lease_by_the_stores_clock(store: Fixture) {
        let first = store.node_row(store.node()).await.unwrap().unwrap().lease_until;
        let before = store.now();
        let until = store.renew_lease(4 * LEASE).await.unwrap().until;
        let row = store.node_row(store.node()).await.unwrap().unwrap();
        assert_eq!(row.lease_until, until.millis());
        assert!(until.millis() > first);
        // The database's clock and ours are one machine's here; a second covers its steps.
        assert!(until + Duration::from_secs(1) >= before + 4 * LEASE);
        assert!(until <= store.now() + 4 * LEASE + Duration::from_secs(1));
    }

    async fn a_node_that_left_is_gone_for_good(store: Fixture) {
        store.leave().await.unwrap();
        let before = store.snapshot().await;
        store.leave().await.expect("leaving again changes nothing");
        assert_moved(store.renew_lease(LEASE).await, "renewing after leaving");
        before.assert_same(&store.snapshot().await, "a node that left");
        let row = store.node_row(store.node()).await.unwrap().unwrap();
        assert_eq!(row.state, "gone");
        assert!(!row.holds_its_lease(at(0)));
    }

    async fn a_node_declared_gone_by_others_cannot_renew(store: Fixture) {
        store.raw.exec(&format!("UPDATE nodes SET state = 'gone' WHERE id = '{}'", store.node())).await;
        assert_moved(store.renew_lease(LEASE).await, "renewing when declared gone");
    }

    async fn only_the_lapsed_are_buried_and_each_once(store: Fixture) {
        let (lapsed, alive) = (store.rival(at(10)).await, store.rival(at(30)).await);
        assert_eq!(store.bury_lapsed(at(10)).await.unwrap(), 0, "a lease covers its last moment");
        assert_eq!(store.bury_lapsed(at(20)).await.unwrap(), 1);
        assert_eq!(store.bury_lapsed(at(20)).await.unwrap(), 0);
        for (node, state) in [(&lapsed, "gone"), (&alive, "live"), (store.node(), "live")] {
            assert_eq!(store.node_row(node).await.unwrap().unwrap().state, state, "{node}");
        }
    }

    async fn a_node_is_asked_to_drain_once_hears_it_at_its_renewal_and_still_renews(store: Fixture) {
        assert!(!store.renew_lease(LEASE).await.unwrap().draining);
        assert!(store.drain_node(store.node()).await.unwrap());
        assert!(!store.drain_node(store.node()).await.unwrap(), "it drains already");
        for _ in 0..2 {
            assert!(store.renew_lease(LEASE).await.expect("it still has work in hand").draining);
        }
        store.leave().await.unwrap();
        for gone in [store.node(), &NodeId::from_text("node_none")] {
            assert!(!store.drain_node(gone).await.unwrap());
        }
        assert_eq!(store.node_row(store.node()).await.unwrap().unwrap().state, "gone");
    }

    async fn what_a_draining_node_holds_may_be_taken_unless_it_waits_for_an_answer(store: Fixture) {
        let node = store.rival(Timestamp::from_millis(i64::MAX)).await;
        let holds = format!("UPDATE batches SET holder = '{node}'");
        for (state, taken) in [(BatchState::Submitted, true), (BatchState::Submitting, false), (BatchState::Unknown, true)] {
            let fence = store.batch_in(state).await;
            store.raw.exec(&holds).await;
            store.raw.exec(&format!("UPDATE nodes SET state = 'live' WHERE id = '{node}'")).await;
            assert_eq!(store.take_batch(&fence.batch, at(20)).await.unwrap(), None, "{state}: it is alive");
            assert!(store.drain_node(&node).await.unwrap());
            let epoch = store.take_batch(&fence.batch, at(20)).await.unwrap();
            assert_eq!(epoch.map(|epoch| epoch > fence.epoch), taken.then_some(true), "{state}");
        }
    }

    async fn a_batch_that_a_lapsed_node_followed_is_free_and_due_at_once(store: Fixture) {
        let lapsed = store.rival(at(20)).await;
        let followed = [BatchState::Submitted, BatchState::Cancelling, BatchState::Ended];
        let others = [BatchState::Planned, BatchState::Submitting, BatchState::Unknown, BatchState::Collected];
        for (state, free) in followed.map(|state| (state, true)).into_iter().chain(others.map(|state| (state, false))) {
            let fence = store.batch_in(state).await;
            let (later, id) = (at(900).millis(), &fence.batch);
            let away = format!("UPDATE batches SET holder = '{lapsed}', next_at = {later} WHERE id = '{id}'");
            store.raw.exec(&away).await;
            let before = store.batch_row(&fence).await;
            assert_eq!(store.release_lapsed(at(20)).await.unwrap(), 0, "{state}: a lease covers its last moment");
            assert_eq!(store.release_lapsed(at(21)).await.unwrap(), u64::from(free), "{state}");
            assert_eq!(store.release_lapsed(at(22)).await.unwrap(), 0, "{state}: once");
            let after = store.batch_row(&fence).await;
            if free {
                assert_eq!((after.holder, after.next_at), (None, at(21)), "{state}");
                assert!(after.epoch > before.epoch, "{state}: whoever held it has an old epoch");
            } else {
                assert_eq!(after, before, "{state}");
            }
        }
    }

    /// Fault F48: of two who would do a kind for all, one does.
    async fn a_role_has_one_holder_until_its_node_is_not_live_any_more(store: Fixture) {
        let first = store.hold_role("sweep.x", at(20)).await.unwrap().expect("nobody has it");
        let before = store.snapshot().await;
        assert_eq!(store.hold_role("sweep.x", at(20)).await.unwrap(), Some(first));
        before.assert_same(&store.snapshot().await, "keeping a role");
        let rival = store.rival(at(30)).await;
        store.raw.exec(&format!("UPDATE roles SET holder = '{rival}'")).await;
        assert_eq!(store.hold_role("sweep.x", at(30)).await.unwrap(), None, "a lease covers its last moment");
        assert!(store.hold_role("sweep.y", at(30)).await.unwrap().is_some(), "each role by itself");
        let taken = store.hold_role("sweep.x", at(31)).await.unwrap().expect("its node has lapsed");
        assert!(taken > first, "who had it before has an older epoch");
        store.raw.exec(&format!("UPDATE roles SET holder = '{rival}' WHERE name = 'sweep.x'")).await;
        assert!(store.drain_node(&rival).await.unwrap());
        assert!(store.hold_role("sweep.x", at(0)).await.unwrap().is_some(), "one that drains lets go");
    }

    async fn a_job_and_a_batch_of_a_living_holder_are_not_taken(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        let job = store.batch_row(&fence).await.job;
        let rival = store.rival(at(50)).await;
        for table in ["jobs", "batches"] {
            store.raw.exec(&format!("UPDATE {table} SET holder = '{rival}'")).await;
        }
        let before = store.snapshot().await;
        for now in [at(0), at(49), at(50)] {
            assert_eq!(store.take_job(&job, now).await.unwrap(), None);
            assert_eq!(store.take_batch(&fence.batch, now).await.unwrap(), None);
        }
        before.assert_same(&store.snapshot().await, "a look at what others hold");
        assert!(store.take_job(&job, at(51)).await.unwrap().is_some(), "the holder's lease lapsed");
        assert!(store.take_batch(&fence.batch, at(51)).await.unwrap().is_some(), "the holder's lease lapsed");
        let row = store.batch_row(&fence).await;
        assert_eq!(row.holder.as_deref(), Some(store.node().as_str()));
        assert_eq!((row.state, row.submitted_at), (BatchState::Submitted, Some(at(5))), "resumed, not begun again");
    }

    async fn what_a_node_that_is_gone_or_unknown_or_nobody_held_is_taken_at_once(store: Fixture) {
        let fence = store.batch_in(BatchState::Unknown).await;
        let job = store.batch_row(&fence).await.job;
        let rival = store.rival(at(1_000_000)).await;
        store.raw.exec(&format!("UPDATE nodes SET state = 'gone' WHERE id = '{rival}'")).await;
        for holder in [format!("'{rival}'"), "'node_never_seen'".to_owned(), "NULL".to_owned()] {
            for table in ["jobs", "batches"] {
                store.raw.exec(&format!("UPDATE {table} SET holder = {holder}")).await;
            }
            assert!(store.take_job(&job, at(1)).await.unwrap().is_some(), "held by {holder}");
            assert!(store.take_batch(&fence.batch, at(1)).await.unwrap().is_some(), "held by {holder}");
        }
    }

    async fn each_take_raises_the_epoch_even_if_the_holder_stays_the_same(store: Fixture) {
        let fence = store.batch_in(BatchState::Planned).await;
        let job = store.batch_row(&fence).await.job;
        for expected in 2..5 {
            let epoch = store.take_batch(&fence.batch, at(1)).await.unwrap().unwrap();
            assert_eq!(epoch.number(), expected);
            assert_eq!(store.batch_row(&fence).await.epoch, epoch);
            let epoch = store.take_job(&job, at(1)).await.unwrap().unwrap();
            assert_eq!(epoch.number(), expected);
            assert_eq!(store.job(&job).await.unwrap().unwrap().epoch, epoch);
        }
    }

    async fn what_is_over_is_not_taken(store: Fixture) {
        for state in [BatchState::Collected, BatchState::Abandoned] {
            let fence = store.batch_in(state).await;
            let before = store.snapshot().await;
            assert_eq!(store.take_batch(&fence.batch, at(1)).await.unwrap(), None);
            before.assert_same(&store.snapshot().await, "taking a batch that is over");
        }
        for event in [JobEvent::Cancelled, JobEvent::Failed] {
            let job = store.created(&store.new_job("short")).await;
            store.step(&job, JobState::Created, event).await.unwrap();
            assert_eq!(store.take_job(&job.id, at(1)).await.unwrap(), None);
        }
    }

    async fn of_many_takes_at_once_each_gets_its_own_epoch(store: Fixture) {
        let fence = store.batch_in(BatchState::Planned).await;
        let takes = (0..8).map(|_| {
            let (store, batch) = (store.store.clone(), fence.batch.clone());
            tokio::spawn(async move { store.take_batch(&batch, at(1)).await })
        });
        let mut epochs = Vec::new();
        for take in takes.collect::<Vec<_>>() {
            epochs.push(take.await.unwrap().unwrap().expect("it is ours to take").number());
        }
        epochs.sort_unstable();
        assert_eq!(epochs, (2..10).collect::<Vec<_>>());
    }

    async fn an_incarnation_registers_once(store: Fixture) {
        let used = store.node_id();
        let (url, raw) = (store.url.clone(), store.raw.clone());
        raw.exec(&format!("INSERT INTO nodes VALUES ('{used}', 'elsewhere', 1, 'live', 1, 1, 0)")).await;
        store.close().await;
        drop(store.store);
        assert_eq!(open(&url, used).await.unwrap_err().class(), Class::Conflict);
    }
}

only_on! { Sqlite:
    async fn whoever_opens_a_sqlite_file_is_alone_so_all_others_are_gone(store: Fixture) {
        let fence = store.batch_in(BatchState::Submitted).await;
        let job = store.batch_row(&fence).await.job;
        let (before, rival) = (store.node().clone(), store.rival(Timestamp::from_millis(i64::MAX)).await);
        let store = store.restarted().await;
        for gone in [before, rival] {
            assert_eq!(store.node_row(&gone).await.unwrap().unwrap().state, "gone");
        }
        assert_eq!(store.node_row(store.node()).await.unwrap().unwrap().state, "live");
        assert_eq!(store.take_batch(&fence.batch, at(1)).await.unwrap().map(|epoch| epoch.number()), Some(2));
        assert_eq!(store.take_job(&job, at(1)).await.unwrap().map(|epoch| epoch.number()), Some(2));
    }
}

only_on! { Postgres:
    async fn a_second_node_takes_over_only_what_the_first_gave_up(store: Fixture) {
        let fence = store.batch_in(BatchState::Ended).await;
        let job = store.batch_row(&fence).await.job;
        let second = store.another_node().await;
        assert_eq!(store.node_row(store.node()).await.unwrap().unwrap().state, "live");
        assert_eq!(second.take_batch(&fence.batch, second.now()).await.unwrap(), None);
        assert_eq!(second.take_job(&job, second.now()).await.unwrap(), None);
        store.leave().await.unwrap();
        assert!(second.take_batch(&fence.batch, second.now()).await.unwrap().is_some());
        assert!(second.take_job(&job, second.now()).await.unwrap().is_some());
        assert_moved(store.adoption_proved(&fence).await, "the first node's write");
        assert_eq!(store.batch_row(&fence).await.holder.as_deref(), Some(second.node().as_str()));
    }

    /// It may be that nobody could reach the database until now: they have not had their chance to renew.
    async fn a_newcomer_buries_nobody(store: Fixture) {
        let lapsed = store.rival(at(0)).await;
        let second = store.another_node().await;
        for node in [&lapsed, store.node(), second.node()] {
            assert_eq!(second.node_row(node).await.unwrap().unwrap().state, "live", "{node}");
        }
    }
}

only_on! { Postgres:
    async fn of_many_who_want_a_role_at_once_one_gets_it(store: Fixture) {
        let mut others = Vec::new();
        for _ in 0..6 {
            others.push(store.another_node().await);
        }
        for round in 0..20 {
            let role = format!("sweep.{round}");
            let asked = others.iter().map(|other| other.hold_role(&role, at(0)));
            let held = futures_util::future::join_all(asked).await;
            let holders = held.into_iter().filter(|held| matches!(held, Ok(Some(_)))).count();
            assert_eq!(holders, 1, "of {role}");
        }
        for other in others {
            other.close().await;
        }
    }

    async fn what_a_node_tells_the_others_hear_and_who_lost_the_connection_knows_it(store: Fixture) {
        let other = store.another_node().await;
        let mut bell = other.bell().await.unwrap().expect("there may be others");
        store.ring("first").await.unwrap();
        assert_eq!(bell.heard().await.unwrap(), Heard::Told("first".to_owned()));
        let cut = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE application_name = 'tidegate doorbell' AND datname = current_database()";
        assert_eq!(store.raw.number(cut).await, 1);
        assert_eq!(bell.heard().await.unwrap(), Heard::Missed);
        store.ring("second").await.unwrap();
        assert_eq!(bell.heard().await.unwrap(), Heard::Told("second".to_owned()));
        other.close().await;
    }
}
