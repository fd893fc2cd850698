//! SIGHUP of a server: limits and prices are taken over, what needs a restart is named, and a wrong file is no matter.

use harness::{Client, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::fs;

const TASK: &str = "[tasks.later]\nkind = \"pull\"\n";

fn put(server: &Server, name: &str, text: &str) {
    fs::write(server.dir.path().join(name), text).expect("it is written");
}

fn reload(server: &Server, config: &str) {
    put(server, "tidegate.toml", config);
    server.signal("HUP");
}

fn lease(client: &mut Client) -> usize {
    let ask = json!({"worker": "w", "tasks": ["later"], "max_items": 10});
    client.post("/workers/lease", &ask).is(200).json()["data"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_reload_takes_limits_over_and_names_what_needs_a_restart() {
    let limited = |most: usize, more: &str| format!("{TASK}[limits]\nmax_running = {most}\n{more}");
    let mut server = Server::on(Database::Sqlite).config(&limited(2, "")).start();
    let mut client = server.client();
    client.post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); 20]})).is(200);
    assert_eq!(lease(&mut client), 2);
    let loaded = server.metric("tidegate_config_last_reload_success_timestamp_seconds", &[]);
    assert!(loaded > 1_700_000_000.0, "{loaded}");
    reload(&server, &limited(5, ""));
    server.says("settings reloaded: limits.max_running");
    assert_eq!(lease(&mut client), 3);
    let reloaded = server.metric("tidegate_config_last_reload_success_timestamp_seconds", &[]);
    assert!(reloaded > loaded, "{loaded} to {reloaded}");
    // What is wrong changes nothing, not even what is right beside it.
    reload(&server, &limited(9, "max_runing = 3\n"));
    server.says("did you mean `max_running`?");
    reload(&server, &limited(9, "[workers]\nslots = 2000\n"));
    server.says("workers.slots is 2000; it must be between 0 and 1024 (tidegate.toml, line 6)");
    reload(&server, &limited(9, "[prices]\nfile = \"none.toml\"\n"));
    server.says("prices.file none.toml: No such file");
    assert_eq!(lease(&mut client), 0);
    assert_eq!(server.metric("tidegate_config_last_reload_success_timestamp_seconds", &[]), reloaded);
    reload(
        &server,
        &limited(6, "[workers]\nslots = 3\n[queues.later]\nmax_running = 100\n[tasks.more]\nkind = \"noop\"\n"),
    );
    server.says("settings reloaded: limits.max_running, queues.later.max_running");
    server.says("settings have changed that need a restart settings=\"tasks.more.allow_private, tasks.more.kind, workers.slots\"");
    assert_eq!(lease(&mut client), 1);
    // What needs a restart is told again as long as it is so.
    reload(&server, &limited(7, "max_waiting = 50\n[workers]\nslots = 3\n"));
    server.says("settings reloaded: limits.max_running, limits.max_waiting, queues.later.max_running");
    server.says("settings have changed that need a restart settings=\"workers.slots\"");
    reload(&server, TASK);
    eventually("there is no limit any more", || lease(&mut client) > 1);
    client.post("/runs", &json!({"task": "more"})).is_problem(400, "invalid_field");
    server.stop();
}

#[test]
fn a_reload_takes_prices_and_caps_of_a_day_over() {
    let supplier = Supplier::new(Protocol::OpenAi, harness::Account::open());
    let config = |cap: &str| {
        format!(
            "{}[prices]\nfile = \"prices.toml\"\n[limits]\nmax_usd_per_day = \"{cap}\"\n",
            supplier.with_task("llm")
        )
    };
    let prices = |input: u64| {
        let rates = format!("{{ batch = \"listed\", input = {input}, output = 2000000, max_output_tokens = 128 }}");
        format!("source = \"test\"\ndate = \"2026-01-01\"\n[models]\n\"gpt-4o-mini\" = {rates}\n")
    };
    let server = Server::on(Database::Sqlite).config(&config("0.00000001"));
    put(&server, "prices.toml", &prices(1_000_000));
    let mut server = server.start();
    let mut client = server.client();
    let runs: Vec<Value> = (0..3).map(|number| json!({"task": "llm", "payload": supplier.payload(number)})).collect();
    client.post("/runs/batch", &json!({"runs": runs})).is(200);
    let job = client.post("/jobs", &json!({"pool": "llm"})).is(201).field("id");
    server.says("a day's cap is reached");
    assert_eq!(supplier.account.ledger().creates, 0);
    put(&server, "prices.toml", &prices(2_000_000));
    reload(&server, &config("5"));
    server.says("settings reloaded: limits.max_usd_per_day, prices.file");
    // It would look again within the minute.
    server.execute("UPDATE jobs SET hold_until = 0");
    eventually("the job goes on", || client.get(&format!("/jobs/{job}")).json()["finished_at"].is_string());
    let over = client.get(&format!("/jobs/{job}")).json();
    assert_eq!(over["items"]["succeeded"], 3, "{over}");
    server.stop();
}

#[test]
fn a_reload_takes_the_level_of_the_log_over_unless_the_environment_names_one() {
    let level = |level: &str| format!("{TASK}[log]\nlevel = \"{level}\"\n");
    let mut server = Server::on(Database::Sqlite).config(&level("warn"));
    server.change("TIDEGATE_LOG", "");
    let mut server = server.start();
    let debugs = |server: &Server| server.lines().iter().filter(|line| line.contains(" DEBUG ")).count();
    let mut client = server.client();
    let mut work = || client.post("/runs", &json!({"task": "noop", "concurrency_key": "k"})).is(201).field("id");
    let mut reader = server.client();
    let mut ends = |run: String| {
        eventually("the run ends", || reader.get(&format!("/runs/{run}")).json()["finished_at"].is_string());
    };
    ends(work());
    assert_eq!(debugs(&server), 0);
    reload(&server, &level("debug"));
    server.says("settings reloaded: log.level");
    // A run with a key is claimed by the Drainer, which says so.
    ends(work());
    server.says("claimed claimed=1");
    reload(&server, &level("loud"));
    server.says("unknown variant `loud`");
    reload(&server, &level("error"));
    eventually("it is taken over", || {
        server.lines().iter().filter(|line| line.contains("settings reloaded: log.level")).count() == 2
    });
    let before = debugs(&server);
    ends(work());
    assert_eq!(debugs(&server), before);
    server.stop();
    server.change("TIDEGATE_LOG", "warn");
    server.again();
    reload(&server, &level("debug"));
    server.says("log.level changes nothing: TIDEGATE_LOG goes first");
    assert_eq!(debugs(&server), before);
    server.stop();
}
