//! Servers that are in trouble by themselves.

use super::batches::{batch_in, buyer, job};
use super::page::Page;
use harness::{Account, Database, OwnPostgres, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::net::TcpListener;

const PULL: &str = "[tasks.later]\nkind = \"pull\"\n";

pub fn buffer_stuck(mut page: Page) {
    let server = Server::on(Database::Sqlite).config(PULL).set("buffer.above_per_second", 1);
    let mut server = server.env("TIDEGATE_DRAINER_ENABLED", "false").start();
    server.client().post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); 60]})).is(200);
    eventually("some wait in the buffer", || server.metric("tidegate_buffer_entries", &[]) > 0.0);
    let told = page.next(&server, "tidegate buffer status");
    assert!(told.contains("default/dev"), "{told}");
    page.rest(&server);
    server.stop();
    server.unset("TIDEGATE_DRAINER_ENABLED");
    server.change("TIDEGATE_BUFFER_MODE", "off");
    server.again();
    eventually("the buffer is empty", || server.metric("tidegate_buffer_entries", &[]) == 0.0);
    server.stop();
}

pub fn database(mut page: Page) {
    let mut postgres = OwnPostgres::start();
    let server = Server::on(Database::Postgres).config(PULL).with_store(&postgres.url());
    let mut server = server.expecting("letting go of all runs").start();
    postgres.crash();
    eventually("it says so", || !server.is_ready());
    page.exits("tidegate doctor", 1).exits("tidegate db status", 6).until(&server, "psql");
    postgres.again();
    eventually("the node is ready again", || server.is_ready());
    page.exits_well().rest(&server);
    assert!(server.is_ready());
    server.stop();
}

pub fn down(mut page: Page) {
    let mut server = Server::start_on(Database::Sqlite);
    server.kill9();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address");
    server.change("TIDEGATE_SERVER__LISTEN", port);
    page.exits("tidegate doctor", 1);
    let told = page.next(&server, "tidegate doctor");
    assert!(told.contains(&port.to_string()), "it names what is wrong: {told}");
    drop(taken);
    server.unset("TIDEGATE_SERVER__LISTEN");
    server.again();
    let told = page.exits_well().next(&server, "tidegate nodes list");
    assert!(told.contains("live"), "{told}");
    page.rest(&server);
    server.stop();
}

pub fn queue_stalled(mut page: Page) {
    let mut server = Server::on(Database::Postgres).config(PULL).start();
    let mut client = server.client();
    client.post("/queues/noop/pause", &json!({})).is(200);
    let run = client.run(&json!({"task": "noop"}));
    let told = page.fill("QUEUE", "noop").next(&server, "tidegate runs list");
    assert!(told.contains(&run), "{told}");
    let queues: Value = serde_json::from_str(&page.next(&server, "GET /api/v1/queues")).expect("an answer");
    let paused = |queue: &Value| queue["name"] == "noop" && queue["paused"] == true;
    assert!(queues["data"].as_array().expect("a list").iter().any(paused), "{queues}");
    page.rest(&server);
    eventually("the run ends", || client.read(&run)["status"] == "succeeded");
    eventually("nothing is old", || server.metric("tidegate_queue_oldest_age_seconds", &["queue=\"noop\""]) == 0.0);
    server.stop();
}

pub fn restart_storm(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"latency_ms": 3_600_000}));
    let drill = "actors=worker-0 modes=stop kills=5000 every=100ms";
    let server = buyer(&supplier).set("supervisor.max_restarts", 100_000).env("TIDEGATE_CHAOS", drill);
    let mut server = server.start();
    let mut client = server.client();
    job(&mut client, &supplier, 0..3);
    let batch = batch_in(&server, "submitted");
    let run = client.run(&json!({"task": "noop", "delay_seconds": 3_600}));
    eventually("an actor keeps dying", || server.metric("tidegate_actor_restarts_total", &[]) > 3.0);
    page.fill("ID", &batch).fill("RUN", &run);
    let told: Value = serde_json::from_str(&page.next(&server, "tidegate actors list -o json")).expect("a list");
    assert!(told.to_string().contains("worker-0"), "{told}");
    page.until(&server, "tidegate repair --dry-run");
    assert_eq!(client.read(&run)["status"], "cancelled");
    server.stop();
    server.unset("TIDEGATE_CHAOS");
    server.again();
    page.rest(&server);
    assert_eq!(server.metric("tidegate_actor_restarts_total", &[]), 0.0, "no new deaths");
    server.stop();
}
