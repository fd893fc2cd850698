//! Batches that somebody watches, from before they end and after it.

use harness::{Case, Database, Protocol, Verdict, eventually, sql};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn watch(case: &Case, id: &str, form: &str, out: &Path) -> Child {
    let mut command = case.tidegate();
    command.args(["batches", "watch", id, "-o", form]).stderr(Stdio::null());
    command.stdout(std::fs::File::create(out).expect("a file")).spawn().expect("the binary starts")
}

fn lines(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out).expect("what was printed");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn words(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["event"].as_str()).collect()
}

fn batches(case: &Case) -> Vec<String> {
    let rows = sql::rows(&case.store, "SELECT id FROM batches ORDER BY created_at, id");
    rows.into_iter().filter_map(|row| row[0].clone()).collect()
}

#[test]
fn a_batch_is_watched_beside_the_process_that_carries_it_until_it_is_collected() {
    let case = Case::new(Database::Postgres, Protocol::OpenAi, 6);
    // A cancel takes a tenth of it.
    case.account.faults(&json!({"latency_ms": 30_000}));
    let mut process = case.process_with(&["--max-batch-requests", "6"]);
    let mut process = process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    eventually("a batch is submitted", || !case.account.ledger().batches.is_empty());
    let id = batches(&case).remove(0);

    let (out, left) = (case.dir.path().join("watched"), case.dir.path().join("left"));
    let (mut watcher, mut leaver) = (watch(&case, &id, "jsonl", &out), watch(&case, &id, "table", &left));
    eventually("it is seen at its provider", || words(&lines(&out)).contains(&"accepted"));
    eventually("the other sees it too", || {
        std::fs::read_to_string(&left).expect("what was printed").contains("\taccepted\tsubmitted\t")
    });
    let seen = lines(&out);
    let counts = json!({"total": 6, "succeeded": 0, "errored": 0, "uncounted": 0, "open": 6});
    let last = seen.last().expect("an event");
    assert_eq!((&last["state"], &last["requests"]), (&json!("submitted"), &counts), "{seen:?}");
    Command::new("kill").args(["-INT", &leaver.id().to_string()]).status().expect("signalled");
    assert_eq!(leaver.wait().expect("it ends").code(), Some(130));
    assert!(watcher.try_wait().expect("a child").is_none(), "the batch goes on, and so does who watches it");

    // What it has not carried out goes into the next one, which is fast.
    case.account.faults(&json!({"latency_ms": 50}));
    assert_eq!(case.look(&["batches", "cancel", &id]).code, Some(0));
    assert_eq!(watcher.wait().expect("it ends").code(), Some(0));
    assert_eq!(process.wait().expect("it ends").code(), Some(0));
    let seen = lines(&out);
    let (batch, events) = seen.split_last().expect("the batch");
    let kept = case.look_json(&["batches", "get", &id]);
    let told: Vec<_> = kept["events"].as_array().expect("events").iter().map(|event| &event["event"]).collect();
    assert_eq!(words(events), told, "each event once, in order");
    assert!(told.len() >= 6 && told.contains(&&json!("cancel_asked")), "{told:?}");
    let last = events.last().expect("an event");
    assert_eq!((&last["event"], &last["state"]), (&json!("collected"), &json!("collected")));
    assert_eq!((&batch["id"], &batch["requests"]), (&json!(id), &last["requests"]));
    assert_eq!(batch["requests"], kept["requests"]);
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn one_that_has_ended_is_told_from_its_beginning_at_once() {
    let case = Case::new(Database::Sqlite, Protocol::Anthropic, 3);
    let ended = case.run_with(&["--max-batch-requests", "3"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let id = batches(&case).remove(0);
    let whole = case.look_json(&["batches", "get", &id]);
    assert_eq!(case.look_json(&["batches", "watch", &id]), whole);
    let count = whole["events"].as_array().map_or(0, Vec::len);
    let table = case.look(&["batches", "watch", &id]);
    assert_eq!((table.code, table.stdout.lines().count()), (Some(0), count), "{table:?}");
    for line in table.stdout.lines() {
        assert_eq!(line.split('\t').count(), 5, "{line}");
    }
    let last = table.stdout.lines().last().expect("an event");
    assert!(last.contains("\tcollected\tcollected\t3 of 3 succeeded, 0 errored, 0 open\t"), "{last}");
    for command in ["get", "watch"] {
        let missing = case.look(&["batches", command, "bat_nothing"]);
        assert_eq!((missing.code, missing.stdout.as_str()), (Some(3), ""), "{missing:?}");
        assert!(missing.stderr.contains("there is no batch `bat_nothing`"), "{missing:?}");
    }
}

#[test]
fn on_sqlite_it_does_not_wait_for_what_it_keeps_from_happening_and_an_abandoned_one_exits_8() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 3);
    assert!(case.run_to("plan.stored").was_killed());
    let id = batches(&case).remove(0);
    let waiting = case.look(&["batches", "watch", &id, "-o", "jsonl"]);
    assert_eq!(waiting.code, Some(5), "{waiting:?}");
    assert!(waiting.stdout.contains("\"planned\"") && waiting.stderr.contains("is planned"), "{waiting:?}");
    assert_eq!(case.look(&["batches", "abandon", &id, "--yes"]).code, Some(0));
    let over = case.look(&["batches", "watch", &id, "-o", "jsonl"]);
    assert_eq!(over.code, Some(8), "{over:?}");
    let told: Vec<Value> = over.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(words(&told).last(), Some(&"abandoned"), "{told:?}");
    assert_eq!(told.last().expect("the batch")["state"], "abandoned");
}
