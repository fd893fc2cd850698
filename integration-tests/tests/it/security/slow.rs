//! S19: thousands who send slowly or nothing do not slow down the others.

use crate::bad_http::open_many_files;
use harness::{Client, Database, Server};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

const SLOW_HEADS: usize = 2_000;
const SLOW_BODIES: usize = 2_000;
const SAMPLES: usize = 600;
/// Below this a tail is the scheduler's, not the server's.
const NOISE: Duration = Duration::from_millis(10);

/// How long they stay: until they are let go, and then again.
fn lasts() -> Duration {
    Duration::from_secs(if std::env::var_os("TIDEGATE_SOAK").is_some() { 60 } else { 12 })
}

#[expect(clippy::disallowed_methods, reason = "spans how long answers take")]
fn now() -> Instant {
    Instant::now()
}

/// The 99th percentile of so many answers.
fn p99(client: &mut Client) -> Duration {
    let mut spans: Vec<Duration> = (0..SAMPLES)
        .map(|_| {
            let began = now();
            client.get("/tasks").is(200);
            now().duration_since(began)
        })
        .collect();
    spans.sort_unstable();
    spans[SAMPLES * 99 / 100]
}

/// From an address of their own, so that no bound of one address lets the others off.
async fn slow(server: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, 1 + (number % 8) as u8), 0)))?;
    let mut stream = socket.connect(server).await?;
    let begin: &[u8] = if number < SLOW_HEADS {
        b"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    } else {
        b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"
    };
    stream.write_all(begin).await?;
    Ok(stream)
}

/// Whether nobody has closed or answered it.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn s19_thousands_of_slow_clients_do_not_slow_down_the_others() {
    open_many_files();
    let mut server = Server::on(Database::Sqlite).start();
    let mut client = server.client();
    p99(&mut client);
    let before = (0..5).map(|_| p99(&mut client)).min().expect("some");
    let address = server.door().addr().expect("an address");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let began = now();
    let (mut opened, mut rounds) = (0, Vec::new());
    while now().duration_since(began) < lasts() {
        let streams = runtime.block_on(async {
            let mut streams = Vec::new();
            for number in 0..SLOW_HEADS + SLOW_BODIES {
                streams.push(slow(address, number).await.expect("a connection"));
            }
            streams
        });
        opened += streams.len();
        for _ in 0..3 {
            rounds.push(p99(&mut client));
            // One more byte of each, as slow clients do.
            for stream in &streams {
                let _ = stream.try_write(b"x");
            }
        }
        let held = streams.iter().filter(|stream| is_open(stream)).count();
        assert!(held > (SLOW_HEADS + SLOW_BODIES) / 2, "only {held} were there while it was measured");
        drop(streams);
    }
    rounds.sort_unstable();
    let during = rounds[rounds.len() / 2];
    println!("p99 is {before:.1?} alone, {during:.1?} beside {opened} slow clients, in rounds {rounds:.1?}");
    assert!(during <= 2 * before + NOISE, "p99 went from {before:?} to {during:?}");
    // A slow one is let go in the end, by an answer or without a word.
    let mut late = server.door().connect().expect("a connection");
    late.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").expect("sent");
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut late, &mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    server.stop();
}
