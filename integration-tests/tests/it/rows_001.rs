//! Acceptance rows of 001 on the command line: a dry run leaves no trace, and nobody drives another's job.

use harness::{Case, Database, Ended, Protocol, Verdict};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn case(lines: usize) -> Case {
    Case::new(Database::Sqlite, Protocol::OpenAi, lines)
}

/// Runs `tidegate process` until its first batch is stored as accepted, and kills it there.
fn killed_in_flight(case: &Case, args: &[&str]) {
    let mut command = case.process_with(args);
    command.env("TIDEGATE_FAILPOINT", "create.stored");
    let killed = case.finish(command);
    assert!(killed.was_killed(), "{killed:?}");
}

/// Every file of the case with its bytes.
fn files(case: &Case) -> BTreeMap<PathBuf, Vec<u8>> {
    let bytes = |path: PathBuf| (path.clone(), std::fs::read(path).expect("a file"));
    case.files().into_iter().map(bytes).collect()
}

fn names(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<&Path> {
    files.keys().map(PathBuf::as_path).collect()
}

/// Asks for a dry run and holds what it says against the case.
fn dry_run(case: &Case, args: &[&str]) {
    let ended = case.run_with(&[args, &["--dry-run"]].concat());
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    let plan = ended.summary();
    assert_eq!((&plan["dry_run"], &plan["items"]), (&true.into(), &case.lines.into()), "{args:?}");
    assert_eq!(plan["batches"], 3, "{args:?}");
    let usd = |key: &str| -> f64 { plan[key].as_str().expect("a decimal").parse().expect("a number") };
    assert!(0.0 < usd("low_usd") && usd("low_usd") <= usd("worst_usd"), "{plan}");
}

#[test]
fn s001_b4_a_dry_run_writes_nothing_and_sends_nothing() {
    for provider in ["openai", "sim"] {
        let case = case(30);
        let before = files(&case);
        assert_eq!(names(&before), [case.input()], "there is neither a store nor results nor simulator state");
        dry_run(&case, &["--provider", provider]);
        assert_eq!(names(&files(&case)), [case.input()], "{provider}");
        let ledger = case.account.ledger();
        assert_eq!((ledger.creates, ledger.uploads), (0, 0), "{provider}");
    }
}

#[test]
fn s001_b4_a_dry_run_beside_a_live_job_changes_no_byte_of_its_state() {
    for provider in ["openai", "sim"] {
        let case = case(30);
        killed_in_flight(&case, &["--provider", provider, "--max-batch-requests", "30"]);
        let before = files(&case);
        let ledger = case.account.ledger();
        for more in [vec![], vec!["--max-usd", "5"], vec!["--source", "daemon"], vec!["--restart"]] {
            dry_run(&case, &[vec!["--provider", provider], more.clone()].concat());
            let after = files(&case);
            assert_eq!(names(&after), names(&before), "{provider} {more:?}");
            let changed: Vec<_> = after.iter().filter(|(path, bytes)| before[*path] != **bytes).collect();
            assert!(changed.is_empty(), "{provider} {more:?}: {:?}", changed[0].0);
        }
        let same = case.account.ledger();
        assert_eq!((same.creates, same.uploads), (ledger.creates, ledger.uploads), "{provider}");
    }
}

#[test]
fn s001_b5_a_dry_run_counts_its_own_file_only() {
    let case = case(100);
    let mut other = self::case(7);
    other.store = case.store.clone();
    killed_in_flight(&other, &["--max-batch-requests", "3"]);
    let jobs = case.look_json(&["jobs", "list"]);
    assert_eq!(jobs["data"][0]["items"]["pending"], 7, "another job's runs are pending in the store: {jobs}");
    for (most, batches) in [("33", 4), ("40", 3), ("99", 2), ("100", 1)] {
        let plan = case.run_with(&["--dry-run", "--max-batch-requests", most]).summary();
        assert_eq!((&plan["items"], &plan["batches"]), (&100.into(), &batches.into()), "{most} a batch: {plan}");
    }
}

/// A job of one source, killed with its batch in flight, then asked for by the other source.
fn refused_to_the_other_source(owner: &str, other: &str) {
    let case = case(6);
    let process = |source: &str| -> Ended { case.run_with(&["--source", source, "--max-batch-requests", "6"]) };
    killed_in_flight(&case, &["--source", owner, "--max-batch-requests", "6"]);
    let job = case.look_json(&["jobs", "list"])["data"][0].clone();
    let id = job["id"].as_str().expect("an id").to_owned();
    assert_eq!((&job["source"], &job["state"]), (&owner.into(), &"running".into()));
    let before = (case.look_json(&["jobs", "get", &id]), case.look_json(&["batches", "list"]));
    let ledger = case.account.ledger();
    assert_eq!(ledger.creates, 1);

    let refused = process(other);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(refused.stderr.contains(&format!("the {owner} job {id}")), "the owner: {}", refused.stderr);
    assert!(refused.stderr.contains(&format!("a {other} job")), "who asks: {}", refused.stderr);
    assert!(refused.stderr.contains(&format!("--source {owner}")), "the way on: {}", refused.stderr);
    assert_eq!(refused.stdout, "");
    let after = (case.look_json(&["jobs", "get", &id]), case.look_json(&["batches", "list"]));
    assert_eq!(after, before, "the job and its batch are as they were");
    assert_eq!(case.look_json(&["jobs", "list"])["data"].as_array().map(Vec::len), Some(1));
    let same = case.account.ledger();
    assert_eq!((same.creates, same.uploads), (ledger.creates, ledger.uploads), "nothing was sent");

    let ended = process(owner);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let summary = ended.summary();
    assert_eq!((&summary["job_id"], &summary["resumed"]), (&id.into(), &true.into()));
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean() && verdict.creates == 1, "{verdict:?}");
}

#[test]
fn s001_b7_a_foreign_source_is_refused_with_exit_5_and_sends_nothing() {
    refused_to_the_other_source("backfill", "daemon");
}

#[test]
fn s001_b8_a_daemon_job_is_refused_to_a_backfill_in_the_same_way() {
    refused_to_the_other_source("daemon", "backfill");
}
