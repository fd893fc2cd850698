//! What a server tells while it has much to tell, held against the table, the store, and Prometheus' own linter.

use harness::scrape::nothing_is_missing;
use harness::{Account, Client, Database, Protocol, Scrape, Server, Supplier, eventually};
use serde_json::{Value, json};

const QUEUES: usize = 50;
/// Series of one node with that many queues.
const SERIES_MAX: usize = 2_000;
const REQUESTS: usize = 12;
/// Runs that may wait.
const WAITING_MAX: usize = 1_000;

/// What needs a fault, a session, a buffered run or a live call, none of which there are here.
const NOT_HERE: [&str; 5] = [
    "tidegate_llm_unpriced_requests_total",
    "tidegate_actor_restarts_total",
    "tidegate_actor_restart_seconds",
    "tidegate_chaos_kills_total",
    "tidegate_metric_labels_dropped_total",
];

/// Gauges of the whole cluster equal what the store says.
fn equals_the_store(server: &Server, scrape: &Scrape) {
    let ready = "SELECT COUNT(*) FROM ready WHERE due_at = 0";
    assert_eq!(scrape.sum("tidegate_queue_depth", &[]), server.number(ready) as f64);
    assert_eq!(scrape.sum("tidegate_queue_depth", &[("queue", "q7")]), 2.0);
    let gauges = [
        ("tidegate_buffer_entries", "SELECT COUNT(*) FROM buffer"),
        ("tidegate_cluster_nodes", "SELECT COUNT(*) FROM nodes WHERE state <> 'gone'"),
        ("tidegate_jobs", "SELECT COUNT(*) FROM jobs WHERE finished_at IS NULL"),
        ("tidegate_llm_batches", "SELECT COUNT(*) FROM batches WHERE finished_at IS NULL"),
        ("tidegate_llm_spend_day_nanodollars", "SELECT SUM(reserved_nanos + spent_nanos) FROM batches"),
        ("tidegate_llm_spend_nanodollars_total", "SELECT SUM(spent_nanos) FROM batches"),
        ("tidegate_leader", "SELECT COUNT(*) FROM roles WHERE holder = (SELECT MAX(id) FROM nodes)"),
    ];
    for (name, query) in gauges {
        assert_eq!(scrape.sum(name, &[]), server.number(query) as f64, "{name}");
    }
    for state in ["succeeded", "failed", "cancelled", "timed_out", "expired"] {
        let ended = server.number(&format!("SELECT COUNT(*) FROM run_records WHERE state = '{state}'"));
        assert_eq!(scrape.sum("tidegate_runs_finished_total", &[("state", state)]), ended as f64, "{state}");
    }
    assert_eq!(scrape.sum("tidegate_llm_spend_day_limit_nanodollars", &[]), 100e9);
    let ended = "SELECT COUNT(*) FROM batches WHERE ended_at IS NOT NULL";
    assert_eq!(scrape.sum("tidegate_llm_batch_turnaround_seconds_count", &[]), server.number(ended) as f64);
    let store = if server.store.starts_with("sqlite:") { "sqlite" } else { "postgres" };
    assert_eq!(scrape.sum("tidegate_build_info", &[("store", store)]), 1.0);
    assert_eq!(scrape.sum("tidegate_worker_slots", &[]), 3.0);
}

/// Something of everything: runs that wait in many queues, runs that were carried out, a job, refusals and a stream.
fn keep_busy(server: &Server, client: &mut Client, supplier: &Supplier) {
    let each = |task: &str, count: usize| -> Vec<Value> {
        (0..count).map(|number| json!({"task": task, "queue": format!("q{}", number % QUEUES)})).collect()
    };
    for (task, count) in [("later", 2 * QUEUES), ("noop", QUEUES)] {
        let answer = client.post("/runs/batch", &json!({"runs": each(task, count)})).is(200).json();
        assert_eq!(answer["accepted"], count, "{answer}");
    }
    let asked: Vec<Value> =
        (0..REQUESTS).map(|number| json!({"task": "asked", "payload": supplier.payload(number)})).collect();
    client.post("/runs/batch", &json!({"runs": asked})).is(200);
    let job = client.post("/jobs", &json!({"pool": "asked", "limits": {"max_usd": "1"}})).is(201).field("id");
    eventually("the job is over", || client.get(&format!("/jobs/{job}")).json()["finished_at"].is_string());
    server.client().get("/runs").is(401);
    let unwanted = client.run(&json!({"task": "later"}));
    client.post(&format!("/runs/{unwanted}/cancel"), &Value::Null).is(200);
    let run = client.run(&json!({"task": "noop"}));
    client.get(&format!("/runs/{run}/events")).is(200);
    client.post("/runs/batch", &json!({"runs": each("later", WAITING_MAX)})).is(429);
    let waits = "SELECT COUNT(*) FROM run_records WHERE state = 'open'";
    eventually("all is done that can be", || server.number(waits) == 2 * QUEUES as i64);
}

fn tells_what_the_table_says(database: Database) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let config = format!(
        "{}[tasks.later]\nkind = \"pull\"\n[limits]\nmax_waiting = {WAITING_MAX}\nmax_usd_per_day = \"100\"\n",
        supplier.with_task("asked")
    );
    let server = Server::on(database).config(&config).set("workers.slots", 3);
    let scopes = "runs:read,runs:write,jobs:read,jobs:write";
    let made = server.command(&["keys", "create", "--env", "acme/prod", "--scope", scopes]).output();
    let key = String::from_utf8(made.expect("the binary runs").stdout).expect("a key");
    assert!(key.starts_with("tg_"), "{key}");
    let server = server.start();
    let mut client = server.client().with("Authorization", &format!("Bearer {}", key.trim()));
    keep_busy(&server, &mut client, &supplier);
    let events = client.follow("/events", None).expect("a stream");
    let settled = || {
        let scrape = Scrape::of(&server);
        let depth = scrape.sum("tidegate_queue_depth", &[]) == 2.0 * QUEUES as f64;
        let over = scrape.sum("tidegate_llm_batches", &[]) + scrape.sum("tidegate_jobs", &[]) == 0.0;
        depth && over && scrape.sum("tidegate_sse_connections", &[]) == 1.0
    };
    eventually("the sweeps have counted", settled);
    let scrape = Scrape::of(&server);
    nothing_is_missing(&scrape.is_as_the_table_says(), &NOT_HERE);
    equals_the_store(&server, &scrape);
    scrape.pleases_promtool();
    let series = scrape.samples.len();
    assert!(series <= SERIES_MAX, "{series} series with {QUEUES} queues");
    assert_eq!(scrape.sum("tidegate_auth_failures_total", &[("reason", "missing")]), 1.0);
    assert_eq!(scrape.sum("tidegate_http_rate_limited_total", &[("policy", "quota_exceeded")]), 1.0);
    let tokens = |direction| scrape.sum("tidegate_llm_tokens_total", &[("direction", direction)]);
    assert!(tokens("input") > 0.0 && tokens("output") > 0.0, "{}", scrape.text);
    let of_run = scrape.samples.iter().find(|sample| sample.labels.get("stream").is_some_and(|stream| stream == "run"));
    assert_eq!(of_run.map(|sample| sample.value), Some(0.0), "that stream is over");
    drop(events);
}

#[test]
fn sqlite_a_server_tells_what_the_table_says_and_what_the_store_has() {
    tells_what_the_table_says(Database::Sqlite);
}

#[test]
fn postgres_a_server_tells_what_the_table_says_and_what_the_store_has() {
    tells_what_the_table_says(Database::Postgres);
}

/// Of the whole cluster one node tells; one that has let another do it tells of nothing, and not of what was.
#[test]
fn a_node_that_another_sweeps_for_tells_no_gauges_of_the_cluster_any_more() {
    let later = "[tasks.later]\nkind = \"pull\"\n";
    let first = Server::on(Database::Postgres).config(later).start();
    let mut client = first.client();
    client.run(&json!({"task": "later", "queue": "slow"}));
    let depth = |server: &Server| server.metric("tidegate_queue_depth", &["queue=\"slow\""]);
    eventually("the first one tells", || depth(&first) == 1.0);
    let id = first.rows("SELECT id FROM nodes").pop().and_then(|mut row| row.pop().flatten()).expect("its id");
    let heir = Server::on(Database::Postgres).config(later).with_store(&first.store).start();
    client.post(&format!("/nodes/{id}/drain"), &Value::Null).is(200);
    eventually("the other one tells", || depth(&heir) == 1.0);
    eventually("the first one does not", || depth(&first) == 0.0);
    let leads = |server: &Server| server.metric("tidegate_leader", &[]);
    let roles = first.number("SELECT COUNT(*) FROM roles") as f64;
    eventually("all roles have gone over", || leads(&heir) == roles && leads(&first) == 0.0);
    let draining = || heir.metric("tidegate_cluster_nodes", &["state=\"draining\""]);
    eventually("the one that drains is counted", || draining() == 1.0);
}
