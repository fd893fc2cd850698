//! S17 and S18: no secret leaves by any way out, and nobody writes lines of their own into the log.

use super::{ALL_SCOPES, caller, id_of, key, secret_of};
use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

const HOOK_SECRET: &str = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5";
const HEADER_SECRET: &str = "canary-header-51d0";
const ENV_SECRET: &str = "canary-env-77a2";
const PROVIDER_SECRET: &str = "sk-canary-provider-90b3";

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// Everything that a busy server shows to anybody, by where it was found.
struct Shown(Vec<(String, Vec<u8>)>);

impl Shown {
    fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }

    fn of_process(&mut self, pid: u32) {
        for file in ["cmdline", "comm", "status"] {
            self.add(format!("/proc/PID/{file}"), std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default());
        }
    }

    fn of_client(&mut self, client: &mut Client) {
        for path in ["/runs", "/tasks", "/queues", "/workers", "/nodes", "/actors", "/buffer", "//api/openapi.json"] {
            self.add(path, client.get(path).is(200).body);
        }
    }

    #[track_caller]
    fn has_no(&self, secret: &str) {
        for (place, bytes) in &self.0 {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{place} has {secret}: {}", String::from_utf8_lossy(bytes));
        }
    }
}

/// Work that uses every secret, well and badly; and keys where they do not belong.
fn work(server: &Server, key: &str, shown: &mut Shown) {
    let mut client = caller(server, key);
    let runs: Vec<String> = ["hook", "program", "noop", "broken"]
        .iter()
        .map(|task| client.run(&json!({"task": task, "max_attempts": 1})))
        .collect();
    eventually("all of it has ended", || runs.iter().all(|run| client.read(run)["finished_at"].is_string()));
    for run in &runs {
        shown.add("a run", client.get(&format!("/runs/{run}")).body);
        shown.add("its output", client.get(&format!("/runs/{run}/output")).body);
        shown.add("its errors", client.get(&format!("/runs/{run}/output?stream=stderr")).body);
    }
    let wrong = format!("{}x", &key[..key.len() - 1]);
    for path in
        [format!("/runs?api_key={key}"), format!("/runs?cursor={key}"), format!("/runs/{key}"), format!("/{key}")]
    {
        shown.add("an error", client.get(&path).body);
    }
    for text in [key, &wrong] {
        let mut stranger = server.client().with("X-Request-Id", text).with("Authorization", text);
        shown.add("an error", stranger.get("/runs").is(401).body);
        let mut spoken = caller(server, text).with("X-Tidegate-Env", text).with("If-None-Match", text);
        shown.add("an error", spoken.get("/runs").body);
        let mut door = server.door().connect().expect("a connection");
        let _ = door.write_all(format!("{text} {text} {text}\r\n\r\n").as_bytes());
    }
    for body in [format!("{{\"{key}\":1}}"), format!("{{\"task\":\"{key}\"}}"), format!("{{\"task\":\"noop\",{key}")] {
        // The sender's own words come back to the sender, and to nobody else.
        assert_eq!(client.send("POST", "/runs", Some(&body)).expect("an answer").status, 400);
    }
    shown.of_client(&mut client);
    shown.of_process(server.pid());
    shown.add("/metrics", server.ops("/metrics").body);
}

fn secrets_stay_inside(database: Database) {
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = receiver.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut stream in receiver.incoming().flatten() {
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let config = format!(
        "[tasks.hook]\nkind = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\nallow_private = true\n\
         secret_file = \"hook-secret\"\nheaders = {{ Authorization = \"Bearer {HEADER_SECRET}\" }}\n\
         [tasks.broken]\nkind = \"http\"\nurl = \"http://127.0.0.1:1/\"\nallow_private = true\n\
         secret_file = \"hook-secret\"\n\
         [tasks.program]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"echo $0 >&2; exit 3\"]\n\
         env = {{ TOKEN = \"{ENV_SECRET}\" }}\n"
    );
    let mut server = Server::on(database)
        .config(&config)
        .env("TIDEGATE_LOG", "trace")
        .env("OPENAI_API_KEY", PROVIDER_SECRET)
        // At this level the framework's words about requests that it cannot read are shown, and looked at.
        .expecting("actix_http")
        .arg("--auth=keys");
    std::fs::write(server.dir.path().join("hook-secret"), HOOK_SECRET).expect("a file");
    let key = key(&server, "acme/prod", ALL_SCOPES, &[]);
    let mut shown = Shown(Vec::new());
    server.again();
    work(&server, &key, &mut shown);
    server.kill9();
    server.again();
    work(&server, &key, &mut shown);
    server.stop();
    let log = server.lines().join("\n");
    assert!(log.contains(" DEBUG ") || log.contains(" TRACE "), "the log was not detailed");
    shown.add("the log", log);
    let mut files = Vec::new();
    files_below(server.dir.path(), &mut files);
    // The two files that hold secrets because somebody has put them there.
    files.retain(|file| !file.ends_with("hook-secret") && !file.ends_with("tidegate.toml"));
    assert!(database == Database::Postgres || files.len() >= 2, "{files:?}");
    for file in files {
        shown.add(file.display().to_string(), std::fs::read(&file).unwrap_or_default());
    }
    if database == Database::Postgres {
        let columns = server
            .rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name");
        assert!(columns.len() > 10, "{columns:?}");
        for table in columns.iter().filter_map(|row| row[0].clone()) {
            let rows = server.rows(&format!("SELECT CAST(t.* AS TEXT) FROM \"{table}\" t"));
            shown.add(table, rows.concat().into_iter().flatten().collect::<String>());
        }
    }
    for secret in [secret_of(&key), HOOK_SECRET, HEADER_SECRET, ENV_SECRET, PROVIDER_SECRET] {
        shown.has_no(secret);
    }
    assert!(
        shown.0.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains(id_of(&key))),
        "nothing was looked at"
    );
}

#[test]
fn s17_no_secret_is_in_anything_that_a_busy_server_shows_or_keeps_on_sqlite() {
    secrets_stay_inside(Database::Sqlite);
}

#[test]
fn s17_no_secret_is_in_anything_that_a_busy_server_shows_or_keeps_on_postgres() {
    secrets_stay_inside(Database::Postgres);
}

/// What would forge a line, colour a terminal, or ring its bell.
const INJECTION: &str =
    "x\n2026-01-01T00:00:00Z ERROR forged: by a stranger\r\u{1b}[31mred\u{1b}]0;title\u{7}\u{9b}2J\u{2028}y";

fn injected(format: &str) -> Vec<String> {
    let config = "[tasks.later]\nkind = \"pull\"\n[tasks.program]\nkind = \"exec\"\nprogram = \"/bin/sh\"\n\
                  args = [\"-c\", \"printf '%s' \\\"$1\\\" >&2; exit 3\", \"sh\", \"{payload}\"]\n";
    let mut server = Server::on(Database::Sqlite)
        .config(config)
        .env("TIDEGATE_LOG", "trace")
        .env("TIDEGATE_LOG_FORMAT", format)
        // At this level the framework's words about requests that it cannot read are shown, and looked at.
        .expecting("actix_http");
    server.again();
    let mut client = server.client();
    let run = client.run(&json!({"task": "program", "payload": INJECTION, "max_attempts": 1}));
    client.run(&json!({"task": "later", "metadata": {"m": INJECTION}}));
    let mut lease = Value::Null;
    eventually("the run is leased", || {
        lease = client.post("/workers/lease", &json!({"tasks": ["later"], "worker": "w"})).json()["data"][0].clone();
        lease.is_object()
    });
    for name in ["reason", "code"] {
        let mut body = json!({"run_id": lease["run_id"], "lease_token": lease["lease_token"]});
        body[name] = json!(INJECTION);
        client.post("/workers/fail", &body).is(400);
    }
    for body in [json!({"task": INJECTION}), json!({"task": "noop", "queue": INJECTION}), json!({INJECTION: 1})] {
        client.post("/runs", &body).is(400);
    }
    for head in [
        format!("GET /{INJECTION} HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {INJECTION}\r\nX-Request-Id: {INJECTION}\r\n\r\n"),
        format!("{INJECTION}\r\n\r\n"),
        "\u{1b}[31m\r\n\r\n".to_owned(),
    ] {
        let mut door = server.door().connect().expect("a connection");
        door.write_all(head.as_bytes()).expect("sent");
        let _ = std::io::Read::read(&mut door, &mut [0; 100]);
    }
    eventually("the program has ended", || client.read(&run)["finished_at"].is_string());
    server.stop();
    server.lines()
}

/// Lines for whoever started the server; they are no events, and hold nothing of a stranger's.
fn is_notice(line: &str) -> bool {
    ["listening on http://", "ops on http://", "stopping; "].iter().any(|start| line.starts_with(start))
}

#[test]
fn s18_and_row_90_what_strangers_say_forges_no_line_and_no_colour() {
    for format in ["json", "text"] {
        let lines = injected(format);
        assert!(lines.len() > 20, "{format}: the log was not detailed: {lines:#?}");
        for line in &lines {
            let raw = line.chars().find(|c| c.is_control() && *c != '\t' || matches!(c, '\u{2028}' | '\u{2029}'));
            assert_eq!(raw, None, "{format}: {line:?}");
            if is_notice(line) {
                continue;
            }
            if format == "json" {
                let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                assert!(event["level"].is_string() && event["target"].is_string(), "{line}");
            } else {
                // Every line begins as an event does, with its time and its level.
                let mut words = line.split_whitespace();
                let time = words.next().unwrap_or_default();
                let level = words.next().unwrap_or_default();
                assert!(time.len() == 27 && time.ends_with('Z'), "{line:?}");
                assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{line:?}");
                assert!(!line.contains("ERROR forged") || line.contains("\\n"), "{line:?}");
            }
        }
    }
}
