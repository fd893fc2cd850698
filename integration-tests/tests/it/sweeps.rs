//! Sweeps as an operator has them: told, done on request, bounded however much there is, and switched off.

use harness::history::now_ms;
use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::process::Output;
use std::time::{Duration, Instant};
use storage::failpoint::{Failpoint, PassedBy};

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
    assert_eq!(status["data"].as_array().map(Vec::len), Some(11));
    let ran = sweep(&server, &["run"]);
    let ran: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let kinds: Vec<&str> = ran["data"].as_array().expect("a list").iter().filter_map(|d| d["kind"].as_str()).collect();
    assert_eq!(kinds.len(), 10, "all but the one that deletes: {kinds:?}");
    assert_eq!(sweep(&server, &["run", "retention"]).status.code(), Some(5), "ended runs are kept for ever");
    assert_eq!(sweep(&server, &["run", "everything"]).status.code(), Some(2));
    client.post("/sweeps/everything/run", &json!({})).is_problem(404, "not_found");
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
    let done = client.post("/sweeps/expired_runs/run", &json!({})).is(200).json();
    assert_eq!(done["found"], 1, "{done}");
    assert_eq!(client.read(&run)["status"], "expired");
    assert_eq!(told(&mut client, "expired_runs")["found"], 1);
    assert_eq!(told(&mut client, "lost_runs")["last_at"], Value::Null, "it does nothing by itself");
    server.stop();
}

/// Ended runs are kept for ever here all the same.
#[test]
fn what_somebody_did_long_ago_is_forgotten_where_that_is_asked_for() {
    let mut server = server(Database::Sqlite).set("sweeps.keep_audit_days", 30).start();
    server.stop();
    fill(&server, Database::Sqlite, 2, 2);
    let deed = |at: i64, target: &str| format!("({at}, 'node_x', 'default/dev', 'actor.kill', '{target}', '{{}}')");
    let deeds = [deed(1_000, "old"), deed(now_ms() - 86_400_000, "young")].join(", ");
    server.execute(&format!("INSERT INTO audit (at, node, env, action, target, data) VALUES {deeds}"));
    server.again();
    let mut client = server.client();
    eventually("what is old is gone", || told(&mut client, "retention")["found_in_all"] == 1);
    let left = client.list("/audit");
    assert_eq!(left.iter().map(|deed| deed["target"].as_str()).collect::<Vec<_>>(), [Some("young")]);
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 2);
    assert_eq!(sweep(&server, &["run", "retention"]).status.code(), Some(0));
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

#[expect(clippy::disallowed_methods, reason = "spans how long an answer takes")]
fn timed(ask: impl FnOnce()) -> Duration {
    let began = Instant::now();
    ask();
    began.elapsed()
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
            .map(|_| client.post(&format!("/sweeps/{kind}/run"), &json!({})).is(200).json())
            .map(|done| done["took_seconds"].as_f64().expect("a time"))
            .collect();
        took.sort_by(f64::total_cmp);
        println!("{database:?}, {runs} runs: {kind} took {took:?} s");
        assert!(took[2] <= 0.1, "{kind}: {took:?}");
    }
    assert_eq!(client.list("/runs?status=queued").len(), open.len());
    for path in ["/runs?limit=50", "/runs?status=failed", "/sessions", "/queues", "/buffer", "/sweeps"] {
        let mut took: Vec<Duration> = (0..9).map(|_| timed(|| drop(client.get(path).is(200)))).collect();
        took.sort();
        println!("{database:?}, {runs} runs: {path} took {:?}, {:?} at most", took[4], took[8]);
        assert!(took[4] <= Duration::from_millis(100), "{path}: {took:?}");
    }
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

/// What a job of a task leaves that ended long ago and carried out so many runs; one that ended today, one that was
/// read from a file, and two sessions of which one was closed long ago.
fn fill_with_jobs(server: &Server, runs: usize) {
    let now = now_ms();
    let n = format!("FROM generate_series(0, {runs} - 1) AS n");
    server.execute(&format!(
        "INSERT INTO jobs (id, env, pool, source, state, label, input_sha256, scope, ceilings, expected, round,
            created_at, finished_at, task)
        SELECT id, 'default/dev', id, 'backfill', 'cancelled', '', '', '{{}}', '{{}}', 0, 1, 1, at, task FROM (VALUES
            ('job_old', 2000, 't'), ('job_young', {now}, 't'), ('job_file', 2000, NULL)) AS j (id, at, task);
        INSERT INTO job_events (job_id, at, epoch, event, data) SELECT id, 1, 1, 'created', '{{}}' FROM jobs;
        INSERT INTO pools (name, env, total, failed) VALUES ('job_old', 'default/dev', {runs}, {runs});
        INSERT INTO job_rounds VALUES ('job_old', 1, {runs}, 0, 0, {runs}, 1, 1);
        INSERT INTO batches (id, env, pool, job_id, source, round, provider, account, pack, state, wire_key, manifest,
            requests, body_bytes, price_version, created_at, finished_at)
        VALUES ('bat_old', 'default/dev', 'job_old', 'job_old', 'backfill', 1, 'p', 'a', '', 'abandoned', 'k', '',
            {runs}, 1, '', 1, 2000);
        INSERT INTO batch_events (batch_id, at, epoch, event, data) VALUES ('bat_old', 1, 1, 'planned', '{{}}');
        INSERT INTO runs (id, pool, seq, custom_id, pack, state, max_attempts, bytes, accepted_at, finished_at)
        SELECT 'run_x' || n, 'job_old', n, '', '', 'failed', 1, 1, 1, 2000 {n};
        INSERT INTO run_bodies SELECT 'run_x' || n, '' {n};
        INSERT INTO run_results SELECT 'run_x' || n, 1, '' {n};
        INSERT INTO attempts (run_id, epoch, state, batch_id, batch_pos, verdict, leased_at, settled_at)
        SELECT 'run_x' || n, 1, 'failed', 'bat_old', n, 'missing', 1, 2000 {n};
        INSERT INTO sessions SELECT id, 'default/dev', 't', '{{}}', '{{}}', 'closed', 'aborted', 1, 'p', 0, NULL, NULL,
            NULL, 0, 0, 1, 1, 1, 1, at, NULL FROM (VALUES ('ses_old', 2000), ('ses_young', {now})) AS s (id, at);
        INSERT INTO session_events SELECT id, 1, 1, 'closed', 1, 'p', '{{}}' FROM sessions"
    ));
}

/// What there is for every kind of sweep to do, each once.
fn left_behind(server: &mut Server) {
    let run = server.client().run(&json!({"task": "later", "ttl_seconds": 1}));
    server.client().run(&json!({"task": "later", "idempotency_key": "old"}));
    let expires = server.number(&format!("SELECT expires_at FROM ready WHERE run_id = '{run}'"));
    server.stop();
    fill(server, Database::Postgres, 5_000, 3_000);
    fill_with_jobs(server, 1_500);
    server.execute("UPDATE idempotency SET expires_at = 1");
    server.execute(
        "INSERT INTO run_records (id, env, task, queue, priority, payload, tags, metadata, concurrency_key, source,
            max_attempts, max_duration_ms, accepted_at, not_before)
        VALUES ('run_torn', 'default/dev', 'later', 'later', 0, 'null', '[]', '{}', '', 'backfill', 3, 0, 1000, 0)",
    );
    server.execute(
        "INSERT INTO output_chunks (run_id, epoch, stream, seq, at, bytes, data)
        VALUES ('run_gone', 1, 'stdout', 0, 1, 2, 'ab')",
    );
    server.execute(
        "INSERT INTO nodes (id, host, pid, state, started_at, lease_until, level) VALUES ('node_dead', 'h', 1, 'live', 1, 1, 1)",
    );
    eventually("its time is up", || now_ms() > expires);
}

/// Wherever it dies in what it does, it is done once, and whole.
fn killed_at(point: Failpoint) {
    let mut server = server(Database::Postgres).set("sweeps.keep_runs_days", 365).start();
    left_behind(&mut server);
    server.change("TIDEGATE_FAILPOINT", point.name());
    server.launch();
    eventually("it dies where it sweeps", || !server.is_running());
    assert!(server.ends().was_killed());
    server.unset("TIDEGATE_FAILPOINT");
    server.again();
    let left = [
        ("SELECT COUNT(*) FROM idempotency", 0),
        ("SELECT COUNT(*) FROM nodes WHERE id = 'node_dead' AND state = 'gone'", 1),
        ("SELECT COUNT(*) FROM run_records WHERE state = 'expired'", 1),
        ("SELECT COUNT(*) FROM unsuccessful WHERE state = 'expired'", 1),
        ("SELECT COUNT(*) FROM ready WHERE run_id = 'run_torn' AND attempts = 1", 1),
        ("SELECT COUNT(*) FROM ready", 2),
        ("SELECT COUNT(*) FROM leases", 0),
        ("SELECT COUNT(*) FROM output_chunks", 0),
        ("SELECT COUNT(*) FROM run_records", 2_003),
        ("SELECT COUNT(*) FROM sessions WHERE id = 'ses_old'", 0),
        ("SELECT COUNT(*) FROM sessions", 1),
        ("SELECT COUNT(*) FROM session_events", 1),
        ("SELECT COUNT(*) FROM jobs WHERE id = 'job_old'", 0),
        ("SELECT COUNT(*) FROM jobs", 2),
        ("SELECT COUNT(*) FROM job_events", 2),
        ("SELECT COUNT(*) FROM job_rounds", 0),
        ("SELECT COUNT(*) FROM pools", 0),
        ("SELECT COUNT(*) FROM runs", 0),
        ("SELECT COUNT(*) FROM run_bodies", 0),
        ("SELECT COUNT(*) FROM run_results", 0),
        ("SELECT COUNT(*) FROM batches", 0),
        ("SELECT COUNT(*) FROM batch_events", 0),
        ("SELECT COUNT(*) FROM attempts WHERE run_id <> 'run_torn'", 0),
    ];
    for (question, answer) in left {
        eventually(&format!("killed at {}: {question} is {answer}", point.name()), || {
            server.number(question) == answer
        });
    }
    server.stop();
}

#[test]
fn sweeps_killed_at_every_place_do_their_work_once() {
    let places: Vec<_> = Failpoint::ALL.iter().filter(|point| point.passed_by() == PassedBy::Sweeps).collect();
    assert!(places.len() >= 9, "{places:?}");
    std::thread::scope(|scope| {
        let cases: Vec<_> = places.iter().map(|point| (point, scope.spawn(|| killed_at(**point)))).collect();
        let failed: Vec<_> = cases.into_iter().filter_map(|(point, case)| case.join().err().map(|_| point)).collect();
        assert!(failed.is_empty(), "killed at {failed:?}; what they said is above");
    });
}
