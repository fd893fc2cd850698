//! Fairness and caps of the running server: one env's flood does not hold up another's runs (invariant 39), orgs
//! and envs get equal shares, and caps are exact (invariant 8), all by the runs' own stamps.

use harness::{Client, Database, HOOKED, Hook, Server, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// A wait between two stamps in whole milliseconds is off by less than one: the one beside the flood may be told too long,
/// and the one alone too short, which counts twice, so less than three in all.
const ROUNDING_MS: i64 = 2;
/// What a flood that keeps every core of the machine busy, with the database and its own sender, may cost the few beyond
/// that: each of the five threads and processes on a run's way may wait for a core until somebody's slice ends.
const BUSY_MS: i64 = 25;
/// What is sent at once.
const BURST: usize = 50_000;
/// Few enough that the flood's runs wait for them and not for the machine.
const SLOTS: usize = 8;
/// A neighbour on the machine can spoil a measurement; then it is made again.
const TRIES: usize = 4;

fn flood_runs() -> usize {
    if std::env::var_os("TIDEGATE_SOAK").is_some() { 50_000 } else { 20_000 }
}

fn noops(count: usize) -> Value {
    page("noop", count)
}

fn page(task: &str, count: usize) -> Value {
    json!({"runs": vec![json!({"task": task}); count]})
}

/// Waits of an env's runs in milliseconds, from accepted to a later stamp, in order.
fn waits(server: &Server, env: &str, until: &str) -> Vec<i64> {
    let query = format!("SELECT {until} - accepted_at FROM run_records WHERE env = '{env}' AND state = 'succeeded'");
    let rows = server.rows(&query);
    let mut waits: Vec<i64> =
        rows.iter().map(|row| row[0].as_deref().unwrap_or("0").parse().expect("a span")).collect();
    waits.sort_unstable();
    waits
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1).min(sorted.len() - 1)]
}

/// One run every 100 ms; nobody is waited for but the clock.
fn trickle(client: &mut Client, count: usize) {
    let (_held, never) = channel::<()>();
    for _ in 0..count {
        client.run(&json!({"task": "noop"}));
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
}

/// Waits of the light env alone and beside the flood, in milliseconds.
#[derive(Debug)]
struct Waits {
    alone_p50: i64,
    alone_p99: i64,
    beside_p50: i64,
    beside_p99: i64,
    /// Until their ends are written, which is a commit more.
    ends_alone_p99: i64,
    ends_beside_p99: i64,
}

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flood {
    /// Runs that take a while, so that they wait for workers.
    Slow,
    /// Runs that take nothing, once and as fast as they are taken in.
    Burst,
    /// Runs that take nothing, on and on, so that they wait for the machine: each core is busy all the time.
    Empty,
}

impl Flood {
    /// With a hundred the longest wait of all is not the percentile; the flood is as much longer.
    fn samples(self) -> usize {
        if self != Flood::Empty || std::env::var_os("TIDEGATE_SOAK").is_some() { 100 } else { 30 }
    }

    fn task(self) -> &'static str {
        match self {
            Flood::Slow => HOOKED,
            Flood::Burst | Flood::Empty => "noop",
        }
    }

    fn goes_on(self, stop: bool, sent: usize) -> bool {
        match self {
            Flood::Slow => sent < flood_runs(),
            Flood::Burst => sent < BURST,
            Flood::Empty => !stop,
        }
    }

    /// Slow runs are left where they are when the light env has its own.
    fn ends(self, server: &Server) {
        match self {
            Flood::Slow => {
                let left = "SELECT COUNT(*) FROM run_records WHERE state = 'open' AND env LIKE 'light/%'";
                eventually("the light env's runs end", || server.number(left) == 0);
                let flooding = "SELECT COUNT(*) FROM run_records WHERE state = 'open' AND env = 'flood/dev'";
                assert!(server.number(flooding) > 0, "the flood ended before the measurement");
            }
            Flood::Burst | Flood::Empty => server.all_ended(&["light/alone", "light/beside", "flood/dev"]),
        }
    }

    /// The light env hardly notices the flood.
    fn is_fair(self, waits: &Waits) -> bool {
        let more = match self {
            Flood::Slow | Flood::Burst => ROUNDING_MS,
            Flood::Empty => BUSY_MS,
        };
        waits.beside_p50 <= 2 * waits.alone_p50 + ROUNDING_MS
            && waits.beside_p99 <= 2 * waits.alone_p99 + more
            && waits.ends_beside_p99 <= 2 * waits.ends_alone_p99 + 2 * more
    }
}

fn flooded(database: Database, flood: Flood) -> Waits {
    let (hook, samples) = (Hook::start(), flood.samples());
    // Not the short lease of tests that wait for one to end: a disk that is busy for a second is no failure here.
    let server = Server::on(database).config(&hook.task()).set("nodes.lease_seconds", 15);
    let mut server = server.set("workers.slots", SLOTS).start();
    // Connections and statements are made for the first ones.
    trickle(&mut server.client().in_env("light/first"), 5);
    let mut alone = server.client().in_env("light/alone");
    trickle(&mut alone, samples);
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let mut sender = server.client().in_env("flood/dev");
        let (stop, sent) = (&stop, &sent);
        scope.spawn(move || {
            let page = page(flood.task(), 1_000);
            while flood.goes_on(stop.load(Ordering::SeqCst), sent.load(Ordering::SeqCst)) {
                let answer = sender.post("/runs/batch", &page);
                if answer.status == 200 {
                    sent.fetch_add(1_000, Ordering::SeqCst);
                } else {
                    answer.is_problem(429, "quota_exceeded");
                }
            }
        });
        let risen = if flood == Flood::Burst { 1_000 } else { 5_000 };
        eventually("the flood rises", || sent.load(Ordering::SeqCst) >= risen);
        trickle(&mut server.client().in_env("light/beside"), samples);
        stop.store(true, Ordering::SeqCst);
    });
    flood.ends(&server);
    server.stop();
    let [alone, beside] = ["light/alone", "light/beside"].map(|env| waits(&server, env, "started_at"));
    assert_eq!((alone.len(), beside.len()), (samples, samples));
    let [alone_p50, alone_p99] = [50, 99].map(|percent| percentile(&alone, percent));
    let [beside_p50, beside_p99] = [50, 99].map(|percent| percentile(&beside, percent));
    let ends = |env| percentile(&waits(&server, env, "finished_at"), 99);
    let [ends_alone_p99, ends_beside_p99] = ["light/alone", "light/beside"].map(ends);
    let (sent, own) = (sent.load(Ordering::SeqCst), percentile(&waits(&server, "flood/dev", "started_at"), 50));
    println!(
        "one every 100 ms on {database:?}: waits alone p50 {alone_p50} p99 {alone_p99} ms, beside a flood of {sent} {flood:?} runs p50 {beside_p50} p99 {beside_p99} ms; ended after p99 {ends_alone_p99} and {ends_beside_p99} ms; the flood's own p50 {own} ms",
    );
    Waits { alone_p50, alone_p99, beside_p50, beside_p99, ends_alone_p99, ends_beside_p99 }
}

fn a_flood_holds_nobody_up(database: Database, flood: Flood) {
    let _machine = crate::machine();
    let mut measured = Vec::new();
    let fair = |waits: &Waits| flood.is_fair(waits);
    while measured.len() < TRIES && !measured.last().is_some_and(fair) {
        measured.push(flooded(database, flood));
    }
    assert!(measured.last().is_some_and(fair), "waits in ms: {measured:?}");
}

#[test]
fn serve_a_flood_of_one_env_does_not_hold_up_another_on_sqlite() {
    a_flood_holds_nobody_up(Database::Sqlite, Flood::Slow);
}

#[test]
fn serve_a_flood_of_one_env_does_not_hold_up_another_on_postgres() {
    a_flood_holds_nobody_up(Database::Postgres, Flood::Slow);
}

#[test]
fn serve_a_burst_of_fifty_thousand_does_not_hold_up_another_env_on_sqlite() {
    a_flood_holds_nobody_up(Database::Sqlite, Flood::Burst);
}

#[test]
fn serve_a_burst_of_fifty_thousand_does_not_hold_up_another_env_on_postgres() {
    a_flood_holds_nobody_up(Database::Postgres, Flood::Burst);
}

#[test]
fn serve_a_flood_that_keeps_the_machine_busy_does_not_hold_up_another_env_on_sqlite() {
    a_flood_holds_nobody_up(Database::Sqlite, Flood::Empty);
}

#[test]
fn serve_a_flood_that_keeps_the_machine_busy_does_not_hold_up_another_env_on_postgres() {
    a_flood_holds_nobody_up(Database::Postgres, Flood::Empty);
}

/// Fills envs while nothing is carried out, lets go, and returns the server that has carried all out.
fn carried_out(database: Database, backlog: &[(String, usize)]) -> Server {
    let mut server = Server::on(database).set("workers.slots", 4).set("buffer.mode", "\"off\"").set("workers.slots", 0);
    server.again();
    let envs: Vec<&String> = backlog.iter().map(|(env, _)| env).collect();
    for (env, count) in backlog {
        let mut client = server.client().in_env(env);
        for part in (0..*count).step_by(1_000) {
            client.post("/runs/batch", &noops((count - part).min(1_000))).is(200);
        }
    }
    server.stop();
    server.change("TIDEGATE_WORKERS__SLOTS", 4);
    server.again();
    server.all_ended(&envs);
    server.stop();
    server
}

fn orgs_and_envs_share_equally(database: Database) {
    let _machine = crate::machine();
    let mut backlog = vec![("single/dev".to_owned(), 6_000)];
    backlog.extend((0..20).map(|env| (format!("many/env{env:02}"), 300)));
    let rows = carried_out(database, &backlog).rows("SELECT env FROM run_records ORDER BY started_at, finished_at");
    let starts: Vec<String> = rows.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect();
    let first = &starts[..starts.len() / 2];
    let single = first.iter().filter(|env| env.starts_with("single/")).count();
    let many = first.len() - single;
    let by_env = first.iter().filter(|env| env.starts_with("many/")).fold(BTreeMap::new(), |mut sums, env| {
        *sums.entry(env.as_str()).or_insert(0) += 1;
        sums
    });
    let (least, most) = (by_env.values().min().copied().unwrap_or(0), by_env.values().max().copied().unwrap_or(0));
    println!(
        "shares on {database:?}: of the first {} starts, one env had {single} and 20 envs of another org {many} ({least} to {most} each)",
        first.len()
    );
    assert!(single.abs_diff(many) * 10 <= single.max(many), "{single} and {many}");
    assert_eq!(by_env.len(), 20);
    assert!((most - least) * 10 <= most.max(50), "{by_env:?}");
}

#[test]
fn serve_orgs_with_one_env_and_with_twenty_get_equal_shares_on_sqlite() {
    orgs_and_envs_share_equally(Database::Sqlite);
}

#[test]
fn serve_orgs_with_one_env_and_with_twenty_get_equal_shares_on_postgres() {
    orgs_and_envs_share_equally(Database::Postgres);
}

/// Counts the heavy env's starts that came in an earlier millisecond than the light one's last: some hundred runs that take
/// nothing start in the same one, and their order in it is not known.
fn a_heavy_env_starves_no_light_one(database: Database) {
    let _machine = crate::machine();
    let backlog = [("org/heavy".to_owned(), 6_000), ("org/light".to_owned(), 100)];
    let before = carried_out(database, &backlog).number(
        "SELECT COUNT(*) FROM run_records WHERE env = 'org/heavy'
         AND started_at < (SELECT MAX(started_at) FROM run_records WHERE env = 'org/light')",
    );
    println!(
        "a heavy env beside a light one on {database:?}: {before} of its runs started before the light one's 100 had"
    );
    assert!(before < 200, "{before} of the heavy one's runs came before the last of the light one's");
}

#[test]
fn serve_a_heavy_env_never_starves_a_light_one_of_its_org_on_sqlite() {
    a_heavy_env_starves_no_light_one(Database::Sqlite);
}

#[test]
fn serve_a_heavy_env_never_starves_a_light_one_of_its_org_on_postgres() {
    a_heavy_env_starves_no_light_one(Database::Postgres);
}
