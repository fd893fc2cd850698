//! `tidegate config`: what is set and by whom, what a setting is, whether a file is right, and a file to begin with.

use crate::bad_input::unhurried;
use harness::{Case, Database, Ended, Protocol};
use serde_json::{Value, json};
use std::path::PathBuf;

fn case() -> Case {
    let mut case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    case.env.clear();
    case
}

fn put(case: &Case, name: &str, content: &str) -> PathBuf {
    let path = case.dir.path().join(name);
    std::fs::write(&path, content).expect("a file");
    path
}

fn config(case: &Case, args: &[&str]) -> Ended {
    let ended = case.look(&[&["config"], args].concat());
    assert!(!case.dir.path().join("state.sqlite").exists(), "no store is made");
    ended
}

fn shown(case: &Case) -> Vec<Value> {
    let list = case.look_json(&["config", "show"]);
    list["data"].as_array().expect("a list").clone()
}

#[track_caller]
fn of<'a>(shown: &'a [Value], key: &str) -> &'a Value {
    shown.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key} is not shown"))
}

#[test]
fn config_show_tells_every_setting_and_where_it_comes_from() {
    let mut case = case();
    let rows = shown(&case);
    assert_eq!(of(&rows, "nodes.lease_seconds")["value"], 15.0);
    assert_eq!(of(&rows, "limits.max_running")["value"], Value::Null, "what is not set is shown too");
    assert!(rows.iter().all(|row| row["from"] == "default"));
    let text = "\n[nodes]\nlease_seconds = 3\n[tasks.a]\nkind = \"http\"\nurl = \"https://example.com/?k=s3cret\"\n\
        headers = { Authorization = \"s3cret\" }\n[limits]\nmax_usd_per_day = 12.5\n";
    put(&case, "tidegate.toml", text);
    case.env = vec![("TIDEGATE_WORKERS__SLOTS".to_owned(), "3".to_owned())];
    case.env.push(("TIDEGATE_SWEEPER_ENABLED".to_owned(), "false".to_owned()));
    let rows = shown(&case);
    let lease = json!({"key": "nodes.lease_seconds", "value": 3.0, "from": "file", "file": "tidegate.toml", "line": 3,
        "variable": null});
    assert_eq!(*of(&rows, "nodes.lease_seconds"), lease);
    assert_eq!(of(&rows, "limits.max_usd_per_day")["value"], "12.50");
    assert_eq!(of(&rows, "workers.slots")["variable"], "TIDEGATE_WORKERS__SLOTS");
    assert_eq!(of(&rows, "sweeps.enabled")["variable"], "TIDEGATE_SWEEPER_ENABLED");
    assert_eq!(of(&rows, "tasks.a.url")["value"], "https://example.com/?****");
    assert!(!rows.iter().any(|row| row["key"] == "tasks.a.program"), "of tasks only what is set");
    let table = config(&case, &["show"]);
    assert!(table.stdout.contains("nodes.lease_seconds\t3.0\ttidegate.toml, line 3\n"), "{table:?}");
    assert!(!table.stdout.contains("s3cret") && !json!(rows).to_string().contains("s3cret"), "{table:?}");
}

#[test]
fn config_explain_says_what_a_setting_is_and_what_it_is_now() {
    let mut case = case();
    put(&case, "tidegate.toml", "[tasks.a]\nkind = \"exec\"\nprogram = \"/bin/true\"\n");
    case.env = vec![("TIDEGATE_NODES__LEASE_SECONDS".to_owned(), "4".to_owned())];
    let told = case.look_json(&["config", "explain", "nodes.lease_seconds"]);
    assert_eq!((&told["value"], &told["default"], &told["type"]), (&json!(4.0), &json!(15.0), &json!("number")));
    assert_eq!(told["from"], "TIDEGATE_NODES__LEASE_SECONDS");
    assert!(told["what"].as_str().is_some_and(|what| what.starts_with("How long a node may act")), "{told}");
    let told = case.look_json(&["config", "explain", "tasks.a.program"]);
    assert_eq!((&told["value"], &told["from"]), (&json!("/bin/true"), &json!("tidegate.toml, line 3")));
    let told = case.look_json(&["config", "explain", "sweeps"]);
    assert_eq!(told["data"].as_array().map(Vec::len), Some(5), "{told}");
    for (key, words) in [
        ("nodes.lease_secnds", "did you mean `nodes.lease_seconds`?"),
        ("lease_seconds", "did you mean `nodes.lease_seconds`?"),
        ("", "there is no setting ``"),
        ("zzz", "`tidegate config init` prints them all"),
    ] {
        let ended = config(&case, &["explain", key]);
        assert!(ended.code == Some(2) && ended.stderr.contains(words), "{key}: {ended:?}");
    }
    // What it is can be told while nothing else works.
    put(&case, "tidegate.toml", "[nodes]\nlease_secnds = 3\n");
    let ended = config(&case, &["explain", "nodes.lease_seconds"]);
    assert!(ended.code == Some(2) && ended.stdout.contains("type\tnumber"), "{ended:?}");
    assert!(ended.stderr.contains("tidegate.toml: at line 2"), "{ended:?}");
}

#[test]
fn config_validate_names_file_line_and_key_of_what_is_wrong() {
    let mut case = case();
    assert_eq!(config(&case, &["validate"]).code, Some(0), "no file is one too");
    put(&case, "tidegate.toml", "not even toml");
    put(&case, "good.toml", "[nodes]\nlease_seconds = 3\n");
    let ended = config(&case, &["validate", "good.toml"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), "good.toml: in order\n"), "the other file is no matter");
    assert_eq!(config(&case, &["validate", "--config", "good.toml"]).code, Some(0));
    for (text, words) in [
        ("[nodes]\nlease_secnds = 3\n", "bad.toml: at line 2, column 1: unknown field `lease_secnds`"),
        ("[nodes]\nlease_secnds = 3\n", "did you mean `lease_seconds`?"),
        (
            "[nodes]\n\nlease_seconds = 0\n",
            "nodes.lease_seconds is 0; it must be between 0.5 and 3600 (bad.toml, line 3)",
        ),
        ("[envs.\"acme/prod\"]\nmax_waiting = 0\n", "envs.\"acme/prod\".max_waiting must be at least 1"),
        ("[envs.\"acme/prod\"]\nmax_waiting = 0\n", "(bad.toml, line 2)"),
        ("[tasks.a]\nkind = \"exec\"\n", "tasks.a.program is missing"),
        (
            "[tasks.a]\nkind = \"exec\"\nprogram = \"sh\"\n",
            "tasks.a.program \"sh\" is not an absolute path; no search path is looked at (bad.toml, line 3)",
        ),
        (
            "[tasks.a]\nkind = \"http\"\nurl = \"http://127.0.0.1:1/x\"\n",
            "tasks.a.url: the address 127.0.0.1 is refused (loopback); `allow_private` allows it (bad.toml, line 3)",
        ),
        ("[tasks.a]\nkind = \"http\"\nurl = \"ftp://x\"\n", "tasks.a.url: it is not http://HOST[:PORT]/PATH"),
        ("[tasks.a]\nkind = \"llm\"\nprovider = \"opneai\"\n", "tasks.a.provider: there is no provider `opneai`"),
    ] {
        put(&case, "bad.toml", text);
        let ended = config(&case, &["validate", "bad.toml"]);
        assert!(ended.code == Some(2) && ended.stderr.contains(words), "{words}: {ended:?}");
    }
    let ended = config(&case, &["validate", "none.toml"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("none.toml: No such file"), "{ended:?}");
    case.env = vec![("TIDEGATE_NODES__LEASE_SECONDS".to_owned(), "0".to_owned())];
    let ended = config(&case, &["validate", "good.toml"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("(set by TIDEGATE_NODES__LEASE_SECONDS)"), "{ended:?}");
}

#[test]
fn config_init_writes_the_commented_defaults_and_overwrites_nothing() {
    let case = case();
    let commented = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/tidegate.toml");
    let commented = std::fs::read_to_string(commented).expect("the commented defaults");
    assert_eq!(config(&case, &["init"]).stdout, commented);
    let path = case.dir.path().join("tidegate.toml");
    let ended = config(&case, &["init", "--out", "tidegate.toml"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is written"), commented);
    assert_eq!(config(&case, &["validate"]).code, Some(0));
    put(&case, "tidegate.toml", "# mine\n");
    let ended = config(&case, &["init", "--out", "tidegate.toml"]);
    assert!(ended.code == Some(5) && ended.stderr.contains("it exists already"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "# mine\n");
    let ended = config(&case, &["init", "--out", "no/such/folder.toml"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("No such file"), "{ended:?}");
}
