//! `tidegate doctor`: each of its findings is brought about, and has its verdict, its words and a way to mend it.

use harness::{Account, Database, Protocol, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

struct Findings(Vec<Value>);

impl Findings {
    fn of(mut command: Command) -> Findings {
        let output = command.output().expect("it is started");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let all = told["data"].as_array().expect("a list").clone();
        let fails = all.iter().any(|finding| finding["status"] == "fail");
        assert_eq!(output.status.code(), Some(i32::from(fails)), "exit 1 if and only if something fails: {output:?}");
        for finding in &all {
            let mends = finding["fix"].as_str().is_some_and(|fix| !fix.is_empty());
            assert_eq!(mends, finding["status"] != "ok", "what is not well has a way to mend it: {finding}");
        }
        Findings(all)
    }

    /// One of a check, with this verdict and these words.
    #[track_caller]
    fn has(&self, check: &str, status: &str, words: &str) {
        let is = |finding: &&Value| {
            finding["check"] == check
                && finding["status"] == status
                && finding["what"].as_str().is_some_and(|what| what.contains(words))
        };
        assert!(self.0.iter().any(|finding| is(&finding)), "no {status} {check} `{words}` in {:#?}", self.0);
    }
}

fn doctor(server: &Server, args: &[&str]) -> Findings {
    Findings::of(server.command(&[&["doctor", "-o", "json"], args].concat()))
}

/// One that nothing is wrong with.
fn well() -> Server {
    let server = Server::on(Database::Sqlite).set("server.listen", "127.0.0.1:0");
    let server = server.set("server.ops_listen", "127.0.0.1:0");
    assert!(server.command(&["db", "migrate"]).status().is_ok_and(|status| status.success()));
    server
}

#[test]
fn nothing_is_wrong_with_a_store_that_is_well() {
    let server = well();
    let findings = doctor(&server, &[]);
    for (check, words) in [
        ("binary", "tidegate"),
        ("configuration", "no file"),
        ("store", "journal wal"),
        ("nodes", "none with a lapsed lease"),
        ("leases", "0 runs are carried out"),
        ("sweeps", "none yet"),
        ("buffer", "empty"),
        ("jobs", "none left behind"),
        ("batches", "none that needs a look"),
        ("prices", "days old"),
        ("providers", "the simulated one is used"),
    ] {
        findings.has(check, "ok", words);
    }
}

#[test]
fn what_is_wrong_with_the_settings_is_a_finding_among_others() {
    let server = well();
    for (text, words) in [("[nodes\n", "tidegate.toml"), ("[nodes]\nlease_secnds = 3\n", "lease_secnds")] {
        std::fs::write(server.dir.path().join("tidegate.toml"), text).expect("the settings");
        let findings = doctor(&server, &[]);
        findings.has("configuration", "fail", words);
        findings.has("store", "ok", "SQLite");
    }
}

#[test]
fn what_the_machine_lacks_is_told() {
    let mut server = well();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh"]);
    let inner = server.command(&["doctor", "-o", "json"]);
    for (limit, status) in [("128", "fail"), ("1024", "warn"), ("4096", "ok")] {
        let mut command = Command::new("sh");
        command.args(limited.get_args()).arg(limit).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(server.dir.path());
        Findings::of(command).has("open files", status, limit);
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("its address").to_string();
    server.change("TIDEGATE_SERVER__LISTEN", &addr);
    doctor(&server, &[]).has("ports", "fail", &addr);
    drop(taken);
    doctor(&server, &[]).has("ports", "ok", "is free");
    let full = Server::on(Database::Sqlite).with_store("sqlite:/proc/nowhere/store.sqlite");
    doctor(&full, &[]).has("disk", "fail", "0 MiB are free in /proc");
}

#[test]
fn what_is_wrong_with_the_store_is_told() {
    let mut server = well();
    server.execute("DELETE FROM _sqlx_migrations WHERE version > 12");
    doctor(&server, &[]).has("store", "warn", "migrations are not applied");
    assert_eq!(server.number("SELECT MAX(version) FROM _sqlx_migrations"), 12, "looking migrates nothing");
    let text = Server::on(Database::Sqlite);
    std::fs::write(text.dir.path().join("state.sqlite"), "This is no database. ".repeat(200)).expect("a text");
    doctor(&text, &[]).has("store", "fail", "");
    server = Server::start_on(Database::Sqlite);
    let findings = doctor(&server, &[]);
    findings.has("store", "warn", &format!("process {}", server.pid()));
    server.stop();
    assert!(server.command(&["db", "restored"]).status().is_ok_and(|status| status.success()));
    doctor(&server, &[]).has("copy", "warn", "the store is a copy");
    let away = Server::on(Database::Postgres).with_store("postgres://nobody@127.0.0.1:9/none");
    doctor(&away, &[]).has("store", "fail", "");
}

#[test]
fn what_nobody_looks_after_is_told() {
    // On SQLite whoever opens the file knows that all others are dead.
    let server = Server::on(Database::Postgres);
    assert!(server.command(&["db", "migrate"]).status().is_ok_and(|status| status.success()));
    let hour_ago = "CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT) - 3600000";
    server.execute(&format!(
        "INSERT INTO nodes (id, host, pid, state, lease_until, started_at, level)
        SELECT 'node_dead', 'h', 7, 'live', {hour_ago}, {hour_ago}, 2;
        INSERT INTO nodes (id, host, pid, state, lease_until, started_at, level)
        SELECT 'node_live', 'h', 8, 'live', {hour_ago} + 7200000, {hour_ago}, 2;
        INSERT INTO sweeps (kind, last_at, took_ms, found, found_in_all, node)
        SELECT 'runs', {hour_ago}, 1, 0, 0, 'node_dead';
        INSERT INTO leases (run_id, env, basin, lane, task, rank, epoch, attempts, max_attempts, since, holder, leased_at,
            max_duration_ms) SELECT 'run_1', 'a/b', 'a/b', 'q', 't', 1, 1, 1, 3, 1, 'node_dead', 1, 1"
    ));
    let findings = doctor(&server, &[]);
    findings.has("nodes", "warn", "1 with a lapsed lease; first node_dead");
    findings.has("leases", "warn", "1 of 1 runs are held by nodes that are dead");
    findings.has("sweeps", "warn", "the last pass was 36");
}

#[test]
fn a_buffer_that_nobody_drains_is_told() {
    let server =
        Server::on(Database::Sqlite).config("[tasks.later]\nkind = \"pull\"\n").set("buffer.above_per_second", 1);
    let mut server = server.env("TIDEGATE_DRAINER_ENABLED", "false").start();
    server.client().post("/runs/batch", &json!({"runs": vec![json!({"task": "later"}); 60]})).is(200);
    eventually("some wait in the buffer", || server.metric("tidegate_buffer_entries", &[]) > 0.0);
    server.stop();
    doctor(&server, &[]).has("buffer", "warn", "runs wait in it");
}

#[test]
fn tasks_that_cannot_be_carried_out_are_told() {
    let server = well();
    let plain = server.dir.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").expect("a file");
    let config = format!(
        "[tasks.well]\nkind = \"exec\"\nprogram = \"/usr/bin/wc\"\n[tasks.gone]\nkind = \"exec\"\nprogram = \"/usr/bin/no-such\"\n\
         [tasks.plain]\nkind = \"exec\"\nprogram = \"{}\"\n[tasks.near]\nkind = \"http\"\nurl = \"http://localhost:1/x\"\n\
         [tasks.open]\nkind = \"http\"\nurl = \"http://localhost:1/x\"\nallow_private = true\n\
         [tasks.nowhere]\nkind = \"http\"\nurl = \"https://no-such-host.invalid/x\"\n",
        plain.display()
    );
    std::fs::write(server.dir.path().join("tidegate.toml"), config).expect("the settings");
    for args in [&[][..], &["--online"]] {
        let findings = doctor(&server, args);
        findings.has("task well", "ok", "/usr/bin/wc may be run");
        findings.has("task gone", "fail", "no-such");
        findings.has("task plain", "fail", "not executable");
    }
    doctor(&server, &[]).has("task near", "ok", "can be read");
    let findings = doctor(&server, &["--online"]);
    findings.has("task near", "fail", "refused (loopback)");
    findings.has("task open", "ok", "addresses that may be called");
    findings.has("task nowhere", "fail", "no-such-host.invalid");
}

#[test]
fn providers_are_asked_for_their_word_and_their_time() {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    let server = well();
    let settings = |text: &str| std::fs::write(server.dir.path().join("tidegate.toml"), text).expect("the settings");
    settings(&supplier.config());
    let findings = doctor(&server, &["--online"]);
    findings.has("provider acme", "ok", "accepts the key");
    findings.has("provider acme", "ok", "its clock is 0 s from");
    supplier.account.faults(&json!({"reject_keys": true}));
    doctor(&server, &["--online"]).has("provider acme", "fail", "does not accept the key");
    // One that lives in another time.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("its address");
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 4_096]);
        let body = r#"{"object":"list","data":[],"has_more":false}"#;
        let head = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("it is answered");
    });
    let far = supplier.config().replace(&supplier.account.addr().to_string(), &addr.to_string());
    settings(&far);
    doctor(&server, &["--online"]).has("provider acme", "warn", "s from this machine's");
    answers.join().expect("it has answered");
    settings(&supplier.config().replace(&supplier.account.addr().to_string(), "127.0.0.1:9"));
    doctor(&server, &["--online"]).has("provider acme", "fail", "unreachable");
}

#[test]
fn rules_and_boards_of_another_version_are_told() {
    let server = well();
    let ops = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops");
    doctor(&server, &["--ops", ops]).has("rules and boards", "ok", "4 files");
    let folder = server.dir.path().join("ops/prometheus");
    std::fs::create_dir_all(&folder).expect("a folder");
    let rules = std::fs::read_to_string(format!("{ops}/prometheus/rules.yaml")).expect("the rules");
    std::fs::write(folder.join("rules.yaml"), rules.replace("tidegate_buffer_entries", "tidegate_buffer_depth_total"))
        .expect("other rules");
    doctor(&server, &[]).has("rules and boards", "warn", "tidegate_buffer_depth_total (prometheus/rules.yaml)");
}

#[test]
fn a_table_of_prices_that_cannot_be_read_is_told() {
    let server = well();
    std::fs::write(server.dir.path().join("tidegate.toml"), "[prices]\nfile = \"none.toml\"\n").expect("the settings");
    doctor(&server, &[]).has("prices", "fail", "none.toml");
}

#[test]
fn sessions_and_clocks_of_postgres_are_told() {
    let server = Server::on(Database::Postgres);
    assert!(server.command(&["db", "migrate"]).status().is_ok_and(|status| status.success()));
    let findings = doctor(&server, &[]);
    findings.has("store", "ok", "PostgreSQL");
    findings.has("sessions", "ok", "no pooler");
    findings.has("clock", "ok", "0.0 s");
}
