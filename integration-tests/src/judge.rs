//! The judge: the provider's own bill and the results file, looked at from outside of everything that was killed.

use crate::case::Case;
use crate::provider::Ledger;
use std::collections::HashSet;

/// What a case came to.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub billed_twice: usize,
    pub lost: usize,
    /// Lines whose result is missing, out of place, or another line's.
    pub wrong_lines: Vec<usize>,
    /// Batch keys that the provider accepted more than one create of.
    pub keys_created_twice: Vec<String>,
    pub batches: usize,
    pub creates: u64,
}

impl Verdict {
    /// Looks at a case that has ended with every line succeeded.
    pub fn on(case: &Case) -> Verdict {
        let ledger = case.account.ledger();
        let bought = usize::try_from(ledger.items_billed_total).unwrap_or(usize::MAX);
        Verdict {
            billed_twice: ledger.billed_twice.len(),
            lost: case.lines.saturating_sub(bought),
            wrong_lines: wrong_lines(case),
            keys_created_twice: doubled_keys(&ledger),
            batches: ledger.batches.len(),
            creates: ledger.creates,
        }
    }

    /// Every item bought exactly once, and every line has its own result.
    pub fn is_clean(&self) -> bool {
        self.billed_twice == 0 && self.lost == 0 && self.wrong_lines.is_empty() && self.keys_created_twice.is_empty()
    }
}

/// Lines whose result is missing, out of place, or another line's; and the number of all if it is another one.
pub fn wrong_lines(case: &Case) -> Vec<usize> {
    let results = std::fs::read_to_string(case.out()).unwrap_or_default();
    let lines: Vec<&str> = results.lines().collect();
    let mut wrong: Vec<usize> = (0..case.lines).filter(|line| !is_own(case, *line, lines.get(*line))).collect();
    if lines.len() != case.lines {
        wrong.push(lines.len());
    }
    wrong
}

/// A line's result carries its custom id and the digest of its very body.
fn is_own(case: &Case, line: usize, result: Option<&&str>) -> bool {
    let Some(value) = result.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok()) else {
        return false;
    };
    value["custom_id"] == case.custom_id(line).as_str()
        && result.is_some_and(|text| text.contains(&case.fingerprint(line)))
}

/// Batch keys that the provider accepted more than one create of.
pub fn doubled_keys(ledger: &Ledger) -> Vec<String> {
    let mut seen = HashSet::new();
    ledger.batches.iter().filter(|batch| !seen.insert(&batch.key)).map(|batch| batch.key.clone()).collect()
}
