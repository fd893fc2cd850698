//! Whether somebody looks after what was begun: leases, sweeps, the buffer.

use super::super::Check;
use std::collections::HashSet;
use std::time::Duration;
use storage::model::Timestamp;
use storage::store::{BufferDepth, SweepRow};

/// Sweeps come every few seconds; one that has not come for so long does not come by itself.
const SWEPT_WITHIN: Duration = Duration::from_secs(300);
/// As the alert of the same matter.
const DRAINED_WITHIN: Duration = Duration::from_secs(300);

/// Runs by who holds them.
pub fn leases(held: &[(String, i64)], alive: &HashSet<&str>) -> Check {
    const NAME: &str = "leases";
    let all: i64 = held.iter().map(|(_, runs)| runs).sum();
    let left: i64 = held.iter().filter(|(node, _)| !alive.contains(node.as_str())).map(|(_, runs)| runs).sum();
    match left {
        0 => Check::ok(NAME, format!("{all} runs are carried out, all by nodes that live")),
        _ => {
            let what = format!("{left} of {all} runs are held by nodes that are dead");
            Check::warn(NAME, what, "a node with the role sweeper takes them back; start one")
        }
    }
}

/// When anything was last swept. Nobody sweeps where nobody is.
pub fn sweeps(rows: &[SweepRow], in_use: bool, now: Timestamp) -> Check {
    const NAME: &str = "sweeps";
    let Some(last) = rows.iter().map(|row| row.last_at).max() else {
        return Check::ok(NAME, "none yet: no server has worked on it");
    };
    let ago = now.since(Timestamp::from_millis(last));
    let what = format!("the last pass was {} s ago", ago.as_secs());
    if in_use && ago > SWEPT_WITHIN {
        return Check::warn(NAME, what, "give a node the role sweeper, and see that sweeps.enabled is true there");
    }
    Check::ok(NAME, what)
}

/// How long the buffer has not been drained to its end.
pub fn drain(depths: &[BufferDepth], in_use: bool, now: Timestamp) -> Check {
    const NAME: &str = "buffer";
    let entries: i64 = depths.iter().map(|depth| depth.entries).sum();
    let Some(oldest) = depths.iter().filter(|depth| depth.entries > 0).map(|depth| depth.oldest_at).min() else {
        return Check::ok(NAME, "empty");
    };
    let age = now.since(Timestamp::from_millis(oldest));
    let what = format!("{entries} runs wait in it, the oldest for {} s", age.as_secs());
    if in_use && age <= DRAINED_WITHIN {
        return Check::ok(NAME, what);
    }
    Check::warn(NAME, what, "see that a node has the role worker and buffer.drainer_enabled is true there")
}

#[cfg(test)]
mod tests {
    use super::super::super::Verdict;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn swept(seconds_ago: i64) -> SweepRow {
        SweepRow {
            kind: "runs".into(),
            last_at: 1_000_000 - seconds_ago * 1_000,
            took_ms: 1,
            found: 0,
            found_in_all: 0,
            node: "node_1".into(),
        }
    }

    fn waits(entries: i64, seconds: i64) -> BufferDepth {
        BufferDepth { env: "a/b".into(), entries, parked: 0, oldest_at: 1_000_000 - seconds * 1_000 }
    }

    #[test]
    fn what_nobody_looks_after_deserves_a_look() {
        let alive = HashSet::from(["node_1"]);
        let held = |node: &str| vec![(node.to_owned(), 3), ("node_1".to_owned(), 2)];
        assert_eq!(leases(&held("node_1"), &alive).verdict, Verdict::Ok);
        assert_eq!(leases(&held("node_2"), &alive).what, "3 of 5 runs are held by nodes that are dead");
        for (rows, in_use, verdict) in [
            (vec![], true, Verdict::Ok),
            (vec![swept(301), swept(299)], true, Verdict::Ok),
            (vec![swept(301)], true, Verdict::Warn),
            (vec![swept(9_000)], false, Verdict::Ok),
        ] {
            assert_eq!(sweeps(&rows, in_use, NOW).verdict, verdict, "{rows:?} {in_use}");
        }
        for (depths, in_use, verdict) in [
            (vec![], true, Verdict::Ok),
            (vec![waits(5, 299)], true, Verdict::Ok),
            (vec![waits(5, 301), waits(9, 1)], true, Verdict::Warn),
            (vec![waits(5, 1)], false, Verdict::Warn),
        ] {
            assert_eq!(drain(&depths, in_use, NOW).verdict, verdict, "{depths:?} {in_use}");
        }
    }
}
