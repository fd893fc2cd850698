//! `tidegate db backup` and `check`: a copy is whole and goes on as a store of its own, and a store that does not agree
//! with itself is told from one that is merely busy.

use harness::{Database, Load, Mix, OwnPostgres, Protocol, Server, Supplier, Tally, eventually};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

const LATER: &str = "[tasks.later]\nkind = \"pull\"\n";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn db(server: &Server, args: &[&str]) -> Output {
    server.command(&[&["db"], args].concat()).output().expect("it is started")
}

fn backup(server: &Server, out: &Path) -> Output {
    db(server, &["backup", "-o", "json", "--out", out.to_str().expect("a name")])
}

/// What is wrong with a store: claims with their counts and the ids that are told.
#[track_caller]
fn wrong(server: &Server) -> Vec<(String, u64, Vec<String>)> {
    let output = db(server, &["check", "-o", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let wrong = told["data"].as_array().expect("a list").iter().filter(|answer| answer["status"] == "wrong");
    let id = |id: &Value| id.as_str().expect("an id").to_owned();
    let parts = |answer: &Value| {
        let first = answer["first"].as_array().expect("ids").iter().map(id).collect();
        (answer["claim"].as_str().expect("a claim").to_owned(), answer["wrong"].as_u64().expect("a number"), first)
    };
    let wrong: Vec<_> = wrong.map(parts).collect();
    assert_eq!(output.status.code(), Some(if wrong.is_empty() { 0 } else { 8 }), "{output:?}");
    wrong
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// A server that has nothing running, and some runs that wait.
fn with_waiting(database: Database, runs: usize) -> Server {
    let server = Server::on(database).config(LATER).env("TIDEGATE_SWEEPER_ENABLED", "false").start();
    server.client().post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); runs]})).is(200);
    server
}

#[test]
fn db_backup_taken_while_runs_come_in_is_a_store_that_finishes_them() {
    let mut server = Server::on(Database::Sqlite).start();
    let load = Load::start(&server.door(), &Mix::of("noop", 1));
    let folder = tempfile::tempdir().expect("a folder");
    let copies: Vec<PathBuf> = (0..4).map(|number| folder.path().join(format!("{number}.sqlite"))).collect();
    for copy in &copies {
        load.has_more(100);
        let output = backup(&server, copy);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).expect("an object");
        assert_eq!(told["bytes"].as_u64(), fs::metadata(copy).map(|copy| copy.len()).ok());
        assert!(told["seconds"].is_number(), "{told}");
    }
    assert_eq!(names(folder.path()), ["0.sqlite", "1.sqlite", "2.sqlite", "3.sqlite"], "and nothing beside them");
    let Tally { acked, wrong: complaints, .. } = load.stop();
    assert!(complaints.is_empty(), "{complaints:?}");
    server.all_ended(&["one/dev", "one/prod", "two/dev"]);
    server.stop();
    let mut before = 0;
    for copy in &copies {
        let mut restored = Server::on(Database::Sqlite).with_store(&format!("sqlite:{}", copy.display()));
        assert_eq!(wrong(&restored), [], "{}", copy.display());
        let runs = restored.number("SELECT COUNT(*) FROM run_records");
        assert!(runs > before && runs as usize <= acked.len() + 1_000, "each has what was taken in before it: {runs}");
        before = runs;
        restored.again();
        restored.all_ended(&["one/dev", "one/prod", "two/dev"]);
        restored.stop();
        assert_eq!(wrong(&restored), []);
    }
}

#[test]
fn db_backup_overwrites_nothing_and_leaves_nothing_when_it_fails() {
    let mut server = with_waiting(Database::Sqlite, 3);
    let folder = tempfile::tempdir().expect("a folder");
    let there = folder.path().join("there.sqlite");
    fs::write(&there, "mine").expect("a file");
    std::os::unix::fs::symlink("nowhere", folder.path().join("link.sqlite")).expect("a link");
    let cases = [
        ("there.sqlite", 5, "it exists already"),
        ("link.sqlite", 5, "it exists already"),
        ("none/x.sqlite", 2, "its directory does not exist"),
        ("there.sqlite/x.sqlite", 2, "its directory does not exist"),
        ("..", 2, "it names no file"),
    ];
    for (name, code, words) in cases {
        let output = backup(&server, &folder.path().join(name));
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(said(&output).contains(words), "{words}: {output:?}");
    }
    let output = backup(&server, Path::new("/proc/x.sqlite"));
    assert!(output.status.code() == Some(2) && said(&output).contains("cannot write beside it"), "{output:?}");
    assert_eq!(fs::read_to_string(&there).expect("it is there"), "mine");
    server.stop();
    let damaged = folder.path().join("damaged.sqlite");
    let mut bytes = fs::read(server.dir.path().join("state.sqlite")).expect("the store");
    let half = bytes.len() / 2;
    bytes[8_192..half].fill(0x55);
    fs::write(&damaged, &bytes).expect("a damaged one");
    fs::write(folder.path().join("text.sqlite"), "This is no database at all. ".repeat(100)).expect("a text");
    for name in ["damaged.sqlite", "text.sqlite", "no_such.sqlite"] {
        let store = format!("sqlite:{}", folder.path().join(name).display());
        let server = Server::on(Database::Sqlite).with_store(&store);
        let output = backup(&server, &folder.path().join("new.sqlite"));
        assert_eq!(output.status.code(), Some(74), "{name}: {output:?}");
        assert!(said(&output).contains("hint: "), "{output:?}");
        let checked = db(&server, &["check"]);
        let hinted = said(&checked).contains("hint: ");
        assert!(checked.status.code() == Some(8) || (checked.status.code() == Some(74) && hinted), "{checked:?}");
    }
    let left = names(folder.path());
    assert!(!left.iter().any(|name| name.contains("new") || name.contains("part")), "{left:?}");
}

#[test]
fn db_backup_that_is_stopped_leaves_nothing() {
    let server = Server::on(Database::Sqlite);
    assert_eq!(db(&server, &["migrate"]).status.code(), Some(0));
    server.execute(
        "INSERT INTO output_chunks (run_id, epoch, stream, seq, at, bytes, data)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000)
        SELECT 'run_' || i, 1, 'stdout', 0, 1, 200, zeroblob(200) FROM n",
    );
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("copy.sqlite");
        let mut command = server.command(&["db", "backup", "--out", out.to_str().expect("a name")]);
        let mut child = command.spawn().expect("it is started");
        eventually("it is under way", || !names(folder.path()).is_empty());
        let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        assert_eq!(names(folder.path()), [] as [&str; 0]);
    }
}

#[test]
fn db_backup_of_postgres_names_the_program_that_does_it() {
    let server = Server::on(Database::Postgres);
    let url = server.store.replace("postgres@", "postgres:s3cr3t@");
    let output = server.command(&["db", "backup", "--out", "x.dump", "--store", &url]).output().expect("it is started");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = said(&output);
    assert!(said.contains("hint: pg_dump --format=custom --file=x.dump --host="), "{said}");
    assert!(said.contains("--username=postgres --dbname=test_") && !said.contains("s3cr3t"), "{said}");
    assert_eq!(names(server.dir.path()), [] as [&str; 0]);
}

/// The line that is told does what it says.
#[test]
fn db_check_finds_a_restored_dump_of_postgres_clean() {
    let postgres = OwnPostgres::start();
    let mut server = Server::on(Database::Postgres).config(LATER).with_store(&postgres.url()).start();
    server.client().post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); 5]})).is(200);
    let said = said(&db(&server, &["backup", "--out", "x.dump"]));
    let line = said.split_once("hint: ").and_then(|(_, hint)| hint.split_once(';')).expect("a hint").0;
    server.execute("CREATE DATABASE restored");
    let restored = format!("{}/restored", postgres.url().rsplit_once('/').expect("a database").0);
    let line = format!("set -e; cd {}; {line}; pg_restore --dbname={restored} x.dump", server.dir.path().display());
    let done = std::process::Command::new("sh").args(["-c", &line]).output().expect("a shell");
    assert!(done.status.success(), "{line}: {done:?}");
    server.stop();
    let mut again = Server::on(Database::Postgres).config(LATER).with_store(&restored);
    assert_eq!(wrong(&again), []);
    assert_eq!(again.number("SELECT COUNT(*) FROM ready"), 5);
    again.again();
    again.stop();
}

fn a_hand_is_found(database: Database) {
    let mut server = with_waiting(database, 30);
    assert_eq!(wrong(&server), []);
    let mut ids: Vec<String> = server
        .rows("SELECT run_id FROM ready ORDER BY run_id LIMIT 7")
        .into_iter()
        .filter_map(|row| row[0].clone())
        .collect();
    server.execute("DELETE FROM ready WHERE run_id IN (SELECT run_id FROM ready ORDER BY run_id LIMIT 7)");
    server.execute(
        "INSERT INTO output_chunks (run_id, epoch, stream, seq, at, bytes, data)
        VALUES ('run_gone', 1, 'stdout', 3, 1, 2, 'ab')",
    );
    server.execute("UPDATE ready SET epoch = 3 WHERE run_id = (SELECT MAX(run_id) FROM ready)");
    let found = wrong(&server);
    let counts: Vec<_> = found.iter().map(|(claim, count, first)| (claim.as_str(), *count, first.len())).collect();
    let expected = [
        ("an open run that was sent in is held in exactly one place, an ended one in none", 7, 5),
        ("what is ready or leased goes on from the last try of its history", 1, 1),
        ("the pieces of a stream are numbered from 0 without a gap", 1, 1),
    ];
    assert_eq!(counts, expected);
    ids.sort_unstable();
    assert!(found[0].2.iter().all(|id| ids.binary_search(id).is_ok()), "{found:?} are some of {ids:?}");
    let table = db(&server, &["check"]);
    let line = "wrong\t1\tthe pieces of a stream are numbered from 0 without a gap\trun_gone\n";
    assert!(String::from_utf8_lossy(&table.stdout).contains(line), "{table:?}");
    server.stop();
}

#[test]
fn db_check_finds_what_a_hand_has_done_on_sqlite() {
    a_hand_is_found(Database::Sqlite);
}

#[test]
fn db_check_finds_what_a_hand_has_done_on_postgres() {
    a_hand_is_found(Database::Postgres);
}

fn busy_is_not_wrong(database: Database) {
    let supplier = Supplier::new(Protocol::OpenAi, harness::Account::open());
    let mut server = Server::on(database).config(&supplier.with_task("llm")).start();
    let load = Load::start(&server.door(), &Mix::of("noop", 2));
    let mut client = server.client();
    let mut jobs = Vec::new();
    for round in 0..4_usize {
        let run = |number| json!({"task": "llm", "payload": supplier.payload(round * 30 + number)});
        let runs: Vec<Value> = (0..30).map(run).collect();
        client.post("/runs/batch", &json!({"runs": runs})).is(200);
        let job =
            client.post("/jobs", &json!({"pool": "llm", "limits": {"max_batch_requests": 4}})).is(201).field("id");
        for _ in 0..3 {
            load.has_more(20);
            assert_eq!(wrong(&server), []);
        }
        eventually("the job is over", || client.get(&format!("/jobs/{job}")).json()["finished_at"].is_string());
        jobs.push(job);
    }
    assert!(server.number("SELECT COUNT(*) FROM batches") >= 4, "there was money to count");
    let tally = load.stop();
    assert!(tally.wrong.is_empty(), "{:?}", tally.wrong);
    server.stop();
    assert_eq!(wrong(&server), []);
}

#[test]
fn db_check_finds_nothing_while_a_server_is_busy_on_sqlite() {
    busy_is_not_wrong(Database::Sqlite);
}

#[test]
fn db_check_finds_nothing_while_a_server_is_busy_on_postgres() {
    busy_is_not_wrong(Database::Postgres);
}

#[test]
fn db_check_asks_no_store_that_is_not_up_to_date() {
    let server = Server::on(Database::Sqlite);
    assert_eq!(db(&server, &["check"]).status.code(), Some(74), "there is none, and asking makes none");
    assert_eq!(names(server.dir.path()), [] as [&str; 0]);
    assert_eq!(db(&server, &["migrate"]).status.code(), Some(0));
    assert_eq!(wrong(&server), []);
    server.execute("DELETE FROM _sqlx_migrations WHERE version = 12");
    let output = db(&server, &["check"]);
    assert!(output.status.code() == Some(5) && said(&output).contains("tidegate db migrate"), "{output:?}");
}

/// A way to look around before anything is bought.
#[test]
fn a_node_without_a_poller_buys_nothing_and_suspends_jobs() {
    let supplier = Supplier::new(Protocol::OpenAi, harness::Account::open());
    supplier.account.faults(&json!({"latency_ms": 3_600_000}));
    let mut before = Server::on(Database::Sqlite).config(&supplier.with_task("llm")).start();
    let mut client = before.client();
    let runs: Vec<Value> = (0..5).map(|number| json!({"task": "llm", "payload": supplier.payload(number)})).collect();
    client.post("/runs/batch", &json!({"runs": runs})).is(200);
    let job = client.post("/jobs", &json!({"pool": "llm"})).is(201).field("id");
    eventually("a batch is under way", || client.get(&format!("/jobs/{job}")).json()["state"] == "running");
    before.stop();
    let creates = supplier.account.ledger().creates;
    let server = Server::on(Database::Sqlite).config(&supplier.with_task("llm")).with_store(&before.store);
    let mut server = server.arg("--role").arg("api,worker,sweeper").start();
    let mut client = server.client();
    client.post("/runs/batch", &json!({"runs": runs})).is(200);
    // Its other kinds of work go on.
    let noop = client.run(&json!({"task": "noop"}));
    eventually("a run ends", || client.read(&noop)["status"] == "succeeded");
    client.post(&format!("/jobs/{job}/suspend"), &json!({})).is(200);
    assert_eq!(client.get(&format!("/jobs/{job}")).json()["state"], "suspended");
    assert_eq!(supplier.account.ledger().creates, creates);
    server.stop();
}
