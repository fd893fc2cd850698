//! A standby takes the database over without the last that was committed: a batch that was bought is planned again, as
//! far as the store knows. Nothing is bought again (F17, invariants 12 and 13).

use crate::{Underway, file_for};
use harness::{Account, Database, OwnPostgres, Protocol, Server, Supplier, Verdict, eventually};

const LINES: usize = 6;
const ARGS: [&str; 4] = ["--max-batch-requests", "6", "--settle", "100ms"];

fn states(store: &str) -> Vec<String> {
    let rows = harness::sql::try_rows(store, "SELECT state FROM batches").unwrap_or_default();
    rows.into_iter().filter_map(|mut row| row[0].take()).collect()
}

fn failed_over(protocol: Protocol) {
    let mut primary = OwnPostgres::start();
    let supplier = Supplier::new(protocol, Account::open());
    let mut case = file_for(&supplier, &primary.url(), LINES);
    // It sleeps for a moment in the transaction of its create.
    case.env.push(("TIDEGATE_NODES__LEASE_SECONDS".to_owned(), "10".to_owned()));
    let standby = primary.standby();
    let mut command = case.process_with(&ARGS);
    command.env("TIDEGATE_FAILPOINT", "create.before_commit:1:stop");
    let buyer = Underway::start(command);
    buyer.freezes();
    eventually("the standby knows the batch as planned", || states(&standby.url()) == ["planned"]);
    standby.is_left_behind();
    buyer.signal("CONT");
    eventually("the batch is bought", || {
        states(&primary.url()).iter().all(|state| state != "planned" && state != "submitting")
    });
    assert_eq!(case.account.ledger().batches.len(), 1);
    buyer.signal("KILL");
    drop(buyer);
    primary.crash();
    standby.promote();
    case.store = standby.url();
    assert_eq!(states(&case.store), ["planned"], "the standby has missed what it was to miss");
    let first = case.finish(case.process_with(&ARGS));
    assert_eq!(first.code, Some(4), "{first:?}");
    for words in ["timeline 1 to 2", "is suspended", "tidegate batches list", "run the same command again"] {
        assert!(first.stderr.contains(words), "{words:?} is missing: {first:?}");
    }
    let second = case.finish(case.process_with(&ARGS));
    assert_eq!(second.code, Some(0), "{second:?}");
    let (verdict, ledger) = (Verdict::on(&case), case.account.ledger());
    assert!(verdict.is_clean(), "{verdict:?}\n{}\n{}", first.stderr, second.stderr);
    println!(
        "{protocol:?}: {} creates, {} batches, after a failover that forgot one",
        ledger.creates,
        ledger.batches.len()
    );
    assert_eq!((ledger.creates, ledger.batches.len()), (1, 1), "it was bought again");
}

#[test]
fn a_batch_that_a_failover_has_forgotten_is_found_and_not_bought_again() {
    std::thread::scope(|scope| {
        let cases = [Protocol::OpenAi, Protocol::Anthropic].map(|protocol| scope.spawn(move || failed_over(protocol)));
        let failed = cases.into_iter().filter_map(|case| case.join().err()).count();
        assert_eq!(failed, 0, "cases failed; what they said is above");
    });
}

/// Same timeline, same numbers: only whoever has brought it up knows that it is not the one that went on.
#[test]
fn a_base_backup_that_was_marked_as_a_copy_buys_nothing_again() {
    let mut primary = OwnPostgres::start();
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let mut case = file_for(&supplier, &primary.url(), LINES);
    // It sleeps for a moment in the transaction of its create.
    case.env.push(("TIDEGATE_NODES__LEASE_SECONDS".to_owned(), "10".to_owned()));
    let mut command = case.process_with(&ARGS);
    command.env("TIDEGATE_FAILPOINT", "create.before_commit:1:stop");
    let buyer = Underway::start(command);
    buyer.freezes();
    let copy = primary.copied();
    buyer.signal("CONT");
    eventually("the batch is bought", || !case.account.ledger().batches.is_empty());
    buyer.signal("KILL");
    drop(buyer);
    primary.crash();
    case.store = copy.url();
    assert_eq!(states(&case.store), ["planned"], "the backup has missed what it was to miss");
    let marked = case.look(&["db", "restored"]);
    assert_eq!(marked.code, Some(0), "{marked:?}");
    let first = case.finish(case.process_with(&ARGS));
    assert!(first.code == Some(4) && first.stderr.contains("the store is a copy"), "{first:?}");
    let second = case.finish(case.process_with(&ARGS));
    assert_eq!(second.code, Some(0), "{second:?}");
    let (verdict, ledger) = (Verdict::on(&case), case.account.ledger());
    assert!(verdict.is_clean(), "{verdict:?}\n{}\n{}", first.stderr, second.stderr);
    assert_eq!((ledger.creates, ledger.batches.len()), (1, 1), "it was bought again");
}

#[test]
fn a_standby_is_refused_at_the_start() {
    let primary = OwnPostgres::start();
    let standby = primary.standby();
    let server = Server::on(Database::Sqlite).with_store(&standby.url());
    let refused = server.command(&["serve"]).env("TIDEGATE_STORE", standby.url()).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(6), "{said}");
    assert!(said.contains("the database is a standby") && said.contains("name the primary with --store"), "{said}");
}
