//! A batch: one submission to a provider. It is paid for, so it outlives its job and every process.

use super::machine::state_machine;
use super::money::Money;

state_machine! {
    /// Where a batch stands.
    states BatchState {
        Planned = "planned",
        Submitting = "submitting",
        Unknown = "unknown",
        Submitted = "submitted",
        Cancelling = "cancelling",
        Ended = "ended",
        Collected = "collected",
        Abandoned = "abandoned",
    }
    /// What can happen to a batch.
    events BatchEvent {
        /// Somebody else made it, and it is at the provider already.
        Imported = "imported",
        /// The intent is durable; the last byte of the create may leave now.
        Committed = "committed",
        /// The provider answered with an id.
        Accepted = "accepted",
        /// The provider answered that it has taken nothing.
        Declined = "declined",
        /// No answer that settles whether the provider took it.
        AnswerLost = "answer_lost",
        /// The provider's listing shows it.
        Found = "found",
        /// The provider's listing did not show it, twice, a settle time apart.
        AbsenceProven = "absence_proven",
        /// Somebody asked the provider to stop it.
        CancelAsked = "cancel_asked",
        /// The provider reports a final status.
        Ended = "ended",
        /// Results carry another batch's key: the adoption was wrong.
        AdoptionDisproved = "adoption_disproved",
        /// Every request has its verdict.
        Collected = "collected",
        /// Given up: by an operator, or because nothing of it ever reached a provider.
        Abandoned = "abandoned",
    }
    edges {
        Planned + Committed => Submitting,
        Planned + Imported => Submitted,
        Planned + Abandoned => Abandoned,
        Submitting + Accepted => Submitted,
        Submitting + Declined => Planned,
        Submitting + AnswerLost => Unknown,
        Unknown + Found => Submitted,
        Unknown + AbsenceProven => Planned,
        Unknown + Abandoned => Abandoned,
        Submitted + CancelAsked => Cancelling,
        Submitted + Ended => Ended,
        Submitted + Abandoned => Abandoned,
        Cancelling + Ended => Ended,
        Ended + AdoptionDisproved => Unknown,
        Ended + Collected => Collected,
    }
}

#[cfg(test)]
const INITIAL: &[BatchState] = &[BatchState::Planned];

/// How the requests of a batch reach the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Together, as one batch of the provider's.
    Batch,
    /// One by one, at once and at the live price, because a batch would not be worth it or come too late.
    Live,
    /// One or two of a kind, live, before a large batch of that kind is sent.
    Canary,
}

/// What a live call costs at most, as a multiple of its batch price. Vendors take half for a batch; a stated
/// batch price is rounded up where it is rounded.
const LIVE_PRICE: i64 = 2;

impl Mode {
    pub const fn word(self) -> &'static str {
        match self {
            Mode::Batch => "batch",
            Mode::Live => "live",
            Mode::Canary => "canary",
        }
    }

    pub fn from_word(word: &str) -> Option<Mode> {
        [Mode::Batch, Mode::Live, Mode::Canary].into_iter().find(|mode| mode.word() == word)
    }

    /// Whether each request is a call of its own.
    pub const fn is_live(self) -> bool {
        matches!(self, Mode::Live | Mode::Canary)
    }

    /// What something costs in this mode whose batch price is `batch_price`.
    pub fn price(self, batch_price: Money) -> Money {
        match self {
            Mode::Batch => batch_price,
            Mode::Live | Mode::Canary => Money::from_nanos(batch_price.nanos().saturating_mul(LIVE_PRICE)),
        }
    }
}
