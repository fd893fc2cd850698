//! Many runs of one file.

use super::Server;
use harness::{Database, Ended};

const LINES: usize = 3_000;
/// One that is no JSON, and one that the server refuses.
const BAD: [(usize, &str); 2] = [(1_234, "{\"task\":\"noop\",}"), (2_999, "{\"task\":\"noop\",\"colour\":\"red\"}")];

fn lines() -> String {
    let line = |number: usize| match BAD.iter().find(|(bad, _)| *bad == number) {
        Some((_, text)) => format!("{text}\n"),
        None => format!("{{\"task\":\"noop\",\"payload\":{number}}}\n"),
    };
    (1..=LINES).map(line).collect()
}

fn count(server: &Server) -> usize {
    server.run(&["runs", "list", "--all", "-o", "jsonl"]).stdout.lines().count()
}

#[track_caller]
fn refuses_the_bad_lines_only(ended: &Ended) {
    assert_eq!(ended.code, Some(8), "{ended:?}");
    let told: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(told.len(), 2, "{ended:?}");
    assert!(told[0].starts_with("1234\t400\tmalformed_json\t"), "{ended:?}");
    assert!(told[1].starts_with("2999\t400\t") && told[1].contains("/colour"), "{ended:?}");
    assert!(ended.stderr.contains("2998 runs made, 2 lines refused"), "{ended:?}");
}

#[test]
fn a_file_of_3000_lines_with_two_bad_ones_makes_2998_runs() {
    for database in [Database::Sqlite, Database::Postgres] {
        let server = Server::start(database);
        let file = server.file("runs.ndjson", &lines()).display().to_string();
        let ended = server.run(&["runs", "create", "--file", &file, "--idempotency-key", "import-7"]);
        refuses_the_bad_lines_only(&ended);
        assert_eq!(count(&server), LINES - BAD.len());
        let again = server.run(&["runs", "create", "--file", &file, "--idempotency-key", "import-7"]);
        refuses_the_bad_lines_only(&again);
        assert_eq!(count(&server), LINES - BAD.len(), "the same command again makes nothing twice");
    }
}

#[test]
fn verdicts_can_be_had_for_every_line_or_as_one_document() {
    let server = Server::start(Database::Sqlite);
    let text = "\u{feff}{\"task\":\"noop\"}\r\n\n   \n{\"task\":\"nothing\"}\n{\"task\":\"noop\"}";
    let each = server.run_with_stdin(&["runs", "create", "--file", "-", "-o", "jsonl"], text);
    assert_eq!(each.code, Some(8), "{each:?}");
    let verdicts: Vec<serde_json::Value> =
        each.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told: Vec<(u64, bool)> =
        verdicts.iter().map(|verdict| (verdict["line"].as_u64().expect("a line"), verdict["id"].is_string())).collect();
    assert_eq!(told, [(1, true), (4, false), (5, true)]);
    let whole = server.run_with_stdin(&["runs", "create", "--file", "-", "-o", "json"], text);
    let document = whole.summary();
    assert_eq!((&document["accepted"], &document["refused"]), (&2.into(), &1.into()));
    assert_eq!(document["errors"][0]["line"], 4);
    assert_eq!(count(&server), 4, "without a key of one's own each command makes its own runs");
    let nothing = server.run_with_stdin(&["runs", "create", "--file", "-"], "\n\n");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""));
    assert_eq!(server.run(&["runs", "create", "--file", "/nowhere/at/all"]).code, Some(2));
}

#[test]
fn pieces_that_weigh_too_much_for_the_server_are_halved_until_one_line_is_to_blame() {
    let mut server = Server::not_started(Database::Sqlite);
    server.serve(&["--listen", "127.0.0.1:0"]);
    let heavy = |kib: usize| format!("{{\"task\":\"noop\",\"payload\":\"{}\"}}\n", "x".repeat(kib * 1024));
    let text = [heavy(300), heavy(300), heavy(700), heavy(10), heavy(2_000), heavy(300)].concat();
    let file = server.file("heavy.ndjson", &text).display().to_string();
    let ended = server.run(&["runs", "create", "--file", &file]);
    assert_eq!(ended.code, Some(8), "{ended:?}");
    let refused: Vec<&str> = ended.stdout.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(refused, ["3", "5"], "{ended:?}");
    assert_eq!(count(&server), 4);
}
