//! ACCEPTANCE.md answers for every row: with a test that there is, or with the reason why there is none.

use crate::architecture::{SourceFile, all_sources, none, read};
use std::collections::{BTreeMap, BTreeSet};

/// The rows that there are to answer for: of each section, how many by letter.
const ROWS: &[(&str, &[(&str, usize)])] = &[
    ("000", &[("A", 11), ("R", 9), ("S", 8), ("D", 14), ("I", 9), ("G", 5)]),
    ("001", &[("B", 12), ("C", 7), ("T", 7), ("P", 10), ("W", 7), ("K", 2), ("V", 2)]),
    ("002", &[("O", 6), ("N", 15), ("Q", 5), ("Y", 3), ("M", 13), ("L", 11), ("X", 8), ("E", 8), ("F", 11)]),
    ("003", &[("H", 6), ("J", 18), ("U", 17), ("Z", 12), ("Y", 19)]),
    (
        "004",
        &[
            ("G", 15),
            ("T", 8),
            ("A", 12),
            ("K", 9),
            ("M", 11),
            ("I", 11),
            ("C", 12),
            ("L", 8),
            ("D", 31),
            ("H", 11),
            ("E", 6),
            ("W", 2),
            ("S", 12),
            ("X", 6),
            ("R", 11),
            ("F", 9),
            ("Z", 1),
        ],
    ),
    ("000.3", &[("D", 11)]),
    ("001.3", &[("D", 12)]),
    ("002.3", &[("D", 10)]),
    ("003.3", &[("D", 12)]),
];

#[test]
fn every_acceptance_row_has_a_test_or_a_reason_and_every_test_a_row() {
    let text = read("integration-tests/ACCEPTANCE.md");
    let tests: BTreeSet<String> = all_sources().iter().flat_map(SourceFile::functions).collect();
    let mut findings = Vec::new();
    let mut section = "";
    let mut see = Vec::new();
    let mut found: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.split(':').next().unwrap_or_default();
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, _, held] = cells[..] else { continue };
        if id == "row" {
            continue;
        }
        let named: Vec<&str> = held.split('`').skip(1).step_by(2).filter(|name| tests.contains(*name)).collect();
        let reason = held.split_once("listed: ").map(|(_, reason)| reason.trim()).filter(|reason| !reason.is_empty());
        if let Some(other) = reason.and_then(|reason| reason.strip_prefix("see ")) {
            see.push((number, section, other.split(';').next().unwrap_or_default()));
        }
        if named.is_empty() && reason.is_none() {
            findings.push(format!("line {number}: {section} {id} has neither a test nor a reason"));
        }
        if found.insert((section, id), named).is_some() {
            findings.push(format!("line {number}: {section} {id} stands there twice"));
        }
    }
    for (number, section, other) in see {
        if !found.contains_key(&(section, other)) {
            findings.push(format!("line {number}: there is no row {section} {other} to see"));
        }
    }
    for (section, letters) in ROWS {
        for (letter, count) in *letters {
            let ids = (1..=*count).map(|number| format!("{letter}{number}"));
            let missing = ids.filter(|id| !found.contains_key(&(*section, id.as_str())));
            findings.extend(missing.map(|id| format!("{section} {id} is missing")));
        }
    }
    for test in &tests {
        let mut words = test.split('_');
        let Some(section) = words.next().and_then(|word| word.strip_prefix('s')) else { continue };
        let Some((section, _)) = ROWS.iter().find(|(known, _)| *known == section) else { continue };
        for id in words.take_while(|word| is_row(word)).map(str::to_uppercase) {
            // A row names one of several tests that hold it; one that says it has no object here has none.
            if found.get(&(*section, id.as_str())).is_none_or(Vec::is_empty) {
                findings.push(format!("{test} holds a row {section} {id} that is not there or names no test"));
            }
        }
    }
    none(findings);
}

/// A letter and a number, such as `d31`.
fn is_row(word: &str) -> bool {
    let number = word.strip_prefix(|c: char| c.is_ascii_lowercase());
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
