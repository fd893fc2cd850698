//! How many rows go into one commit. Where nobody would wait for it, as many as there are. Where few runs come in
//! beside a flood, as many as fit into a moment beyond what any commit takes, so that what is written in groups does not
//! hold up whoever writes one row in between. Where the commit itself is slow, its rows may take half as long as it does:
//! smaller groups would only make more of what is slow. Pure.

use std::time::Duration;
use storage::store::Door;

/// How long the rows of one commit should take at least.
const MOMENT_MICROS: u64 = 400;
const ROWS_MIN: u64 = 32;
const ROWS_MAX: u64 = 500;
/// One group in so many is a small one, so that what a commit takes by itself stays known in the middle of a flood.
const SMALL_EVERY: u32 = 16;
const SMALL_ROWS: u64 = ROWS_MIN / 2;

#[derive(Debug, Clone)]
pub struct Pace {
    rows: u64,
    /// What a commit takes however few its rows are: the shortest one lately, in microseconds, and its rows.
    least: u64,
    least_rows: u64,
    /// Groups since the latest small one.
    large: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rows: ROWS_MIN, least: u64::MAX, least_rows: 0, large: 0 }
    }
}

impl Pace {
    /// Rows for the next commit, if `waiting` ones could go. All that wait at the door for few may: what each adds to a
    /// commit is less than one of its own would be.
    pub fn rows(&self, door: Door, waiting: usize, beside_few: bool) -> usize {
        let fitting = match self.large {
            _ if !beside_few => ROWS_MAX,
            SMALL_EVERY.. => SMALL_ROWS,
            _ => self.rows,
        };
        let [fitting, most] = [fitting, ROWS_MAX].map(|rows| usize::try_from(rows).unwrap_or(1));
        match door {
            Door::Few => fitting.max(waiting.min(most)),
            Door::Many => fitting,
        }
    }

    /// Learns from a commit. A small one tells what a commit takes by itself, a large one what its rows take.
    pub fn took(&mut self, rows: usize, span: Duration) {
        let (rows, span) = (rows as u64, u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1));
        self.large = if rows > SMALL_ROWS { self.large.saturating_add(1) } else { 0 };
        // Forgets slowly, so that a disk that has become slower is noticed.
        self.least = self.least.saturating_add(self.least / 100 + 1);
        if span <= self.least {
            (self.least, self.least_rows) = (span, rows);
        }
        if rows < self.rows / 2 || rows <= self.least_rows {
            return;
        }
        let by_rows = (span - self.least.min(span)).max(span / 10).max(1);
        let ideal = (rows - self.least_rows).saturating_mul(MOMENT_MICROS.max(self.least / 2)) / by_rows;
        self.rows = ((self.rows * 3 + ideal) / 4).clamp(ROWS_MIN, ROWS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a thousand commits of a flood, if one takes `fixed` and each row `each` microseconds.
    fn flooded(fixed: u64, each: u64) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..1_000 {
            let rows = beside_few(&pace);
            pace.took(rows, Duration::from_micros(fixed + each * rows as u64));
        }
        // The one after a small group is not.
        pace.large = 0;
        pace
    }

    fn beside_few(pace: &Pace) -> usize {
        pace.rows(Door::Many, 10_000, true)
    }

    fn settles_at(fixed: u64, each: u64) -> usize {
        beside_few(&flooded(fixed, each))
    }

    #[test]
    fn quick_rows_go_in_large_groups_and_slow_rows_in_small_ones() {
        assert!(settles_at(200, 1) > 350, "{}", settles_at(200, 1));
        assert!((32..=60).contains(&settles_at(200, 10)), "{}", settles_at(200, 10));
        assert_eq!(settles_at(200, 1_000), ROWS_MIN as usize);
    }

    #[test]
    fn single_rows_in_between_tell_the_same() {
        let mut pace = flooded(200, 10);
        for _ in 0..1_000 {
            pace.took(1, Duration::from_micros(210));
            let rows = beside_few(&pace);
            pace.took(rows, Duration::from_micros(200 + 10 * rows as u64));
        }
        assert!((32..=60).contains(&beside_few(&pace)), "{}", beside_few(&pace));
    }

    #[test]
    fn one_group_in_so_many_is_small() {
        let mut pace = flooded(200, 5);
        let sizes = (0..=SMALL_EVERY).map(|_| {
            let rows = beside_few(&pace);
            pace.took(rows, Duration::from_micros(200 + 5 * rows as u64));
            rows
        });
        let sizes: Vec<usize> = sizes.collect();
        let (last, before) = sizes.split_last().expect("groups");
        assert!(before.iter().all(|rows| *rows > SMALL_ROWS as usize) && *last == SMALL_ROWS as usize, "{sizes:?}");
    }

    #[test]
    fn a_slow_disk_does_not_make_groups_small() {
        assert!(settles_at(30_000, 40) > 350, "{}", settles_at(30_000, 40));
    }

    #[test]
    fn where_nobody_else_comes_groups_are_as_large_as_can_be() {
        assert_eq!(flooded(200, 1_000).rows(Door::Many, 10_000, false), ROWS_MAX as usize);
    }

    #[test]
    fn few_go_together_up_to_the_most() {
        let pace = flooded(200, 10);
        let few = |waiting| pace.rows(Door::Few, waiting, true);
        assert_eq!([few(0), few(256), few(9_999)], [beside_few(&pace), 256, ROWS_MAX as usize]);
    }
}
