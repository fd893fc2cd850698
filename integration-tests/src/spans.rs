//! Spans by the runs' own stamps, and how many of them there were at once.

/// A span in which a run was under way, from its start up to but without its end.
pub type Span = (i64, i64);

/// Most that were under way at one instant.
pub fn most_at_once(spans: &[Span]) -> i64 {
    let mut changes: Vec<(i64, i64)> = spans.iter().flat_map(|(from, to)| [(*from, 1), (*to, -1)]).collect();
    // At one instant ends come first: a place is free before it is taken.
    changes.sort_unstable();
    let mut now = 0;
    changes.into_iter().map(|(_, change)| (now += change, now).1).max().unwrap_or(0)
}
