//! Nodes that are asked to end, one after the other: nobody else's callers notice, no attempt is charged, and what does
//! not end in time goes on elsewhere (F10, F49, invariants 16 and 38).

use crate::{is_soak, short_lived};
use harness::history::now_ms;
use harness::{Cluster, Kind, Load, Mix, WITNESSED, Witness, eventually};
use serde_json::json;
use std::time::Duration;

const NODES: usize = 3;
const DRAIN_SECONDS: i64 = 5;

fn turns() -> usize {
    if is_soak() { 34 } else { 2 }
}

#[test]
fn a_rolling_restart_fails_no_caller_of_the_others_and_charges_no_attempt() {
    let witness = Witness::new();
    let cluster = Cluster::of(NODES, |server| {
        short_lived(server)
            .config(&witness.task(0.2))
            .set("workers.slots", 4)
            .set("server.drain_seconds", DRAIN_SECONDS)
    });
    let mut cluster = cluster.start();
    let mut mix = Mix::of("noop", 5);
    mix.tasks = ["noop", "noop", "noop", WITNESSED].map(str::to_owned).to_vec();
    (mix.batch_max, mix.history) = (5, true);
    let load = Load::over(&cluster.doors(), Duration::from_secs(10), &mix);
    let mut restarts = Vec::new();
    for turn in 0..turns() * NODES {
        let index = turn % NODES;
        load.has_more(50);
        let id = cluster.id(index);
        eventually("the node carries runs out", || cluster.held_by(&id) > 0);
        let from = now_ms();
        cluster.nodes[index].server.stop();
        let ended = now_ms();
        assert_eq!(cluster.held_by(&id), 0, "it has left runs behind");
        cluster.nodes[index].server.again();
        cluster.is_ready();
        restarts.push((index, from, ended, now_ms()));
    }
    let tally = load.stop();
    cluster.is_at_rest();
    let longest = restarts.iter().map(|(_, from, ended, _)| ended - from).max().unwrap_or_default();
    let unsure: Vec<_> = tally.history.between(0, i64::MAX, Kind::Info).collect();
    println!(
        "rolling restart: {} stops, the longest took {longest} ms; {} runs acknowledged, {} requests, {} of them without an answer; refused {:?}",
        restarts.len(),
        tally.acked.len(),
        tally.history.count(Kind::Invoke),
        unsure.len(),
        tally.refused,
    );
    // Within a span, a caller of the node that ends in it may be left without an answer.
    let own = |node: usize, at: i64| {
        restarts.iter().any(|(index, from, _, to)| *index == node && (from - 5..=to + 5).contains(&at))
    };
    let failed: Vec<_> = unsure.into_iter().filter(|entry| !own(entry.node, entry.at)).collect();
    assert!(failed.is_empty(), "{} requests to other nodes failed, such as {:?}", failed.len(), failed[0]);
    tally.verify(&cluster.nodes[0].server);
    let (starts, _) = witness.verify(&cluster.nodes[0].server);
    let charged = cluster.rows("SELECT id, attempts FROM run_records WHERE attempts > 1");
    assert!(charged.is_empty(), "{} attempts were charged, such as {:?}", charged.len(), charged[0]);
    assert_eq!(cluster.number("SELECT COUNT(*) FROM attempts WHERE state = 'lost'"), 0, "leases had to be taken back");
    cluster.nodes.iter_mut().for_each(|node| drop(node.server.stop()));
    assert!(longest <= DRAIN_SECONDS * 1_000 + 1_000, "a stop took {longest} ms");
    assert!(starts > restarts.len() * 5 && tally.acked.len() > restarts.len() * 50, "hardly anything was under way");
}

#[test]
fn what_a_stopped_node_could_not_end_goes_on_elsewhere_within_2_s_and_is_not_charged() {
    let witness = Witness::new();
    let cluster =
        Cluster::of(2, |server| short_lived(server).config(&witness.task(600.0)).set("server.drain_seconds", 0.5));
    let mut cluster = cluster.start();
    let run = cluster.nodes[0].server.client().in_env("one/dev").run(&json!({"task": WITNESSED}));
    eventually("its program is started", || witness.starts().contains_key(&run));
    let holder = cluster.rows("SELECT holder FROM leases")[0][0].clone().expect("a holder");
    let first = (0..2).find(|index| cluster.id(*index) == holder).expect("one of them holds it");
    cluster.nodes[first].server.stop();
    let ended = now_ms();
    eventually("another node starts it again", || witness.starts()[&run] == 2);
    let again = witness.effects().last().map_or(0, |effect| effect.started);
    println!("what was handed back went on {} ms after its node had ended", again - ended);
    assert!(again - ended <= 2_000, "it took {} ms", again - ended);
    assert!(!witness.effects().iter().any(|effect| effect.beside), "the first was still there");
    assert_eq!(cluster.number("SELECT attempts FROM leases"), 1, "the attempt was charged");
    let mut client = cluster.nodes[1 - first].server.client().in_env("one/dev");
    client.post(&format!("/runs/{run}/cancel"), &json!({})).is(202);
    eventually("no program is left", || witness.processes().is_empty());
    cluster.is_at_rest();
    cluster.nodes[1 - first].server.stop();
}
