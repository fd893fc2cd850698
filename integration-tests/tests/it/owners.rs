//! Who may drive what: one process per store, one source per file, one scope per job, one account per batch.

use harness::{Case, Database, Protocol, Verdict, eventually};
use serde_json::json;
use std::process::Stdio;

/// Starts the case's job in the background and waits until its first batch is at the provider.
fn under_way(case: &Case) -> std::process::Child {
    let child = case.process().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    eventually("three batches are submitted", || case.account.ledger().batches.len() >= 3);
    child
}

#[test]
fn a_second_process_on_a_sqlite_store_exits_5_naming_the_first() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 6);
    case.account.faults(&json!({"latency_ms": 60_000}));
    let mut first = under_way(&case);
    let second = case.run();
    assert_eq!(second.code, Some(5), "{second:?}");
    assert!(second.stderr.contains(&format!("process {}", first.id())), "{}", second.stderr);
    first.kill().expect("killed");
    first.wait().expect("gone");
}

#[test]
fn a_second_process_on_the_same_job_in_postgres_exits_5_naming_the_first() {
    let case = Case::new(Database::Postgres, Protocol::OpenAi, 6);
    case.account.faults(&json!({"latency_ms": 60_000}));
    let mut first = under_way(&case);
    let second = case.run();
    assert_eq!(second.code, Some(5), "{second:?}");
    assert!(second.stderr.contains(&format!("process {}", first.id())), "{}", second.stderr);
    first.kill().expect("killed");
    first.wait().expect("gone");
    case.account.faults(&json!({"latency_ms": 50}));
    assert_eq!(case.account.ledger().creates, 3, "the second process sent nothing");
}

#[test]
fn another_provider_account_source_or_limit_is_told_apart_from_a_live_job() {
    let mut case = Case::new(Database::Sqlite, Protocol::OpenAi, 6);
    let killed = case.run_to("create.stored");
    assert!(killed.was_killed(), "{killed:?}");
    let creates = case.account.ledger().creates;
    for (args, words) in [
        (vec!["--provider", "sim"], ["openai", "sim"]),
        (vec!["--source", "daemon"], ["backfill", "daemon"]),
        (vec!["--max-attempts", "5"], ["12 attempts", "5 attempts"]),
    ] {
        let refused = case.run_with(&args);
        assert_eq!(refused.code, Some(5), "{args:?}: {refused:?}");
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("job_"), "{args:?}: {}", refused.stderr);
    }
    let own_key = case.account.key.clone();
    case.account.key = format!("{own_key}-other");
    let refused = case.run();
    assert_eq!(refused.code, Some(5), "another account: {refused:?}");
    case.account.key = own_key;
    assert_eq!(case.account.ledger().creates, creates, "nothing was sent meanwhile");
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn a_polite_stop_says_how_to_go_on_and_going_on_buys_nothing_twice() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let case = Case::new(Database::Sqlite, Protocol::Anthropic, 12);
        case.account.faults(&json!({"latency_ms": 2_000}));
        let child = case.process().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        eventually("a batch is submitted", || !case.account.ledger().batches.is_empty());
        let pid = child.id().to_string();
        std::process::Command::new("kill").args([signal, &pid]).status().expect("signalled");
        let ended: harness::Ended = child.wait_with_output().expect("ended").into();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains("run the same command again"), "{}", ended.stderr);
        let ended = case.run();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "{verdict:?}");
    }
}

#[test]
fn an_account_that_is_refused_stops_with_4_and_goes_on_once_it_is_accepted() {
    for fault in [json!({"reject_keys": true}), json!({"spend_limit": true})] {
        let case = Case::new(Database::Sqlite, Protocol::OpenAi, 9);
        case.account.faults(&fault);
        let ended = case.run();
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(ended.stderr.contains("hint:"), "{}", ended.stderr);
        case.account.faults(&json!({}));
        let ended = case.run_with(&["--max-attempts", "12"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let verdict = Verdict::on(&case);
        assert!(verdict.is_clean(), "{verdict:?}");
    }
}

#[test]
fn results_that_are_said_to_be_on_another_host_never_get_the_key() {
    let case = Case::new(Database::Sqlite, Protocol::Anthropic, 6);
    let thief = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    thief.set_nonblocking(true).expect("non-blocking");
    let host = thief.local_addr().expect("its address").to_string();
    case.account.faults(&json!({"foreign_results_host": host}));
    let ended = case.run_with(&["--max-wallclock", "2s"]);
    assert_eq!(ended.code, Some(9), "{ended:?}");
    assert!(ended.stderr.contains("not the provider's host"), "{}", ended.stderr);
    assert!(thief.accept().is_err(), "nobody connected to the foreign host");
}
