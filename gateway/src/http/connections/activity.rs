//! What a connection is doing since when, in one number that many threads may read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Patience;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Doing {
    /// The client's, to send a request.
    Waiting,
    /// Ours.
    Working,
    /// The client's, to take its answer.
    Sending,
}

const DOING_BITS: u32 = 2;

#[derive(Debug)]
pub(super) struct Activity(AtomicU64);

impl Activity {
    pub fn new(now: Duration) -> Activity {
        Activity(AtomicU64::new(packed(Doing::Waiting, now)))
    }

    pub fn set(&self, doing: Doing, now: Duration) {
        self.0.store(packed(doing, now), Ordering::Relaxed);
    }

    /// Whether its turn has lasted longer than it may. Ours may last as long as it takes.
    pub fn is_stuck(&self, now: Duration, patience: &Patience) -> bool {
        let value = self.0.load(Ordering::Relaxed);
        let lasted = now.saturating_sub(Duration::from_millis(value >> DOING_BITS));
        let doing = value & ((1 << DOING_BITS) - 1);
        match doing {
            doing if doing == Doing::Waiting as u64 => lasted > patience.between,
            doing if doing == Doing::Sending as u64 => lasted > patience.reading,
            _ => false,
        }
    }
}

fn packed(doing: Doing, now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX) << DOING_BITS | doing as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clients_turns_are_bounded() {
        let (between, reading) = (Duration::from_secs(80), Duration::from_secs(30));
        let patience = Patience { between, reading, per_address_max: 1 };
        let activity = Activity::new(Duration::from_secs(1_000));
        for (doing, after, stuck) in [
            (Doing::Waiting, 80, false),
            (Doing::Waiting, 81, true),
            (Doing::Sending, 30, false),
            (Doing::Sending, 31, true),
            (Doing::Working, 100_000, false),
        ] {
            activity.set(doing, Duration::from_secs(1_000));
            let now = Duration::from_secs(1_000 + after);
            assert_eq!(activity.is_stuck(now, &patience), stuck, "{doing:?} for {after} s");
        }
        assert!(!activity.is_stuck(Duration::ZERO, &patience));
    }
}
