//! A reader that holds a snapshot for minutes keeps PostgreSQL from clearing away what was claimed and ended meanwhile.
//! Runs go on nearly as fast (F24).

use crate::is_soak;
use harness::history::now_ms;
use harness::{Cluster, eventually};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::sync::mpsc::channel;
use std::time::Duration;

const RUNS_PER_SECOND: i64 = 800;
/// Of what is carried out while nobody reads.
const AT_LEAST_PERCENT: i64 = 90;
/// The same where all of it goes through the buffer: to see what is in it, rows that are gone are walked over now and then.
const AT_LEAST_PERCENT_BUFFERED: i64 = 70;
const PAGE: usize = 500;
const DRAINED: usize = 20_000;
const TRIES: usize = 3;

fn held_for() -> Duration {
    if is_soak() { Duration::from_secs(180) } else { Duration::from_secs(10) }
}

/// Takes a snapshot and keeps it until it is dropped.
struct Reader {
    runtime: tokio::runtime::Runtime,
    connection: Option<PgConnection>,
}

impl Reader {
    fn of(url: &str) -> Reader {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connection = runtime.block_on(async {
            let mut connection = PgConnection::connect(url).await?;
            for step in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT COUNT(*) FROM run_records"] {
                sqlx::query(step).execute(&mut connection).await?;
            }
            Ok::<_, sqlx::Error>(connection)
        });
        Reader { runtime, connection: Some(connection.expect("it begins to read")) }
    }

    fn ends(mut self) {
        let connection = self.connection.take().expect("it still reads");
        self.runtime.block_on(connection.close()).expect("its snapshot was held to the end");
    }
}

fn finished(cluster: &Cluster) -> f64 {
    cluster.nodes[0].server.metric("tidegate_runs_finished_total", &[])
}

fn submit(cluster: &Cluster, runs: usize) {
    let mut client = cluster.nodes[0].server.client().in_env("one/dev");
    let page = json!({"runs": vec![json!({"task": "noop"}); runs]});
    assert_eq!(client.post("/runs/batch", &page).is(200).json()["accepted"], runs);
}

/// Runs carried out in a second when as many wait as one node can take.
fn drained_per_second(cluster: &Cluster) -> i64 {
    let (before, from) = (finished(cluster), now_ms());
    (0..DRAINED / PAGE).for_each(|_| submit(cluster, PAGE));
    eventually("all have ended", || finished(cluster) >= before + DRAINED as f64);
    DRAINED as i64 * 1_000 / (now_ms() - from)
}

/// What others do on the machine only makes it slower.
fn best_of(tries: usize, cluster: &Cluster) -> i64 {
    (0..tries).map(|_| drained_per_second(cluster)).max().expect("tried")
}

#[test]
fn a_snapshot_held_for_minutes_slows_runs_down_by_no_more_than_a_tenth() {
    // Nothing is buffered, so that what is measured is claims and ends.
    hold("off", AT_LEAST_PERCENT);
}

#[test]
fn a_snapshot_held_for_minutes_leaves_the_buffer_draining() {
    hold("on", AT_LEAST_PERCENT_BUFFERED);
}

fn hold(buffer: &str, at_least_percent: i64) {
    let cluster = Cluster::of(1, |server| {
        server.set("nodes.lease_seconds", 15).set("buffer.mode", buffer).set("buffer.above_per_second", 1)
    });
    let mut cluster = cluster.start();
    drained_per_second(&cluster);
    let before = best_of(TRIES, &cluster);
    let reader = Reader::of(&cluster.postgres.url());
    let (count, from) = (finished(&cluster), now_ms());
    let (_held, never) = channel::<()>();
    let mut sent = 0;
    while now_ms() - from < held_for().as_millis() as i64 {
        let due = (now_ms() - from) * RUNS_PER_SECOND / 1_000;
        if due > sent {
            submit(&cluster, (due - sent) as usize);
            sent = due;
        }
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
    let under_way = sent - (finished(&cluster) - count) as i64;
    eventually("all that was sent has ended", || finished(&cluster) - count >= sent as f64);
    let during = best_of(2 * TRIES, &cluster);
    let dead = cluster.number("SELECT SUM(n_dead_tup) FROM pg_stat_user_tables WHERE relname IN ('ready', 'leases')");
    reader.ends();
    cluster.rows("VACUUM ready, leases, buffer");
    let after = best_of(TRIES, &cluster);
    println!(
        "buffer {buffer}: a snapshot held for {:?} at {RUNS_PER_SECOND} runs/s: {sent} sent, {under_way} of them not ended at its end; {dead} dead rows; drained before {before}/s, then {during}/s, and {after}/s after it",
        held_for(),
    );
    cluster.nodes[0].server.stop();
    assert!(under_way <= RUNS_PER_SECOND, "{under_way} runs waited at {RUNS_PER_SECOND} runs/s");
    // A machine that others use as well may be a slower one by now: what is asked for is that of its slower time.
    let alone = before.min(after);
    assert!(during * 100 >= alone * at_least_percent, "{alone} runs/s without it, {during} while it is held");
}
