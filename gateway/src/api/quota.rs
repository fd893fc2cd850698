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

#[derive(Debug, Clone, Copy)]
struct Used {
    counted_at: Timestamp,
    waiting: i64,
    /// Since when somebody is counting anew.
    counting: Option<Timestamp>,
}

/// Counts by env, each as old as the room that is left allows.
#[derive(Debug, Default)]
pub struct Quotas(DashMap<String, Used>);

impl Quotas {
    /// What is known of an env, if that is recent enough or somebody is counting already; else whoever asks is to
    /// count. Many requests at once must not all count the same.
    fn known(&self, env: &str, most: i64, now: Timestamp) -> Option<i64> {
        let mut used = self.0.get_mut(env)?;
        let fresh = now.since(used.counted_at) < fresh_for(most - used.waiting);
        if fresh || used.counting.is_some_and(|since| now.since(since) < COUNT_WITHIN) {
            return Some(used.waiting);
        }
        used.counting = Some(now);
        None
    }

    fn counted(&self, env: &str, waiting: i64, now: Timestamp) {
        self.0.insert(env.to_owned(), Used { counted_at: now, waiting, counting: None });
    }

    /// Counts runs that were let in since.
    pub fn add(&self, env: &str, runs: i64) {
        if let Some(mut used) = self.0.get_mut(env) {
            used.waiting += runs;
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
        self.quotas.counted(env, waiting, now);
        Ok(waiting)
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
        quotas.counted("a/b", 4, at(0));
        quotas.add("a/b", 3);
        assert_eq!(quotas.known("a/b", 10, at(999)), Some(7));
        assert_eq!(quotas.known("a/b", 10, at(1_000)), None, "the first one counts");
        assert_eq!(quotas.known("a/b", 10, at(1_001)), Some(7), "the others go by what is known");
        assert_eq!(quotas.known("a/b", 10, at(3_000)), None, "but do not wait for ever");
        quotas.counted("a/b", 1, at(3_000));
        assert_eq!(quotas.known("a/b", 10, at(3_001)), Some(1));
    }
}
