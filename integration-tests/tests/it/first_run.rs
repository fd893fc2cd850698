//! The main job without any trouble, on both databases and both protocols.

use harness::{Case, Database, Protocol, Verdict};

fn a_file_becomes_results(database: Database, protocol: Protocol) {
    let case = Case::new(database, protocol, 30);
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let summary = ended.summary();
    assert_eq!(summary["items"], serde_json::json!({"total": 30, "succeeded": 30, "failed": 0, "pending": 0}));
    assert_eq!(summary["batches"], serde_json::json!({"created": 3, "adopted": 0, "unknown": 0, "cancelled": 0}));
    assert_eq!((&summary["stop_reason"], &summary["clean"]), (&"drained".into(), &true.into()));
    assert_eq!(summary["reserved_usd"], "0.00");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
    let again = case.run();
    assert_eq!((again.code, &again.summary()["resumed"]), (Some(0), &true.into()), "{again:?}");
    assert_eq!(case.account.ledger().creates, 3, "a finished job only rewrites its results");
}

#[test]
fn a_file_becomes_results_on_sqlite_by_openai() {
    a_file_becomes_results(Database::Sqlite, Protocol::OpenAi);
}

#[test]
fn a_file_becomes_results_on_sqlite_by_anthropic() {
    a_file_becomes_results(Database::Sqlite, Protocol::Anthropic);
}

#[test]
fn a_file_becomes_results_on_postgres_by_openai() {
    a_file_becomes_results(Database::Postgres, Protocol::OpenAi);
}

#[test]
fn a_file_becomes_results_on_postgres_by_anthropic() {
    a_file_becomes_results(Database::Postgres, Protocol::Anthropic);
}

#[test]
fn the_newer_dialect_of_anthropic_carries_a_file_as_well() {
    let mut case = Case::new(Database::Sqlite, Protocol::Anthropic, 9);
    case.env.push(("TIDEGATE_PROVIDERS__ANTHROPIC__VERSION".to_owned(), "2026-10-21".to_owned()));
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}
