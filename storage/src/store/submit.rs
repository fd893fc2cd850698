//! The submit protocol's writes. Each names the state and the epoch that it expects, appends its event in the
//! same transaction, and answers `Moved` when the batch is no longer there: then somebody else acts for it.

use super::timeline::refuse_in_doubt;
use super::{Store, expect_one, in_tx, log_batch};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{BatchEvent, BatchId, BatchState, Epoch, Timestamp};
use sqlx::QueryBuilder;

/// The right to write a batch: its id and the epoch under which it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub batch: BatchId,
    pub epoch: Epoch,
}

/// A column and its new value.
#[derive(Debug, Clone)]
pub(super) enum Set {
    Int(&'static str, i64),
    Text(&'static str, String),
    MaybeText(&'static str, Option<String>),
    Null(&'static str),
    Increment(&'static str),
}

/// One legal move of a batch with what it writes.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub from: BatchState,
    pub event: BatchEvent,
    pub sets: Vec<Set>,
    pub data: serde_json::Value,
    pub now: Timestamp,
}

impl Step {
    pub(super) fn new(from: BatchState, event: BatchEvent, now: Timestamp) -> Step {
        Step { from, event, sets: Vec::new(), data: serde_json::json!({}), now }
    }

    pub(super) fn set(mut self, set: Set) -> Step {
        self.sets.push(set);
        self
    }

    pub(super) fn with(mut self, data: serde_json::Value) -> Step {
        self.data = data;
        self
    }
}

/// Writes assignments; column names are ours, values are bound.
macro_rules! push_sets {
    ($query:ident, $sets:expr) => {
        for set in $sets {
            match set {
                Set::Int(column, value) => $query.push(", ").push(column).push(" = ").push_bind(*value),
                Set::Text(column, value) => $query.push(", ").push(column).push(" = ").push_bind(value.clone()),
                Set::MaybeText(column, value) => $query.push(", ").push(column).push(" = ").push_bind(value.clone()),
                Set::Null(column) => $query.push(", ").push(column).push(" = NULL"),
                Set::Increment(column) => $query.push(", ").push(column).push(" = ").push(column).push(" + 1"),
            };
        }
    };
}

/// Carries out a `Step` inside an open transaction.
macro_rules! take_step {
    ($tx:ident, $fence:expr, $step:expr) => {{
        let (fence, step): (&Fence, &Step) = ($fence, $step);
        let to = step.from.after(step.event).ok_or_else(|| fence.moved(step.from))?;
        let mut update = QueryBuilder::<Db>::new("UPDATE batches SET state = ");
        update.push_bind(to.word());
        push_sets!(update, &step.sets);
        update.push(" WHERE id = ").push_bind(fence.batch.as_str());
        update.push(" AND epoch = ").push_bind(fence.epoch.number());
        update.push(" AND state = ").push_bind(step.from.word());
        let done = update.build().persistent(false).execute(&mut *$tx).await?;
        expect_one(done.rows_affected(), "batch", fence.batch.as_str(), "elsewhere")?;
        log_batch!($tx, fence.batch.as_str(), step.now, fence.epoch, step.event.word(), step.data.to_string());
    }};
}

pub(super) use {push_sets, take_step};

const START_ATTEMPTS: &str = "-- start_attempts
UPDATE attempts SET state = 'started' WHERE batch_id = $1 AND state = 'leased'";

impl Fence {
    pub(super) fn moved(&self, from: BatchState) -> StoreError {
        StoreError::Moved { entity: "batch", id: self.batch.to_string(), now: from.word().to_owned() }
    }
}

const WANT_CANCEL: &str = "-- want_cancel
UPDATE batches SET cancel_wanted = 1, next_at = $2 WHERE id = $1 AND state = 'submitted' AND mode = 'batch'
    AND cancel_wanted = 0
RETURNING epoch";

impl Store {
    /// Marks that the next thing is an upload, so that a leaked file is looked for after a crash.
    pub async fn upload_started(&self, fence: &Fence, now: Timestamp) -> Result<(), StoreError> {
        self.amend(fence, BatchState::Planned, &[Set::Int("upload_started_at", now.millis())]).await?;
        reached(Failpoint::UploadMarked);
        Ok(())
    }

    /// Stores the input file's id: from here on the file is the batch's key and fence.
    pub async fn file_stored(&self, fence: &Fence, file_id: &str) -> Result<(), StoreError> {
        self.amend(fence, BatchState::Planned, &[Set::Text("input_file_id", file_id.to_owned())]).await?;
        reached(Failpoint::UploadStored);
        Ok(())
    }

    /// Writes when the create was intended and what the newest batch of its lane was, before its first byte.
    pub async fn arm(&self, fence: &Fence, lane_cursor: Option<&str>, now: Timestamp) -> Result<(), StoreError> {
        let sets = [Set::Int("intent_at", now.millis()), Set::MaybeText("lane_cursor", lane_cursor.map(str::to_owned))];
        self.amend(fence, BatchState::Planned, &sets).await?;
        reached(Failpoint::CreateArmed);
        Ok(())
    }

    /// Makes the create durable as intended; only after this may its last byte leave.
    pub async fn commit_create(&self, fence: &Fence, now: Timestamp) -> Result<(), StoreError> {
        reached(Failpoint::CreateBeforeCommit);
        let step = Step::new(BatchState::Planned, BatchEvent::Committed, now);
        in_tx!(self, |tx| {
            refuse_in_doubt!(self, tx);
            take_step!(tx, fence, &step)
        });
        reached(Failpoint::CreateCommitted);
        Ok(())
    }

    /// The provider answered with an id.
    pub async fn accepted(&self, fence: &Fence, provider_id: &str, now: Timestamp) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Submitting, BatchEvent::Accepted, now)
            .set(Set::Text("provider_batch_id", provider_id.to_owned()))
            .set(Set::Int("submitted_at", now.millis()))
            .set(Set::Int("strikes", 0))
            .with(serde_json::json!({ "provider_batch_id": provider_id }));
        self.start(fence, &step).await?;
        reached(Failpoint::CreateStored);
        Ok(())
    }

    /// The provider answered that it took nothing: the create may be repeated at `next_at`.
    pub async fn declined(
        &self,
        fence: &Fence,
        why: &str,
        next_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Submitting, BatchEvent::Declined, now)
            .set(Set::Int("next_at", next_at.millis()))
            .set(Set::Text("reason", why.to_owned()))
            .set(Set::Increment("strikes"))
            .with(serde_json::json!({ "why": why }));
        in_tx!(self, |tx| take_step!(tx, fence, &step));
        Ok(())
    }

    /// Whether the provider took the batch is not known; from here only evidence leads on (invariant 13).
    pub async fn answer_lost(&self, fence: &Fence, why: &str, now: Timestamp) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Submitting, BatchEvent::AnswerLost, now)
            .set(Set::Text("reason", why.to_owned()))
            .set(Set::Int("strikes", 0))
            .set(Set::Int("next_at", now.millis()))
            .with(serde_json::json!({ "why": why }));
        in_tx!(self, |tx| take_step!(tx, fence, &step));
        reached(Failpoint::ReconcileUnknown);
        Ok(())
    }

    /// Remembers when to look at the batch again, and counts the look.
    pub async fn look_again(&self, fence: &Fence, state: BatchState, next_at: Timestamp) -> Result<(), StoreError> {
        self.amend(fence, state, &[Set::Int("next_at", next_at.millis()), Set::Increment("strikes")]).await
    }

    /// Asked the provider to stop it; what was finished before is still delivered.
    pub async fn cancel_asked(&self, fence: &Fence, why: &str, now: Timestamp) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Submitted, BatchEvent::CancelAsked, now)
            .set(Set::Text("reason", why.to_owned()))
            .with(serde_json::json!({ "why": why }));
        in_tx!(self, |tx| take_step!(tx, fence, &step));
        Ok(())
    }

    /// Wants a batch to be stopped at its provider: whoever follows it asks there at its next look, which is now. Needs
    /// no hold on it. `false` when the provider does not have it, or has ended it.
    pub async fn want_cancel(&self, batch: &BatchId, now: Timestamp) -> Result<bool, StoreError> {
        let wanted = in_tx!(self, |tx| {
            let epoch: Option<i64> = sqlx::query_scalar(WANT_CANCEL)
                .bind(batch.as_str())
                .bind(now.millis())
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(epoch) = epoch.map(Epoch::from_number) {
                log_batch!(tx, batch.as_str(), now, epoch, "cancel_wanted", "{}");
            }
            epoch.is_some()
        });
        Ok(wanted)
    }

    /// Stores the provider's latest word on a batch that is still under way.
    pub async fn polled(
        &self,
        fence: &Fence,
        state: BatchState,
        provider_status: &str,
        next_at: Timestamp,
    ) -> Result<(), StoreError> {
        let sets = [
            Set::Text("provider_status", provider_status.to_owned()),
            Set::Int("next_at", next_at.millis()),
            Set::Int("strikes", 0),
        ];
        self.amend(fence, state, &sets).await
    }

    /// The provider reports a final status and where the results are.
    pub async fn ended(
        &self,
        fence: &Fence,
        from: BatchState,
        provider_status: &str,
        (output_ref, error_ref): (Option<&str>, Option<&str>),
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let step = Step::new(from, BatchEvent::Ended, now)
            .set(Set::Text("provider_status", provider_status.to_owned()))
            .set(Set::MaybeText("output_ref", output_ref.map(str::to_owned)))
            .set(Set::MaybeText("error_ref", error_ref.map(str::to_owned)))
            .set(Set::Int("ended_at", now.millis()))
            .set(Set::Int("strikes", 0))
            .set(Set::Int("next_at", now.millis()))
            .with(serde_json::json!({ "provider_status": provider_status }));
        in_tx!(self, |tx| take_step!(tx, fence, &step));
        reached(Failpoint::PollEndedStored);
        Ok(())
    }

    /// A move after which the provider has the batch: its attempts have started.
    pub(super) async fn start(&self, fence: &Fence, step: &Step) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            take_step!(tx, fence, step);
            sqlx::query(START_ATTEMPTS).bind(fence.batch.as_str()).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Writes columns of a batch that stays in its state.
    pub(super) async fn amend(&self, fence: &Fence, state: BatchState, sets: &[Set]) -> Result<(), StoreError> {
        if state.is_terminal() {
            return Err(fence.moved(state));
        }
        let changed = in_tx!(self, |tx| {
            let mut update = QueryBuilder::<Db>::new("UPDATE batches SET state = state");
            push_sets!(update, sets);
            update.push(" WHERE id = ").push_bind(fence.batch.as_str());
            update.push(" AND epoch = ").push_bind(fence.epoch.number());
            update.push(" AND state = ").push_bind(state.word());
            update.build().persistent(false).execute(&mut *tx).await?.rows_affected()
        });
        expect_one(changed, "batch", fence.batch.as_str(), "elsewhere")
    }
}
