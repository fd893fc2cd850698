//! Actors killed on purpose in the running binary: by a panic, a stop and a hang, each many times.

use harness::{Case, Database, Ended, Protocol, Verdict, eventually};
use serde_json::json;
use std::time::Duration;

const KILLS: u64 = 50;

/// The numbers of one `chaos:` line, such as `panic=50 panic_p99_ms=12`.
fn number(ended: &Ended, actor: &str, key: &str) -> u64 {
    let line = ended.stderr.lines().find(|line| line.starts_with(&format!("chaos: {actor} ")));
    let line = line.unwrap_or_else(|| panic!("no chaos line of {actor} in {ended:?}"));
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(&format!("{key}=")));
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {key} in {line}"))
}

/// Kills all three children in all three ways while a job with slow batches goes on.
fn actors_killed_during_a_job(protocol: Protocol) {
    let mut case = Case::new(Database::Sqlite, protocol, 600);
    // The first batches outlast all kills; the others flow through every step while actors die.
    case.account.faults(&json!({"latency_ms": 75_000, "lose_answers": 1, "item_error_rate": 0.1}));
    let settings = [
        ("TIDEGATE_SUPERVISOR__HANG_SECONDS", "0.2"),
        ("TIDEGATE_SUPERVISOR__MAX_RESTARTS", "100000"),
        ("TIDEGATE_CHAOS", "kills=50 every=20ms"),
    ];
    case.env.extend(settings.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let (case, kills) = (case, KILLS);
    let ended = std::thread::scope(|scope| {
        let command = case.process_with(&["--max-batch-requests", "5"]);
        let run = scope.spawn(|| case.kill_after(command, Duration::from_secs(240)));
        eventually("three batches are submitted", || case.account.ledger().batches.len() >= 3);
        case.account.faults(&json!({"latency_ms": 100}));
        run.join().expect("the run")
    });
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for actor in ["batch_poller", "sweeper", "job_drive"] {
        for mode in ["panic", "stop", "hang"] {
            assert_eq!(number(&ended, actor, mode), kills, "{actor} {mode}: {}", ended.stderr);
        }
        for mode in ["panic", "stop"] {
            let p99 = number(&ended, actor, &format!("{mode}_p99_ms"));
            assert!(p99 <= 1_000, "{actor} came back from a {mode} after {p99} ms");
        }
    }
    let chaos: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("chaos:")).collect();
    println!("actor kills by {protocol:?}:\n{}", chaos.join("\n"));
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn actors_killed_fifty_times_in_every_way_come_back_and_nothing_is_bought_twice_by_openai() {
    actors_killed_during_a_job(Protocol::OpenAi);
}

#[test]
fn actors_killed_fifty_times_in_every_way_come_back_and_nothing_is_bought_twice_by_anthropic() {
    actors_killed_during_a_job(Protocol::Anthropic);
}

#[test]
fn a_child_that_dies_again_and_again_ends_the_process_with_70_and_the_reason() {
    for actor in ["batch_poller", "sweeper", "job_drive"] {
        let mut case = Case::new(Database::Sqlite, Protocol::OpenAi, 6);
        case.account.faults(&json!({"latency_ms": 60_000}));
        let chaos = format!("actors={actor} modes=panic kills=1000 every=10ms");
        case.env.push(("TIDEGATE_CHAOS".to_owned(), chaos));
        let ended = case.kill_after(case.process(), Duration::from_secs(35));
        assert_eq!(ended.code, Some(70), "{ended:?}");
        assert!(ended.stderr.contains(actor) && ended.stderr.contains("killed on purpose"), "{}", ended.stderr);
        case.env.retain(|(key, _)| key != "TIDEGATE_CHAOS");
        case.account.faults(&json!({"latency_ms": 50}));
        let doubled = case.account.ledger().billed_twice;
        assert!(doubled.is_empty(), "{doubled:?}");
    }
}
