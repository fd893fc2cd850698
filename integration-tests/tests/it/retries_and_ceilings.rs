//! Only what failed is sent again, up to a limit; every ceiling stops the job before it is passed, with what
//! is known written out, and a raised ceiling goes on where it stopped.

use harness::{Case, Database, Ended, Protocol, Verdict};
use serde_json::json;

const BOTH: [Protocol; 2] = [Protocol::OpenAi, Protocol::Anthropic];

fn items(ended: &Ended) -> (u64, u64, u64) {
    let summary = ended.summary();
    let count = |key: &str| summary["items"][key].as_u64().expect("a count");
    (count("succeeded"), count("failed"), count("pending"))
}

fn results(case: &Case) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(case.out()).expect("results");
    text.lines().map(|line| serde_json::from_str(line).expect("a result line")).collect()
}

#[test]
fn only_the_items_that_errored_are_sent_again() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 60);
        case.account.faults(&json!({"item_error_rate": 0.1}));
        let ended = case.run_with(&["--max-attempts", "3"]);
        let (succeeded, failed, pending) = items(&ended);
        assert_eq!((succeeded + failed, pending), (60, 0), "{ended:?}");
        let ledger = case.account.ledger();
        let sent: u64 = ledger.batches.iter().map(|batch| batch.requests).sum();
        assert!((61..90).contains(&sent), "{sent} requests were sent for 60 items with a tenth of errors");
        assert_eq!((ledger.items_billed_total, ledger.billed_twice.len()), (succeeded, 0));
    }
}

#[test]
fn what_stays_failed_has_its_error_line_and_the_exit_code_says_so() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 40);
        case.account.faults(&json!({"item_error_always_rate": 0.2}));
        let ended = case.run_with(&["--max-attempts", "3"]);
        assert_eq!(ended.code, Some(8), "{ended:?}");
        let (succeeded, failed, pending) = items(&ended);
        assert_eq!((succeeded + failed, pending), (40, 0));
        assert!(failed > 0, "the fault did not fire");
        let sent: u64 = case.account.ledger().batches.iter().map(|batch| batch.requests).sum();
        assert_eq!(sent, 40 + 2 * failed, "each failing item is tried three times, the others once");
        let errors = results(&case).iter().filter(|line| is_error(protocol, line)).count();
        assert_eq!(errors as u64, failed);
        assert_eq!(ended.summary()["stop_reason"], "drained");
        let again = case.run_with(&["--max-attempts", "3"]);
        assert_eq!(again.code, Some(8), "a finished job says the same again");
        assert_eq!(case.account.ledger().creates, case.account.ledger().batches.len() as u64);
    }
}

fn is_error(protocol: Protocol, line: &serde_json::Value) -> bool {
    match protocol {
        Protocol::OpenAi => !line["error"].is_null() || line["response"]["status_code"].as_u64().unwrap_or(0) >= 400,
        Protocol::Anthropic => line["result"]["type"] != "succeeded",
    }
}

#[test]
fn two_rounds_of_nothing_but_errors_stop_as_degraded() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 12);
        case.account.faults(&json!({"item_error_always_rate": 1.0}));
        let ended = case.run();
        assert_eq!(ended.code, Some(9), "{ended:?}");
        let summary = ended.summary();
        assert_eq!((&summary["stop_reason"], &summary["rounds"]), (&"degraded".into(), &2.into()));
        assert_eq!(summary["clean"], false);
        assert_eq!(items(&ended), (0, 0, 12));
        assert_eq!(results(&case).len(), 12, "the error lines are known and written");
    }
}

#[test]
fn the_spend_cap_stops_before_the_batch_that_would_pass_it_and_a_higher_one_goes_on() {
    for database in [Database::Sqlite, Database::Postgres] {
        let case = Case::new(database, Protocol::OpenAi, 30);
        let dry: serde_json::Value = case.run_with(&["--dry-run"]).summary();
        let worst: f64 = dry["worst_usd"].as_str().expect("a bound").parse().expect("a number");
        // Room for the first batch of ten and not for all.
        let cap = format!("{:.9}", worst * 0.5);
        let ended = case.run_with(&["--max-usd", &cap]);
        assert_eq!(ended.code, Some(9), "{ended:?}");
        let summary = ended.summary();
        assert_eq!(summary["stop_reason"], "spend_cap");
        let spent: f64 = summary["spend_usd"].as_str().expect("spent").parse().expect("a number");
        assert!(spent > 0.0 && spent <= worst * 0.5, "spent {spent} under a cap of {cap}");
        let (succeeded, _, pending) = items(&ended);
        assert!(succeeded > 0 && pending > 0, "{succeeded} succeeded, {pending} pending");
        assert_eq!(results(&case).len() as u64, succeeded, "what is known is written out");
        let same = case.run_with(&["--max-usd", &cap]);
        assert_eq!((same.code, items(&same)), (Some(9), items(&ended)), "the same cap stops at the same place");
        let more = case.run_with(&["--max-usd", &format!("{:.9}", worst * 2.0)]);
        assert_eq!(more.code, Some(0), "{more:?}");
        assert_eq!(more.summary()["resumed"], true);
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "{verdict:?}");
    }
}

#[test]
fn a_cap_below_the_first_batch_buys_nothing() {
    let case = Case::new(Database::Sqlite, Protocol::Anthropic, 9);
    let ended = case.run_with(&["--max-usd", "0.000000001"]);
    assert_eq!(ended.code, Some(9), "{ended:?}");
    assert_eq!(ended.summary()["stop_reason"], "spend_cap");
    assert_eq!(case.account.ledger().creates, 0);
}

#[test]
fn the_wall_clock_stops_with_a_batch_in_flight_which_the_next_run_collects() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 12);
        case.account.faults(&json!({"latency_ms": 3_000}));
        let ended = case.run_with(&["--max-wallclock", "700ms"]);
        assert_eq!(ended.code, Some(9), "{ended:?}");
        assert_eq!(ended.summary()["stop_reason"], "wallclock");
        assert_eq!(items(&ended), (0, 0, 12));
        let bought = case.account.ledger().batches.len();
        assert!(bought > 0, "something was in flight");
        let ended = case.run();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean() && verdict.batches == bought, "{verdict:?}");
    }
}

#[test]
fn the_ceiling_of_rounds_is_kept_and_what_is_left_is_said() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 30);
    case.account.faults(&json!({"item_error_always_rate": 0.4}));
    let ended = case.run_with(&["--max-rounds", "1"]);
    assert_eq!(ended.code, Some(9), "{ended:?}");
    let summary = ended.summary();
    assert_eq!((&summary["stop_reason"], &summary["rounds"]), (&"max_rounds".into(), &1.into()));
    let (succeeded, failed, pending) = items(&ended);
    assert_eq!((succeeded + pending, failed), (30, 0));
    assert!(ended.stderr.contains(&format!("{pending} pending")), "{}", ended.stderr);
}

#[test]
fn a_full_queue_at_the_provider_costs_no_attempt() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 30);
    case.account.faults(&json!({"token_limit_failures": 2}));
    let ended = case.run_with(&["--max-attempts", "1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn what_the_queue_takes_is_learned_and_what_is_in_flight_stays_below_it() {
    for database in [Database::Sqlite, Database::Postgres] {
        let case = Case::new(database, Protocol::OpenAi, 90);
        let bytes = std::fs::metadata(case.input()).expect("the input").len();
        // Room for about four tenths of the file at once, in batches of a sixth.
        case.account.faults(&json!({"queue_bytes": bytes * 2 / 5, "latency_ms": 300}));
        let ended = case.run_with(&["--max-attempts", "1", "--max-batch-requests", "15"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "no attempt was burnt and nothing was bought twice: {verdict:?}");
        let batches = case.account.ledger().batches;
        let refused = batches.iter().filter(|batch| batch.status == "failed").count();
        assert!((1..batches.len() / 2).contains(&refused), "{refused} of {} batches were refused", batches.len());
    }
}

#[test]
fn a_late_refusal_of_a_batch_fails_the_lines_it_names_and_sends_the_rest_again() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 30);
    case.account.faults(&json!({"late_failures": 1}));
    let ended = case.run_with(&["--max-attempts", "2"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn expired_batches_keep_what_was_bought_and_send_only_the_rest() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 30);
        case.account.faults(&json!({"expire_batches": 2}));
        let ended = case.run();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "{verdict:?}");
    }
}

#[test]
fn results_that_come_late_doubled_shuffled_and_with_strangers_are_matched_by_id() {
    for protocol in BOTH {
        let case = Case::new(Database::Postgres, protocol, 30);
        case.account.faults(&json!({
            "reorder": true, "double_rate": 0.3, "unknown_rate": 0.2, "crlf": true, "output_delay_ms": 400,
            "cut_downloads": 2, "unavailable_rate": 0.05, "rate_limits": 1, "overloads": 1,
        }));
        let ended = case.run();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "{verdict:?}");
    }
}
