//! The log: events say in words what happened and in fields to whom, and an ERROR is what a human must act upon.

use crate::architecture::{SourceFile, all_sources, none, read};
use harness::{Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const LEVELS: [&str; 5] = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];
const HEADER_SECRET: &str = "Bearer canary-header-7f3a";

/// Our own code that logs. The simulated provider is none of a server's.
fn product() -> impl Iterator<Item = SourceFile> {
    let ours = ["actors/src/", "gateway/src/", "storage/src/"];
    all_sources().into_iter().filter(move |file| {
        ours.iter().any(|folder| file.path.starts_with(folder)) && !file.path.starts_with("gateway/src/sim")
    })
}

/// The events of a file: level, line, and what is said, which stands last.
fn events(file: &SourceFile) -> Vec<(&'static str, usize, String)> {
    let code: Vec<(usize, &str)> = file.code().collect();
    let mut events = Vec::new();
    for (index, (line, text)) in code.iter().enumerate() {
        for level in LEVELS {
            let Some((before, _)) = text.split_once(level) else { continue };
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let call: String = code[index..].iter().map(|(_, text)| *text).take(12).collect();
            let call = call.split_once(level).map_or("", |(_, call)| call);
            let call = &call[..end_of(call)];
            let said = call.rfind('"').and_then(|end| {
                let begin = call[..end].rfind('"')?;
                Some(call[begin + 1..end].to_owned())
            });
            events.push((level, *line, said.unwrap_or_default()));
        }
    }
    events
}

/// Where the parenthesis closes that was open before.
fn end_of(call: &str) -> usize {
    let (mut depth, mut in_text) = (1, false);
    for (at, c) in call.char_indices() {
        match c {
            '"' => in_text = !in_text,
            '(' if !in_text => depth += 1,
            ')' if !in_text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    call.len()
}

#[test]
fn what_an_event_says_is_constant_and_ids_are_its_fields() {
    let mut findings = Vec::new();
    let mut seen = 0;
    for file in product() {
        for (level, line, said) in events(&file) {
            seen += 1;
            if said.is_empty() || said.contains('{') || said.ends_with('.') {
                findings.push(format!("{}:{line}: {level}…) says {said:?}", file.path));
            }
        }
    }
    assert!(seen > 60, "only {seen} events were found");
    none(findings);
}

#[test]
fn the_page_of_errors_has_every_error_and_no_other() {
    let page = read("ops/ERRORS.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: BTreeSet<&str> = cells.map(|(said, _)| said).collect();
    let mut findings = Vec::new();
    let mut there = BTreeSet::new();
    for file in product() {
        for (_, line, said) in events(&file).into_iter().filter(|(level, ..)| *level == "error!(") {
            if !listed.contains(said.as_str()) {
                findings.push(format!("{}:{line}: ops/ERRORS.md does not say what to do about {said:?}", file.path));
            }
            there.insert(said);
        }
    }
    assert!(there.len() >= 8, "{there:?}");
    findings.extend(listed.iter().filter(|said| !there.contains(**said)).map(|said| format!("nothing says {said:?}")));
    none(findings);
}

/// Every id of ours in a text.
fn ids(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_id = |word: &&str| {
        word.split_once('_').is_some_and(|(kind, rest)| {
            let kinds = ["run", "bat", "job", "ses", "node"];
            kinds.contains(&kind) && rest.len() == 26 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    };
    words.filter(is_id).collect()
}

fn is_event(line: &&String) -> bool {
    line.starts_with('{')
}

#[test]
fn events_in_json_have_ids_as_fields_and_hold_no_secret_while_much_goes_wrong() {
    let supplier = Supplier::new(Protocol::OpenAi, harness::Account::open());
    supplier.account.faults(&json!({"lose_answers": 1, "item_error_rate": 0.3}));
    let config = format!(
        "{}[chaos]\nenabled = true\n[tasks.later]\nkind = \"pull\"\n[tasks.broken]\nkind = \"http\"\nallow_private = true\n\
         url = \"http://127.0.0.1:1/\"\nmax_attempts = 2\nretry_base_seconds = 0.01\nretry_cap_seconds = 0.02\n\
         headers = {{ Authorization = \"{HEADER_SECRET}\" }}\n\
         [tasks.long]\nkind = \"exec\"\nprogram = \"/bin/sleep\"\nargs = [\"600\"]\n",
        supplier.with_task("llm")
    );
    let mut server = Server::on(Database::Sqlite)
        .config(&config)
        .env("TIDEGATE_LOG", "debug")
        .env("TIDEGATE_LOG_FORMAT", "json")
        .set("supervisor.hang_seconds", 0.3)
        .start();
    let mut client = server.client();
    let llm: Vec<Value> = (0..8).map(|number| json!({"task": "llm", "payload": supplier.payload(number)})).collect();
    client.post("/runs/batch", &json!({"runs": llm})).is(200);
    let job = client.post("/jobs", &json!({"pool": "llm"})).is(201).field("id");
    let broken = client.post("/runs", &json!({"task": "broken"})).is(201).field("id");
    // Somebody takes a run's lease away under its worker.
    let long = client.post("/runs", &json!({"task": "long"})).is(201).field("id");
    eventually("it is under way", || client.get(&format!("/runs/{long}")).json()["status"] == "running");
    server.execute(&format!("UPDATE leases SET epoch = epoch + 1 WHERE run_id = '{long}'"));
    client.post(&format!("/runs/{long}/cancel"), &json!({})).is(202);
    server.says("an attempt ended that was not ours any more");
    client.post("/actors/drainer/kill", &json!({"mode": "stop"})).is(202);
    server.says("child died; rebuilding it");
    server.says("it is unknown whether the provider has this batch");
    eventually("the job is over", || client.get(&format!("/jobs/{job}")).json()["finished_at"].is_string());
    eventually("the run is over", || client.get(&format!("/runs/{broken}")).json()["finished_at"].is_string());
    std::fs::write(server.dir.path().join("tidegate.toml"), "[nodes]\nlease = 1\n").expect("it is written");
    server.signal("HUP");
    server.says("the settings were not reloaded");
    server.kill9();
    let lines = server.lines();
    let (mut named, mut findings) = (BTreeSet::new(), Vec::new());
    for line in lines.iter().filter(is_event) {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let fields = event["fields"].as_object().unwrap_or_else(|| panic!("{line} has no fields"));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let own: BTreeSet<String> =
            fields.iter().filter(|(name, _)| name.ends_with(".id")).map(|(_, value)| text(value)).collect();
        named.extend(fields.keys().filter(|name| name.ends_with(".id") || *name == "actor").cloned());
        for (name, value) in fields.iter().filter(|(name, _)| !name.ends_with(".id")) {
            let text = text(value);
            let unnamed = ids(&text).into_iter().filter(|id| !own.contains(*id));
            findings.extend(unnamed.map(|id| format!("{id} is in `{name}` only: {line}")));
            if *name == "message" && !ids(&text).is_empty() {
                findings.push(format!("an id is in the words: {line}"));
            }
        }
    }
    none(findings);
    for name in ["run.id", "batch.id", "job.id", "actor"] {
        assert!(named.contains(name), "no event has {name}: {named:?}");
    }
    let all = lines.join("\n");
    assert!(!all.contains("canary-header") && !all.contains(&supplier.account.key), "a secret is in the log");
    let errors: Vec<&String> = lines.iter().filter(|line| line.contains("\"level\":\"ERROR\"")).collect();
    assert_eq!(errors, Vec::<&String>::new(), "nothing of this needs a human");
}
