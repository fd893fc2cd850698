//! Pull workers: the built-in one, and the examples in other languages.

use super::Server;
use super::server::{ends, signal};
use harness::{Database, eventually};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("ops/examples").join(name)
}

fn worker(server: &Server, args: &[&str]) -> Child {
    server.command(&[&["workers", "run", "--task", "work"], args].concat()).spawn().expect("the binary starts")
}

fn stops(mut worker: Child) {
    signal(&worker, "TERM");
    ends(&mut worker, 0);
}

/// An example worker with the server's address, killed at the end of the test.
struct Example(Child);

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_example(server: &Server, name: &str, args: &[&str]) -> Example {
    let mut command = Command::new(example(name));
    command.args(args).env("TIDEGATE_SERVER", &server.url).stdin(Stdio::null()).stdout(Stdio::null());
    Example(command.spawn().expect("the example is executable"))
}

#[test]
fn the_python_worker_carries_out_twenty_runs_on_both_databases() {
    for database in [Database::Sqlite, Database::Postgres] {
        let server = Server::start(database);
        let ids: Vec<String> = (0..20)
            .map(|n| server.create(&["work", "--payload", &format!("{{\"n\":{n},\"t\":\"a\\\"é\\n\"}}")]))
            .collect();
        let _worker = start_example(&server, "worker.py", &[]);
        let wait: Vec<&str> = ["runs", "wait"].into_iter().chain(ids.iter().map(String::as_str)).collect();
        let waited = server.run(&wait);
        assert_eq!(waited.code, Some(0), "{waited:?}");
        let last = server.json(&["runs", "get", &ids[19]]);
        assert_eq!(last["outcome"]["output"], json!({"echo": {"n": 19, "t": "a\"é\n"}}));
        assert_eq!(last["attempt"], 1);
        assert!(server.run(&["runs", "logs", &ids[7]]).stdout.starts_with("got {\"n\": 7"));
        let seen = server.json(&["workers", "list"]);
        assert_eq!(seen["data"][0]["tasks"], json!(["work"]), "{seen}");
    }
}

#[test]
fn the_shell_worker_hands_over_the_payload_whatever_is_in_it() {
    let server = Server::start(Database::Sqlite);
    let payload = r#"{"a":"\"lease_token\":\"f00\"","b":[1,{"payload":",\"lease_token\":\"0\""}],"c":"é\n$(x) `y`"}"#;
    let good = server.create(&["work", "--payload", payload]);
    let out = server.dir.path().join("got");
    let script = format!("cat >>'{}'; [ ! -e '{}' ]", out.display(), server.dir.path().join("fail").display());
    let _worker = start_example(&server, "worker.sh", &["work", "sh", "-c", &script]);
    assert_eq!(server.run(&["runs", "wait", &good]).code, Some(0));
    assert_eq!(std::fs::read_to_string(&out).expect("the payload").trim_end(), payload);
    std::fs::write(&out, "").expect("it is emptied");
    let session = server.json(&["sessions", "open", "review"]);
    let step = server.create(&["work", "--payload", payload, "--session", session["id"].as_str().expect("an id")]);
    let ended = server.run(&["runs", "wait", &step]);
    assert_eq!(ended.code, Some(8), "its session is unfinished: {ended:?}");
    assert_eq!(std::fs::read_to_string(&out).expect("the payload").trim_end(), payload);
    server.file("fail", "");
    let bad = server.create(&["work", "--max-attempts", "1"]);
    assert_eq!(server.run(&["runs", "wait", &bad]).code, Some(8));
    assert_eq!(server.json(&["runs", "get", &bad])["outcome"]["code"], "exit_1");
}

#[test]
fn the_built_in_worker_keeps_what_the_program_says_and_how_it_ends() {
    for database in [Database::Sqlite, Database::Postgres] {
        let server = Server::start(database);
        let script = "cat; echo; echo $TIDEGATE_TASK $TIDEGATE_RUN_ID; printf 'bad \\377 byte' >&2; \
                      echo \"${TIDEGATE_STORE:-no store} ${TIDEGATE_API_KEY:-no key}\"; [ $TIDEGATE_ATTEMPT = 2 ] || exit 3";
        let id = server.create(&["work", "--payload", "{\"x\": 1.50}"]);
        let worker = worker(&server, &["--concurrency", "2", "--", "/bin/sh", "-c", script]);
        assert_eq!(server.run(&["runs", "wait", &id]).code, Some(0));
        let run = server.json(&["runs", "get", &id]);
        let attempt = &run["attempts"][0];
        assert_eq!((&run["attempt"], &attempt["code"]), (&json!(2), &json!("exit_3")), "{run}");
        assert_eq!(attempt["reason"], "the program ended with exit code 3");
        let log = server.run(&["runs", "logs", &id]).stdout;
        assert_eq!(log, format!("{{\"x\": 1.50}}\nwork {id}\nno store no key\n"));
        assert_eq!(server.run(&["runs", "logs", &id, "--stream", "stderr"]).stdout, "bad \u{fffd} byte");
        stops(worker);
    }
}

#[test]
fn large_output_arrives_whole_and_in_order() {
    let server = Server::start(Database::Sqlite);
    let id = server.create(&["work"]);
    let worker = worker(&server, &["--", "/bin/sh", "-c", "seq 1 60000"]);
    assert_eq!(server.run(&["runs", "wait", &id]).code, Some(0));
    let expected: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    assert!(server.run(&["runs", "logs", &id]).stdout == expected);
    stops(worker);
}

#[test]
fn a_run_is_kept_by_heartbeats_and_given_up_when_it_is_cancelled() {
    let server = Server::start(Database::Sqlite);
    let worker = worker(&server, &["--lease", "1s", "--", "/bin/sh", "-c", "sleep 3.0625 & wait; echo kept"]);
    let kept = server.create(&["work"]);
    assert_eq!(server.run(&["runs", "wait", &kept]).code, Some(0));
    assert_eq!(server.json(&["runs", "get", &kept])["attempt"], 1, "its lease was kept over three of its lengths");
    let cancelled = server.create(&["work"]);
    server.becomes(&cancelled, "running");
    eventually("the program runs", || sleeping("3.0625"));
    assert_eq!(server.run(&["runs", "cancel", &cancelled]).code, Some(0));
    server.becomes(&cancelled, "cancelled");
    eventually("what the program has started is stopped with it", || !sleeping("3.0625"));
    stops(worker);
}

/// Whether anybody on this machine sleeps for exactly so long.
fn sleeping(seconds: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let wanted = format!("sleep\0{seconds}\0");
    processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok()).any(|line| line == wanted.as_bytes())
}

#[test]
fn a_stop_lets_what_is_in_hand_end_and_takes_nothing_more() {
    let server = Server::start(Database::Sqlite);
    let gate = server.dir.path().join("gate");
    let script = format!("echo begun; while [ ! -e '{}' ]; do sleep 0.05; done", gate.display());
    let (first, second) = (server.create(&["work"]), server.create(&["work"]));
    let mut worker = worker(&server, &["--", "/bin/sh", "-c", &script]);
    eventually("one is under way", || {
        [&first, &second].iter().filter(|id| server.status(id) == "running").count() == 1
    });
    eventually("its program runs", || {
        [&first, &second].iter().any(|id| !server.run(&["runs", "logs", id]).stdout.is_empty())
    });
    signal(&worker, "INT");
    server.file("gate", "");
    ends(&mut worker, 0);
    let mut states = [server.status(&first), server.status(&second)];
    states.sort();
    assert_eq!(states, ["queued", "succeeded"]);
}

#[test]
fn the_second_signal_kills_and_the_run_is_tried_again_elsewhere() {
    let server = Server::start(Database::Sqlite);
    let id = server.create(&["work"]);
    let mut first = worker(&server, &["--lease", "1s", "--", "/bin/sh", "-c", "echo begun; sleep 600.0625"]);
    eventually("its program runs", || !server.run(&["runs", "logs", &id]).stdout.is_empty());
    signal(&first, "TERM");
    signal(&first, "TERM");
    eventually("it ends", || {
        // Two signals of a kind at once may count as one.
        signal_if_there(&first);
        first.try_wait().expect("a child").is_some()
    });
    assert_eq!(first.wait().expect("it has ended").code(), Some(143));
    eventually("its program ends with it", || !sleeping("600.0625"));
    let second = worker(&server, &["--", "/bin/true"]);
    assert_eq!(server.run(&["runs", "wait", &id]).code, Some(0));
    assert_eq!(server.json(&["runs", "get", &id])["attempt"], 2);
    stops(second);
}

fn signal_if_there(child: &Child) {
    let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).stderr(Stdio::null()).status();
}

#[test]
fn a_program_that_is_not_there_ends_the_worker_and_costs_no_attempt() {
    let server = Server::start(Database::Sqlite);
    let id = server.create(&["work"]);
    let mut lost = worker(&server, &["--", "/nowhere/at/all"]);
    ends(&mut lost, 2);
    server.becomes(&id, "queued");
    assert_eq!(server.json(&["runs", "get", &id])["attempt"], 0);
}

#[test]
fn a_worker_outlives_a_restart_of_the_server() {
    let mut server = Server::start(Database::Sqlite);
    let before = server.create(&["work"]);
    let worker = worker(&server, &["--", "/bin/true"]);
    assert_eq!(server.run(&["runs", "wait", &before]).code, Some(0));
    server.kill();
    let listen = server.url.trim_start_matches("http://").to_owned();
    server.serve(&["--listen", &listen]);
    let after = server.create(&["work"]);
    assert_eq!(server.run(&["runs", "wait", &after]).code, Some(0));
    stops(worker);
}

#[test]
fn the_buffer_is_told_by_env_and_entry_by_entry() {
    let mut server = Server::not_started(Database::Sqlite);
    let config = std::fs::read_to_string(server.dir.path().join("tidegate.toml")).expect("the configuration");
    server.file("tidegate.toml", &format!("{config}\n[buffer]\nabove_per_second = 0.1\ndrainer_enabled = false\n"));
    server.serve(&["--listen", "127.0.0.1:0"]);
    let buffered = || server.json(&["buffer", "status"])["entries"].as_i64().unwrap_or(0);
    eventually("three runs are buffered", || {
        server.create(&["noop"]);
        buffered() >= 3
    });
    let first = server.run(&["buffer", "entries", "--limit", "2", "-o", "json"]);
    let entries = first.summary();
    let ids: Vec<&Value> = entries["data"].as_array().expect("entries").iter().map(|entry| &entry["run_id"]).collect();
    assert_eq!(ids.len(), 2, "{first:?}");
    let after = first.stderr.lines().find_map(|line| line.strip_prefix("there are more: add --after "));
    let rest = server.json(&["buffer", "entries", "--after", after.expect("a cursor")]);
    let third = &rest["data"][0]["run_id"];
    assert!(third.is_string() && !ids.contains(&third), "{rest}");
    let status = server.run(&["buffer", "status"]);
    assert!(status.stdout.contains("env\tdefault/dev\t"), "{status:?}");
    assert_eq!(server.status(third.as_str().expect("an id")), "buffered");
}
