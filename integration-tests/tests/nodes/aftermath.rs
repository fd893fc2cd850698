//! What must be true of a store and of all who looked on, once nodes were killed, frozen and cut off.

use crate::LEASE_MS;
use crate::chaos::{Fault, Round};
use crate::files::Bought;
use harness::Supplier;
use harness::judge::doubled_keys;
use harness::{Cluster, Effect, Witness};
use std::collections::{HashMap, HashSet};

/// From a fault until what its node held goes on elsewhere.
const TAKE_OVER_MS: i64 = LEASE_MS + 2_000;
/// Between the moment in which a program may be started and its own first line, on a machine that is busy.
const STARTING_MS: i64 = 250;

/// Between two stamps of different nodes.
const SKEW_MS: i64 = 100;

/// Questions about files that were bought, once all of them are; the answer must be no row at all.
const NEVER: &[(&str, &str)] = &[
    (
        "every batch has come to its end, and nobody waits for any of its requests (15, 17)",
        "SELECT id, state FROM batches WHERE state NOT IN ('collected', 'abandoned')
        UNION ALL SELECT run_id, state FROM attempts WHERE state IN ('leased', 'started') OR verdict = 'open'",
    ),
    (
        "a run that succeeded has a result, and was bought by one batch (I15, I16)",
        "SELECT id FROM runs r WHERE state = 'succeeded'
            AND NOT EXISTS (SELECT 1 FROM run_results x WHERE x.run_id = r.id)
        UNION ALL SELECT run_id FROM attempts WHERE batch_id IS NOT NULL AND state = 'succeeded'
            GROUP BY run_id HAVING COUNT(*) > 1",
    ),
    (
        "nothing was written under an epoch after a newer one (4, I7)",
        "SELECT batch_id, seq FROM (SELECT batch_id, seq, epoch, MAX(epoch) OVER (PARTITION BY batch_id ORDER BY seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest FROM batch_events) AS e WHERE epoch < newest",
    ),
    (
        "a batch is collected once, and its row is what its last event says (14, 30)",
        "SELECT batch_id FROM batch_events WHERE event = 'collected' GROUP BY batch_id HAVING COUNT(*) > 1
        UNION ALL SELECT id FROM batches b WHERE state <> (SELECT event FROM batch_events e WHERE e.batch_id = b.id
            AND event IN ('collected', 'abandoned') ORDER BY seq DESC LIMIT 1)",
    ),
    (
        "a create is repeated only after a recorded proof of absence (13)",
        "SELECT id FROM batches b WHERE create_no <> 1 + (SELECT COUNT(*) FROM batch_events e
            WHERE e.batch_id = b.id AND event = 'absence_proven')",
    ),
    (
        "a pool's counts are those of its runs",
        "SELECT name FROM pools p CROSS JOIN LATERAL (SELECT COUNT(*) AS all_of_it,
            COUNT(*) FILTER (WHERE state = 'queued') AS is_queued,
            COUNT(*) FILTER (WHERE state = 'running') AS is_running,
            COUNT(*) FILTER (WHERE state = 'succeeded') AS did, COUNT(*) FILTER (WHERE state = 'failed') AS did_not
            FROM runs r WHERE r.pool = p.name) AS counted
        WHERE total <> all_of_it OR queued <> is_queued OR running <> is_running OR succeeded <> did
            OR failed <> did_not",
    ),
    ("no transaction is left open", "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"),
];

/// Holds the provider's bills and the store to what is promised of files (9, 11, 12, I9, I10). Returns the creates.
#[track_caller]
pub fn files_were_bought_once(cluster: &Cluster, suppliers: &[Supplier], bought: &Bought) -> u64 {
    assert!(bought.wrong.is_empty(), "{} files are wrong, such as {}", bought.wrong.len(), bought.wrong[0]);
    for (claim, exceptions) in NEVER {
        let found = cluster.rows(exceptions);
        assert!(found.is_empty(), "not so: {claim}: {} rows, such as {:?}", found.len(), &found[..found.len().min(5)]);
    }
    let known = "SELECT provider_batch_id FROM batches WHERE provider_batch_id IS NOT NULL
        UNION SELECT provider_batch_id FROM strays";
    let known: HashSet<String> = cluster.rows(known).into_iter().filter_map(|row| row[0].clone()).collect();
    let mut creates = 0;
    for supplier in suppliers {
        let ledger = supplier.account.ledger();
        let lines: u64 = bought.lines.iter().filter(|(name, _)| *name == supplier.name).map(|(_, lines)| lines).sum();
        assert!(ledger.billed_twice.is_empty(), "{}: bought twice: {:?}", supplier.name, ledger.billed_twice);
        assert_eq!((ledger.items_billed_total, ledger.distinct_items), (lines, lines), "{}", supplier.name);
        assert!(doubled_keys(&ledger).is_empty(), "{}: {:?}", supplier.name, ledger.batches);
        let unknown = ledger.batches.iter().find(|batch| !known.contains(&batch.id));
        assert!(unknown.is_none(), "{} has a batch that nobody here knows of: {unknown:?}", supplier.name);
        creates += ledger.creates;
    }
    creates
}

fn number(cell: &Option<String>) -> i64 {
    cell.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn text(cell: &Option<String>) -> String {
    cell.clone().unwrap_or_default()
}

/// Starts by their run, each list in the order of time.
fn by_run(effects: &[Effect]) -> HashMap<&str, Vec<&Effect>> {
    let mut starts = HashMap::<&str, Vec<&Effect>>::new();
    for effect in effects {
        starts.entry(effect.run.as_str()).or_default().push(effect);
    }
    starts
}

/// Programs that were started without a lease of their run, or as a second one under the same: whoever holds a lease no
/// more, because others have ended it, starts nothing (9, I14, F12). Says in which round each was.
pub fn started_without_a_lease(cluster: &Cluster, witness: &Witness, rounds: &[Round]) -> Vec<String> {
    let mut leases = HashMap::<String, Vec<(i64, i64)>>::new();
    for row in cluster.rows("SELECT run_id, leased_at, settled_at FROM attempts WHERE batch_id IS NULL ORDER BY epoch")
    {
        leases.entry(text(&row[0])).or_default().push((number(&row[1]), number(&row[2])));
    }
    for row in cluster.rows("SELECT id, started_at, finished_at FROM run_records WHERE started_at IS NOT NULL") {
        leases.entry(text(&row[0])).or_default().push((number(&row[1]), number(&row[2])));
    }
    let effects = witness.effects();
    let mut found = Vec::new();
    for (run, starts) in by_run(&effects) {
        let mut free = leases.get(run).cloned().unwrap_or_default();
        for start in starts {
            let is_in = |(from, to): &(i64, i64)| (from - SKEW_MS..=to + STARTING_MS).contains(&start.started);
            match free.iter().position(is_in) {
                Some(lease) => drop(free.remove(lease)),
                None => found.push(format!(
                    "{:?}: {start:?}, leases {:?}",
                    round_at(rounds, start.started),
                    leases.get(run)
                )),
            }
        }
    }
    found
}

/// The fault under which something happened, and how long after its begin.
fn round_at(rounds: &[Round], at: i64) -> Option<(Fault, i64)> {
    rounds.iter().rev().find(|round| round.from <= at).map(|round| (round.fault, at - round.from))
}

/// Programs that were started while another of the same run was still there: those that could not be helped, because
/// the first one's node was frozen, and the others with the round that they were in.
pub fn started_beside_another(witness: &Witness, rounds: &[Round]) -> (usize, Vec<String>) {
    let beside: Vec<Effect> = witness.effects().into_iter().filter(|effect| effect.beside).collect();
    let (mut excused, mut found) = (0, Vec::new());
    for effect in beside {
        match round_at(rounds, effect.started) {
            Some((Fault::Frozen, _)) => excused += 1,
            other => found.push(format!("{other:?}: {effect:?}")),
        }
    }
    (excused, found)
}

/// How long each run that a faulty node held was held up by that, until it was taken back, and until it went on, in
/// milliseconds and in order.
pub fn runs_held_up(cluster: &Cluster, witness: &Witness, rounds: &[Round]) -> (Vec<i64>, Vec<i64>) {
    let effects = witness.effects();
    let starts = by_run(&effects);
    let (mut taken_back, mut going_on) = (Vec::new(), Vec::new());
    for round in rounds {
        let Some(node) = &round.node else { continue };
        // A noop leaves no line; its last start is stamped.
        let lost = format!(
            "SELECT a.run_id, a.settled_at, r.started_at, r.task, r.epoch - a.epoch FROM attempts a
            JOIN run_records r ON r.id = a.run_id
            WHERE a.holder = '{node}' AND a.state = 'lost' AND a.leased_at <= {} AND a.settled_at >= {}
                AND r.state = 'succeeded'",
            round.from + SKEW_MS,
            round.from,
        );
        for row in cluster.rows(&lost) {
            let (run, settled, stamped) = (text(&row[0]), number(&row[1]), number(&row[2]));
            taken_back.push(settled - round.from);
            let starts = starts.get(run.as_str()).into_iter().flatten().map(|start| start.started);
            let next = match text(&row[3]).as_str() {
                harness::WITNESSED => starts.filter(|at| *at >= settled - SKEW_MS).min(),
                _ => (number(&row[4]) == 1).then_some(stamped),
            };
            going_on.extend(next.map(|at| at - round.from));
        }
    }
    taken_back.sort_unstable();
    going_on.sort_unstable();
    (taken_back, going_on)
}

/// Of a list in order.
pub fn percentile(sorted: &[i64], percent: usize) -> i64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// Says what is too much. Of few, the slowest one in a hundred cannot be told.
pub fn took_over_in_time(what: &str, spans: &[i64]) -> Option<String> {
    let percent = if spans.len() >= 100 { 99 } else { 95 };
    let (p50, most) = (percentile(spans, 50), percentile(spans, percent));
    println!("{what}: {}, p50 {p50} ms, p{percent} {most} ms, at most {:?} ms", spans.len(), spans.last());
    (most > TAKE_OVER_MS).then(|| format!("{what}: p{percent} {most} ms, {TAKE_OVER_MS} are promised: {spans:?}"))
}
