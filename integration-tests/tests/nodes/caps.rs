//! Three nodes take runs under caps from one PostgreSQL at once: no cap is ever passed, no run is started twice, by
//! who receives them (invariants 2, 8 and 9).

use harness::{Cluster, HOOKED, Hook, Span, most_at_once};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const NODES: usize = 3;
const ENVS: [&str; 3] = ["one/dev", "one/prod", "two/dev"];
const KEYS: usize = 3;
/// Of all, of each env, and of each concurrency key.
const CAPS: (usize, usize, usize) = (15, 6, 2);
const PAGE: usize = 500;

fn runs_wanted() -> usize {
    if crate::is_soak() { 50_000 } else { 6_000 }
}

/// One page of runs of an env, half of them with a concurrency key.
fn page(env: &str) -> Value {
    let run = |number: usize| {
        let mut under = vec!["all".to_owned(), env.to_owned()];
        let mut run = json!({"task": HOOKED});
        if number.is_multiple_of(2) {
            let key = format!("k{}", number / 2 % KEYS);
            under.push(format!("{env} {key}"));
            run["concurrency_key"] = Value::from(key);
        }
        run["payload"] = json!({ "under": under });
        run
    };
    json!({"runs": (0..PAGE).map(run).collect::<Vec<_>>()})
}

/// The most that were leased at one time, by env and over all, as seen from outside every few milliseconds.
fn look_at_leases(cluster: &Cluster, stop: &AtomicBool) -> BTreeMap<String, usize> {
    let mut most = BTreeMap::new();
    let (_held, never) = channel::<()>();
    while !stop.load(Ordering::SeqCst) {
        let mut all = 0;
        for row in cluster.rows("SELECT env, COUNT(*) FROM leases GROUP BY env") {
            let count = row[1].as_deref().and_then(|count| count.parse().ok()).unwrap_or(0);
            all += count;
            let most = most.entry(row[0].clone().unwrap_or_default()).or_insert(0);
            *most = count.max(*most);
        }
        let most = most.entry("all".to_owned()).or_insert(0);
        *most = all.max(*most);
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
    most
}

/// The most at once by the runs' own stamps.
fn by_their_stamps(cluster: &Cluster, which: &str) -> i64 {
    let number = |cell: &Option<String>| cell.as_deref().and_then(|text| text.parse().ok()).expect("a stamp");
    let rows = cluster.rows(&format!("SELECT started_at, finished_at FROM run_records WHERE {which}"));
    most_at_once(&rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect::<Vec<Span>>())
}

#[test]
fn three_nodes_never_pass_a_cap_and_start_no_run_twice() {
    let (hook, (all, per_env, per_key)) = (Hook::start(), CAPS);
    let cluster = Cluster::of(NODES, |server| {
        server
            .config(&hook.task())
            .set("limits.max_running", all)
            .set("limits.max_running_per_env", per_env)
            .set("limits.max_running_per_key", per_key)
            .set("buffer.above_per_second", 2_000)
    });
    let mut cluster = cluster.start();
    let stop = AtomicBool::new(false);
    let leased = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look_at_leases(&cluster, &stop));
        let pages = runs_wanted().div_ceil(PAGE);
        for number in 0..pages {
            let env = ENVS[number % ENVS.len()];
            let mut client = cluster.nodes[number / ENVS.len() % NODES].server.client().in_env(env);
            assert_eq!(client.post("/runs/batch", &page(env)).is(200).json()["accepted"], PAGE);
        }
        cluster.is_at_rest();
        stop.store(true, Ordering::SeqCst);
        looking.join().expect("the leases are looked at")
    });
    let finished: Vec<f64> =
        cluster.nodes.iter().map(|node| node.server.metric("tidegate_runs_finished_total", &[])).collect();
    cluster.nodes.iter_mut().for_each(|node| drop(node.server.stop()));
    harness::sql::audit_at_rest(&cluster.postgres.url());
    let (received, deliveries) = (hook.most_at_once(), hook.deliveries());
    println!(
        "caps over {NODES} nodes: {} runs, {finished:?} on each node; leased at once {leased:?}",
        deliveries.len()
    );
    // Not equal parts: where a cap binds, who ends a run is the first to know that there is room again.
    assert!(finished.iter().all(|runs| *runs >= deliveries.len() as f64 / 100.0), "a node took no part: {finished:?}");
    let twice = deliveries.iter().find(|(_, count)| **count != 1);
    assert!(twice.is_none(), "a run was started more than once: {twice:?}");
    assert_eq!(deliveries.len() as i64, cluster.number("SELECT COUNT(*) FROM run_records WHERE state = 'succeeded'"));
    let check = |name: &str, which: &str, cap: usize| {
        let (received, stamped) = (received[name], by_their_stamps(&cluster, which));
        let leased = leased.get(name).copied();
        println!(
            "caps over {NODES} nodes: {name}: {received} of {cap} at once where they arrive, {stamped} by their stamps"
        );
        assert!(received <= cap && leased.unwrap_or(0) <= cap, "{name}: {received} at once, {leased:?} leased");
        assert!(stamped <= cap as i64, "{name}: {stamped} at once by their stamps");
        assert!(received == cap, "{name}: never more than {received} at once, though {cap} are allowed");
    };
    check("all", "state = 'succeeded'", all);
    for env in ENVS {
        check(env, &format!("env = '{env}'"), per_env);
        for key in 0..KEYS {
            let which = format!("env = '{env}' AND concurrency_key = 'k{key}'");
            check(&format!("{env} k{key}"), &which, per_key);
        }
    }
}
