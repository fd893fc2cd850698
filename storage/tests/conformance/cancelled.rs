//! A future that is dropped in the middle of a transaction: what it began is undone, and nobody inherits it.

use crate::fixture::{Driven, Fixture, LEASE, at, ceilings, up_to};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use storage::model::BatchState;
use tokio::task::JoinHandle;

const TASKS: u64 = 300;
/// A task is aborted at a random moment, at first up to this long after it was spawned.
const LONGEST: Duration = Duration::from_millis(5);
/// More often than a write waits for anything.
const MOST_POLLS: usize = 20;
/// A quick database often answers before it is waited for, so that not every write can be dropped where it was meant.
const DROPS: usize = 30;
/// More than there are connections that a write alone makes.
const READS: usize = 4;

on_both! {
    async fn a_task_that_is_aborted_in_a_transaction_leaves_nothing_behind(store: Fixture) {
        let job = store.driven("letters", 2_000).await;
        let store = Arc::new(store);
        let mut rng = StdRng::seed_from_u64(41);
        let (mut aborted, mut longest) = (0, LONGEST);
        for number in 0..TASKS {
            let (store, job) = (store.clone(), job.clone());
            let task = tokio::spawn(async move { write_something(&store, &job, number).await });
            let moment = longest.mul_f64(f64::from(rng.next_u32() % 1_000) / 1_000.0);
            let took = let_run(&task, moment).await;
            task.abort();
            match task.await {
                // However quick the disk is: moments follow what whole ones take, so that about half are too short.
                Ok(()) => longest = (longest * 3 + took * 2) / 4,
                Err(error) if error.is_cancelled() => aborted += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(aborted > 30, "only {aborted} of {TASKS} tasks were aborted: the test tested nothing");
        store.renew_lease(LEASE).await.expect("the store still writes");
        let fence = store.opened(&job, 1).await;
        assert_eq!(store.batch_row(&fence).await.state, BatchState::Planned);
        assert_nobody_is_idle_in_a_transaction(&store).await;
    }

    /// The moments are few in which a cancelled `BEGIN` stays with its connection: this one meets each of them.
    async fn a_write_that_is_dropped_at_any_of_its_waits_leaves_no_transaction_open(store: Fixture) {
        let job = store.driven("letters", 1).await;
        let (mut ended, mut dropped) = (0, 0);
        for polls in (1..=MOST_POLLS).cycle() {
            if ended > 0 && dropped >= DROPS {
                break;
            }
            match polled(polls, store.set_ceilings(&job.id, job.epoch, &ceilings())).await {
                Some(answer) => {
                    answer.expect("the store takes it whatever was dropped before");
                    ended += 1;
                }
                None => {
                    dropped += 1;
                    store.renew_lease(LEASE).await.expect("the store still writes");
                    assert_nobody_inherits_a_transaction(&store, &job).await;
                }
            }
        }
    }
}

/// Unlike a session that is idle in a transaction, which the server ends after a while, this does not pass by itself.
async fn assert_nobody_inherits_a_transaction(store: &Fixture, job: &Driven) {
    if store.is_sqlite() {
        return assert_nobody_is_idle_in_a_transaction(store).await;
    }
    let read = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()
        AND state LIKE 'idle in transaction%' AND query LIKE '-- job%'";
    // The connection may still be on its way back when the first of them looks for one.
    for _ in 0..READS {
        store.job(&job.id).await.expect("the store still answers").expect("it is there");
        assert_eq!(store.raw.number(read).await, 0, "a read has met a transaction that somebody else had begun");
    }
}

/// Polls a future at most so many times, each when it was woken, and drops it if it has not ended by then.
async fn polled<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Until it has ended or so much time has passed; returns how long that was. Timers are too coarse for this.
#[expect(clippy::disallowed_methods, reason = "spans how long the task has run")]
async fn let_run(task: &JoinHandle<()>, most: Duration) -> Duration {
    let began = Instant::now();
    while !task.is_finished() && began.elapsed() < most {
        tokio::task::yield_now().await;
    }
    began.elapsed()
}

async fn write_something(store: &Fixture, job: &Driven, number: u64) {
    match number % 4 {
        0 => drop(store.ask(job, up_to(5), at(2)).await.expect("runs are claimed")),
        1 => store.set_ceilings(&job.id, job.epoch, &ceilings()).await.expect("ceilings are set"),
        2 => drop(store.renew_lease(LEASE).await.expect("the lease is renewed")),
        _ => store.hold_job(&job.id, at(1), Some(9)).await.expect("the job is held"),
    }
}

/// A dropped connection is rolled back by the pool in the background, so this asks until it is so.
async fn assert_nobody_is_idle_in_a_transaction(store: &Fixture) {
    if store.is_sqlite() {
        // A transaction that somebody had left open would hold the file's only write lock.
        assert_eq!(store.raw.exec("BEGIN IMMEDIATE; ROLLBACK").await, 0);
        return;
    }
    let idle = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'";
    store.raw.until(idle, |sessions| sessions == 0).await;
    let sessions =
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert!(store.raw.number(sessions).await > 0, "the store's own sessions were looked at");
}
