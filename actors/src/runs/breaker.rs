//! Stops asking a store that does not answer, and asks again with one probe at a time.

use crate::backoff::Backoff;
use std::time::Duration;
use storage::model::Timestamp;

/// Closed while all is well; opened by a failure for a while that grows.
#[derive(Debug, Clone)]
pub struct Breaker {
    backoff: Backoff,
    failures: u32,
    open_until: Timestamp,
}

impl Default for Breaker {
    fn default() -> Breaker {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2) };
        Breaker { backoff, failures: 0, open_until: Timestamp::from_millis(0) }
    }
}

impl Breaker {
    /// Whether to try now: always while closed, once per wait while open.
    pub fn allows(&self, now: Timestamp) -> bool {
        now >= self.open_until
    }

    pub fn is_open(&self) -> bool {
        self.failures > 0
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.open_until = Timestamp::from_millis(0);
    }

    pub fn failed(&mut self, now: Timestamp, rng: &mut impl rand::Rng) {
        self.failures = self.failures.saturating_add(1);
        self.open_until = now + self.backoff.after(self.failures, rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn it_opens_at_a_failure_probes_after_a_wait_and_closes_at_a_success() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        let at = Timestamp::from_millis;
        let mut breaker = Breaker::default();
        assert!(breaker.allows(at(0)) && !breaker.is_open());
        breaker.failed(at(0), &mut rng);
        assert!(!breaker.allows(at(49)) && breaker.allows(at(100)));
        for _ in 0..20 {
            breaker.failed(at(0), &mut rng);
        }
        assert!(!breaker.allows(at(999)) && breaker.allows(at(2_000)), "the wait is bounded");
        breaker.succeeded();
        assert!(breaker.allows(at(1)) && !breaker.is_open());
    }
}
