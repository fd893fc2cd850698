//! Caps on runs under way at once: over all, of an env, of a queue and of a concurrency key. Each is exact, by
//! the runs' own stamps, with two nodes taking from one PostgreSQL as with one on SQLite (invariant 8).

use harness::{Database, Server, Span, most_at_once};
use serde_json::json;

const SETTINGS: &str = r#"
[limits]
max_running = 8
max_running_per_key = 1
[queues.narrow]
max_running = 2
[queues.keyed]
max_running_per_key = 3
[envs."capped/dev"]
max_running = 4
[tasks.short]
kind = "exec"
program = "/bin/sleep"
args = ["0.02"]
"#;

fn spans(server: &Server, which: &str) -> Vec<Span> {
    let rows = server.rows(&format!("SELECT started_at, finished_at FROM run_records WHERE {which}"));
    let number = |cell: &Option<String>| cell.as_deref().and_then(|text| text.parse().ok()).expect("a stamp");
    rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect()
}

fn caps_are_exact(database: Database) {
    let node = || Server::on(database).config(SETTINGS).set("workers.slots", 16).set("buffer.above_per_second", 40);
    let mut server = node().start();
    // A second dispatcher where there can be one.
    let mut other = (database == Database::Postgres).then(|| node().with_store(&server.store).start());
    let envs = ["capped/dev", "free/dev", "free/prod"];
    for env in envs {
        let mut client = server.client().in_env(env);
        let plain = vec![json!({"task": "short"}); 60];
        let narrow = vec![json!({"task": "short", "queue": "narrow"}); 20];
        let alone = (0..40).map(|index| json!({"task": "short", "concurrency_key": format!("k{}", index % 2)}));
        let keyed = vec![json!({"task": "short", "queue": "keyed", "concurrency_key": "k"}); 40];
        let runs: Vec<_> = plain.into_iter().chain(narrow).chain(alone).chain(keyed).collect();
        assert_eq!(client.post("/runs/batch", &json!({ "runs": runs })).is(200).json()["accepted"], 160);
    }
    server.all_ended(&envs);
    if let Some(other) = &mut other {
        other.stop();
    }
    server.stop();
    harness::sql::audit_at_rest(&server.store);
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records WHERE state = 'succeeded'"), 480);
    let check = |what: &str, which: &str, cap: i64, reached: bool| {
        let spans = spans(&server, which);
        let most = most_at_once(&spans);
        println!("caps on {database:?}: {what}: {most} of {cap} at once, {} runs", spans.len());
        assert!(most <= cap, "{what}: {most} at once, {cap} are allowed");
        assert!(most == cap || !reached, "{what}: never more than {most} at once, though {cap} are allowed");
    };
    check("over all", "state = 'succeeded'", 8, true);
    check("of an env", "env = 'capped/dev'", 4, true);
    for env in envs {
        check(&format!("of a queue in {env}"), &format!("env = '{env}' AND queue = 'narrow'"), 2, false);
        for key in ["k0", "k1"] {
            let which = format!("env = '{env}' AND queue = 'short' AND concurrency_key = '{key}'");
            check(&format!("of key {key} in {env}"), &which, 1, true);
        }
        check(&format!("of a key of the queue in {env}"), &format!("env = '{env}' AND queue = 'keyed'"), 3, false);
    }
}

#[test]
fn serve_caps_of_all_env_queue_and_key_are_exact_on_sqlite() {
    caps_are_exact(Database::Sqlite);
}

#[test]
fn serve_caps_of_all_env_queue_and_key_are_exact_over_two_nodes_on_postgres() {
    caps_are_exact(Database::Postgres);
}
