//! How the next requests of a job go out: in a batch, live, or first as a canary. Pure.

use crate::batch_poller::{CANARIES, CANARY_HOLDS, ledger};
use storage::model::{Mode, Timestamp};
use storage::store::{Canary, CanaryState, Limits};

/// Fewer requests of a kind than this are not worth a canary: the batch itself tells as cheaply.
pub(super) const TELLING_DEPTH: i64 = 1_000;
/// Requests of one claim that are called live; what is claimed is waited for.
const LIVE_AT_MOST: i64 = 200;

/// What is known about the requests that are next.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub now: Timestamp,
    /// Fewer requests than this are called live.
    pub below: i64,
    pub too_late_from: Option<Timestamp>,
    /// Requests of the pack that may be claimed, counted as far as it matters.
    pub depth: i64,
    /// Canaries are wanted, and the pack's requests are all of one kind.
    pub wants_canary: bool,
    pub canary: Option<Canary>,
    /// What the account's queue was found to take of the model, and what is queued of it now; bytes of bodies.
    pub queue_limit: Option<i64>,
    pub queued: i64,
    pub limits: Limits,
}

/// What to do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Open {
        mode: Mode,
        limits: Limits,
    },
    /// Something that is under way has to end first.
    Wait,
}

pub(super) fn choose(facts: &Facts) -> Choice {
    let too_late = facts.too_late_from.is_some_and(|at| at <= facts.now);
    if too_late || facts.depth < facts.below {
        return open(Mode::Live, facts.limits, LIVE_AT_MOST);
    }
    if facts.wants_canary && facts.depth >= TELLING_DEPTH {
        let known = facts.canary.as_ref().filter(|canary| canary.tried_at + CANARY_HOLDS > facts.now);
        match known.map(|canary| &canary.state) {
            None => return open(Mode::Canary, facts.limits, CANARIES),
            Some(CanaryState::Trying) => return Choice::Wait,
            Some(CanaryState::Passed | CanaryState::Refused { .. } | CanaryState::Unclear) => {}
        }
    }
    as_batch(facts)
}

/// A batch, as large as the provider takes and its queue has room for.
pub(super) fn as_batch(facts: &Facts) -> Choice {
    let Some(limit) = facts.queue_limit else { return open(Mode::Batch, facts.limits, i64::MAX) };
    let Some(room) = ledger::room(limit, facts.queued) else { return Choice::Wait };
    let limits = Limits { max_bodies: facts.limits.max_bodies.min(room), ..facts.limits };
    open(Mode::Batch, limits, i64::MAX)
}

fn open(mode: Mode, limits: Limits, most: i64) -> Choice {
    Choice::Open { mode, limits: Limits { max_requests: limits.max_requests.min(most), ..limits } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            now: Timestamp::from_millis(1_000_000_000),
            below: 0,
            too_late_from: None,
            depth: TELLING_DEPTH,
            wants_canary: false,
            canary: None,
            queue_limit: None,
            queued: 0,
            limits: Limits { max_requests: 50_000, max_bytes: 9_999, max_bodies: i64::MAX, envelope_bytes: 1 },
        }
    }

    fn mode(facts: &Facts) -> Option<Mode> {
        match choose(facts) {
            Choice::Open { mode, .. } => Some(mode),
            Choice::Wait => None,
        }
    }

    fn said(state: CanaryState, ago_hours: i64) -> Option<Canary> {
        let at = facts().now.millis() - ago_hours * 3_600_000;
        Some(Canary { state, tried_at: Timestamp::from_millis(at) })
    }

    #[test]
    fn nothing_is_called_live_unless_it_was_asked_for() {
        assert_eq!(mode(&facts()), Some(Mode::Batch));
        assert_eq!(mode(&Facts { depth: 1, ..facts() }), Some(Mode::Batch));
    }

    #[test]
    fn few_requests_and_late_ones_are_called_live() {
        assert_eq!(mode(&Facts { below: 10, depth: 9, ..facts() }), Some(Mode::Live));
        assert_eq!(mode(&Facts { below: 10, depth: 10, ..facts() }), Some(Mode::Batch));
        let now = facts().now;
        assert_eq!(mode(&Facts { too_late_from: Some(now), ..facts() }), Some(Mode::Live));
        let later = Timestamp::from_millis(now.millis() + 1);
        assert_eq!(mode(&Facts { too_late_from: Some(later), ..facts() }), Some(Mode::Batch));
    }

    #[test]
    fn a_large_kind_is_tried_once_and_waited_for() {
        let wants = Facts { wants_canary: true, ..facts() };
        let Choice::Open { mode: Mode::Canary, limits } = choose(&wants) else { panic!("a canary") };
        assert_eq!(limits.max_requests, CANARIES);
        assert_eq!(mode(&Facts { depth: TELLING_DEPTH - 1, ..wants.clone() }), Some(Mode::Batch));
        assert_eq!(mode(&Facts { canary: said(CanaryState::Trying, 0), ..wants.clone() }), None);
        assert_eq!(mode(&Facts { canary: said(CanaryState::Passed, 1), ..wants.clone() }), Some(Mode::Batch));
        assert_eq!(mode(&Facts { canary: said(CanaryState::Unclear, 1), ..wants.clone() }), Some(Mode::Batch));
        assert_eq!(mode(&Facts { canary: said(CanaryState::Passed, 25), ..wants }), Some(Mode::Canary));
    }

    #[test]
    fn a_batch_takes_what_room_the_queue_has() {
        let limited = Facts { queue_limit: Some(500), queued: 200, ..facts() };
        let Choice::Open { limits, .. } = choose(&limited) else { panic!("a batch") };
        assert_eq!((limits.max_bodies, limits.max_bytes), (300, 9_999));
        assert_eq!(mode(&Facts { queued: 500, ..limited.clone() }), None);
        assert_eq!(mode(&Facts { queued: 0, queue_limit: Some(0), ..limited }), Some(Mode::Batch));
    }
}
