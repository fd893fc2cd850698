//! Actors of three nodes killed by a plan, in every way and all at once, under callers and under a job that buys: nothing
//! is lost, done or bought twice, all are back within a second, and what the plan, the metrics and the audit tell agrees.

use crate::{is_soak, short_lived};
use harness::judge::doubled_keys;
use harness::{Account, Client, Cluster, HOOKED, Hook, Load, Mix, Protocol, Supplier, WITNESSED, Witness, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const NODES: usize = 3;
const TASK: &str = "summarise";
const RUNS: usize = 60;

/// Ten minutes of it in a soak.
fn kills() -> u64 {
    if is_soak() { 5_000 } else { 150 }
}

fn plan(cluster: &Cluster) -> String {
    let servers: Vec<String> =
        cluster.doors().iter().map(|door| format!("http://{}", door.addr().expect("up"))).collect();
    let per_minute = if is_soak() { 520 } else { 900 };
    format!("servers = {servers:?}\nkills = {}\nper_minute = {per_minute}\nmax_seconds = 1200\nseed = 5\n", kills())
}

/// Deeds of all nodes: they share the log.
fn written_down(cluster: &Cluster) -> i64 {
    cluster.number("SELECT COUNT(*) FROM audit WHERE action = 'actor.kill'")
        - cluster.number("SELECT COUNT(*) FROM audit WHERE action = 'actor.kill.missed'")
}

#[test]
fn actors_of_three_nodes_killed_by_a_plan_lose_and_repeat_nothing_and_all_that_is_told_agrees() {
    let (witness, hook) = (Witness::new(), Hook::start());
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let config = format!("{}{}{}", witness.task(0.03), hook.task(), supplier.with_task(TASK));
    let cluster = Cluster::of(NODES, |server| {
        let server = short_lived(server).config(&config).set("chaos.enabled", true).set("workers.slots", 3);
        // A lease of which an actor's death is no part; a budget that real deaths would soon use up.
        let server = server.set("nodes.lease_seconds", 15).set("supervisor.max_restarts", 1);
        server.set("supervisor.hang_seconds", 0.2).expecting("panicked at actors/src/supervisor/child.rs")
    });
    let mut cluster = cluster.start();
    let mut client = Client::new(&cluster.doors()[0]);
    let prompt = |number| json!({"task": TASK, "payload": supplier.payload(number), "max_attempts": 50});
    let prompts: Vec<String> = (0..RUNS).map(|number| client.run(&prompt(number))).collect();
    let wish = json!({"pool": TASK, "limits": {"max_batch_requests": 5, "max_rounds": 1_000}});
    let job = client.post("/jobs", &wish).is(201).json()["id"].as_str().expect("an id").to_owned();
    let mut mix = Mix::of("noop", 3);
    mix.tasks = [vec!["noop"; 14], vec![WITNESSED, HOOKED]].concat().into_iter().map(str::to_owned).collect();
    (mix.callers, mix.batch_max) = (3, 10);
    let load = Load::over(&cluster.doors(), Duration::from_secs(5), &mix);
    let file = cluster.nodes[0].server.dir.path().join("plan.toml");
    std::fs::write(&file, plan(&cluster)).expect("the plan is written");
    let args = ["chaos", "plan", file.to_str().expect("a path"), "-o", "json"];
    let ran = cluster.nodes[0].server.command(&args).output().expect("it is started");
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    load.has_more(100);
    let mut tally = load.stop();
    tally.acked.extend(prompts.into_iter().map(|run| (run, "default/dev".to_owned())));
    let report: Value = serde_json::from_slice(&ran.stdout).expect("a report");
    let victims = report["data"].as_array().expect("a list");
    let sum = |name: &str| victims.iter().filter_map(|victim| victim[name].as_u64()).sum::<u64>();
    let of_all = |metric: &str, labels: &[&str]| {
        cluster.nodes.iter().map(|node| node.server.metric(metric, labels)).sum::<f64>()
    };
    assert_eq!((sum("kills"), sum("restarts")), (kills(), kills()), "{report}");
    assert_eq!(of_all("tidegate_chaos_kills_total", &[]), kills() as f64);
    assert_eq!(of_all("tidegate_actor_restarts_total", &["injected=\"true\""]), kills() as f64);
    assert_eq!(written_down(&cluster), i64::try_from(kills()).expect("few"));
    let slowest = victims.iter().filter_map(|victim| victim["restart_p99_seconds"].as_f64()).fold(0.0, f64::max);
    println!("{} kills of {} actors on {NODES} nodes; slowest restart p99 {slowest:.3} s", kills(), victims.len());
    assert!(slowest <= 1.0, "{report}");
    // The first one's connection was closed for idling while a long plan was carried out.
    let mut client = Client::new(&cluster.doors()[0]);
    eventually("the job has bought all", || {
        client.get(&format!("/jobs/{job}")).is(200).json()["items"]["succeeded"] == RUNS
    });
    cluster.is_at_rest();
    let ends = tally.verify(&cluster.nodes[0].server);
    assert_eq!(ends.get("failed"), None, "attempts were used up: {ends:?}");
    let ((starts, lost), deliveries) =
        (witness.verify(&cluster.nodes[0].server), hook.verify(&cluster.nodes[0].server));
    println!("ends {ends:?}; {starts} programs started, {lost} of their leases lost; {deliveries} webhooks delivered");
    let ledger = supplier.account.ledger();
    assert!(ledger.billed_twice.is_empty() && doubled_keys(&ledger).is_empty(), "{ledger:?}");
    assert_eq!(usize::try_from(ledger.distinct_items).ok(), Some(RUNS));
    cluster.nodes.iter_mut().for_each(|node| drop(node.server.stop()));
}
