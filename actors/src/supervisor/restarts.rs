//! Whether a dead child is rebuilt, and after how long. Pure: times come in.

use crate::config::Supervision;
use std::collections::VecDeque;
use std::time::Duration;

/// When a child died, lately. Times are measured from the supervisor's start.
#[derive(Debug, Clone, Default)]
pub struct History {
    deaths: VecDeque<Duration>,
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Rebuild it; this is its n-th death in a row within one window.
    Rebuild { failures: u32 },
    /// Too many within the window: the node stops loudly.
    GiveUp,
}

impl History {
    /// Deaths that count at `now`.
    pub fn recent(&self, now: Duration, settings: &Supervision) -> usize {
        let oldest = now.saturating_sub(settings.window);
        self.deaths.iter().filter(|at| **at >= oldest).count()
    }

    /// Counts a death at `now` and decides. One quiet window forgets everything.
    pub fn death(&mut self, now: Duration, settings: &Supervision) -> Verdict {
        let oldest = now.saturating_sub(settings.window);
        while self.deaths.front().is_some_and(|at| *at < oldest) {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        if self.deaths.len() > settings.max_restarts {
            return Verdict::GiveUp;
        }
        Verdict::Rebuild { failures: u32::try_from(self.deaths.len()).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_per_window_and_a_quiet_window_refills_it() {
        let settings = Supervision { max_restarts: 3, window: Duration::from_secs(30), ..Supervision::default() };
        let mut history = History::default();
        for failures in 1..=3 {
            assert_eq!(history.death(Duration::from_secs(failures.into()), &settings), Verdict::Rebuild { failures });
        }
        assert_eq!(history.death(Duration::from_secs(4), &settings), Verdict::GiveUp);
        assert_eq!(history.recent(Duration::from_secs(5), &settings), 4);
        assert_eq!(history.recent(Duration::from_secs(33), &settings), 2);
        assert_eq!(history.death(Duration::from_secs(60), &settings), Verdict::Rebuild { failures: 1 });
    }
}
