//! How a command ends when it does not succeed: by its own code, with what, why and what to do.

use super::Server;
use harness::Database;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const UNKNOWN: &str = "run_00000000000000000000000000";

#[test]
fn every_kind_of_failure_has_its_exit_code() {
    let server = Server::start(Database::Sqlite);
    server.create(&["noop", "--idempotency-key", "k"]);
    let cases: [(&[&str], i32, &str); 11] = [
        (&["runs", "get", UNKNOWN], 3, "error: there is no such run"),
        (&["runs", "wait", UNKNOWN], 3, UNKNOWN),
        (&["runs", "watch", "not-an-id"], 3, "hint: "),
        (&["runs", "logs", "../workers"], 2, "error: "),
        (&["runs", "create", "nothing"], 2, "known are"),
        (&["runs", "create", "noop", "--payload", "{"], 2, "--payload is not JSON"),
        (&["runs", "create", "noop", "--max-attempts", "0"], 2, "max_attempts"),
        (&["runs", "create", "noop", "--idempotency-key", "k", "--priority", "1"], 5, "idempotency_mismatch"),
        (&["runs", "list", "--after", "nonsense"], 2, "invalid_cursor"),
        (&["runs", "list", "--env", "Not An Env"], 2, "--env"),
        (&["workers", "run", "--task", "noop", "--", "/bin/true"], 2, "no task of the kind pull"),
    ];
    for (args, code, words) in cases {
        let ended = server.run(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(words) && ended.stdout.is_empty(), "{args:?}: {ended:?}");
    }
}

#[test]
fn a_refusal_names_the_request_and_is_an_object_for_programs() {
    let server = Server::start(Database::Sqlite);
    let ended = server.run(&["runs", "get", UNKNOWN, "-o", "json"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
    let problem = ended.stderr.lines().last().expect("a line");
    let problem: serde_json::Value = serde_json::from_str(problem).expect("the problem");
    assert_eq!((&problem["status"], &problem["code"]), (&404.into(), &"not_found".into()));
    let id = problem["request_id"].as_str().expect("a request id");
    assert!(ended.stderr.contains(&format!("request id: {id}\n")), "{ended:?}");
}

#[test]
fn a_server_that_is_not_there_is_told_after_three_tries() {
    let server = Server::not_started(Database::Sqlite);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    drop(listener);
    let ended = server.run(&["runs", "list", "--server", &url]);
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.stderr.contains(&url) && ended.stderr.contains("tidegate serve"), "{ended:?}");
    let answered = Arc::new(AtomicUsize::new(0));
    let url = answering(answered.clone(), "503 Service Unavailable");
    let ended = server.run(&["runs", "list", "--server", &url]);
    assert_eq!((ended.code, answered.load(Ordering::SeqCst)), (Some(6), 3), "{ended:?}");
    let ended = server.run(&["actors", "kill", "drainer", "--server", &url]);
    assert_eq!((ended.code, answered.load(Ordering::SeqCst)), (Some(6), 4), "what may act is sent once: {ended:?}");
    assert_eq!(server.run(&["runs", "list", "--server", "localhost:1"]).code, Some(2));
}

/// A server that gives every request the same answer.
fn answering(answered: Arc<AtomicUsize>, status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            request(&mut client);
            answered.fetch_add(1, Ordering::SeqCst);
            let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    url
}

/// One request, whole.
fn request(client: &mut TcpStream) -> Vec<u8> {
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        if let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if bytes.len() >= head + 4 + length {
                return bytes;
            }
        }
        match client.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return bytes,
        }
    }
}

#[test]
fn a_server_that_does_not_answer_is_a_timeout() {
    let server = Server::not_started(Database::Sqlite);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let ended = server.run(&["runs", "list", "--server", &url, "--request-timeout", "300ms"]);
    assert_eq!(ended.code, Some(7), "{ended:?}");
    let ended = server.run(&["runs", "create", "noop", "--server", &url, "--request-timeout", "300ms"]);
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.stderr.contains("--idempotency-key cli-"), "it says how to go on: {ended:?}");
}

#[test]
fn a_create_or_a_replay_whose_answer_was_lost_makes_one_run() {
    let mut server = Server::start(Database::Sqlite);
    let address = server.url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let direct = std::mem::replace(&mut server.url, format!("http://{}", listener.local_addr().expect("it is bound")));
    std::thread::spawn(move || {
        for (index, mut client) in listener.incoming().flatten().enumerate() {
            let sent = request(&mut client);
            let mut behind = TcpStream::connect(&address).expect("the server");
            behind.write_all(&sent).expect("it reads");
            let mut answer = vec![0; 64 * 1024];
            let count = behind.read(&mut answer).expect("an answer");
            assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&answer[..count]));
            // The first two answers to each are lost.
            if index % 3 == 2 {
                let _ = client.write_all(&answer[..count]);
            }
        }
    });
    let created = server.run(&["runs", "create", "noop"]);
    assert_eq!(created.code, Some(0), "{created:?}");
    let replayed = server.run(&["runs", "replay", &created.stdout[..30]]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    server.url = direct;
    assert_eq!(server.run(&["runs", "list", "--all"]).stdout.lines().count(), 2);
}
