//! PostgreSQL goes away under load and comes back: callers are told to come again, nothing acknowledged is lost,
//! no attempt is used up by it, and work goes on within seconds, with a lease longer or shorter than the outage.

use harness::{Client, Database, Load, Mix, OwnPostgres, Server, WITNESSED, Witness, eventually};
use serde_json::json;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How soon a new run must be taken and carried out once the store is back.
const RECOVERY: Duration = Duration::from_secs(5);

fn outage() -> Duration {
    Duration::from_secs(if std::env::var_os("TIDEGATE_SOAK").is_some() { 20 } else { 5 })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Crashed,
    /// Connections stay open and nothing answers.
    Frozen,
}

#[expect(clippy::disallowed_methods, reason = "spans how long the recovery takes")]
fn now() -> Instant {
    Instant::now()
}

/// Sends runs one after the other until the outage is over; each answer must be one of a server that is well.
fn ask_meanwhile(mut client: Client, how: How) -> usize {
    let (began, mut refused) = (now(), 0);
    let (_held, never) = channel::<()>();
    while now().duration_since(began) < outage() {
        if how == How::Crashed {
            client.post("/runs", &json!({"task": "noop"})).is_problem(503, "store_unavailable");
            refused += 1;
            assert_eq!(client.get("/runs?limit=1").status, 503);
        }
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
    refused
}

fn store_is_away(how: How, lease_seconds: f64) {
    let mut postgres = OwnPostgres::start();
    let witness = Witness::new();
    let mut server = Server::on(Database::Sqlite)
        .with_store(&postgres.url())
        .config(&witness.task(0.2))
        .set("nodes.lease_seconds", lease_seconds)
        .set("buffer.above_per_second", 200)
        .expecting("the lease cannot be renewed; letting go of all runs")
        .start();
    let mut mix = Mix::of("noop", 11);
    mix.tasks = ["noop", "noop", "noop", "noop", "noop", WITNESSED].map(str::to_owned).to_vec();
    let load = Load::start(&server.door(), &mix);
    load.has_more(500);
    match how {
        How::Crashed => postgres.crash(),
        How::Frozen => postgres.freeze(),
    }
    let mut probe = server.client().in_env("probe/dev");
    let refused = ask_meanwhile(probe.clone(), how);
    assert_eq!(server.ops("/livez").status, 200, "liveness never asks the store");
    match how {
        How::Crashed => postgres.again(),
        How::Frozen => postgres.thaw(),
    }
    let back = now();
    let mut id = String::new();
    eventually("a run is taken in", || {
        let answer = probe.post("/runs", &json!({"task": "noop"}));
        id = if answer.status < 300 { answer.field("id") } else { String::new() };
        !id.is_empty()
    });
    eventually("it is carried out", || {
        let answer = probe.get(&format!("/runs/{id}"));
        answer.status == 200 && answer.field("status") == "succeeded"
    });
    let recovery = now().duration_since(back);
    load.has_more(100);
    let mut tally = load.stop();
    tally.acked.insert(id, "probe/dev".to_owned());
    // What was answered by 503 may have been stored all the same: the answer of the store was lost, not the run.
    tally.unanswered += refused;
    server.all_ended(&[&mix.envs[..], &["probe/dev".to_owned()]].concat());
    server.stop();
    let ends = tally.verify(&server);
    let (starts, lost) = witness.verify(&server);
    let burnt = server.rows("SELECT id, attempts FROM run_records WHERE attempts > 1");
    println!(
        "PostgreSQL {how:?} for {:?}, lease {lease_seconds} s: {} runs acknowledged, refused {:?} and {refused} probes, {} unanswered; recovery {recovery:?}; ends {ends:?}; {starts} programs started, {lost} of their leases given back; {} attempts burnt",
        outage(),
        tally.acked.len(),
        tally.refused,
        tally.unanswered,
        burnt.len(),
    );
    assert!(burnt.is_empty(), "attempts were used up: {:?}", &burnt[..burnt.len().min(5)]);
    assert_eq!(ends.get("failed"), None);
    assert!(recovery <= RECOVERY, "it took {recovery:?} to take and carry out a run again");
    assert!(how == How::Frozen || refused >= 5, "only {refused} answers came while the store was away");
}

#[test]
fn serve_with_postgres_crashed_refuses_cleanly_and_recovers_with_nothing_lost() {
    store_is_away(How::Crashed, 15.0);
}

#[test]
fn serve_with_postgres_crashed_for_longer_than_a_lease_burns_no_attempt() {
    store_is_away(How::Crashed, 2.0);
}

#[test]
fn serve_with_postgres_frozen_for_longer_than_a_lease_burns_no_attempt() {
    store_is_away(How::Frozen, 2.0);
}
