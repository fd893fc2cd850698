//! SIGKILL of the server: at random instants while runs come in and are carried out, half of the time in a
//! burst that buffers, and at every named place. Every acknowledged run reaches exactly one terminal state, none
//! is lost, and a key makes one run however often its request is sent (invariants 1, 6, 7 and 40).

use harness::{Client, Database, HOOKED, Hook, Load, Mix, Server, WITNESSED, Witness, eventually};
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use storage::failpoint::{Failpoint, PassedBy};

const TASKS: &str = "[tasks.pulled]\nkind = \"pull\"\n";

fn kills_wanted() -> usize {
    if std::env::var_os("TIDEGATE_SOAK").is_some() { 2_000 } else { 200 }
}

fn seed() -> u64 {
    std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}

/// A pull worker that outlives the server: what it has to report it reports until somebody answers. First tries
/// fail if they are to.
fn pull(mut client: Client, first_fails: bool, stop: &AtomicBool, leases: &AtomicUsize) {
    let ask = json!({"tasks": ["pulled"], "worker": "w", "max_items": 20, "wait_seconds": 0.2, "lease_seconds": 2});
    while !stop.load(Ordering::SeqCst) {
        let Ok(answer) = client.send("POST", "/workers/lease", Some(&ask.to_string())) else {
            eventually("there is a server", || client.is_answered() || stop.load(Ordering::SeqCst));
            continue;
        };
        if answer.status != 200 {
            continue;
        }
        for item in answer.json()["data"].as_array().into_iter().flatten() {
            leases.fetch_add(1, Ordering::SeqCst);
            let mut report = json!({"run_id": item["run_id"], "lease_token": item["lease_token"]});
            let path = if first_fails && item["attempt"] == 1 { "/workers/fail" } else { "/workers/complete" };
            if path == "/workers/fail" {
                report["retry_after_seconds"] = json!(0);
            }
            eventually("an end is reported", || {
                let answer = client.send("POST", path, Some(&report.to_string()));
                // 409: it was reported before the kill, or the lease has lapsed meanwhile.
                answer.is_ok_and(|answer| matches!(answer.status, 200 | 409)) || stop.load(Ordering::SeqCst)
            });
        }
    }
}

/// Ends those who look at it when the test ends, however it does.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits for a random span, as a kill at a random instant asks for.
fn let_pass(span: Duration) {
    let (_held, never) = channel::<()>();
    let _ = never.recv_timeout(span);
}

fn killed_at_random(database: Database) {
    let seed = seed();
    println!("random kills of the server on {database:?}: TIDEGATE_SEED={seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let (witness, hook) = (Witness::new(), Hook::start());
    let tasks = format!("{TASKS}{}{}", witness.task(0.02), hook.task());
    let mut server = Server::on(database).config(&tasks).set("supervisor.sweep_seconds", 0.2).start();
    let mut mix = Mix::of("noop", seed);
    mix.tasks = ["noop", "noop", "noop", "noop", "pulled", WITNESSED, HOOKED].map(str::to_owned).to_vec();
    let load = Load::start(&server.door(), &mix);
    let (stop, leases) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut in_bursts = 0;
    let tally = std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for env in &mix.envs {
            let client = server.client().in_env(env);
            scope.spawn(|| pull(client, false, &stop, &leases));
        }
        for round in 0..kills_wanted() {
            load.has_more(1);
            let_pass(Duration::from_millis(rng.random_range(0..250)));
            server.kill9();
            in_bursts += round % 2;
            // Each lives for a fraction of a second: the next one is in a burst from its first run, or never.
            if round % 2 == 0 {
                server.change("TIDEGATE_BUFFER__ABOVE_PER_SECOND", 0.1);
            } else {
                server.unset("TIDEGATE_BUFFER__ABOVE_PER_SECOND");
            }
            server.again();
        }
        let tally = load.stop();
        server.all_ended(&mix.envs);
        tally
    });
    server.stop();
    let ends = tally.verify(&server);
    let ((starts, lost), deliveries) = (witness.verify(&server), hook.verify(&server));
    let attempts = server.rows("SELECT state, COUNT(*) FROM attempts GROUP BY state");
    println!(
        "random kills of the server on {database:?}: {} kills, {in_bursts} of them in a burst that buffers; {} runs acknowledged, {} of them as buffered, {} by a key, {} unanswered, {} sent again by key; {} leases of pull workers; {starts} programs started, {lost} of their leases lost; {deliveries} webhooks delivered; refused {:?}; ends {ends:?}; other tries {attempts:?}",
        server.starts - 1,
        tally.acked.len(),
        tally.buffered,
        tally.keys.len(),
        tally.unanswered,
        tally.retried,
        leases.into_inner(),
        tally.refused,
    );
    assert!(tally.acked.len() > 10 * kills_wanted(), "hardly anything was under way");
    assert!(tally.buffered > kills_wanted(), "hardly anything went through the buffer: {} runs", tally.buffered);
    assert!(starts > kills_wanted() && lost > 0, "no program was under way when the server died: {starts}, {lost}");
    assert!(deliveries > kills_wanted(), "hardly any webhook was delivered: {deliveries}");
    assert_eq!(server.starts, kills_wanted() + 1);
}

#[test]
fn serve_killed_at_random_instants_every_acknowledged_run_ends_once_on_sqlite() {
    killed_at_random(Database::Sqlite);
}

#[test]
fn serve_killed_at_random_instants_every_acknowledged_run_ends_once_on_postgres() {
    killed_at_random(Database::Postgres);
}

/// Whether there is such a place on this database: what is one statement there has no inside.
fn exists(point: Failpoint, database: Database) -> bool {
    !(database == Database::Postgres && point == Failpoint::MaterialiseOpen)
}

/// Dies at a place while everything is under way that passes one: runs that are buffered and runs that are not,
/// with and without a key, carried out by workers and by pull workers that report a failure first.
fn killed_at(database: Database, point: Failpoint) {
    // A cap, so that claims are transactions of their own; a low rate, so that some are buffered.
    let mut server = Server::on(database)
        .config(TASKS)
        .set("limits.max_running", 8)
        .set("buffer.above_per_second", 3)
        .set("supervisor.sweep_seconds", 0.2)
        .env("TIDEGATE_FAILPOINT", point.name())
        .start();
    let mut mix = Mix::of("noop", 1);
    mix.tasks = ["noop", "pulled"].map(str::to_owned).to_vec();
    let load = Load::start(&server.door(), &mix);
    let (stop, leases) = (AtomicBool::new(false), AtomicUsize::new(0));
    let tally = std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for env in &mix.envs {
            let client = server.client().in_env(env);
            scope.spawn(|| pull(client, true, &stop, &leases));
        }
        let ended = server.ends();
        assert!(ended.was_killed(), "{}: {ended:?}", point.name());
        server.unset("TIDEGATE_FAILPOINT");
        server.again();
        load.has_more(50);
        let tally = load.stop();
        server.all_ended(&mix.envs);
        tally
    });
    server.stop();
    let ends = tally.verify(&server);
    println!(
        "killed at {} on {database:?}: {} acknowledged, {} unanswered, {} sent again by key; ends {ends:?}",
        point.name(),
        tally.acked.len(),
        tally.unanswered,
        tally.retried,
    );
}

fn killed_at_every_place(database: Database) {
    let of_the_server = Failpoint::ALL.iter().filter(|point| point.passed_by() == PassedBy::Serve);
    let places: Vec<Failpoint> = of_the_server.filter(|point| exists(**point, database)).copied().collect();
    assert!(places.len() >= 7, "{places:?}");
    for point in places {
        killed_at(database, point);
    }
}

#[test]
fn serve_killed_at_every_place_every_acknowledged_run_ends_once_on_sqlite() {
    killed_at_every_place(Database::Sqlite);
}

#[test]
fn serve_killed_at_every_place_every_acknowledged_run_ends_once_on_postgres() {
    killed_at_every_place(Database::Postgres);
}
