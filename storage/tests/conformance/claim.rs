//! Opening a batch: which runs it claims, what it reserves, and when it is not opened at all.

use crate::fixture::{Driven, Fixture, RESERVE, assert_moved, at, up_to};
use std::collections::BTreeSet;
use storage::model::{BatchState, Ceilings, Epoch, JobEvent, JobState, Mode, Money, RequestState, Source};
use storage::store::{Claim, Fence, Limits, Opened};
use storage::{Class, StoreError};

/// More often than a claimer that makes any way at all ever has to ask.
const ASKED_AT_MOST: usize = 1_000;

on_both! {
    async fn a_batch_holds_its_runs_its_key_and_its_money_from_its_first_moment(store: Fixture) {
        let job = store.driven("letters", 5).await;
        let fence = store.opened(&job, 3).await;
        let row = store.batch_row(&fence).await;
        assert_eq!((row.state, row.requests, row.round, row.create_no), (BatchState::Planned, 3, 1, 1));
        assert_eq!((row.provider.as_str(), row.account.as_str(), row.pack.as_str()), ("sim", "acme", "chat small"));
        assert_eq!((&row.job, row.source, row.env.as_str()), (&job.id, Source::Backfill, "home"));
        assert_eq!((row.epoch, row.holder.as_deref()), (fence.epoch, Some(store.node().as_str())));
        assert_eq!((row.reserved.nanos(), row.spent, row.body_bytes), (3 * RESERVE, Money::ZERO, 3 * 7));
        assert_eq!(row.create_key(), format!("{}-1", row.wire_key));
        assert_eq!((row.created_at, row.finished_at), (at(2), None));
        let counts = store.pool_counts("letters").await.unwrap();
        assert_eq!((counts.queued, counts.running, counts.reserved_nanos), (2, 3, 3 * RESERVE));
        let runs = store
            .raw
            .rows(
                "SELECT r.seq, r.state, r.epoch, r.attempts, r.carrier, a.state, a.batch_pos, a.verdict
            FROM runs r JOIN attempts a ON a.run_id = r.id AND a.epoch = r.epoch ORDER BY r.seq",
            )
            .await;
        assert_eq!(runs.len(), 3, "one attempt for each");
        for (seq, run) in runs.iter().enumerate() {
            let seq = seq.to_string();
            let expected = [&seq, "running", "1", "1", fence.batch.as_str(), "leased", &seq, "open"];
            assert!(run.iter().map(|value| value.as_deref().unwrap()).eq(expected), "{run:?}");
        }
        let log = store.batch_events(&fence.batch).await.unwrap();
        let manifest = store.raw.value("SELECT manifest FROM batches").await.unwrap();
        assert_eq!(log, [(at(2).millis(), 1, "planned".to_owned(), manifest.clone())]);
        for part in ["\"first_seq\":0", "\"last_seq\":2", "\"requests\":3", "\"body_bytes\":21"] {
            assert!(manifest.contains(part), "{part} in {manifest}");
        }
    }

    async fn runs_are_claimed_in_the_order_of_their_round_pack_and_place(store: Fixture) {
        let mut runs = store.runs(0..6);
        for (run, pack) in runs.iter_mut().zip(["b", "a", "b", "a", "a", "b"]) {
            run.pack = pack.to_owned();
        }
        let job = store.driven_with(&store.new_job("letters"), &runs).await;
        let mut claimed = Vec::new();
        while let (batch, Opened::Batch { .. }) = store.ask(&job, up_to(2), at(2)).await.unwrap() {
            claimed.push(seqs(&store, batch.as_str()).await);
        }
        assert_eq!(claimed, [vec![1, 3], vec![4], vec![0, 2], vec![5]]);
        let packs = "SELECT COUNT(*) FROM attempts a JOIN runs r ON r.id = a.run_id JOIN batches b ON b.id = a.batch_id
            WHERE r.pack <> b.pack";
        assert_eq!(store.raw.number(packs).await, 0, "packs are never mixed");
    }

    async fn the_next_pack_is_the_one_that_a_claim_would_take(store: Fixture) {
        let mut runs = store.runs(0..3);
        for (run, pack) in runs.iter_mut().zip(["c", "a", "b"]) {
            run.pack = pack.to_owned();
        }
        let job = store.driven_with(&store.new_job("letters"), &runs).await;
        for pack in ["a", "b", "c"] {
            assert_eq!(store.next_pack("letters", 1).await.unwrap().as_deref(), Some(pack));
            let fence = store.opened(&job, 9).await;
            assert_eq!(store.batch_row(&fence).await.pack, pack);
            store.settle_all(&fence, BatchState::Planned, RequestState::Errored).await.unwrap();
        }
        assert_eq!(store.next_pack("letters", 1).await.unwrap(), None);
        assert_eq!(store.next_pack("letters", 2).await.unwrap().as_deref(), Some("a"));
        assert_eq!(store.next_pack("another pool", 9).await.unwrap(), None);
    }

    async fn a_batch_is_bounded_by_bytes_with_envelopes(store: Fixture) {
        let job = store.driven("letters", 10).await;
        // Each body of the fixture has 7 bytes.
        for (max_bytes, envelope_bytes, expected) in [(21, 0, 3), (20, 0, 2), (34, 10, 2), (33, 10, 1), (1, 0, 1)] {
            let limits = Limits { max_requests: 100, max_bytes, max_bodies: i64::MAX, envelope_bytes };
            let (_, opened) = store.ask(&job, limits, at(2)).await.unwrap();
            let Opened::Batch { requests, .. } = opened else { panic!("{opened:?}") };
            assert_eq!(requests, expected, "{max_bytes} bytes with envelopes of {envelope_bytes}");
        }
    }

    async fn the_smallest_of_asked_and_allowed_and_learned_sizes_counts(store: Fixture) {
        let mut asked = store.new_job("letters");
        asked.ceilings.max_batch_requests = 4;
        let job = store.driven_with(&asked, &store.runs(0..20)).await;
        assert_eq!(size(&store, &job, 3).await, 3);
        assert_eq!(size(&store, &job, 9).await, 4);
        store.hold_job(&job.id, at(0), Some(2)).await.unwrap();
        assert_eq!(size(&store, &job, 9).await, 2);
        let wider = Ceilings { max_batch_requests: 9, ..asked.ceilings };
        store.set_ceilings(&job.id, job.epoch, &wider).await.unwrap();
        assert_eq!(size(&store, &job, 9).await, 2);
        store.hold_job(&job.id, at(0), Some(0)).await.unwrap();
        assert_eq!(size(&store, &job, 9).await, 1, "a batch is never empty");
    }

    async fn more_runs_than_one_statement_takes_fit_into_one_batch(store: Fixture) {
        let job = store.driven("letters", 1_203).await;
        let fence = store.opened(&job, 50_000).await;
        assert_eq!(store.batch_row(&fence).await.requests, 1_203);
        assert_eq!(seqs(&store, fence.batch.as_str()).await, (0..1_203).collect::<Vec<_>>());
    }

    /// Invariant 26.
    async fn a_batch_that_could_pass_the_cap_is_not_opened(store: Fixture) {
        let mut asked = store.new_job("letters");
        asked.ceilings.max_usd_nanos = Some(5 * RESERVE);
        let job = store.driven_with(&asked, &store.runs(0..10)).await;
        let first = store.opened(&job, 3).await;
        let (needs, left) = (Money::from_nanos(3 * RESERVE), Money::from_nanos(2 * RESERVE));
        refuses(&store, &job, 3, &Opened::OverCap { needs, left }).await;
        let second = store.opened(&job, 2).await;
        refuses(&store, &job, 1, &Opened::OverCap { needs: Money::from_nanos(RESERVE), left: Money::ZERO }).await;
        // Spending less than was reserved makes room once the batch is collected, and not before.
        store.bring(&first, BatchState::Ended).await.unwrap();
        store.settle_all(&first, BatchState::Ended, RequestState::Succeeded).await.unwrap();
        assert!(matches!(store.ask(&job, up_to(1), at(2)).await.unwrap(), (_, Opened::OverCap { .. })));
        store.collected(&first, at(9)).await.unwrap();
        let left = Money::from_nanos(5 * RESERVE - 3 * crate::fixture::COST - 2 * RESERVE);
        refuses(&store, &job, 3, &Opened::OverCap { needs, left }).await;
        store.opened(&job, 2).await;
        assert_eq!(store.batch_row(&second).await.reserved.nanos(), 2 * RESERVE);
    }

    async fn a_run_without_a_price_is_never_sent_under_a_cap(store: Fixture) {
        let mut asked = store.new_job("letters");
        asked.ceilings.max_usd_nanos = Some(i64::MAX);
        let mut runs = store.runs(0..3);
        runs[1].reserve_nanos = None;
        let job = store.driven_with(&asked, &runs).await;
        // With `i64::MAX` nano-dollars as the cap nothing is left of it as soon as anything is reserved.
        store.opened(&job, 1).await;
        let left = Money::from_nanos(i64::MAX - RESERVE);
        refuses(&store, &job, 2, &Opened::OverCap { needs: Money::MAX, left }).await;
        let unbounded = Ceilings { max_usd_nanos: None, ..asked.ceilings };
        store.set_ceilings(&job.id, job.epoch, &unbounded).await.unwrap();
        let fence = store.opened(&job, 2).await;
        assert_eq!(store.batch_row(&fence).await.reserved, Money::ZERO, "an unknown price reserves nothing");
    }

    async fn a_held_job_opens_nothing_until_its_time(store: Fixture) {
        let job = store.driven("letters", 2).await;
        store.hold_job(&job.id, at(50), None).await.unwrap();
        refuses(&store, &job, 1, &Opened::Held { until: at(50) }).await;
        assert!(matches!(store.ask(&job, up_to(1), at(49)).await.unwrap(), (_, Opened::Held { .. })));
        assert!(matches!(store.ask(&job, up_to(1), at(50)).await.unwrap(), (_, Opened::Batch { .. })));
    }

    async fn an_empty_queue_opens_nothing(store: Fixture) {
        let job = store.driven("letters", 2).await;
        store.opened(&job, 2).await;
        refuses(&store, &job, 1, &Opened::NothingQueued).await;
        let empty = store.driven("nothing", 0).await;
        refuses(&store, &empty, 1, &Opened::NothingQueued).await;
    }

    async fn a_run_of_the_next_round_waits_for_it(store: Fixture) {
        let job = store.driven("letters", 2).await;
        let fence = store.opened(&job, 2).await;
        store.bring(&fence, BatchState::Ended).await.unwrap();
        store.settle_all(&fence, BatchState::Ended, RequestState::Errored).await.unwrap();
        refuses(&store, &job, 2, &Opened::NothingQueued).await;
        store.close_round(&job.id, job.epoch, 1, at(9)).await.unwrap();
        store.open_round(&job.id, job.epoch, 2, at(9)).await.unwrap();
        let again = store.opened(&job, 2).await;
        assert_eq!(store.batch_row(&again).await.round, 2);
        assert_eq!(store.raw.number("SELECT MIN(epoch) FROM runs").await, 2, "each try of a run has its own epoch");
    }

    async fn a_job_that_is_not_driven_under_this_epoch_opens_nothing(store: Fixture) {
        let job = store.driven("letters", 4).await;
        for wrong in [0, 2] {
            let stale = Driven { epoch: Epoch::from_number(wrong), ..job.clone() };
            refuses(&store, &stale, 1, &Opened::NotDriven).await;
        }
        store.step(&job, JobState::Running, JobEvent::Suspended).await.unwrap();
        refuses(&store, &job, 1, &Opened::NotDriven).await;
        store.step(&job, JobState::Suspended, JobEvent::Resumed).await.unwrap();
        store.opened(&job, 1).await;
        store.step(&job, JobState::Running, JobEvent::Stopping).await.unwrap();
        refuses(&store, &job, 1, &Opened::NotDriven).await;
        let created = store.created(&store.new_job("fresh")).await;
        store.import(&created, 0, &store.runs(0..1)).await.unwrap();
        refuses(&store, &created, 1, &Opened::NotDriven).await;
    }

    async fn a_batch_id_and_a_wire_key_are_used_once(store: Fixture) {
        let job = store.driven("letters", 4).await;
        let fence = store.opened(&job, 1).await;
        let used = store.batch_row(&fence).await;
        let (fresh, fresh_key) = (store.batch_id(), store.ulid());
        let before = store.snapshot().await;
        for (batch, wire_key) in [(&fresh, &used.wire_key), (&used.id, &fresh_key)] {
            let claim = Claim {
                job: &job.id,
                job_epoch: job.epoch,
                batch,
                wire_key,
                limits: up_to(1),
                mode: Mode::Batch,
                price_version: "prices 1",
                day_caps: &[],
                now: at(3),
            };
            assert_eq!(store.open_batch(&claim).await.unwrap_err().class(), Class::Conflict);
            before.assert_same(&store.snapshot().await, "a name used twice");
        }
    }

    /// Invariants 8 and 18: two jobs of one pool, each asked from four places at once.
    async fn eight_claimers_over_one_pool_get_disjoint_runs_and_all_of_them(store: Fixture) {
        let mut runs = store.runs(0..240);
        for run in &mut runs {
            run.pack = format!("pack {}", run.seq % 3);
        }
        let backfill = store.driven_with(&store.new_job("letters"), &runs).await;
        let mut asked = store.new_job("letters");
        asked.source = Source::Daemon;
        let daemon = store.driven_with(&asked, &[]).await;
        let store = std::sync::Arc::new(store);
        let mut claimers = Vec::new();
        for job in [&backfill, &daemon].into_iter().cycle().take(8) {
            let (store, job) = (store.clone(), job.clone());
            claimers.push(tokio::spawn(async move {
                let mut fences = Vec::new();
                for _ in 0..ASKED_AT_MOST {
                    match store.ask(&job, up_to(7), at(2)).await {
                        Ok((batch, Opened::Batch { epoch, .. })) => fences.push(Fence { batch, epoch }),
                        // On PostgreSQL somebody else can be faster between a look and a claim.
                        Err(StoreError::Moved { .. }) if !store.is_sqlite() => {}
                        Ok((_, Opened::NothingQueued)) => return fences,
                        other => panic!("{other:?}"),
                    }
                }
                panic!("the queue does not end")
            }));
        }
        let mut claimed = Vec::new();
        for claimer in claimers {
            for fence in claimer.await.unwrap() {
                claimed.extend(seqs(&store, fence.batch.as_str()).await);
            }
        }
        let distinct: BTreeSet<_> = claimed.iter().copied().collect();
        assert_eq!(claimed.len(), distinct.len(), "no run was claimed twice");
        assert_eq!(distinct, (0..240).collect(), "no run was left");
        let counts = store.pool_counts("letters").await.unwrap();
        assert_eq!((counts.queued, counts.running, counts.reserved_nanos), (0, 240, 240 * RESERVE));
    }

    async fn concurrent_claimers_never_pass_the_cap(store: Fixture) {
        let mut asked = store.new_job("letters");
        asked.ceilings.max_usd_nanos = Some(25 * RESERVE);
        let job = store.driven_with(&asked, &store.runs(0..100)).await;
        let store = std::sync::Arc::new(store);
        let mut claimers = Vec::new();
        for _ in 0..8 {
            let (store, job) = (store.clone(), job.clone());
            claimers.push(tokio::spawn(async move {
                let mut requests = 0;
                for _ in 0..ASKED_AT_MOST {
                    match store.ask(&job, up_to(2), at(2)).await {
                        Ok((_, Opened::Batch { requests: more, .. })) => requests += more,
                        Err(StoreError::Moved { .. }) if !store.is_sqlite() => {}
                        Ok((_, Opened::OverCap { left, .. })) => {
                            assert!(left < Money::from_nanos(2 * RESERVE));
                            return requests;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                panic!("the cap is never reached")
            }));
        }
        let mut requests = 0;
        for claimer in claimers {
            requests += claimer.await.unwrap();
        }
        assert_eq!(requests, 24);
    }
}

only_on! { Postgres:
    /// An answer of `NothingQueued` here would end a round too early: pack `b` is queued.
    async fn a_pack_that_another_claims_meanwhile_is_not_taken_for_an_empty_queue(store: Fixture) {
        let mut runs = store.runs(0..4);
        for (run, pack) in runs.iter_mut().zip(["a", "a", "b", "b"]) {
            run.pack = pack.to_owned();
        }
        let job = store.driven_with(&store.new_job("letters"), &runs).await;
        let watch = crate::raw::Raw::postgres(&store.url).await;
        store.raw.exec("BEGIN").await;
        store.raw.exec("UPDATE runs SET state = 'running', carrier = 'bat_other' WHERE pack = 'a'").await;
        let store = std::sync::Arc::new(store);
        let asking = tokio::spawn({
            let (store, job) = (store.clone(), job.clone());
            async move { store.ask(&job, up_to(9), at(2)).await.map(|(_, opened)| opened) }
        });
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        watch.until(waiting, |sessions| sessions > 0).await;
        store.raw.exec("COMMIT").await;
        let answer = asking.await.unwrap();
        store.raw.exec("UPDATE runs SET state = 'queued', carrier = NULL WHERE carrier = 'bat_other'").await;
        assert_moved(answer, "a claim that came too late");
        assert_eq!(store.next_pack("letters", 1).await.unwrap().as_deref(), Some("a"));
        let fence = store.opened(&job, 9).await;
        assert_eq!(store.batch_row(&fence).await.requests, 2, "asked again, it claims");
    }
}

/// Asks for a batch, expects this answer, and expects that nothing was written.
async fn refuses(store: &Fixture, job: &Driven, requests: i64, expected: &Opened) {
    let before = store.snapshot().await;
    let (_, opened) = store.ask(job, up_to(requests), at(2)).await.expect("the store answers");
    assert_eq!(opened, *expected);
    before.assert_same(&store.snapshot().await, &format!("{expected:?}"));
}

async fn size(store: &Fixture, job: &Driven, requests: i64) -> i64 {
    let fence = store.opened(job, requests).await;
    store.batch_row(&fence).await.requests
}

/// Places in the pool of a batch's runs, in the order of their positions in the batch.
async fn seqs(store: &Fixture, batch: &str) -> Vec<i64> {
    let sql = format!(
        "SELECT r.seq FROM attempts a JOIN runs r ON r.id = a.run_id
        WHERE a.batch_id = '{batch}' ORDER BY a.batch_pos"
    );
    let rows = store.raw.rows(&sql).await;
    rows.into_iter().flatten().flatten().map(|seq| seq.parse().expect("a number")).collect()
}
