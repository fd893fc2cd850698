//! Requests that are called one by one: as a canary before a large batch, because a batch is not worth it, or
//! because it would come too late. A lost answer may have been paid for, and nothing else is bought twice.

use harness::{Case, Database, Protocol, Verdict};
use serde_json::json;
use storage::failpoint::{Failpoint, PassedBy};

const BOTH: [Protocol; 2] = [Protocol::OpenAi, Protocol::Anthropic];
/// Calls that are under way at once in one batch.
const CALLS_AT_ONCE: usize = 16;
/// As many requests of a kind as a canary is sent for.
const A_KIND: usize = 1_000;

fn worst(case: &Case) -> f64 {
    let dry = case.run_with(&["--dry-run"]).summary();
    dry["worst_usd"].as_str().expect("a bound").parse().expect("a number")
}

#[test]
fn a_canary_is_called_once_before_a_large_batch_and_its_answer_is_used() {
    for (protocol, database) in BOTH.into_iter().zip([Database::Sqlite, Database::Postgres]) {
        let case = Case::new(database, protocol, A_KIND);
        let ended = case.run_with(&["--canary"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "{verdict:?}");
        let ledger = case.account.ledger();
        assert_eq!((ledger.calls, ledger.calls_billed), (1, 1));
        let modes = case.look_json(&["batches", "list"]);
        assert!(modes.to_string().contains(r#""mode":"canary""#), "{modes}");
        let again = case.run_with(&["--canary", "--restart"]);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert_eq!(case.account.ledger().calls, 1, "what is known of a kind is not asked again the same day");
    }
}

#[test]
fn nothing_is_called_live_that_was_not_asked_for_and_few_requests_have_no_canary() {
    let large = Case::new(Database::Sqlite, Protocol::OpenAi, A_KIND);
    assert_eq!(large.run().code, Some(0));
    let small = Case::new(Database::Sqlite, Protocol::OpenAi, A_KIND - 1);
    assert_eq!(small.run_with(&["--canary"]).code, Some(0));
    assert_eq!((large.account.ledger().calls, small.account.ledger().calls), (0, 0));
}

#[test]
fn a_kind_that_the_canary_finds_refused_is_not_sent_and_the_rest_is() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 40);
        // A thousand lines with a parameter that the model does not take, after forty without it.
        let text = std::fs::read_to_string(case.input()).expect("the input");
        let refused = (0..A_KIND).map(|line| {
            let body = format!(
                r#"{{"model":"claude-sonnet-4-5","temperature":0.2,"max_tokens":9,"messages":[{{"role":"user","content":"{line}"}}]}}"#
            );
            match protocol {
                Protocol::OpenAi => format!(
                    "{{\"custom_id\":\"warm-{line}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{}}}\n",
                    body.replace("claude-sonnet-4-5", "gpt-4o-mini")
                ),
                Protocol::Anthropic => format!("{{\"custom_id\":\"warm-{line}\",\"params\":{body}}}\n"),
            }
        });
        std::fs::write(case.input(), text + &refused.collect::<String>()).expect("the input is written");
        case.account.faults(&json!({"refuse_parameter": "temperature"}));
        let ended = case.run_with(&["--canary", "--max-attempts", "2"]);
        assert_eq!(ended.code, Some(8), "{ended:?}");
        let items = &ended.summary()["items"];
        assert_eq!((&items["succeeded"], &items["failed"]), (&40.into(), &A_KIND.into()));
        let ledger = case.account.ledger();
        assert_eq!(
            (ledger.calls, ledger.calls_billed),
            (2, 0),
            "two were asked, since one may be refused for its content"
        );
        let sent: u64 = ledger.batches.iter().map(|batch| batch.requests).sum();
        assert_eq!(sent, 40, "none of the refused kind was sent in a batch");
        let results = std::fs::read_to_string(case.out()).expect("results");
        let named = results.lines().filter(|line| line.contains("unsupported_parameter")).count();
        assert_eq!(named, A_KIND, "each line says why");
        case.account.faults(&json!({}));
        let anew = case.run_with(&["--restart"]);
        assert_eq!(anew.code, Some(0), "without a canary the batch itself is asked: {anew:?}");
    }
}

#[test]
fn few_requests_are_called_live_at_the_live_price() {
    for (protocol, database) in BOTH.into_iter().zip([Database::Postgres, Database::Sqlite]) {
        let batch = Case::new(database, protocol, 20);
        assert_eq!(batch.run().code, Some(0));
        let live = Case::new(database, protocol, 20);
        let ended = live.run_with(&["--live-below", "100"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&live);
        assert!(verdict.is_clean(), "{verdict:?}");
        let ledger = live.account.ledger();
        assert_eq!((ledger.creates, ledger.uploads, ledger.calls_billed), (0, 0, 20));
        let spent = ended.summary()["spend_usd"].as_str().expect("spent").parse::<f64>().expect("a number");
        assert!(spent > 0.0 && spent <= worst(&live) * 2.0, "{spent}");
    }
}

#[test]
fn a_cap_that_allows_a_batch_and_no_live_calls_has_a_batch() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 9);
    let cap = format!("{:.9}", worst(&case) * 1.05);
    let ended = case.run_with(&["--live-below", "100", "--max-usd", &cap, "--max-batch-requests", "9"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ledger = case.account.ledger();
    assert_eq!((ledger.creates, ledger.calls), (1, 0));
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn batches_that_would_come_too_late_are_stopped_and_the_rest_is_called() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 30);
        case.account.faults(&json!({"latency_ms": 60_000}));
        let ended = case.run_with(&["--live-after", "500ms"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let ledger = case.account.ledger();
        assert!(ledger.creates > 0 && ledger.calls_billed > 0, "{ledger:?}");
        assert!(ledger.batches.iter().all(|batch| batch.status != "in_progress"), "{ledger:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "what a stopped batch had done is kept: {verdict:?}");
    }
}

#[test]
fn a_provider_that_is_busy_costs_no_attempt() {
    let case = Case::new(Database::Sqlite, Protocol::Anthropic, 9);
    case.account.faults(&json!({"busy_calls": 4}));
    let ended = case.run_with(&["--live-below", "100", "--max-attempts", "1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(case.account.ledger().calls, 13);
}

#[test]
fn an_account_without_money_stops_live_calls_and_is_named() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 9);
    case.account.faults(&json!({"spend_limit": true}));
    let ended = case.run_with(&["--live-below", "100"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("billing"), "{ended:?}");
    case.account.faults(&json!({}));
    assert_eq!(case.run_with(&["--live-below", "100"]).code, Some(0));
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn a_lost_answer_counts_as_paid_and_only_its_request_is_called_again() {
    for protocol in BOTH {
        let case = Case::new(Database::Sqlite, protocol, 12);
        case.account.faults(&json!({"lose_call_answers": 3}));
        let ended = case.run_with(&["--live-below", "100"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let ledger = case.account.ledger();
        assert_eq!((ledger.calls_billed, ledger.billed_twice.len(), ledger.creates), (15, 3, 0));
        let spent = ended.summary()["spend_usd"].as_str().expect("spent").parse::<f64>().expect("a number");
        assert!(spent >= worst(&case) * 2.0 * 3.0 / 12.0, "the bound of the lost ones is booked: {spent}");
    }
}

#[test]
fn killed_while_calling_no_more_is_bought_again_than_was_under_way() {
    let points: Vec<_> = Failpoint::ALL.iter().filter(|point| point.passed_by() == PassedBy::Live).collect();
    assert_eq!(points.len(), 4);
    for (database, protocol) in [(Database::Sqlite, Protocol::OpenAi), (Database::Postgres, Protocol::Anthropic)] {
        for point in &points {
            let case = Case::new(database, protocol, 24);
            let all_in_one = ["--live-below", "100", "--max-batch-requests", "24"];
            let mut command = case.process_with(&all_in_one);
            command.env("TIDEGATE_FAILPOINT", point.name());
            let killed = case.finish(command);
            assert!(killed.was_killed(), "{}: {killed:?}", point.name());
            let ended = case.run_with(&all_in_one);
            assert_eq!(ended.code, Some(0), "{}: {ended:?}", point.name());
            let verdict = Verdict::on(&case);
            assert!(verdict.lost == 0 && verdict.wrong_lines.is_empty(), "{}: {verdict:?}", point.name());
            let in_doubt = if **point == Failpoint::LiveAnswered { CALLS_AT_ONCE } else { 0 };
            assert_eq!(verdict.billed_twice, in_doubt, "{}: {verdict:?}", point.name());
            assert_eq!(case.account.ledger().calls_billed, 24 + in_doubt as u64, "{}", point.name());
        }
    }
}

#[test]
fn a_canary_that_died_in_doubt_is_not_sent_again() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, A_KIND);
    let mut command = case.process_with(&["--canary"]);
    command.env("TIDEGATE_FAILPOINT", Failpoint::LiveAnswered.name());
    assert!(case.finish(command).was_killed());
    let ended = case.run_with(&["--canary"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ledger = case.account.ledger();
    assert_eq!((ledger.calls, ledger.billed_twice.len()), (1, 1), "one call was in doubt, and was made once");
}
