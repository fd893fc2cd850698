//! Accepting a batch, or not: where the create faults strike.
//!
//! A create is subject to at most one fault of its answer, and its batch to at most one fate, each the
//! first in the documented order that still has something to do. Both are used up in the journal line
//! that accepts the batch.

use serde_json::{Map, Value};

use super::account::{Account, Batch};
use super::error::ApiError;
use super::event::{Accepted, Answer, Dialect, Event, Fate};
use super::faults::{Faults, rate};
use super::ids;
use super::world::{World, held};

/// A create that passed the vendor's checks.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub id: String,
    pub dialect: Dialect,
    pub endpoint: String,
    pub requests: u64,
    pub input_file: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    pub version: Option<String>,
}

/// What happens to the caller of an accepted create.
#[derive(Debug)]
pub(super) enum Created {
    Answered { batch: Batch, stall_ms: u64 },
    Lost,
    Failed { stall_ms: u64 },
    Delayed { draft: Draft, after_ms: u64 },
}

/// What strikes a create, and the switch that is used up by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Answer(Answer, Option<&'static str>),
    RateLimit,
    Overload,
    SpendLimit,
}

impl World {
    /// Decides about a create POST; `check` tells what is wrong with it, seeing the account as it is.
    pub fn create(
        &self,
        account_id: &str,
        dialect: Dialect,
        check: impl FnOnce(&Account) -> Result<Draft, ApiError>,
    ) -> Result<Created, ApiError> {
        let shared = self.account(account_id);
        let mut account = held(&shared);
        let faults = self.faults(&account);
        let broken = |error| ApiError::broken(dialect, &error);
        let (verdict, used) = match strike(&account, &faults) {
            // A create that is refused for itself uses nothing up.
            Strike::Answer(answer, used) => match check(&account) {
                Ok(draft) => (Ok((answer, draft)), used),
                Err(error) => (Err(error), None),
            },
            Strike::RateLimit => (Err(ApiError::rate_limited(dialect)), Some("rate_limits")),
            Strike::Overload => (Err(ApiError::overloaded(dialect)), Some("overloads")),
            Strike::SpendLimit => (Err(ApiError::spend_limit(dialect)), None),
        };
        let at_ms = ids::now_ms();
        let mut used: Vec<String> = used.map(str::to_owned).into_iter().collect();
        let without_batch = |answer, faults| Event::Create { at_ms, answer, faults, batch: None };
        let (answer, draft) = match verdict {
            Ok((Answer::Delayed, draft)) => {
                let event = without_batch(Answer::Delayed, used);
                self.record(account_id, &mut account, event).map_err(broken)?;
                let after_ms = faults.accept_delay_ms.unwrap_or_default();
                return Ok(Created::Delayed { draft, after_ms });
            }
            Ok(accepted) => accepted,
            Err(refusal) => {
                let event = without_batch(Answer::Refused, used);
                self.record(account_id, &mut account, event).map_err(broken)?;
                return Err(refusal);
            }
        };
        let stall_ms = faults.stall_ms.unwrap_or_default();
        let id = draft.id.clone();
        let accepted = self.accept(&account, draft, answer, faults, &mut used);
        let batch = Some(Box::new(accepted));
        let event = Event::Create { at_ms, answer, faults: used, batch };
        self.record(account_id, &mut account, event).map_err(broken)?;
        let batch = account.batch(&id, dialect).cloned().ok_or_else(|| ApiError::internal(dialect))?;
        Ok(match answer {
            Answer::Lost => Created::Lost,
            Answer::Error => Created::Failed { stall_ms },
            Answer::Delivered | Answer::Delayed | Answer::Refused => Created::Answered { batch, stall_ms },
        })
    }

    /// Accepts a delayed create, unless its input is gone by now; tells whether it did.
    pub fn straggle(&self, account_id: &str, draft: Draft) -> Result<bool, ApiError> {
        let shared = self.account(account_id);
        let mut account = held(&shared);
        if draft.input_file.as_deref().is_some_and(|input| account.file(input).is_none()) {
            return Ok(false);
        }
        let faults = self.faults(&account);
        let dialect = draft.dialect;
        let mut used = Vec::new();
        let accepted = self.accept(&account, draft, Answer::Delayed, faults, &mut used);
        let event = Event::Straggled { batch: Box::new(accepted), faults: used };
        self.record(account_id, &mut account, event).map_err(|error| ApiError::broken(dialect, &error))?;
        Ok(true)
    }

    fn accept(
        &self,
        account: &Account,
        draft: Draft,
        answer: Answer,
        faults: Faults,
        used: &mut Vec<String>,
    ) -> Accepted {
        let (fate, switch) = fate(account, &faults, &draft);
        used.extend(switch.map(str::to_owned));
        Accepted {
            id: draft.id,
            dialect: draft.dialect,
            at_ms: ids::now_ms(),
            endpoint: draft.endpoint,
            requests: draft.requests,
            input_file: draft.input_file,
            metadata: draft.metadata,
            version: draft.version,
            latency_ms: faults.latency_ms.unwrap_or(self.latency_ms),
            fate,
            answer,
            seed: ids::seed(),
            faults,
        }
    }
}

fn strike(account: &Account, faults: &Faults) -> Strike {
    if account.has_left("lose_answers", faults.lose_answers) {
        return Strike::Answer(Answer::Lost, Some("lose_answers"));
    }
    if ids::chance(rate(faults.lose_answer_rate)) {
        return Strike::Answer(Answer::Lost, None);
    }
    if account.has_left("error_after_accept", faults.error_after_accept) {
        return Strike::Answer(Answer::Error, Some("error_after_accept"));
    }
    if ids::chance(rate(faults.error_after_accept_rate)) {
        return Strike::Answer(Answer::Error, None);
    }
    if account.has_left("delayed_accepts", faults.delayed_accepts) {
        return Strike::Answer(Answer::Delayed, Some("delayed_accepts"));
    }
    if account.has_left("rate_limits", faults.rate_limits) {
        return Strike::RateLimit;
    }
    if account.has_left("overloads", faults.overloads) {
        return Strike::Overload;
    }
    if faults.spend_limit == Some(true) {
        return Strike::SpendLimit;
    }
    Strike::Answer(Answer::Delivered, None)
}

fn fate(account: &Account, faults: &Faults, draft: &Draft) -> (Fate, Option<&'static str>) {
    if account.has_left("expire_batches", faults.expire_batches) {
        return (Fate::Expires, Some("expire_batches"));
    }
    if account.has_left("late_failures", faults.late_failures) {
        return (Fate::FailsLate, Some("late_failures"));
    }
    // The other vendor has no such limit.
    if draft.dialect == Dialect::Openai {
        if account.has_left("token_limit_failures", faults.token_limit_failures) {
            return (Fate::TokenLimit, Some("token_limit_failures"));
        }
        let own = draft.input_file.as_deref().and_then(|id| account.file(id)).map_or(0, |file| file.bytes);
        if faults.queue_bytes.is_some_and(|most| account.bytes_in_flight(ids::now_ms()) + own > most) {
            return (Fate::TokenLimit, None);
        }
    }
    (Fate::Normal, None)
}
