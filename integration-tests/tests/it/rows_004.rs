//! Acceptance rows of 004 (the burst buffer) that the running server is held to; ACCEPTANCE.md has the others.

use harness::{Client, Database, Server, eventually};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

const LATER: &str = "[tasks.later]\nkind = \"pull\"\n";
const NOOP: &str = r#"{"task":"noop"}"#;

/// Sends runs one after the other; returns how many were buffered.
fn buffered_of(client: &mut Client, count: usize) -> usize {
    let statuses = (0..count).map(|_| client.send("POST", "/runs", Some(NOOP)).expect("an answer").status);
    let statuses: Vec<u16> = statuses.collect();
    assert!(statuses.iter().all(|status| matches!(status, 201 | 202)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 202).count()
}

fn decisions(server: &Server, decision: &str, reason: &str) -> f64 {
    let labels = [format!("decision=\"{decision}\""), format!("reason=\"{reason}\"")];
    server.metric("tidegate_buffer_decisions_total", &[&labels[0], &labels[1]])
}

#[test]
fn s004_g1_g3_g4_the_mode_says_whether_what_is_above_its_rate_is_buffered() {
    for (mode, buffered, shadowed) in [("on", 5, 0.0), ("shadow", 0, 5.0), ("off", 0, 0.0)] {
        let mut server =
            Server::on(Database::Sqlite).set("buffer.above_per_second", 0.1).set("buffer.mode", mode).start();
        assert_eq!(buffered_of(&mut server.client(), 5), buffered, "{mode}");
        assert_eq!(decisions(&server, "shadow", "env_rate"), shadowed, "{mode}");
        assert_eq!(decisions(&server, "divert", "env_rate"), buffered as f64, "{mode}");
        server.all_ended(&["default/dev"]);
        server.stop();
    }
}

#[test]
fn s004_g5_g14_every_request_is_one_decision_and_its_labels_are_words_of_ours() {
    let mut server = Server::on(Database::Sqlite).set("buffer.above_per_second", 3).start();
    let mut client = server.client().in_env("acme/dev");
    let buffered = buffered_of(&mut client, 10);
    assert!(buffered >= 7, "{buffered}");
    assert_eq!(client.post("/runs/batch", &json!({"runs": [{"task": "noop"}, {"task": "noop"}]})).status, 200);
    let by_reason = decisions(&server, "pass", "none") + decisions(&server, "divert", "env_rate");
    assert_eq!((by_reason, server.metric("tidegate_buffer_decisions_total", &[])), (11.0, 11.0));
    let text = server.ops("/metrics").text();
    let lines = text.lines().filter(|line| line.starts_with("tidegate_"));
    let named: Vec<&str> = lines.filter(|line| line.contains("acme") || line.contains("run_0")).collect();
    assert!(named.is_empty(), "ids are no labels: {named:?}");
    server.all_ended(&["acme/dev"]);
    server.stop();
}

#[test]
fn s004_g7_g8_t6_an_envs_own_rate_counts_for_it_alone() {
    let config = "[envs.\"big/dev\"]\nbuffer_above_per_second = 100000.0\n";
    let mut server = Server::on(Database::Sqlite).config(config).set("buffer.above_per_second", 0.1).start();
    assert_eq!(buffered_of(&mut server.client().in_env("small/dev"), 5), 5);
    assert_eq!(buffered_of(&mut server.client().in_env("big/dev"), 20), 0);
    assert_eq!(buffered_of(&mut server.client().in_env("big/prod"), 2), 2, "another env of the org has its own");
    server.all_ended(&["small/dev", "big/dev", "big/prod"]);
    server.stop();
}

#[test]
fn s004_g15_many_envs_trip_together_though_none_does_alone() {
    let mut server = Server::on(Database::Sqlite)
        .set("buffer.above_per_second", 1_000)
        .set("buffer.all_above_per_second", 20)
        .set("buffer.hold_ms", 60_000)
        .start();
    let envs: Vec<String> = (0..40).map(|number| format!("many/env{number}")).collect();
    let buffered: usize = envs.iter().map(|env| buffered_of(&mut server.client().in_env(env), 1)).sum();
    assert!((10..=20).contains(&buffered), "{buffered} of 40 were buffered");
    assert_eq!(decisions(&server, "divert", "all_rate"), buffered as f64);
    assert_eq!(decisions(&server, "divert", "env_rate"), 0.0);
    server.all_ended(&envs);
    server.stop();
}

#[test]
fn s004_x1_a_request_that_is_refused_is_neither_counted_by_the_gate_nor_buffered() {
    let mut server = Server::on(Database::Sqlite).set("buffer.above_per_second", 0.1).start();
    let mut client = server.client();
    client.post("/runs", &json!({"task": "nobody"})).is(400);
    client.post("/runs", &json!({"task": "noop", "surprise": 1})).is(400);
    client.post("/runs", &json!({"task": "noop", "tags": vec!["t"; 11]})).is(400);
    client.send("POST", "/runs", Some("{")).expect("an answer").is_problem(400, "malformed_json");
    assert_eq!(server.metric("tidegate_buffer_decisions_total", &[]), 0.0);
    server.stop();
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 0);
}

#[test]
fn s004_m3_more_tags_than_allowed_change_nothing_of_a_buffered_run() {
    let mut server = Server::on(Database::Sqlite)
        .config(LATER)
        .set("buffer.above_per_second", 0.1)
        .set("buffer.drainer_enabled", "false")
        .start();
    let mut client = server.client();
    let id = client.run(&json!({"task": "later", "tags": ["a", "b"]}));
    let before = client.read(&id);
    assert_eq!(before["status"], "buffered");
    let tags: Vec<String> = (0..11).map(|number| format!("t{number}")).collect();
    client.patch(&format!("/runs/{id}"), &json!({"tags": tags, "metadata": {"also": "this"}})).is(400);
    assert_eq!(client.read(&id), before);
    server.stop();
}

/// As many clients with one key at one instant, some of whose runs would be buffered and some not.
fn one_key_for_all(database: Database) {
    const CLIENTS: usize = 100;
    let mut server = Server::on(database).config(LATER).set("buffer.above_per_second", 50).start();
    let (gate, made) = (Barrier::new(CLIENTS), AtomicUsize::new(0));
    let ids: HashSet<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut client = server.client().in_env("acme/dev").with("Idempotency-Key", "the-one");
                let (gate, made) = (&gate, &made);
                scope.spawn(move || {
                    assert!(client.is_answered());
                    gate.wait();
                    let answer = client.post("/runs", &json!({"task": "later", "payload": 1}));
                    assert!(matches!(answer.status, 201 | 202), "{answer:?}");
                    if answer.header("idempotency-replayed").is_none() {
                        made.fetch_add(1, Ordering::SeqCst);
                    }
                    answer.field("id")
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("an answer")).collect()
    });
    assert_eq!((ids.len(), made.into_inner()), (1, 1), "{ids:?}");
    let other =
        server.client().in_env("acme/prod").with("Idempotency-Key", "the-one").post("/runs", &json!({"task": "later"}));
    assert!(!ids.contains(&other.field("id")), "a key of one env says nothing in another");
    server.stop();
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 2);
}

#[test]
fn s004_c12_a_hundred_racing_clients_with_one_key_make_one_run_on_sqlite() {
    one_key_for_all(Database::Sqlite);
}

#[test]
fn s004_c12_a_hundred_racing_clients_with_one_key_make_one_run_on_postgres() {
    one_key_for_all(Database::Postgres);
}

#[test]
fn s004_k3_k9_a_key_still_answers_after_its_run_has_ended_well_or_badly() {
    let tasks = "[tasks.fails]\nkind = \"exec\"\nprogram = \"/bin/false\"\nmax_attempts = 1\n";
    let mut server = Server::on(Database::Sqlite).config(tasks).set("buffer.above_per_second", 0.1).start();
    let mut client = server.client();
    for (task, end) in [("noop", "succeeded"), ("fails", "failed")] {
        let wish = json!({"task": task, "idempotency_key": task});
        let first = client.post("/runs", &wish);
        let id = first.field("id");
        eventually("it ends", || client.read(&id)["status"] == end);
        let again = client.post("/runs", &wish);
        assert_eq!((again.status, again.text()), (first.status, first.text()), "the first answer to the letter");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
    }
    server.stop();
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 2);
}

#[test]
fn s004_d3_d8_as_many_programs_run_at_once_as_there_are_slots_and_never_more() {
    let script = "date +%s%N; sleep 0.05; date +%s%N";
    let tasks = format!("[tasks.short]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"{script}\"]\n");
    let mut server = Server::on(Database::Sqlite).config(&tasks).set("workers.slots", 3).start();
    let mut client = server.client();
    client.post("/runs/batch", &json!({"runs": vec![json!({"task": "short"}); 24]})).is(200);
    server.all_ended(&["default/dev"]);
    let mut changes: Vec<(u128, i32)> = Vec::new();
    for run in client.list("/runs?limit=100") {
        let text = client.get(&format!("/runs/{}/output", run["id"].as_str().expect("an id"))).text();
        let mut stamps = text.lines().map(|line| line.parse().expect("a stamp"));
        changes.extend([(stamps.next().expect("a start"), 1), (stamps.next().expect("an end"), -1)]);
    }
    changes.sort_unstable();
    let at_once = changes.iter().scan(0, |now, (_, change)| (*now += change, Some(*now)).1).max();
    assert_eq!((changes.len(), at_once), (48, Some(3)));
    server.stop();
    assert_eq!(server.number("SELECT COUNT(*) FROM leases"), 0);
}

#[test]
fn s004_d31_a_stop_returns_in_time_though_a_run_would_go_on_and_gives_it_back() {
    let mark = format!("7000.{:07}", std::process::id());
    let tasks = format!(
        "[tasks.endless]\nkind = \"exec\"\nprogram = \"/bin/sleep\"\nargs = [\"{mark}\"]\ngrace_seconds = 0.2\n"
    );
    let mut server = Server::on(Database::Sqlite).config(&tasks).set("server.drain_seconds", 0.5).start();
    let mut client = server.client();
    let id = client.run(&json!({"task": "endless"}));
    eventually("it runs", || client.read(&id)["status"] == "running");
    let ended = server.stop();
    assert!(ended.stderr.contains("did not end in time; they are given back"), "{}", ended.stderr);
    let of_ours = |entry: std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&mark))
    };
    assert!(!std::fs::read_dir("/proc").expect("processes").flatten().any(of_ours), "its program is gone");
    let row = &server.rows("SELECT run_id, attempts FROM ready")[0];
    assert_eq!((row[0].as_deref(), row[1].as_deref()), (Some(id.as_str()), Some("0")), "no attempt is used up");
    server.again();
    eventually("it runs again", || client.read(&id)["status"] == "running");
    assert_eq!(client.post(&format!("/runs/{id}/cancel"), &json!({})).status, 202);
    eventually("it is cancelled", || client.read(&id)["status"] == "cancelled");
    server.stop();
}

#[test]
fn s004_e6_a_run_that_failed_is_told_once_with_its_attempts_and_why() {
    let tasks = "[tasks.fails]\nkind = \"exec\"\nprogram = \"/bin/false\"\nmax_attempts = 2\nretry_base_seconds = 0.01\nretry_cap_seconds = 0.01\n";
    let mut server = Server::on(Database::Sqlite).config(tasks).start();
    let mut client = server.client();
    let id = client.run(&json!({"task": "fails"}));
    let events: Vec<_> = client.follow(&format!("/runs/{id}/events"), None).expect("a stream").collect();
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["accepted", "started", "requeued", "started", "finished", "end"]);
    let end = events[4].json();
    assert_eq!((end["status"].as_str(), end["attempt"].as_i64()), (Some("failed"), Some(2)), "{end}");
    assert!(end["outcome"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{end}");
    assert_eq!(server.metric("tidegate_runs_finished_total", &["state=\"failed\""]), 1.0);
    let resumed: Vec<_> =
        client.follow(&format!("/runs/{id}/events"), events[2].id.as_deref()).expect("a stream").collect();
    assert_eq!(resumed, events[3..]);
    server.stop();
}
