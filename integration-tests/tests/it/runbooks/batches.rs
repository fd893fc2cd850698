//! What can happen to batches and to the jobs that they are of.

use super::page::Page;
use harness::{Account, Case, Client, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};

const TASK: &str = "summarise";

/// A server on PostgreSQL, where commands may open the store beside it.
pub fn buyer(supplier: &Supplier) -> Server {
    Server::on(Database::Postgres).config(&supplier.with_task(TASK))
}

/// A job over as many runs of its own as go into one batch.
pub fn job(client: &mut Client, supplier: &Supplier, numbers: std::ops::Range<usize>) -> String {
    let run = |number| json!({"task": TASK, "payload": supplier.payload(number)});
    let runs: Vec<Value> = numbers.map(run).collect();
    client.post("/runs/batch", &json!({"runs": runs})).is(200);
    client.post("/jobs", &json!({"pool": TASK})).is(201).field("id")
}

/// The only batch that is in a state, once there is one.
pub fn batch_in(server: &Server, state: &str) -> String {
    let query = format!("SELECT id FROM batches WHERE state = '{state}'");
    let mut found = None;
    eventually(&format!("a batch is {state}"), || {
        found = server.rows(&query).into_iter().next().and_then(|mut row| row[0].take());
        found.is_some()
    });
    found.expect("it is there")
}

pub fn job_is(client: &mut Client, id: &str, state: &str) -> bool {
    client.get(&format!("/jobs/{id}")).is(200).json()["state"] == state
}

pub fn near_expiry(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    // What is cancelled ends there after a tenth of that.
    supplier.account.faults(&json!({"latency_ms": 20_000}));
    let mut server = buyer(&supplier).start();
    job(&mut server.client(), &supplier, 0..3);
    let batch = batch_in(&server, "submitted");
    let listed = page.next(&server, "tidegate batches list");
    assert!(listed.contains(&batch), "{listed}");
    page.fill("ID", &batch).rest(&server);
    eventually("the batch is collected", || {
        server.rows(&format!("SELECT state FROM batches WHERE id = '{batch}'"))[0][0].as_deref() == Some("collected")
    });
    server.stop();
}

pub fn unknown(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    // It has the batch, and shows it to those only who ask by its id.
    supplier.account.faults(&json!({"lose_answers": 1, "hide_from_list_ms": 3_600_000}));
    let mut server = buyer(&supplier).set("providers.acme.policy", "hold").start();
    let mut client = server.client();
    let first = job(&mut client, &supplier, 0..3);
    let batch = batch_in(&server, "unknown");
    let theirs = supplier.account.ledger().batches[0].id.clone();
    page.fill("ID", &batch)
        .fill("THEIRS", &theirs)
        .until(&server, "curl -sSf -H 'Content-Type: application/json' -d '{\"accept");
    eventually("what was adopted is collected", || job_is(&mut client, &first, "finished"));
    supplier.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 3_600_000}));
    let second = job(&mut client, &supplier, 3..6);
    page.fill("ID", &batch_in(&server, "unknown"));
    supplier.account.faults(&json!({}));
    page.rest(&server);
    eventually("what was abandoned is bought again", || job_is(&mut client, &second, "finished"));
    eventually("no batch is of unknown fate", || server.metric("tidegate_llm_batches_unreconciled", &[]) == 0.0);
    server.stop();
}

pub fn job_suspended(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"reject_keys": true}));
    let mut server = buyer(&supplier).start();
    let mut client = server.client();
    let id = job(&mut client, &supplier, 0..3);
    eventually("the job is suspended", || job_is(&mut client, &id, "suspended"));
    let told = page.fill("ID", &id).next(&server, "tidegate jobs get");
    assert!(told.contains("account"), "the reason stands there: {told}");
    // A file of somebody who has bought it elsewhere.
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 3);
    let lines = std::fs::read_to_string(case.input()).expect("the file");
    let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
    let bought = case.account.buy(Protocol::OpenAi, &lines);
    eventually("it has ended there", || case.account.has_ended(Protocol::OpenAi, &bought));
    let ids = case.dir.path().join("ids.txt");
    std::fs::write(&ids, &bought).expect("the ids");
    page.fill("IDS", ids.to_str().expect("a name")).fill("FILE", case.input().to_str().expect("a name"));
    page.fill("OPENAI_API_KEY", &case.account.key);
    page.fill("OPENAI_BASE_URL", &format!("http://{}/v1", case.account.addr()));
    supplier.account.faults(&json!({}));
    page.rest(&server);
    eventually("the job is done", || job_is(&mut client, &id, "finished"));
    server.stop();
}

pub fn results_quarantined(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"unknown_rate": 1.0}));
    let mut server = Server::on(Database::Sqlite).config(&supplier.with_task(TASK)).start();
    let mut client = server.client();
    let id = job(&mut client, &supplier, 0..3);
    eventually("the job is done", || job_is(&mut client, &id, "finished"));
    page.rest(&server);
    server.says("a result line is set aside");
    supplier.account.faults(&json!({}));
    let before = server.metric("tidegate_llm_results_quarantined_total", &[]);
    assert!(before > 0.0);
    let id = job(&mut client, &supplier, 3..6);
    eventually("the next job is done", || job_is(&mut client, &id, "finished"));
    assert_eq!(server.metric("tidegate_llm_results_quarantined_total", &[]), before, "no more come");
    server.stop();
}

pub fn spend(mut page: Page) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"latency_ms": 3_600_000}));
    let mut server = buyer(&supplier).set("limits.max_usd_per_day", "\"1\"").start();
    let mut client = server.client();
    let id = job(&mut client, &supplier, 0..3);
    batch_in(&server, "submitted");
    page.fill("ID", &id).rest(&server);
    eventually("the job is suspended", || job_is(&mut client, &id, "suspended"));
    server.stop();
}
