//! Alerts in the situations that they are for: real servers in trouble, scraped by a real Prometheus with the rules that
//! operators have. Three of them are not brought about here and have their cases in `rules.test.yaml` only:
//! `TidegateLeasesLost` and `TidegateSupervisorTripped`, because a node that finds its runs in other hands, or gives up on
//! an actor, ends before it is looked at again, and `TidegateDatabasePoolStarved`.

use harness::{Account, Client, Cluster, Database, Prometheus, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};

const TASK: &str = "summarise";
/// What one node at a time does for all.
const ROLES: f64 = 6.0;
const CONFIG: &str = "[tasks.later]\nkind = \"pull\"\n[envs.\"slow/dev\"]\nbuffer_above_per_second = 1000.0\n";

/// What is long for an operator and would be too long for a test.
const LIMITS: [(&str, &str); 4] = [
    ("max(tidegate_buffer_oldest_age_seconds) > 300", "max(tidegate_buffer_oldest_age_seconds) > 1"),
    ("(tidegate_queue_oldest_age_seconds) > 600", "(tidegate_queue_oldest_age_seconds) > 1"),
    ("(tidegate_sweep_last_success_timestamp_seconds) > 300", "(tidegate_sweep_last_success_timestamp_seconds) > 15"),
    ("- time() < 7200", "- time() < 90000"),
];

fn rules() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/prometheus/rules.yaml");
    std::fs::read_to_string(path).expect("the rules")
}

fn fires(prometheus: &Prometheus, alert: &str) -> Value {
    fires_while(prometheus, alert, || ())
}

/// The same of one that takes something being done again and again.
fn fires_while(prometheus: &Prometheus, alert: &str, mut done: impl FnMut()) -> Value {
    let mut found = Value::Null;
    eventually(&format!("{alert} fires"), || {
        done();
        found = prometheus.firing(alert).into_iter().next().unwrap_or_default();
        !found.is_null()
    });
    found
}

/// All of these fire, in whatever order; one that had long been quiet again when the last began has fired too.
fn all_fire(prometheus: &Prometheus, alerts: &[&str]) {
    let mut awaited = alerts.to_vec();
    eventually(&format!("all of {alerts:?} fire"), || {
        awaited.retain(|alert| prometheus.firing(alert).is_empty());
        awaited.is_empty()
    });
}

fn is_quiet(prometheus: &Prometheus, alert: &str) {
    eventually(&format!("{alert} is quiet"), || prometheus.firing(alert).is_empty());
}

/// A server that is to buy for a job; what it does not know it waits for somebody to say.
fn buyer(supplier: &Supplier) -> Server {
    let server = Server::on(Database::Sqlite).config(&supplier.with_task(TASK)).set("supervisor.sweep_seconds", 0.3);
    server.set(&format!("providers.{}.policy", supplier.name), "\"hold\"")
}

/// Has it buy answers to these prompts; returns the job.
fn buys(server: &Server, prompts: &[Value], per_batch: usize) -> String {
    let mut client = server.client();
    let runs: Vec<Value> = prompts.iter().map(|prompt| json!({"task": TASK, "payload": prompt})).collect();
    client.post("/runs/batch", &json!({"runs": runs})).is(200);
    let job = json!({"pool": TASK, "limits": {"max_batch_requests": per_batch}});
    client.post("/jobs", &job).is(201).json()["id"].as_str().expect("an id").to_owned()
}

/// One that has spent nearly what it may once it has bought a few.
fn capped(supplier: &Supplier) -> (Server, String) {
    let server = buyer(supplier).set("limits.max_usd_per_day", "\"0.0002\"").start();
    let prompts: Vec<Value> = (0..40).map(|number| supplier.payload(number)).collect();
    let job = buys(&server, &prompts, 1);
    (server, job)
}

/// One that buys from a provider who takes a batch twice and adds lines of others, at a price that is not known.
fn careless(supplier: &Supplier) -> Server {
    let faults = json!({"delayed_accepts": 1, "accept_delay_ms": 1_200, "latency_ms": 4_000, "unknown_rate": 1.0});
    supplier.account.faults(&faults);
    let server = buyer(supplier).set(&format!("providers.{}.policy", supplier.name), "\"settle\"");
    server.set(&format!("providers.{}.exclusive", supplier.name), true).expecting("has this batch twice").start()
}

/// Two nodes whose buffers are not drained, and of each of which an actor keeps dying. Runs that wait, some of them in a
/// queue that somebody has paused.
fn troubled() -> (Cluster, Client) {
    let cluster = Cluster::of(2, |server| {
        let server = server.config(CONFIG).set("supervisor.sweep_seconds", 0.3).set("buffer.stale_seconds", 1);
        let server = server.set("buffer.above_per_second", 1).set("supervisor.max_restarts", 10_000);
        // By their rate alone, however slow the machine is.
        let server = server.set("buffer.above_commit_ms", 60_000);
        let drill = "actors=worker-0 modes=stop kills=5000 every=300ms";
        let server = server.expecting("letting go of all runs");
        server.env("TIDEGATE_CHAOS", drill).env("TIDEGATE_DRAINER_ENABLED", "false")
    });
    let cluster = cluster.start();
    let mut client = Client::new(&cluster.doors()[0]);
    let run = client.run(&json!({"task": "later"}));
    assert_eq!(client.get(&format!("/runs/{run}")).json()["status"], "queued");
    client.post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); 200]})).is(200);
    let mut hasty = Client::new(&cluster.doors()[0]).in_env("slow/dev");
    // What nobody has counted before is not seen to become more.
    for node in &cluster.nodes {
        let mut client = Client::new(&node.server.door()).in_env("slow/dev");
        eventually("it carries runs of the queue out", || {
            drop(client.run(&json!({"task": "noop", "queue": "mail"})));
            node.server.metric("tidegate_run_queue_wait_seconds_count", &["queue=\"mail\""]) > 0.0
        });
    }
    for_all(&cluster, "pause");
    (0..5).for_each(|_| drop(hasty.run(&json!({"task": "noop", "queue": "mail"}))));
    (cluster, hasty)
}

/// What is done to the queue through one node is soon known to the others, and at once to this one.
fn for_all(cluster: &Cluster, change: &str) {
    for door in cluster.doors() {
        Client::new(&door).in_env("slow/dev").post(&format!("/queues/mail/{change}"), &Value::Null).is(200);
    }
}

#[test]
fn alerts_fire_in_the_situations_that_they_are_for() {
    let (mut cluster, mut hasty) = troubled();
    // One that has nearly spent what it may, on batches that take for ever; and one that does not know what it has bought.
    let slow = Supplier::new(Protocol::OpenAi, Account::open());
    slow.account.faults(&json!({"latency_ms": 3_600_000}));
    let (mut spender, _) = capped(&slow);
    let silent = Supplier::new(Protocol::OpenAi, Account::open());
    silent.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 3_600_000}));
    let (mut doubter, job) = capped(&silent);
    let bad = Supplier::new(Protocol::Anthropic, Account::open());
    let mut careless = careless(&bad);
    let nodes = cluster.nodes.iter().map(|node| &node.server);
    let servers: Vec<_> = nodes.chain([&spender, &doubter, &careless]).map(Server::ops_addr).collect();
    let prometheus = Prometheus::start(&servers, &rules(), &LIMITS);
    fires(&prometheus, "TidegateWatchdog");
    // They fire until the first node is scraped.
    is_quiet(&prometheus, "TidegateDown");
    is_quiet(&prometheus, "TidegateNothingTold");
    for quiet in ["TidegateDuplicateBatch", "TidegateSweepLate", "TidegateResultsQuarantined"] {
        assert!(prometheus.firing(quiet).is_empty(), "{quiet} fires too soon");
    }
    let mut prompt = bad.payload(0);
    prompt["model"] = Value::from("unheard-of");
    buys(&careless, &[prompt], 1);
    all_fire(&prometheus, &["TidegateDuplicateBatch", "TidegateResultsQuarantined", "TidegateUnpricedModel"]);
    all_fire(&prometheus, &["TidegateDrainerStuck", "TidegateBufferOld", "TidegateBufferStale"]);
    all_fire(&prometheus, &["TidegateSpendNearCap", "TidegateBatchNearExpiry", "TidegateBatchUnreconciled"]);
    doubter.client().post(&format!("/jobs/{job}/suspend"), &json!({})).is(200);
    fires(&prometheus, "TidegateJobSuspended");
    let storm = fires(&prometheus, "TidegateRestartStorm");
    assert!(storm["actor"].is_string() && storm["instance"].is_string(), "{storm}");
    // Each of them sweeps a store of its own, and what is in flight there would do for any queue.
    for server in [&mut spender, &mut doubter, &mut careless] {
        server.stop();
    }
    waits_too_long(&cluster, &prometheus);
    goes_away(&mut cluster, &mut hasty, &prometheus);
}

/// Nothing is carried out, though workers are there and one of them keeps dying; then what has waited is.
fn waits_too_long(cluster: &Cluster, prometheus: &Prometheus) {
    fires(prometheus, "TidegateQueueStalled");
    is_quiet(prometheus, "TidegateNobodySweeps");
    assert!(prometheus.firing("TidegateSlowStarts").is_empty(), "nothing has started since");
    let age = || {
        let age = |node: &harness::Node| node.server.metric("tidegate_queue_oldest_age_seconds", &["queue=\"mail\""]);
        cluster.nodes.iter().map(age).fold(0.0, f64::max)
    };
    eventually("they have waited", || age() > 5.5);
    for_all(cluster, "resume");
    assert_eq!(fires(prometheus, "TidegateSlowStarts")["queue"], "mail");
}

/// The database, then whoever swept, then everybody.
fn goes_away(cluster: &mut Cluster, hasty: &mut Client, prometheus: &Prometheus) {
    cluster.postgres.crash();
    let mut call = || drop(hasty.post("/runs", &json!({"task": "noop"})));
    fires_while(prometheus, "TidegateIntakeErrorsFast", &mut call);
    fires_while(prometheus, "TidegateIntakeErrorsSlow", &mut call);
    fires(prometheus, "TidegateSweepLate");
    cluster.postgres.again();
    cluster.is_ready();
    // They may have come to share the roles.
    let leads = |at: usize| cluster.nodes[at].server.metric("tidegate_leader", &[]);
    eventually("each role is somebody's", || leads(0) + leads(1) == ROLES);
    is_quiet(prometheus, "TidegateNobodySweeps");
    let leader = usize::from(leads(1) > leads(0));
    cluster.nodes[leader].server.kill9();
    fires(prometheus, "TidegateNobodySweeps");
    cluster.nodes[1 - leader].server.stop();
    all_fire(prometheus, &["TidegateDown", "TidegateNothingTold"]);
}
