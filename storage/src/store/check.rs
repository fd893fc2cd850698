//! Asks of the whole store what must be true of it at any time, whatever its nodes are doing: in one snapshot, and
//! reading only. Whatever it finds is not of this program's making, or a bug of it.

use super::backup::connect_reading;
use super::open::{Place, postgres_options};
use crate::error::StoreError;
use crate::model::{BatchEvent, BatchState, JobEvent, JobState, batch, job};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use std::fmt::Write;

/// How many of those that something is wrong with are told by their ids.
const TOLD: usize = 5;

/// A question, and what it was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What must be true.
    pub claim: &'static str,
    /// For how many it is not.
    pub wrong: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// Claims about the file itself.
const INTEGRITY: &[(&str, &str)] = &[
    (
        "the file is whole, and its indexes have what its tables have",
        "SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
    ),
    ("no row refers to one that is not there", "SELECT \"table\" FROM pragma_foreign_key_check"),
];

/// A claim, and the ids of those for which it is not so. Each looks rows up by an index, or reads a table once.
/// `{is_cleared}` stands for a served job that the retention is about to clear away: some of what it had may be gone.
const CLAIMS: &[(&str, &str)] = &[
    (
        "an open run that was sent in is held in exactly one place, an ended one in none",
        "SELECT d.id FROM run_records d WHERE (SELECT COUNT(*) FROM buffer p WHERE p.run_id = d.id)
            + (SELECT COUNT(*) FROM ready p WHERE p.env = d.env AND p.run_id = d.id)
            + (SELECT COUNT(*) FROM leases p WHERE p.run_id = d.id)
            + (SELECT COUNT(*) FROM runs p WHERE p.id = d.id AND p.env = d.env)
            <> CASE d.state WHEN 'open' THEN 1 ELSE 0 END",
    ),
    (
        "whatever is held is a run that was sent in, of the same env, task and limits",
        "SELECT h.run_id FROM (SELECT run_id, env, task, max_attempts, max_duration_ms, expires_at FROM buffer
            UNION ALL SELECT run_id, env, task, max_attempts, max_duration_ms, expires_at FROM ready
            UNION ALL SELECT run_id, env, task, max_attempts, max_duration_ms, expires_at FROM leases) AS h
        WHERE NOT EXISTS (SELECT 1 FROM run_records d WHERE d.env = h.env AND d.id = h.run_id AND d.task = h.task
            AND d.max_attempts = h.max_attempts AND d.max_duration_ms = h.max_duration_ms
            AND d.expires_at IS NOT DISTINCT FROM h.expires_at)",
    ),
    (
        "a run waits in the lane of its queue and key, in the place that its accept time and priority give it",
        "SELECT h.run_id FROM (SELECT run_id, env, basin, lane, rank FROM buffer
            UNION ALL SELECT run_id, env, basin, lane, rank FROM ready
            UNION ALL SELECT run_id, env, basin, lane, rank FROM leases) AS h
            JOIN run_records d ON d.env = h.env AND d.id = h.run_id
        WHERE h.lane <> d.queue || '\u{1f}' || d.concurrency_key
            OR (h.basin <> d.env AND h.basin <> '~pull:' || d.task || '\u{1f}' || d.env)
            OR CASE WHEN d.priority BETWEEN -1000000000 AND 1000000000
                THEN h.rank <> d.accepted_at - d.priority * 1000 ELSE false END",
    ),
    (
        "what is ready has tries left, what is leased has used one up, and neither more than it may",
        "SELECT run_id FROM ready WHERE attempts >= max_attempts OR attempts < 0 OR epoch < attempts OR due_at < 0
        UNION ALL SELECT run_id FROM leases WHERE attempts < 1 OR attempts > max_attempts OR epoch < attempts",
    ),
    (
        "what is ready or leased goes on from the last try of its history",
        "SELECT h.run_id FROM (SELECT run_id, epoch FROM ready UNION ALL SELECT run_id, epoch - 1 FROM leases) AS h
        WHERE h.epoch <> (SELECT COALESCE(MAX(a.epoch), 0) FROM attempts a WHERE a.run_id = h.run_id)",
    ),
    (
        "a run has at most one try under way, and one outside a batch is past",
        "SELECT run_id FROM attempts WHERE state IN ('leased', 'started') GROUP BY run_id
            HAVING COUNT(*) > 1 OR COUNT(batch_id) < COUNT(*)",
    ),
    (
        "a try is under way exactly while its request is open",
        "SELECT run_id FROM attempts WHERE (verdict = 'open') <> (state IN ('leased', 'started'))",
    ),
    (
        "a run that was sent in says how often it was tried once it has ended",
        "SELECT d.id FROM run_records d WHERE (state <> 'open') <> (attempts IS NOT NULL) OR attempts > max_attempts
            OR attempts < (SELECT COUNT(*) FROM attempts a WHERE a.run_id = d.id AND a.state <> 'declined'
                AND COALESCE(a.verdict, '') <> 'canceled')",
    ),
    (
        "the unsuccessful are exactly those that ended otherwise than succeeded",
        "SELECT d.id FROM run_records d WHERE d.state NOT IN ('open', 'succeeded') AND NOT EXISTS
            (SELECT 1 FROM unsuccessful u WHERE u.run_id = d.id AND u.state = d.state AND u.env = d.env)
        UNION ALL SELECT u.run_id FROM unsuccessful u WHERE NOT EXISTS
            (SELECT 1 FROM run_records d WHERE d.env = u.env AND d.id = u.run_id AND d.state = u.state)",
    ),
    (
        "an idempotency key names a run of its own env that was sent in with it",
        "SELECT k.run_id FROM idempotency k WHERE NOT EXISTS
            (SELECT 1 FROM run_records d WHERE d.env = k.env AND d.id = k.run_id AND d.idempotency_key = k.key)",
    ),
    (
        "a request is running exactly while its newest try is under way, in the batch that carries it",
        "SELECT r.id FROM runs r WHERE (r.state = 'running') <> EXISTS (SELECT 1 FROM attempts a
            WHERE a.run_id = r.id AND a.epoch = r.epoch AND a.state IN ('leased', 'started')
            AND a.batch_id = r.carrier)",
    ),
    (
        "a request has used up as many tries as count",
        "SELECT r.id FROM runs r WHERE attempts <>
            (SELECT COUNT(*) FROM attempts a WHERE a.run_id = r.id AND a.verdict <> 'canceled')",
    ),
    (
        "a request has a result exactly if one of its tries counted, and a body always",
        "SELECT r.id FROM runs r WHERE
            EXISTS (SELECT 1 FROM run_results x WHERE x.run_id = r.id) <> EXISTS (SELECT 1 FROM attempts a
                WHERE a.run_id = r.id AND a.verdict IN ('succeeded', 'errored', 'expired', 'refused', 'missing'))
            OR NOT EXISTS (SELECT 1 FROM run_bodies y WHERE y.run_id = r.id)",
    ),
    (
        "a pool's counters equal a count of its requests",
        "SELECT p.name FROM pools p LEFT JOIN (SELECT pool, COUNT(*) AS total,
                SUM(CASE WHEN state = 'queued' THEN 1 ELSE 0 END) AS queued,
                SUM(CASE WHEN state = 'running' THEN 1 ELSE 0 END) AS running,
                SUM(CASE WHEN state = 'succeeded' THEN 1 ELSE 0 END) AS succeeded,
                SUM(CASE WHEN state IN ('failed', 'cancelled') THEN 1 ELSE 0 END) AS failed
            FROM runs GROUP BY pool) AS c ON c.pool = p.name
        WHERE NOT {is_cleared} AND (p.total <> COALESCE(c.total, 0) OR p.queued <> COALESCE(c.queued, 0)
            OR p.running <> COALESCE(c.running, 0) OR p.succeeded <> COALESCE(c.succeeded, 0)
            OR p.failed <> COALESCE(c.failed, 0))",
    ),
    (
        "a pool's money is the sum of its batches'",
        "SELECT p.name FROM pools p LEFT JOIN (SELECT pool, SUM(reserved_nanos) AS reserved, SUM(spent_nanos) AS spent
            FROM batches GROUP BY pool) AS c ON c.pool = p.name
        WHERE NOT {is_cleared} AND (p.reserved_nanos <> COALESCE(c.reserved, 0)
            OR p.spent_nanos <> COALESCE(c.spent, 0))",
    ),
    (
        "a batch's money and counters are the sums of its requests'",
        "SELECT b.id FROM batches b JOIN pools p ON p.name = b.pool
            LEFT JOIN (SELECT batch_id, COUNT(*) AS requests, MAX(batch_pos) AS last, SUM(cost_nanos) AS spent,
                SUM(CASE WHEN verdict = 'succeeded' THEN 1 ELSE 0 END) AS succeeded,
                SUM(CASE WHEN verdict = 'canceled' THEN 1 ELSE 0 END) AS uncounted,
                SUM(CASE WHEN verdict IN ('errored', 'expired', 'refused', 'missing') THEN 1 ELSE 0 END) AS errored
            FROM attempts WHERE batch_id IS NOT NULL GROUP BY batch_id) AS c ON c.batch_id = b.id
        WHERE NOT {is_cleared} AND (c.batch_id IS NULL OR b.spent_nanos <> COALESCE(c.spent, 0)
            OR b.requests <> c.requests OR b.requests - 1 <> c.last OR b.succeeded <> c.succeeded
            OR b.uncounted <> c.uncounted OR b.errored <> c.errored)",
    ),
    (
        "a batch that is over has no open request",
        "SELECT DISTINCT a.batch_id FROM attempts a JOIN batches b ON b.id = a.batch_id
            WHERE a.state IN ('leased', 'started') AND b.state IN ('collected', 'abandoned')",
    ),
    (
        "a batch is what the last of its events made of it",
        "SELECT b.id FROM batches b WHERE COALESCE((SELECT e.event FROM batch_events e WHERE e.batch_id = b.id
            ORDER BY e.seq DESC LIMIT 1), '') || '>' || b.state NOT IN ({batch_ends})",
    ),
    (
        "a job is what the last of its events made of it",
        "SELECT j.id FROM jobs j WHERE COALESCE((SELECT e.event FROM job_events e WHERE e.job_id = j.id
            ORDER BY e.seq DESC LIMIT 1), '') || '>' || j.state NOT IN ({job_ends})",
    ),
    (
        "a session is what the last of its events says, and its events have no gap",
        "SELECT s.id FROM sessions s WHERE NOT EXISTS (SELECT 1 FROM session_events e
            WHERE e.session_id = s.id AND e.seq = s.seq AND e.round = s.round AND e.phase = s.phase
            AND e.at = s.moved_at AND (e.event = 'closed') = (s.state = 'closed'))
            OR s.seq <> (SELECT COUNT(*) FROM session_events e WHERE e.session_id = s.id)",
    ),
    (
        "a session is complete exactly by the completion of its present round",
        "SELECT s.id FROM sessions s WHERE (completed_round = round) <> EXISTS (SELECT 1 FROM session_events e
            WHERE e.session_id = s.id AND e.round = s.round AND e.event = 'completed')
            OR (closing = 'complete' AND completed_round <> round)",
    ),
    (
        "the pieces of a stream are numbered from 0 without a gap",
        "SELECT run_id FROM output_chunks GROUP BY run_id, epoch, stream
            HAVING MIN(seq) <> 0 OR MAX(seq) <> COUNT(*) - 1",
    ),
];

const IS_CLEARED: &str = "EXISTS (SELECT 1 FROM jobs j WHERE j.id = p.name AND j.task IS NOT NULL AND j.round > 0
    AND j.finished_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM job_rounds o WHERE o.job_id = j.id))";

/// Asks one question of a connection; what is wrong is counted as it comes, and not kept.
macro_rules! ask {
    ($connection:expr, $claim:expr, $sql:expr) => {{
        let mut answer = Answer { claim: $claim, wrong: 0, first: Vec::new() };
        let query = sqlx::query_scalar::<_, String>(AssertSqlSafe($sql)).persistent(false);
        let mut wrong = query.fetch(&mut *$connection);
        while let Some(id) = wrong.try_next().await? {
            answer.wrong += 1;
            if answer.first.len() < TOLD {
                answer.first.push(id);
            }
        }
        drop(wrong);
        answer
    }};
}

/// Asks everything of a store, whether a server works on it or not.
pub async fn check(url: &str) -> Result<Vec<Answer>, StoreError> {
    match Place::of(url)? {
        Place::Sqlite(path) => {
            let mut connection = connect_reading(&path).await?;
            let answers = check_sqlite(&mut connection).await?;
            connection.close().await?;
            Ok(answers)
        }
        Place::Postgres(options) => {
            let mut connection = PgConnection::connect_with(&postgres_options(*options)).await?;
            let answers = check_postgres(&mut connection).await?;
            connection.close().await?;
            Ok(answers)
        }
    }
}

async fn check_sqlite(connection: &mut SqliteConnection) -> Result<Vec<Answer>, StoreError> {
    let mut answers = Vec::new();
    let mut snapshot = connection.begin().await?;
    for (claim, pragma) in INTEGRITY {
        answers.push(ask!(snapshot, claim, (*pragma).to_owned()));
    }
    // What a file says that is not whole is worth nothing.
    if answers.iter().all(|answer| answer.wrong == 0) {
        for (claim, sql) in CLAIMS {
            answers.push(ask!(snapshot, claim, rendered(sql)));
        }
    }
    snapshot.rollback().await?;
    Ok(answers)
}

async fn check_postgres(connection: &mut PgConnection) -> Result<Vec<Answer>, StoreError> {
    let mut answers = Vec::new();
    let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    for (claim, sql) in CLAIMS {
        answers.push(ask!(snapshot, claim, rendered(sql)));
    }
    snapshot.rollback().await?;
    Ok(answers)
}

fn rendered(sql: &str) -> String {
    let batch_ends = ends("planned", batch::EDGES, BatchEvent::word, BatchState::word);
    let job_ends = ends("created", job::EDGES, JobEvent::word, JobState::word);
    sql.replace("{is_cleared}", IS_CLEARED).replace("{batch_ends}", &batch_ends).replace("{job_ends}", &job_ends)
}

/// Every event with the state that it leads to, and the making, whose event is named as its state is.
fn ends<S: Copy, E: Copy>(
    made: &str,
    edges: &[(S, E, S)],
    event: fn(E) -> &'static str,
    state: fn(S) -> &'static str,
) -> String {
    let mut ends = format!("'{made}>{made}'");
    for (_, by, to) in edges {
        let _ = write!(ends, ", '{}>{}'", event(*by), state(*to));
    }
    ends
}
