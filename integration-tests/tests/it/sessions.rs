//! Sessions as their users have them: walked over HTTP and by the command line, closed once, judged by what they came
//! to, and swept when nobody is left (invariants 27 to 35).

mod cli;
mod kills;
mod swept;

use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::process::Output;

const REVIEW: &str = r#"
[sessions.review]
initial = "context"
edges = { context = ["reviews"], reviews = ["synthesis"], synthesis = ["complete"] }
[sessions.map]
initial = "topology"
edges = { topology = ["complete"] }
[tasks.later]
kind = "pull"
[tasks.endless]
kind = "exec"
program = "/bin/sleep"
args = ["600"]
grace_seconds = 0.2
[tasks.says]
kind = "exec"
program = "/bin/sh"
args = ["-c", "echo of $TIDEGATE_SESSION_ID"]
"#;

fn server(database: Database) -> Server {
    Server::on(database).config(REVIEW).set("supervisor.sweep_seconds", 0.3)
}

fn open(client: &mut Client, body: &Value) -> String {
    client.post("/sessions", body).is(201).field("id")
}

fn session(client: &mut Client, id: &str) -> Value {
    client.get(&format!("/sessions/{id}")).is(200).json()
}

/// The names of a session's events.
fn events(client: &mut Client, id: &str) -> Vec<String> {
    let session = session(client, id);
    let events = session["events"].as_array().expect("events");
    events.iter().map(|event| event["event"].as_str().expect("a name").to_owned()).collect()
}

fn go(client: &mut Client, id: &str, phase: &str) -> Value {
    client.post(&format!("/sessions/{id}/transition"), &json!({"phase": phase})).is(200).json()
}

/// Walks it to its end and completes the round.
fn complete(client: &mut Client, id: &str) -> Value {
    go(client, id, "reviews");
    go(client, id, "synthesis");
    client.post(&format!("/sessions/{id}/complete-round"), &json!({"result": {"verdict": "ok"}})).is(200).json()
}

/// A command of the real binary that speaks to a server.
fn command(server: &Server, args: &[&str], env: &[(&str, &str)]) -> Output {
    let url = format!("http://{}", server.door().addr().expect("it listens"));
    let mut command = server.command(args);
    command.env("TIDEGATE_SERVER", url).envs(env.iter().copied());
    command.output().expect("it is started")
}

fn walk_on(database: Database) {
    let mut server = server(database).start();
    let mut client = server.client();
    let opened = client.post("/sessions", &json!({"type": "review", "metadata": {"branch": "main"}})).is(201);
    let id = opened.field("id");
    assert_eq!(opened.header("location"), Some(format!("/api/v1/sessions/{id}").as_str()));
    let row = session(&mut client, &id);
    assert_eq!((&row["status"], &row["phase"], &row["round"]), (&json!("active"), &json!("context"), &json!(1)));
    assert_eq!((&row["phase_number"], &row["metadata"]), (&json!(1), &json!({"branch": "main"})));
    assert_eq!(row["remaining"], json!(["reviews", "synthesis", "complete"]));
    let wrong = |client: &mut Client, what: &str, body: Value, words: &str, allowed: Value| {
        let answer = client.post(&format!("/sessions/{id}/{what}"), &body);
        answer.is_problem(409, "conflict");
        let problem = answer.json();
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{problem}");
        assert_eq!(problem["allowed"], allowed, "{problem}");
    };
    let on = json!(["reviews"]);
    wrong(&mut client, "transition", json!({"phase": "synthesis"}), "from context to synthesis", on.clone());
    wrong(&mut client, "transition", json!({"phase": "topology"}), "no phase of a review", on.clone());
    wrong(&mut client, "transition", json!({"phase": "reviews", "round": 2}), "in round 1", on.clone());
    wrong(&mut client, "complete-round", json!({}), "completed from synthesis", on.clone());
    wrong(&mut client, "close", json!({}), "aborted", on);
    assert_eq!(events(&mut client, &id), ["opened"], "what is refused leaves no trace");
    let done = complete(&mut client, &id);
    assert_eq!((&done["round_completed"], &done["allowed"]), (&json!(true), &json!(["context"])));
    let again =
        client.post(&format!("/sessions/{id}/complete-round"), &json!({"result": {"verdict": "other"}})).is(200);
    assert_eq!(again.json(), done, "a round is completed once");
    let told = session(&mut client, &id);
    assert_eq!(told["events"][3]["data"], json!({"verdict": "ok"}), "what it left behind is kept with it");
    let closed = client.post(&format!("/sessions/{id}/close"), &json!({})).is(200).json();
    assert_eq!((&closed["status"], &closed["outcome"]), (&json!("closed"), &json!("complete")));
    let aborted = client.post(&format!("/sessions/{id}/close"), &json!({"outcome": "aborted"})).is(200).json();
    assert_eq!(aborted, closed, "a repeated close is answered with the first one");
    assert_eq!(events(&mut client, &id), ["opened", "moved", "moved", "completed", "closed"]);
    wrong(&mut client, "transition", json!({"phase": "context"}), "is closed as complete", json!([]));
    let other = client.post("/sessions", &json!({"type": "map", "session_id": id}));
    other.is_problem(409, "conflict");
    let next = client.post("/sessions", &json!({"type": "review", "session_id": id})).is(200).json();
    assert_eq!((&next["round"], &next["phase"]), (&json!(2), &json!("context")));
    client.post("/sessions", &json!({"type": "review", "session_id": id})).is_problem(409, "conflict");
    assert_eq!(client.list("/sessions?status=active&type=review")[0]["id"], id.as_str());
    assert!(client.list("/sessions?status=closed").is_empty());
    let mut stranger = server.client().in_env("other/dev");
    stranger.get(&format!("/sessions/{id}")).is_problem(404, "not_found");
    server.stop();
}

#[test]
fn s002_n14_sessions_are_walked_along_their_graph_over_http_on_sqlite() {
    walk_on(Database::Sqlite);
}

#[test]
fn s002_n14_sessions_are_walked_along_their_graph_over_http_on_postgres() {
    walk_on(Database::Postgres);
}

fn is_cancelled(client: &mut Client, run: &str) {
    eventually("the run is cancelled", || client.read(run)["status"] == "cancelled");
}

fn close_on(database: Database) {
    let mut server = server(database).start();
    let mut client = server.client();
    let driver = client.run(&json!({"task": "endless"}));
    let id = open(&mut client, &json!({"type": "review", "driver_run_id": driver}));
    let again = client.post("/sessions", &json!({"type": "review", "driver_run_id": driver})).is(200);
    assert_eq!(again.field("id"), id, "asked for twice, it is there once");
    assert_eq!(client.read(&driver)["session_id"], id.as_str());
    let of_it = |task: &str| json!({"task": task, "session_id": id});
    let running = client.run(&of_it("endless"));
    let waiting = client.run(&of_it("later"));
    let mut delayed = of_it("noop");
    delayed["delay_seconds"] = json!(3_600);
    let delayed = client.run(&delayed);
    let keyed = json!({"task": "later", "session_id": id, "idempotency_key": "once"});
    let first = client.post("/runs", &keyed).is(201).json();
    eventually("both are carried out", || {
        [&driver, &running].iter().all(|run| client.read(run)["status"] == "running")
    });
    let listed = client.list(&format!("/runs?session_id={id}&limit=2"));
    assert_eq!(listed.len(), 5, "its driver and its steps, page by page: {listed:?}");
    client.post(&format!("/sessions/{id}/close"), &json!({"outcome": "aborted"})).is(200);
    for run in [&running, &waiting, &delayed] {
        is_cancelled(&mut client, run);
    }
    assert_eq!(client.read(&driver)["status"], "running", "a close spares its driver");
    client.post("/runs", &of_it("later")).is_problem(409, "conflict");
    client.post(&format!("/runs/{waiting}/replay"), &json!({})).is_problem(409, "conflict");
    let unknown = json!({"task": "later", "session_id": "ses_01m7z98h4682mz3gf7qqbcvmfg"});
    client.post("/runs", &unknown).is_problem(400, "invalid_field");
    let replayed = client.post("/runs", &keyed).is(201);
    assert_eq!(replayed.json()["id"], first["id"], "what was answered once is answered so again");
    let both = json!({"runs": [of_it("later"), {"task": "later"}]});
    let verdicts = client.post("/runs/batch", &both).is(200).json();
    assert_eq!((&verdicts["accepted"], &verdicts["data"][0]["status"]), (&json!(1), &json!(409)), "{verdicts}");
    client.post(&format!("/runs/{driver}/cancel"), &Value::Null);
    is_cancelled(&mut client, &driver);
    server.stop();
}

#[test]
fn s002_n12_a_close_ends_what_a_session_has_left_but_not_its_driver_on_sqlite() {
    close_on(Database::Sqlite);
}

#[test]
fn s002_n12_a_close_ends_what_a_session_has_left_but_not_its_driver_on_postgres() {
    close_on(Database::Postgres);
}

/// A program is told which session it is of, and its success is one once the session is complete.
#[test]
fn s002_o5_exit_0_of_an_unfinished_session_is_incomplete_on_every_surface() {
    let mut server = server(Database::Sqlite).start();
    let mut client = server.client();
    let id = open(&mut client, &json!({"type": "review"}));
    let run = client.run(&json!({"task": "says", "session_id": id}));
    eventually("it has ended", || client.read(&run)["finished_at"].is_string());
    let read = client.get(&format!("/runs/{run}"));
    let (incomplete, etag) = (read.json(), read.header("etag").map(str::to_owned));
    assert_eq!((&incomplete["status"], &incomplete["outcome"]["code"]), (&json!("succeeded"), &json!("incomplete")));
    let why = incomplete["outcome"]["reason"].as_str().expect("a reason");
    assert_eq!(why, "its session is at phase context of round 1");
    assert_eq!(client.get(&format!("/runs/{run}/output")).is(200).text(), format!("of {id}\n"));
    assert_eq!(client.list("/runs")[0]["outcome"]["code"], "incomplete");
    let waited = command(&server, &["runs", "wait", &run], &[]);
    assert_eq!(waited.status.code(), Some(8), "{waited:?}");
    complete(&mut client, &id);
    let read = client.get(&format!("/runs/{run}"));
    assert_eq!(read.json()["outcome"]["code"], "succeeded", "it is looked up, not written");
    assert_ne!(read.header("etag").map(str::to_owned), etag, "what a client can see has changed");
    assert_eq!(command(&server, &["runs", "wait", &run], &[]).status.code(), Some(0));
    server.stop();
}

#[test]
fn a_graph_that_cannot_be_walked_is_refused_at_the_start() {
    for (edges, words) in [
        (r#"{ a = ["complete"], x = ["complete"] }"#, "`x` is never reached"),
        (r#"{ a = ["complete", "x"] }"#, "`x` is a dead end"),
        (r#"{ b = ["complete"] }"#, "`initial` is `a`"),
    ] {
        let server = Server::on(Database::Sqlite).config(&format!("[sessions.s]\ninitial = \"a\"\nedges = {edges}\n"));
        let output = server.command(&["serve", "--config", "tidegate.toml"]).output().expect("it is started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("sessions.s") && said.contains(words), "{said}");
    }
}
