//! A standing job and a backfill over one task's runs, on nodes that are killed: disjoint, bought once, never set back
//! (invariants 12, 18 and 22).

use crate::{Ends, seed, short_lived};
use harness::judge::doubled_keys;
use harness::{Account, Client, Cluster, Protocol, Supplier, eventually};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const TASK: &str = "summarise";
const NODES: usize = 2;
const KILLS: usize = 20;
const PAGE: usize = 10;

/// Any node's answer; one that is away is asked again.
fn ask(clients: &mut [Client], method: &str, path: &str, body: &Value) -> Value {
    let text = (!body.is_null()).then(|| body.to_string());
    let mut found = Value::Null;
    eventually("a node answers", || {
        for client in clients.iter_mut() {
            if let Ok(answer) = client.send(method, path, text.as_deref())
                && answer.status < 300
            {
                found = answer.json();
                return true;
            }
        }
        false
    });
    found
}

/// Sends runs until it is told to stop; each by a key, so that it is one run however often it is sent.
fn supply(mut clients: Vec<Client>, supplier: &Supplier, sent: &AtomicUsize, stop: &AtomicBool) {
    let (_held, never) = channel::<()>();
    while !stop.load(Ordering::SeqCst) {
        let from = sent.load(Ordering::SeqCst);
        let run = |number| json!({"task": TASK, "payload": supplier.payload(number), "max_attempts": 50, "idempotency_key": format!("k{number}")});
        let page: Vec<Value> = (from..from + PAGE).map(run).collect();
        ask(&mut clients, "POST", "/runs/batch", &json!({"runs": page}));
        sent.store(from + PAGE, Ordering::SeqCst);
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
}

/// What has been done of a job never becomes less.
#[derive(Default)]
struct Progress {
    succeeded: i64,
    rounds: i64,
}

impl Progress {
    fn look(&mut self, job: &Value) {
        let (succeeded, rounds) = (job["items"]["succeeded"].as_i64(), job["rounds"].as_i64());
        let (succeeded, rounds) = (succeeded.expect("a count"), rounds.expect("a count"));
        assert!(succeeded >= self.succeeded && rounds >= self.rounds, "it was set back: {job}");
        (self.succeeded, self.rounds) = (succeeded, rounds);
    }
}

#[test]
fn a_daemon_and_a_backfill_on_nodes_that_are_killed_are_disjoint_and_buy_nothing_twice() {
    let seed = seed();
    println!("jobs on nodes that are killed: TIDEGATE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let mut cluster = Cluster::of(NODES, |server| short_lived(server).config(&supplier.with_task(TASK))).start();
    let clients = || cluster.doors().iter().map(Client::new).collect::<Vec<_>>();
    let (mut asking, supplying) = (clients(), clients());
    let (sent, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ids = std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| supply(supplying, &supplier, &sent, &stop));
        eventually("some wait", || sent.load(Ordering::SeqCst) >= 6 * PAGE);
        let daemon =
            json!({"pool": TASK, "source": "daemon", "period": {"seconds": 0.4}, "limits": {"max_batch_requests": 20}});
        let backfill = json!({"pool": TASK, "limits": {"max_batch_requests": 7, "max_rounds": 1_000}});
        let ids = [backfill, daemon]
            .map(|wish| ask(&mut asking, "POST", "/jobs", &wish)["id"].as_str().expect("an id").to_owned());
        let (_held, never) = channel::<()>();
        let mut progress = [Progress::default(), Progress::default()];
        for _ in 0..KILLS {
            let _ = never.recv_timeout(Duration::from_millis(rng.random_range(50..700)));
            let node = &mut cluster.nodes[rng.random_range(0..NODES)].server;
            node.kill9();
            let _ = never.recv_timeout(Duration::from_millis(rng.random_range(0..300)));
            node.again();
            for (id, progress) in ids.iter().zip(&mut progress) {
                progress.look(&ask(&mut asking, "GET", &format!("/jobs/{id}"), &Value::Null));
            }
            let twice =
                "SELECT run_id FROM attempts WHERE state IN ('leased', 'started') GROUP BY run_id HAVING COUNT(*) > 1";
            assert!(cluster.rows(twice).is_empty(), "a run is in two batches");
        }
        stop.store(true, Ordering::SeqCst);
        ids
    });
    let all = i64::try_from(sent.load(Ordering::SeqCst)).expect("few");
    eventually("all have ended", || cluster.number("SELECT COUNT(*) FROM run_records WHERE state <> 'open'") == all);
    let jobs = ids.clone().map(|id| ask(&mut asking, "GET", &format!("/jobs/{id}"), &Value::Null));
    assert_eq!(jobs[0]["stop_reason"], "drained", "{}", jobs[0]);
    assert_eq!(jobs[1]["state"], "running", "{}", jobs[1]);
    let succeeded = jobs.each_ref().map(|job| job["items"]["succeeded"].as_i64().expect("a count"));
    assert_eq!(succeeded.iter().sum::<i64>(), all, "{jobs:?}");
    assert!(succeeded.iter().all(|count| *count > 0), "one of them has done nothing: {jobs:?}");
    let of_both = "SELECT a.run_id FROM attempts a JOIN batches b ON b.id = a.batch_id GROUP BY a.run_id
        HAVING COUNT(DISTINCT b.job_id) > 1";
    assert!(cluster.rows(of_both).is_empty(), "a run was in batches of both");
    let ledger = supplier.account.ledger();
    assert!(ledger.billed_twice.is_empty() && doubled_keys(&ledger).is_empty(), "{ledger:?}");
    assert_eq!(i64::try_from(ledger.distinct_items).ok(), Some(all));
    println!("{all} runs, {succeeded:?} by the backfill and the daemon; {} creates, {} kills", ledger.creates, KILLS);
    cluster.nodes.iter_mut().for_each(|node| drop(node.server.stop()));
}
