//! Metrics: what the sources count, what a server tells, and what the table says of it, are the same.

mod told;

use crate::architecture::{SourceFile, all_sources, none};
use actors::metrics::CATALOGUE;

/// The sources of the product, but for the table itself.
fn product() -> impl Iterator<Item = SourceFile> {
    let is_ours = |file: &SourceFile| file.path.starts_with("actors/src/") || file.path.starts_with("gateway/src/");
    all_sources().into_iter().filter(move |file| is_ours(file) && !file.path.starts_with("actors/src/metrics"))
}

#[test]
fn metrics_are_named_by_the_table_only() {
    let mut findings = Vec::new();
    for file in product() {
        let code: Vec<(usize, &str)> = file.code().collect();
        for (index, (line, text)) in code.iter().enumerate() {
            for call in ["counter!(", "gauge!(", "histogram!("] {
                let Some((_, rest)) = text.split_once(call) else { continue };
                // The name may stand on the next line.
                let next = code.get(index + 1).map_or("", |(_, text)| *text);
                let name = if rest.trim().is_empty() { next.trim() } else { rest.trim() };
                if !name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.starts_with("actors::metrics::") {
                    findings.push(format!("{}:{line}: `{}` names no entry of the table", file.path, text.trim()));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn every_metric_of_the_table_is_told_somewhere() {
    let code: String =
        product().map(|file| file.code().map(|(_, code)| format!("{code}\n")).collect::<String>()).collect();
    let words: std::collections::BTreeSet<&str> =
        code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    // The names themselves count what they drop.
    let own = ["LABELS_DROPPED"];
    let unused = CATALOGUE.iter().filter(|metric| !own.contains(&metric.constant) && !words.contains(metric.constant));
    none(unused.map(|metric| format!("actors/src/metrics/catalogue.rs: nothing tells {}", metric.name)).collect());
}

#[test]
fn the_command_prints_the_table_in_every_form() {
    let catalogue = |args: &[&str]| {
        let output = std::process::Command::new(harness::binary()).args(["metrics", "catalogue"]).args(args).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let printed: serde_json::Value = serde_json::from_str(&catalogue(&["-o", "json"])).expect("JSON");
    let entries = printed.as_array().expect("an array");
    let names: Vec<&str> = entries.iter().filter_map(|entry| entry["name"].as_str()).collect();
    assert_eq!(names, CATALOGUE.iter().map(|metric| metric.name).collect::<Vec<_>>());
    for entry in entries {
        for field in ["type", "unit", "help"] {
            assert!(entry[field].is_string(), "{entry}");
        }
        assert!(entry["labels"].is_array() && entry["buckets"].is_array(), "{entry}");
    }
    assert_eq!(catalogue(&["-o", "jsonl"]).lines().count(), CATALOGUE.len());
    let table = catalogue(&[]);
    assert!(table.starts_with(&format!("{}\tcounter\tcount\tpath\t", CATALOGUE[0].name)), "{table}");
    assert_eq!(catalogue(&["--markdown"]), crate::architecture::read("ops/METRICS.md"));
}
