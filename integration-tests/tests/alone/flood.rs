//! Many times more than the store takes, from 256 connections: every run is either acknowledged and stored, or
//! refused by a clean 429; the server's memory stays flat.

use harness::{Client, Database, Server};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 256;
const GROWTH_MAX_KIB: u64 = 64 * 1024;
/// The framework alone keeps up to 160 KiB for each connection that sends a large body.
const LARGEST_GROWTH_MAX_KIB: u64 = GROWTH_MAX_KIB + CONNECTIONS as u64 * 160;
/// So many times what the store takes is sent at least.
const TIMES: usize = 10;
const ENV: &str = "flood/dev";

fn lasts() -> Duration {
    Duration::from_secs(if std::env::var_os("TIDEGATE_SOAK").is_some() { 60 } else { 4 })
}

#[expect(clippy::disallowed_methods, reason = "spans how long the flood lasts")]
fn now() -> Instant {
    Instant::now()
}

/// Runs that nobody takes: they wait, up to the env's quota.
fn runs(count: usize) -> String {
    let run = json!({"task": "later", "payload": {"text": "x".repeat(200)}});
    json!({"runs": vec![run; count]}).to_string()
}

/// Single runs per second that the store takes from 64 connections.
fn taken_per_second(server: &Server) -> usize {
    let (taken, span) = (AtomicUsize::new(0), Duration::from_millis(1_500));
    let body = json!({"task": "noop", "payload": {"text": "x".repeat(200)}});
    let began = now();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = server.client().in_env("warm/dev");
                while now().duration_since(began) < span {
                    client.run(&body);
                    taken.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    taken.into_inner() * 1_000 / 1_500
}

#[derive(Default)]
struct Sums {
    sent: AtomicUsize,
    accepted: AtomicUsize,
    rejected: AtomicUsize,
    refusals: AtomicUsize,
}

/// One connection of the flood: requests of one run and of many, in turn.
fn flood(mut client: Client, number: usize, many: &str, many_count: usize, over: &AtomicBool, sums: &Sums) {
    let one = json!({"task": "later"}).to_string();
    for turn in number.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let (path, body, count) =
            if turn % 4 == 0 { ("/runs", one.as_str(), 1) } else { ("/runs/batch", many, many_count) };
        let answer = client.send("POST", path, Some(body)).expect("every request is answered");
        sums.sent.fetch_add(count, Ordering::SeqCst);
        match answer.status {
            200 => {
                let accepted = answer.json()["accepted"].as_u64().and_then(|count| usize::try_from(count).ok());
                assert_eq!(accepted, Some(count), "a request is taken in whole or not at all");
                sums.accepted.fetch_add(count, Ordering::SeqCst);
            }
            201 | 202 => {
                sums.accepted.fetch_add(1, Ordering::SeqCst);
            }
            _ => {
                let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
                assert!(matches!(code.as_str(), "quota_exceeded" | "overloaded"), "{answer:?}");
                answer.is_problem(429, &code);
                sums.rejected.fetch_add(count, Ordering::SeqCst);
                sums.refusals.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn flooded(database: Database) {
    let _machine = crate::machine();
    // Not the short lease of tests that wait for one to end: a disk that is busy for a second is no failure here.
    let server = Server::on(database).config("[tasks.later]\nkind = \"pull\"\n").set("nodes.lease_seconds", 15);
    let mut server = server.start();
    let rate = taken_per_second(&server);
    server.all_ended(&["warm/dev"]);
    server.stop();
    // Room for as many runs as the store takes one by one while the flood lasts; the others are too many.
    let room = rate * usize::try_from(lasts().as_secs()).expect("a few seconds");
    server.change("TIDEGATE_LIMITS__MAX_WAITING", room);
    server.again();
    taken_per_second(&server);
    server.all_ended(&["warm/dev"]);
    let before = server.memory_kib();
    let (over, peak, sums) = (AtomicBool::new(false), AtomicU64::new(0), Sums::default());
    let many = runs(100);
    let began = now();
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let client = server.client().in_env(ENV);
            let (many, over, sums) = (&many, &over, &sums);
            scope.spawn(move || flood(client, number, many, 100, over, sums));
        }
        while now().duration_since(began) < lasts() || sums.sent.load(Ordering::SeqCst) < TIMES * room {
            peak.fetch_max(server.memory_kib(), Ordering::SeqCst);
            std::thread::yield_now();
            if now().duration_since(began) > 10 * lasts() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    let took = now().duration_since(began);
    let [sent, accepted, rejected, refusals] =
        [sums.sent, sums.accepted, sums.rejected, sums.refusals].map(AtomicUsize::into_inner);
    let growth = peak.into_inner().saturating_sub(before);
    let counted = server.metric("tidegate_runs_rejected_total", &[]);
    server.stop();
    let stored = server.number(&format!("SELECT COUNT(*) FROM run_records WHERE env = '{ENV}'"));
    let waiting = server.number("SELECT (SELECT COUNT(*) FROM ready) + (SELECT COUNT(*) FROM buffer)");
    println!(
        "flood on {database:?}: the store takes {rate} runs/s one by one; in {took:.1?} {sent} were sent, {accepted} accepted (room for {room}), {rejected} rejected in {refusals} answers; memory {before} KiB, grew by {growth} KiB"
    );
    assert_eq!(accepted + rejected, sent);
    assert_eq!((stored, waiting), (accepted as i64, accepted as i64), "what was acknowledged is there");
    assert!(sent >= TIMES * room, "{sent} runs are no flood where {room} fit");
    assert!(accepted >= room * 9 / 10, "there was room for {room} runs");
    assert_eq!(counted, rejected as f64, "rejected runs are counted");
    assert!(growth <= GROWTH_MAX_KIB, "memory grew by {growth} KiB");
}

#[test]
fn serve_flooded_with_ten_times_what_the_store_takes_refuses_cleanly_on_sqlite() {
    flooded(Database::Sqlite);
}

#[test]
fn serve_flooded_with_ten_times_what_the_store_takes_refuses_cleanly_on_postgres() {
    flooded(Database::Postgres);
}

/// The largest requests that are allowed, all at once and with no quota in the way.
fn largest_at_once(database: Database) {
    let _machine = crate::machine();
    let mut server = Server::on(database).config("[tasks.later]\nkind = \"pull\"\n").start();
    taken_per_second(&server);
    server.all_ended(&["warm/dev"]);
    let run = json!({"task": "later", "payload": {"text": "x".repeat(950)}});
    let body: Value = json!({"runs": vec![run; 1_000]});
    let body = body.to_string();
    assert!(body.len() < 1_048_576 && body.len() > 950_000, "{}", body.len());
    let before = server.memory_kib();
    let (over, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let (accepted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                peak.fetch_max(server.memory_kib(), Ordering::SeqCst);
                std::thread::yield_now();
            }
        });
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = server.client().in_env(ENV);
                    let answer = client.send("POST", "/runs/batch", Some(&body)).expect("an answer");
                    if answer.status == 200 {
                        accepted.fetch_add(1_000, Ordering::SeqCst);
                    } else {
                        answer.is_problem(429, "overloaded");
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().expect("it is answered"));
        over.store(true, Ordering::SeqCst);
        watcher.join().expect("it watched");
    });
    let growth = peak.into_inner().saturating_sub(before);
    server.stop();
    let stored = server.number(&format!("SELECT COUNT(*) FROM run_records WHERE env = '{ENV}'"));
    println!(
        "{CONNECTIONS} requests of {} bytes at once on {database:?}: {accepted:?} runs accepted, {refused:?} requests refused; memory {before} KiB, grew by {growth} KiB",
        body.len()
    );
    assert_eq!(stored, accepted.into_inner() as i64);
    assert!(growth <= LARGEST_GROWTH_MAX_KIB, "memory grew by {growth} KiB");
}

#[test]
fn serve_asked_for_the_most_by_all_at_once_keeps_its_memory_on_sqlite() {
    largest_at_once(Database::Sqlite);
}
