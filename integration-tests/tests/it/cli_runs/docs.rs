//! The API's documents, held against a live server; and the server to try things on.

use super::Server;
use harness::{Database, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

/// The status of one request, and its answer as far as it comes at once.
fn ask(server: &Server, method: &str, path: &str, body: &str) -> (u16, String) {
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("the server");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("it reads");
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    // A stream of events does not end: its head is enough.
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&answer);
        if text.split_once("\r\n\r\n").is_some_and(|(head, _)| head.contains("text/event-stream")) {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{method} {path}: {text}")), text)
}

#[test]
fn every_documented_operation_is_there() {
    let server = Server::start(Database::Sqlite);
    let printed = server.run(&["openapi", "-o", "json"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let (status, served) = ask(&server, "GET", "/api/openapi.json", "");
    assert_eq!(status, 200);
    let document = printed.summary();
    let body = served.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let served: Value = serde_json::from_str(body).expect("a document");
    assert_eq!(served, document, "the server serves what the command prints");
    let run = server.create(&["noop"]);
    let (_, nodes) = ask(&server, "GET", "/api/v1/nodes", "");
    let (_, node) = nodes.split_once("\"id\":\"").expect("a node");
    let (node, _) = node.split_once('"').expect("its id");
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let id = if path.starts_with("/nodes/") { node } else { &run };
        let filled = path.replace("{id}", id).replace("{queue}", "noop").replace("{kind}", "sessions");
        for (method, operation) in operations.as_object().expect("operations") {
            let body = if operation["requestBody"].is_object() { "{}" } else { "" };
            let (status, answer) = ask(&server, &method.to_uppercase(), &format!("/api/v1{filled}"), body);
            // A run is no job, no batch and no session, and the answer is about that.
            let nothings = ["job", "batch", "session"].map(|what| format!("there is no such {what}\""));
            let is_there = status != 404 || nothings.iter().any(|nothing| answer.contains(nothing));
            assert!(is_there && status != 405, "{method} {path}: {answer}");
            assert!(operation["responses"][status.to_string()].is_object(), "{method} {path}: {answer}");
            asked += 1;
        }
    }
    assert!(asked >= 25, "{asked}");
    let (status, _) = ask(&server, "GET", "/api/v1/nothing", "");
    assert_eq!(status, 404);
}

#[test]
fn the_docs_are_pages_that_run_nothing_and_every_problem_leads_to_one() {
    let server = Server::start(Database::Sqlite);
    let (status, page) = ask(&server, "GET", "/api/docs", "");
    assert_eq!(status, 200);
    let head = page.to_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none'; style-src 'sha256-"), "{head}");
    assert!(page.contains("</html>") && !page.contains("<script"), "{page}");
    for line in ["def carry_out(payload, write, given_up):", "call lease &gt;"] {
        assert!(page.contains(line), "{line}");
    }
    let (_, refusal) = ask(&server, "GET", "/api/v1/runs?limit=0", "");
    let problem: Value =
        refusal.split("\r\n\r\n").nth(1).and_then(|body| serde_json::from_str(body).ok()).expect("JSON");
    let (status, page) = ask(&server, "GET", problem["type"].as_str().expect("a type"), "");
    assert_eq!(status, 200);
    assert!(page.contains(problem["code"].as_str().expect("a code")), "{page}");
    assert_eq!(ask(&server, "GET", "/api/docs/errors/nothing", "").0, 404);
}

#[test]
fn a_server_to_try_things_on_needs_nothing_and_its_banner_works() {
    let mut server = Server::not_started(Database::Sqlite);
    std::fs::remove_file(server.dir.path().join("tidegate.toml")).expect("the configuration");
    let mut command = server.bare();
    command.env("TMPDIR", server.dir.path());
    command.args(["dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut banner = Vec::new();
    for line in lines.map_while(Result::ok) {
        banner.push(line);
        if banner.last().is_some_and(|line| line.starts_with("or: ")) {
            break;
        }
    }
    let value = |name: &str| {
        let line = banner.iter().find_map(|line| line.trim().strip_prefix(&format!("export {name}=")));
        line.unwrap_or_else(|| panic!("{name} in {banner:?}")).to_owned()
    };
    (server.url, server.key) = (value("TIDEGATE_SERVER"), Some(value("TIDEGATE_API_KEY")));
    for line in banner.iter().map(|line| line.trim()).filter(|line| line.starts_with("curl ")) {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &format!("exec {line} -sS --fail")]).env("TIDEGATE_API_KEY", value("TIDEGATE_API_KEY"));
        let answer = shell.output().expect("curl runs");
        assert!(answer.status.success() && answer.stdout.starts_with(b"{"), "{line}: {answer:?}");
    }
    assert_eq!(server.run(&["runs", "create", "noop", "--wait"]).code, Some(0));
    super::server::signal(&child, "TERM");
    eventually("it stops", || child.try_wait().expect("a child").is_some());
    let left: Vec<_> = std::fs::read_dir(server.dir.path()).expect("the folder").flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("tidegate-dev")), "{left:?}");
}
