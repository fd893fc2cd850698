//! Backups are gone back to as the manual says, by a shell; systemd is played.

use super::batches::{batch_in, job, job_is};
use super::page::Page;
use harness::{Account, Case, Database, Protocol, Server, Supplier, eventually};
use serde_json::json;
use std::fs;

/// A server whose store is where systemd's unit has it, below a folder.
fn installed(supplier: &Supplier) -> (Server, String) {
    let server = Server::on(Database::Sqlite).config(&supplier.with_task("summarise"));
    let root = server.dir.path().to_owned();
    for folder in ["var/lib/tidegate", "var/backups/tidegate"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let store = format!("sqlite:{}/var/lib/tidegate/tidegate.sqlite", root.display());
    (server.with_store(&store).expecting("may have forgotten batches"), root.display().to_string())
}

pub fn backup(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let (server, root) = installed(&supplier);
    let mut server = server.start();
    job(&mut server.client(), &supplier, 0..3);
    page.fill("/var", &format!("{root}/var")).until(&server, "pg_dump");
    let mut postgres = Server::on(Database::Postgres).start();
    postgres.client().run(&json!({"task": "noop"}));
    page.until(&postgres, "tidegate db check");
    page.rest(&postgres);
    postgres.stop();
    server.stop();
}

/// SQLite as the page goes, with a batch that was planned in the backup and is bought since.
fn sqlite(page: &mut Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let (server, root) = installed(&supplier);
    supplier.account.faults(&json!({"rate_limits": 1_000}));
    let mut server = server.start();
    let mut client = server.client();
    let id = job(&mut client, &supplier, 0..3);
    batch_in(&server, "planned");
    let out = format!("{root}/var/backups/tidegate/today.sqlite");
    let copied = server.command(&["db", "backup", "--out", &out]).status().expect("it starts");
    assert!(copied.success());
    supplier.account.faults(&json!({}));
    eventually("it is bought since", || job_is(&mut client, &id, "finished"));
    // And of a run that is not in the backup at all.
    let lost =
        json!({"custom_id": "x-1-0", "method": "POST", "url": "/v1/chat/completions", "body": supplier.payload(7)});
    let forgotten = supplier.account.buy(Protocol::OpenAi, &[lost.to_string()]);
    page.fill("/var", &format!("{root}/var"));
    server.stop();
    page.played("systemctl stop tidegate").until(&server, "tidegate doctor");
    let told = page.next(&server, "tidegate doctor");
    let names = format!("does not know, from {forgotten}");
    assert!(told.contains("\t1 batches since") && told.contains(&names), "what was planned is no stranger: {told}");
    server.again();
    page.played("systemctl start tidegate").until(&server, "tidegate db restored");
    let mut client = server.client();
    assert!(job_is(&mut client, &id, "suspended"), "as it was, and nothing is bought");
    client.post(&format!("/jobs/{id}/resume"), &json!({})).is(200);
    eventually("what was bought is collected", || job_is(&mut client, &id, "finished"));
    assert_eq!(supplier.account.ledger().batches.len(), 2, "and not bought again");
    server.stop();
    page.next(&server, "tidegate db restored");
}

pub fn restore(mut page: Page) {
    sqlite(&mut page);
    let supplier = Supplier::new(Protocol::Anthropic, Account::open());
    supplier.account.faults(&json!({"latency_ms": 1_500}));
    let config = supplier.with_task("summarise");
    let mut original = Server::on(Database::Postgres).config(&config).start();
    let mut client = original.client();
    let id = job(&mut client, &supplier, 0..3);
    batch_in(&original, "submitted");
    let dump = original.dir.path().join("today.dump");
    let mut copy = std::process::Command::new("pg_dump");
    let copied = copy.args(["--format=custom", "--dbname", &original.store]).arg("--file").arg(&dump).status();
    assert!(copied.expect("it starts").success());
    original.kill9();
    let (cluster, _) = original.store.rsplit_once('/').expect("a database");
    let name = format!("restored_{}", std::process::id());
    let store = format!("{cluster}/{name}");
    let mut restored = Server::on(Database::Postgres).config(&config).with_store(&store);
    fs::copy(&dump, restored.dir.path().join("today.dump")).expect("the dump");
    page.fill("MAINTENANCE", &format!("{cluster}/postgres")).fill("RESTORED", &store).fill("tidegate_restored", &name);
    page.until(&restored, "tidegate batches list --state unknown");
    restored = restored.expecting("may have forgotten batches").start();
    let mut client = restored.client();
    assert!(job_is(&mut client, &id, "suspended"));
    page.until(&restored, "tidegate repair import-batches");
    // A file of somebody who has bought it elsewhere.
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 3);
    let lines: Vec<String> = fs::read_to_string(case.input()).expect("the file").lines().map(str::to_owned).collect();
    let bought = case.account.buy(Protocol::OpenAi, &lines);
    eventually("it has ended there", || case.account.has_ended(Protocol::OpenAi, &bought));
    let ids = case.dir.path().join("ids.txt");
    fs::write(&ids, &bought).expect("the ids");
    page.fill("IDS", ids.to_str().expect("a name")).fill("FILE", case.input().to_str().expect("a name"));
    page.fill("OPENAI_API_KEY", &case.account.key);
    page.fill("OPENAI_BASE_URL", &format!("http://{}/v1", case.account.addr()));
    page.fill("TIDEGATE_STORE", &store).fill("ID", &id).rest(&restored);
    eventually("the job is done", || job_is(&mut client, &id, "finished"));
    eventually("no batch is of unknown fate", || restored.metric("tidegate_llm_batches_unreconciled", &[]) == 0.0);
    assert_eq!(supplier.account.ledger().creates, 1, "it is not bought again");
    restored.stop();
}
