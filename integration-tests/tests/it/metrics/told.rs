//! What a server tells while it has much to tell, held against the table, the store, and Prometheus' own linter.

use actors::metrics::{CATALOGUE, Metric, Type};
use harness::{Account, Client, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

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

/// One line of a scrape.
#[derive(Debug)]
struct Sample {
    series: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A scrape: the type of each name, and the lines of it.
#[derive(Debug, Default)]
struct Scrape {
    text: String,
    types: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

impl Scrape {
    fn of(server: &Server) -> Scrape {
        let text = server.ops("/metrics").is(200).text();
        let mut scrape = Scrape { text, ..Scrape::default() };
        for line in scrape.text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                scrape.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                scrape.samples.push(sample(line));
            }
        }
        scrape
    }

    /// The name that a line belongs to, of which a histogram has three.
    fn family<'a>(&self, sample: &'a Sample) -> &'a str {
        let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|end| sample.series.strip_suffix(end));
        let of_histogram = |name: &&str| self.types.get(*name).is_some_and(|kind| kind == "histogram");
        parts.into_iter().find(of_histogram).unwrap_or(&sample.series)
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is_it = |sample: &&Sample| {
            let has = |(name, value): &(&str, &str)| sample.labels.get(*name).is_some_and(|said| said == value);
            sample.series == name && labels.iter().all(has)
        };
        self.samples.iter().filter(is_it).map(|sample| sample.value).sum()
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    for label in rest.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
        let (name, said) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        labels.insert(name.to_owned(), said.trim_end_matches('"').to_owned());
    }
    Sample { series: name.to_owned(), labels, value }
}

/// Names, types, labels and what they say are those of the table, and nothing is missing that should be there.
fn is_as_the_table_says(scrape: &Scrape) {
    let table: BTreeMap<&str, &Metric> = CATALOGUE.iter().map(|metric| (metric.name, metric)).collect();
    for (name, kind) in &scrape.types {
        let metric = table.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(kind, metric.kind.word(), "{name}: a summary is no histogram");
    }
    let mut seen = BTreeSet::new();
    for sample in &scrape.samples {
        let metric = table[scrape.family(sample)];
        let bucket = metric.kind == Type::Histogram && sample.series.ends_with("_bucket");
        let said: BTreeSet<&str> =
            sample.labels.keys().map(String::as_str).filter(|name| !bucket || *name != "le").collect();
        let should: BTreeSet<&str> = metric.labels.iter().map(|label| label.name).collect();
        assert_eq!(said, should, "{sample:?}");
        for label in metric.labels {
            assert!(label.allows(&sample.labels[label.name]), "{}: {sample:?}", label.described());
        }
        seen.insert(metric.name);
    }
    let missing: Vec<&str> =
        table.keys().copied().filter(|name| !seen.contains(name) && !NOT_HERE.contains(name)).collect();
    assert!(missing.is_empty(), "nothing is told of {missing:?}");
}

fn pleases_promtool(scrape: &Scrape) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool of Debian's package prometheus");
    child.stdin.take().expect("its stdin").write_all(scrape.text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

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
    is_as_the_table_says(&scrape);
    equals_the_store(&server, &scrape);
    pleases_promtool(&scrape);
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
