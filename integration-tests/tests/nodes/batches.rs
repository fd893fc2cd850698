//! A batch outlives the node that submitted it: another one collects it, and nobody buys it again (F8, invariants 11,
//! 12, 14, 15 and 17).

use crate::{Underway, file_for, short_lived};
use harness::{Case, Database, OwnSim, Protocol, Server, Supplier, Verdict, eventually};
use std::time::{Duration, Instant};

const LINES: usize = 8;
/// From a batch's end at the provider until it is collected by a node that asks ten times a second.
const COLLECTED_WITHIN: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "spans how long the collection takes")]
fn now() -> Instant {
    Instant::now()
}

fn collector(store: &str, supplier: &Supplier) -> Server {
    let server = short_lived(Server::on(Database::Sqlite).with_store(store)).config(&supplier.config());
    server.arg("--role").arg("poller").start_without_api()
}

/// The one batch's state and holder.
fn batch(case: &Case) -> (String, String) {
    let rows = harness::sql::rows(&case.store, "SELECT state, holder FROM batches");
    assert!(rows.len() <= 1, "there is more than one batch: {rows:?}");
    let text = |at: usize| rows.first().and_then(|row| row[at].clone()).unwrap_or_default();
    (text(0), text(1))
}

/// When the node that collects is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collector {
    Before,
    After,
}

fn collected_by_another(protocol: Protocol, there: Collector) {
    let sim = OwnSim::start("2500ms");
    let supplier = Supplier::new(protocol, sim.account());
    let case = file_for(&supplier, &harness::postgres::cluster().fresh_database(), LINES);
    let all_at_once = ["--max-batch-requests", &LINES.to_string()];
    let before = (there == Collector::Before).then(|| collector(&case.store, &supplier));
    let first = Underway::start(case.process_with(&all_at_once));
    eventually("the batch is submitted", || {
        let tables = "SELECT COUNT(*) FROM pg_tables WHERE tablename = 'batches'";
        harness::sql::rows(&case.store, tables)[0][0].as_deref() == Some("1") && batch(&case).0 == "submitted"
    });
    first.signal("KILL");
    let submitter = batch(&case).1;
    assert!(first.ends().was_killed());
    assert_eq!(batch(&case).0, "submitted", "it has ended too early: nobody would have to take it over");
    let mut server = before.unwrap_or_else(|| collector(&case.store, &supplier));
    eventually("the provider has ended the batch", || {
        case.account.ledger().batches.iter().all(|batch| ["completed", "ended"].contains(&batch.status.as_str()))
    });
    let ended = now();
    eventually("another node collects the batch", || batch(&case).0 == "collected");
    let took = now().duration_since(ended);
    assert_ne!(batch(&case).1, submitter, "the one that was killed has collected it");
    assert_eq!(case.account.ledger().creates, 1);
    let again = case.finish(case.process_with(&all_at_once));
    assert_eq!(again.code, Some(0), "{again:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!((verdict.creates, verdict.batches), (1, 1), "nothing was created again");
    server.stop();
    println!("{protocol:?}, collector there {there:?} the kill: collected {took:?} after its end, 1 create");
    assert!(took <= COLLECTED_WITHIN, "it was collected {took:?} after its end");
}

#[test]
fn a_batch_whose_submitter_was_killed_is_collected_by_another_node_and_never_created_again() {
    std::thread::scope(|scope| {
        let cases = [Protocol::OpenAi, Protocol::Anthropic]
            .into_iter()
            .flat_map(|protocol| [Collector::Before, Collector::After].map(|there| (protocol, there)));
        let cases: Vec<_> =
            cases.map(|(protocol, there)| scope.spawn(move || collected_by_another(protocol, there))).collect();
        let failed = cases.into_iter().filter_map(|case| case.join().err()).count();
        assert_eq!(failed, 0, "cases failed; what they said is above");
    });
}
