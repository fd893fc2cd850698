//! Where a batch stands at a moment: a pure function of the clock and of what was decided about it, so
//! that batches advance while the server is down and never disagree with themselves.

use super::event::{Dialect, Fate};

/// Everything a batch's progress depends on, apart from its content.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timeline {
    pub dialect: Dialect,
    pub accepted_at: u64,
    pub latency: u64,
    pub requests: u64,
    pub fate: Fate,
    pub cancel: Option<Cancel>,
    pub input_deleted_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cancel {
    pub at: u64,
    /// Confirmed to the caller, but nothing is cancelled.
    pub ignored: bool,
}

/// What only a look into the input can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub invalid: bool,
    pub any_expired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Validating,
    InProgress,
    Finalizing,
    Cancelling,
    Completed,
    Expired,
    Cancelled,
    Failed(Failure),
}

/// Why a whole batch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    InputDeleted,
    InvalidLines,
    Late,
    TokenLimit,
}

impl Phase {
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Completed | Phase::Expired | Phase::Cancelled | Phase::Failed(_))
    }

    pub fn name(self) -> &'static str {
        match self {
            Phase::Validating => "validating",
            Phase::InProgress => "in_progress",
            Phase::Finalizing => "finalizing",
            Phase::Cancelling => "cancelling",
            Phase::Completed => "completed",
            Phase::Expired => "expired",
            Phase::Cancelled => "cancelled",
            Phase::Failed(_) => "failed",
        }
    }
}

impl Timeline {
    /// When the input has been checked and items begin to run; Anthropic starts at once.
    pub fn validated_at(&self) -> u64 {
        match self.dialect {
            Dialect::Openai => self.accepted_at.saturating_add(self.latency / 10),
            Dialect::Anthropic => self.accepted_at,
        }
    }

    /// From when on the phase or the counts depend on the content; before, nobody need look into it.
    pub fn content_matters_at(&self) -> u64 {
        match self.dialect {
            Dialect::Openai => self.validated_at(),
            Dialect::Anthropic => self.end(Content::default()),
        }
    }

    pub fn finalizing_at(&self) -> u64 {
        self.accepted_at.saturating_add(self.latency - self.latency / 10)
    }

    /// The end, unless it is cancelled or fails before.
    pub fn natural_end(&self) -> u64 {
        self.accepted_at.saturating_add(self.latency)
    }

    /// The failure of the whole batch, if nobody cancels it before it is checked.
    pub fn failure(&self, content: Content) -> Option<Failure> {
        if self.dialect == Dialect::Anthropic || self.cancelled_before_it_ran() {
            return None;
        }
        if self.input_deleted_at.is_some_and(|at| at < self.validated_at()) {
            return Some(Failure::InputDeleted);
        }
        if content.invalid {
            return Some(Failure::InvalidLines);
        }
        match self.fate {
            Fate::FailsLate => Some(Failure::Late),
            Fate::TokenLimit => Some(Failure::TokenLimit),
            Fate::Normal | Fate::Expires => None,
        }
    }

    fn cancelled_before_it_ran(&self) -> bool {
        self.real_cancel().is_some_and(|at| at < self.validated_at())
    }

    fn real_cancel(&self) -> Option<u64> {
        self.cancel.filter(|cancel| !cancel.ignored).map(|cancel| cancel.at)
    }

    /// How many items, counted from the first, ran before a cancel; `None` when none was cancelled.
    pub fn ran_before_cancel(&self) -> Option<u64> {
        self.real_cancel().map(|at| self.done(at))
    }

    /// How many items of an expiring batch are in time.
    pub fn in_time(&self) -> u64 {
        if self.fate == Fate::Expires { self.requests / 2 } else { self.requests }
    }

    /// How many items, counted from the first, have run at `now` if nobody cancels.
    pub fn done(&self, now: u64) -> u64 {
        let (start, finish) = (self.validated_at(), self.finalizing_at());
        if now < start {
            return 0;
        }
        if now >= finish {
            return self.in_time();
        }
        let share = u128::from(self.requests) * u128::from(now - start) / u128::from(finish - start);
        u64::try_from(share).unwrap_or(u64::MAX).min(self.in_time())
    }

    /// When the batch ends or ended.
    pub fn end(&self, content: Content) -> u64 {
        match (self.real_cancel(), self.failure(content)) {
            (Some(at), None) => at.saturating_add(self.latency / 10),
            (_, Some(_)) => self.validated_at(),
            (None, None) => self.natural_end(),
        }
    }

    /// The phase at `now`. A look into the content is needed only once validation is over.
    pub fn phase(&self, now: u64, content: Content) -> Phase {
        let ended = now >= self.end(content);
        if let Some(failure) = self.failure(content) {
            return if ended { Phase::Failed(failure) } else { Phase::Validating };
        }
        if self.real_cancel().is_some_and(|at| now >= at) {
            return if ended { Phase::Cancelled } else { Phase::Cancelling };
        }
        if now >= self.natural_end() {
            let expired = self.fate == Fate::Expires || content.any_expired;
            return if expired { Phase::Expired } else { Phase::Completed };
        }
        if self.cancel.is_some_and(|cancel| now >= cancel.at) {
            return Phase::Cancelling;
        }
        if now < self.validated_at() {
            Phase::Validating
        } else if now < self.finalizing_at() {
            Phase::InProgress
        } else {
            Phase::Finalizing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Content = Content { invalid: false, any_expired: false };

    fn timeline() -> Timeline {
        Timeline {
            dialect: Dialect::Openai,
            accepted_at: 1_000,
            latency: 100,
            requests: 80,
            fate: Fate::Normal,
            cancel: None,
            input_deleted_at: None,
        }
    }

    fn cancelled_at(at: u64, ignored: bool) -> Timeline {
        Timeline { cancel: Some(Cancel { at, ignored }), ..timeline() }
    }

    #[test]
    fn a_batch_walks_through_its_phases() {
        let line = timeline();
        let walk = [(1_000, "validating"), (1_010, "in_progress"), (1_090, "finalizing"), (1_100, "completed")];
        for (now, name) in walk {
            assert_eq!(line.phase(now, FINE).name(), name, "at {now}");
        }
        assert_eq!((line.done(1_009), line.done(1_050), line.done(1_090)), (0, 40, 80));
    }

    #[test]
    fn without_latency_everything_is_done_at_once() {
        let line = Timeline { latency: 0, ..timeline() };
        assert_eq!(line.phase(1_000, FINE), Phase::Completed);
        assert_eq!(line.done(1_000), 80);
    }

    #[test]
    fn an_input_deleted_while_validating_fails_the_batch_and_later_does_nothing() {
        let early = Timeline { input_deleted_at: Some(1_009), ..timeline() };
        assert_eq!(early.phase(1_009, FINE), Phase::Validating);
        assert_eq!(early.phase(1_010, FINE), Phase::Failed(Failure::InputDeleted));
        let late = Timeline { input_deleted_at: Some(1_010), ..timeline() };
        assert_eq!(late.phase(2_000, FINE), Phase::Completed);
    }

    #[test]
    fn bad_lines_and_fates_fail_at_the_end_of_validation() {
        let bad = Content { invalid: true, ..FINE };
        assert_eq!(timeline().phase(1_010, bad), Phase::Failed(Failure::InvalidLines));
        let late = Timeline { fate: Fate::FailsLate, ..timeline() };
        assert_eq!(late.phase(1_009, FINE), Phase::Validating);
        assert_eq!(late.phase(1_010, FINE), Phase::Failed(Failure::Late));
        let anthropic = Timeline { dialect: Dialect::Anthropic, ..late };
        assert_eq!(anthropic.phase(1_100, FINE), Phase::Completed);
    }

    #[test]
    fn a_cancel_keeps_what_ran_before_it() {
        let line = cancelled_at(1_050, false);
        assert_eq!(line.phase(1_049, FINE), Phase::InProgress);
        assert_eq!(line.phase(1_050, FINE), Phase::Cancelling);
        assert_eq!(line.phase(1_060, FINE), Phase::Cancelled);
        assert_eq!(line.ran_before_cancel(), Some(40));
        assert_eq!(cancelled_at(1_005, false).ran_before_cancel(), Some(0));
        assert_eq!(cancelled_at(1_095, false).ran_before_cancel(), Some(80));
    }

    #[test]
    fn a_cancel_before_the_check_is_not_a_failure() {
        let bad = Content { invalid: true, ..FINE };
        assert_eq!(cancelled_at(1_005, false).phase(1_100, bad), Phase::Cancelled);
    }

    #[test]
    fn an_ignored_cancel_shows_but_cancels_nothing() {
        let line = cancelled_at(1_050, true);
        assert_eq!(line.phase(1_060, FINE), Phase::Cancelling);
        assert_eq!(line.phase(1_100, FINE), Phase::Completed);
        assert_eq!(line.ran_before_cancel(), None);
    }

    #[test]
    fn an_expiring_batch_ends_half_done() {
        let line = Timeline { fate: Fate::Expires, ..timeline() };
        assert_eq!(line.done(1_099), 40);
        assert_eq!(line.phase(1_100, FINE), Phase::Expired);
        let some = Content { any_expired: true, ..FINE };
        assert_eq!(timeline().phase(1_100, some), Phase::Expired);
    }
}
