//! `repair import-batches`: what another program has bought is taken for the lines of a file, and is not bought again.

use harness::{Case, Database, Ended, Protocol, eventually};
use serde_json::{Value, json};
use std::path::PathBuf;
use storage::failpoint::{Failpoint, PassedBy};

const LINES: usize = 12;

/// A file whose custom ids any program may use, and what was bought of it elsewhere.
struct Elsewhere {
    case: Case,
}

impl Elsewhere {
    fn new(database: Database, protocol: Protocol) -> Elsewhere {
        let elsewhere = Elsewhere { case: Case::new(database, protocol, LINES) };
        let lines: Vec<String> = (0..LINES).map(|line| elsewhere.request(line)).collect();
        std::fs::write(elsewhere.case.input(), lines.join("\n")).expect("the file is written");
        elsewhere
    }

    fn request(&self, line: usize) -> String {
        self.named(&format!("row-{line}"), &self.case.bodies[line])
    }

    fn named(&self, id: &str, body: &str) -> String {
        match self.case.protocol {
            Protocol::OpenAi => {
                format!(r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":{body}}}"#)
            }
            Protocol::Anthropic => format!(r#"{{"custom_id":"{id}","params":{body}}}"#),
        }
    }

    /// Lines of the file, and one request that is nobody's here.
    fn bought(&self, lines: std::ops::Range<usize>) -> String {
        let mut requests: Vec<String> = lines.map(|line| self.request(line)).collect();
        requests.push(self.named("not-ours", &self.case.bodies[0]));
        self.case.account.buy(self.case.protocol, &requests)
    }

    fn ended(&self, id: &str) {
        eventually("the batch has ended", || self.case.account.has_ended(self.case.protocol, id));
    }

    fn ids(&self, lines: &[&str]) -> PathBuf {
        let path = self.case.dir.path().join("ids.txt");
        std::fs::write(&path, lines.join("\n")).expect("the ids are written");
        path
    }

    fn import(&self, ids: &[&str], args: &[&str], failpoint: Option<Failpoint>) -> Ended {
        let mut command = self.case.tidegate();
        command.args(["repair", "import-batches"]).arg(self.ids(ids)).arg("--requests").arg(self.case.input());
        command.args(["--max-attempts", "12", "-o", "json"]).args(args);
        if let Some(point) = failpoint {
            command.env("TIDEGATE_FAILPOINT", point.name());
        }
        self.case.finish(command)
    }

    /// Every line has the answer to its very body, under its own id.
    fn all_answered(&self) {
        let results = std::fs::read_to_string(self.case.out()).expect("there are results");
        let lines: Vec<&str> = results.lines().collect();
        assert_eq!(lines.len(), LINES);
        for (line, result) in lines.iter().enumerate() {
            let value: Value = serde_json::from_str(result).expect("an object");
            assert_eq!(value["custom_id"], format!("row-{line}"));
            assert!(result.contains(&self.case.fingerprint(line)), "{line}: {result}");
        }
    }
}

fn told(ended: &Ended) -> Vec<(String, i64, i64)> {
    let of = |row: &Value| {
        let number = |name: &str| row[name].as_i64().expect("a number");
        (row["fate"].as_str().expect("a word").to_owned(), number("requests"), number("taken"))
    };
    ended.summary()["data"].as_array().expect("a list").iter().map(of).collect()
}

fn fate(word: &str, answered: i64, taken: i64) -> (String, i64, i64) {
    (word.to_owned(), answered, taken)
}

fn imported_and_not_bought_again(database: Database, protocol: Protocol) {
    let elsewhere = Elsewhere::new(database, protocol);
    let (first, second) = (elsewhere.bought(0..6), elsewhere.bought(4..8));
    elsewhere.ended(&first);
    elsewhere.ended(&second);
    let ids = ["# bought on Monday", &first, "", &second, "batch_nobody_knows", &first];
    let dry = elsewhere.import(&ids, &["--dry-run"], None);
    assert_eq!(dry.code, Some(8), "{dry:?}");
    let importable = [fate("importable", 7, 6), fate("importable", 5, 4), fate("not_there", 0, 0)];
    assert_eq!(told(&dry), importable, "{protocol:?}");
    if let Some(path) = elsewhere.case.store.strip_prefix("sqlite:") {
        assert!(!std::path::Path::new(path).exists(), "a dry run makes no store");
    }
    let real = elsewhere.import(&ids, &[], None);
    assert_eq!(real.code, Some(8), "{real:?}");
    let taken = [fate("imported", 7, 6), fate("imported", 5, 2), fate("not_there", 0, 0)];
    assert_eq!(told(&real), taken, "what the first one answers is not taken from the second");
    let again = elsewhere.import(&[&first, &second], &[], None);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(told(&again), [fate("known", 0, 0), fate("known", 0, 0)]);
    let ran = elsewhere.case.run_with(&["--max-batch-requests", "50"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    elsewhere.all_answered();
    let ledger = elsewhere.case.account.ledger();
    let sizes: Vec<u64> = ledger.batches.iter().map(|batch| batch.requests).collect();
    assert_eq!(sizes.iter().sum::<u64>(), 7 + 5 + 4, "what was left is bought, once: {sizes:?}");
    assert_eq!(ledger.creates, 3);
    let batches = elsewhere.case.look_json(&["batches", "list"]);
    let batches = batches["data"].as_array().expect("a list").iter();
    assert!(batches.clone().all(|batch| batch["state"] == "collected"), "{batches:?}");
    let imported = batches
        .filter(|batch| [&first, &second].contains(&&batch["provider_batch_id"].as_str().unwrap_or("").to_owned()));
    assert_eq!(imported.count(), 2);
}

#[test]
fn batches_bought_elsewhere_are_imported_and_not_bought_again_on_sqlite() {
    for protocol in [Protocol::OpenAi, Protocol::Anthropic] {
        imported_and_not_bought_again(Database::Sqlite, protocol);
    }
}

#[test]
fn batches_bought_elsewhere_are_imported_and_not_bought_again_on_postgres() {
    for protocol in [Protocol::OpenAi, Protocol::Anthropic] {
        imported_and_not_bought_again(Database::Postgres, protocol);
    }
}

#[test]
fn a_batch_that_is_under_way_is_waited_for_where_its_requests_can_be_told() {
    let elsewhere = Elsewhere::new(Database::Sqlite, Protocol::OpenAi);
    elsewhere.case.account.faults(&json!({"latency_ms": 3_000}));
    let id = elsewhere.bought(0..6);
    let ended = elsewhere.import(&[&id], &[], None);
    assert!(!elsewhere.case.account.has_ended(Protocol::OpenAi, &id), "this test is of one that is under way");
    assert_eq!((ended.code, told(&ended)), (Some(0), vec![fate("imported", 7, 6)]), "{ended:?}");
    let ran = elsewhere.case.run_with(&["--max-batch-requests", "50"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    elsewhere.all_answered();
    let sizes: Vec<u64> = elsewhere.case.account.ledger().batches.iter().map(|batch| batch.requests).collect();
    assert_eq!(sizes, [7, 6], "what is under way is not bought again");
}

#[test]
fn a_batch_that_is_under_way_and_shows_nothing_waits_and_nothing_is_stored() {
    let elsewhere = Elsewhere::new(Database::Sqlite, Protocol::Anthropic);
    elsewhere.case.account.faults(&json!({"latency_ms": 3_600_000}));
    let id = elsewhere.bought(0..6);
    let ended = elsewhere.import(&[&id], &[], None);
    assert_eq!((ended.code, told(&ended)), (Some(8), vec![fate("under_way", 0, 0)]), "{ended:?}");
    assert!(ended.stderr.contains("import it again when it has ended"), "{}", ended.stderr);
    let path = elsewhere.case.store.strip_prefix("sqlite:").expect("a file");
    assert!(!std::path::Path::new(path).exists(), "there was nothing to store");
}

#[test]
fn a_batch_of_other_lines_is_nothing_for_the_file() {
    let elsewhere = Elsewhere::new(Database::Sqlite, Protocol::Anthropic);
    let id = elsewhere.bought(0..0);
    elsewhere.ended(&id);
    let ended = elsewhere.import(&[&id], &[], None);
    assert_eq!((ended.code, told(&ended)), (Some(8), vec![fate("nothing_for_the_file", 1, 0)]), "{ended:?}");
}

#[test]
fn what_cannot_be_imported_is_refused_with_a_reason() {
    let elsewhere = Elsewhere::new(Database::Sqlite, Protocol::OpenAi);
    let refused = [(vec![""], "there is no id in it"), (vec!["# nothing"], "there is no id in it")];
    let bad = [(vec!["batch_1", "two words"], "line 2"), (vec!["caf\u{e9}"], "line 1")];
    for (ids, words) in refused.into_iter().chain(bad) {
        let ended = elsewhere.import(&ids, &[], None);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    let ran = elsewhere.case.run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let id = elsewhere.bought(0..6);
    elsewhere.ended(&id);
    let late = elsewhere.import(&[&id], &[], None);
    assert_eq!(late.code, Some(5), "{late:?}");
    assert!(late.stderr.contains("none of its lines waits"), "{}", late.stderr);
    assert_eq!(elsewhere.import(&[&id], &["--provider", "nobody"], None).code, Some(2));
}

#[test]
fn an_import_that_is_killed_at_any_place_is_gone_on_with() {
    for point in Failpoint::ALL.iter().filter(|point| point.passed_by() == PassedBy::Imports) {
        for (database, protocol) in [(Database::Sqlite, Protocol::OpenAi), (Database::Postgres, Protocol::Anthropic)] {
            let elsewhere = Elsewhere::new(database, protocol);
            let (first, second) = (elsewhere.bought(0..6), elsewhere.bought(6..8));
            elsewhere.ended(&first);
            elsewhere.ended(&second);
            let killed = elsewhere.import(&[&first, &second], &[], Some(*point));
            assert!(killed.was_killed(), "{}: {killed:?}", point.name());
            let again = elsewhere.import(&[&first, &second], &[], None);
            assert_eq!(again.code, Some(0), "{}: {again:?}", point.name());
            let fates = told(&again);
            assert!(fates.iter().all(|(word, ..)| word == "imported" || word == "known"), "{fates:?}");
            let ran = elsewhere.case.run_with(&["--max-batch-requests", "50"]);
            assert_eq!(ran.code, Some(0), "{}: {ran:?}", point.name());
            elsewhere.all_answered();
            assert_eq!(elsewhere.case.account.ledger().creates, 3, "{}", point.name());
        }
    }
}
