//! An attempt: one try of a run by a carrier. A request inside a provider batch is an attempt too; it
//! additionally carries the provider's verdict.

use super::machine::state_machine;

state_machine! {
    /// Where an attempt stands.
    states AttemptState {
        Leased = "leased",
        Started = "started",
        Succeeded = "succeeded",
        Failed = "failed",
        Cancelled = "cancelled",
        TimedOut = "timed_out",
        Expired = "expired",
        Lost = "lost",
        Declined = "declined",
    }
    /// What can happen to an attempt.
    events AttemptEvent {
        Started = "started",
        Finished = "finished",
        Errored = "errored",
        Cancelled = "cancelled",
        RanOutOfTime = "ran_out_of_time",
        Expired = "expired",
        CarrierLost = "carrier_lost",
        Declined = "declined",
    }
    edges {
        Leased + Started => Started,
        Leased + CarrierLost => Lost,
        Leased + Declined => Declined,
        Started + Finished => Succeeded,
        Started + Errored => Failed,
        Started + Cancelled => Cancelled,
        Started + RanOutOfTime => TimedOut,
        Started + Expired => Expired,
        Started + CarrierLost => Lost,
    }
}

#[cfg(test)]
const INITIAL: &[AttemptState] = &[AttemptState::Leased];

/// The provider's verdict on one request of a batch.
pub mod request {
    use super::super::machine::state_machine;
    use super::AttemptEvent;

    state_machine! {
        /// Where a batch request stands.
        states RequestState {
            Open = "open",
            Succeeded = "succeeded",
            Errored = "errored",
            Expired = "expired",
            Canceled = "canceled",
            Refused = "refused",
            Missing = "missing",
        }
        /// What its result line said, or that none came.
        events RequestEvent {
            Succeeded = "succeeded",
            Errored = "errored",
            Expired = "expired",
            Canceled = "canceled",
            Refused = "refused",
            NeverCame = "never_came",
        }
        edges {
            Open + Succeeded => Succeeded,
            Open + Errored => Errored,
            Open + Expired => Expired,
            Open + Canceled => Canceled,
            Open + Refused => Refused,
            Open + NeverCame => Missing,
        }
    }

    #[cfg(test)]
    const INITIAL: &[RequestState] = &[RequestState::Open];

    impl RequestState {
        /// Whether this verdict uses up one of the run's attempts (invariant 16).
        pub fn counts(self) -> bool {
            match self {
                RequestState::Succeeded | RequestState::Errored | RequestState::Expired => true,
                RequestState::Refused | RequestState::Missing => true,
                RequestState::Open | RequestState::Canceled => false,
            }
        }

        /// What the verdict means for the attempt that the request is.
        pub fn attempt_event(self) -> Option<AttemptEvent> {
            match self {
                RequestState::Open => None,
                RequestState::Succeeded => Some(AttemptEvent::Finished),
                RequestState::Errored | RequestState::Refused => Some(AttemptEvent::Errored),
                RequestState::Expired => Some(AttemptEvent::Expired),
                RequestState::Canceled => Some(AttemptEvent::Cancelled),
                RequestState::Missing => Some(AttemptEvent::CarrierLost),
            }
        }
    }
}
