//! Jobs over runs that came in over HTTP: carried out by a provider in batches, each run bought once and ended by its
//! own result, whatever is killed (invariants 11 to 24).

mod kills;
mod told;

use harness::judge::doubled_keys;
use harness::{Account, Client, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const TASK: &str = "summarise";
const RUNS: usize = 24;

/// A server whose task a provider carries out.
fn server(database: Database, supplier: &Supplier) -> Server {
    // Long enough to be renewed on a machine that does much else, and lapsed before a test loses its patience.
    let server = Server::on(database).config(&supplier.with_task(TASK)).expecting("letting go of all runs");
    server.set("nodes.lease_seconds", if database == Database::Postgres { 6.0 } else { 30.0 })
}

/// Sends runs `from` on; returns their ids.
fn submit(client: &mut Client, supplier: &Supplier, from: usize, count: usize) -> Vec<String> {
    let answer = client.post("/runs/batch", &runs(supplier, from, count)).is(200).json();
    assert_eq!(answer["accepted"], count, "{answer}");
    ids(&answer)
}

fn runs(supplier: &Supplier, from: usize, count: usize) -> Value {
    let run = |number| json!({"task": TASK, "payload": supplier.payload(number), "max_attempts": 12});
    json!({"runs": (from..from + count).map(run).collect::<Vec<Value>>()})
}

fn ids(answer: &Value) -> Vec<String> {
    let id = |line: &Value| line["run"]["id"].as_str().expect("an id").to_owned();
    answer["data"].as_array().expect("verdicts").iter().map(id).collect()
}

fn start(client: &mut Client, job: &Value) -> String {
    client.post("/jobs", job).is(201).field("id")
}

fn job(client: &mut Client, id: &str) -> Value {
    client.get(&format!("/jobs/{id}")).is(200).json()
}

fn is_over(client: &mut Client, id: &str) -> Value {
    eventually("the job is over", || client.get(&format!("/jobs/{id}")).json()["finished_at"].is_string());
    job(client, id)
}

/// Every run has succeeded by its own result, and the provider has billed each once.
fn are_bought_once(client: &mut Client, supplier: &Supplier, runs: &[String]) {
    for (number, id) in runs.iter().enumerate() {
        let run = client.read(id);
        assert_eq!(run["status"], "succeeded", "{run}");
        let output = &run["outcome"]["output"];
        assert_eq!(output["custom_id"], **id, "{run}");
        let digest = Sha256::digest(supplier.payload(number).to_string());
        let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        assert!(output.to_string().contains(&digest), "run {number} has another's result: {output}");
    }
    let ledger = supplier.account.ledger();
    assert!(ledger.billed_twice.is_empty() && doubled_keys(&ledger).is_empty(), "{ledger:?}");
    assert_eq!(ledger.distinct_items, runs.len() as u64);
}

fn carries_out_what_waits(database: Database, protocol: Protocol) {
    let supplier = Supplier::new(protocol, Account::open());
    let mut server = server(database, &supplier).start();
    let mut client = server.client();
    let runs = submit(&mut client, &supplier, 0, RUNS);
    let wish = json!({"pool": TASK, "label": "all of it", "limits": {"max_batch_requests": 9, "max_usd": "1"}});
    let answer = client.post("/jobs", &wish).is(201);
    let id = answer.field("id");
    assert_eq!(answer.header("location"), Some(format!("/api/v1/jobs/{id}").as_str()));
    let over = is_over(&mut client, &id);
    assert_eq!((&over["state"], &over["stop_reason"]), (&json!("finished"), &json!("drained")), "{over}");
    assert_eq!((&over["items"]["succeeded"], &over["residue"]), (&json!(RUNS), &json!(0)), "{over}");
    assert!(over["spend_usd"].as_str().is_some_and(|usd| usd.parse::<f64>().is_ok_and(|usd| usd > 0.0)), "{over}");
    assert!(over["batches"]["created"].as_i64() >= Some(3), "{over}");
    are_bought_once(&mut client, &supplier, &runs);
    assert_eq!(client.list("/jobs")[0]["id"], id.as_str());
    let empty = start(&mut client, &json!({"pool": TASK}));
    assert_eq!(is_over(&mut client, &empty)["stop_reason"], "already_empty");
    server.stop();
}

#[test]
fn jobs_a_backfill_carries_out_what_waits_on_sqlite_at_both_protocols() {
    carries_out_what_waits(Database::Sqlite, Protocol::OpenAi);
    carries_out_what_waits(Database::Sqlite, Protocol::Anthropic);
}

#[test]
fn jobs_a_backfill_carries_out_what_waits_on_postgres_at_both_protocols() {
    carries_out_what_waits(Database::Postgres, Protocol::OpenAi);
    carries_out_what_waits(Database::Postgres, Protocol::Anthropic);
}

/// By enough runs at first, and by time for what is left.
#[test]
fn jobs_a_daemon_batches_what_comes_again_and_again_and_does_not_end() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let mut server = server(Database::Sqlite, &supplier).start();
    let mut client = server.client();
    let by_runs = json!({"pool": TASK, "source": "daemon", "period": {"seconds": 3_600, "runs": 5}});
    let id = start(&mut client, &by_runs);
    let mut runs = submit(&mut client, &supplier, 0, 4);
    eventually("it is driven", || job(&mut client, &id)["state"] == "running");
    runs.extend(submit(&mut client, &supplier, 4, 1));
    eventually("enough have come", || job(&mut client, &id)["items"]["succeeded"] == 5);
    runs.extend(submit(&mut client, &supplier, 5, 7));
    eventually("enough have come again", || job(&mut client, &id)["items"]["succeeded"] == 12);
    let stands = job(&mut client, &id);
    assert_eq!((&stands["state"], &stands["rounds"]), (&json!("running"), &json!(2)), "{stands}");
    client.post(&format!("/jobs/{id}/cancel"), &Value::Null).is(200);
    let by_time = json!({"pool": TASK, "source": "daemon", "period": {"seconds": 0.3}});
    let id = start(&mut client, &by_time);
    runs.extend(submit(&mut client, &supplier, 12, 1));
    eventually("its time has come", || job(&mut client, &id)["items"]["succeeded"] == 1);
    are_bought_once(&mut client, &supplier, &runs);
    server.stop();
}

/// What failed for now is tried again in the next round, and only that; what a ceiling leaves waits for another job.
#[test]
fn jobs_what_a_ceiling_leaves_is_given_back_with_the_tries_it_has_used() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"item_error_rate": 1.0}));
    let mut server = server(Database::Sqlite, &supplier).start();
    let mut client = server.client();
    let runs = submit(&mut client, &supplier, 0, 6);
    let id = start(&mut client, &json!({"pool": TASK, "limits": {"max_rounds": 1}}));
    let over = is_over(&mut client, &id);
    assert_eq!((&over["stop_reason"], &over["clean"]), (&json!("max_rounds"), &json!(false)), "{over}");
    eventually("they are given back", || job(&mut client, &id)["items"]["given_back"] == 6);
    assert_eq!(job(&mut client, &id)["residue"], 6);
    for run in &runs {
        let run = client.read(run);
        assert_eq!((&run["status"], &run["attempt"], &run["worker"]), (&json!("queued"), &json!(1), &Value::Null));
    }
    supplier.account.faults(&json!({"item_error_rate": 0.0}));
    let next = start(&mut client, &json!({"pool": TASK}));
    assert_eq!(is_over(&mut client, &next)["items"]["succeeded"], 6);
    let run = client.read(&runs[0]);
    assert_eq!(run["attempt"], 2);
    let batches = client.list("/batches");
    for (attempt, (job, status, verdict)) in
        [(&id, "failed", "errored"), (&next, "succeeded", "succeeded")].into_iter().enumerate()
    {
        let told = &run["attempts"][attempt];
        let batch = batches.iter().find(|batch| batch["id"] == told["batch_id"]).expect("a batch");
        assert_eq!((&batch["job_id"], &told["epoch"]), (&json!(job), &json!(attempt + 1)), "{run}");
        assert_eq!((&told["status"], &told["verdict"]), (&json!(status), &json!(verdict)), "{run}");
        assert!(told["cost_usd"].as_str().is_some_and(|usd| (usd == "0.00") == (verdict == "errored")), "{run}");
    }
    server.stop();
}

/// A run that a job has is cancelled like any other, and its stream ends.
#[test]
fn jobs_a_run_that_is_drawn_is_listed_cancelled_and_followed_like_any_other() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"item_error_rate": 1.0}));
    let mut server = server(Database::Sqlite, &supplier).start();
    let mut client = server.client();
    let runs = submit(&mut client, &supplier, 0, 3);
    // After its first round what failed waits for the next one, in the hands of the job.
    let wish = json!({"pool": TASK, "source": "daemon", "period": {"seconds": 3_600, "runs": 3}});
    let id = start(&mut client, &wish);
    eventually("the first round is over", || {
        let job = job(&mut client, &id);
        job["round_log"][0]["carried"] == 3 && job["items"]["queued"] == 3
    });
    let queued = client.list("/runs?status=queued");
    assert_eq!(queued.len(), 3);
    let queue = client.list("/queues").remove(0);
    assert_eq!((&queue["queued"], &queue["in_jobs"]), (&json!(0), &json!({"queued": 3, "running": 0})), "{queue}");
    assert_eq!(client.read(&runs[0])["attempts"].as_array().map(Vec::len), Some(1), "its tries are told meanwhile");
    assert!(queued.iter().all(|run| run["worker"] == id.as_str() && run["attempt"] == 1), "{queued:?}");
    let answer = client.post(&format!("/runs/{}/cancel", runs[1]), &Value::Null).is(200).json();
    assert_eq!(answer["status"], "cancelled");
    let mut events = client.follow(&format!("/runs/{}/events", runs[1]), None).expect("a stream");
    let last = std::iter::from_fn(|| events.next()).map(|event| event.name).collect::<Vec<_>>();
    assert_eq!(last.last().map(String::as_str), Some("end"), "{last:?}");
    assert_eq!(job(&mut client, &id)["items"]["failed"], 1);
    server.stop();
}
