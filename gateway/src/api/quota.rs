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

#[derive(Debug, Clone, Copy)]
struct Used {
    counted_at: Timestamp,
    waiting: i64,
}

/// Counts by env, each as old as the room that is left allows.
#[derive(Debug, Default)]
pub struct Quotas(DashMap<String, Used>);

impl Quotas {
    /// What is known of an env, if that is recent enough.
    fn fresh(&self, env: &str, most: i64, now: Timestamp) -> Option<i64> {
        let used = *self.0.get(env)?;
        (now.since(used.counted_at) < fresh_for(most - used.waiting)).then_some(used.waiting)
    }

    fn counted(&self, env: &str, waiting: i64, now: Timestamp) {
        self.0.insert(env.to_owned(), Used { counted_at: now, waiting });
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
        if let Some(waiting) = self.quotas.fresh(env, most, now) {
            return Ok(waiting);
        }
        let name = env.to_owned();
        let waiting = self.store(move |runs| async move { runs.store.waiting_of_env(&name, most + 1).await }).await?;
        self.quotas.counted(env, waiting, now);
        Ok(waiting)
    }
}
