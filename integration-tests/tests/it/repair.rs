//! `repair`: what a hand in the database has torn apart is told, mended to the last of it, and stays mended.

use harness::{Database, Server};
use serde_json::Value;
use serde_json::json;
use std::process::Output;

const TASKS: &str = "[tasks.later]\nkind = \"pull\"\n";
const RUNS: usize = 2_500;

fn server(database: Database) -> Server {
    // It does by itself nothing that is not asked for here.
    Server::on(database).config(TASKS).env("TIDEGATE_SWEEPER_ENABLED", "false")
}

fn repair(server: &Server, args: &[&str]) -> Output {
    let url = format!("http://{}", server.door().addr().expect("it listens"));
    let mut command = server.command(&[&["repair"], args, &["-o", "json"]].concat());
    command.env("TIDEGATE_SERVER", url).output().expect("it is started")
}

fn found(output: &Output, kind: &str) -> i64 {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("a list");
    let kinds = told["data"].as_array().expect("a list");
    assert_eq!(kinds.len(), 10, "all but the one that deletes: {kinds:?}");
    let of = kinds.iter().find(|told| told["kind"] == kind).expect("every kind is told");
    of["found"].as_i64().expect("a number")
}

fn mended_to_the_last(database: Database) {
    let mut server = server(database).start();
    let mut client = server.client();
    for part in [1_000, 1_000, RUNS - 2_000] {
        client.post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); part]})).is(200);
    }
    server.execute("DELETE FROM ready WHERE run_id IN (SELECT run_id FROM ready ORDER BY run_id DESC LIMIT 2100)");
    server.execute(
        "INSERT INTO output_chunks (run_id, epoch, stream, seq, at, bytes, data)
        VALUES ('run_gone', 1, 'stdout', 0, 1, 2, 'ab'), ('run_gone', 1, 'stdout', 1, 1, 4, 'cd')",
    );
    let dry = repair(&server, &["--dry-run"]);
    assert_eq!((found(&dry, "faulty_runs"), found(&dry, "orphaned_output")), (2_100, 1));
    assert_eq!(server.number("SELECT COUNT(*) FROM ready"), RUNS as i64 - 2_100, "nothing was changed");
    assert_eq!(server.number("SELECT COUNT(*) FROM output_chunks"), 2);
    let real = repair(&server, &[]);
    assert_eq!((found(&real, "faulty_runs"), found(&real, "orphaned_output")), (2_100, 1));
    assert_eq!(server.number("SELECT COUNT(*) FROM ready"), RUNS as i64);
    assert_eq!(server.number("SELECT COUNT(*) FROM leases"), 0, "all of them were taken back");
    assert_eq!(server.number("SELECT COUNT(*) FROM output_chunks"), 0);
    let again = repair(&server, &[]);
    assert_eq!((found(&again, "faulty_runs"), found(&again, "orphaned_output")), (0, 0));
    let lease = json!({"worker": "w", "tasks": ["later"], "max_items": 5});
    let leased = client.post("/workers/lease", &lease).is(200).json();
    assert_eq!(leased["data"].as_array().map(Vec::len), Some(5), "they are carried out: {leased}");
    server.stop();
}

#[test]
fn a_repair_mends_to_the_last_what_was_torn_apart_on_sqlite() {
    mended_to_the_last(Database::Sqlite);
}

#[test]
fn a_repair_mends_to_the_last_what_was_torn_apart_on_postgres() {
    mended_to_the_last(Database::Postgres);
}

#[test]
fn repairs_that_are_switched_off_are_refused_and_can_still_be_tried() {
    let mut server = server(Database::Sqlite).env("TIDEGATE_REPAIR_ENABLED", "false").start();
    let mut client = server.client();
    for kind in ["faulty_runs", "orphaned_output", "duplicate_batches"] {
        let path = format!("/sweeps/{kind}/run");
        client.post(&path, &json!({})).is_problem(409, "conflict");
        client.post(&path, &json!({"dry_run": true})).is(200);
    }
    client.post("/sweeps/sessions/run", &json!({})).is(200);
    let bad = [json!({"dry_run": 1}), json!({"after": ""}), json!({"after": "a\u{7}b"}), json!({"all": true})];
    for body in bad {
        let code = if body["all"].is_null() { "invalid_field" } else { "unknown_field" };
        client.post("/sweeps/faulty_runs/run", &body).is_problem(400, code);
    }
    client.post("/sweeps/retention/run", &json!({"dry_run": true})).is_problem(400, "invalid_field");
    server.stop();
}
