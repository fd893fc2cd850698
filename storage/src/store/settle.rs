//! Settles the requests of a batch by their own results, many per transaction, each exactly once.

use super::draw::end_drawn;
use super::submit::{Set, Step, push_sets, take_step};
use super::{CHUNK, Fence, Store, expect_one, in_tx, log_batch, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{AttemptState, BatchEvent, BatchState, Money, RequestState, RunEvent, RunId, RunState, Timestamp};
use sqlx::QueryBuilder;
use std::collections::HashMap;
use std::ops::Range;

/// What a result line, or its absence, says about one request.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Position of the request in its batch.
    pub pos: i64,
    pub state: RequestState,
    pub code: Option<String>,
    /// What it cost; `None` when its price is not known.
    pub cost: Option<Money>,
    /// The line in the provider's form; what stands at `id_span` is replaced by the caller's own id.
    pub line: String,
    pub id_span: Range<usize>,
}

/// What a settlement changed. Settling the same verdicts again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    pub succeeded: i64,
    pub failed: i64,
    pub requeued: i64,
    /// Verdicts on requests that already had one, or that the batch does not hold.
    pub ignored: i64,
    /// Positions of the requests that have their verdict by this.
    pub positions: Vec<i64>,
    /// Runs that came in over HTTP and have ended by this, each with its env.
    pub ended: Vec<(RunId, String, RunState)>,
}

/// A request that is still open, with what its run needs to be settled.
#[derive(Debug, Clone, sqlx::FromRow)]
struct OpenRequest {
    batch_pos: i64,
    run_id: String,
    epoch: i64,
    attempts: i64,
    max_attempts: i64,
    custom_id: String,
    env: Option<String>,
    cancel_requested: i64,
}

/// One run's change.
struct Change<'a> {
    request: &'a OpenRequest,
    verdict: &'a Verdict,
    run: RunState,
    attempt: AttemptState,
    attempts: i64,
}

impl Change<'_> {
    fn ended(&self) -> Option<(RunId, String, RunState)> {
        let env = self.request.env.clone().filter(|_| self.run.is_terminal())?;
        Some((RunId::from_text(self.request.run_id.as_str()), env, self.run))
    }
}

const OPEN_POSITIONS: &str = "-- open_positions
SELECT batch_pos FROM attempts WHERE batch_id = $1 AND verdict = 'open' ORDER BY batch_pos LIMIT $2";

const STILL_OPEN: &str = "-- still_open
SELECT COUNT(*) FROM attempts WHERE batch_id = $1 AND verdict = 'open'";

const SETTLE_POOL: &str = "-- settle_pool
UPDATE pools SET running = running - $2, queued = queued + $3, succeeded = succeeded + $4, failed = failed + $5,
    spent_nanos = spent_nanos + $6, unpriced = unpriced + $7
WHERE name = (SELECT pool FROM batches WHERE id = $1)";

const SETTLE_BATCH: &str = "-- settle_batch
UPDATE batches SET succeeded = succeeded + $3, errored = errored + $4, uncounted = uncounted + $5,
    spent_nanos = spent_nanos + $6
WHERE id = $1 AND epoch = $2 AND state = $7";

const RESERVED: &str = "-- reserved
SELECT reserved_nanos FROM batches WHERE id = $1";

const RELEASE_RESERVE: &str = "-- release_reserve
UPDATE pools SET reserved_nanos = reserved_nanos - $2 WHERE name = (SELECT pool FROM batches WHERE id = $1)";

impl Store {
    /// Positions of a batch's requests that have no verdict yet, at most `limit`.
    pub async fn open_positions(&self, fence: &Fence, limit: i64) -> Result<Vec<i64>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_scalar(OPEN_POSITIONS).bind(fence.batch.as_str()).bind(limit).fetch_all(pool).await?
        }))
    }

    /// Applies verdicts to a batch that is in `state` (ended; or planned, when its create was refused). Each
    /// run is settled by its own verdict (invariant 15); one that may be tried again goes back to the queue
    /// of the next round, or of this one if the try does not count.
    pub async fn settle(
        &self,
        fence: &Fence,
        state: BatchState,
        round: i64,
        verdicts: &[Verdict],
        now: Timestamp,
    ) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        for chunk in verdicts.chunks(CHUNK) {
            let part = self.settle_chunk(fence, state, round, chunk, now).await?;
            settled.succeeded += part.succeeded;
            settled.failed += part.failed;
            settled.requeued += part.requeued;
            settled.ignored += part.ignored;
            settled.positions.extend(part.positions);
            settled.ended.extend(part.ended);
        }
        Ok(settled)
    }

    async fn settle_chunk(
        &self,
        fence: &Fence,
        state: BatchState,
        round: i64,
        verdicts: &[Verdict],
        now: Timestamp,
    ) -> Result<Settled, StoreError> {
        let settled = in_tx!(self, |tx| {
            let mut select = QueryBuilder::<Db>::new(
                "SELECT a.batch_pos, a.run_id, a.epoch, r.attempts, r.max_attempts, r.custom_id, r.env,
                    r.cancel_requested
                FROM attempts a JOIN runs r ON r.id = a.run_id AND r.epoch = a.epoch
                WHERE a.verdict = 'open' AND r.state = 'running' AND a.batch_id = ",
            );
            select.push_bind(fence.batch.as_str()).push(" AND a.batch_pos IN (");
            let mut positions = select.separated(", ");
            for verdict in verdicts {
                positions.push_bind(verdict.pos);
            }
            select.push(")");
            let open: Vec<OpenRequest> = select.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
            let changes = changes(&open, verdicts);
            let tally = Tally::of(&changes);
            let done = sqlx::query(SETTLE_BATCH)
                .bind(fence.batch.as_str())
                .bind(fence.epoch.number())
                .bind(tally.request_succeeded)
                .bind(tally.request_errored)
                .bind(tally.uncounted)
                .bind(tally.spent.nanos())
                .bind(state.word())
                .execute(&mut *tx)
                .await?;
            expect_one(done.rows_affected(), "batch", fence.batch.as_str(), "elsewhere")?;
            let mut settled = tally.settled.clone();
            settled.ignored = i64::try_from(verdicts.len()).unwrap_or(i64::MAX) - tally.all();
            if changes.is_empty() {
                return Ok(settled);
            }
            let mut update = QueryBuilder::<Db>::new(
                "UPDATE attempts SET state = v.column3, verdict = v.column4, code = v.column5,
                    cost_nanos = v.column6, settled_at = v.column7 FROM (",
            );
            update.push_values(&changes, |mut row, change| {
                row.push_bind(change.request.run_id.as_str())
                    .push_bind(change.request.epoch)
                    .push_bind(change.attempt.word())
                    .push_bind(change.verdict.state.word())
                    .push_bind(change.verdict.code.as_deref())
                    .push_bind(change.verdict.cost.map(Money::nanos))
                    .push_bind(now.millis());
            });
            update.push(
                ") AS v WHERE attempts.run_id = v.column1 AND attempts.epoch = v.column2
                AND attempts.verdict = 'open' AND attempts.state IN ('leased', 'started')",
            );
            let attempts = update.build().persistent(false).execute(&mut *tx).await?.rows_affected();
            expect_one(u64::from(attempts.cast_signed() == tally.all()), "batch", fence.batch.as_str(), "settled")?;
            let mut update = QueryBuilder::<Db>::new(
                "UPDATE runs SET state = v.column3, attempts = v.column4, carrier = NULL, code = v.column5,
                    due_round = v.column6, finished_at = v.column7 FROM (",
            );
            update.push_values(&changes, |mut row, change| {
                let finished = change.run.is_terminal().then_some(now.millis());
                let due_round = round + i64::from(change.verdict.state.counts());
                row.push_bind(change.request.run_id.as_str())
                    .push_bind(change.request.epoch)
                    .push_bind(change.run.word())
                    .push_bind(change.attempts)
                    .push_bind(change.verdict.code.as_deref())
                    .push_bind(due_round)
                    .push_bind(finished);
            });
            update.push(") AS v WHERE runs.id = v.column1 AND runs.epoch = v.column2 AND runs.state = 'running'");
            let runs = update.build().persistent(false).execute(&mut *tx).await?.rows_affected();
            expect_one(u64::from(runs.cast_signed() == tally.all()), "batch", fence.batch.as_str(), "settled")?;
            let own: Vec<_> = changes.iter().filter(|change| change.verdict.state.counts()).collect();
            if !own.is_empty() {
                let mut insert = QueryBuilder::<Db>::new("INSERT INTO run_results (run_id, epoch, line) ");
                insert.push_values(own, |mut row, change| {
                    row.push_bind(change.request.run_id.as_str())
                        .push_bind(change.request.epoch)
                        .push_bind(own_line(change.verdict, &change.request.custom_id));
                });
                insert.push(
                    " ON CONFLICT (run_id) DO UPDATE SET epoch = excluded.epoch, line = excluded.line
                    WHERE run_results.epoch < excluded.epoch",
                );
                insert.build().persistent(false).execute(&mut *tx).await?;
            }
            settled.positions = changes.iter().map(|change| change.verdict.pos).collect();
            settled.ended = changes.iter().filter_map(Change::ended).collect();
            end_drawn!(tx, Db, settled.ended.iter().map(|(run, _, _)| run.as_str()).collect());
            sqlx::query(SETTLE_POOL)
                .bind(fence.batch.as_str())
                .bind(tally.all())
                .bind(settled.requeued)
                .bind(settled.succeeded)
                .bind(settled.failed)
                .bind(tally.spent.nanos())
                .bind(tally.unpriced)
                .execute(&mut *tx)
                .await?;
            reached(Failpoint::SettleOpen);
            settled
        });
        reached(Failpoint::SettleStored);
        Ok(settled)
    }

    /// Closes an ended batch whose every request has its verdict, and releases what it had reserved.
    pub async fn collected(&self, fence: &Fence, now: Timestamp) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Ended, BatchEvent::Collected, now)
            .set(Set::Int("finished_at", now.millis()))
            .set(Set::Int("reserved_nanos", 0));
        self.close_batch(fence, &step).await?;
        reached(Failpoint::CollectClosed);
        Ok(())
    }

    /// Gives a batch up whose requests have all been settled without it: nothing of it is at a provider.
    pub async fn abandoned(
        &self,
        fence: &Fence,
        from: BatchState,
        why: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let step = Step::new(from, BatchEvent::Abandoned, now)
            .set(Set::Int("finished_at", now.millis()))
            .set(Set::Int("reserved_nanos", 0))
            .set(Set::Text("reason", why.to_owned()))
            .with(serde_json::json!({ "why": why }));
        self.close_batch(fence, &step).await
    }

    async fn close_batch(&self, fence: &Fence, step: &Step) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            let open: i64 = sqlx::query_scalar(STILL_OPEN).bind(fence.batch.as_str()).fetch_one(&mut *tx).await?;
            expect_one(u64::from(open == 0), "batch", fence.batch.as_str(), "holding open requests")?;
            let reserved: Option<i64> =
                sqlx::query_scalar(RESERVED).bind(fence.batch.as_str()).fetch_optional(&mut *tx).await?;
            // The batch before its pool, in the order in which a settlement locks them.
            take_step!(tx, fence, step);
            sqlx::query(RELEASE_RESERVE)
                .bind(fence.batch.as_str())
                .bind(reserved.unwrap_or(0))
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}

/// The result line with the caller's own id in place of the one that was on the wire; else byte for byte.
fn own_line(verdict: &Verdict, custom_id: &str) -> String {
    let id = serde_json::Value::from(custom_id).to_string();
    if verdict.line.get(verdict.id_span.clone()).is_none() {
        return verdict.line.clone();
    }
    [&verdict.line[..verdict.id_span.start], &id, &verdict.line[verdict.id_span.end..]].concat()
}

/// Joins verdicts and open requests by position; the first verdict on a request wins.
fn changes<'a>(open: &'a [OpenRequest], verdicts: &'a [Verdict]) -> Vec<Change<'a>> {
    let mut by_position: HashMap<i64, &OpenRequest> = open.iter().map(|request| (request.batch_pos, request)).collect();
    let mut changes = Vec::with_capacity(open.len());
    for verdict in verdicts {
        let Some(request) = by_position.remove(&verdict.pos) else { continue };
        let Some(attempt) = attempt_after(verdict.state) else { continue };
        let (event, attempts) = next_of_run(verdict.state, request.attempts, request.max_attempts);
        // A cancel that was asked for meanwhile is obeyed before the next try.
        let event =
            if event == RunEvent::Requeued && request.cancel_requested != 0 { RunEvent::Cancelled } else { event };
        let Some(run) = RunState::Running.after(event) else { continue };
        changes.push(Change { request, verdict, run, attempt, attempts });
    }
    changes
}

/// The attempt's end. One that was refused at the create has been started by that very create.
fn attempt_after(verdict: RequestState) -> Option<AttemptState> {
    verdict.attempt_event().and_then(|event| AttemptState::Started.after(event))
}

/// What a verdict means for its run, and how many of its attempts are then used up. A refusal is a paid
/// answer that would come again, so it is not tried again.
fn next_of_run(verdict: RequestState, attempts: i64, max_attempts: i64) -> (RunEvent, i64) {
    match verdict {
        RequestState::Succeeded => (RunEvent::Finished, attempts),
        RequestState::Refused => (RunEvent::GaveUp, attempts),
        RequestState::Errored | RequestState::Expired | RequestState::Missing if attempts >= max_attempts => {
            (RunEvent::GaveUp, attempts)
        }
        RequestState::Errored | RequestState::Expired | RequestState::Missing => (RunEvent::Requeued, attempts),
        RequestState::Canceled | RequestState::Open => (RunEvent::Requeued, (attempts - 1).max(0)),
    }
}

/// Sums over one chunk of changes.
#[derive(Default)]
struct Tally {
    settled: Settled,
    request_succeeded: i64,
    request_errored: i64,
    uncounted: i64,
    unpriced: i64,
    spent: Money,
}

impl Tally {
    fn of(changes: &[Change<'_>]) -> Tally {
        let mut tally = Tally::default();
        for change in changes {
            match change.run {
                RunState::Succeeded => tally.settled.succeeded += 1,
                RunState::Queued => tally.settled.requeued += 1,
                RunState::Failed | RunState::Cancelled => tally.settled.failed += 1,
                RunState::Buffered | RunState::Delayed | RunState::Running => {}
                RunState::TimedOut | RunState::Expired => {}
            }
            match change.verdict.state {
                RequestState::Succeeded => tally.request_succeeded += 1,
                state if state.counts() => tally.request_errored += 1,
                _ => tally.uncounted += 1,
            }
            match change.verdict.cost {
                Some(cost) => tally.spent += cost,
                None => tally.unpriced += 1,
            }
        }
        tally
    }

    fn all(&self) -> i64 {
        self.settled.succeeded + self.settled.requeued + self.settled.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errored_expired_refused_and_missing_use_up_an_attempt_and_canceled_does_not() {
        use RequestState::*;
        for (verdict, attempts, event, left) in [
            (Succeeded, 1, RunEvent::Finished, 1),
            (Errored, 1, RunEvent::Requeued, 1),
            (Expired, 2, RunEvent::Requeued, 2),
            (Missing, 2, RunEvent::Requeued, 2),
            (Errored, 3, RunEvent::GaveUp, 3),
            (Expired, 3, RunEvent::GaveUp, 3),
            (Missing, 3, RunEvent::GaveUp, 3),
            (Refused, 1, RunEvent::GaveUp, 1),
            (Canceled, 3, RunEvent::Requeued, 2),
        ] {
            assert_eq!(next_of_run(verdict, attempts, 3), (event, left), "{verdict}");
        }
    }

    #[test]
    fn a_line_gets_the_callers_id_and_keeps_every_other_byte() {
        let line = r#"{"custom_id":"k-1-7", "response":{"x":1.50}}"#.to_owned();
        let start = line.find("\"k-1-7\"").expect("it is there");
        let verdict =
            Verdict { pos: 7, state: RequestState::Succeeded, code: None, cost: None, id_span: start..start + 7, line };
        assert_eq!(own_line(&verdict, "a \"b\""), r#"{"custom_id":"a \"b\"", "response":{"x":1.50}}"#);
    }
}
