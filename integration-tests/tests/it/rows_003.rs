//! Acceptance rows of 003 (workers and output) that the running server is held to; ACCEPTANCE.md has the others.

use harness::{Database, Server, eventually};
use serde_json::json;

fn shell(name: &str, script: &str, more: &str) -> String {
    format!("[tasks.{name}]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", '{script}']\n{more}\n")
}

fn output_from_any_reader(database: Database) {
    let script = r#"printf "one\ntwo\n"; printf "warn\n" >&2; read go < $0; printf "three\n""#;
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    let tasks = format!(
        "[tasks.writes]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", '{script}', \"{}\"]\n",
        pipe.display()
    );
    let mut server = Server::on(database).config(&tasks).start();
    let mut client = server.client();
    let id = client.run(&json!({"task": "writes"}));
    let path = format!("/runs/{id}/output");
    eventually("what it wrote can be read while it runs", || client.get(&path).text() == "one\ntwo\n");
    assert_eq!(client.get(&format!("{path}?stream=stderr")).text(), "warn\n");
    let followed = std::thread::scope(|scope| {
        let mut follower = client.clone();
        let path = format!("{path}?follow=true");
        let follower = scope.spawn(move || follower.get(&path).text());
        std::fs::write(&pipe, "go\n").expect("it is let go on");
        follower.join().expect("the follower ends with the run")
    });
    assert_eq!(followed, "one\ntwo\nthree\n");
    eventually("it ends", || client.read(&id)["status"] == "succeeded");
    for (query, text) in [
        ("", "one\ntwo\nthree\n"),
        ("?tail=6", "three\n"),
        ("?tail=100", "one\ntwo\nthree\n"),
        ("?tail=0", ""),
        ("?stream=stderr", "warn\n"),
        ("?stream=stderr&tail=2", "n\n"),
    ] {
        let answer = client.get(&format!("{path}{query}")).is(200);
        assert_eq!(answer.text(), text, "{query}");
        let total = if query.contains("stderr") { "5" } else { "14" };
        assert_eq!(answer.header("x-tidegate-total-bytes"), Some(total), "{query}");
        assert_eq!(answer.header("x-tidegate-truncated"), Some("false"), "{query}");
    }
    server.stop();
    server.again();
    assert_eq!(client.get(&path).text(), "one\ntwo\nthree\n", "after a restart as before");
    client.get("/runs/run_00000000000000000000000000/output").is_problem(404, "not_found");
    server.stop();
}

#[test]
fn s003_u1_u11_u16_u17_output_is_read_by_stream_tail_and_follow_on_sqlite() {
    output_from_any_reader(Database::Sqlite);
}

#[test]
fn s003_u1_u11_u16_u17_output_is_read_by_stream_tail_and_follow_on_postgres() {
    output_from_any_reader(Database::Postgres);
}

#[test]
fn s003_u9_u10_output_over_the_limit_is_cut_with_a_mark_and_its_bytes_are_counted() {
    let tasks = shell("loud", "head -c 5000 /dev/zero | tr \"\\0\" \"\\303\"; printf short >&2", "");
    let mut server = Server::on(Database::Sqlite).config(&tasks).set("workers.output_limit_bytes", 1_000).start();
    let mut client = server.client();
    let id = client.run(&json!({"task": "loud"}));
    eventually("it ends", || client.read(&id)["status"] == "succeeded");
    let answer = client.get(&format!("/runs/{id}/output"));
    assert_eq!(answer.header("x-tidegate-truncated"), Some("true"));
    assert_eq!(answer.header("x-tidegate-total-bytes"), Some("5000"));
    assert!(answer.body.len() <= 1_000 && answer.body.len() >= 900, "{}", answer.body.len());
    let other = client.get(&format!("/runs/{id}/output?stream=stderr"));
    assert_eq!((other.text().as_str(), other.header("x-tidegate-truncated")), ("short", Some("false")));
    server.stop();
}

#[test]
fn s003_z8_y7_y10_y17_each_end_of_a_program_is_told_with_its_events_and_stamps() {
    let tasks = [
        shell("good", "exit 0", ""),
        shell("bad", "exit 3", "max_attempts = 1"),
        shell("slow", "sleep 60", "max_duration_seconds = 0.3\ngrace_seconds = 0.1\nmax_attempts = 1"),
    ];
    let mut server = Server::on(Database::Sqlite).config(&tasks.concat()).start();
    let mut client = server.client();
    for (task, end) in [("good", "succeeded"), ("bad", "failed"), ("slow", "timed_out")] {
        let id = client.run(&json!({"task": task}));
        let events: Vec<_> = client.follow(&format!("/runs/{id}/events"), None).expect("a stream").collect();
        let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["accepted", "started", "finished", "end"], "{task}");
        let run = client.read(&id);
        assert_eq!((run["status"].as_str(), run["attempt"].as_i64()), (Some(end), Some(1)), "{run}");
        let stamps: Vec<&str> =
            ["accepted_at", "started_at", "finished_at"].iter().filter_map(|name| run[name].as_str()).collect();
        assert!(stamps.len() == 3 && stamps.is_sorted(), "{run}");
        assert_eq!(run["outcome"]["reason"].is_string(), end != "succeeded", "{run}");
    }
    for state in ["succeeded", "failed", "timed_out"] {
        let label = format!("state=\"{state}\"");
        assert_eq!(server.metric("tidegate_runs_finished_total", &[&label]), 1.0, "{state} is counted once");
    }
    server.stop();
}

fn cancelled_where_it_is(database: Database) {
    let tasks = shell("slow", "sleep 60", "grace_seconds = 0.1");
    let mut server = Server::on(database).config(&tasks).set("workers.slots", 1).start();
    let mut client = server.client();
    let running = client.run(&json!({"task": "slow"}));
    eventually("the first runs", || client.read(&running)["status"] == "running");
    let queued = client.run(&json!({"task": "slow"}));
    let queued = client.post(&format!("/runs/{queued}/cancel"), &json!({})).is(200);
    assert_eq!((queued.field("status"), queued.field("started_at")), ("cancelled".to_owned(), String::new()));
    let asked = client.post(&format!("/runs/{running}/cancel"), &json!({})).is(202);
    assert_eq!(asked.field("cancel_requested"), "true");
    eventually("it is cancelled", || client.read(&running)["status"] == "cancelled");
    client.post(&format!("/runs/{running}/cancel"), &json!({})).is(200);
    client.post("/runs/run_00000000000000000000000000/cancel", &json!({})).is_problem(404, "not_found");
    client.post("/runs/nonsense/cancel", &json!({})).is_problem(404, "not_found");
    // Its place is free again.
    let next = client.run(&json!({"task": "noop"}));
    eventually("the next one is carried out", || client.read(&next)["status"] == "succeeded");
    server.stop();
    harness::sql::audit_at_rest(&server.store);
}

#[test]
fn s003_z4_y9_a_run_is_cancelled_whether_it_waits_or_runs_on_sqlite() {
    cancelled_where_it_is(Database::Sqlite);
}

#[test]
fn s003_z4_y9_a_run_is_cancelled_whether_it_waits_or_runs_on_postgres() {
    cancelled_where_it_is(Database::Postgres);
}

#[test]
fn s003_j1_j12_runs_of_a_node_that_is_gone_are_taken_back_by_another_and_those_of_the_living_left() {
    let node = || {
        let tasks = shell("slow", "sleep 60", "grace_seconds = 0.1");
        Server::on(Database::Postgres).config(&tasks).set("workers.slots", 1).set("nodes.lease_seconds", 1.5)
    };
    let mut first = node().start();
    let store = first.store.clone();
    let mut client = first.client();
    let lost = client.run(&json!({"task": "slow", "max_attempts": 2}));
    eventually("the first node has it", || client.read(&lost)["status"] == "running");
    let mut second = node().with_store(&store).start();
    let kept = client.run(&json!({"task": "slow", "max_attempts": 1}));
    eventually("the second node has the other", || client.read(&kept)["status"] == "running");
    first.kill9();
    let mut client = second.client();
    assert_eq!(client.read(&kept)["status"], "running");
    client.post(&format!("/runs/{kept}/cancel"), &json!({})).is(202);
    eventually("the lost one is carried out again", || {
        let run = client.read(&lost);
        run["status"] == "running" && run["attempt"] == 2
    });
    let tries = client.read(&lost)["attempts"].clone();
    assert_eq!((tries[0]["status"].as_str(), tries[0]["code"].as_str()), (Some("lost"), Some("lost")), "{tries}");
    assert_eq!(client.read(&kept)["status"], "cancelled");
    client.post(&format!("/runs/{lost}/cancel"), &json!({})).is(202);
    eventually("it is cancelled", || client.read(&lost)["status"] == "cancelled");
    second.stop();
    harness::sql::audit_at_rest(&store);
}

#[test]
fn s003_y15_z6_queues_and_workers_show_what_waits_and_what_runs() {
    let tasks = format!("{}[tasks.pulled]\nkind = \"pull\"\n", shell("slow", "sleep 60", "grace_seconds = 0.1"));
    let mut server = Server::on(Database::Sqlite).config(&tasks).set("workers.slots", 2).start();
    let mut client = server.client();
    assert_eq!(client.get("/workers").is(200).json()["data"], json!([]));
    let slow: Vec<String> = (0..5).map(|_| client.run(&json!({"task": "slow"}))).collect();
    let numbers = |queues: &serde_json::Value, name: &str| {
        let row = queues["data"].as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name).cloned());
        row.map(|row| (row["queued"].as_i64(), row["running"].as_i64()))
    };
    eventually("two run and three wait", || numbers(&client.get("/queues").json(), "slow") == Some((Some(3), Some(2))));
    client.run(&json!({"task": "pulled"}));
    let lease = client.post("/workers/lease", &json!({"tasks": ["pulled"], "worker": "w-1"})).is(200).json();
    assert_eq!(lease["data"].as_array().map(Vec::len), Some(1), "{lease}");
    let workers = client.get("/workers").is(200).json();
    assert_eq!((&workers["data"][0]["name"], &workers["data"][0]["running"]), (&json!("w-1"), &json!(1)), "{workers}");
    for id in &slow {
        client.post(&format!("/runs/{id}/cancel"), &json!({}));
    }
    let token = &lease["data"][0];
    client.post("/workers/complete", &json!({"run_id": token["run_id"], "lease_token": token["lease_token"]})).is(200);
    server.all_ended(&["default/dev"]);
    server.stop();
}
