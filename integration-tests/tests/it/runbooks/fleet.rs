//! Nodes, and what they do for each other.

use super::page::Page;
use harness::{Database, Server, eventually};
use serde_json::{Value, json};

const PULL: &str = "[tasks.later]\nkind = \"pull\"\n";

/// The id of the only node that is live.
pub fn node_of(server: &Server) -> String {
    let nodes = server.client().list("/nodes");
    let live: Vec<&Value> = nodes.iter().filter(|node| node["state"] == "live").collect();
    assert_eq!(live.len(), 1, "{nodes:?}");
    live[0]["id"].as_str().expect("an id").to_owned()
}

pub fn errors(mut page: Page) {
    let mut server = Server::on(Database::Sqlite).config(PULL).start();
    page.fill("ID", &node_of(&server)).rest(&server);
    eventually("the node is drained", || !server.is_ready());
    server.stop();
    server.again();
    eventually("started anew it is ready", || server.is_ready());
    server.stop();
}

pub fn leases_lost(mut page: Page) {
    let mut server = Server::on(Database::Sqlite).config(PULL).start();
    let mut client = server.client();
    client.run(&json!({"task": "later"}));
    let lease = json!({"worker": "sleepy", "tasks": ["later"], "lease_seconds": 1});
    client.post("/workers/lease", &lease).is(200);
    eventually("its lease is lost", || server.number("SELECT COUNT(*) FROM attempts WHERE state = 'lost'") > 0);
    let told = page.next(&server, "tidegate workers list");
    assert!(told.contains("sleepy"), "{told}");
    page.rest(&server);
    server.stop();
}

pub fn nobody_sweeps(mut page: Page) {
    let mut server = Server::on(Database::Sqlite).config(PULL).set("sweeps.enabled", false).start();
    page.until(&server, "tidegate sweep run").next(&server, "tidegate sweep run");
    server.stop();
    server.change("TIDEGATE_SWEEPS__ENABLED", true);
    server.again();
    let passes = |server: &Server| -> Vec<Option<String>> {
        let sweeps = server.client().list("/sweeps");
        sweeps.iter().map(|sweep| sweep["last_at"].as_str().map(str::to_owned)).collect()
    };
    let before = passes(&server);
    eventually("there are passes that are younger", || passes(&server) != before);
    page.rest(&server);
    server.stop();
}
