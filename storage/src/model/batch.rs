//! A batch: one submission to a provider. It is paid for, so it outlives its job and every process.

use super::machine::state_machine;

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
