//! Runs are made, listed, read, followed, waited for, cancelled and run again.

use super::Server;
use super::server::{ends, signal};
use harness::{Database, eventually};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};

#[test]
fn a_run_is_made_with_all_that_can_be_said_and_read_as_it_was_sent() {
    for database in [Database::Sqlite, Database::Postgres] {
        let server = Server::start(database);
        let payload = server.file("payload.json", "{\"n\": 123456789012345678901234567890, \"a\":1.10}\n");
        let payload = format!("@{}", payload.display());
        let words = "--queue slowly --priority -5 --delay 90m --ttl 1d --tag a --tag b --concurrency-key k \
                     --max-attempts 7 --max-duration 90s --idempotency-key mine";
        let mut args = vec!["echo", "--payload", &payload, "--metadata", "{\"z\":1,\"a\":2}"];
        args.extend(words.split_whitespace());
        let id = server.create(&args);
        let shown = server.run(&["runs", "get", &id, "-o", "json"]);
        assert!(shown.stdout.contains(r#""payload":{"n": 123456789012345678901234567890, "a":1.10}"#), "{shown:?}");
        assert!(shown.stdout.contains(r#""metadata":{"z":1,"a":2}"#), "{shown:?}");
        let run = shown.summary();
        for (name, value) in [
            ("status", json!("delayed")),
            ("queue", json!("slowly")),
            ("priority", json!(-5)),
            ("tags", json!(["a", "b"])),
            ("concurrency_key", json!("k")),
            ("max_attempts", json!(7)),
            ("max_duration_seconds", json!(90.0)),
            ("idempotency_key", json!("mine")),
        ] {
            assert_eq!(run[name], value, "{name}");
        }
        assert_eq!(server.create(&args), id, "the same key makes the same run");
    }
}

#[test]
fn a_list_is_tab_separated_whole_and_goes_on_page_after_page() {
    let server = Server::start(Database::Sqlite);
    let lines: String = (0..230).map(|n| format!("{{\"task\":\"noop\",\"tags\":[\"t{}\"]}}\n", n % 2)).collect();
    let file = server.file("runs.ndjson", &lines);
    assert_eq!(server.run(&["runs", "create", "--file", &file.display().to_string()]).code, Some(0));
    let all = server.run(&["runs", "list", "--all"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    assert_eq!(all.stdout.lines().count(), 230);
    assert!(all.stdout.lines().all(|line| line.starts_with("run_") && line.split('\t').count() == 10), "{all:?}");
    let ids: std::collections::BTreeSet<&str> = all.stdout.lines().map(|line| &line[..30]).collect();
    assert_eq!(ids.len(), 230, "no run is there twice");
    assert_eq!(server.run(&["runs", "list", "--all", "--tag", "t1"]).stdout.lines().count(), 115);
    let some = server.json(&["runs", "list", "--limit", "210"]);
    assert_eq!(some["data"].as_array().map(Vec::len), Some(210));
    assert_eq!(some["has_more"], true);
    let after = some["next_after"].as_str().expect("a cursor");
    let rest = server.json(&["runs", "list", "--all", "--after", after]);
    assert_eq!((rest["data"].as_array().map(Vec::len), &rest["has_more"]), (Some(20), &json!(false)));
    let none = server.run(&["runs", "list", "--task", "nothing", "-o", "json"]);
    assert_eq!(none.stdout, "{\"data\":[],\"has_more\":false,\"next_after\":null}\n");
    assert_eq!(server.run(&["runs", "list", "--since", "1h", "-o", "jsonl", "--all"]).stdout.lines().count(), 230);
    let lines = |range: &[&str]| {
        let mut args = vec!["runs", "list", "--all", "-o", "jsonl"];
        args.extend_from_slice(range);
        server.run(&args).stdout.lines().count()
    };
    assert_eq!((lines(&["--since", "2020-01-31"]), lines(&["--since", "2020-01-31T12:00:00+01:00"])), (230, 230));
    assert_eq!((lines(&["--until", "2020-01-31"]), lines(&["--until", "1h"])), (0, 0));
    let first = server.json(&["runs", "list", "--since", "2020-01-31", "--limit", "200"]);
    let after = first["next_after"].as_str().expect("a point in time stays where it is");
    assert_eq!(lines(&["--since", "2020-01-31", "--after", after]), 30);
    let moved = server.run(&["runs", "list", "--since", "1h", "--after", after]);
    assert!(moved.code == Some(2) && moved.stderr.contains("hint: give --since and --until"), "{moved:?}");
    assert_eq!(server.run(&["runs", "list", "--status", "failed", "--all"]).stdout, "");
}

#[test]
fn waiting_ends_with_the_runs_and_tells_how_they_ended() {
    let server = Server::start(Database::Sqlite);
    let made = server.run(&["runs", "create", "noop", "--wait", "-o", "json"]);
    assert_eq!((made.code, &made.summary()["status"]), (Some(0), &json!("succeeded")), "{made:?}");
    let made = server.run(&["runs", "create", "broken", "--wait"]);
    assert_eq!(made.code, Some(8), "{made:?}");
    assert!(made.stdout.contains("\tfailed\tbroken\t"), "{made:?}");
    let (good, bad) = (server.create(&["noop"]), server.create(&["broken"]));
    assert_eq!(server.run(&["runs", "wait", &good, &good]).code, Some(0));
    let both = server.run(&["runs", "wait", &bad, &good, "-o", "json"]);
    assert_eq!(both.code, Some(8), "{both:?}");
    assert_eq!(both.summary()["data"].as_array().map(Vec::len), Some(2));
    let endless = server.create(&["endless"]);
    let late = server.run(&["runs", "wait", &good, &endless, "--timeout", "300ms"]);
    assert_eq!(late.code, Some(7), "{late:?}");
    assert!(late.stdout.contains(&good) && !late.stdout.contains(&endless), "{late:?}");
    assert!(late.stderr.contains(&format!("tidegate runs wait {endless}")), "{late:?}");
    assert_eq!(server.status(&endless), "running", "waiting is not the run");
}

#[test]
fn a_signal_ends_the_waiting_and_says_how_to_wait_again() {
    let server = Server::start(Database::Sqlite);
    let id = server.create(&["endless"]);
    for (verb, name, code) in [("wait", "INT", 130), ("watch", "TERM", 143)] {
        let mut child = server.command(&["runs", verb, &id]).spawn().expect("the binary starts");
        // By then its signals are heard.
        server.becomes(&id, "running");
        // Kept open: a reader that goes away would end it too.
        let mut events = Vec::new();
        if verb == "watch" {
            let mut line = String::new();
            events.extend(child.stdout.take().map(BufReader::new));
            events.last_mut().expect("it is piped").read_line(&mut line).expect("an event");
            assert!(line.contains("\taccepted\t"), "{line}");
        } else {
            eventually("it follows the run", || connections(child.id()) > 0);
        }
        signal(&child, name);
        ends(&mut child, code);
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
        assert!(said.contains(&format!("tidegate runs {verb} {id}")), "{said}");
    }
}

/// Open sockets of a process.
fn connections(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").flatten();
    let is_tcp = |entry: &std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).map(|path| path.display().to_string()).unwrap_or_default();
        let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) else { return false };
        std::fs::read_to_string("/proc/net/tcp").is_ok_and(|table| {
            table.lines().any(|line| line.split_whitespace().nth(9) == Some(inode) && line.contains(" 01 "))
        })
    };
    files.filter(is_tcp).count()
}

#[test]
fn watching_tells_every_event_once_although_the_server_is_killed_meanwhile() {
    let mut server = Server::start(Database::Sqlite);
    let id = server.create(&["work"]);
    let mut watch = server.command(&["runs", "watch", &id, "-o", "jsonl"]).spawn().expect("the binary starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let mut line = || serde_json::from_str::<Value>(&lines.next()?.ok()?).ok();
    let mut next = || line().unwrap_or_default();
    assert_eq!(next()["event"], "accepted");
    server.kill();
    let listen = server.url.trim_start_matches("http://").to_owned();
    server.serve(&["--listen", &listen]);
    let done = server.run(&["workers", "list"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let mut worker =
        server.command(&["workers", "run", "--task", "work", "--", "/bin/true"]).spawn().expect("the binary starts");
    let rest = [next(), next()];
    assert_eq!(rest.clone().map(|event| event["event"].clone()), [json!("started"), json!("finished")]);
    assert_eq!(rest[1]["data"]["status"], "succeeded");
    ends(&mut watch, 0);
    signal(&worker, "TERM");
    ends(&mut worker, 0);
}

#[test]
fn cancelling_is_told_for_each_run_and_once_is_as_good_as_twice() {
    let server = Server::start(Database::Sqlite);
    let (waiting, under_way) = (server.create(&["noop", "--delay", "1h"]), server.create(&["endless"]));
    server.becomes(&under_way, "running");
    let unknown = "run_00000000000000000000000000";
    let cancelled = server.run(&["runs", "cancel", &waiting, unknown, &under_way]);
    assert_eq!(cancelled.code, Some(3), "{cancelled:?}");
    assert!(cancelled.stderr.contains(unknown) && cancelled.stdout.lines().count() == 2, "{cancelled:?}");
    for id in [&waiting, &under_way] {
        server.becomes(id, "cancelled");
    }
    assert_eq!(server.run(&["runs", "cancel", &waiting, &under_way]).code, Some(0));
}

#[test]
fn a_replay_is_a_new_run_of_the_same_payload() {
    let server = Server::start(Database::Sqlite);
    let old = server.create(&["echo", "--payload", "[1,2]"]);
    assert_eq!(server.run(&["runs", "wait", &old]).code, Some(0));
    let new = server.json(&["runs", "replay", &old]);
    assert_eq!(new["replay_of"], old);
    let new = new["id"].as_str().expect("an id");
    assert_ne!(new, old);
    assert_eq!(server.run(&["runs", "wait", new]).code, Some(0));
    assert_eq!(server.run(&["runs", "logs", new]).stdout, "[1,2]");
}

#[test]
fn logs_are_the_bytes_as_they_were_written() {
    for database in [Database::Sqlite, Database::Postgres] {
        let server = Server::start(database);
        let text = format!("\"{}é\"", "line\\n".repeat(3_000));
        let id = server.create(&["echo", "--payload", &text]);
        assert_eq!(server.run(&["runs", "wait", &id]).code, Some(0));
        assert_eq!(server.run(&["runs", "logs", &id]).stdout, text);
        assert_eq!(server.run(&["runs", "logs", &id, "--tail", "3"]).stdout, "é\"");
        assert_eq!(server.run(&["runs", "logs", &id, "--stream", "stderr"]).stdout, "");
        assert_eq!(server.run(&["runs", "logs", &id, "--follow"]).stdout, text);
    }
}

#[test]
fn following_logs_goes_along_from_one_attempt_to_the_next() {
    let server = Server::start(Database::Sqlite);
    let script = "echo attempt $TIDEGATE_ATTEMPT; echo aside >&2; [ $TIDEGATE_ATTEMPT = 2 ]";
    let id = server.create(&["work"]);
    let follow = server.command(&["runs", "logs", &id, "--follow"]).spawn().expect("the binary starts");
    let mut worker = server
        .command(&["workers", "run", "--task", "work", "--", "/bin/sh", "-c", script])
        .spawn()
        .expect("the binary starts");
    let followed = follow.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&followed.stdout), "attempt 1\nattempt 2\n");
    assert_eq!(server.run(&["runs", "logs", &id]).stdout, "attempt 2\n", "the last one");
    assert_eq!(server.run(&["runs", "logs", &id, "--stream", "stderr"]).stdout, "aside\n");
    signal(&worker, "TERM");
    ends(&mut worker, 0);
}
