//! Upload and create: the hard edge. A create is sent once; its answer decides, or nothing does.

use super::drive::{CallOrStore, Drive, Step};
use super::plan::{self, Refusal};
use crate::metrics::BATCH_CREATES;
use crate::provider::result_line::{Form, ResultLine, synthetic_line};
use crate::provider::{CallError, Created, Manifest, Protocol};
use crate::traces::BatchTrace;
use std::time::Duration;
use storage::model::{BatchState, Money, RequestState};
use storage::store::{BatchRow, Fence, Verdict};
use tracing::{info, warn};

/// How soon to ask again whether the lane is free.
const LANE_RETRY: Duration = Duration::from_millis(250);

impl Drive {
    /// Uploads the input file under a name that only this create uses. A file that a crash leaked is
    /// deleted first: nothing runs by a file that no batch names.
    pub(super) async fn upload(&self, row: &BatchRow, fence: &Fence, leaked: bool) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        if let Some(step) = self.give_up_refused(row, fence).await? {
            return Ok(step);
        }
        let name = file_name(row);
        if leaked {
            for file in self.provider.files_named(&name).await? {
                self.provider.delete_file(&file).await?;
            }
        } else {
            store.upload_started(fence, store.now()).await?;
        }
        let file = self.provider.upload(&name, &Manifest { store, batch: row, trace: None }).await?;
        store.file_stored(fence, &file).await?;
        Ok(Step::Taken)
    }

    /// Sends the create. Where the listing can tell two creates apart by their size only, one at a time.
    pub(super) async fn create(&self, row: &BatchRow, fence: &Fence) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        if let Some(step) = self.give_up_refused(row, fence).await? {
            return Ok(step);
        }
        let by_size = self.provider.protocol() == Protocol::Anthropic;
        let _lane = if by_size { Some(self.parts.lane.lock().await) } else { None };
        if by_size && store.lane_is_busy(&row.account, &row.id).await? {
            return self.later(fence, BatchState::Planned, store.now() + LANE_RETRY).await;
        }
        let cursor = self.provider.newest().await?;
        store.arm(fence, cursor.as_deref(), store.now()).await?;
        // Clocks of two nodes may be apart by a little.
        let margin = self.parts.settings.now().lease / 8;
        let committed = Box::new(move || {
            Box::pin(async move {
                // As it is before the commit: a lease that is renewed after it has lapsed says nothing of what others
                // have done with the batch meanwhile.
                let held_until = store.lease_ends().saturating_sub(margin);
                store.commit_create(fence, store.now()).await?;
                Ok(held_until)
            }) as futures_util::future::BoxFuture<'_, _>
        });
        let traces = self.parts.traces();
        let trace = traces.create(store, row).await;
        let manifest = Manifest { store, batch: row, trace: trace.as_ref().map(BatchTrace::header) };
        let created = self.provider.create(&manifest, row.input_file_id.as_deref(), committed).await;
        traces.created(trace, row, &created, store.now());
        match created {
            Created::Accepted { id } => {
                count("accepted");
                store.accepted(fence, &id, store.now()).await?;
                info!(batch.id = %row.id, provider_batch_id = id, requests = row.requests, "batch submitted");
                Ok(Step::Taken)
            }
            Created::Unclear { why } => {
                count("unclear");
                self.mark_unknown(fence, &why.to_string()).await
            }
            Created::NotTaken { committed, why } => {
                count("refused");
                self.not_taken(row, fence, committed, why).await
            }
            Created::Store(error) => Err(error.into()),
        }
    }

    /// The provider has nothing of it. What that means for the batch depends on why.
    async fn not_taken(
        &self,
        row: &BatchRow,
        fence: &Fence,
        committed: bool,
        why: CallError,
    ) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        warn!(batch.id = %row.id, %why, "the provider did not take the batch");
        let code = match &why {
            CallError::Status { code, .. } => code.clone(),
            _ => None,
        };
        let next_at = self.after_strikes(row, &why);
        if committed {
            store.declined(fence, &why.to_string(), next_at, store.now()).await?;
        }
        match plan::refusal(why.status(), code.as_deref()) {
            Refusal::TooFast | Refusal::Unreachable => {}
            Refusal::Account => self.suspend(row, &format!("account|{why}")).await?,
            Refusal::Billing => self.suspend(row, &format!("billing|{why}")).await?,
            Refusal::TooLarge if row.requests > 1 => {
                store.hold_job(&row.job, store.now(), Some(row.requests / 2)).await?;
                return self.give_up(row, fence, RequestState::Canceled, "too_large", &why.to_string()).await;
            }
            Refusal::TooLarge | Refusal::Invalid => {
                let code = code.as_deref().unwrap_or("invalid_request");
                return self.give_up(row, fence, RequestState::Errored, code, &why.to_string()).await;
            }
        }
        if committed {
            return Ok(Step::Later);
        }
        self.later(fence, BatchState::Planned, next_at).await
    }

    /// Settles all requests of a batch that the provider will not take, and abandons it.
    pub(super) async fn give_up(
        &self,
        row: &BatchRow,
        fence: &Fence,
        verdict: RequestState,
        code: &str,
        why: &str,
    ) -> Result<Step, CallOrStore> {
        self.settle_open(row, fence, BatchState::Planned, |_| (verdict, code.to_owned(), why.to_owned())).await?;
        self.parts.store.abandoned(fence, BatchState::Planned, why, self.parts.store.now()).await?;
        Ok(Step::Taken)
    }

    /// Gives every request that is still open the verdict that `judge` finds for its position.
    pub(super) async fn settle_open<F>(
        &self,
        row: &BatchRow,
        fence: &Fence,
        state: BatchState,
        judge: F,
    ) -> Result<i64, CallOrStore>
    where
        F: Fn(i64) -> (RequestState, String, String),
    {
        let store = &self.parts.store;
        let mut settled = 0;
        loop {
            let open = store.open_positions(fence, 500).await?;
            if open.is_empty() {
                return Ok(settled);
            }
            let verdicts: Vec<_> = open
                .iter()
                .map(|position| {
                    let (verdict, code, message) = judge(*position);
                    own_verdict(self.form(), *position, verdict, &code, &message)
                })
                .collect();
            let done = store.settle(fence, state, row.round, &verdicts, store.now()).await?;
            super::collect::count_settled(&done);
            self.parts.traces().ended_in(store, row, &done.ended).await;
            self.parts.announce(done.ended);
            settled += i64::try_from(open.len()).unwrap_or(i64::MAX);
        }
    }

    pub(super) fn form(&self) -> Form {
        Form::of(self.provider.protocol())
    }
}

/// What the input file of the current create is called, and no other.
pub(super) fn file_name(row: &BatchRow) -> String {
    format!("tidegate-{}.jsonl", row.create_key())
}

/// A verdict that no result line brought and that cost nothing, with a line in the provider's own error form.
pub(super) fn own_verdict(form: Form, pos: i64, state: RequestState, code: &str, message: &str) -> Verdict {
    let line = synthetic_line(form, "x", code, message);
    let id_span = ResultLine::parse(form, &line).map(|parsed| parsed.custom_id_span).unwrap_or_default();
    Verdict { pos, state, code: Some(code.to_owned()), cost: Some(Money::ZERO), line, id_span }
}

fn count(outcome: &'static str) {
    metrics::counter!(BATCH_CREATES, "outcome" => outcome).increment(1);
}
