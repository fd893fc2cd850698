//! Polls a submitted batch, and settles an ended one: every request by its own line, whatever the order, the
//! doubles and the gaps; what is settled is durable, so a download that is cut off is simply read again.

use super::drive::{CallOrStore, Drive, Step};
use super::whose::Whose;
use super::{bill, ledger, plan};
use crate::metrics::{BATCH_TURNAROUND, RESULTS_QUARANTINED, RUNS_FINISHED};
use crate::provider::request::model_of_pack;
use crate::provider::result_line::{Outcome, ResultLine, ResultLineError};
use crate::provider::{End, Polled};
use std::time::Duration;
use storage::failpoint::{Failpoint, reached};
use storage::model::{BatchState, Money, RequestState, RunState};
use storage::store::{BatchRow, Fence, Settled, Verdict};
use tracing::{info, warn};

const PER_TRANSACTION: usize = 500;
/// Looks for results that the provider's own counts promise, before their lack is believed.
const PATIENT_LOOKS: i64 = 4;
/// Looks at an id that the provider does not know, before a person is asked.
const GONE_LOOKS: i64 = 3;

/// What reading the results of a batch brought.
struct Reading {
    whose: Whose,
    lines: i64,
    /// The account, not the requests, was the problem with some of them.
    out_of_money: Option<String>,
}

impl Reading {
    fn new(whose: Whose) -> Reading {
        Reading { whose, lines: 0, out_of_money: None }
    }
}

/// Whether a line is one of this batch's.
pub(super) enum Line {
    Ours(Box<Verdict>, Option<String>),
    Foreign,
}

impl Drive {
    pub(super) async fn poll(&self, row: &BatchRow, fence: &Fence) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        let Some(id) = row.provider_batch_id.as_deref() else { return Ok(Step::Later) };
        let polled = self.provider.poll(id).await?;
        reached(Failpoint::PollAnswered);
        let wait = self.parts.settings.now().following(&row.account).poll_every;
        match polled {
            Polled::Running { status, .. } => {
                if let Some(why) = self.reason_to_stop(row).await? {
                    warn!(batch.id = %row.id, provider_batch_id = id, why, "asking the provider to stop the batch");
                    self.provider.cancel(id).await?;
                    store.cancel_asked(fence, why, store.now()).await?;
                    return Ok(Step::Taken);
                }
                store.polled(fence, row.state, &status, store.now() + wait).await?;
                Ok(Step::Later)
            }
            Polled::Ended { status, output_ref, error_ref, .. } => {
                let refs = (output_ref.as_deref(), error_ref.as_deref());
                store.ended(fence, row.state, &status, refs, store.now()).await?;
                if let Some(at) = row.submitted_at {
                    let took = store.now().since(at).as_secs_f64();
                    metrics::histogram!(BATCH_TURNAROUND, "provider" => row.provider.clone()).record(took);
                }
                Ok(Step::Taken)
            }
            Polled::Gone => {
                // An unknown id is the wrong account far more often than a lost batch; never "absent".
                if row.strikes >= GONE_LOOKS {
                    let detail = format!("account|the provider does not know batch {id} of {}", row.id);
                    self.suspend(row, &detail).await?;
                }
                self.later(fence, row.state, store.now() + wait.min(Duration::from_secs(10))).await
            }
        }
    }

    /// Why a batch that is under way should end now, so that what it has not done can be sent another way.
    async fn reason_to_stop(&self, row: &BatchRow) -> Result<Option<&'static str>, CallOrStore> {
        let store = &self.parts.store;
        if plan::is_overdue(row, store.now()) {
            return Ok(Some("past its window"));
        }
        if row.state != BatchState::Submitted {
            return Ok(None);
        }
        if row.cancel_wanted {
            return Ok(Some("somebody wanted it stopped"));
        }
        let too_late_from = store.job(&row.job).await?.and_then(|job| job.too_late_from());
        Ok(plan::is_too_late(row, too_late_from, store.now()).then_some("results are wanted sooner"))
    }

    pub(super) async fn collect(&self, row: &BatchRow, fence: &Fence) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        if row.mode.is_live() {
            return self.close_live(row, fence).await;
        }
        let Some(id) = row.provider_batch_id.as_deref() else { return Ok(Step::Later) };
        // Asked again, because how it ended may have been learned by a process that is gone.
        let Polled::Ended { end, output_ref, error_ref, .. } = self.provider.poll(id).await? else {
            return self.later(fence, BatchState::Ended, store.now() + Duration::from_secs(1)).await;
        };
        match &end {
            End::QueueFull { code } => self.queue_was_full(row, fence, code).await?,
            End::Invalid { code, message, lines } => {
                let named = |position: i64| lines.is_empty() || lines.contains(&position);
                let judge = |position| match named(position) {
                    true => (RequestState::Errored, code.clone(), message.clone()),
                    false => (RequestState::Canceled, code.clone(), message.clone()),
                };
                self.settle_open(row, fence, BatchState::Ended, judge).await?;
            }
            End::Completed { .. } | End::Expired | End::Cancelled => {
                let mut reading = Reading::new(Whose::are_the_lines_of(row, store).await?);
                let references: Vec<_> = [output_ref.as_deref(), error_ref.as_deref()].into_iter().flatten().collect();
                for (index, reference) in references.iter().enumerate() {
                    if index > 0 {
                        reached(Failpoint::CollectSecondFile);
                    }
                    if !self.read_results(row, fence, reference, &mut reading).await? {
                        return Ok(Step::Taken);
                    }
                }
                if self.promised_more(row, fence, &end, &reading).await? {
                    return self.later(fence, BatchState::Ended, store.now() + patience(row.strikes)).await;
                }
                reached(Failpoint::CollectLeftovers);
                let (verdict, code, message) = leftover(&end);
                let judge = |_| (verdict, code.to_owned(), message.to_owned());
                let without_line = self.settle_open(row, fence, BatchState::Ended, judge).await?;
                if without_line > 0 {
                    warn!(batch.id = %row.id, without_line, code, "requests of the batch got no result line");
                }
                if let Some(code) = reading.out_of_money {
                    self.suspend(row, &format!("billing|the provider answered {code} to requests of {}", row.id))
                        .await?;
                }
            }
        }
        store.collected(fence, store.now()).await?;
        info!(batch.id = %row.id, "batch collected");
        Ok(Step::Taken)
    }

    /// Settles line by line. `false` when the batch turned out not to be ours.
    async fn read_results(
        &self,
        row: &BatchRow,
        fence: &Fence,
        reference: &str,
        reading: &mut Reading,
    ) -> Result<bool, CallOrStore> {
        let mut lines = self.provider.results(reference).await?;
        reached(Failpoint::CollectOpened);
        let mut provisional = row.provisional;
        let mut verdicts = Vec::with_capacity(PER_TRANSACTION);
        while let Some(bytes) = lines.next_line().await? {
            if bytes.is_empty() {
                continue;
            }
            match self.read_line(row, &reading.whose, &bytes) {
                Ok(Line::Ours(verdict, out_of_money)) => {
                    if provisional {
                        self.parts.store.adoption_proved(fence).await?;
                        provisional = false;
                    }
                    reading.lines += 1;
                    reading.out_of_money = reading.out_of_money.take().or(out_of_money);
                    verdicts.push(*verdict);
                }
                Ok(Line::Foreign) if provisional => return self.disprove(row, fence).await,
                // Others' requests, or those that nobody here waits for.
                Ok(Line::Foreign) if row.imported => {}
                Ok(Line::Foreign) => self.quarantine(row, "its custom_id is not of this batch"),
                Err(ResultLineError::CutShort) => {
                    let host = row.provider.clone();
                    return Err(crate::provider::CallError::BadAnswer { host, expected: "a whole result line" }.into());
                }
                Err(error) => self.quarantine(row, &error.to_string()),
            }
            if reading.lines * 2 >= row.requests {
                reached(Failpoint::CollectHalf);
            }
            if verdicts.len() >= PER_TRANSACTION {
                self.settle(row, fence, BatchState::Ended, &mut verdicts).await?;
            }
        }
        self.settle(row, fence, BatchState::Ended, &mut verdicts).await?;
        Ok(true)
    }

    pub(super) async fn settle(
        &self,
        row: &BatchRow,
        fence: &Fence,
        state: BatchState,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), CallOrStore> {
        if verdicts.is_empty() {
            return Ok(());
        }
        let store = &self.parts.store;
        let settled = store.settle(fence, state, row.round, verdicts, store.now()).await?;
        count_settled(&settled);
        let positions = settled.positions.iter().copied().collect();
        self.parts.traces().ended_in(store, row, &settled.ended).await;
        self.parts.announce(settled.ended);
        bill::count(row, self.form(), verdicts, &positions);
        verdicts.clear();
        Ok(())
    }

    pub(super) fn read_line(&self, row: &BatchRow, whose: &Whose, bytes: &[u8]) -> Result<Line, ResultLineError> {
        let Ok(line) = std::str::from_utf8(bytes) else { return Err(ResultLineError::NotAnObject { column: 0 }) };
        let parsed = ResultLine::parse(self.form(), line)?;
        let Some((pos, pack)) = whose.request(row, &parsed.custom_id) else { return Ok(Line::Foreign) };
        let out_of_money = parsed.is_out_of_money();
        let code = parsed.code.as_deref().map(without_nul);
        let state = match parsed.outcome {
            // Not the request's fault: it keeps its attempt and waits for the account.
            Outcome::Errored { .. } if out_of_money => RequestState::Canceled,
            Outcome::Errored { .. } => RequestState::Errored,
            Outcome::Succeeded => RequestState::Succeeded,
            Outcome::Expired => RequestState::Expired,
            Outcome::Canceled => RequestState::Canceled,
            Outcome::Refused => RequestState::Refused,
        };
        let prices = self.parts.prices.now();
        let rates = prices.rates(model_of_pack(pack));
        let cost = match (&parsed.usage, state) {
            (Some(usage), _) => rates.map(|rates| rates.cost_in(row.mode, usage)),
            (None, RequestState::Succeeded | RequestState::Refused) => None,
            (None, _) => Some(Money::ZERO),
        };
        let shortage = if out_of_money { code.clone() } else { None };
        let id_span = parsed.custom_id_span.clone();
        Ok(Line::Ours(Box::new(Verdict { pos, state, code, cost, line: line.to_owned(), id_span }), shortage))
    }

    /// The batch that was adopted by its size carries another one's key.
    async fn disprove(&self, row: &BatchRow, fence: &Fence) -> Result<bool, CallOrStore> {
        let store = &self.parts.store;
        warn!(batch.id = %row.id, "the adopted provider batch is another one's; looking on");
        if let Some(id) = &row.provider_batch_id {
            store.adoption_disproved(fence, store.now()).await?;
            store.book_foreign(&row.id, &row.account, id, store.now()).await?;
        }
        Ok(false)
    }

    /// Whether the provider's counts promise lines that are not there yet.
    async fn promised_more(
        &self,
        row: &BatchRow,
        fence: &Fence,
        end: &End,
        reading: &Reading,
    ) -> Result<bool, CallOrStore> {
        let End::Completed { answered: Some(answered) } = end else { return Ok(false) };
        let looks = if row.output_ref.is_none() && row.error_ref.is_none() { PATIENT_LOOKS * 3 } else { PATIENT_LOOKS };
        if reading.lines >= *answered || row.strikes >= looks {
            return Ok(false);
        }
        Ok(!self.parts.store.open_positions(fence, 1).await?.is_empty())
    }

    /// Nothing was carried out, because too much was queued already: the runs wait without losing an
    /// attempt, and what is queued at once stays below what the queue was found to take.
    async fn queue_was_full(&self, row: &BatchRow, fence: &Fence, code: &str) -> Result<(), CallOrStore> {
        let store = &self.parts.store;
        let mut others = store.in_flight().await?;
        others.retain(|other| other.id != row.id);
        let queued = ledger::queued(&others, &row.account, model_of_pack(&row.pack));
        let hopeless = queued == 0 && row.requests == 1;
        let verdict = if hopeless { RequestState::Errored } else { RequestState::Canceled };
        let message = "the provider's queue has no room for this request";
        self.settle_open(row, fence, BatchState::Ended, |_| (verdict, code.to_owned(), message.to_owned())).await?;
        let learned = ledger::learned(queued, row.body_bytes);
        store.learn_queue_limit(&row.account, model_of_pack(&row.pack), learned, store.now()).await?;
        let wait = self.parts.settings.now().following(&row.account).poll_every;
        warn!(batch.id = %row.id, code, body_bytes = learned, "the provider's queue is full; less is sent at once");
        store.hold_job(&row.job, store.now() + wait, None).await?;
        Ok(())
    }

    fn quarantine(&self, row: &BatchRow, why: &str) {
        metrics::counter!(RESULTS_QUARANTINED).increment(1);
        warn!(batch.id = %row.id, why, "a result line is set aside");
    }
}

/// A machine code as every store can hold it.
fn without_nul(code: &str) -> String {
    code.replace('\0', "\u{fffd}")
}

/// What a request without a line is, by how its batch ended.
fn leftover(end: &End) -> (RequestState, &'static str, &'static str) {
    match end {
        End::Expired => {
            (RequestState::Expired, "batch_expired", "the batch expired before this request was carried out")
        }
        End::Cancelled => {
            (RequestState::Canceled, "batch_cancelled", "the batch was cancelled before this request was carried out")
        }
        End::Completed { .. } | End::Invalid { .. } | End::QueueFull { .. } => {
            (RequestState::Missing, "missing", "the batch completed without a result for this request")
        }
    }
}

fn patience(strikes: i64) -> Duration {
    Duration::from_millis(500) * (1 << strikes.clamp(0, 6))
}

/// Those that came in by a file; the others are counted where their end is told.
pub(super) fn count_settled(settled: &Settled) {
    let count = |state: RunState, runs: i64, told: usize| {
        let own = usize::try_from(runs).unwrap_or(0).saturating_sub(told);
        metrics::counter!(RUNS_FINISHED, "state" => state.word()).increment(own as u64);
    };
    let succeeded = settled.ended.iter().filter(|(_, _, state)| *state == RunState::Succeeded).count();
    count(RunState::Succeeded, settled.succeeded, succeeded);
    count(RunState::Failed, settled.failed, settled.ended.len() - succeeded);
}
