//! Statements about security, each held against the running binary; `ops/SECURITY.md` lists them all.

mod access;
mod tenants;
mod properties;
mod keys;
mod leases;
mod tasks;
mod logs;
mod slow;

use harness::{Answer, Client, Server};
use serde_json::Value;

const ALL_SCOPES: &str = "runs:read,runs:write,workers,queues:write,buffer:read,jobs:read,jobs:write,admin,chaos";
const LATER: &str = "[tasks.later]\nkind = \"pull\"\n[tasks.asked]\nkind = \"llm\"\nprovider = \"openai\"\n\
    [sessions.review]\ninitial = \"a\"\nedges = { a = [\"complete\"] }\n";
/// The form of a run's id; nobody's.
const NOBODYS: &str = "run_01jd8v9k3z5m7q2w4x6y8a0b1c";

/// Any command on the server's store; its stdout.
#[track_caller]
fn tidegate(server: &Server, args: &[&str]) -> String {
    let output = server.command(args).output().expect("the binary runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// A new key. On SQLite no server may have the store meanwhile.
#[track_caller]
fn key(server: &Server, env: &str, scopes: &str, more: &[&str]) -> String {
    tidegate(server, &[&["keys", "create", "--env", env, "--scope", scopes], more].concat())
}

fn id_of(key: &str) -> &str {
    key.split('_').nth(2).expect("a key has an id")
}

fn secret_of(key: &str) -> &str {
    key.split('_').nth(3).expect("a key has a secret")
}

fn caller(server: &Server, key: &str) -> Client {
    server.client().with("Authorization", &format!("Bearer {key}"))
}

/// A request for a route of the table, with a body that it would take.
fn request(method: &str, route: &str, run: &str) -> (String, Option<String>) {
    let path = route
        .replace("{id}", run)
        .replace("{queue}", "later")
        .replace("{kind}", "sessions")
        .replace("{name}", "sweeper");
    let held = format!("\"run_id\":\"{run}\",\"lease_token\":\"t\"");
    let body = match (method, route) {
        ("POST", "/runs") => "{\"task\":\"noop\"}".to_owned(),
        ("POST", "/runs/batch") => "{\"runs\":[{\"task\":\"noop\"}]}".to_owned(),
        ("PATCH", "/runs/{id}") => "{\"tags\":[\"changed\"]}".to_owned(),
        ("POST", "/workers/lease") => "{\"tasks\":[\"later\"],\"worker\":\"w\"}".to_owned(),
        ("POST", "/workers/output") => format!("{{{held},\"seq\":0,\"data\":\"x\"}}"),
        ("POST", "/batches/{id}/adopt") => "{\"provider_batch_id\":\"batch_x\"}".to_owned(),
        ("POST", "/batches/{id}/abandon") => "{}".to_owned(),
        ("POST", "/jobs") => "{\"pool\":\"asked\"}".to_owned(),
        ("POST", "/sessions") => "{\"type\":\"review\"}".to_owned(),
        ("POST", "/sessions/{id}/transition") => "{\"phase\":\"complete\"}".to_owned(),
        ("POST", "/sessions/{id}/complete-round" | "/sessions/{id}/close") => "{}".to_owned(),
        ("POST", _) if route.starts_with("/workers/") => format!("{{{held}}}"),
        _ => return (path, None),
    };
    (path, Some(body))
}

/// Sends it; of a stream that would not end only the status is read.
fn ask(client: &mut Client, method: &str, route: &str, run: &str) -> Answer {
    let (path, body) = request(method, route, run);
    if route.ends_with("/events") && client.follow(&path, None).is_ok() {
        return Answer { status: 200, headers: Vec::new(), body: Vec::new() };
    }
    client.send(method, &path, body.as_deref()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// The document without what names the request.
fn unnamed(answer: &Answer) -> Value {
    let mut document = answer.json();
    document.as_object_mut().expect("an object").remove("request_id");
    document
}
