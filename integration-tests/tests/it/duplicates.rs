//! Lost answers, late creates, and what is done about the duplicates that a provider may make of them.

use harness::{Case, Database, Protocol, Verdict};
use serde_json::json;

#[test]
fn lost_answers_leave_one_batch_one_batch() {
    for protocol in [Protocol::OpenAi, Protocol::Anthropic] {
        for lost in [1, 2, 10] {
            let case = Case::new(Database::Sqlite, protocol, 12);
            case.account.faults(&json!({"lose_answers": lost}));
            let ended = case.run_with(&["--max-batch-requests", "1"]);
            assert_eq!(ended.code, Some(0), "{ended:?}");
            let verdict = Verdict::on(&case);
            assert!(verdict.is_clean(), "{protocol:?} {lost}: {verdict:?}");
            assert_eq!(verdict.batches, 12, "{protocol:?}: {lost} lost answers");
            assert_eq!(ended.summary()["batches"]["adopted"], lost);
        }
    }
}

#[test]
fn a_create_that_arrives_after_its_file_was_deleted_starts_nothing() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 6);
    // Later than the settle time of 300 ms: the absence is proven and the file is gone by then.
    case.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 1_500, "latency_ms": 2_500}));
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn a_late_create_within_the_settle_time_is_adopted() {
    for protocol in [Protocol::OpenAi, Protocol::Anthropic] {
        let case = Case::new(Database::Postgres, protocol, 6);
        case.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 400}));
        let ended = case.run_with(&["--settle", "2s"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!(ended.summary()["batches"]["adopted"], 1);
    }
}

#[test]
fn a_duplicate_that_appears_after_the_settle_time_is_found_counted_and_cancelled() {
    let case = Case::new(Database::Sqlite, Protocol::Anthropic, 6);
    // Nothing fences a late create here; the residual is a duplicate, which must not go unnoticed.
    case.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 1_200, "latency_ms": 4_000}));
    let mut case = case;
    case.env.push(("TIDEGATE_PROVIDERS__ANTHROPIC__EXCLUSIVE".to_owned(), "true".to_owned()));
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.summary()["batches"]["cancelled"], 1, "{ended:?}");
    assert!(ended.stderr.contains("the provider has this batch twice"), "{}", ended.stderr);
    let cancelled = case.account.ledger().batches.iter().filter(|batch| batch.billed == 0).count();
    assert_eq!(cancelled, 1, "the duplicate was stopped before it was billed");
}

#[test]
fn under_the_hold_policy_an_absent_batch_waits_for_an_operator() {
    let mut case = Case::new(Database::Sqlite, Protocol::Anthropic, 6);
    case.env.push(("TIDEGATE_PROVIDERS__ANTHROPIC__POLICY".to_owned(), "hold".to_owned()));
    case.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 3_600_000}));
    let ended = case.run_with(&["--max-wallclock", "3s"]);
    assert_eq!(ended.code, Some(9), "{ended:?}");
    assert_eq!(ended.summary()["batches"]["unknown"], 1);
    let mut list = case.tidegate();
    list.args(["batches", "list", "--state", "unknown", "-o", "json"]);
    let listed = case.finish(list);
    let id = listed.summary()["data"][0]["id"].as_str().expect("the unknown batch").to_owned();
    let mut abandon = case.tidegate();
    abandon.args(["batches", "abandon", &id, "--yes"]);
    let abandoned = case.finish(abandon);
    assert_eq!(abandoned.code, Some(0), "{abandoned:?}");
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}
