//! More processes on one PostgreSQL carry out no fewer runs than one does, on one machine whose cores they share.

use harness::{Cluster, eventually};
use serde_json::json;
use std::sync::mpsc::channel;
use std::time::Duration;

/// What a neighbour on the machine may cost.
const NOISE_PERCENT: i64 = 10;
const TRIES: usize = 3;
const PAGE: usize = 500;
const ENVS: [&str; 6] = ["one/a", "one/b", "two/a", "two/b", "three/a", "three/b"];

fn runs_wanted() -> usize {
    if std::env::var_os("TIDEGATE_SOAK").is_some() { 150_000 } else { 24_000 }
}

/// Runs taken in and carried out in a second, from the first that is accepted to the last that ends, sent by the same
/// callers in the same pages whatever the number of nodes.
fn runs_per_second(nodes: usize) -> i64 {
    // Not a short lease: a disk that is busy for a second is no failure here.
    let mut cluster = Cluster::of(nodes, |server| server.set("nodes.lease_seconds", 15)).start();
    let page = json!({"runs": vec![json!({"task": "noop"}); PAGE]});
    std::thread::scope(|scope| {
        for (number, env) in ENVS.iter().enumerate() {
            let mut client = cluster.nodes[number % nodes].server.client().in_env(env);
            let page = &page;
            scope.spawn(move || {
                for _ in 0..runs_wanted() / ENVS.len() / PAGE {
                    assert_eq!(client.post("/runs/batch", page).is(200).json()["accepted"], PAGE);
                }
            });
        }
    });
    // Asked of the nodes and not of the database, whose time is what is measured.
    let finished =
        || cluster.nodes.iter().map(|node| node.server.metric("tidegate_runs_finished_total", &[])).sum::<f64>();
    let mut before = 0.0;
    while before < runs_wanted() as f64 {
        let mut now = 0.0;
        eventually("more runs have ended", || {
            now = finished();
            now > before
        });
        before = now;
        let (_held, never) = channel::<()>();
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
    cluster.is_at_rest();
    let succeeded = "FROM run_records WHERE state = 'succeeded'";
    let runs = cluster.number(&format!("SELECT COUNT(*) {succeeded}"));
    let span = cluster.number(&format!("SELECT MAX(finished_at) - MIN(accepted_at) {succeeded}"));
    assert_eq!(runs, runs_wanted() as i64);
    cluster.nodes.iter_mut().for_each(|node| drop(node.server.stop()));
    runs * 1_000 / span
}

#[test]
fn three_nodes_on_one_machine_carry_out_no_fewer_runs_than_one() {
    let (mut one, mut three) = (0, 0);
    for attempt in 1..=TRIES {
        let (of_one, of_three) = (runs_per_second(1), runs_per_second(3));
        println!("noops a second, of {}, try {attempt}: {of_one} with 1 node, {of_three} with 3", runs_wanted());
        (one, three) = (one.max(of_one), three.max(of_three));
        if three * 100 >= one * (100 - NOISE_PERCENT) {
            return;
        }
    }
    panic!("3 nodes carry out {three} runs a second, and 1 node {one}");
}
