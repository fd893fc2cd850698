//! What a provider's answers do to results and money (catalogue rows 147–150).

use crate::bad_input::unhurried;
use harness::{Case, Database, Protocol, Verdict};
use serde_json::json;

const BOTH: [Protocol; 2] = [Protocol::OpenAi, Protocol::Anthropic];
const LINES: usize = 24;

/// Runs a case to its end under faults: every line has its own result, in order and by itself on its line.
fn whole(case: &Case, faults: &serde_json::Value) -> harness::Ended {
    case.account.faults(faults);
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{faults}: {ended:?}");
    let verdict = Verdict::on(case);
    assert!(verdict.wrong_lines.is_empty() && verdict.lost == 0, "{faults}: {verdict:?}");
    let results = std::fs::read_to_string(case.out()).expect("results");
    assert!(results.ends_with('\n') && !results.contains('\r'), "{faults}");
    case.keeps_the_key(&ended);
    ended
}

/// The same, and nothing was bought more than once.
fn clean(case: &Case, faults: &serde_json::Value) -> harness::Ended {
    let ended = whole(case, faults);
    let verdict = Verdict::on(case);
    assert!(verdict.is_clean(), "{faults}: {verdict:?}");
    ended
}

#[test]
fn row_147_an_upload_without_an_answer_is_made_good() {
    let case = unhurried(Database::Sqlite, Protocol::OpenAi, LINES);
    clean(&case, &json!({"lose_upload_answers": 2}));
    let ledger = case.account.ledger();
    assert!(ledger.uploads > 3, "the fault did not strike: {} uploads", ledger.uploads);
    assert_eq!(ledger.creates, 3);
}

#[test]
fn row_148_lines_for_unknown_ids_are_set_aside_and_said() {
    for (database, protocol) in [Database::Sqlite, Database::Postgres].into_iter().zip(BOTH) {
        let case = unhurried(database, protocol, LINES);
        let ended = clean(&case, &json!({"unknown_rate": 1.0}));
        let said = ended.stderr.matches("a result line is set aside").count();
        assert_eq!(said, LINES, "one stranger after each line: {ended:?}");
        assert_eq!(ended.summary()["items"]["succeeded"], LINES);
        let results = std::fs::read_to_string(case.out()).expect("results");
        assert!(!results.contains("unknown-"), "a stranger is among the results");
    }
}

#[test]
fn row_149_doubled_lines_are_counted_and_paid_once() {
    for protocol in BOTH {
        let once = unhurried(Database::Sqlite, protocol, LINES);
        let mut twice = unhurried(Database::Sqlite, protocol, LINES);
        std::fs::copy(once.input(), twice.input()).expect("the same requests");
        twice.bodies = once.bodies.clone();
        let (once, twice) = (clean(&once, &json!({})).summary(), clean(&twice, &json!({"double_rate": 1.0})).summary());
        assert_ne!(once["spend_usd"], "0.00");
        assert_eq!(twice["spend_usd"], once["spend_usd"]);
        assert_eq!((&twice["items"], &twice["rounds"]), (&once["items"], &once["rounds"]));
    }
}

#[test]
fn row_150_downloads_that_are_cut_are_read_again() {
    for (database, protocol) in [Database::Postgres, Database::Sqlite].into_iter().zip(BOTH) {
        let case = unhurried(database, protocol, LINES);
        clean(&case, &json!({"cut_downloads": 4}));
    }
}

#[test]
fn row_150_line_ends_and_order_of_the_results_do_not_matter() {
    for protocol in BOTH {
        for faults in [
            json!({"crlf": true}),
            json!({"reorder": true}),
            json!({"crlf": true, "reorder": true, "double_rate": 0.5, "unknown_rate": 0.5, "cut_downloads": 2}),
        ] {
            clean(&unhurried(Database::Sqlite, protocol, LINES), &faults);
        }
    }
}

#[test]
fn row_150_a_result_that_is_missing_is_asked_for_again() {
    for protocol in BOTH {
        let case = unhurried(Database::Sqlite, protocol, LINES);
        // One round: a small batch of which every line is missing is waited for very long.
        case.account.faults(&json!({"missing_rate": 0.3}));
        let first = case.run_with(&["--max-rounds", "1"]);
        assert_eq!(first.code, Some(9), "{first:?}");
        let pending = first.summary()["items"]["pending"].as_u64().expect("a count");
        assert!(pending > 0 && first.stderr.contains("requests of the batch got no result line"), "{first:?}");
        let known = std::fs::read_to_string(case.out()).expect("what is known so far");
        let missing = known.lines().filter(|line| line.contains("missing")).count() as u64;
        assert_eq!((known.lines().count(), missing), (LINES, pending), "what is missing is known to be missing");
        let second = whole(&case, &json!({}));
        assert_eq!(second.summary()["items"]["succeeded"], LINES);
        let ledger = case.account.ledger();
        assert_eq!(ledger.items_billed_total, LINES as u64 + pending, "only what was missing is asked for again");
    }
}
