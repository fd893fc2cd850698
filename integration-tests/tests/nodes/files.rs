//! Files of requests that commands buy, are killed at, and go on with, while servers carry on what they left behind.

use crate::{Underway, file_for};
use harness::Supplier;
use harness::eventually;
use harness::history::now_ms;
use harness::judge::wrong_lines;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const LINES: usize = 6;
/// Times that a command is run again: the database may be away each time.
const TRIES: usize = 10;

/// What came of it.
#[derive(Debug, Default)]
pub struct Bought {
    pub files: usize,
    /// Commands that were killed, by the node that each was, and when.
    pub deaths: Vec<(String, i64)>,
    /// Lines by the supplier's name.
    pub lines: Vec<(&'static str, u64)>,
    /// Files that were not bought to their end, or wrongly.
    pub wrong: Vec<String>,
}

/// Waits for a random span, as a kill at a random instant asks for.
fn let_pass(span: Duration) {
    let (_held, never) = channel::<()>();
    let _ = never.recv_timeout(span);
}

/// The node that a command was, if the database can say it now.
fn node_of(store: &str, pid: u32) -> Option<String> {
    let latest = format!("SELECT id FROM nodes WHERE pid = {pid} ORDER BY started_at DESC LIMIT 1");
    harness::sql::try_rows(store, &latest).ok()?.first()?[0].clone()
}

/// Buys one file after the other until it is told not to.
pub fn buy(suppliers: &[Supplier], store: &str, seed: u64, stop: &AtomicBool) -> Bought {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bought = Bought::default();
    // Long enough for a batch to outlive the command that submitted it.
    suppliers.iter().for_each(|supplier| supplier.account.faults(&json!({"latency_ms": 1_200})));
    while !stop.load(Ordering::SeqCst) {
        let supplier = &suppliers[bought.files % suppliers.len()];
        let case = file_for(supplier, store, LINES);
        let half = (LINES / 2).to_string();
        let command = || case.process_with(&["--max-batch-requests", &half]);
        let first = Underway::start(command());
        let_pass(Duration::from_millis(rng.random_range(500..1_500)));
        let (pid, at) = (first.pid(), now_ms());
        first.signal("KILL");
        let mut last = first.ends();
        if last.was_killed() {
            bought.deaths.extend(node_of(store, pid).map(|node| (node, at)));
        }
        for _ in 0..TRIES {
            if last.code == Some(0) {
                break;
            }
            // The database may be away, and the command has nothing to wait for it with.
            eventually("the database answers", || harness::sql::try_rows(store, "SELECT 1").is_ok());
            last = case.finish(command());
        }
        let wrong = wrong_lines(&case);
        if last.code != Some(0) || !wrong.is_empty() {
            bought.wrong.push(format!("lines {wrong:?} of a file at {}: {last:?}", supplier.name));
        }
        bought.files += 1;
        bought.lines.push((supplier.name, LINES as u64));
    }
    bought
}
