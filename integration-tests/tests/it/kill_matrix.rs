//! SIGKILL at every named place around plan, upload, create, store, reconcile, poll, collect, settle and
//! write-out; then the same command again. Every item is bought exactly once, every line has its own result
//! (invariants 11–15). The matrix fails when a place was never reached or no ambiguous create was resolved.

use harness::{Case, Database, Protocol, Verdict};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use storage::failpoint::{Failpoint, PassedBy};

const LINES: usize = 24;
const AT_ONCE: usize = 4;

/// What has to be wrong with the provider for a place to be reached at all. One batch ends half done and some
/// items fail, so that there are a second results file and more rounds.
fn faults(point: Failpoint) -> serde_json::Value {
    match point {
        // The answer is lost, the batch is there.
        Failpoint::ReconcileUnknown | Failpoint::ReconcileListed | Failpoint::ReconcileAdopted => {
            json!({"lose_answers": 1, "expire_batches": 1, "item_error_rate": 0.1})
        }
        // No answer, and the batch is not there, nor will it be.
        Failpoint::ReconcileFirstAbsence
        | Failpoint::ReconcileBeforeDelete
        | Failpoint::ReconcileDeleted
        | Failpoint::ReconcileCleared => {
            json!({"delayed_accepts": 1, "accept_delay_ms": 3_600_000, "item_error_rate": 0.1})
        }
        _ => json!({"expire_batches": 1, "item_error_rate": 0.1}),
    }
}

/// Places that exist only where a provider has input files, or a second results file.
fn exists(point: Failpoint, protocol: Protocol) -> bool {
    let with_files = [
        Failpoint::UploadMarked,
        Failpoint::UploadHalf,
        Failpoint::UploadSent,
        Failpoint::UploadAnswered,
        Failpoint::UploadStored,
        Failpoint::ReconcileBeforeDelete,
        Failpoint::ReconcileDeleted,
        Failpoint::CollectSecondFile,
    ];
    protocol == Protocol::OpenAi || !with_files.contains(&point)
}

#[derive(Default)]
struct Totals {
    kills: AtomicUsize,
    items: AtomicUsize,
    adopted: AtomicUsize,
    created_again: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Totals {
    fn one(&self, database: Database, protocol: Protocol, point: Failpoint) {
        let name = format!("{database:?} {protocol:?} {}", point.name());
        let fail = |why: String| self.failures.lock().expect("failures").push(format!("{name}: {why}"));
        let case = Case::new(database, protocol, LINES);
        case.account.faults(&faults(point));
        let killed = case.run_to(point.name());
        if !killed.was_killed() {
            return fail(format!("the place was never reached: {killed:?}"));
        }
        self.kills.fetch_add(1, Ordering::SeqCst);
        let ended = case.run();
        if ended.code != Some(0) {
            return fail(format!("the second run did not finish: {ended:?}"));
        }
        let verdict = Verdict::on(&case);
        if !verdict.is_clean() {
            fail(format!("{verdict:?}\n{}", ended.stderr));
        }
        self.items.fetch_add(LINES, Ordering::SeqCst);
        let adopted = ended.summary()["batches"]["adopted"].as_u64().unwrap_or(0);
        self.adopted.fetch_add(usize::try_from(adopted).unwrap_or(0), Ordering::SeqCst);
        let again = usize::try_from(verdict.creates).unwrap_or(0).saturating_sub(verdict.batches);
        self.created_again.fetch_add(again, Ordering::SeqCst);
    }
}

fn matrix(database: Database) {
    let both = [Protocol::OpenAi, Protocol::Anthropic];
    let places: Vec<_> = Failpoint::ALL.iter().filter(|point| point.passed_by() == PassedBy::Process).collect();
    let cells: Vec<_> = places
        .iter()
        .flat_map(|point| both.map(|protocol| (protocol, **point)))
        .filter(|(protocol, point)| exists(*point, *protocol))
        .collect();
    let (next, totals) = (AtomicUsize::new(0), Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((protocol, point)) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
                    totals.one(database, *protocol, *point);
                }
            });
        }
    });
    let Totals { kills, items, adopted, created_again, failures } = totals;
    let (kills, adopted, created_again) = (kills.into_inner(), adopted.into_inner(), created_again.into_inner());
    let failures = failures.into_inner().expect("failures");
    println!(
        "kill matrix on {database:?}: {kills} kills at {} places, {} items bought; {adopted} batches adopted, {created_again} created again after a proof of absence; {} failures",
        places.len(),
        items.into_inner(),
        failures.len(),
    );
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert_eq!(kills, cells.len(), "every place was reached");
    assert!(adopted > 0 && created_again > 0, "no ambiguous create was resolved: the matrix would prove nothing");
}

#[test]
fn killed_at_every_place_every_item_is_bought_once_on_sqlite() {
    matrix(Database::Sqlite);
}

#[test]
fn killed_at_every_place_every_item_is_bought_once_on_postgres() {
    matrix(Database::Postgres);
}
