//! Ends attempts: each by its own verdict, under the epoch that its lease got, many in one commit. A run leaves
//! `leases` in the transaction that ends it or makes it ready again (invariant 7).

use super::door::Door;
use super::hot::Hot;
use super::verdict::{Ending, Finished, RunVerdict, first_on_each};
use super::{CHUNK, KEPT, Pools, Store, WriteTurn};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{AttemptState, Basin, Lane, RunEvent, RunId, RunState, Timestamp};
use sqlx::{Connection, PgConnection, QueryBuilder, Sqlite, SqliteConnection};
use std::borrow::Cow;
use std::collections::HashMap;

/// A lease as it is ended.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Lease {
    run_id: String,
    env: String,
    basin: String,
    lane: String,
    task: String,
    rank: i64,
    expires_at: Option<i64>,
    epoch: i64,
    attempts: i64,
    max_attempts: i64,
    max_duration_ms: i64,
    holder: String,
    leased_at: i64,
    cancel_requested: i64,
}

/// What becomes of a run whose attempt did not end it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Ready again; `due_at` as in `ready`, and the attempts that are used up.
    Again {
        due_at: i64,
        attempts: i64,
    },
    End(RunState),
}

/// Decides what follows from an attempt's end. A cancel that was asked for is obeyed by whatever end comes.
fn next(ending: Ending, attempts: i64, max_attempts: i64, cancel_requested: bool) -> (RunEvent, Next) {
    let again = |due_at, attempts| (RunEvent::Requeued, Next::Again { due_at, attempts });
    match ending {
        Ending::Succeeded => (RunEvent::Finished, Next::End(RunState::Succeeded)),
        Ending::Cancelled => (RunEvent::Cancelled, Next::End(RunState::Cancelled)),
        Ending::Failed => (RunEvent::GaveUp, Next::End(RunState::Failed)),
        Ending::TimedOut => (RunEvent::RanOutOfTime, Next::End(RunState::TimedOut)),
        Ending::Retry(_) | Ending::Lost | Ending::Declined if cancel_requested => {
            (RunEvent::Cancelled, Next::End(RunState::Cancelled))
        }
        Ending::Declined => again(0, (attempts - 1).max(0)),
        Ending::Retry(_) | Ending::Lost if attempts >= max_attempts => (RunEvent::GaveUp, Next::End(RunState::Failed)),
        Ending::Retry(due) => again(due.millis().max(0), attempts),
        Ending::Lost => again(0, attempts),
    }
}

/// The attempt's own end, as its history keeps it.
fn attempt_state(ending: Ending) -> AttemptState {
    match ending {
        Ending::Succeeded => AttemptState::Succeeded,
        Ending::Failed | Ending::Retry(_) => AttemptState::Failed,
        Ending::TimedOut => AttemptState::TimedOut,
        Ending::Cancelled => AttemptState::Cancelled,
        Ending::Lost => AttemptState::Lost,
        Ending::Declined => AttemptState::Declined,
    }
}

/// A run's last line, as it is written to its record.
struct End<'a> {
    lease: &'a Lease,
    verdict: &'a RunVerdict,
    state: RunState,
}

impl End<'_> {
    /// Whoever finds a run lost cannot tell when it began: it shows what it showed while it was leased.
    fn started_at(&self) -> Option<i64> {
        let leased = (self.verdict.ending == Ending::Lost).then_some(self.lease.leased_at);
        self.verdict.started_at.map(Timestamp::millis).or(leased)
    }
}

/// Each lease is looked up and locked by itself: by statistics the table is all but empty, whatever PostgreSQL could not
/// clear away yet, and to walk over all of it would be the plan. What is locked is deleted by its key and not by its
/// place, which moves when somebody has asked for a cancel meanwhile.
const LEASES_POSTGRES: &str = "-- end_leases
WITH picked AS MATERIALIZED (SELECT v.run_id FROM UNNEST($1::TEXT[], $2::BIGINT[]) AS v(run_id, epoch)
    CROSS JOIN LATERAL (SELECT 1 FROM leases l WHERE l.run_id = v.run_id AND l.epoch = v.epoch FOR UPDATE) AS l)
DELETE FROM leases WHERE leases.run_id = ANY(ARRAY(SELECT run_id FROM picked))
RETURNING leases.run_id, env, basin, lane, task, rank, expires_at, leases.epoch, attempts, max_attempts,
    max_duration_ms, holder, leased_at, cancel_requested";

/// The common case in one statement, and so in one commit of its own: all of them succeeded.
const SUCCEED_POSTGRES: &str = "-- succeed
WITH v AS MATERIALIZED (SELECT UNNEST($1::TEXT[]) AS run_id, UNNEST($2::BIGINT[]) AS epoch,
    UNNEST($3::TEXT[]) AS output, UNNEST($4::BIGINT[]) AS started_at),
picked AS MATERIALIZED (SELECT p.*, v.* FROM v CROSS JOIN LATERAL (
    SELECT l.attempts, l.env, l.basin, l.lane FROM leases l
    WHERE l.run_id = v.run_id AND l.epoch = v.epoch FOR UPDATE) AS p),
ended AS (DELETE FROM leases WHERE run_id = ANY(ARRAY(SELECT run_id FROM picked)))
UPDATE run_records SET state = 'succeeded', output = e.output, epoch = e.epoch, attempts = e.attempts,
    started_at = e.started_at, finished_at = $5
FROM picked e WHERE run_records.env = e.env AND id = e.run_id AND state = 'open'
RETURNING id, e.epoch, e.env, e.basin, e.lane";

const RECORDS_POSTGRES: &str = "-- end_records
UPDATE run_records SET state = v.state, code = v.code, reason = v.reason, output = v.output, epoch = v.epoch,
    attempts = v.attempts, started_at = v.started_at, finished_at = $10
FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[], $7::BIGINT[], $8::BIGINT[], $9::TEXT[])
    AS v(id, state, code, reason, output, epoch, attempts, started_at, env)
WHERE run_records.env = v.env AND run_records.id = v.id AND run_records.state = 'open'";

impl Store {
    /// Ends attempts; the answers come in the order of the verdicts. Verdicts on a lease that has moved on, and
    /// all but the first on one, change nothing and say so (invariants 4 and 10).
    pub async fn settle_runs(&self, verdicts: &[RunVerdict], now: Timestamp) -> Result<Vec<Finished>, StoreError> {
        let mut finished = Vec::with_capacity(verdicts.len());
        for chunk in verdicts.chunks(CHUNK) {
            finished.extend(self.settle_in(Door::of(chunk.len()), self.write_turn().await?, chunk, now).await?);
        }
        Ok(finished)
    }

    /// The same in a turn to write, for at most 500 verdicts: one commit, all or none. What comes by one door does not
    /// wait for what comes by the other, where the database can write both at once.
    pub async fn settle_in(
        &self,
        door: Door,
        turn: WriteTurn,
        verdicts: &[RunVerdict],
        now: Timestamp,
    ) -> Result<Vec<Finished>, StoreError> {
        let heard = first_on_each(verdicts);
        let plain = |verdict: &Cow<'_, RunVerdict>| {
            verdict.ending == Ending::Succeeded && verdict.code.is_none() && verdict.reason.is_none()
        };
        let mut done = match &self.inner.pools {
            Pools::Postgres { hot, .. } if heard.iter().all(plain) => {
                hot.on(Hot::Finish(door), async |connection| succeed_postgres(connection, &heard, now).await).await?
            }
            Pools::Postgres { hot, .. } => {
                let settle = async |connection: &mut PgConnection| {
                    let mut tx = connection.begin().await?;
                    let done = settle_postgres(&mut tx, &heard, now).await?;
                    reached(Failpoint::FinishOpen);
                    tx.commit().await?;
                    Ok(done)
                };
                hot.on(Hot::Finish(door), settle).await?
            }
            Pools::Sqlite { writer, .. } if heard.iter().all(plain) => {
                let mut writing = turn.writing(writer).await?;
                let done = succeed_sqlite(&mut writing, &heard, now).await?;
                writing.done().await?;
                done
            }
            Pools::Sqlite { writer, .. } => {
                let mut tx = turn.writing(writer).await?.begin().await?;
                let done = settle_sqlite(&mut tx, &heard, now).await?;
                reached(Failpoint::FinishOpen);
                tx.commit().await?;
                done
            }
        };
        reached(Failpoint::FinishStored);
        Ok(verdicts.iter().map(|verdict| done.remove(&key_of(verdict)).unwrap_or_else(|| moved_on(verdict))).collect())
    }
}

/// What was done, by run and epoch; whatever is not in it was not this carrier's.
type Done = HashMap<(String, i64), Finished>;

fn key_of(verdict: &RunVerdict) -> (String, i64) {
    (verdict.run.to_string(), verdict.epoch.number())
}

fn finished(run: &str, env: &str, basin: &str, lane: &str, state: RunState) -> Finished {
    Finished {
        run: RunId::from_text(run),
        env: env.to_owned(),
        state: Some(state),
        basin: Basin::from_text(basin),
        lane: Lane::from_text(lane),
    }
}

async fn succeed_postgres(
    connection: &mut PgConnection,
    verdicts: &[Cow<'_, RunVerdict>],
    now: Timestamp,
) -> Result<Done, StoreError> {
    let done: Vec<(String, i64, String, String, String)> = sqlx::query_as(SUCCEED_POSTGRES)
        .bind(verdicts.iter().map(|verdict| verdict.run.as_str()).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|verdict| verdict.epoch.number()).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|verdict| verdict.output.as_deref()).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|verdict| verdict.started_at.map(Timestamp::millis)).collect::<Vec<_>>())
        .bind(now.millis())
        .fetch_all(connection)
        .await?;
    Ok(succeeded(done))
}

/// In one trip to the connection's thread: writes the records of those that are leased as their verdicts say, ends
/// their leases, and commits. Left in the middle, the connection is rolled back before its next use.
async fn succeed_sqlite(
    connection: &mut SqliteConnection,
    verdicts: &[Cow<'_, RunVerdict>],
    now: Timestamp,
) -> Result<Done, StoreError> {
    let mut whole = QueryBuilder::<Sqlite>::new("BEGIN IMMEDIATE; WITH v AS (");
    whole.push_values(verdicts, |mut row, verdict| {
        row.push_bind(verdict.run.as_str())
            .push_bind(verdict.epoch.number())
            .push_bind(verdict.output.as_deref())
            .push_bind(verdict.started_at.map(Timestamp::millis));
    });
    // Told how few there are, SQLite looks each of them up; else it would walk over all records for them.
    whole
        .push(
            "), ended AS MATERIALIZED (SELECT l.run_id, l.env, l.epoch, l.attempts, v.column3 AS output,
                v.column4 AS started_at FROM v CROSS JOIN leases AS l WHERE l.run_id = v.column1
                AND l.epoch = v.column2 LIMIT ",
        )
        .push(verdicts.len())
        .push(") UPDATE run_records SET finished_at = ")
        .push_bind(now.millis())
        .push(
            ", state = 'succeeded', output = e.output, epoch = e.epoch, attempts = e.attempts, started_at = e.started_at
            FROM ended AS e WHERE run_records.env = e.env AND id = e.run_id AND state = 'open'; ",
        );
    end_leases_sqlite(&mut whole, verdicts);
    whole.push(" RETURNING run_id, epoch, env, basin, lane; COMMIT");
    let done: Vec<(String, i64, String, String, String)> =
        whole.build_query_as().persistent(verdicts.len() <= KEPT).fetch_all(connection).await?;
    Ok(succeeded(done))
}

/// Runs that have succeeded, by run, epoch, env, basin and lane.
fn succeeded(done: Vec<(String, i64, String, String, String)>) -> Done {
    let one = |(run, epoch, env, basin, lane): (String, i64, String, String, String)| {
        let one = finished(&run, &env, &basin, &lane, RunState::Succeeded);
        ((run, epoch), one)
    };
    done.into_iter().map(one).collect()
}

fn moved_on(verdict: &RunVerdict) -> Finished {
    let (basin, lane) = (Basin::from_text(""), Lane::from_text(""));
    Finished { run: verdict.run.clone(), env: String::new(), state: None, basin, lane }
}

/// Everything that follows from the leases that were ours, on one database.
macro_rules! apply {
    ($tx:ident, $Db:ty, $leases:ident, $verdicts:ident, $now:ident, $end_records:path) => {{
        let leases: HashMap<(&str, i64), &Lease> =
            $leases.iter().map(|lease| ((lease.run_id.as_str(), lease.epoch), lease)).collect();
        let (mut ends, mut again, mut history, mut done) = (Vec::new(), Vec::new(), Vec::new(), Done::new());
        for verdict in $verdicts.iter().map(|verdict| &**verdict) {
            let Some(lease) = leases.get(&(verdict.run.as_str(), verdict.epoch.number())).copied() else { continue };
            let (event, next) = next(verdict.ending, lease.attempts, lease.max_attempts, lease.cancel_requested != 0);
            let state = RunState::Running.after(event).unwrap_or(RunState::Failed);
            match next {
                Next::Again { due_at, attempts } => {
                    again.push((lease, due_at, attempts));
                    history.push((lease, verdict));
                }
                Next::End(state) => ends.push(End { lease, verdict, state }),
            }
            done.insert(key_of(verdict), finished(&lease.run_id, &lease.env, &lease.basin, &lease.lane, state));
        }
        if !ends.is_empty() {
            $end_records(&mut *$tx, &ends, $now).await?;
        }
        let failed: Vec<&End<'_>> = ends.iter().filter(|end| end.state != RunState::Succeeded).collect();
        if !failed.is_empty() {
            let mut insert = QueryBuilder::<$Db>::new("INSERT INTO unsuccessful (run_id, env, state) ");
            insert.push_values(failed, |mut row, end| {
                row.push_bind(end.lease.run_id.as_str()).push_bind(end.lease.env.as_str()).push_bind(end.state.word());
            });
            insert.build().persistent(false).execute(&mut *$tx).await?;
        }
        if !again.is_empty() {
            let mut insert = QueryBuilder::<$Db>::new(
                "INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts,
                    max_attempts, max_duration_ms, since) ",
            );
            insert.push_values(again, |mut row, (lease, due_at, attempts)| {
                row.push_bind(lease.run_id.as_str())
                    .push_bind(lease.env.as_str())
                    .push_bind(lease.basin.as_str())
                    .push_bind(lease.lane.as_str())
                    .push_bind(lease.task.as_str())
                    .push_bind(lease.rank)
                    .push_bind(due_at)
                    .push_bind(lease.expires_at)
                    .push_bind(lease.epoch)
                    .push_bind(attempts)
                    .push_bind(lease.max_attempts)
                    .push_bind(lease.max_duration_ms)
                    .push_bind($now.millis());
            });
            insert.build().persistent(false).execute(&mut *$tx).await?;
            let mut insert = QueryBuilder::<$Db>::new(
                "INSERT INTO attempts (run_id, epoch, state, code, reason, holder, leased_at, settled_at) ",
            );
            insert.push_values(history, |mut row, (lease, verdict)| {
                row.push_bind(lease.run_id.as_str())
                    .push_bind(lease.epoch)
                    .push_bind(attempt_state(verdict.ending).word())
                    .push_bind(verdict.code.as_deref())
                    .push_bind(verdict.reason.as_deref())
                    .push_bind(lease.holder.as_str())
                    .push_bind(lease.leased_at)
                    .push_bind($now.millis());
            });
            insert.build().persistent(false).execute(&mut *$tx).await?;
        }
        Ok(done)
    }};
}

async fn settle_postgres(
    tx: &mut PgConnection,
    verdicts: &[Cow<'_, RunVerdict>],
    now: Timestamp,
) -> Result<Done, StoreError> {
    let leases: Vec<Lease> = sqlx::query_as(LEASES_POSTGRES)
        .bind(verdicts.iter().map(|verdict| verdict.run.as_str()).collect::<Vec<_>>())
        .bind(verdicts.iter().map(|verdict| verdict.epoch.number()).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
    apply!(tx, sqlx::Postgres, leases, verdicts, now, end_records_postgres)
}

async fn settle_sqlite(
    tx: &mut SqliteConnection,
    verdicts: &[Cow<'_, RunVerdict>],
    now: Timestamp,
) -> Result<Done, StoreError> {
    let mut delete = QueryBuilder::<Sqlite>::new("");
    end_leases_sqlite(&mut delete, verdicts);
    delete.push(
        " RETURNING run_id, env, basin, lane, task, rank, expires_at, epoch, attempts, max_attempts,
            max_duration_ms, holder, leased_at, cancel_requested",
    );
    let leases: Vec<Lease> = delete.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
    apply!(tx, Sqlite, leases, verdicts, now, write_ends_sqlite)
}

/// The ids alone are looked up in the table's own order; by pairs it would be walked from end to end.
fn end_leases_sqlite(delete: &mut QueryBuilder<Sqlite>, verdicts: &[Cow<'_, RunVerdict>]) {
    delete.push("DELETE FROM leases WHERE run_id IN (");
    let mut ids = delete.separated(", ");
    for verdict in verdicts {
        ids.push_bind(verdict.run.as_str());
    }
    delete.push(") AND (run_id, epoch) IN (");
    delete.push_values(verdicts, |mut pair, verdict| {
        pair.push_bind(verdict.run.as_str()).push_bind(verdict.epoch.number());
    });
    delete.push(")");
}

async fn end_records_postgres(tx: &mut PgConnection, ends: &[End<'_>], now: Timestamp) -> Result<(), StoreError> {
    macro_rules! column {
        (|$end:ident| $value:expr) => {
            ends.iter().map(|$end| $value).collect::<Vec<_>>()
        };
    }
    let done = sqlx::query(RECORDS_POSTGRES)
        .bind(column!(|end| end.lease.run_id.as_str()))
        .bind(column!(|end| end.state.word()))
        .bind(column!(|end| end.verdict.code.as_deref()))
        .bind(column!(|end| end.verdict.reason.as_deref()))
        .bind(column!(|end| end.verdict.output.as_deref()))
        .bind(column!(|end| end.lease.epoch))
        .bind(column!(|end| end.lease.attempts))
        .bind(column!(|end| end.started_at()))
        .bind(column!(|end| end.lease.env.as_str()))
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
    all_of(done.rows_affected(), ends)
}

async fn write_ends_sqlite(tx: &mut SqliteConnection, ends: &[End<'_>], now: Timestamp) -> Result<(), StoreError> {
    let mut update = QueryBuilder::<Sqlite>::new("");
    end_records_sqlite(&mut update, ends, now);
    all_of(update.build().persistent(false).execute(&mut *tx).await?.rows_affected(), ends)
}

fn end_records_sqlite(update: &mut QueryBuilder<Sqlite>, ends: &[End<'_>], now: Timestamp) {
    update.push("UPDATE run_records SET finished_at = ").push_bind(now.millis()).push(
        ", state = v.column2, code = v.column3, reason = v.column4, output = v.column5, epoch = v.column6,
            attempts = v.column7, started_at = v.column8 FROM (",
    );
    update.push_values(ends, |mut row, end| {
        row.push_bind(end.lease.run_id.as_str())
            .push_bind(end.state.word())
            .push_bind(end.verdict.code.as_deref())
            .push_bind(end.verdict.reason.as_deref())
            .push_bind(end.verdict.output.as_deref())
            .push_bind(end.lease.epoch)
            .push_bind(end.lease.attempts)
            .push_bind(end.started_at())
            .push_bind(end.lease.env.as_str());
    });
    update
        .push(") AS v WHERE run_records.env = v.column9 AND run_records.id = v.column1 AND run_records.state = 'open'");
}

/// A lease whose run is not open contradicts the model: nothing of the batch is written.
fn all_of(changed: u64, ends: &[End<'_>]) -> Result<(), StoreError> {
    if changed == ends.len() as u64 {
        return Ok(());
    }
    let id = ends.first().map(|end| end.lease.run_id.clone()).unwrap_or_default();
    Err(StoreError::Moved { entity: "run", id, now: "ended, though it was leased".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempts_end_says_what_becomes_of_its_run() {
        let due = Timestamp::from_millis(9);
        let again = |due_at, attempts| Next::Again { due_at, attempts };
        for (ending, attempts, cancel, expected) in [
            (Ending::Succeeded, 3, true, Next::End(RunState::Succeeded)),
            (Ending::Failed, 1, false, Next::End(RunState::Failed)),
            (Ending::TimedOut, 1, true, Next::End(RunState::TimedOut)),
            (Ending::Cancelled, 1, true, Next::End(RunState::Cancelled)),
            (Ending::Retry(due), 1, false, again(9, 1)),
            (Ending::Retry(Timestamp::from_millis(-9)), 1, false, again(0, 1)),
            (Ending::Retry(due), 3, false, Next::End(RunState::Failed)),
            (Ending::Retry(due), 1, true, Next::End(RunState::Cancelled)),
            (Ending::Lost, 2, false, again(0, 2)),
            (Ending::Lost, 3, false, Next::End(RunState::Failed)),
            (Ending::Lost, 1, true, Next::End(RunState::Cancelled)),
            (Ending::Declined, 3, false, again(0, 2)),
            (Ending::Declined, 1, true, Next::End(RunState::Cancelled)),
        ] {
            let (event, found) = next(ending, attempts, 3, cancel);
            assert_eq!(found, expected, "{ending:?} after {attempts}");
            let state = match found {
                Next::Again { .. } => RunState::Queued,
                Next::End(state) => state,
            };
            assert_eq!(RunState::Running.after(event), Some(state), "{ending:?} is an edge");
        }
    }
}
