//! How long to wait before the next try.

use rand::RngExt;
use std::time::Duration;

/// Exponential back-off with full jitter on its upper half, so that many waiters spread out.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// The wait before try number `failures + 1`: between half and all of `base · 2^(failures − 1)`, capped.
    pub fn after(&self, failures: u32, rng: &mut impl rand::Rng) -> Duration {
        let doubled = self.base.saturating_mul(1_u32 << failures.saturating_sub(1).min(20));
        let whole = doubled.min(self.cap);
        whole.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn waits_double_up_to_the_cap_and_never_exceed_it() {
        let backoff = Backoff { base: Duration::from_millis(10), cap: Duration::from_millis(200) };
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        for failures in 1..40 {
            let wait = backoff.after(failures, &mut rng);
            let whole = Duration::from_millis(10 * (1 << (failures - 1).min(10))).min(backoff.cap);
            assert!(wait >= whole / 2 && wait <= whole, "{failures}: {wait:?}");
        }
    }
}
