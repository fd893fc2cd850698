//! What was learned about an account before money was risked on it: kinds of requests that were tried live, and
//! how much its queue takes at once.

use super::{Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{BatchId, Timestamp};

/// Where the try of a kind of request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CanaryState {
    /// Its requests are claimed, and not all answered.
    Trying,
    /// A request of the kind was carried out.
    Passed,
    /// The provider refuses such requests, in these words.
    Refused { code: String, message: String },
    /// The try told nothing: the batch itself has to.
    Unclear,
}

/// The try of a kind of request, by the pack that its runs share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    pub state: CanaryState,
    pub tried_at: Timestamp,
}

/// Begun in the transaction that claims its requests, so that a try is never begun twice at once.
pub(super) const TRY_CANARY: &str = "-- try_canary
INSERT INTO canaries (account, pack, state, batch_id, tried_at) VALUES ($1, $2, 'trying', $3, $4)
ON CONFLICT (account, pack) DO UPDATE SET state = 'trying', batch_id = excluded.batch_id, code = NULL,
    message = NULL, tried_at = excluded.tried_at";

const CANARY: &str = "-- canary
SELECT c.state, c.code, c.message, c.tried_at, b.state IN ('collected', 'abandoned') AS is_over
FROM canaries c JOIN batches b ON b.id = c.batch_id WHERE c.account = $1 AND c.pack = $2";

const CANARY_SAID: &str = "-- canary_said
UPDATE canaries SET state = $2, code = $3, message = $4, tried_at = $5 WHERE batch_id = $1 AND state = 'trying'";

const QUEUE_LIMIT: &str = "-- queue_limit
SELECT body_bytes FROM queue_limits WHERE account = $1 AND model = $2 AND learned_at >= $3";

const LEARN_QUEUE_LIMIT: &str = "-- learn_queue_limit
INSERT INTO queue_limits (account, model, body_bytes, learned_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (account, model) DO UPDATE SET body_bytes = excluded.body_bytes, learned_at = excluded.learned_at";

#[derive(sqlx::FromRow)]
struct RawCanary {
    state: String,
    code: Option<String>,
    message: Option<String>,
    tried_at: i64,
    is_over: bool,
}

impl Store {
    /// What is known of a kind of request in an account. A try that ended without a word is unclear.
    pub async fn canary(&self, account: &str, pack: &str) -> Result<Option<Canary>, StoreError> {
        let raw: Option<RawCanary> =
            on_pool!(self, |pool| sqlx::query_as(CANARY).bind(account).bind(pack).fetch_optional(pool).await?);
        Ok(raw.map(|raw| {
            let state = match (raw.state.as_str(), raw.code, raw.message) {
                ("trying", ..) if !raw.is_over => CanaryState::Trying,
                ("passed", ..) => CanaryState::Passed,
                ("refused", Some(code), Some(message)) => CanaryState::Refused { code, message },
                _ => CanaryState::Unclear,
            };
            Canary { state, tried_at: Timestamp::from_millis(raw.tried_at) }
        }))
    }

    /// Writes down what a try came to. The first word stands; `Trying` is no word.
    pub async fn canary_said(&self, batch: &BatchId, said: &CanaryState, now: Timestamp) -> Result<(), StoreError> {
        let (state, code, message) = match said {
            CanaryState::Trying => return Ok(()),
            CanaryState::Passed => ("passed", None, None),
            CanaryState::Refused { code, message } => ("refused", Some(code.as_str()), Some(message.as_str())),
            CanaryState::Unclear => ("unclear", None, None),
        };
        in_tx!(self, |tx| {
            sqlx::query(CANARY_SAID)
                .bind(batch.as_str())
                .bind(state)
                .bind(code)
                .bind(message)
                .bind(now.millis())
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// Bytes of bodies that the account's queue takes of a model, if that was learned at `since` or later.
    pub async fn queue_limit(&self, account: &str, model: &str, since: Timestamp) -> Result<Option<i64>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_scalar(QUEUE_LIMIT)
            .bind(account)
            .bind(model)
            .bind(since.millis())
            .fetch_optional(pool)
            .await?))
    }

    /// Remembers how many bytes of bodies an account's queue takes of a model.
    pub async fn learn_queue_limit(
        &self,
        account: &str,
        model: &str,
        body_bytes: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(LEARN_QUEUE_LIMIT)
                .bind(account)
                .bind(model)
                .bind(body_bytes)
                .bind(now.millis())
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
