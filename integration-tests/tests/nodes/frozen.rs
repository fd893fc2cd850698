//! A node that is frozen in the middle of a write, with a transaction open or just closed, holds nobody else up for
//! longer than its lease and the time to take over (F12, F20, F48).

use crate::{LEASE_MS, short_lived};
use harness::history::now_ms;
use harness::{Database, Load, Mix, Server, eventually};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use storage::failpoint::{Failpoint, PassedBy};

const AT_ONCE: usize = 2;
const TRIES: usize = 5;
/// A webhook that nobody is there for: attempts that fail are settled in another way than those that succeed.
const TASKS: &str =
    "[tasks.refused]\nkind = \"http\"\nurl = \"http://127.0.0.1:9/\"\nallow_private = true\nmax_attempts = 1\n";
/// How long others may be held up.
const HELD_UP_MS: i64 = LEASE_MS + 2_000;

fn is_frozen(server: &Server) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

fn node(store: &str) -> Server {
    // A cap, so that claims are transactions of their own; a low rate, so that some are buffered.
    short_lived(Server::on(Database::Sqlite).with_store(store))
        .config(TASKS)
        .set("limits.max_running", 8)
        .set("buffer.above_per_second", 3)
        .expecting("letting go of all runs")
}

/// Whether a session has had a transaction open for longer than any statement takes here. A node that was frozen a
/// moment too late has none: the signal reaches a process as a whole some moments after it was sent.
fn has_a_transaction_open(other: &Server) -> bool {
    let old = "SELECT COUNT(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'
        AND datname = current_database() AND clock_timestamp() - state_change > INTERVAL '200 milliseconds'";
    let (from, wanted) = (now_ms(), 300);
    while now_ms() - from < wanted {
        if other.number(old) > 0 {
            return true;
        }
    }
    false
}

/// Freezes one node at a place, and asks the other one for a run in every env that the first one's callers use.
/// Returns how long the slowest of them took; nothing if the node was frozen too late to be in a transaction there.
fn frozen_at(point: Failpoint) -> Option<i64> {
    let store = harness::postgres::cluster().fresh_database();
    let mut other = node(&store).start();
    let mut zombie = node(&store).env("TIDEGATE_FAILPOINT", format!("{}:1:stop", point.name())).start();
    let tasks = ["noop", "refused"].map(str::to_owned).to_vec();
    let mix =
        Mix { callers: 4, batch_max: 5, tasks, max_attempts: 1, pause: Duration::from_millis(5), ..Mix::of("noop", 3) };
    let load = Load::over(&[zombie.door()], Duration::from_secs(1), &mix);
    eventually("the node freezes", || is_frozen(&zombie));
    let from = now_ms();
    if point.name().ends_with(".open") && !has_a_transaction_open(&other) {
        return None;
    }
    let mut slowest = 0;
    for env in &mix.envs {
        let mut client = other.client().in_env(env);
        let mut run = String::new();
        eventually("the other node takes a run in", || {
            let answer = client.post("/runs", &json!({"task": "noop"}));
            run = if answer.status < 300 { answer.field("id") } else { String::new() };
            !run.is_empty()
        });
        eventually("the other node carries it out", || client.read(&run)["status"] == "succeeded");
        slowest = slowest.max(now_ms() - from);
    }
    eventually("the frozen one is declared gone", || {
        let pid = zombie.pid();
        other.number(&format!("SELECT COUNT(*) FROM nodes WHERE state = 'gone' AND pid = {pid}")) == 1
    });
    zombie.signal("CONT");
    let ended = zombie.ends();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    zombie.unset("TIDEGATE_FAILPOINT");
    zombie.again();
    let mut tally = load.stop();
    tally.unanswered += mix.envs.len();
    other.all_ended(&mix.envs);
    zombie.stop();
    other.stop();
    tally.verify(&other);
    Some(slowest)
}

#[test]
fn a_node_frozen_at_any_place_holds_the_others_up_no_longer_than_its_lease_and_2_s() {
    let places: Vec<Failpoint> = Failpoint::ALL
        .iter()
        .copied()
        .filter(|point| point.passed_by() == PassedBy::Serve && *point != Failpoint::MaterialiseOpen)
        .collect();
    let (next, slow) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(point) = places.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let took = (0..TRIES).find_map(|_| frozen_at(*point)).expect("it is frozen in time");
                    println!("a node frozen at {}: the others were held up for {took} ms", point.name());
                    if took > HELD_UP_MS {
                        slow.lock().expect("no panic").push((point.name(), took));
                    }
                }
            });
        }
    });
    let slow = slow.into_inner().expect("no panic");
    assert!(slow.is_empty(), "the others were held up for longer than {HELD_UP_MS} ms: {slow:?}");
}
