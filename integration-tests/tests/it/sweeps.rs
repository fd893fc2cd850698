//! Sweeps as an operator has them: told, done on request, bounded however much there is, and switched off.

use harness::history::now_ms;
use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::process::Output;

const TASKS: &str = "[tasks.later]\nkind = \"pull\"\n";

fn server(database: Database) -> Server {
    Server::on(database).config(TASKS).set("supervisor.sweep_seconds", 0.3)
}

fn sweep(server: &Server, args: &[&str]) -> Output {
    let url = format!("http://{}", server.door().addr().expect("it listens"));
    let mut command = server.command(&[&["sweep"], args, &["-o", "json"]].concat());
    command.env("TIDEGATE_SERVER", url).output().expect("it is started")
}

fn told(client: &mut Client, kind: &str) -> Value {
    let sweeps = client.list("/sweeps");
    sweeps.into_iter().find(|sweep| sweep["kind"] == kind).expect("every kind is told")
}

#[test]
fn sweeps_are_told_and_done_when_somebody_asks() {
    let mut server = server(Database::Sqlite).start();
    let mut client = server.client();
    eventually("a pass has gone through", || told(&mut client, "sessions")["last_at"].is_string());
    assert_eq!(told(&mut client, "retention")["last_at"], Value::Null, "nobody has asked for it");
    let status = sweep(&server, &["status"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("a list");
    assert_eq!(status["data"].as_array().map(Vec::len), Some(9));
    let ran = sweep(&server, &["run"]);
    let ran: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let kinds: Vec<&str> = ran["data"].as_array().expect("a list").iter().filter_map(|d| d["kind"].as_str()).collect();
    assert_eq!(kinds.len(), 8, "all but the one that deletes: {kinds:?}");
    assert_eq!(sweep(&server, &["run", "retention"]).status.code(), Some(5), "ended runs are kept for ever");
    assert_eq!(sweep(&server, &["run", "everything"]).status.code(), Some(2));
    client.post("/sweeps/everything/run", &Value::Null).is_problem(404, "not_found");
    server.stop();
}

#[test]
fn a_node_whose_sweeper_is_switched_off_sweeps_only_when_it_is_asked() {
    let server = server(Database::Sqlite).env("TIDEGATE_SWEEPER_ENABLED", "false");
    let mut server = server.start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "later", "ttl_seconds": 1}));
    let expires = server.number(&format!("SELECT expires_at FROM ready WHERE run_id = '{run}'"));
    eventually("its time has been up for some passes", || now_ms() > expires + 700);
    assert_eq!(client.read(&run)["status"], "queued", "nobody sweeps");
    let done = client.post("/sweeps/expired_runs/run", &Value::Null).is(200).json();
    assert_eq!(done["found"], 1, "{done}");
    assert_eq!(client.read(&run)["status"], "expired");
    assert_eq!(told(&mut client, "expired_runs")["found"], 1);
    assert_eq!(told(&mut client, "lost_runs")["last_at"], Value::Null, "it does nothing by itself");
    server.stop();
}

/// Runs of one env that have ended, written straight into the store; the first `old` of them ended long ago.
fn fill(server: &Server, database: Database, runs: usize, old: usize) {
    let id = match database {
        Database::Sqlite => "substr('00000000000000000000000000' || i, -26)",
        Database::Postgres => "right('00000000000000000000000000' || i, 26)",
    };
    let now = now_ms();
    server.execute(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {runs})
        INSERT INTO run_records (id, env, task, queue, priority, payload, tags, metadata, concurrency_key, source,
            max_attempts, max_duration_ms, accepted_at, not_before, state, epoch, attempts, started_at, finished_at)
        SELECT 'run_' || {id}, 'default/dev', 'noop', 'noop', 0, 'null', '[]', '{{}}', '', 'backfill', 3, 0, 1000, 0,
            'succeeded', 1, 1, 1000, CASE WHEN i <= {old} THEN 2000 ELSE {now} END FROM n"
    ));
}

/// Each go is bounded, so that it takes no longer however much there is.
fn bounded_on(database: Database) {
    let soak = std::env::var_os("TIDEGATE_SOAK").is_some();
    let runs = if soak { 1_000_000 } else { 30_000 };
    let mut server = server(database).set("sweeps.keep_runs_days", 365).start();
    server.stop();
    fill(&server, database, runs, 5_000);
    server.again();
    let mut client = server.client();
    let open: Vec<String> = (0..50).map(|_| client.run(&json!({"task": "later"}))).collect();
    eventually("what is old is gone", || told(&mut client, "retention")["found_in_all"] == 5_000);
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), runs as i64 - 5_000 + 50);
    for kind in client.list("/sweeps") {
        let kind = kind["kind"].as_str().expect("a name").to_owned();
        let mut took: Vec<f64> = (0..5)
            .map(|_| client.post(&format!("/sweeps/{kind}/run"), &Value::Null).is(200).json())
            .map(|done| done["took_seconds"].as_f64().expect("a time"))
            .collect();
        took.sort_by(f64::total_cmp);
        println!("{database:?}, {runs} runs: {kind} took {took:?} s");
        assert!(took[2] <= 0.1, "{kind}: {took:?}");
    }
    assert_eq!(client.list("/runs?status=queued").len(), open.len());
    server.stop();
}

#[test]
fn sweeps_are_bounded_however_many_runs_there_are_on_sqlite() {
    bounded_on(Database::Sqlite);
}

#[test]
fn sweeps_are_bounded_however_many_runs_there_are_on_postgres() {
    bounded_on(Database::Postgres);
}

/// What is deleted, and how far the walk has come, are one.
#[test]
fn a_server_killed_while_it_clears_away_deletes_each_run_once_and_no_other() {
    let mut server = server(Database::Sqlite).set("sweeps.keep_runs_days", 365).start();
    server.stop();
    fill(&server, Database::Sqlite, 5_000, 3_000);
    server.change("TIDEGATE_FAILPOINT", "retention.open");
    server.again();
    eventually("it dies where it clears away", || !server.is_running());
    assert!(server.ends().was_killed());
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 5_000, "nothing is half done");
    server.unset("TIDEGATE_FAILPOINT");
    server.again();
    let mut client = server.client();
    eventually("what is old is gone", || told(&mut client, "retention")["found_in_all"] == 3_000);
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 2_000);
    server.stop();
}
