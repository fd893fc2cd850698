//! What becomes of each item of a batch: decided by the batch's seed, the item's position and its
//! content, so that every look at it and every restart gives the same answer.

use super::event::{Accepted, Dialect, Fate};
use super::faults::rate;
use super::ids;
use super::lines::Item;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded(Delivery),
    Errored(Cause),
    Expired,
    Canceled,
}

/// How often the line of a success is delivered; it is billed once in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Once,
    Twice,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The vendor's fault; another try may succeed.
    Server,
    /// The content's fault; every try fails.
    Content,
    /// The body itself is wrong.
    Params,
    /// The whole batch was found invalid after it had been accepted.
    Late,
}

impl Outcome {
    pub fn is_billed(self) -> bool {
        matches!(self, Outcome::Succeeded(_))
    }

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Succeeded(Delivery::Once) => "delivered",
            Outcome::Succeeded(Delivery::Twice) => "doubled",
            Outcome::Succeeded(Delivery::Never) => "missing",
            Outcome::Errored(_) => "errored",
            Outcome::Expired => "expired",
            Outcome::Canceled => "canceled",
        }
    }
}

/// One salt per kind of decision, so that they do not move together.
#[derive(Clone, Copy)]
enum Salt {
    Error = 1,
    Expire,
    Missing,
    Double,
    Unknown,
}

/// Decides for one batch.
pub(super) struct Judge<'a> {
    pub batch: &'a Accepted,
    /// How many items ran before a cancel.
    pub ran: Option<u64>,
    /// How many items are in time.
    pub in_time: u64,
}

impl Judge<'_> {
    pub fn outcome(&self, index: u64, item: &Item) -> Outcome {
        let faults = &self.batch.faults;
        if self.ran.is_some_and(|ran| index >= ran) {
            return Outcome::Canceled;
        }
        if index >= self.in_time {
            return Outcome::Expired;
        }
        if self.batch.dialect == Dialect::Anthropic && self.batch.fate == Fate::FailsLate {
            return Outcome::Errored(Cause::Late);
        }
        if item.params.problem.is_some() {
            return Outcome::Errored(Cause::Params);
        }
        if by_content(item) < rate(faults.item_error_always_rate) {
            return Outcome::Errored(Cause::Content);
        }
        if self.hits(index, Salt::Error, rate(faults.item_error_rate)) {
            return Outcome::Errored(Cause::Server);
        }
        if self.hits(index, Salt::Expire, rate(faults.item_expire_rate)) {
            return Outcome::Expired;
        }
        if self.hits(index, Salt::Missing, rate(faults.missing_rate)) {
            return Outcome::Succeeded(Delivery::Never);
        }
        if self.hits(index, Salt::Double, rate(faults.double_rate)) {
            return Outcome::Succeeded(Delivery::Twice);
        }
        Outcome::Succeeded(Delivery::Once)
    }

    /// Whether a line nobody asked for follows this item.
    pub fn unknown_follows(&self, index: u64) -> bool {
        let ran = self.ran.is_none_or(|ran| index < ran) && index < self.in_time;
        ran && self.hits(index, Salt::Unknown, rate(self.batch.faults.unknown_rate))
    }

    fn hits(&self, index: u64, salt: Salt, rate: f64) -> bool {
        rate > 0.0 && ids::unit(ids::mix(self.batch.seed, index, salt as u64)) < rate
    }
}

fn by_content(item: &Item) -> f64 {
    let mut head = [0; 8];
    head.copy_from_slice(&item.sha[..8]);
    ids::unit(u64::from_be_bytes(head))
}

/// How long the answer to an item is, and whether the caller's limit cut it.
pub(super) fn answer_tokens(item: &Item) -> (u64, bool) {
    let wanted = 8 + u64::from(item.sha[8] % 56);
    match item.params.cap {
        Some(cap) if cap < wanted => (cap, true),
        _ => (wanted, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::event::Answer;
    use crate::sim::faults::{Faults, Rate};
    use crate::sim::lines::Params;

    fn batch(seed: u64, faults: Faults) -> Accepted {
        Accepted {
            id: "b".to_owned(),
            dialect: Dialect::Openai,
            at_ms: 0,
            endpoint: String::new(),
            requests: 1_000,
            input_file: None,
            metadata: None,
            version: None,
            latency_ms: 0,
            fate: Fate::Normal,
            answer: Answer::Delivered,
            seed,
            faults,
        }
    }

    fn item(n: u64) -> Item {
        let sha = ids::sha(&n.to_be_bytes());
        Item { custom_id: n.to_string(), sha, params: Params::default() }
    }

    fn errored(batch: &Accepted) -> Vec<u64> {
        let judge = Judge { batch, ran: None, in_time: 1_000 };
        (0..1_000).filter(|n| matches!(judge.outcome(*n, &item(*n)), Outcome::Errored(_))).collect()
    }

    #[test]
    fn chance_errors_are_decided_anew_and_content_errors_are_not() {
        let half = Rate::try_from(0.5).unwrap();
        let anew = Faults { item_error_rate: Some(half), ..Faults::default() };
        assert_ne!(errored(&batch(1, anew.clone())), errored(&batch(2, anew.clone())));
        assert_eq!(errored(&batch(1, anew.clone())), errored(&batch(1, anew)));
        let always = Faults { item_error_always_rate: Some(half), ..Faults::default() };
        let hit = errored(&batch(1, always.clone()));
        assert!((400..600).contains(&hit.len()));
        assert_eq!(hit, errored(&batch(2, always)));
    }

    #[test]
    fn a_cancel_and_an_expiry_cut_by_position() {
        let batch = batch(1, Faults::default());
        let judge = Judge { batch: &batch, ran: Some(5), in_time: 3 };
        assert!(judge.outcome(2, &item(2)).is_billed());
        assert_eq!(judge.outcome(4, &item(4)), Outcome::Expired);
        assert_eq!(judge.outcome(5, &item(5)), Outcome::Canceled);
    }

    #[test]
    fn the_callers_limit_cuts_the_answer() {
        let mut one = item(1);
        one.params.cap = Some(3);
        assert_eq!(answer_tokens(&one), (3, true));
        one.params.cap = Some(1_000);
        assert!(!answer_tokens(&one).1);
    }
}
