//! Nodes that are frozen beyond their lease and wake up when others have taken over (F12, invariants 4, 9 and 12).

use crate::{LEASE_MS, Underway, file_for, short_lived};
use harness::{Account, Case, Cluster, Protocol, Supplier, Verdict, WITNESSED, Witness, eventually};
use serde_json::json;

const LINES: usize = 6;
const TRIES: usize = 5;

/// How far others have come when the zombie wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wakes {
    /// They hold the batch, and know that they do not know what became of it.
    AfterTakeOver,
    /// They have proven that it is not there, and have created it themselves.
    AfterCreate,
}

/// The one batch's state, epoch, and number of the create.
fn batch(case: &Case) -> (String, i64, i64) {
    let rows =
        harness::sql::rows(&case.store, "SELECT state, CAST(epoch AS TEXT), CAST(create_no AS TEXT) FROM batches");
    let text = |at: usize| rows[0][at].clone().unwrap_or_default();
    (text(0), text(1).parse().expect("an epoch"), text(2).parse().expect("a number"))
}

const ARGS: [&str; 4] = ["--max-batch-requests", "6", "--settle", "100ms"];

/// A command that is frozen at a place of the create, and its file. One that was frozen too late does not count: the
/// signal reaches a process as a whole some moments after it was sent.
fn frozen(protocol: Protocol, place: &str) -> (Supplier, Case, Underway) {
    for _ in 0..TRIES {
        let supplier = Supplier::new(protocol, Account::open());
        let case = file_for(&supplier, &harness::postgres::cluster().fresh_database(), LINES);
        // Its results go elsewhere: this is about what it buys, not about a file that two would write.
        let mut command = case.process_to(&case.dir.path().join("zombie.jsonl"), &ARGS);
        command.env("TIDEGATE_FAILPOINT", format!("{place}:1:stop"));
        let zombie = Underway::start(command);
        zombie.freezes();
        let expected = if place == "create.before_commit" { "planned" } else { "submitting" };
        if batch(&case).0 == expected && case.account.ledger().creates == 0 {
            return (supplier, case, zombie);
        }
    }
    panic!("{TRIES} commands froze too late at {place}");
}

/// A command freezes at a place of the create; the same command, started again, takes over; then the first wakes.
fn wakes_in_the_create(protocol: Protocol, place: &str, wakes: Wakes) {
    let (_supplier, case, zombie) = frozen(protocol, place);
    let (state, epoch, create_no) = batch(&case);
    let heir = Underway::start(case.process_with(&ARGS));
    eventually("another node takes the batch over", || {
        let (state, now, number) = batch(&case);
        let has_created = number > create_no && !["planned", "submitting", "unknown"].contains(&state.as_str());
        now > epoch && (wakes == Wakes::AfterTakeOver || has_created)
    });
    zombie.signal("CONT");
    let (zombie, heir) = (zombie.ends(), heir.ends());
    assert_eq!(heir.code, Some(0), "{heir:?}");
    // Not yet declared gone, it may watch its heir finish; what it wrote itself must have been refused.
    assert!(matches!(zombie.code, Some(0 | 5)), "{zombie:?}");
    // By its epoch, or because the database had ended the transaction that it slept in.
    let refusals = ["has moved on", "idle-in-transaction timeout"];
    assert!(refusals.iter().any(|words| zombie.stderr.contains(words)), "no stale write was refused: {zombie:?}");
    let again = case.finish(case.process_with(&ARGS));
    assert_eq!(again.code, Some(0), "{again:?}");
    let (verdict, ledger) = (Verdict::on(&case), case.account.ledger());
    let billed: Vec<_> = ledger.batches.iter().filter(|batch| batch.billed > 0).collect();
    println!(
        "{protocol:?} frozen at {place} with the batch {state}, woken {wakes:?}: {} creates asked for, {} batches, {} of them billed, {} items",
        ledger.creates,
        ledger.batches.len(),
        billed.len(),
        ledger.items_billed_total,
    );
    assert!(verdict.is_clean(), "{verdict:?}\n{}\n{}", zombie.stderr, heir.stderr);
    assert_eq!(billed.len(), 1, "{ledger:?}");
}

fn each(place: &'static str, wakes: &[Wakes]) {
    std::thread::scope(|scope| {
        let cases = [Protocol::OpenAi, Protocol::Anthropic]
            .into_iter()
            .flat_map(|protocol| wakes.iter().map(move |wakes| (protocol, *wakes)));
        let cases: Vec<_> =
            cases.map(|(protocol, wakes)| scope.spawn(move || wakes_in_the_create(protocol, place, wakes))).collect();
        let failed = cases.into_iter().filter_map(|case| case.join().err()).count();
        assert_eq!(failed, 0, "cases failed; what they said is above");
    });
}

#[test]
fn a_zombie_that_wakes_between_commit_and_last_byte_after_a_take_over_does_not_buy() {
    each("create.committed", &[Wakes::AfterTakeOver]);
}

#[test]
fn a_zombie_that_wakes_between_commit_and_last_byte_after_another_create_does_not_buy() {
    each("create.committed", &[Wakes::AfterCreate]);
}

#[test]
fn a_zombie_that_wakes_before_the_commit_of_its_create_does_not_buy() {
    each("create.before_commit", &[Wakes::AfterTakeOver]);
}

/// Its own programs are an effect too: they may not go on beside those that others have started in their place.
#[test]
fn a_node_that_wakes_up_replaced_ends_the_programs_it_had_started() {
    let witness = Witness::new();
    let mut cluster =
        Cluster::of(2, |server| short_lived(server).config(&witness.task(600.0)).set("server.drain_seconds", 20))
            .start();
    let run = cluster.nodes[0].server.client().in_env("one/dev").run(&json!({"task": WITNESSED}));
    eventually("its program is started", || witness.starts().contains_key(&run));
    let holder = cluster.rows("SELECT holder FROM leases")[0][0].clone().expect("a holder");
    let zombie = (0..2).find(|index| cluster.id(*index) == holder).expect("one of them holds it");
    cluster.nodes[zombie].server.signal("STOP");
    cluster.is_replaced(&holder, LEASE_MS);
    eventually("another node starts it again", || witness.starts()[&run] == 2);
    let heir = cluster.id(1 - zombie);
    cluster.nodes[zombie].server.signal("CONT");
    let woken = harness::history::now_ms();
    let ended = cluster.nodes[zombie].server.ends();
    let took = harness::history::now_ms() - woken;
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert_eq!(cluster.held_by(&heir), 1, "the other one goes on with it");
    println!(
        "a node that was replaced while it was frozen has ended itself and its programs {took} ms after it woke up"
    );
    assert!(took <= LEASE_MS + 2_000, "its program went on for {took} ms after it woke, beside that of another node");
    cluster.nodes[1 - zombie].server.kill9();
    eventually("no program is left", || witness.processes().is_empty());
}
