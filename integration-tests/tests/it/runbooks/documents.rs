//! All other documents: their blocks for a shell are carried out, or stand here with the reason why not; links of all
//! documents lead somewhere.

use super::batches::{batch_in, buyer};
use super::fleet::node_of;
use super::page::{Page, commands_of, root};
use harness::{Account, Case, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// Where a block is carried out.
const PLAYED: &[(&str, &str)] = &[
    ("README.md", "## Try it"),
    ("README.md", "## Buy from a vendor"),
    ("README.md", "## Serve runs"),
    ("README.md", "### Runs for a language model"),
    ("README.md", "### Sessions"),
    ("README.md", "## When it is not sure"),
    ("ops/README.md", "## Many nodes"),
    ("ops/README.md", "## Settings"),
    ("ops/README.md", "## Serving"),
    ("ops/README.md", "## As a service"),
    ("ops/README.md", "## Breaking it on purpose"),
];

/// What is not, by how it begins, and why.
const NOT_CARRIED_OUT: &[(&str, &str, &str)] = &[
    (
        "ARCHITECTURE.md",
        "integration-tests/bugs/run.sh",
        "builds the sources once for each bug: a step of CI of its own",
    ),
    ("integration-tests/bench/README.md", "cargo build", "what is tested is built"),
    ("integration-tests/bench/README.md", "python3 integration-tests/bench/", "takes minutes of a machine of its own"),
    ("integration-tests/sdk/README.md", "cargo build", "what is tested is built"),
    ("integration-tests/sdk/README.md", "integration-tests/sdk/run.sh", "a step of CI of its own"),
    ("k8s/README.md", "kubectl", "needs a cluster; the names in it are checked below"),
];

/// Documents from the workspace's root, without those of others.
fn documents() -> Vec<String> {
    let (mut folders, mut found) = (vec![root()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The blocks of one section; a heading below it is a section of its own.
fn section(path: &str, heading: &str) -> Vec<String> {
    let text = read(path);
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{path}: no {heading}"));
    commands_of(rest.split("\n#").next().unwrap_or_default(), false)
}

#[test]
fn every_block_for_a_shell_is_carried_out_or_says_why_not() {
    let mut excused: BTreeSet<&(&str, &str, &str)> = BTreeSet::new();
    for path in documents().iter().filter(|path| !path.starts_with("ops/runbooks/")) {
        let played: BTreeSet<String> = PLAYED
            .iter()
            .filter(|(document, _)| document == path)
            .flat_map(|(document, heading)| section(document, heading))
            .collect();
        for command in commands_of(&read(path), false) {
            let excuse =
                NOT_CARRIED_OUT.iter().find(|(document, begins, _)| document == path && command.starts_with(begins));
            assert!(excuse.is_some() || played.contains(&command), "{path}: nobody carries out `{command}`");
            excused.extend(excuse);
        }
    }
    assert_eq!(excused.len(), NOT_CARRIED_OUT.len(), "an excuse for a command that is not there");
}

/// As GitHub makes it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let heading = |line: &&str| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    };
    text.lines().filter(heading).map(anchor).collect()
}

#[test]
fn links_of_all_documents_lead_somewhere() {
    let mut links = 0;
    for path in documents() {
        let text = read(&path);
        let folder = root().join(&path).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            links += 1;
            if link.starts_with("https://") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            assert!(target.exists(), "{path}: there is no {link}");
            if !part.is_empty() {
                let there = anchors(&fs::read_to_string(&target).expect("a document"));
                assert!(there.contains(part), "{path}: {file} has no #{part}, but {there:?}");
            }
        }
    }
    assert!(links >= 20, "{links}");
    assert_eq!(anchor("## Back-up & restore, in `SQLite`"), "back-up--restore-in-sqlite");
}

/// What PromQL stands in a page is PromQL.
#[test]
fn expressions_in_runbooks_are_taken_by_prometheus() {
    let mut rules = String::from("groups:\n- name: pages\n  rules:\n");
    let mut count = 0;
    for path in documents().iter().filter(|path| path.starts_with("ops/")) {
        for span in read(path).split('`').skip(1).step_by(2).filter(|span| span.starts_with("sum by")) {
            count += 1;
            rules.push_str(&format!("  - record: page:{count}\n    expr: {}\n", json!(span)));
        }
    }
    assert!(count >= 2, "{rules}");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.yaml"), &rules).expect("it is written");
    let output = Command::new("promtool").args(["check", "rules", "rules.yaml"]).current_dir(folder.path()).output();
    let output = output.expect("promtool is installed");
    assert!(output.status.success(), "{output:?}\n{rules}");
}

#[test]
fn what_commands_for_a_cluster_name_is_in_the_manifests() {
    let (mut folders, mut manifests) = (vec![root().join("k8s")], String::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                manifests += &fs::read_to_string(&path).expect("a manifest");
            }
        }
    }
    let mut names = BTreeSet::new();
    for command in commands_of(&read("k8s/README.md"), false) {
        let words: Vec<&str> = command.split_whitespace().collect();
        for pair in words.windows(2) {
            match (pair[0], pair[1]) {
                ("statefulset" | "job" | "generic" | "namespace" | "-n", name) => names.insert(name.to_owned()),
                _ => false,
            };
        }
        let typed = words.iter().filter_map(|word| word.split_once('/'));
        names.extend(typed.filter(|(kind, _)| ["deploy", "job"].contains(kind)).map(|(_, name)| name.to_owned()));
    }
    assert!(names.len() >= 5, "{names:?}");
    let is_there =
        |name: &String| ["name: ", "secretName: "].iter().any(|key| manifests.contains(&format!("{key}{name}\n")));
    let unknown: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(unknown.is_empty(), "no manifest knows {unknown:?}");
}

#[test]
fn the_readme_is_tried_and_buys() {
    let mut folder = Server::on(Database::Sqlite).set("sim.latency_seconds", 0.1);
    let mut page = Page::section("README.md", "## Try it");
    page.until(&folder, "ops/test.sh").played("ops/test.sh");
    let results = fs::read_to_string(folder.dir.path().join("results.jsonl")).expect("the results");
    let lines = fs::read_to_string(root().join("ops/examples/requests.jsonl")).expect("the example").lines().count();
    assert_eq!(results.lines().count(), lines);
    let case = Case::new(Database::Sqlite, Protocol::OpenAi, 3);
    fs::copy(case.input(), folder.dir.path().join("requests.jsonl")).expect("the file");
    folder.change("TIDEGATE_PROVIDERS__OPENAI__POLL_SECONDS", 0.1);
    let mut page = Page::section("README.md", "## Buy from a vendor");
    page.played("export OPENAI_API_KEY=…").fill("OPENAI_API_KEY", &case.account.key);
    page.fill("OPENAI_BASE_URL", &format!("http://{}/v1", case.account.addr())).rest(&folder);
    let ledger = case.account.ledger();
    assert_eq!((ledger.creates, ledger.items_billed_total), (1, 3), "the first one is a dry run");
}

#[test]
fn the_readme_serves_runs_and_walks_a_session() {
    let review =
        "[sessions.review]\ninitial = \"context\"\nedges = { context = [\"reviews\"], reviews = [\"complete\"] }\n";
    let mut server = Server::on(Database::Sqlite).config(review).start();
    let mut page = Page::section("README.md", "## Serve runs");
    page.played("tidegate serve").rest(&server);
    assert_eq!(server.client().list("/runs").len(), 1);
    Page::section("README.md", "### Sessions").rest(&server);
    let sessions = server.client().list("/sessions");
    assert_eq!((sessions.len(), sessions[0]["status"].as_str()), (1, Some("closed")), "{sessions:?}");
    server.stop();
}

#[test]
fn the_readme_has_jobs_that_carry_runs_out() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let mut server = buyer(&supplier).start();
    let mut client = server.client();
    let send = |client: &mut harness::Client, number: usize| {
        let run = json!({"task": "summarise", "payload": supplier.payload(number), "tags": ["nightly", "eu"]});
        client.run(&run)
    };
    let first = send(&mut client, 0);
    let mut page = Page::section("README.md", "### Runs for a language model");
    page.until(&server, "tidegate jobs start summarise --source daemon");
    eventually("it is carried out", || client.read(&first)["status"] == "succeeded");
    let over = |client: &mut harness::Client| {
        client.list("/jobs").iter().all(|job| job["source"] == "daemon" || job["state"] == "finished")
    };
    eventually("the job is over", || over(&mut client));
    page.until(&server, "tidegate jobs start summarise --tag");
    let second = send(&mut client, 1);
    page.rest(&server);
    eventually("that one too", || client.read(&second)["status"] == "succeeded");
    let batch = batch_in(&server, "collected");
    let mut page = Page::section("README.md", "## When it is not sure");
    page.fill("bat_…", &batch).rest(&server);
    server.stop();
}

#[test]
fn the_manual_has_settings_and_keys_and_drains_a_node() {
    let folder = Server::on(Database::Sqlite);
    Page::section("ops/README.md", "## Settings").rest(&folder);
    let store = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/var/lib/tidegate/tidegate.sqlite", store.path().display());
    let folder = Server::on(Database::Sqlite).with_store(&url);
    let mut page = Page::section("ops/README.md", "## As a service");
    page.fill("/var", &format!("{}/var", store.path().display()));
    page.played("systemctl stop tidegate").until(&folder, "systemctl start").played("systemctl start tidegate");
    assert_eq!(folder.number("SELECT COUNT(*) FROM api_keys"), 1);
    let mut server = Server::start_on(Database::Sqlite);
    Page::section("ops/README.md", "## Many nodes").fill("ID", &node_of(&server)).rest(&server);
    eventually("the node is drained", || !server.is_ready());
    server.stop();
}

#[test]
fn the_manual_serves_workers_and_callers() {
    let config = fs::read_to_string(root().join("ops/examples/tidegate-dev.toml")).expect("the example");
    let mut server = Server::on(Database::Sqlite).config(&config);
    let mut page = Page::section("ops/README.md", "## Serving");
    let told = page.next(&server, "tidegate keys create");
    let key = told.split_whitespace().find(|word| word.starts_with("tg_")).expect("a key").to_owned();
    page.played("tidegate serve --config ops/examples/tidegate-dev.toml --listen 127.0.0.1:7070");
    page.played("export TIDEGATE_API_KEY=…").fill("TIDEGATE_API_KEY", &key);
    server = server.arg("--auth").arg("keys").start();
    let lines: String = (0..3).map(|_| "{\"task\": \"ping\"}\n").collect();
    fs::write(server.dir.path().join("runs.ndjson"), lines).expect("the runs");
    page.until(&server, "tidegate workers run");
    let mut client = server.client().with("Authorization", &format!("Bearer {key}"));
    assert_eq!(client.list("/runs").len(), 4, "one, and those of the file");
    // It works until it is told to end; its key needs one scope more.
    page.played("tidegate workers run --task work --concurrency 4 -- ./program");
    server.stop();
    let made = ["keys", "create", "--env", "acme/prod", "--scope", "runs:read,runs:write,workers", "-o", "json"];
    let made = server.command(&made).output().expect("it starts");
    let made: Value = serde_json::from_slice(&made.stdout).expect("a key");
    let key = made["key"].as_str().expect("a key").to_owned();
    server.again();
    let mut client = server.client().with("Authorization", &format!("Bearer {key}"));
    let program = server.dir.path().join("program");
    fs::write(&program, "#!/bin/sh\ncat >/dev/null\n").expect("the program");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it may be run");
    let mut worker = server.command(&["workers", "run", "--task", "work", "--concurrency", "4", "--", "./program"]);
    worker
        .env("TIDEGATE_API_KEY", &key)
        .env("TIDEGATE_SERVER", format!("http://{}", server.door().addr().expect("it is up")));
    let mut worker = worker.spawn().expect("it starts");
    let run = client.run(&json!({"task": "work"}));
    eventually("it is carried out", || client.read(&run)["status"] == "succeeded");
    assert!(Command::new("kill").arg(worker.id().to_string()).status().is_ok_and(|status| status.success()));
    eventually("the worker ends", || worker.try_wait().expect("a child").is_some());
    server.stop();
}

#[test]
fn the_manual_breaks_a_server_on_purpose() {
    let mut server =
        Server::on(Database::Sqlite).set("chaos.enabled", true).set("supervisor.hang_seconds", 0.5).start();
    let plan = "targets = [\"drainer\"]\nmodes = [\"stop\"]\nkills = 2\nper_minute = 600\n";
    fs::write(server.dir.path().join("plan.toml"), plan).expect("the plan");
    Page::section("ops/README.md", "## Breaking it on purpose").rest(&server);
    assert!(server.metric("tidegate_actor_restarts_total", &["injected=\"true\""]) >= 3.0);
    server.stop();
}
