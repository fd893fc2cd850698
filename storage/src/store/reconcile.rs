//! What is written while it is unknown whether a provider took a batch, and about batches it took twice.

use super::submit::{Set, Step, push_sets, take_step};
use super::{Fence, Store, expect_one, in_tx, log_batch, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{BatchEvent, BatchId, BatchState, Timestamp};
use sqlx::QueryBuilder;

/// A provider batch that carries our key and is not the one we hold.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Stray {
    pub account: String,
    pub provider_batch_id: String,
    pub batch_id: String,
    pub requests: i64,
    pub state: String,
}

const BOOK_STRAY: &str = "-- book_stray
INSERT INTO strays (account, provider_batch_id, batch_id, requests, state, found_at)
VALUES ($1, $2, $3, $4, 'found', $5) ON CONFLICT (account, provider_batch_id) DO NOTHING";

const BOOK_FOREIGN: &str = "-- book_foreign
INSERT INTO strays (account, provider_batch_id, batch_id, requests, state, found_at)
VALUES ($1, $2, $3, 0, 'foreign', $4) ON CONFLICT (account, provider_batch_id) DO NOTHING";

const STRAY_CANCELLED: &str = "-- stray_cancelled
UPDATE strays SET state = 'cancelled' WHERE account = $1 AND provider_batch_id = $2 AND state = 'found'";

const STRAYS: &str = "-- strays
SELECT account, provider_batch_id, batch_id, requests, state FROM strays WHERE batch_id = $1
ORDER BY provider_batch_id";

const OPEN_STRAYS: &str = "-- open_strays
SELECT account, provider_batch_id, batch_id, requests, state FROM strays WHERE account = $1 AND state = 'found'
ORDER BY provider_batch_id";

impl Store {
    /// The provider has it after all. `provisional` when only its size says so and its results must confirm.
    pub async fn found(
        &self,
        fence: &Fence,
        provider_id: &str,
        provisional: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Unknown, BatchEvent::Found, now)
            .set(Set::Text("provider_batch_id", provider_id.to_owned()))
            .set(Set::Int("provisional", i64::from(provisional)))
            .set(Set::Int("submitted_at", now.millis()))
            .set(Set::Int("strikes", 0))
            .set(Set::Int("next_at", now.millis()))
            .with(serde_json::json!({ "provider_batch_id": provider_id, "provisional": provisional }));
        self.start(fence, &step).await?;
        reached(Failpoint::ReconcileAdopted);
        Ok(())
    }

    /// The create that the provider has is a later one than this store knows of, which is a copy. Before `found`.
    pub async fn created_as(&self, fence: &Fence, create_no: i64) -> Result<(), StoreError> {
        self.amend(fence, BatchState::Unknown, &[Set::Int("create_no", create_no)]).await
    }

    /// Writes down the first look that did not show the batch; a second one, later, may prove its absence.
    pub async fn first_absence(&self, fence: &Fence, now: Timestamp, next_at: Timestamp) -> Result<(), StoreError> {
        let sets = [Set::Int("first_absent_at", now.millis()), Set::Int("next_at", next_at.millis())];
        self.amend(fence, BatchState::Unknown, &sets).await?;
        reached(Failpoint::ReconcileFirstAbsence);
        Ok(())
    }

    /// Records the proof and frees the batch to be created again, under a new key and with a new file.
    pub async fn absence_proven(
        &self,
        fence: &Fence,
        first_absent_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Unknown, BatchEvent::AbsenceProven, now)
            .set(Set::Increment("create_no"))
            .set(Set::Null("input_file_id"))
            .set(Set::Null("upload_started_at"))
            .set(Set::Null("intent_at"))
            .set(Set::Null("first_absent_at"))
            .set(Set::Null("reason"))
            .set(Set::Int("strikes", 0))
            .set(Set::Int("next_at", now.millis()))
            .with(serde_json::json!({ "absent_at": [first_absent_at.millis(), now.millis()] }));
        in_tx!(self, |tx| take_step!(tx, fence, &step));
        reached(Failpoint::ReconcileCleared);
        Ok(())
    }

    /// The adopted provider batch carries another batch's key: undo the adoption and look on.
    pub async fn adoption_disproved(&self, fence: &Fence, now: Timestamp) -> Result<(), StoreError> {
        let step = Step::new(BatchState::Ended, BatchEvent::AdoptionDisproved, now)
            .set(Set::Null("provider_batch_id"))
            .set(Set::Int("provisional", 0))
            .set(Set::Null("submitted_at"))
            .set(Set::Null("output_ref"))
            .set(Set::Null("error_ref"))
            .set(Set::Null("ended_at"))
            .set(Set::Null("first_absent_at"))
            .set(Set::Int("next_at", now.millis()));
        in_tx!(self, |tx| take_step!(tx, fence, &step));
        Ok(())
    }

    /// Its results carry our key: the adoption is certain.
    pub async fn adoption_proved(&self, fence: &Fence) -> Result<(), StoreError> {
        self.amend(fence, BatchState::Ended, &[Set::Int("provisional", 0)]).await
    }

    /// Books a provider batch that duplicates one of ours; booking it again changes nothing.
    pub async fn book_stray(
        &self,
        batch: &BatchId,
        account: &str,
        provider_id: &str,
        requests: i64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let booked = in_tx!(self, |tx| {
            sqlx::query(BOOK_STRAY)
                .bind(account)
                .bind(provider_id)
                .bind(batch.as_str())
                .bind(requests)
                .bind(now.millis())
                .execute(&mut *tx)
                .await?
                .rows_affected()
        });
        Ok(booked == 1)
    }

    /// Remembers that a provider batch, once taken for `batch`, is somebody else's.
    pub async fn book_foreign(
        &self,
        batch: &BatchId,
        account: &str,
        provider_id: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(BOOK_FOREIGN)
                .bind(account)
                .bind(provider_id)
                .bind(batch.as_str())
                .bind(now.millis())
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    pub async fn stray_cancelled(&self, account: &str, provider_id: &str) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(STRAY_CANCELLED).bind(account).bind(provider_id).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The duplicates known of one batch.
    pub async fn strays(&self, batch: &BatchId) -> Result<Vec<Stray>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(STRAYS).bind(batch.as_str()).fetch_all(pool).await?))
    }

    /// Duplicates that are booked but not cancelled yet.
    pub async fn open_strays(&self, account: &str) -> Result<Vec<Stray>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(OPEN_STRAYS).bind(account).fetch_all(pool).await?))
    }
}
