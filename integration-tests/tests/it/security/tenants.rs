//! S1 and S37: one tenant's objects are not there for another, and nothing tells them from what never was.

use super::{ALL_SCOPES, LATER, NOBODYS, ask, caller, key, unnamed};
use gateway::api::ROUTES;
use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a route has to do with other tenants' objects. A route that is not named here fails the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Names one object: 404 for whoever does not own it.
    Object,
    /// Shows or makes what is the caller's own.
    Own,
    /// Acts on a name that every tenant has for itself.
    Named,
    /// Shows what belongs to no tenant.
    Shared,
}

fn reach(method: &str, route: &str) -> Reach {
    match (method, route) {
        (_, route) if route.starts_with("/runs/{id}") => Reach::Object,
        (
            "POST",
            "/workers/heartbeat" | "/workers/output" | "/workers/complete" | "/workers/fail" | "/workers/release",
        ) => Reach::Object,
        (_, route) if ["/jobs/{id}", "/batches/{id}", "/sessions/{id}"].iter().any(|of| route.starts_with(of)) => {
            Reach::Object
        }
        ("POST" | "GET", "/jobs" | "/sessions") | ("GET", "/batches") => Reach::Own,
        ("GET", "/runs" | "/events" | "/queues" | "/workers" | "/buffer" | "/buffer/entries") => Reach::Own,
        ("POST", "/runs" | "/runs/batch" | "/workers/lease") => Reach::Own,
        ("POST", "/queues/{queue}/pause" | "/queues/{queue}/resume") => Reach::Named,
        ("GET", "/tasks" | "/nodes" | "/actors" | "/autoscale" | "/sweeps" | "/audit") => Reach::Shared,
        ("POST", "/nodes/{id}/drain" | "/sweeps/{kind}/run" | "/actors/{name}/kill") => Reach::Shared,
        _ => panic!("{method} {route} is not covered: say here what it may show to another tenant"),
    }
}

const CANARY: &str = "canary-of-acme";

/// A tenant with one object of each kind.
struct Tenant {
    ended: String,
    waiting: String,
    leased: String,
    buffered: String,
    token: String,
}

fn tenant(client: &mut Client) -> Tenant {
    let ended = client.run(&json!({"task": "noop", "tags": [CANARY]}));
    let leased = client.run(&json!({"task": "later", "tags": [CANARY], "idempotency_key": CANARY, "queue": "q1"}));
    let work = json!({"tasks": ["later"], "worker": CANARY});
    let taken = eventually_some("its own run is leased", || {
        client.post("/workers/lease", &work).is(200).json()["data"].get(0).cloned()
    });
    let waiting = client.run(&json!({"task": "later", "tags": [CANARY], "queue": CANARY}));
    let delayed = json!({"task": "noop", "tags": [CANARY], "delay_seconds": 3_600});
    let buffered = client.run(&delayed);
    assert_eq!(taken["run_id"], *leased);
    let token = taken["lease_token"].as_str().expect("a token").to_owned();
    eventually("the first run has ended", || client.read(&ended)["status"] == "succeeded");
    Tenant { ended, waiting, leased, buffered, token }
}

fn eventually_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = look();
        found.is_some()
    });
    found.expect("it was found")
}

fn foreign_objects_are_not_there(database: Database) {
    let mut server = Server::on(database).config(LATER).arg("--auth=keys");
    let own = key(&server, "acme/prod", ALL_SCOPES, &[]);
    let others = ["acme/dev", "other/prod"].map(|env| key(&server, env, ALL_SCOPES, &[]));
    server.again();
    let mut owner = caller(&server, &own);
    let acme = tenant(&mut owner);
    for key in &others {
        let mut other = caller(&server, key);
        for run in [&acme.ended, &acme.waiting, &acme.leased, &acme.buffered] {
            let before = owner.read(run);
            for (method, route) in ROUTES {
                if reach(method, route) != Reach::Object {
                    continue;
                }
                let answer = ask(&mut other, method, route, run);
                assert_eq!(answer.status, 404, "{method} {route} of {run}: {answer:?}");
                answer.is_problem(404, "not_found");
                let unknown = ask(&mut other, method, route, NOBODYS);
                assert_eq!(unnamed(&answer), unnamed(&unknown), "{method} {route} tells a foreign run from none");
            }
            assert_eq!(owner.read(run), before, "it was changed by somebody else");
        }
        // Even with the token, which is its holder's secret.
        let stolen = json!({"run_id": acme.leased, "lease_token": acme.token});
        other.post("/workers/complete", &stolen).is_problem(404, "not_found");
        shows_nothing_of_others(&mut other);
        makes_its_own(&mut other, &acme);
        for verb in ["pause", "resume"] {
            other.post(&format!("/queues/{CANARY}/{verb}"), &Value::Null).is(200);
            let queues = owner.list("/queues");
            let queue = queues.iter().find(|queue| queue["name"] == CANARY).expect("the owner's queue");
            assert_eq!(queue["paused"], false, "{verb}: it was paused by somebody else");
        }
    }
    owner.post("/workers/complete", &json!({"run_id": acme.leased, "lease_token": acme.token})).is(200);
    server.stop();
}

fn shows_nothing_of_others(other: &mut Client) {
    for (method, route) in ROUTES {
        let shown = match reach(method, route) {
            // What it would follow begins now; `s1_a_stream_…` listens to it.
            Reach::Own | Reach::Shared if *method == "GET" && *route != "/events" => other.get(route).is(200).text(),
            _ => continue,
        };
        assert!(!shown.contains(CANARY) && !shown.contains("acme/prod"), "{method} {route}: {shown}");
    }
    let filtered = other.get(&format!("/runs?tag={CANARY}")).is(200).json();
    assert_eq!(filtered["data"], json!([]));
}

fn makes_its_own(other: &mut Client, acme: &Tenant) {
    let body = json!({"task": "later", "idempotency_key": CANARY, "payload": "own"});
    let made = other.post("/runs", &body).is(201);
    assert_ne!(made.field("id"), acme.leased, "a key of another tenant was taken for its own");
    let many = other.post("/runs/batch", &json!({"runs": [body]})).is(200).json();
    assert_eq!(many["data"][0]["run"]["id"], made.field("id").as_str(), "its own key is known");
    let work = json!({"tasks": ["later"], "worker": "w", "max_items": 100});
    let mut taken = Vec::new();
    eventually("its own run is leased", || {
        let leased = other.post("/workers/lease", &work).is(200).json();
        taken.extend(leased["data"].as_array().expect("a list").iter().map(|run| run["run_id"].clone()));
        !taken.is_empty()
    });
    assert_eq!(taken, [made.field("id")], "another tenant's run was leased");
}

#[test]
fn s1_another_tenants_object_is_not_there_on_any_route_on_sqlite() {
    foreign_objects_are_not_there(Database::Sqlite);
}

#[test]
fn s1_another_tenants_object_is_not_there_on_any_route_on_postgres() {
    foreign_objects_are_not_there(Database::Postgres);
}

#[test]
fn s1_a_stream_of_events_tells_nothing_of_other_tenants() {
    let mut server = Server::on(Database::Sqlite).arg("--auth=keys");
    let [acme, other] = ["acme/prod", "other/prod"].map(|env| key(&server, env, ALL_SCOPES, &[]));
    server.again();
    let (mut acme, mut other) = (caller(&server, &acme), caller(&server, &other));
    let mut events = other.follow("/events", None).expect("a stream");
    let foreign = acme.run(&json!({"task": "noop"}));
    eventually("the foreign run has ended", || acme.read(&foreign)["status"] == "succeeded");
    let own = other.run(&json!({"task": "noop"}));
    let first = events.next().expect("its own run's end");
    assert_eq!(first.json()["id"], own.as_str(), "the first it hears of is not its own");
    drop(events);
    server.stop();
}

/// The middle of many spans, so that a busy moment counts for nothing.
fn median(spans: &mut [Duration]) -> f64 {
    spans.sort_unstable();
    spans[spans.len() / 2].as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "spans how long an answer takes")]
fn span(client: &mut Client, path: &str) -> Duration {
    let began = Instant::now();
    client.get(path).is_problem(404, "not_found");
    began.elapsed()
}

#[test]
fn s37_and_row_115_a_foreign_object_takes_as_long_as_one_that_never_was() {
    let mut server = Server::on(Database::Sqlite).config(LATER).arg("--auth=keys");
    let [own, other] = ["acme/prod", "other/prod"].map(|env| key(&server, env, ALL_SCOPES, &[]));
    server.again();
    let foreign = caller(&server, &own).run(&json!({"task": "later", "payload": "x".repeat(50_000)}));
    let mut client = caller(&server, &other);
    for path in ["/runs/{id}", "/runs/{id}/output"] {
        let mut ratios = Vec::new();
        // A busy machine may blur one round of them, but does not favour one of the two in every round.
        eventually(&format!("{path} takes as long for both"), || {
            let (mut foreigns, mut unknowns) = (Vec::new(), Vec::new());
            for _ in 0..400 {
                foreigns.push(span(&mut client, &path.replace("{id}", &foreign)));
                unknowns.push(span(&mut client, &path.replace("{id}", NOBODYS)));
            }
            let ratio = median(&mut foreigns) / median(&mut unknowns);
            ratios.push(ratio);
            assert!(ratios.len() < 12, "{path}: the ratios of the medians are {ratios:?}");
            (0.9..=1.1).contains(&ratio)
        });
        println!("{path}: a foreign run takes {ratios:?} times as long as none");
    }
    server.stop();
}
