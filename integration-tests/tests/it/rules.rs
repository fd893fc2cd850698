//! Alerts, boards and runbooks: every rule has its cases and its page, and all of them name only metrics that there are.

use harness::case::binary;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn ops(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(ops(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn run(mut command: Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn succeeds(command: Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What stands behind a word at the beginning of a line.
fn after<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(word)).map(str::trim).collect()
}

/// Names of metrics in a text, without what histograms append.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let is_metric = |word: &&str| {
        (word.starts_with("tidegate_") || word.starts_with("process_"))
            && !word.contains(':')
            && word.matches('_').count() > 1
    };
    let plain = |word: &str| {
        let cut = ["_bucket", "_count"].iter().find_map(|end| word.strip_suffix(end));
        cut.unwrap_or(word).to_owned()
    };
    words.filter(is_metric).map(plain).collect()
}

fn catalogue() -> BTreeSet<String> {
    let mut command = Command::new(binary());
    command.args(["metrics", "catalogue", "-o", "json"]);
    let listed: Value = serde_json::from_str(&succeeds(command)).expect("a list");
    let rows = listed.as_array().or_else(|| listed["data"].as_array()).expect("a list");
    rows.iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn the_rules_are_rules_and_do_what_their_cases_say() {
    for args in [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]] {
        let mut command = Command::new("promtool");
        command.args(args).current_dir(ops("prometheus"));
        succeeds(command);
    }
}

#[test]
fn every_alert_has_a_case_that_fires_one_that_is_quiet_and_a_page() {
    let (rules, cases) = (read("prometheus/rules.yaml"), read("prometheus/rules.test.yaml"));
    let alerts: BTreeSet<&str> = after(&rules, "alert:").into_iter().collect();
    assert!(alerts.len() >= 20, "{alerts:?}");
    let pages = after(&rules, "runbook_url:");
    assert_eq!(pages.len(), after(&rules, "alert:").len(), "an alert without a page");
    for page in pages {
        let name = page.rsplit('/').next().expect("a name");
        let text = read(&format!("runbooks/{name}"));
        for part in ["# ", "**Seen as**", "**Look**", "**Done when**"] {
            assert!(text.contains(part), "{name} lacks {part}");
        }
    }
    let one_line = |alert: &str| format!("alertname: {alert}, exp_alerts: []");
    for alert in alerts {
        let fires = cases.contains(&format!("alertname: {alert}\n        exp_alerts: [{{"));
        assert!(fires, "{alert} has no case in which it fires");
        assert!(alert == "TidegateWatchdog" || cases.contains(&one_line(alert)), "{alert} has no quiet case");
    }
}

#[test]
fn rules_boards_and_runbooks_name_only_metrics_that_there_are() {
    let known = catalogue();
    let mut files = vec!["prometheus/rules.yaml".to_owned(), "prometheus/rules.test.yaml".to_owned()];
    files.extend(["overview", "internals", "llm-spend"].map(|board| format!("grafana/{board}.json")));
    files.extend(runbooks().into_iter().map(|name| format!("runbooks/{name}")));
    for file in files {
        let unknown: Vec<String> = metrics_in(&read(&file)).into_iter().filter(|name| !known.contains(name)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn the_boards_and_what_kubernetes_has_of_them_and_of_the_rules_are_what_their_scripts_write() {
    for folder in ["grafana", "prometheus"] {
        let mut command = Command::new("python3");
        command.arg("make.py").arg("--check").current_dir(ops(folder));
        succeeds(command);
    }
}

fn runbooks() -> Vec<String> {
    let files = std::fs::read_dir(ops("runbooks")).expect("the runbooks").flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}
