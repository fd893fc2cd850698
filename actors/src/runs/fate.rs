//! What an attempt's outcome means for its run. Pure.

use crate::backoff::Backoff;
use crate::executor::{Outcome, Retry};
use storage::model::Timestamp;
use storage::store::Ending;

/// The ending to settle, with its code, reason and output. A run without attempts left is not given a time to
/// be tried again: the store ends it.
pub fn fate(
    outcome: Outcome,
    attempt: i64,
    backoff: &Backoff,
    now: Timestamp,
    rng: &mut impl rand::Rng,
) -> (Ending, Option<String>, Option<String>, Option<String>) {
    match outcome {
        Outcome::Succeeded { output } => (Ending::Succeeded, None, None, output),
        Outcome::Failed { code, reason, retry } => {
            let failures = u32::try_from(attempt).unwrap_or(1).max(1);
            let ending = match retry {
                Retry::No => Ending::Failed,
                Retry::WithBackoff => Ending::Retry(now + backoff.after(failures, rng)),
                Retry::After(wait) => Ending::Retry(now + wait),
            };
            (ending, Some(code), Some(reason), None)
        }
        Outcome::Cancelled => {
            (Ending::Cancelled, Some("cancelled".to_owned()), Some("cancelled while it ran".to_owned()), None)
        }
        Outcome::TimedOut => {
            let reason = "it took longer than its max_duration".to_owned();
            (Ending::TimedOut, Some("max_duration".to_owned()), Some(reason), None)
        }
        Outcome::Lost => (Ending::Declined, Some("fenced".to_owned()), Some("its node had to let go".to_owned()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::time::Duration;

    #[test]
    fn a_failure_is_tried_again_after_a_wait_that_grows_unless_it_would_come_again() {
        let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };
        let mut rng = rand::rngs::StdRng::seed_from_u64(5);
        let now = Timestamp::from_millis(0);
        let failed = |retry| Outcome::Failed { code: "x".to_owned(), reason: "y".to_owned(), retry };
        let (ending, ..) = fate(failed(Retry::No), 1, &backoff, now, &mut rng);
        assert_eq!(ending, Ending::Failed);
        for (attempt, low, high) in [(1, 500, 1_000), (2, 1_000, 2_000), (9, 30_000, 60_000)] {
            let (ending, code, ..) = fate(failed(Retry::WithBackoff), attempt, &backoff, now, &mut rng);
            let Ending::Retry(due) = ending else { panic!("{ending:?}") };
            assert!((low..=high).contains(&due.millis()), "{attempt}: {due:?}");
            assert_eq!(code.as_deref(), Some("x"));
        }
        let (ending, ..) = fate(failed(Retry::After(Duration::from_secs(7))), 1, &backoff, now, &mut rng);
        assert_eq!(ending, Ending::Retry(Timestamp::from_millis(7_000)));
    }
}
