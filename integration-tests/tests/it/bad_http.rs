//! Bad requests over raw connections (catalogue rows 1–140): each is refused as it should be, by a problem and
//! not by a parser's words, the same way twice, and a good request follows.

mod alone;
mod driver;
mod rows;
mod tiny;
mod wire;

use harness::{Database, Server, eventually};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) use alone::open_many_files;
use driver::{Place, findings};
use tiny::Tiny;

#[track_caller]
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_bad_request_is_refused_by_what_the_server_stands_on() {
    let tiny = Tiny::start();
    let place = Place {
        address: tiny.address,
        key: Some(tiny.key.clone()),
        body_bytes_max: tiny::BODY_BYTES_MAX,
        patience: Duration::from_secs(20),
        drip_every: Duration::from_millis(50),
    };
    none(findings(&place, &rows::all()));
}

/// Tasks whose names are as short and as long as a name may be.
fn long_names() -> String {
    let names = ["n".to_owned(), "n".repeat(128)];
    names.map(|name| format!("[tasks.{name}]\nkind = \"noop\"\n")).concat()
}

#[test]
fn every_bad_request_is_refused_by_the_server() {
    const BODY_BYTES_MAX: usize = 300_000;
    let mut server = Server::on(Database::Sqlite)
        .set("server.body_limit_bytes", BODY_BYTES_MAX)
        .arg("--auth=keys")
        .config(&long_names());
    let create = ["keys", "create", "--env", "acme/prod", "--scope", "runs:read,runs:write", "-o", "json"];
    let made = server.command(&create).output().expect("the binary runs");
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("a key");
    server.again();
    let place = Place {
        address: server.door().addr().expect("an address"),
        key: made["key"].as_str().map(str::to_owned),
        body_bytes_max: BODY_BYTES_MAX,
        patience: Duration::from_secs(90),
        drip_every: Duration::from_secs(1),
    };
    assert!(place.key.is_some(), "{made}");
    none(findings(&place, &rows::all()));
}

fn connect_to(server: &Server) -> TcpStream {
    server.door().connect().expect("a connection")
}

fn connect(tiny: &Tiny) -> TcpStream {
    TcpStream::connect(tiny.address).expect("a connection")
}

#[test]
fn row_42_a_client_that_stops_reading_is_let_go() {
    let tiny = Tiny::start();
    let mut client = connect(&tiny);
    client.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    client.read_exact(&mut [0; 1_000]).expect("the beginning of the answer");
    eventually("the connection is closed", || tiny.connections() == 0);
}

#[test]
fn row_39_a_later_head_that_comes_byte_by_byte_is_let_go() {
    let tiny = Tiny::start();
    let mut client = connect(&tiny);
    client.write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    client.read_exact(&mut [0; 100]).expect("an answer");
    client.write_all(b"GET /no").expect("sent");
    eventually("the connection is closed", || {
        let _ = client.write_all(b"w");
        tiny.connections() == 0
    });
}
