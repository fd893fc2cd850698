//! How many rows go into one commit: as many as fit into a moment beyond what any commit takes, so that a flood
//! that is written in groups does not hold up whoever writes one row in between. Where the commit itself is slow,
//! its rows may take as long as it does: smaller groups would only make more of what is slow.

use std::time::Duration;

/// How long the rows of one commit should take at least.
const MOMENT_MICROS: u64 = 500;
const ROWS_MIN: u64 = 32;
const ROWS_MAX: u64 = 500;

#[derive(Debug, Clone)]
pub struct Pace {
    rows: u64,
    /// What a commit takes however few its rows are: the shortest one lately, in microseconds.
    least: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rows: ROWS_MAX, least: u64::MAX }
    }
}

impl Pace {
    /// Rows for the next commit.
    pub fn rows(&self) -> usize {
        usize::try_from(self.rows).unwrap_or(1)
    }

    /// The same, where so many should go together in any case.
    pub fn rows_for(&self, together: usize) -> usize {
        self.rows().max(together.min(usize::try_from(ROWS_MAX).unwrap_or(1)))
    }

    /// Learns from a commit. A small one tells what a commit takes by itself, a large one what its rows take.
    pub fn took(&mut self, rows: usize, span: Duration) {
        let (rows, span) = (rows as u64, u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1));
        // Forgets slowly, so that a disk that has become slower is noticed.
        self.least = span.min(self.least.saturating_add(self.least / 50 + 1));
        if rows < self.rows / 2 || rows == 0 {
            return;
        }
        let by_rows = (span - self.least).max(span / 10).max(1);
        let ideal = rows.saturating_mul(MOMENT_MICROS.max(self.least)) / by_rows;
        self.rows = ((self.rows * 3 + ideal) / 4).clamp(ROWS_MIN, ROWS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settles_at(fixed: u64, each: u64) -> usize {
        settled(fixed, each).rows()
    }

    /// After a hundred commits with single rows in between, if one takes `fixed` and each row `each` microseconds.
    fn settled(fixed: u64, each: u64) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.took(1, Duration::from_micros(fixed + each));
            let rows = pace.rows();
            pace.took(rows, Duration::from_micros(fixed + each * rows as u64));
        }
        pace
    }

    #[test]
    fn quick_rows_go_in_large_groups_and_slow_rows_in_small_ones() {
        assert_eq!(settles_at(200, 1), ROWS_MAX as usize);
        assert!((45..=60).contains(&settles_at(200, 10)), "{}", settles_at(200, 10));
        assert_eq!(settles_at(200, 1_000), ROWS_MIN as usize);
    }

    #[test]
    fn what_should_go_together_does_up_to_the_most() {
        let pace = settled(200, 10);
        let fitting = pace.rows();
        assert!(fitting < 256, "{fitting}");
        assert_eq!([pace.rows_for(0), pace.rows_for(256), pace.rows_for(9_999)], [fitting, 256, ROWS_MAX as usize]);
    }

    #[test]
    fn a_slow_disk_does_not_make_groups_small() {
        assert_eq!(settles_at(30_000, 40), ROWS_MAX as usize);
    }
}
