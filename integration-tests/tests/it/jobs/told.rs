//! What a job is told, and what it tells: refused wishes, plans that change nothing, its events, and the command line.

use super::{RUNS, TASK, is_over, job, server, start, submit};
use harness::{Account, Client, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::process::Output;

fn started(database: Database) -> (Supplier, Server, Client) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let server = server(database, &supplier).start();
    let client = server.client();
    (supplier, server, client)
}

/// Every table with all that is in it but for leases, which go on being renewed.
fn content(server: &Server) -> Vec<String> {
    let tables = ["jobs", "job_events", "job_rounds", "pools", "runs", "run_bodies", "ready", "run_records", "batches"];
    tables.iter().map(|table| format!("{table}: {:?}", server.rows(&format!("SELECT * FROM {table}")))).collect()
}

/// Invariant 21.
#[test]
fn s001_b4_b5_jobs_a_dry_run_counts_its_scope_and_writes_and_sends_nothing() {
    let (supplier, mut server, mut client) = started(Database::Postgres);
    submit(&mut client, &supplier, 0, RUNS);
    server.execute("UPDATE run_records SET accepted_at = 1767225599000 WHERE id = (SELECT MIN(id) FROM run_records)");
    let before = content(&server);
    let plan = |client: &mut Client, wish: Value| client.post("/jobs", &wish).is(200).json();
    let all = plan(&mut client, json!({"pool": TASK, "dry_run": true, "limits": {"max_batch_requests": 10}}));
    assert_eq!((&all["items"], &all["batches_planned"], &all["unpriced"]), (&json!(RUNS), &json!(3), &json!(0)));
    assert!(all["worst_usd"].as_str().is_some_and(|usd| usd.parse::<f64>().is_ok_and(|usd| usd > 0.0)), "{all}");
    let since = plan(&mut client, json!({"pool": TASK, "dry_run": true, "scope": {"since": "2026-01-01"}}));
    assert_eq!((&since["items"], &since["scope"]["since"]), (&json!(RUNS - 1), &json!("2026-01-01T00:00:00.000Z")));
    // A live job of the same pool is no matter to a plan.
    let daemon = json!({"pool": TASK, "source": "daemon", "period": {"seconds": 3_600}, "scope": {"queue": "other"}});
    let unplanned = content(&server);
    assert_eq!(unplanned, before);
    start(&mut client, &daemon);
    plan(&mut client, json!({"pool": TASK, "source": "daemon", "dry_run": true}));
    let ledger = supplier.account.ledger();
    assert_eq!((ledger.creates, ledger.uploads, ledger.calls), (0, 0, 0));
    server.stop();
}

/// The first instant of a day is in the scope that begins with it, and the second before it is not (invariant 20).
#[test]
fn jobs_since_begins_at_midnight_utc_and_what_lies_before_is_left_as_it_is() {
    let (supplier, mut server, mut client) = started(Database::Postgres);
    let runs = submit(&mut client, &supplier, 0, 2);
    let midnight = 1_767_225_600_000_i64;
    for (run, at) in runs.iter().zip([midnight - 1_000, midnight]) {
        server.execute(&format!("UPDATE run_records SET accepted_at = {at} WHERE id = '{run}'"));
    }
    let id = start(&mut client, &json!({"pool": TASK, "scope": {"since": "2026-01-01"}}));
    let over = is_over(&mut client, &id);
    assert_eq!((&over["items"]["total"], &over["items"]["succeeded"]), (&json!(1), &json!(1)), "{over}");
    let (before, after) = (client.read(&runs[0]), client.read(&runs[1]));
    assert_eq!((&before["status"], &before["attempt"]), (&json!("queued"), &json!(0)));
    assert_eq!(after["status"], "succeeded");
    server.stop();
}

/// All of a filter must be true of a run; one that lies outside is left as it is (invariant 20).
#[test]
fn jobs_a_filter_is_planned_told_kept_and_carried_out_and_nothing_else() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let phases = "\n[sessions.review]\ninitial = \"a\"\nedges = { a = [\"complete\"] }\n";
    let mut server = server(Database::Postgres, &supplier).config(&(supplier.with_task(TASK) + phases)).start();
    let mut client = server.client();
    let session = client.post("/sessions", &json!({"type": "review"})).is(201).field("id");
    let sent = [
        json!({"tags": ["nightly", "eu"], "concurrency_key": "k", "priority": 5}),
        json!({"tags": ["nightly"], "session_id": session}),
        json!({"tags": ["eu"], "queue": "other"}),
    ];
    let mut runs = Vec::new();
    for (number, mut run) in sent.into_iter().enumerate() {
        (run["task"], run["payload"]) = (json!(TASK), supplier.payload(number));
        runs.push(client.run(&run));
    }
    let plan = |client: &mut Client, filter: &Value| {
        let wish = json!({"pool": TASK, "dry_run": true, "scope": {"filter": filter}});
        client.post("/jobs", &wish).is(200).json()
    };
    for (filter, items) in [
        (json!({}), 3),
        (json!({"tags": []}), 3),
        (json!({"tags": ["nightly"]}), 2),
        (json!({"tags": ["eu", "nightly", "eu"]}), 1),
        (json!({"tags": ["eu"], "queue": "other"}), 1),
        (json!({"session_id": session}), 1),
        (json!({"concurrency_key": "k"}), 1),
        (json!({"priority_min": 0}), 3),
        (json!({"priority_min": 1}), 1),
        (json!({"priority_min": 1, "session_id": session}), 0),
    ] {
        assert_eq!(plan(&mut client, &filter)["items"], items, "{filter}");
    }
    let eu = json!({"tags": ["eu"], "priority_min": 0, "concurrency_key": "k"});
    let wish = |filter: &Value| {
        json!({"pool": TASK, "source": "daemon", "scope": {"filter": filter},
        "period": {"seconds": 0.3}})
    };
    let id = start(&mut client, &wish(&eu));
    let told = json!({"queue": null, "tags": ["eu"], "session_id": null, "concurrency_key": "k", "priority_min": 0});
    assert_eq!(job(&mut client, &id)["scope"]["filter"], told);
    assert_eq!(client.list("/jobs")[0]["scope"]["filter"], told);
    eventually("what is in it is carried out", || job(&mut client, &id)["items"]["succeeded"] == 1);
    let other = client.post("/jobs", &wish(&json!({"session_id": session})));
    other.is_problem(409, "conflict");
    for words in [&id, "tags eu", "concurrency key k", "priority from 0", &format!("session {session}")] {
        assert!(other.field("detail").contains(words), "{words}: {other:?}");
    }
    let mut events = client.follow(&format!("/jobs/{id}/events"), None).expect("a stream");
    let created = events.next().expect("an event");
    assert!(created.name == "created" && created.data.contains(r#""tags":["eu"]"#), "{created:?}");
    for (run, status) in runs.iter().zip(["succeeded", "queued", "queued"]) {
        let run = client.read(run);
        assert_eq!((&run["status"], &run["attempt"]), (&json!(status), &json!(i64::from(status != "queued"))), "{run}");
    }
    server.stop();
}

#[test]
fn s001_b7_jobs_a_second_owner_is_refused_naming_the_first_and_both_scopes() {
    let (supplier, mut server, mut client) = started(Database::Sqlite);
    submit(&mut client, &supplier, 0, 1);
    let daemon =
        json!({"pool": TASK, "source": "daemon", "period": {"seconds": 3_600}, "scope": {"since": "2026-01-02"}});
    let id = start(&mut client, &daemon);
    eventually("it is driven", || job(&mut client, &id)["state"] == "running");
    let refused = |client: &mut Client, wish: Value, words: &[&str]| {
        let answer = client.post("/jobs", &wish);
        answer.is_problem(409, "conflict");
        let detail = answer.field("detail");
        assert!(words.iter().all(|word| detail.contains(word)), "{detail} has not all of {words:?}");
    };
    let again = json!({"pool": TASK, "source": "daemon", "scope": {"since": "2026-01-05"}});
    refused(&mut client, again, &[&id, "daemon", "2026-01-02", "2026-01-05"]);
    refused(&mut client, json!({"pool": TASK, "policy": "exclusive"}), &[&id, "daemon", "alone"]);
    let beside = start(&mut client, &json!({"pool": TASK}));
    is_over(&mut client, &beside);
    client.post(&format!("/jobs/{id}/cancel"), &Value::Null).is(200);
    let gone = client.post(&format!("/jobs/{id}/resume"), &Value::Null);
    gone.is_problem(409, "conflict");
    assert!(gone.field("detail").contains("cancelled, and stays so"), "{gone:?}");
    server.stop();
}

#[test]
fn jobs_what_cannot_be_meant_is_refused_field_by_field() {
    let (_supplier, mut server, mut client) = started(Database::Sqlite);
    let filtered = |filter: Value| json!({"pool": TASK, "scope": {"filter": filter}});
    for (wish, pointer, code) in [
        (json!({}), "/pool", "required"),
        (json!({"pool": "noop"}), "/pool", "unknown_pool"),
        (json!({"pool": TASK, "source": "cron"}), "/source", "choice"),
        (json!({"pool": TASK, "scope": {"since": "yesterday"}}), "/scope/since", "format"),
        (json!({"pool": TASK, "scope": {"since": "2026-02-30"}}), "/scope/since", "format"),
        (json!({"pool": TASK, "scope": {"until": "2026-02-03"}}), "/scope/until", "unknown_field"),
        (filtered(json!({"tag": ["a"]})), "/scope/filter/tag", "unknown_field"),
        (filtered(json!(["a"])), "/scope/filter", "type"),
        (filtered(json!({"tags": "a"})), "/scope/filter/tags", "type"),
        (filtered(json!({"tags": ["a", 1]})), "/scope/filter/tags/1", "type"),
        (filtered(json!({"tags": (0..11).collect::<Vec<_>>()})), "/scope/filter/tags", "too_many"),
        (filtered(json!({"tags": ["a\n"]})), "/scope/filter/tags/0", "charset"),
        (filtered(json!({"session_id": 5})), "/scope/filter/session_id", "type"),
        (filtered(json!({"session_id": "a b"})), "/scope/filter/session_id", "charset"),
        (filtered(json!({"concurrency_key": ""})), "/scope/filter/concurrency_key", "length"),
        (filtered(json!({"priority_min": 1.5})), "/scope/filter/priority_min", "type"),
        (filtered(json!({"priority_min": 86_401})), "/scope/filter/priority_min", "range"),
        (json!({"pool": TASK, "scope": {"queue": "a", "filter": {"queue": "b"}}}), "/scope/filter/queue", "conflict"),
        (json!({"pool": TASK, "limits": {"max_usd": 5}}), "/limits/max_usd", "type"),
        (json!({"pool": TASK, "limits": {"max_usd": "many"}}), "/limits/max_usd", "format"),
        (json!({"pool": TASK, "limits": {"max_rounds": 0}}), "/limits/max_rounds", "range"),
        (json!({"pool": TASK, "limits": {"max_batch_requests": 50_001}}), "/limits/max_batch_requests", "range"),
        (json!({"pool": TASK, "period": {"seconds": 5}}), "/period", "conflict"),
        (json!({"pool": TASK, "source": "daemon", "period": {"seconds": 0}}), "/period/seconds", "range"),
        (json!({"pool": TASK, "policy": "shared"}), "/policy", "choice"),
    ] {
        let answer = client.post("/jobs", &wish);
        assert_eq!(answer.status, 400, "{wish}: {answer:?}");
        let error = &answer.json()["errors"][0];
        assert_eq!((&error["pointer"], &error["code"]), (&json!(pointer), &json!(code)), "{wish}: {error}");
    }
    let unpriced = json!({"model": "nobodys-model", "messages": []});
    client.run(&json!({"task": TASK, "payload": unpriced}));
    let capped = client.post("/jobs", &json!({"pool": TASK, "limits": {"max_usd": "1"}}));
    assert_eq!(capped.json()["errors"][0]["code"], "unpriced", "{capped:?}");
    for payload in [json!(null), json!({"messages": []}), json!({"params": {"model": "m", "max_tokens": 1}})] {
        let answer = client.post("/runs", &json!({"task": TASK, "payload": payload}));
        assert_eq!(answer.json()["errors"][0]["pointer"], "/payload", "{answer:?}");
    }
    for path in ["/jobs/job_01jd8v9k3z5m7q2w4x6y8a0b1c", "/jobs/nonsense", "/jobs/run_01jd8v9k3z5m7q2w4x6y8a0b1c"] {
        client.get(path).is_problem(404, "not_found");
        client.post(&format!("{path}/cancel"), &Value::Null).is_problem(404, "not_found");
    }
    assert_eq!(client.list("/jobs"), Vec::<Value>::new());
    server.stop();
}

#[test]
fn jobs_a_suspended_job_opens_no_batch_and_goes_on_as_the_same_when_resumed() {
    let (supplier, mut server, mut client) = started(Database::Sqlite);
    let id = start(&mut client, &json!({"pool": TASK, "source": "daemon", "period": {"seconds": 0.2}}));
    eventually("it is driven", || job(&mut client, &id)["state"] == "running");
    for _ in 0..2 {
        let suspended = client.post(&format!("/jobs/{id}/suspend"), &Value::Null).is(200).json();
        assert_eq!((&suspended["state"], &suspended["detail"]), (&json!("suspended"), &json!("suspended on request")));
    }
    let runs = submit(&mut client, &supplier, 0, 3);
    server.stop();
    // A restart does not wake it.
    server.again();
    let mut client = server.client();
    let plan = client.post("/jobs", &json!({"pool": TASK, "dry_run": true})).is(200).json();
    assert_eq!((&plan["items"], supplier.account.ledger().creates), (&json!(3), 0));
    client.post(&format!("/jobs/{id}/resume"), &Value::Null).is(200);
    eventually("they are carried out", || job(&mut client, &id)["items"]["succeeded"] == 3);
    super::are_bought_once(&mut client, &supplier, &runs);
    server.stop();
}

fn cli(server: &Server, client: &str, args: &[&str]) -> Output {
    let mut command = server.command(args);
    command.env("TIDEGATE_SERVER", client);
    command.output().expect("the binary runs")
}

#[test]
fn jobs_the_command_line_plans_starts_and_follows_a_job_to_its_exit_code() {
    let (supplier, mut server, mut client) = started(Database::Sqlite);
    let url = format!("http://{}", server.door().addr().expect("it listens"));
    submit(&mut client, &supplier, 0, 3);
    let out = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let plan = cli(&server, &url, &["jobs", "plan", TASK, "--max-usd", "1"]);
    assert!(plan.status.success() && out(&plan).contains("items\t3\n"), "{plan:?}");
    let filter = ["--tag", "x", "--tag", "y", "--session", "ses_1", "--concurrency-key", "k", "--priority-min", "-2"];
    let none = cli(&server, &url, &[&["jobs", "plan", TASK], filter.as_slice()].concat());
    for words in ["items\t0\n", "tags\tx,y\n", "session\tses_1\n", "concurrency key\tk\n", "priority from\t-2\n"] {
        assert!(none.status.success() && out(&none).contains(words), "{words}: {none:?}");
    }
    let crowded = cli(&server, &url, &[["jobs", "start", TASK].as_slice(), &["--tag", ""]].concat());
    assert_eq!(crowded.status.code(), Some(2), "{crowded:?}");
    let started = cli(&server, &url, &["jobs", "start", TASK, "--label", "nightly", "-o", "json"]);
    let id = serde_json::from_str::<Value>(&out(&started)).expect("a job")["id"].as_str().expect("an id").to_owned();
    assert!(String::from_utf8_lossy(&started.stderr).contains(&format!("tidegate jobs watch {id}")), "{started:?}");
    let watched = cli(&server, &url, &["jobs", "watch", &id]);
    let text = out(&watched);
    assert_eq!(watched.status.code(), Some(0), "{watched:?}");
    for words in ["created", "started", "3 of 3 succeeded", "stopping\tdrained", "finished"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    supplier.account.faults(&json!({"item_error_always_rate": 1.0}));
    client.run(&json!({"task": TASK, "payload": supplier.payload(9), "max_attempts": 1}));
    let failing = cli(&server, &url, &["jobs", "start", TASK, "-o", "json"]);
    let id = serde_json::from_str::<Value>(&out(&failing)).expect("a job")["id"].as_str().expect("an id").to_owned();
    assert_eq!(cli(&server, &url, &["jobs", "watch", &id, "-o", "jsonl"]).status.code(), Some(8));
    let daemon = cli(&server, &url, &["jobs", "start", TASK, "--source", "daemon", "--every", "1h", "-o", "json"]);
    let id = serde_json::from_str::<Value>(&out(&daemon)).expect("a job")["id"].as_str().expect("an id").to_owned();
    eventually("it is driven", || job(&mut client, &id)["state"] == "running");
    for (verb, state) in [("suspend", "suspended"), ("resume", "running"), ("cancel", "cancelled")] {
        let told = cli(&server, &url, &["jobs", verb, &id]);
        assert!(told.status.success() && out(&told).contains(&format!("state\t{state}\n")), "{told:?}");
    }
    let refused = cli(&server, &url, &["jobs", "resume", &id]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert_eq!(cli(&server, &url, &["jobs", "start", "nowhere"]).status.code(), Some(2));
    server.stop();
}

/// While a server has the store, nobody else can answer for it.
#[test]
fn jobs_a_batch_of_unknown_fate_is_answered_for_over_http() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"lose_answers": 1, "hide_from_list_ms": 600_000}));
    let patient = supplier.with_task(TASK).replace("settle_seconds = 0.3", "settle_seconds = 600");
    let mut server = Server::on(Database::Sqlite).config(&patient).start();
    let mut client = server.client();
    let runs = submit(&mut client, &supplier, 0, 3);
    let unknown = |client: &mut Client| {
        let mut found = Value::Null;
        eventually("its fate is unknown", || {
            found = client.list("/batches?state=unknown").first().cloned().unwrap_or_default();
            found.is_object()
        });
        found
    };
    let id = start(&mut client, &json!({"pool": TASK}));
    let batch = unknown(&mut client);
    assert_eq!(batch["job_id"], id.as_str());
    let path = |batch: &Value, verb: &str| format!("/batches/{}/{verb}", batch["id"].as_str().expect("an id"));
    let refused = client.post(&path(&batch, "abandon"), &json!({}));
    assert_eq!(refused.json()["errors"][0]["pointer"], "/accept_double_billing", "{refused:?}");
    client.post(&path(&batch, "adopt"), &json!({"provider_batch_id": ""})).is_problem(400, "invalid_field");
    let at_provider = json!({"provider_batch_id": supplier.account.ledger().batches[0].id});
    let adopted = client.post(&path(&batch, "adopt"), &at_provider).is(200).json();
    assert_eq!(
        (&adopted["state"], &adopted["provider_batch_id"]),
        (&json!("submitted"), &at_provider["provider_batch_id"])
    );
    client.post(&path(&batch, "adopt"), &at_provider).is_problem(409, "conflict");
    assert_eq!(is_over(&mut client, &id)["items"]["succeeded"], 3);
    super::are_bought_once(&mut client, &supplier, &runs);
    let whole = client.get(&format!("/batches/{}", batch["id"].as_str().expect("an id"))).is(200).json();
    let events: Vec<&str> =
        whole["events"].as_array().expect("events").iter().filter_map(|event| event["event"].as_str()).collect();
    assert!(
        events.starts_with(&["planned"]) && events.contains(&"found") && events.ends_with(&["collected"]),
        "{events:?}"
    );
    // Given up with open eyes: it is bought again, as was accepted.
    supplier.account.faults(&json!({"lose_answers": 2, "hide_from_list_ms": 600_000}));
    let run = submit(&mut client, &supplier, 3, 1).remove(0);
    let id = start(&mut client, &json!({"pool": TASK}));
    let batch = unknown(&mut client);
    supplier.account.faults(&json!({}));
    let given_up = client.post(&path(&batch, "abandon"), &json!({"accept_double_billing": true})).is(200).json();
    assert_eq!(given_up["state"], "abandoned");
    is_over(&mut client, &id);
    assert_eq!(client.read(&run)["status"], "succeeded");
    assert_eq!(supplier.account.ledger().billed_twice.len(), 1);
    server.stop();
}

/// A day's cap is checked before anything is sent, and holds a job where its own cap would end it (invariant 26).
#[test]
fn jobs_a_days_cap_holds_a_job_until_there_is_more_to_spend() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let mut server = server(Database::Sqlite, &supplier);
    server.change("TIDEGATE_LIMITS__MAX_USD_PER_DAY", "0.000000001");
    server.again();
    let mut client = server.client();
    submit(&mut client, &supplier, 0, 3);
    let id = start(&mut client, &json!({"pool": TASK}));
    eventually("it is held", || job(&mut client, &id)["held_until"].is_string());
    let held = job(&mut client, &id);
    assert_eq!((&held["state"], &held["reserved_usd"]), (&json!("running"), &json!("0.00")), "{held}");
    assert_eq!(supplier.account.ledger().creates, 0);
    client.post(&format!("/jobs/{id}/suspend"), &Value::Null).is(200);
    server.stop();
    server.change("TIDEGATE_LIMITS__MAX_USD_PER_DAY", "5");
    server.again();
    let mut client = server.client();
    client.post(&format!("/jobs/{id}/resume"), &Value::Null).is(200);
    let over = is_over(&mut client, &id);
    assert_eq!((&over["stop_reason"], &over["items"]["succeeded"]), (&json!("drained"), &json!(3)), "{over}");
    server.stop();
}

/// What we have stopped ourselves uses up no try (invariant 16), and goes on when somebody wants it to.
fn stopped_at(protocol: Protocol) {
    let supplier = Supplier::new(protocol, Account::open());
    supplier.account.faults(&json!({"latency_ms": 20_000}));
    let mut server = server(Database::Sqlite, &supplier).start();
    let mut client = server.client();
    let runs = submit(&mut client, &supplier, 0, RUNS);
    let id = start(&mut client, &json!({"pool": TASK}));
    let mut batch = Value::Null;
    eventually("it is at the provider", || {
        batch = client.list("/batches").first().cloned().unwrap_or_default();
        batch["state"] == "submitted"
    });
    client.post(&format!("/jobs/{id}/suspend"), &Value::Null).is(200);
    let path = format!("/batches/{}", batch["id"].as_str().expect("an id"));
    for _ in 0..2 {
        client.post(&format!("{path}/cancel"), &Value::Null).is(200);
    }
    eventually("it is stopped and collected", || client.get(&path).json()["state"] == "collected");
    let items = job(&mut client, &id)["items"].clone();
    assert_eq!((&items["queued"], &items["running"]), (&json!(RUNS), &json!(0)), "{items}");
    for run in &runs {
        let run = client.read(run);
        assert_eq!((&run["status"], &run["attempt"]), (&json!("queued"), &json!(0)), "{run}");
    }
    assert_eq!(supplier.account.ledger().items_billed_total, 0, "nothing had been carried out");
    supplier.account.faults(&json!({"latency_ms": 100}));
    client.post(&format!("/jobs/{id}/resume"), &Value::Null).is(200);
    let over = is_over(&mut client, &id);
    assert_eq!((&over["stop_reason"], &over["items"]["succeeded"]), (&json!("drained"), &json!(RUNS)), "{over}");
    assert_eq!(client.read(&runs[0])["attempt"], 1);
    let batches = client.list("/batches");
    let other = batches.iter().find(|other| other["id"] != batch["id"]).expect("it was sent again");
    let over = format!("/batches/{}/cancel", other["id"].as_str().expect("an id"));
    client.post(&over, &Value::Null).is_problem(409, "conflict");
    server.stop();
}

#[test]
fn jobs_a_batch_that_somebody_stops_leaves_its_runs_as_they_were_at_both_protocols() {
    stopped_at(Protocol::OpenAi);
    stopped_at(Protocol::Anthropic);
}
