//! Rows of the catalogue that are no single request, each on the running server.

use super::connect_to;
use harness::{Answer, Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

const LATER: &str = "[tasks.later]\nkind = \"pull\"\n";
/// Connections that one address may have open; `serve` has the same number.
const PER_ADDRESS_MAX: usize = 2_000;

/// What a program writes is truncated at the server's limit.
fn writer(bytes: u64) -> String {
    format!(
        "[tasks.writer]\nkind = \"exec\"\nprogram = \"/usr/bin/head\"\nargs = [\"-c\", \"{bytes}\", \"/dev/zero\"]\n"
    )
}

#[test]
fn row_42_the_server_lets_a_client_go_that_stops_reading() {
    let mut server = Server::on(Database::Sqlite).config(&writer(10 << 20)).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "writer"}));
    eventually("the run has ended", || client.read(&run)["status"] == "succeeded");
    let mut reader = connect_to(&server);
    write!(reader, "GET /api/v1/runs/{run}/output HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    reader.read_exact(&mut [0; 1_000]).expect("the beginning of the answer");
    // A connection that is closed with bytes of ours unread is reset.
    eventually("the connection is closed", || reader.write_all(b" ").is_err());
    client.get("/tasks").is(200);
    server.stop();
}

/// This process and the servers that it starts may open as many files as the system lets them.
pub(crate) fn open_many_files() {
    let own = std::process::id().to_string();
    let limits = std::fs::read_to_string("/proc/self/limits").expect("our own limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit of files");
    let hard = line.split_ascii_whitespace().nth(4).expect("a hard limit");
    let done = Command::new("prlimit").args(["--pid", &own, &format!("--nofile={hard}:{hard}")]).status();
    assert!(done.is_ok_and(|status| status.success()), "the limit of open files cannot be raised to {hard}");
}

/// Connections from an address of their own that say nothing.
async fn idle(server: SocketAddr, from: Ipv4Addr, count: usize) -> Vec<tokio::net::TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((from, 0))).expect("an address of this machine");
        streams.push(socket.connect(server).await.expect("a connection"));
    }
    streams
}

/// Whether nobody has closed it; nothing was ever sent on it.
fn is_open(stream: &tokio::net::TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn row_43_five_thousand_idle_connections_of_one_address_are_capped_and_others_are_served() {
    open_many_files();
    let mut server = Server::start_on(Database::Sqlite);
    let address = server.door().addr().expect("an address");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let streams = runtime.block_on(idle(address, Ipv4Addr::new(127, 0, 3, 1), 5_000));
    // Later the others are let go too, as they send nothing; at no time are there more.
    eventually("those over the cap are closed", || {
        streams.iter().filter(|stream| is_open(stream)).count() <= PER_ADDRESS_MAX
    });
    server.client().get("/tasks").is(200);
    server.ops("/livez").is(200);
    server.ops("/readyz").is(200);
    server.says("an address has too many connections");
    let said = server.lines().iter().filter(|line| line.contains("too many connections")).count();
    assert!(said <= 2, "a flood is told {said} times");
    drop(streams);
    server.client().get("/tasks").is(200);
    server.stop();
}

/// How long the server takes for a body.
#[expect(clippy::disallowed_methods, reason = "spans how long an answer takes")]
fn span(client: &mut Client, body: &str) -> Duration {
    let began = Instant::now();
    let answer = client.send("POST", "/runs", Some(body)).expect("an answer");
    let took = began.elapsed();
    answer.is(201);
    took
}

/// Strings that collide under every hash of the form `31 * h + c`, whatever comes before or after.
fn colliding(count: usize) -> Vec<String> {
    let pairs = |number: usize| (0..14).map(|bit| if number >> bit & 1 == 0 { "Aa" } else { "BB" }).collect();
    (0..count).map(pairs).collect()
}

#[test]
fn row_66_keys_that_collide_cost_no_more_than_others() {
    const KEYS: usize = 9_000;
    let mut server = Server::on(Database::Sqlite).config(LATER).start();
    let mut client = server.client();
    let body = |keys: Vec<String>| {
        let members: Vec<String> = keys.iter().map(|key| format!("\"{key}\":0")).collect();
        format!("{{\"task\":\"later\",\"payload\":{{{}}}}}", members.join(","))
    };
    let collide = body(colliding(KEYS));
    let differ = body((0..KEYS).map(|number| format!("{:028}", number * 7_919)).collect());
    assert_eq!(collide.len(), differ.len());
    let mut ratios = Vec::new();
    // A busy machine may blur one round, but does not favour one of the two in every round.
    eventually("both cost as much", || {
        let (mut colliding, mut differing) = (Vec::new(), Vec::new());
        for _ in 0..15 {
            colliding.push(span(&mut client, &collide));
            differing.push(span(&mut client, &differ));
        }
        colliding.sort_unstable();
        differing.sort_unstable();
        ratios.push(colliding[7].as_secs_f64() / differing[7].as_secs_f64());
        assert!(ratios.len() < 8, "the ratios are {ratios:?}");
        ratios.last().is_some_and(|ratio| *ratio <= 2.0)
    });
    server.stop();
}

#[test]
fn row_78_a_gibibyte_of_output_is_cut_at_the_limit_and_said_to_be() {
    const GIB: u64 = 1 << 30;
    const KEPT: usize = 10_485_760;
    let mut server = Server::on(Database::Sqlite).config(&writer(GIB)).start();
    let mut client = server.client();
    let first = client.run(&json!({"task": "noop"}));
    eventually("the server is warm", || client.read(&first)["status"] == "succeeded");
    let before = server.memory_kib();
    let run = client.run(&json!({"task": "writer"}));
    let mut peak = 0;
    eventually("the run has ended", || {
        peak = peak.max(server.memory_kib());
        client.read(&run)["status"] == "succeeded"
    });
    let growth = peak.saturating_sub(before);
    assert!(growth <= 64 * 1024, "memory grew by {growth} KiB");
    let output = client.get(&format!("/runs/{run}/output")).is(200);
    assert_eq!(output.header("x-tidegate-truncated"), Some("true"));
    assert_eq!(output.header("x-tidegate-total-bytes"), Some(GIB.to_string().as_str()));
    assert_eq!(output.body.len(), KEPT);
    server.stop();
}

#[test]
fn row_107_a_delay_between_tries_that_is_none_is_refused() {
    for (setting, word) in [
        ("retry_base_seconds = 0.0", "retry_base_seconds"),
        ("retry_base_seconds = -1.0", "retry_base_seconds"),
        ("retry_cap_seconds = 1e308", "retry_cap_seconds"),
        ("retry_base_seconds = nan", "retry_base_seconds"),
        ("retry_cap_seconds = inf", "retry_cap_seconds"),
        ("retry_factor = 1e308", "retry_factor"),
    ] {
        let server = Server::on(Database::Sqlite).config(&format!("[tasks.x]\nkind = \"noop\"\n{setting}\n"));
        let output = server.command(&["serve", "--listen", "127.0.0.1:0"]).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{setting}: {said}");
        assert!(said.contains(word) && !said.contains("panicked"), "{setting}: {said}");
    }
}

#[test]
fn row_133_a_key_with_another_body_is_refused_and_the_first_one_stands() {
    let mut server = Server::on(Database::Sqlite).config(LATER).start();
    let mut client = server.client();
    let body = |payload: &str| json!({"task": "later", "payload": payload, "idempotency_key": "k"});
    let first = client.post("/runs", &body("one")).is(201);
    for _ in 0..2 {
        client.post("/runs", &body("other")).is_problem(422, "idempotency_mismatch");
        let many = client.post("/runs/batch", &json!({"runs": [body("other")]})).is(200).json();
        assert_eq!(many["data"][0]["error"]["code"], "idempotency_mismatch", "{many}");
    }
    let again = client.post("/runs", &body("one")).is(201);
    assert_eq!((again.header("idempotency-replayed"), again.field("id")), (Some("true"), first.field("id")));
    assert_eq!(client.read(&first.field("id"))["payload"], "one");
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 1);
    server.stop();
}

/// What can be got can be asked for without its body, be it endless; the connection goes on in step.
#[test]
fn row_29_head_answers_as_get_does_without_the_body() {
    let mut server = Server::on(Database::Sqlite).config(LATER).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "later"}));
    let got = client.get("/tasks").is(200);
    let asked = [
        ("HEAD", "/api/v1/tasks".to_owned(), 200),
        ("HEAD", format!("/api/v1/runs/{run}"), 200),
        ("HEAD", format!("/api/v1/runs/{run}/output?follow=true"), 200),
        ("HEAD", "/api/docs".to_owned(), 200),
        ("HEAD", "/api/v1/nothing".to_owned(), 404),
        ("HEAD", "/api/v1/runs/batch".to_owned(), 405),
        ("HEAD", "/api/v1/events".to_owned(), 200),
        ("GET", "/api/v1/tasks".to_owned(), 200),
    ];
    let mut stream = connect_to(&server);
    for (method, path, status) in &asked {
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {head}");
        let length = format!("content-length: {}\r\n", got.body.len());
        assert!(!path.ends_with("/tasks") || head.contains(&length), "{length} of {head}");
        assert!(!path.ends_with(&run) || head.contains("etag: "), "{head}");
    }
    let mut body = vec![0; got.body.len()];
    stream.read_exact(&mut body).expect("the body of the last one");
    assert_eq!(body, got.body, "nothing came in between");
    server.stop();
}

/// Replays and many runs at once have keys too: what comes again makes nothing again.
fn keys_of_every_kind(database: Database) {
    const CLIENTS: usize = 40;
    let mut server = Server::on(database).config(LATER).start();
    let mut client = server.client();
    let (one, other) = (client.run(&json!({"task": "later"})), client.run(&json!({"task": "later"})));
    let replay = |run: &str, key: &str| {
        server.client().with("Idempotency-Key", key).post(&format!("/runs/{run}/replay"), &json!({}))
    };
    let made: HashSet<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| replay(&one, "again").is(201).field("id"))).collect();
        clients.into_iter().map(|client| client.join().expect("an answer")).collect()
    });
    assert_eq!(made.len(), 1, "one replay however often it is asked for: {made:?}");
    assert_eq!(replay(&one, "again").header("idempotency-replayed"), Some("true"));
    assert_eq!(client.read(made.iter().next().expect("one"))["replay_of"], one.as_str());
    replay(&other, "again").is_problem(422, "idempotency_mismatch");
    replay(&one, "a b").is_problem(400, "invalid_field");
    let many = |runs: Value, key: &str| {
        server.client().with("Idempotency-Key", key).post("/runs/batch", &json!({ "runs": runs })).is(200)
    };
    let both = json!([{"task": "later"}, {"task": "nobody"}, {"task": "later", "idempotency_key": "own"}]);
    let first = many(both.clone(), "import");
    let keys = |index: usize| first.json()["data"][index]["run"]["idempotency_key"].clone();
    assert_eq!((keys(0), keys(2)), (json!("import:0"), json!("own")), "by their place, or their own");
    assert_eq!((first.json()["accepted"].clone(), first.header("idempotency-replayed")), (json!(2), None));
    let again = many(both, "import");
    let ids = |answer: &Answer| [0, 2].map(|index| answer.json()["data"][index]["run"]["id"].clone());
    assert_eq!((ids(&again), again.header("idempotency-replayed")), (ids(&first), Some("true")));
    let changed = many(json!([{"task": "later", "priority": 1}]), "import").json();
    assert_eq!(changed["data"][0]["error"]["code"], "idempotency_mismatch", "{changed}");
    let long = "k".repeat(251);
    let refused = client_of(&server, &long).post("/runs/batch", &json!({"runs": [{"task": "later"}]}));
    refused.is_problem(400, "invalid_field");
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 5, "two, a replay, and two at once");
    server.stop();
}

fn client_of(server: &Server, key: &str) -> Client {
    server.client().with("Idempotency-Key", key)
}

#[test]
fn row_133_replays_and_many_runs_at_once_have_keys_on_sqlite() {
    keys_of_every_kind(Database::Sqlite);
}

#[test]
fn row_133_replays_and_many_runs_at_once_have_keys_on_postgres() {
    keys_of_every_kind(Database::Postgres);
}

/// Whatever takes no body by its own document says so to whoever sends fields, and does nothing.
#[test]
fn row_55_what_takes_no_fields_refuses_them() {
    let mut server = Server::on(Database::Sqlite).config(LATER).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "later"}));
    let document = server.command(&["openapi"]).output().expect("the binary runs").stdout;
    let document: Value = serde_json::from_slice(&document).expect("JSON");
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        if item["post"].is_null() || !item["post"]["requestBody"].is_null() {
            continue;
        }
        let path = path.replace("{id}", &run).replace("{queue}", "later");
        let refused = client.post(&path, &json!({"surprise": 1}));
        refused.is_problem(400, "unknown_field");
        assert_eq!(refused.json()["errors"][0]["pointer"], "/surprise", "{path}: {refused:?}");
        tried += 1;
    }
    assert!(tried >= 8, "only {tried} were found");
    assert_eq!(client.read(&run)["status"], "queued", "nothing was done");
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 1);
    for nothing in [json!({}), json!(null)] {
        client.post(&format!("/runs/{run}/cancel"), &nothing).is(200);
    }
    server.stop();
}

/// The same of parameters in the URL.
#[test]
fn row_120_what_takes_no_parameters_refuses_them() {
    let mut server = Server::on(Database::Sqlite).config(LATER).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "later"}));
    let document = server.command(&["openapi"]).output().expect("the binary runs").stdout;
    let document: Value = serde_json::from_slice(&document).expect("JSON");
    let is_query = |parameter: &Value| {
        let name = parameter["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let named = name.map_or(parameter, |name| &document["components"]["parameters"][name]);
        named["in"] == "query"
    };
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{id}", &run).replace("{queue}", "later");
        for (method, operation) in item.as_object().expect("operations") {
            if operation["parameters"].as_array().is_some_and(|parameters| parameters.iter().any(is_query)) {
                continue;
            }
            let method = method.to_uppercase();
            let refused = client.send(&method, &format!("{path}?surprise=1"), None).expect("an answer");
            refused.is_problem(400, "unknown_field");
            assert_eq!(refused.json()["errors"][0]["pointer"], "?surprise", "{method} {path}: {refused:?}");
            tried += 1;
        }
    }
    assert!(tried >= 20, "only {tried} were found");
    assert_eq!(client.read(&run)["status"], "queued", "nothing was done");
    client.get("/nothing?surprise=1").is_problem(404, "not_found");
    server.stop();
}

#[test]
fn row_103_a_run_is_moved_as_far_as_one_can_be_made() {
    let mut server = Server::on(Database::Sqlite).config(LATER).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "later", "delay_seconds": 60, "ttl_seconds": 3_600}));
    let path = format!("/runs/{run}");
    let expires_at = client.read(&run)["expires_at"].clone();
    for wrong in [json!("2001-01-01T00:00:00Z"), json!("9999-01-01T00:00:00Z"), expires_at] {
        let refused = client.patch(&path, &json!({"not_before": wrong}));
        refused.is_problem(400, "invalid_field");
        assert_eq!(refused.json()["errors"][0]["code"], "range", "{wrong}: {refused:?}");
    }
    assert_eq!(client.read(&run)["version"], 1, "nothing was done");
    let other = client.run(&json!({"task": "later", "delay_seconds": 60}));
    let far = client.run(&json!({"task": "later", "delay_seconds": 15_000_000}));
    let longest = client.read(&far)["not_before"].clone();
    client.patch(&format!("/runs/{other}"), &json!({"not_before": longest})).is(200);
    server.stop();
}

#[test]
fn row_139_a_change_of_what_has_changed_is_refused() {
    let mut server = Server::on(Database::Sqlite).config(LATER).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "later"}));
    let path = format!("/runs/{run}");
    let tag = |client: &mut Client| client.get(&path).is(200).header("etag").expect("an ETag").to_owned();
    let stale = tag(&mut client);
    let patch = |tag: &str, tags: &str| client_with(&server, tag).patch(&path, &json!({"tags": [tags]}));
    patch(&stale, "first").is(200);
    let fresh = tag(&mut client);
    assert_ne!(fresh, stale);
    for wrong in [stale.as_str(), "nonsense", "\"\"", "\"1\"", "\"999-999-queued\"", ""] {
        patch(wrong, "second").is_problem(412, "precondition_failed");
    }
    assert_eq!(client.read(&run)["tags"], json!(["first"]));
    patch(&fresh, "third").is(200);
    patch("*", "fourth").is(200);
    assert_eq!(client.read(&run)["tags"], json!(["fourth"]));
    server.stop();
}

fn client_with(server: &Server, tag: &str) -> Client {
    server.client().with("If-Match", tag)
}
