//! What three nodes tell while their actors are killed through the API, and they themselves by SIGKILL, under callers of
//! fifty queues: told as the table of metrics says, and by the sums of all incarnations what the store has in its history.
//!
//! What a killed node has counted since it was last scraped went with it. How much that can be is known: it cannot be
//! more than what came into the store between a look at it before that scrape, which told all of it, and the kill.

use crate::{is_soak, seed, short_lived};
use harness::eventually::patience;
use harness::scrape::nothing_is_missing;
use harness::{Account, Client, Cluster, Load, Mix, Protocol, Scrape, Supplier, Tally, WITNESSED, Witness, eventually};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const NODES: usize = 3;
const QUEUES: usize = 50;
/// Series of one node with that many queues.
const SERIES_MAX: usize = 2_000;
const TASK: &str = "summarise";
const PROMPTS: usize = 12;
/// Kills of actors for each kill of a node.
const ACTORS_EACH: usize = 4;
/// An env whose runs go into the buffer, which is not drained here.
const FULL: &str = "full/dev";

/// Never told here: every model has its price, and there are not too many names.
const NOT_HERE: [&str; 2] = ["tidegate_llm_unpriced_requests_total", "tidegate_metric_labels_dropped_total"];

const KILLED: &str = "SELECT COUNT(*) FILTER (WHERE action = 'actor.kill')
    - COUNT(*) FILTER (WHERE action = 'actor.kill.missed') FROM audit";

/// Series of one name that have these labels.
type Series = (&'static str, &'static [(&'static str, &'static str)]);

const fn finished(state: &'static [(&'static str, &'static str)]) -> Series {
    ("tidegate_runs_finished_total", state)
}

const CANCELLED: &str = "SELECT COUNT(*) FROM run_records WHERE state = 'cancelled'";

/// Counters, and the history of each.
const COUNTED: [(Series, &str); 6] = [
    (("tidegate_runs_accepted_total", &[]), "SELECT COUNT(*) FROM run_records"),
    (finished(&[("state", "succeeded")]), "SELECT COUNT(*) FROM run_records WHERE state = 'succeeded'"),
    (finished(&[("state", "cancelled")]), CANCELLED),
    (finished(&[("state", "failed")]), "SELECT COUNT(*) FROM run_records WHERE state = 'failed'"),
    (("tidegate_chaos_kills_total", &[]), KILLED),
    (("tidegate_actor_restarts_total", &[("injected", "true")]), KILLED),
];

type Counts = [f64; COUNTED.len()];

fn node_kills() -> usize {
    if is_soak() { 50 } else { 10 }
}

/// By a plan, before any node is killed.
fn planned_kills() -> usize {
    if is_soak() { 800 } else { 60 }
}

/// What the nodes have told, those that are gone included.
struct Watch {
    cluster: Cluster,
    /// Of incarnations that were killed, when they were last scraped.
    gone: Counts,
    /// What they may have counted since.
    unseen: Counts,
    seen: BTreeSet<&'static str>,
    most_series: usize,
}

impl Watch {
    fn of(cluster: Cluster) -> Watch {
        let none = [0.0; COUNTED.len()];
        Watch { cluster, gone: none, unseen: none, seen: BTreeSet::new(), most_series: 0 }
    }

    /// Of all nodes, each as the table says.
    fn scrapes(&mut self) -> Vec<Scrape> {
        let scrapes: Vec<Scrape> = self.cluster.nodes.iter().map(|node| Scrape::of(&node.server)).collect();
        for scrape in &scrapes {
            self.seen.extend(scrape.is_as_the_table_says());
            self.most_series = self.most_series.max(scrape.samples.len());
        }
        scrapes
    }

    /// All of it at one moment.
    fn history(&self) -> Counts {
        let queries = COUNTED.map(|(_, query)| format!("({query})")).join(", ");
        let rows = self.cluster.rows(&format!("SELECT {queries}"));
        std::array::from_fn(|at| rows[0][at].as_deref().and_then(|text| text.parse().ok()).expect("a number"))
    }

    /// Waits until all that is in the history is told, as far as it can be known; returns the scrapes.
    fn tells(&mut self, history: &Counts) -> Vec<Scrape> {
        let mut scrapes = Vec::new();
        eventually("all that is durable is counted", || {
            scrapes = self.scrapes();
            let told = self.told(&scrapes);
            (0..COUNTED.len()).all(|at| told[at] + self.unseen[at] >= history[at])
        });
        scrapes
    }

    fn told(&self, scrapes: &[Scrape]) -> Counts {
        let now = counts(scrapes);
        std::array::from_fn(|at| self.gone[at] + now[at])
    }

    /// SIGKILL, and a new incarnation.
    fn kill(&mut self, index: usize) {
        let before = self.history();
        let scrapes = self.tells(&before);
        self.cluster.nodes[index].server.kill9();
        let after = self.history();
        let last = counts(&scrapes[index..=index]);
        for at in 0..COUNTED.len() {
            self.gone[at] += last[at];
            self.unseen[at] += after[at] - before[at];
        }
        self.cluster.nodes[index].server.again();
    }

    /// At rest: nothing is told that is not in the history, and nothing of it is missing but what could not be seen.
    fn is_what_the_history_says(&mut self) {
        let history = self.history();
        let scrapes = self.tells(&history);
        let told = self.told(&scrapes);
        println!("told {told:?}, of which by nodes that are gone {:?}; unseen at most {:?}", self.gone, self.unseen);
        for (at, ((name, labels), _)) in COUNTED.iter().enumerate() {
            assert!(told[at] <= history[at], "{name} {labels:?}: {} of {}", told[at], history[at]);
        }
    }
}

fn counts(scrapes: &[Scrape]) -> Counts {
    COUNTED.map(|((name, labels), _)| sum(scrapes, name, labels))
}

fn sum(scrapes: &[Scrape], name: &str, labels: &[(&str, &str)]) -> f64 {
    scrapes.iter().map(|scrape| scrape.sum(name, labels)).sum()
}

/// Gauges of the whole cluster are told by one node.
fn max(scrapes: &[Scrape], name: &str, labels: &[(&str, &str)]) -> f64 {
    scrapes.iter().map(|scrape| scrape.sum(name, labels)).fold(0.0, f64::max)
}

fn cluster(supplier: &Supplier, witness: &Witness) -> Cluster {
    let tasks = format!("{}{}[tasks.later]\nkind = \"pull\"\n", witness.task(0.02), supplier.with_task(TASK));
    let config = format!("{tasks}[envs.\"{FULL}\"]\nbuffer_above_per_second = 1.0\n");
    let cluster = Cluster::of(NODES, |server| {
        let server = short_lived(server).config(&config).set("chaos.enabled", true).set("workers.slots", 3);
        // A lease and a limit for hangs that a slow machine keeps; commits may be as slow as they like.
        let server = server.set("nodes.lease_seconds", 5).set("supervisor.hang_seconds", 1);
        let server = server.set("supervisor.max_restarts", 100);
        let server = server.set("buffer.above_commit_ms", 60_000).env("TIDEGATE_DRAINER_ENABLED", "false");
        let server = server.set("limits.max_usd_per_day", "\"100\"");
        server.expecting("panicked at actors/src/supervisor/child.rs")
    });
    cluster.start()
}

fn callers(watch: &Watch, envs: [&str; 3], seed: u64) -> Load {
    let mut mix = Mix::of("noop", seed);
    mix.tasks = [vec!["noop"; 12], vec![WITNESSED]].concat().into_iter().map(str::to_owned).collect();
    mix.envs = envs.map(str::to_owned).to_vec();
    (mix.callers, mix.batch_max, mix.queues, mix.history) = (4, 10, QUEUES, true);
    mix.pause = Duration::from_millis(10);
    Load::over(&watch.cluster.doors(), patience(), &mix)
}

/// Has all prompts answered; returns their runs.
fn buy(watch: &Watch, supplier: &Supplier) -> Vec<String> {
    let mut client = Client::new(&watch.cluster.doors()[0]);
    let prompt = |number| json!({"task": TASK, "payload": supplier.payload(number), "queue": "q0"});
    let runs = (0..PROMPTS).map(|number| client.run(&prompt(number))).collect();
    let job = client.post("/jobs", &json!({"pool": TASK})).is(201).field("id");
    eventually("the job is over", || client.get(&format!("/jobs/{job}")).json()["finished_at"].is_string());
    runs
}

/// Kills by a plan under callers, and all that is told once they rest; nothing was lost by anybody.
fn actors_are_killed(watch: &mut Watch, seed: u64, asked: usize) -> Tally {
    let load = callers(watch, ["one/dev", "one/prod", "two/dev"], seed);
    let addresses = watch.cluster.doors();
    let servers: Vec<String> = addresses.iter().map(|door| format!("http://{}", door.addr().expect("up"))).collect();
    let server = &watch.cluster.nodes[0].server;
    let (file, kills) = (server.dir.path().join("plan.toml"), planned_kills());
    let text = format!(
        "servers = {servers:?}\nkills = {kills}\nper_minute = 900\nmax_seconds = 1200\nseed = {}\nmodes = [\"panic\", \"stop\"]\n",
        seed % 1_000,
    );
    std::fs::write(&file, text).expect("the plan is written");
    let ran = server.command(&["chaos", "plan", file.to_str().expect("a path"), "-o", "json"]).output();
    let ran = ran.expect("it is started");
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    load.has_more(50);
    let tally = load.stop();
    watch.cluster.is_at_rest();
    watch.is_what_the_history_says();
    let scrapes = watch.scrapes();
    assert_eq!(sum(&scrapes, "tidegate_chaos_kills_total", &[]), kills as f64);
    let posts = [("route", "/api/v1/runs"), ("method", "POST")];
    let asked = (tally.history.asked("/runs") + asked) as f64;
    assert_eq!(sum(&scrapes, "tidegate_http_requests_total", &posts), asked, "requests");
    let number = |query: &str| watch.cluster.number(query) as f64;
    let attempts = |outcome| sum(&scrapes, "tidegate_run_attempts_total", &[("outcome", outcome)]);
    let succeeded = "SELECT COUNT(*) FROM run_records WHERE state = 'succeeded' AND task <> 'summarise'";
    assert_eq!(attempts("succeeded"), number(succeeded));
    // One that was to be cancelled and is lost is cancelled.
    let least = number("SELECT COUNT(*) FROM attempts WHERE state = 'lost'");
    assert!((least..=least + number(CANCELLED)).contains(&attempts("lost")), "{least}, {}", attempts("lost"));
    for (name, query) in [
        ("tidegate_llm_spend_nanodollars_total", "SELECT SUM(spent_nanos) FROM batches"),
        ("tidegate_llm_batch_turnaround_seconds_count", "SELECT COUNT(*) FROM batches"),
    ] {
        assert_eq!(sum(&scrapes, name, &[]), number(query), "{name}");
    }
    let created = sum(&scrapes, "tidegate_llm_batch_creates_total", &[("outcome", "accepted")]);
    assert_eq!(created, number("SELECT SUM(create_no) FROM batches"));
    tally
}

/// Kills an actor of a node, and waits for its successor.
fn kill_one(watch: &Watch, index: usize, name: &str, mode: &str) {
    let mut client = Client::new(&watch.cluster.doors()[index]);
    let mut killed = Value::Null;
    eventually("an actor is up, and killed", || {
        let answer = client.post(&format!("/actors/{name}/kill"), &json!({"mode": mode}));
        assert!(matches!(answer.status, 202 | 409), "{answer:?}");
        killed = answer.json();
        answer.status == 202
    });
    eventually("it is rebuilt", || {
        let all = client.list("/actors");
        let now = all.iter().find(|actor| actor["name"] == name).expect("it is there");
        now["up"] == true && now["generation"].as_u64() > killed["generation"].as_u64()
    });
}

/// Nodes are killed under callers, and actors in between.
fn nodes_are_killed(watch: &mut Watch, seed: u64) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed);
    let load = callers(watch, ["three/dev", "three/prod", "four/dev"], seed);
    let actors = ["drainer", "sweeper", "batch_poller", "job_drive", "worker-0", "worker-1", "worker-2"];
    for round in 0..node_kills() {
        for nth in 0..ACTORS_EACH {
            let hangs = round % 4 == 0 && nth == 0;
            let mode = if hangs { "hang" } else { ["panic", "stop"][nth % 2] };
            let name = actors.choose(&mut rng).expect("there are some");
            kill_one(watch, rng.random_range(0..NODES), name, mode);
        }
        watch.kill(rng.random_range(0..NODES));
        load.has_more(10);
    }
    let tally = load.stop();
    watch.cluster.is_at_rest();
    watch.is_what_the_history_says();
    tally
}

/// Something of everything that a gauge tells of, and that does not end by itself.
fn comes_to_a_stand(watch: &Watch, supplier: &Supplier) {
    supplier.account.faults(&json!({"latency_ms": 3_600_000}));
    let mut client = Client::new(&watch.cluster.doors()[1]);
    let later = |number: usize| json!({"task": "later", "queue": format!("q{}", number % QUEUES)});
    let waiting: Vec<Value> = (0..2 * QUEUES + 1).map(later).collect();
    client.post("/runs/batch", &json!({"runs": waiting})).is(200);
    let mut full = client.in_env(FULL);
    full.post("/runs/batch", &json!({"runs": (0..20).map(later).collect::<Vec<_>>()})).is(200);
    assert_eq!(watch.cluster.number("SELECT COUNT(*) FROM buffer"), 20);
    client.post("/workers/lease", &json!({"tasks": ["later"], "worker": "w"})).is(200);
    let prompt = |number| json!({"task": TASK, "payload": supplier.payload(number), "queue": "q0"});
    (PROMPTS..2 * PROMPTS).for_each(|number| drop(client.run(&prompt(number))));
    client.post("/jobs", &json!({"pool": TASK, "limits": {"max_batch_requests": PROMPTS / 3}})).is(201);
    eventually("all batches are under way", || {
        watch.cluster.number("SELECT COUNT(*) FROM batches WHERE state = 'submitted'") == 3
    });
}

/// A gauge, the label of which it is asked, and what the store says of that.
type Gauge = (&'static str, Option<(&'static str, String)>, String);

fn gauges() -> Vec<Gauge> {
    let mut gauges = Vec::new();
    let mut add = |name, label: Option<(&'static str, &str)>, query: &str| {
        gauges.push((name, label.map(|(name, word)| (name, word.to_owned())), query.to_owned()));
    };
    let of_queue = "SELECT COUNT(*) FROM ready WHERE due_at = 0 AND split_part(lane, chr(31), 1) =";
    for number in 0..QUEUES {
        let queue = format!("q{number}");
        add("tidegate_queue_depth", Some(("queue", &queue)), &format!("{of_queue} '{queue}'"));
    }
    add("tidegate_queue_depth", None, "SELECT COUNT(*) FROM ready WHERE due_at = 0");
    add("tidegate_pull_leases", None, "SELECT COUNT(*) FROM leases WHERE token IS NOT NULL");
    add("tidegate_buffer_entries", Some(("state", "queued")), "SELECT COUNT(*) FROM buffer WHERE parked IS NULL");
    add("tidegate_buffer_entries", Some(("state", "parked")), "SELECT COUNT(*) FROM buffer WHERE parked IS NOT NULL");
    add("tidegate_buffer_stale_entries", None, "SELECT 0");
    for state in ["planned", "submitting", "unknown", "submitted", "cancelling", "ended"] {
        let query = format!("SELECT COUNT(*) FROM batches WHERE state = '{state}'");
        add("tidegate_llm_batches", Some(("state", state)), &query);
    }
    for state in ["created", "running", "suspended", "finishing"] {
        add("tidegate_jobs", Some(("state", state)), &format!("SELECT COUNT(*) FROM jobs WHERE state = '{state}'"));
    }
    for state in ["live", "draining"] {
        let query = format!("SELECT COUNT(*) FROM nodes WHERE state = '{state}'");
        add("tidegate_cluster_nodes", Some(("state", state)), &query);
    }
    add("tidegate_cluster_nodes", Some(("state", "suspect")), "SELECT 0");
    let today = "created_at >= FLOOR(extract(epoch FROM clock_timestamp()) / 86400) * 86400000";
    let spend = format!("SELECT COALESCE(SUM(reserved_nanos + spent_nanos), 0) FROM batches WHERE {today}");
    add("tidegate_llm_spend_day_nanodollars", None, &spend);
    gauges
}

/// They are told from time to time, of what does not move any more.
fn gauges_are_true(watch: &mut Watch) {
    let mut scrapes = Vec::new();
    for (name, label, query) in gauges() {
        let labels: Vec<(&str, &str)> = label.iter().map(|(name, word)| (*name, word.as_str())).collect();
        let mut both = (0.0, 0.0);
        eventually(&format!("{name} {labels:?} is what the store says"), || {
            both = (max(&scrapes, name, &labels), watch.cluster.number(&query) as f64);
            let same = both.0 == both.1 && !scrapes.is_empty();
            if !same {
                scrapes = watch.scrapes();
            }
            same
        });
    }
    let roles = watch.cluster.rows("SELECT name FROM roles");
    for role in roles.iter().filter_map(|row| row[0].as_deref()) {
        assert_eq!(sum(&scrapes, "tidegate_leader", &[("role", role)]), 1.0, "{role}");
    }
    let expires = max(&scrapes, "tidegate_llm_batch_next_expiry_timestamp_seconds", &[]);
    let first = watch.cluster.number("SELECT MIN(submitted_at) FROM batches WHERE state = 'submitted'");
    assert_eq!((expires * 1_000.0).round() as i64, first + 24 * 3_600 * 1_000);
}

/// What a gauge says of an age lies between what the store said before and says after; ages in the store are in
/// milliseconds.
fn ages_are_true(watch: &mut Watch) {
    let now = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
    for (name, query) in [
        ("tidegate_queue_oldest_age_seconds", format!("{now} - MIN(since) FROM ready WHERE due_at = 0")),
        ("tidegate_buffer_oldest_age_seconds", format!("{now} - MIN(accepted_at) FROM buffer")),
    ] {
        let age = |watch: &Watch| watch.cluster.number(&query) as f64 / 1_000.0;
        let (before, mut told) = (age(watch), 0.0);
        eventually("an age grows", || {
            let samples: Vec<_> = watch.scrapes().into_iter().flat_map(|scrape| scrape.samples).collect();
            let values = samples.iter().filter(|sample| sample.series == name).map(|sample| sample.value);
            told = values.fold(0.0, f64::max);
            told >= before
        });
        // The nodes' own idea of the store's time is a little off.
        let after = age(watch) + 1.0;
        assert!(told <= after, "{name}: {told} is more than {after}");
    }
}

#[test]
fn what_three_nodes_tell_is_true_after_kills_of_their_actors_and_of_themselves() {
    let seed = seed();
    println!("kills on three nodes: TIDEGATE_SEED={seed}");
    let (witness, supplier) = (Witness::new(), Supplier::new(Protocol::OpenAi, Account::open()));
    let mut watch = Watch::of(cluster(&supplier, &witness));
    let prompts = buy(&watch, &supplier);
    let mut tally = actors_are_killed(&mut watch, seed, prompts.len());
    tally.acked.extend(prompts.into_iter().map(|run| (run, "default/dev".to_owned())));
    tally.join(nodes_are_killed(&mut watch, seed.wrapping_add(100)));
    let ends = tally.verify(&watch.cluster.nodes[0].server);
    assert_eq!(ends.get("failed"), None, "attempts were used up: {ends:?}");
    comes_to_a_stand(&watch, &supplier);
    let events = Client::new(&watch.cluster.doors()[0]).follow("/events", None).expect("a stream");
    gauges_are_true(&mut watch);
    ages_are_true(&mut watch);
    for scrape in watch.scrapes() {
        scrape.pleases_promtool();
    }
    nothing_is_missing(&watch.seen, &NOT_HERE);
    println!("ends {ends:?}; {} series at most", watch.most_series);
    assert!(watch.most_series <= SERIES_MAX, "{} series with {QUEUES} queues", watch.most_series);
    drop(events);
    watch.cluster.nodes.iter_mut().for_each(|node| drop(node.server.stop()));
}
