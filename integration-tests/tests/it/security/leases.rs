//! S22: the token of a lease is what a worker proves its lease with, and proves nothing else.

use super::{ALL_SCOPES, LATER, caller, key};
use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn lease(client: &mut Client, worker: &str) -> Value {
    let work = json!({"tasks": ["later"], "worker": worker});
    let mut lease = Value::Null;
    eventually("a run is leased", || {
        lease = client.post("/workers/lease", &work).is(200).json()["data"][0].clone();
        lease.is_object()
    });
    lease
}

fn proof(run: &Value, token: &Value) -> Value {
    json!({"run_id": run, "lease_token": token})
}

/// Every call that a lease is proven for.
fn calls(run: &Value, token: &Value) -> Vec<(&'static str, Value)> {
    let mut output = proof(run, token);
    output["seq"] = json!(0);
    output["data"] = json!("x");
    let plain = ["heartbeat", "complete", "fail", "release"].map(|call| (call, proof(run, token)));
    plain.into_iter().chain([("output", output)]).collect()
}

#[track_caller]
fn proves_nothing(client: &mut Client, run: &Value, token: &Value) {
    for (call, body) in calls(run, token) {
        client.post(&format!("/workers/{call}"), &body).is_problem(409, "conflict");
    }
}

fn a_token_is_of_one_lease(database: Database) {
    let mut server = Server::on(database).config(LATER).arg("--auth=keys");
    let key = key(&server, "acme/prod", ALL_SCOPES, &[]);
    server.again();
    let mut client = caller(&server, &key);
    for _ in 0..2 {
        client.run(&json!({"task": "later"}));
    }
    let (a, b) = (lease(&mut client, "a"), lease(&mut client, "b"));
    let token = |lease: &Value| lease["lease_token"].as_str().expect("a token").to_owned();
    for text in [token(&a), token(&b)] {
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(text.len() == 64 && digits, "{text} has less than 256 bits");
        assert!(text.bytes().collect::<BTreeSet<u8>>().len() > 6, "{text} is no chance");
    }
    assert_ne!(token(&a), token(&b));
    // The token of another worker's run, one that is nearly right, and none.
    let mut near = token(&a);
    near.replace_range(63..64, if near.ends_with('0') { "1" } else { "0" });
    for wrong in [b["lease_token"].clone(), json!(near), json!("0".repeat(64))] {
        proves_nothing(&mut client, &a["run_id"], &wrong);
    }
    client.post("/workers/release", &proof(&a["run_id"], &a["lease_token"])).is(200);
    proves_nothing(&mut client, &a["run_id"], &a["lease_token"]);
    // The same run again is another lease with another epoch; the old token is still nothing.
    let again = lease(&mut client, "c");
    assert_eq!(again["run_id"], a["run_id"]);
    assert_ne!(again["lease_token"], a["lease_token"]);
    proves_nothing(&mut client, &a["run_id"], &a["lease_token"]);
    for lease in [&again, &b] {
        client.post("/workers/complete", &proof(&lease["run_id"], &lease["lease_token"])).is(200);
        proves_nothing(&mut client, &lease["run_id"], &lease["lease_token"]);
    }
    let shown = client.get("/runs").text() + &client.get("/workers").text() + &server.ops("/metrics").text();
    for lease in [&a, &b, &again] {
        assert!(!shown.contains(&token(lease)), "a token is shown");
    }
    server.all_ended::<&str>(&[]);
    server.stop();
}

#[test]
fn s22_a_lease_is_proven_by_its_own_token_while_it_lasts_on_sqlite() {
    a_token_is_of_one_lease(Database::Sqlite);
}

#[test]
fn s22_a_lease_is_proven_by_its_own_token_while_it_lasts_on_postgres() {
    a_token_is_of_one_lease(Database::Postgres);
}
