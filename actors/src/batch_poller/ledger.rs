//! The ledger of what is queued at a provider, by account and model: pure sums over the batches in flight.
//!
//! A provider limits the tokens that it has queued, and says so only when a batch has failed for it, minutes after
//! it was accepted. Tokens are its own to count; bytes of request bodies are in proportion to them, so the ledger is
//! kept in these. A batch is on it from its claim to its end: the end releases it, whatever the end was.

use crate::provider::request::model_of_pack;
use std::time::Duration;
use storage::model::BatchState;
use storage::store::BatchRow;

/// A limit that was learned is believed this long: accounts are raised, and others may have used the queue too.
pub(crate) const BELIEVED_FOR: Duration = Duration::from_secs(3_600);

/// Bytes of bodies that are queued, or about to be, for a model of an account.
pub(crate) fn queued(in_flight: &[BatchRow], account: &str, model: &str) -> i64 {
    let counts = |row: &&BatchRow| {
        let there = !matches!(row.state, BatchState::Ended) && !row.state.is_terminal();
        there && !row.mode.is_live() && row.account == account && model_of_pack(&row.pack) == model
    };
    in_flight.iter().filter(counts).map(|row| row.body_bytes).sum()
}

/// What a refusal teaches: `queued` was taken, `queued + refused` was not, so the limit is looked for between.
pub(crate) fn learned(queued: i64, refused: i64) -> i64 {
    queued.saturating_add(refused / 2)
}

/// Bytes that may be sent now; `None` when something has to end first. An empty queue takes at least one request.
pub(crate) fn room(limit: i64, queued: i64) -> Option<i64> {
    let room = limit - queued;
    (room > 0 || queued == 0).then_some(room.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_halves_what_is_sent_and_never_what_is_known_to_fit() {
        assert_eq!(learned(0, 100), 50);
        assert_eq!(learned(300, 100), 350);
        let mut limit = 1_000;
        for _ in 0..20 {
            limit = learned(0, limit);
        }
        assert_eq!(room(limit, 0), Some(1), "one request is always worth a try");
    }

    #[test]
    fn room_opens_as_batches_end() {
        assert_eq!(room(350, 300), Some(50));
        assert_eq!(room(350, 350), None);
        assert_eq!(room(350, 400), None);
        assert_eq!(room(350, 0), Some(350));
    }
}
