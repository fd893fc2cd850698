//! A limit on the rate of each caller (GCRA): smooth, with a burst, and one number of state.

use std::time::Duration;

use super::table::{State, Table};

/// One request each `every`, and up to `burst` at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub every: Duration,
    pub burst: u32,
}

impl Quota {
    /// So many a second, as many of them at once. Both are at least 1.
    pub fn per_second(rate: u32, burst: u32) -> Quota {
        Quota { every: Duration::from_secs(1) / rate.max(1), burst: burst.max(1) }
    }

    /// When the next request was due if all before it had come evenly; the whole state of a caller.
    fn decide(&self, due: Duration, now: Duration) -> (Result<Allowed, Limited>, Duration) {
        let next = due.max(now) + self.every;
        let ahead = next - now;
        let tolerance = self.every * self.burst;
        if ahead > tolerance {
            return (Err(Limited { retry_after: ahead - tolerance }), due);
        }
        let remaining = (tolerance - ahead).as_nanos() / self.every.as_nanos().max(1);
        (Ok(Allowed { remaining: u32::try_from(remaining).unwrap_or(u32::MAX), reset_after: ahead }), next)
    }
}

/// The request may pass; `remaining` more could follow it at once, all of the burst after `reset_after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    pub remaining: u32,
    pub reset_after: Duration,
}

/// The request may not pass yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub retry_after: Duration,
}

impl Limited {
    /// Whole seconds for `Retry-After`, never too early.
    pub fn retry_after_seconds(&self) -> u64 {
        self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0)
    }
}

#[derive(Debug, Default)]
struct Due(Duration);

impl State for Due {
    fn is_idle(&self, now: Duration, _: Duration) -> bool {
        self.0 <= now
    }
}

/// The limits of all callers under one quota.
#[derive(Debug)]
pub struct Limiter {
    quota: Quota,
    callers: Table<Due>,
}

impl Limiter {
    /// Watches `callers_max` callers at most.
    pub fn new(quota: Quota, callers_max: usize) -> Limiter {
        Limiter { quota, callers: Table::new(callers_max, Duration::ZERO) }
    }

    pub fn check(&self, caller: &str, now: Duration) -> Result<Allowed, Limited> {
        self.callers.with(caller, now, |due| {
            let (decision, next) = self.quota.decide(due.0, now);
            due.0 = next;
            decision
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { every: Duration::from_millis(100), burst: 3 };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_passes_and_what_follows_waits_its_turn() {
        let limiter = Limiter::new(QUOTA, 10);
        let steps: [(u64, Result<u32, u64>); 10] = [
            (1_000, Ok(2)),
            (1_000, Ok(1)),
            (1_000, Ok(0)),
            (1_000, Err(100)),
            (1_050, Err(50)),
            (1_099, Err(1)),
            (1_100, Ok(0)),
            (1_100, Err(100)),
            (1_300, Ok(1)),
            (9_000, Ok(2)),
        ];
        for (at, expected) in steps {
            let found = limiter.check("a", ms(at));
            let found =
                found.map(|allowed| allowed.remaining).map_err(|limited| limited.retry_after.as_millis() as u64);
            assert_eq!(found, expected, "at {at}");
        }
    }

    #[test]
    fn refused_requests_cost_nothing() {
        let limiter = Limiter::new(QUOTA, 10);
        let passed = (0..10_000).filter(|at| limiter.check("a", ms(*at)).is_ok()).count();
        assert_eq!(passed, 102, "a burst of three, and then one each 100 ms");
    }

    #[test]
    fn callers_do_not_share_a_limit() {
        let limiter = Limiter::new(Quota::per_second(1, 1), 10);
        assert!(limiter.check("a", ms(0)).is_ok());
        assert!(limiter.check("a", ms(0)).is_err());
        assert!(limiter.check("b", ms(0)).is_ok());
    }

    #[test]
    fn retry_after_is_never_too_early() {
        for (after, seconds) in [(1, 1), (1_000, 1), (1_001, 2)] {
            assert_eq!(Limited { retry_after: ms(after) }.retry_after_seconds(), seconds);
        }
    }

    #[test]
    fn the_table_is_bounded_and_idle_callers_make_room() {
        let limiter = Limiter::new(QUOTA, 100);
        for caller in 0..1_000 {
            assert!(limiter.check(&caller.to_string(), ms(5_000)).is_ok());
        }
        assert_eq!(limiter.callers.len(), 100);
        assert!(limiter.check("late", ms(10_000)).is_ok());
        assert_eq!(limiter.callers.len(), 1);
    }

    #[test]
    fn many_threads_together_pass_no_more_than_the_quota() {
        let limiter = Limiter::new(Quota { every: ms(100), burst: 50 }, 10);
        let passed: usize = std::thread::scope(|scope| {
            let count = || (0..25).filter(|_| limiter.check("a", ms(1_000)).is_ok()).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a count")).sum()
        });
        assert_eq!(passed, 50);
    }
}
