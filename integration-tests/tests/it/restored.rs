//! A backup that is taken under load, while batches are under way, and gone back to elsewhere: what the provider has is
//! found there and not bought again, and every run that was in the backup comes to its end.

use harness::judge::doubled_keys;
use harness::{Account, Case, Client, Database, Ended, Load, Mix, Protocol, Server, Supplier, Verdict, eventually};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs of one job, and requests of each of its batches.
const RUNS: usize = 4;
const ENVS: [&str; 3] = ["one/dev", "one/prod", "two/dev"];

fn is_frozen(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
}

/// A job over runs of its own, one batch of them.
fn job(client: &mut Client, supplier: &Supplier, task: &str, number: usize) -> String {
    let run = |at| json!({"task": task, "payload": supplier.payload(number * RUNS + at), "max_attempts": 5});
    let runs: Vec<Value> = (0..RUNS).map(run).collect();
    client.post("/runs/batch", &json!({"runs": runs})).is(200);
    client.post("/jobs", &json!({"pool": task, "limits": {"max_batch_requests": RUNS}})).is(201).field("id")
}

fn batches_in(store: &str, state: &str) -> usize {
    let rows = harness::sql::try_rows(store, "SELECT state FROM batches").unwrap_or_default();
    rows.into_iter().filter(|row| row[0].as_deref() == Some(state)).count()
}

/// As the manual says it; returns the URL of what goes on elsewhere.
fn backed_up(server: &Server, folder: &Path) -> Restorable {
    let out = folder.join("backup");
    let made = match server.database {
        Database::Sqlite => server.command(&["db", "backup", "--out"]).arg(&out).output(),
        Database::Postgres => {
            let mut dump = Command::new("pg_dump");
            dump.args(["--format=custom", "--dbname", &server.store]).arg("--file").arg(&out).output()
        }
    };
    let made = made.expect("it starts");
    assert!(made.status.success(), "{made:?}");
    Restorable(out)
}

struct Restorable(std::path::PathBuf);

impl Restorable {
    fn elsewhere(&self, server: &Server) -> String {
        match server.database {
            Database::Sqlite => format!("sqlite:{}", self.0.display()),
            Database::Postgres => {
                let url = Server::on(Database::Postgres).store.clone();
                let mut restore = Command::new("pg_restore");
                let done = restore.args(["--dbname", &url]).arg(&self.0).output().expect("it starts");
                assert!(done.status.success(), "{done:?}");
                url
            }
        }
    }
}

fn states_of(client: &mut Client, jobs: &[String]) -> Vec<String> {
    let state = |job: &String| client.get(&format!("/jobs/{job}")).is(200).json()["state"].to_string();
    jobs.iter().map(state).map(|state| state.trim_matches('"').to_owned()).collect()
}

fn a_backup_is_gone_back_to(database: Database) {
    let [openai, anthropic] =
        [Protocol::OpenAi, Protocol::Anthropic].map(|protocol| Supplier::new(protocol, Account::open()));
    let config = format!(
        "{}{}[tasks.late]\nkind = \"llm\"\nprovider = \"acme\"\n[tasks.later]\nkind = \"llm\"\nprovider = \"acme\"\n",
        openai.with_task("early"),
        anthropic.with_task("slow")
    );
    let on = |store: &str| {
        // It is frozen for a while.
        let server = Server::on(database).config(&config).set("nodes.lease_seconds", "6");
        if store.is_empty() { server } else { server.with_store(store) }
    };
    openai.account.faults(&json!({"latency_ms": 1_500}));
    anthropic.account.faults(&json!({"latency_ms": 4_000}));
    let mut original = on("").env("TIDEGATE_FAILPOINT", "create.before_commit:3:stop").start();
    let load = Load::start(&original.door(), &Mix::of("noop", 1));
    let mut client = original.client();
    let mut jobs = vec![job(&mut client, &openai, "early", 0), job(&mut client, &anthropic, "slow", 1)];
    eventually("two batches are bought", || openai.account.ledger().creates + anthropic.account.ledger().creates == 2);
    jobs.push(job(&mut client, &openai, "late", 2));
    eventually("the third create is about to leave", || is_frozen(original.pid()));
    let first = openai.account.ledger().batches[0].id.clone();
    eventually("one has ended at its provider", || openai.account.has_ended(Protocol::OpenAi, &first));
    let folder = tempfile::tempdir().expect("a folder");
    let backup = backed_up(&original, folder.path());
    original.signal("CONT");
    // Time goes on: what was planned is bought, and runs come in that the backup knows nothing of.
    eventually("the third is bought", || openai.account.ledger().creates == 2);
    load.has_more(50);
    job(&mut client, &openai, "later", 3);
    eventually("so is another", || openai.account.ledger().creates == 3);
    original.kill9();
    load.stop();
    let store = backup.elsewhere(&original);
    assert_eq!(batches_in(&store, "planned"), 1, "the backup has missed what it was to miss");
    let bought = [openai.account.ledger(), anthropic.account.ledger()].map(|ledger| ledger.creates);

    let mut restored = on(&store).expecting("may have forgotten batches");
    let check = restored.command(&["db", "check"]).output().expect("it starts");
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    restored.again();
    let mut client = restored.client();
    assert_eq!(states_of(&mut client, &jobs), ["suspended"; 3]);
    eventually("what was bought is found at its provider", || {
        batches_in(&store, "unknown") + batches_in(&store, "planned") + batches_in(&store, "submitting") == 0
    });
    for job in &jobs {
        client.post(&format!("/jobs/{job}/resume"), &json!({})).is(200);
    }
    eventually("the jobs come to their end", || states_of(&mut client, &jobs).iter().all(|state| state == "finished"));
    restored.all_ended(&ENVS);
    restored.all_ended(&["default/dev"]);
    let succeeded = "SELECT COUNT(*) FROM run_records WHERE task IN ('early', 'slow', 'late') AND state = 'succeeded'";
    assert_eq!(restored.number(succeeded), 3 * RUNS as i64);
    let forgotten = "SELECT COUNT(*) FROM run_records WHERE task = 'later'";
    assert_eq!(restored.number(forgotten), 0, "what came in after the backup is lost");
    let ledgers = [openai.account.ledger(), anthropic.account.ledger()];
    for ledger in &ledgers {
        assert!(ledger.billed_twice.is_empty() && doubled_keys(ledger).is_empty(), "{ledger:?}");
    }
    assert_eq!(ledgers.map(|ledger| ledger.creates), bought, "nothing more was bought");
    restored.stop();
    let check = restored.command(&["db", "check"]).output().expect("it starts");
    assert_eq!(check.status.code(), Some(0), "{check:?}");
}

#[test]
fn a_backup_taken_under_load_is_gone_back_to_and_nothing_is_bought_twice_on_sqlite() {
    a_backup_is_gone_back_to(Database::Sqlite);
}

#[test]
fn a_backup_taken_under_load_is_gone_back_to_and_nothing_is_bought_twice_on_postgres() {
    a_backup_is_gone_back_to(Database::Postgres);
}

/// What was bought since of runs that had waited is forgotten altogether: nothing of it is bought before somebody has
/// looked, however long that takes.
#[test]
fn what_waited_in_a_backup_is_not_bought_before_somebody_has_looked() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"rate_limits": 1_000_000}));
    let mut original = Server::on(Database::Sqlite).config(&supplier.with_task("llm")).start();
    let id = job(&mut original.client(), &supplier, "llm", 0);
    eventually("it was refused", || batches_in(&original.store, "planned") == 1);
    let folder = tempfile::tempdir().expect("a folder");
    let backup = backed_up(&original, folder.path());
    original.kill9();
    // As if it had been cancelled there since: the copy finds nothing.
    supplier.account.faults(&json!({}));
    let store = backup.elsewhere(&original);
    let server = Server::on(Database::Sqlite).config(&supplier.with_task("llm")).with_store(&store);
    let mut restored = server.expecting("may have forgotten batches").start();
    let mut client = restored.client();
    // Whoever comes to it and may not buy it counts that, and comes again.
    let held = "SELECT COUNT(*) FROM batches WHERE state = 'planned' AND create_no = 2 AND strikes > 0";
    eventually("it is proven absent, and held", || restored.number(held) == 1);
    assert!(supplier.account.ledger().batches.is_empty(), "nothing was bought");
    assert_eq!(states_of(&mut client, std::slice::from_ref(&id)), ["suspended"]);
    client.post(&format!("/jobs/{id}/resume"), &json!({})).is(200);
    eventually("it is bought", || states_of(&mut client, std::slice::from_ref(&id)) == ["finished"]);
    assert_eq!(supplier.account.ledger().batches.len(), 1);
    restored.stop();
}

fn a_file_goes_on_from_a_backup(protocol: Protocol) {
    let mut case = Case::new(Database::Sqlite, protocol, 6);
    let args = ["--max-batch-requests", "6", "--settle", "100ms"];
    let mut command = case.process_with(&args);
    command.env("TIDEGATE_FAILPOINT", "create.before_commit:1:stop");
    let mut buyer = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    eventually("the create is about to leave", || is_frozen(buyer.id()));
    let out = case.dir.path().join("copy.sqlite");
    let copied = case.look(&["db", "backup", "--out", out.to_str().expect("a name")]);
    assert_eq!(copied.code, Some(0), "{copied:?}");
    signal(buyer.id(), "CONT");
    eventually("it is bought", || !case.account.ledger().batches.is_empty());
    signal(buyer.id(), "KILL");
    let _ = buyer.wait();
    case.store = format!("sqlite:{}", out.display());
    let first: Ended = case.finish(case.process_with(&args));
    assert_eq!(first.code, Some(4), "{first:?}");
    for words in ["the store is a copy", "is suspended", "tidegate batches list", "run the same command again"] {
        assert!(first.stderr.contains(words), "{words:?} is missing: {first:?}");
    }
    let second = case.finish(case.process_with(&args));
    assert_eq!(second.code, Some(0), "{second:?}");
    let (verdict, ledger) = (Verdict::on(&case), case.account.ledger());
    assert!(verdict.is_clean(), "{verdict:?}\n{}\n{}", first.stderr, second.stderr);
    assert_eq!((ledger.creates, ledger.batches.len()), (1, 1), "it was bought again");
}

#[test]
fn a_file_goes_on_from_a_backup_and_is_not_bought_again() {
    std::thread::scope(|scope| {
        for protocol in [Protocol::OpenAi, Protocol::Anthropic] {
            scope.spawn(move || a_file_goes_on_from_a_backup(protocol));
        }
    });
}

/// A copy that was made past us says so by a command.
#[test]
fn a_copied_file_is_a_copy_once_somebody_says_so() {
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 3);
    assert_eq!(case.look(&["db", "migrate"]).code, Some(0));
    let said = case.look(&["db", "restored"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let first = case.run();
    assert!(first.code == Some(4) && first.stderr.contains("the store is a copy"), "{first:?}");
    assert!(case.account.ledger().batches.is_empty(), "nothing was bought");
    assert_eq!(case.run().code, Some(0));
    let nowhere = case.look(&["db", "restored", "--store", "sqlite:nowhere.sqlite"]);
    assert_eq!(nowhere.code, Some(74), "{nowhere:?}");
}
