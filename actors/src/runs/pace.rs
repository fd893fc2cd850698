//! How many rows go into one commit: as many as fit into a moment, so that a flood that is written in groups
//! does not hold up whoever writes one row in between. On a quick store that is hundreds, on a slow one few.

use std::time::Duration;

/// How long one commit should take.
const MOMENT: Duration = Duration::from_millis(4);
const ROWS_MIN: usize = 32;
const ROWS_MAX: usize = 500;

#[derive(Debug, Clone)]
pub struct Pace {
    rows: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rows: ROWS_MAX / 2 }
    }
}

impl Pace {
    /// Rows for the next commit.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Learns from a commit. A small one says more about its fixed cost than about its rows, and is passed over.
    pub fn took(&mut self, rows: usize, span: Duration) {
        if rows < ROWS_MIN.max(self.rows / 2) {
            return;
        }
        let micros = usize::try_from(span.as_micros()).unwrap_or(usize::MAX).max(1);
        let moment = usize::try_from(MOMENT.as_micros()).unwrap_or(usize::MAX);
        let ideal = rows.saturating_mul(moment) / micros;
        self.rows = ((self.rows * 3 + ideal) / 4).clamp(ROWS_MIN, ROWS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(commits: usize, micros_a_row: u64) -> usize {
        let mut pace = Pace::default();
        for _ in 0..commits {
            let rows = pace.rows();
            pace.took(rows, Duration::from_micros(micros_a_row * rows as u64));
        }
        pace.rows()
    }

    #[test]
    fn a_quick_store_gets_large_groups_and_a_slow_one_small_ones() {
        assert_eq!(after(50, 1), ROWS_MAX);
        assert_eq!(after(50, 1_000), ROWS_MIN);
        assert!((90..=110).contains(&after(50, 40)), "{}", after(50, 40));
    }

    #[test]
    fn a_commit_of_a_few_rows_says_nothing() {
        let mut pace = Pace::default();
        pace.took(1, Duration::from_secs(1));
        assert_eq!(pace.rows(), ROWS_MAX / 2);
    }
}
