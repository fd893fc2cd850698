//! The database goes away for longer than a lease and comes back: nobody is to blame, nobody is replaced (F16, F47).

use super::{LEASE_MS, short_lived};
use harness::{Cluster, Wire, eventually};
use serde_json::json;

const NODES: usize = 3;
/// The database's time.
const NOW: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";

/// Who turns to the database as soon as it is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    TheNodes,
    ACommand,
}

fn ends_no_node(first: First) {
    let cluster = Cluster::of(NODES, |server| short_lived(server).expecting("letting go of all runs"));
    let mut cluster = cluster.start();
    let ids: Vec<String> = (0..NODES).map(|index| cluster.id(index)).collect();
    cluster.postgres.crash();
    // Each has given up its runs, because its lease ends before it could be renewed.
    for node in &cluster.nodes {
        node.server.says("letting go of all runs");
    }
    cluster.postgres.again();
    if first == First::ACommand {
        let mut command = cluster.nodes[0].server.command(&["jobs", "list"]);
        command.env("TIDEGATE_STORE", cluster.postgres.url());
        let looked = command.output().expect("the command starts");
        assert!(looked.status.success(), "{looked:?}");
    }
    // Two leases more, in which whoever could be declared gone would be, and would have noticed.
    let until = cluster.number(NOW) + 2 * LEASE_MS;
    eventually("two leases are over", || cluster.number(NOW) > until);
    let gone: Vec<&String> = ids
        .iter()
        .filter(|id| cluster.number(&format!("SELECT COUNT(*) FROM nodes WHERE id = '{id}' AND state = 'gone'")) > 0)
        .collect();
    assert!(gone.is_empty(), "{} of {NODES} nodes were declared gone: {gone:?}", gone.len());
    cluster.is_ready();
    for (node, id) in cluster.nodes.iter_mut().zip(&ids) {
        assert!(node.server.is_running(), "{id} has ended: {:?}", node.server.lines());
        let mut client = node.server.client().in_env("one/dev");
        let run = client.run(&json!({"task": "noop"}));
        eventually("it is carried out", || client.read(&run)["status"] == "succeeded");
        node.server.stop();
    }
}

#[test]
fn an_outage_longer_than_the_lease_ends_no_node() {
    ends_no_node(First::TheNodes);
}

#[test]
fn an_outage_longer_than_the_lease_ends_no_node_although_a_command_comes_first_after_it() {
    ends_no_node(First::ACommand);
}

/// A program that says something ten times a second.
const TALKING: &str = "[tasks.talking]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"for n in $(seq 30); do echo $n; sleep 0.1; done\"]\n";

/// What stands between a node and its database may take connections and close them again before a word is said, while
/// the database is away. That is an outage like any other (invariant 37, F16, F21).
#[test]
fn connections_that_are_closed_before_a_word_lose_no_output_and_no_end() {
    let cluster = Cluster::of(1, |server| server.config(TALKING).set("supervisor.sweep_seconds", 0.2));
    let mut cluster = cluster.start();
    let run = cluster.nodes[0].server.client().in_env("one/dev").run(&json!({"task": "talking"}));
    let said = "SELECT COUNT(*) FROM output_chunks";
    eventually("its first words are stored", || cluster.number(said) > 0);
    cluster.nodes[0].proxy.set(Wire::Cut);
    cluster.nodes[0].server.says("the store is away");
    let before = cluster.number(said);
    let until = cluster.number(NOW) + 1_500;
    eventually("more is said meanwhile", || cluster.number(NOW) > until);
    cluster.nodes[0].proxy.set(Wire::Pass);
    let mut client = cluster.nodes[0].server.client().in_env("one/dev");
    eventually("the run succeeds", || {
        let answer = client.get(&format!("/runs/{run}"));
        answer.status == 200 && answer.field("status") == "succeeded"
    });
    let whole = "SELECT convert_from(string_agg(data, ''::BYTEA ORDER BY seq), 'UTF8') FROM output_chunks";
    let words = cluster.rows(whole)[0][0].clone().unwrap_or_default();
    println!("cut off after {before} pieces; stored in the end: {:?}", words.replace('\n', " "));
    assert_eq!(words, (1..=30).map(|number| format!("{number}\n")).collect::<String>());
    assert_eq!(cluster.number("SELECT attempts FROM run_records"), 1);
    cluster.nodes[0].server.stop();
}
