//! What must be true of a store at any time, whatever was done to it: asked of the whole database after
//! every test, so that each test is also a test of the counters, the logs and the invariants between tables.

use crate::raw::Raw;
use std::collections::BTreeMap;
use storage::model::{BatchEvent, BatchState, JobEvent, JobState, batch, job};

/// A question whose answer must be no row at all.
/// `{is_cleared}` stands for a served job that the retention is about to clear away: it has no rounds any more, and
/// some of what it had may be gone.
const NEVER: &[(&str, &str)] = &[
    (
        "a session's row is what its last event says (30), and its events have no gap",
        "SELECT id FROM sessions s WHERE NOT EXISTS (SELECT 1 FROM session_events e
            WHERE e.session_id = s.id AND e.seq = s.seq AND e.round = s.round AND e.phase = s.phase
            AND e.at = s.moved_at AND (e.event = 'closed') = (s.state = 'closed'))
            OR seq <> (SELECT COUNT(*) FROM session_events e WHERE e.session_id = s.id)",
    ),
    (
        "a session is complete exactly by the completion of its present round (28)",
        "SELECT id FROM sessions s WHERE (completed_round = round) <> EXISTS (SELECT 1 FROM session_events e
            WHERE e.session_id = s.id AND e.round = s.round AND e.event = 'completed')
            OR (closing = 'complete' AND completed_round <> round)",
    ),
    (
        "a pool's counters equal a count of its runs",
        "SELECT p.name FROM pools p WHERE NOT {is_cleared} AND (
            total <> (SELECT COUNT(*) FROM runs r WHERE r.pool = p.name)
            OR queued <> (SELECT COUNT(*) FROM runs r WHERE r.pool = p.name AND r.state = 'queued')
            OR running <> (SELECT COUNT(*) FROM runs r WHERE r.pool = p.name AND r.state = 'running')
            OR succeeded <> (SELECT COUNT(*) FROM runs r WHERE r.pool = p.name AND r.state = 'succeeded')
            OR failed <> (SELECT COUNT(*) FROM runs r WHERE r.pool = p.name AND r.state IN ('failed', 'cancelled')))",
    ),
    (
        "a pool's money is the sum of its batches'",
        "SELECT p.name FROM pools p WHERE NOT {is_cleared} AND (
            reserved_nanos <> (SELECT COALESCE(SUM(b.reserved_nanos), 0) FROM batches b WHERE b.pool = p.name)
            OR spent_nanos <> (SELECT COALESCE(SUM(b.spent_nanos), 0) FROM batches b WHERE b.pool = p.name))",
    ),
    (
        "a batch's money and counters are the sums of its requests'",
        "SELECT b.id FROM batches b JOIN pools p ON p.name = b.pool WHERE NOT {is_cleared} AND (
            b.spent_nanos <> (SELECT COALESCE(SUM(cost_nanos), 0) FROM attempts a WHERE a.batch_id = b.id)
            OR requests <> (SELECT COUNT(*) FROM attempts a WHERE a.batch_id = b.id)
            OR requests - 1 <> (SELECT MAX(batch_pos) FROM attempts a WHERE a.batch_id = b.id)
            OR b.succeeded <> (SELECT COUNT(*) FROM attempts a WHERE a.batch_id = b.id AND verdict = 'succeeded')
            OR uncounted <> (SELECT COUNT(*) FROM attempts a WHERE a.batch_id = b.id AND verdict = 'canceled')
            OR errored <> (SELECT COUNT(*) FROM attempts a WHERE a.batch_id = b.id
                AND verdict IN ('errored', 'expired', 'refused', 'missing')))",
    ),
    (
        "a pool's unpriced results are its settled requests without a cost",
        "SELECT p.name FROM pools p WHERE NOT {is_cleared} AND unpriced <>
            (SELECT COUNT(*) FROM attempts a JOIN batches b ON b.id = a.batch_id
            WHERE b.pool = p.name AND a.settled_at IS NOT NULL AND a.cost_nanos IS NULL)",
    ),
    (
        "a run is running exactly while its newest attempt is under way, in the batch that carries it",
        "SELECT r.id FROM runs r WHERE (r.state = 'running') <> EXISTS (SELECT 1 FROM attempts a
            WHERE a.run_id = r.id AND a.epoch = r.epoch AND a.state IN ('leased', 'started')
            AND a.batch_id = r.carrier)",
    ),
    (
        "a run has used up as many attempts as count",
        "SELECT r.id FROM runs r WHERE attempts <>
            (SELECT COUNT(*) FROM attempts a WHERE a.run_id = r.id AND a.verdict <> 'canceled')",
    ),
    (
        "an attempt is under way exactly while its request is open",
        "SELECT run_id FROM attempts WHERE (verdict = 'open') <> (state IN ('leased', 'started'))",
    ),
    (
        "a terminal batch has no open request",
        "SELECT a.run_id FROM attempts a JOIN batches b ON b.id = a.batch_id
            WHERE a.verdict = 'open' AND b.state IN ('collected', 'abandoned')",
    ),
    (
        "a run has a result line exactly if one of its attempts counted, and a body always",
        "SELECT r.id FROM runs r WHERE
            EXISTS (SELECT 1 FROM run_results x WHERE x.run_id = r.id) <> EXISTS (SELECT 1 FROM attempts a
                WHERE a.run_id = r.id AND a.verdict IN ('succeeded', 'errored', 'expired', 'refused', 'missing'))
            OR NOT EXISTS (SELECT 1 FROM run_bodies y WHERE y.run_id = r.id)",
    ),
    (
        "an open run that was sent in is held in exactly one place, an ended one in none",
        "SELECT id, state FROM run_records r WHERE (SELECT COUNT(*) FROM buffer b WHERE b.run_id = r.id)
            + (SELECT COUNT(*) FROM ready q WHERE q.run_id = r.id)
            + (SELECT COUNT(*) FROM leases l WHERE l.run_id = r.id)
            + (SELECT COUNT(*) FROM runs j WHERE j.id = r.id AND j.env = r.env) <> CASE r.state WHEN 'open' THEN 1 ELSE 0 END",
    ),
    (
        "whatever is held is a run that was sent in, of the same env, task and limits",
        "SELECT h.run_id FROM (SELECT run_id, env, task, max_attempts, max_duration_ms, expires_at FROM buffer
            UNION ALL SELECT run_id, env, task, max_attempts, max_duration_ms, expires_at FROM ready
            UNION ALL SELECT run_id, env, task, max_attempts, max_duration_ms, expires_at FROM leases) AS h
        WHERE NOT EXISTS (SELECT 1 FROM run_records r WHERE r.id = h.run_id AND r.env = h.env AND r.task = h.task
            AND r.max_attempts = h.max_attempts AND r.max_duration_ms = h.max_duration_ms
            AND r.expires_at IS NOT DISTINCT FROM h.expires_at)",
    ),
    (
        "a run's place in its lane is its accept time less its priority in seconds",
        "SELECT h.run_id, h.rank FROM (SELECT run_id, basin, lane, rank FROM buffer
            UNION ALL SELECT run_id, basin, lane, rank FROM ready
            UNION ALL SELECT run_id, basin, lane, rank FROM leases) AS h JOIN run_records r ON r.id = h.run_id
        WHERE h.lane <> r.queue || '\u{1f}' || r.concurrency_key
            OR (h.basin <> r.env AND h.basin <> '~pull:' || r.task || '\u{1f}' || r.env)
            OR CASE WHEN r.priority BETWEEN -1000000000 AND 1000000000
                THEN h.rank <> r.accepted_at - r.priority * 1000 ELSE false END",
    ),
    (
        "what is ready has tries left, what is leased has used one up, and neither more than it may",
        "SELECT run_id FROM ready WHERE attempts >= max_attempts OR attempts < 0 OR epoch < attempts OR due_at < 0
        UNION ALL SELECT run_id FROM leases WHERE attempts < 1 OR attempts > max_attempts OR epoch < attempts",
    ),
    (
        "a run has used up as many tries as its history counts, and the one that is under way",
        "SELECT h.run_id, h.used FROM (SELECT run_id, attempts AS used, epoch FROM ready
            UNION ALL SELECT run_id, attempts - 1, epoch - 1 FROM leases) AS h
        WHERE h.used <> (SELECT COUNT(*) FROM attempts a WHERE a.run_id = h.run_id AND a.state <> 'declined'
                AND COALESCE(a.verdict, '') <> 'canceled')
            OR h.epoch <> (SELECT COUNT(*) FROM attempts a WHERE a.run_id = h.run_id)
            OR h.epoch <> (SELECT COALESCE(MAX(a.epoch), 0) FROM attempts a WHERE a.run_id = h.run_id)",
    ),
    (
        "a try outside a batch is past, and is a try of a run that was sent in",
        "SELECT run_id FROM attempts a WHERE batch_id IS NULL AND (a.settled_at IS NULL OR NOT EXISTS
            (SELECT 1 FROM run_records r WHERE r.id = a.run_id AND (r.epoch IS NULL OR r.epoch >= a.epoch)))",
    ),
    (
        "a run that was sent in says how often it was tried once it has ended",
        "SELECT id FROM run_records r WHERE (state <> 'open') <> (attempts IS NOT NULL) OR attempts > max_attempts
            OR attempts < (SELECT COUNT(*) FROM attempts a WHERE a.run_id = r.id AND a.state <> 'declined'
                AND COALESCE(a.verdict, '') <> 'canceled')",
    ),
    (
        "the unsuccessful are exactly those that ended otherwise than succeeded",
        "SELECT id FROM run_records r WHERE state NOT IN ('open', 'succeeded') AND NOT EXISTS
            (SELECT 1 FROM unsuccessful u WHERE u.run_id = r.id AND u.state = r.state AND u.env = r.env)
        UNION ALL SELECT run_id FROM unsuccessful u WHERE NOT EXISTS
            (SELECT 1 FROM run_records r WHERE u.run_id = r.id AND u.state = r.state AND u.env = r.env)",
    ),
    (
        "an idempotency key names a run of its own env that was sent in",
        "SELECT k.key FROM idempotency k WHERE NOT EXISTS
            (SELECT 1 FROM run_records r WHERE r.id = k.run_id AND r.env = k.env AND r.idempotency_key = k.key)",
    ),
    (
        "the pieces of a stream are numbered from 0 without a gap (invariant 37)",
        "SELECT run_id, epoch, stream FROM output_chunks GROUP BY run_id, epoch, stream
            HAVING MIN(seq) <> 0 OR MAX(seq) <> COUNT(*) - 1",
    ),
];

const IS_CLEARED: &str = "EXISTS (SELECT 1 FROM jobs j WHERE j.id = p.name AND j.task IS NOT NULL AND j.round > 0
    AND j.finished_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM job_rounds o WHERE o.job_id = j.id))";

pub async fn audit(raw: &Raw) {
    for (claim, exceptions) in NEVER {
        let found = raw.rows(&exceptions.replace("{is_cleared}", IS_CLEARED)).await;
        assert!(found.is_empty(), "not so: {claim}: {found:?}");
    }
    let folded = fold(raw, "batch", "planned", &moves(batch::EDGES, BatchState::word, BatchEvent::word)).await;
    assert_eq!(folded, stored(raw, "batches").await, "a batch is the fold of its events (invariant 30)");
    let folded = fold(raw, "job", "created", &moves(job::EDGES, JobState::word, JobEvent::word)).await;
    assert_eq!(folded, stored(raw, "jobs").await, "a job is the fold of its events (invariant 30)");
}

type Moves = BTreeMap<(&'static str, String), &'static str>;

fn moves<S: Copy, E: Copy>(edges: &[(S, E, S)], state: fn(S) -> &'static str, event: fn(E) -> &'static str) -> Moves {
    edges.iter().map(|(from, by, to)| ((state(*from), event(*by).to_owned()), state(*to))).collect()
}

/// The state of each entity that its event log tells; the first event must be its making.
async fn fold(raw: &Raw, entity: &str, first: &'static str, moves: &Moves) -> BTreeMap<String, String> {
    let log = raw.rows(&format!("SELECT {entity}_id, event FROM {entity}_events ORDER BY seq")).await;
    let mut states: BTreeMap<String, &'static str> = BTreeMap::new();
    for row in log {
        let [Some(id), Some(event)] = &row[..] else { panic!("{row:?} is not an event") };
        let next = match states.get(id) {
            None if event == first => first,
            None => panic!("the log of {id} begins with {event}"),
            Some(state) => moves.get(&(state, event.clone())).unwrap_or_else(|| panic!("{id} was {state} at {event}")),
        };
        states.insert(id.clone(), next);
    }
    states.into_iter().map(|(id, state)| (id, state.to_owned())).collect()
}

async fn stored(raw: &Raw, table: &str) -> BTreeMap<String, String> {
    let rows = raw.rows(&format!("SELECT id, state FROM {table}")).await;
    rows.into_iter().filter_map(|row| Some((row[0].clone()?, row[1].clone()?))).collect()
}
