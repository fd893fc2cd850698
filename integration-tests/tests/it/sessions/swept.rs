//! Sessions that nobody looks after any more: closed, or gone on with, by the sweep.

use super::{REVIEW, command, events, go, open, server, session};
use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};

/// The same types, with other rules for the first.
fn with_rules(database: Database, rules: &str, tasks: &str) -> Server {
    let review = REVIEW.replacen("[sessions.map]", &format!("{rules}\n[sessions.map]"), 1);
    server(database).config(&format!("{review}{tasks}"))
}

fn is_closed(client: &mut Client, id: &str, outcome: &str) -> Value {
    eventually("it is closed", || session(client, id)["status"] == "closed");
    let session = session(client, id);
    assert_eq!(session["outcome"], outcome, "{session}");
    session
}

/// The process that opened it is gone, and said nothing.
fn left_on(database: Database) {
    let mut server = with_rules(database, "stale_seconds = 1", "").start();
    let mut client = server.client();
    let opened = command(&server, &["sessions", "open", "review", "-o", "json"], &[]);
    let opened: Value = serde_json::from_slice(&opened.stdout).expect("a session");
    let id = opened["id"].as_str().expect("an id").to_owned();
    let child = client.run(&json!({"task": "endless", "session_id": id}));
    let says = client.run(&json!({"task": "says", "session_id": id}));
    eventually("one has ended", || client.read(&says)["finished_at"].is_string());
    // Three times as long as one is left alone.
    let looked = format!("SELECT COUNT(*) FROM sessions WHERE id = '{id}' AND look_at > opened_at + 3000");
    eventually("it was looked at again", || server.number(&looked) == 1);
    assert_eq!(session(&mut client, &id)["status"], "active", "what is carried out protects it");
    client.post(&format!("/runs/{child}/cancel"), &Value::Null);
    let closed = is_closed(&mut client, &id, "stale");
    let last = &closed["events"][1];
    assert_eq!((&last["event"], &last["data"]["stale_seconds"]), (&json!("closed"), &json!(1)), "{closed}");
    let run = client.read(&says);
    assert_eq!((&run["status"], &run["outcome"]["code"]), (&json!("succeeded"), &json!("incomplete")), "{run}");
    let again = command(&server, &["sessions", "open", "review", "--again", &id, "-o", "json"], &[]);
    let again: Value = serde_json::from_slice(&again.stdout).expect("a session");
    assert_eq!((&again["round"], &again["phase"]), (&json!(2), &json!("context")), "{again}");
    assert_eq!(client.read(&says)["outcome"]["code"], "incomplete", "its round was not completed");
    server.stop();
}

#[test]
fn s002_x1_a_session_left_by_its_process_is_closed_as_stale_and_opens_again_as_the_next_round_on_sqlite() {
    left_on(Database::Sqlite);
}

#[test]
fn s002_x1_a_session_left_by_its_process_is_closed_as_stale_and_opens_again_as_the_next_round_on_postgres() {
    left_on(Database::Postgres);
}

#[test]
fn s002_f1_a_completed_session_that_is_quiet_is_closed_as_complete() {
    let mut server = with_rules(Database::Sqlite, "quiet_seconds = 0.5", "").start();
    let mut client = server.client();
    let (done, open_one) =
        (open(&mut client, &json!({"type": "review"})), open(&mut client, &json!({"type": "review"})));
    let waits = client.run(&json!({"task": "later", "session_id": done}));
    super::complete(&mut client, &done);
    go(&mut client, &open_one, "reviews");
    let looked = format!("SELECT COUNT(*) FROM sessions WHERE id = '{done}' AND look_at > moved_at + 1500");
    eventually("it was looked at again", || server.number(&looked) == 1);
    assert_eq!(session(&mut client, &done)["status"], "active", "s002_f3: a run of it waits");
    client.post(&format!("/runs/{waits}/cancel"), &Value::Null);
    is_closed(&mut client, &done, "complete");
    assert_eq!(session(&mut client, &open_one)["status"], "active", "s002_f2");
    server.stop();
}

/// A program that opens a session at its first start, and afterwards does something else.
fn driver(server: &Server, afterwards: &str) -> String {
    let binary = harness::case::binary();
    let script = format!(
        "export TIDEGATE_SERVER=$(cat {}); t=\"{} sessions\"; if [ -z \"$TIDEGATE_SESSION_ID\" ]; then $t open review; \
        else {afterwards}; fi",
        server.dir.path().join("url").display(),
        binary.display(),
    );
    format!("[tasks.drive]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", '{script}']\nmax_attempts = 1\n")
}

fn driven(afterwards: &str) -> (Server, String) {
    let server = server(Database::Sqlite);
    let task = driver(&server, afterwards);
    let review = REVIEW.replacen("[sessions.map]", "resumes = 2\n[sessions.map]", 1);
    let server = server.config(&format!("{review}{task}")).start();
    let url = format!("http://{}", server.door().addr().expect("it listens"));
    std::fs::write(server.dir.path().join("url"), url).expect("its address");
    let run = server.client().run(&json!({"task": "drive"}));
    (server, run)
}

#[test]
fn s002_f5_a_driver_that_left_off_is_followed_by_another_one_that_goes_on_from_there() {
    let walk = "$t transition reviews && $t transition synthesis && $t complete-round && $t close";
    let (mut server, first) = driven(walk);
    let mut client = server.client();
    eventually("it has opened its session", || client.read(&first)["session_id"].is_string());
    let id = client.read(&first)["session_id"].as_str().expect("an id").to_owned();
    let closed = is_closed(&mut client, &id, "complete");
    assert_eq!((&closed["resumes"], &closed["round"]), (&json!(1), &json!(1)), "{closed}");
    let second = closed["driver_run_id"].as_str().expect("a driver").to_owned();
    eventually("the other one has ended well, spared by its close", || client.read(&second)["status"] == "succeeded");
    assert_eq!(client.read(&second)["replay_of"], first.as_str());
    for run in [&first, &second] {
        assert_eq!(client.read(run)["outcome"]["code"], "succeeded", "the round is complete");
    }
    assert_eq!(events(&mut client, &id), ["opened", "resumed", "moved", "moved", "completed", "closed"]);
    server.stop();
}

#[test]
fn s002_f9_a_session_whose_drivers_all_fail_is_closed_as_exhausted() {
    let (mut server, first) = driven("exit 1");
    let mut client = server.client();
    eventually("it has opened its session", || client.read(&first)["session_id"].is_string());
    let id = client.read(&first)["session_id"].as_str().expect("an id").to_owned();
    let closed = is_closed(&mut client, &id, "exhausted");
    assert_eq!((&closed["resumes"], &closed["max_resumes"]), (&json!(2), &json!(2)), "{closed}");
    assert_eq!(events(&mut client, &id), ["opened", "resumed", "resumed", "closed"]);
    let drivers = server.rows("SELECT state FROM run_records WHERE task = 'drive' ORDER BY id");
    let states: Vec<&str> = drivers.iter().filter_map(|row| row[0].as_deref()).collect();
    assert_eq!(states, ["succeeded", "failed", "failed"]);
    let run = client.read(&first);
    assert_eq!(run["outcome"]["code"], "incomplete", "{run}");
    server.stop();
}

#[test]
fn sessions_that_go_on_by_themselves_can_be_switched_off() {
    let server = server(Database::Sqlite).env("TIDEGATE_RESUME_ENABLED", "false");
    let task = driver(&server, "exit 1");
    let review = REVIEW.replacen("[sessions.map]", "resumes = 2\n[sessions.map]", 1);
    let mut server = server.config(&format!("{review}{task}")).start();
    let url = format!("http://{}", server.door().addr().expect("it listens"));
    std::fs::write(server.dir.path().join("url"), url).expect("its address");
    let mut client = server.client();
    let run = client.run(&json!({"task": "drive"}));
    eventually("it has ended", || client.read(&run)["finished_at"].is_string());
    let looked = "SELECT COUNT(*) FROM sessions WHERE look_at > opened_at + 7000";
    eventually("it was looked at", || server.number(looked) == 1);
    let row = &server.rows("SELECT state, resumes FROM sessions")[0];
    assert_eq!((row[0].as_deref(), row[1].as_deref()), (Some("active"), Some("0")));
    server.stop();
}
