//! Guides: what is done when nothing is wrong, or nobody knows what.

use super::batches::{batch_in, buyer, job, job_is};
use super::fleet::node_of;
use super::page::{Page, root};
use harness::{Account, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};

pub fn capacity(mut page: Page) {
    let mut server = Server::start_on(Database::Postgres);
    let file = Server::on(Database::Sqlite);
    assert!(file.command(&["db", "migrate"]).status().is_ok_and(|status| status.success()));
    page.fill("FILE", file.store.trim_start_matches("sqlite:")).fill("DATABASE", &server.store);
    page.rest(&server);
    server.stop();
}

pub fn game_day(mut page: Page) {
    let server = Server::on(Database::Sqlite).set("chaos.enabled", true).set("supervisor.hang_seconds", 0.5);
    let mut server = server.expecting("actors/src/supervisor/child.rs").start();
    let text = std::fs::read_to_string(root().join("ops/runbooks/game-day.md")).expect("the page");
    let plan = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a plan");
    std::fs::write(server.dir.path().join("plan.toml"), plan).expect("the plan");
    let mut client = server.client();
    let runs: Vec<String> = (0..20).map(|_| client.run(&json!({"task": "noop"}))).collect();
    page.until(&server, "tidegate db check");
    for run in &runs {
        eventually("the run ends", || client.read(run)["status"] == "succeeded");
    }
    assert!(server.metric("tidegate_actor_restarts_total", &["injected=\"true\""]) >= 6.0);
    assert_eq!(server.metric("tidegate_actor_restarts_total", &["injected=\"false\""]), 0.0);
    let audit = client.list("/audit");
    assert_eq!(audit.iter().filter(|entry| entry["action"] == "actor.kill").count(), 6, "{audit:?}");
    page.rest(&server);
    server.stop();
}

pub fn incident(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"latency_ms": 1_500}));
    let mut server = buyer(&supplier).start();
    let mut client = server.client();
    let id = job(&mut client, &supplier, 0..3);
    batch_in(&server, "submitted");
    page.fill("ID", &id).fill("QUEUE", "noop").fill("NODE", &node_of(&server)).until(&server, "tidegate jobs resume");
    assert!(job_is(&mut client, &id, "suspended"));
    let queues = client.get("/queues").is(200).json();
    let paused = |queue: &Value| queue["name"] == "noop" && queue["paused"] == true;
    assert!(queues["data"].as_array().expect("a list").iter().any(paused), "{queues}");
    eventually("the node is drained", || !server.is_ready());
    server.stop();
    server.again();
    page.rest(&server);
    let mut client = server.client();
    eventually("the job is done", || job_is(&mut client, &id, "finished"));
    let run = client.run(&json!({"task": "noop"}));
    eventually("the queue goes on", || client.read(&run)["status"] == "succeeded");
    server.stop();
}

/// The secret and the id of a key that is made.
fn made(server: &Server, scopes: &str) -> (String, String) {
    let args = ["keys", "create", "--env", "acme/prod", "--scope", scopes, "-o", "json"];
    let output = server.command(&args).output().expect("it starts");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (told["key"].as_str().expect("a key").to_owned(), told["id"].as_str().expect("an id").to_owned())
}

pub fn security(mut page: Page) {
    let mut server = Server::start_on(Database::Postgres);
    let (admin, _) = made(&server, "admin,runs:read");
    let ((leaked, leaked_id), (_, old_id)) = (made(&server, "runs:read"), made(&server, "runs:read"));
    server.stop();
    server = server.arg("--auth").arg("keys").start();
    page.fill("TIDEGATE_API_KEY", &admin).fill("ID", &leaked_id);
    let mut thief = server.client().with("Authorization", &format!("Bearer {leaked}"));
    thief.get("/runs").is(200);
    let listed = page.next(&server, "tidegate keys list");
    assert!(listed.contains(&leaked_id) && !listed.contains(&leaked), "{listed}");
    page.until(&server, "tidegate keys rotate").fill("ID", &old_id).rest(&server);
    eventually("the key is refused", || thief.get("/runs").status == 401);
    server.stop();
}

pub fn upgrade(mut page: Page) {
    let mut server = Server::start_on(Database::Postgres);
    page.fill("ID", &node_of(&server)).until(&server, "tidegate nodes drain");
    page.next(&server, "tidegate nodes drain");
    eventually("the node is drained", || !server.is_ready());
    server.stop();
    server.again();
    let told = page.next(&server, "tidegate db status");
    assert!(!told.contains("pending"), "{told}");
    page.rest(&server);
    server.stop();
}
