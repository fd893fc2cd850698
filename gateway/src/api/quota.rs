//! How many runs of each env wait, as far as admitting more needs to know.

use super::Api;
use crate::http::problem::Problem;
use dashmap::DashMap;
use std::sync::Arc;
use std::time::Duration;
use storage::model::Timestamp;
use tokio::sync::Mutex;

/// Runs per second that one env can hardly exceed: how soon a count may be out of date.
const FASTEST: i64 = 50_000;
const FRESH_MIN: Duration = Duration::from_secs(1);
const FRESH_MAX: Duration = Duration::from_secs(30);
/// A count is good for at least so many times what it took: counting a million must not be all that is done.
const REST: u32 = 4;

/// What is known of one env.
#[derive(Debug, Default)]
struct Used {
    /// `None` before the first count.
    counted_at: Option<Timestamp>,
    took: Duration,
    waiting: i64,
    /// Runs that were admitted and may not be in the store yet.
    under_way: i64,
    /// Runs that the count under way may have missed.
    missed: i64,
    /// Held by whoever counts.
    counting: Arc<Mutex<()>>,
}

/// How much is known of how many runs wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Never,
    Old(i64),
    Fresh(i64),
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
    fn known(&self, env: &str, most: i64, now: Timestamp) -> Known {
        let Some(used) = self.0.get(env) else { return Known::Never };
        let Some(counted_at) = used.counted_at else { return Known::Never };
        let good_for = fresh_for(most - used.waiting).max((used.took * REST).min(FRESH_MAX));
        if now.since(counted_at) < good_for { Known::Fresh(used.waiting) } else { Known::Old(used.waiting) }
    }

    fn counting(&self, env: &str) -> Arc<Mutex<()>> {
        self.0.entry(env.to_owned()).or_default().counting.clone()
    }

    fn begin(&self, env: &str) {
        let mut used = self.0.entry(env.to_owned()).or_default();
        used.missed = used.under_way;
    }

    fn counted(&self, env: &str, waiting: i64, now: Timestamp, took: Duration) -> i64 {
        let mut used = self.0.entry(env.to_owned()).or_default();
        used.counted_at = Some(now);
        used.took = took;
        used.waiting = waiting + used.missed;
        used.waiting
    }

    /// Counts runs that are let in.
    pub fn admit<'a>(&'a self, env: &'a str, runs: i64) -> Admitted<'a> {
        let mut used = self.0.entry(env.to_owned()).or_default();
        used.waiting += runs;
        used.under_way += runs;
        used.missed += runs;
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
        let most = self.runs.settings.now().env(env).max_waiting;
        let counting;
        // Many requests at once must not all count the same.
        let _alone = match self.quotas.known(env, most, now) {
            Known::Fresh(waiting) => return Ok(waiting),
            Known::Old(waiting) => {
                counting = self.quotas.counting(env);
                let Ok(alone) = counting.try_lock() else { return Ok(waiting) };
                alone
            }
            Known::Never => {
                counting = self.quotas.counting(env);
                counting.lock().await
            }
        };
        if let Known::Fresh(waiting) = self.quotas.known(env, most, now) {
            return Ok(waiting);
        }
        self.quotas.begin(env);
        let began = self.uptime.now();
        let name = env.to_owned();
        let waiting = self.store(move |runs| async move { runs.store.waiting_of_env(&name, most + 1).await }).await?;
        Ok(self.quotas.counted(env, waiting, now, self.uptime.now().saturating_sub(began)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::ZERO;

    #[test]
    fn a_count_is_good_for_as_long_as_there_is_room_and_as_counting_takes() {
        let quotas = Quotas::default();
        let at = Timestamp::from_millis;
        assert_eq!(quotas.known("a/b", 10, at(0)), Known::Never);
        quotas.begin("a/b");
        assert_eq!(quotas.counted("a/b", 4, at(0), QUICK), 4);
        drop(quotas.admit("a/b", 3));
        assert_eq!(quotas.known("a/b", 10, at(999)), Known::Fresh(7));
        assert_eq!(quotas.known("a/b", 10, at(1_000)), Known::Old(7));
        assert_eq!(quotas.known("a/b", 1_000_000, at(18_999)), Known::Fresh(7), "there is much room");
        assert_eq!(quotas.known("a/b", 1_000_000, at(19_000)), Known::Old(7));
        quotas.begin("a/b");
        assert_eq!(quotas.counted("a/b", 10, at(20_000), Duration::from_millis(800)), 10);
        assert_eq!(quotas.known("a/b", 10, at(23_199)), Known::Fresh(10), "counting took long");
        assert_eq!(quotas.known("a/b", 10, at(23_200)), Known::Old(10));
    }

    #[test]
    fn what_is_let_in_while_somebody_counts_is_counted_too() {
        let quotas = Quotas::default();
        let at = Timestamp::from_millis;
        quotas.begin("a/b");
        quotas.counted("a/b", 0, at(0), QUICK);
        let before = quotas.admit("a/b", 2);
        quotas.begin("a/b");
        drop(quotas.admit("a/b", 5));
        drop(before);
        let counted = quotas.counted("a/b", 1, at(1_000), QUICK);
        assert_eq!(counted, 8, "1 in the store, 2 on their way to it, 5 let in since");
        quotas.begin("a/b");
        assert_eq!(quotas.counted("a/b", 8, at(2_000), QUICK), 8, "nothing is under way any more");
    }
}
