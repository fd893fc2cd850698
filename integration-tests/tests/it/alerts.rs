//! Alerts in the situations that they are for: real servers in trouble, scraped by a real Prometheus with the rules that
//! operators have.

use harness::{Account, Client, Cluster, Database, Prometheus, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};

const TASK: &str = "summarise";
const PULL: &str = "[tasks.later]\nkind = \"pull\"\n";

/// What is long for an operator and would be too long for a test.
const LIMITS: [(&str, &str); 3] = [
    ("max(tidegate_buffer_oldest_age_seconds) > 300", "max(tidegate_buffer_oldest_age_seconds) > 1"),
    ("(tidegate_sweep_last_success_timestamp_seconds) > 300", "(tidegate_sweep_last_success_timestamp_seconds) > 15"),
    ("- time() < 7200", "- time() < 90000"),
];

fn rules() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/prometheus/rules.yaml");
    std::fs::read_to_string(path).expect("the rules")
}

fn fires(prometheus: &Prometheus, alert: &str) -> Value {
    let mut found = Value::Null;
    eventually(&format!("{alert} fires"), || {
        found = prometheus.firing(alert).into_iter().next().unwrap_or_default();
        !found.is_null()
    });
    found
}

/// A server that buys for a job of one request a batch.
fn buyer(supplier: &Supplier, cap: &str) -> (Server, String) {
    // What it does not know it waits for somebody to say.
    let server = Server::on(Database::Sqlite)
        .config(&supplier.with_task(TASK))
        .set(&format!("providers.{}.policy", supplier.name), "\"hold\"")
        .set("limits.max_usd_per_day", format!("\"{cap}\""))
        .set("supervisor.sweep_seconds", 0.3)
        .start();
    let mut client = server.client();
    let runs: Vec<Value> = (0..40).map(|number| json!({"task": TASK, "payload": supplier.payload(number)})).collect();
    client.post("/runs/batch", &json!({"runs": runs})).is(200);
    let job = json!({"pool": TASK, "limits": {"max_batch_requests": 1}});
    let job = client.post("/jobs", &job).is(201).json()["id"].as_str().expect("an id").to_owned();
    (server, job)
}

#[test]
fn alerts_fire_in_the_situations_that_they_are_for() {
    // One whose buffer is not drained, of which an actor keeps dying, and whose database goes away.
    let cluster = Cluster::of(1, |server| {
        let server = server.config(PULL).set("supervisor.sweep_seconds", 0.3).set("buffer.stale_seconds", 1);
        let server = server.set("buffer.above_per_second", 1).set("supervisor.max_restarts", 10_000);
        let drill = "actors=worker-0 modes=stop kills=5000 every=300ms";
        let server = server.expecting("letting go of all runs");
        server.env("TIDEGATE_CHAOS", drill).env("TIDEGATE_DRAINER_ENABLED", "false")
    });
    let mut cluster = cluster.start();
    let mut client = Client::new(&cluster.doors()[0]);
    client.post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); 200]})).is(200);
    // One that has nearly spent what it may, on batches that take for ever; and one that does not know what it has bought.
    let slow = Supplier::new(Protocol::OpenAi, Account::open());
    slow.account.faults(&json!({"latency_ms": 3_600_000}));
    let (mut spender, _) = buyer(&slow, "0.0002");
    let silent = Supplier::new(Protocol::OpenAi, Account::open());
    silent.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 3_600_000}));
    let (mut doubter, job) = buyer(&silent, "0.0002");
    let targets = [&cluster.nodes[0].server, &spender, &doubter].map(Server::ops_addr);
    let prometheus = Prometheus::start(&targets, &rules(), &LIMITS);
    for alert in ["TidegateWatchdog", "TidegateDrainerStuck", "TidegateBufferOld", "TidegateBufferStale"] {
        fires(&prometheus, alert);
    }
    for alert in ["TidegateSpendNearCap", "TidegateBatchNearExpiry", "TidegateBatchUnreconciled"] {
        fires(&prometheus, alert);
    }
    doubter.client().post(&format!("/jobs/{job}/suspend"), &json!({})).is(200);
    fires(&prometheus, "TidegateJobSuspended");
    for quiet in ["TidegateDown", "TidegateSupervisorTripped", "TidegateSweepLate", "TidegateResultsQuarantined"] {
        assert!(prometheus.firing(quiet).is_empty(), "{quiet} fires too soon");
    }
    let storm = fires(&prometheus, "TidegateRestartStorm");
    assert!(storm["actor"].is_string() && storm["instance"].is_string(), "{storm}");
    // Each of them sweeps a store of its own, which would do for the alert.
    spender.stop();
    doubter.stop();
    cluster.postgres.crash();
    fires(&prometheus, "TidegateSweepLate");
    cluster.postgres.again();
    cluster.nodes[0].server.stop();
    fires(&prometheus, "TidegateDown");
}
