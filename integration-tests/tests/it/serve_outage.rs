//! PostgreSQL goes away under load and comes back: callers are told to come again, nothing acknowledged is lost,
//! no attempt is used up by it, and work goes on within seconds, with a lease longer or shorter than the outage.

use harness::{Client, Database, Load, Mix, OwnPostgres, Server, WITNESSED, Witness, eventually};
use serde_json::json;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How soon a new run must be taken and carried out once the store is back.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long a caller may be left waiting for the word that the store is away.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// What a node has in hand and before it when it is cut off, and what it lets go of by that.
const LET_GO_MAX: usize = 1_000;

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

/// What callers were told during an outage.
#[derive(Debug, Default)]
struct Refusals {
    count: usize,
    slowest: Duration,
}

/// Asks one after the other until the outage is over; each answer must be one of a server that is well.
fn ask_meanwhile(server: &Server, mut client: Client) -> Refusals {
    let (began, mut refusals) = (now(), Refusals::default());
    let (_held, never) = channel::<()>();
    while now().duration_since(began) < outage() {
        for (method, path, body) in [("POST", "/runs", Some(r#"{"task":"noop"}"#)), ("GET", "/runs?limit=1", None)] {
            let asked = now();
            let answer = client.send(method, path, body).expect("an answer");
            refusals.slowest = refusals.slowest.max(now().duration_since(asked));
            answer.is_problem(503, "store_unavailable");
            refusals.count += 1;
        }
        let asked = now();
        assert_eq!(server.ops("/livez").status, 200, "liveness never asks the store");
        assert!(now().duration_since(asked) < REFUSED_WITHIN, "liveness waited for the store");
        assert_eq!(server.ops("/readyz").status, 503, "it cannot do what is asked of it");
        assert_eq!(server.ops("/startupz").status, 200, "it has started all the same");
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
    refusals
}

/// Many callers at once find no connection of before the outage that would fail them; returns their runs.
fn nobody_is_refused_any_more(client: &Client) -> Vec<String> {
    std::thread::scope(|scope| {
        let ask = |mut client: Client| {
            let ids = (0..5).map(|_| {
                client.get("/runs?limit=1").is(200);
                client.run(&json!({"task": "noop"}))
            });
            ids.collect::<Vec<String>>()
        };
        let callers: Vec<_> = (0..20).map(|_| client.clone()).map(|client| scope.spawn(move || ask(client))).collect();
        callers.into_iter().flat_map(|caller| caller.join().expect("nobody is refused")).collect()
    })
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
    let refusals = ask_meanwhile(&server, probe.clone());
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
    assert_eq!(server.ops("/readyz").status, 200);
    let mut ids = nobody_is_refused_any_more(&probe);
    ids.push(id);
    load.has_more(100);
    let mut tally = load.stop();
    tally.acked.extend(ids.into_iter().map(|id| (id, "probe/dev".to_owned())));
    // What was answered by 503 may have been stored all the same: the answer of the store was lost, not the run.
    tally.unanswered += refusals.count;
    server.all_ended(&[&mix.envs[..], &["probe/dev".to_owned()]].concat());
    server.stop();
    let ends = tally.verify(&server);
    let (starts, lost) = witness.verify(&server);
    let burnt = server.rows("SELECT id, attempts FROM run_records WHERE attempts > 1");
    println!(
        "PostgreSQL {how:?} for {:?}, lease {lease_seconds} s: {} runs acknowledged, refused {:?} and {refusals:?} of probes, {} unanswered; recovery {recovery:?}; ends {ends:?}; {starts} programs started, {lost} of their leases given back; {} attempts burnt",
        outage(),
        tally.acked.len(),
        tally.refused,
        tally.unanswered,
        burnt.len(),
    );
    assert!(lost <= LET_GO_MAX, "{lost} leases were taken and given back without the node's own");
    assert!(burnt.is_empty(), "attempts were used up: {:?}", &burnt[..burnt.len().min(5)]);
    assert_eq!(ends.get("failed"), None);
    assert!(recovery <= RECOVERY, "it took {recovery:?} to take and carry out a run again");
    assert!(refusals.count >= 10, "only {refusals:?} while the store was away");
    assert!(refusals.slowest <= REFUSED_WITHIN, "a caller waited too long: {refusals:?}");
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
