//! How many runs of each env wait, as far as admitting more needs to know.

use super::Api;
use crate::http::problem::Problem;
use dashmap::DashMap;
use std::time::Duration;
use storage::model::Timestamp;

/// Runs per second that one env can hardly exceed: how soon a count may be out of date.
const FASTEST: i64 = 50_000;
const FRESH_MIN: Duration = Duration::from_secs(1);
const FRESH_MAX: Duration = Duration::from_secs(30);

/// A count that takes longer is given up by those who wait for it.
const COUNT_WITHIN: Duration = Duration::from_secs(2);

/// What is known of one env.
#[derive(Debug, Default)]
struct Used {
    /// `None` before the first count.
    counted_at: Option<Timestamp>,
    waiting: i64,
    /// Runs that were admitted and may not be in the store yet.
    under_way: i64,
    counting: Option<Counting>,
}

/// A count that somebody is making, and the runs that it may have missed.
#[derive(Debug)]
struct Counting {
    since: Timestamp,
    missed: i64,
}

/// Counts by env, each as old as the room that is left allows.
#[derive(Debug, Default)]
pub struct Quotas(DashMap<String, Used>);

/// Runs that were admitted; dropped when they are in the store, or refused.
#[must_use]
pub struct Admitted<'a> {
    quotas: &'a Quotas,
    env: &'a str,
    runs: i64,
}

impl Quotas {
    /// What is known of an env, if that is recent enough or somebody is counting already; else whoever asks is to
    /// count. Many requests at once must not all count the same.
    fn known(&self, env: &str, most: i64, now: Timestamp) -> Option<i64> {
        let mut used = self.0.get_mut(env)?;
        let fresh = now.since(used.counted_at?) < fresh_for(most - used.waiting);
        if fresh || used.counting.as_ref().is_some_and(|counting| now.since(counting.since) < COUNT_WITHIN) {
            return Some(used.waiting);
        }
        used.counting = Some(Counting { since: now, missed: used.under_way });
        None
    }

    fn counted(&self, env: &str, waiting: i64, now: Timestamp) -> i64 {
        let mut used = self.0.entry(env.to_owned()).or_default();
        let missed = used.counting.take().map_or(used.under_way, |counting| counting.missed);
        used.counted_at = Some(now);
        used.waiting = waiting + missed;
        used.waiting
    }

    /// Counts runs that are let in.
    pub fn admit<'a>(&'a self, env: &'a str, runs: i64) -> Admitted<'a> {
        let mut used = self.0.entry(env.to_owned()).or_default();
        used.waiting += runs;
        used.under_way += runs;
        if let Some(counting) = &mut used.counting {
            counting.missed += runs;
        }
        Admitted { quotas: self, env, runs }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(mut used) = self.quotas.0.get_mut(self.env) {
            used.under_way -= self.runs;
        }
    }
}

fn fresh_for(room: i64) -> Duration {
    Duration::from_secs((room.max(0) / FASTEST).unsigned_abs()).clamp(FRESH_MIN, FRESH_MAX)
}

impl Api {
    /// Waiting runs of an env, those let in since the last count included.
    pub(super) async fn quota_used(&self, env: &str, now: Timestamp) -> Result<i64, Problem> {
        let most = self.runs.settings.env(env).max_waiting;
        if let Some(waiting) = self.quotas.known(env, most, now) {
            return Ok(waiting);
        }
        let name = env.to_owned();
        let waiting = self.store(move |runs| async move { runs.store.waiting_of_env(&name, most + 1).await }).await?;
        Ok(self.quotas.counted(env, waiting, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_requests_that_find_a_count_too_old_one_counts() {
        let quotas = Quotas::default();
        let at = Timestamp::from_millis;
        assert_eq!(quotas.known("a/b", 10, at(0)), None);
        assert_eq!(quotas.counted("a/b", 4, at(0)), 4);
        drop(quotas.admit("a/b", 3));
        assert_eq!(quotas.known("a/b", 10, at(999)), Some(7));
        assert_eq!(quotas.known("a/b", 10, at(1_000)), None, "the first one counts");
        assert_eq!(quotas.known("a/b", 10, at(1_001)), Some(7), "the others go by what is known");
        assert_eq!(quotas.known("a/b", 10, at(3_000)), None, "but do not wait for ever");
        assert_eq!(quotas.counted("a/b", 1, at(3_000)), 1);
        assert_eq!(quotas.known("a/b", 10, at(3_001)), Some(1));
    }

    #[test]
    fn what_is_let_in_while_somebody_counts_is_counted_too() {
        let quotas = Quotas::default();
        let at = Timestamp::from_millis;
        quotas.counted("a/b", 0, at(0));
        let before = quotas.admit("a/b", 2);
        assert_eq!(quotas.known("a/b", 10, at(1_000)), None);
        drop(quotas.admit("a/b", 5));
        drop(before);
        assert_eq!(quotas.counted("a/b", 1, at(1_000)), 8, "1 in the store, 2 on their way to it, 5 let in since");
    }
}
